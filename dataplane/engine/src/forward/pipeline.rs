//! The stages behind the decision: they carry out verdicts. Their whole state is one value, the [`Pipeline`], so a dry
//! run works on a copy of it ([`Pipeline::fork`]).

use alloc::vec::Vec;

use super::classify::{Admission, From};
use super::fit::send::Merges;
use super::output::{FloodTarget, TunnelFacts};
use super::parse::Headers;
use super::tables::Tables;
use super::trail::Trail;
use super::verdict::{Out, Refusal, Responder, Verdict};
use super::{act, mss};
use crate::command::{DropSample, Event, PortId};
use crate::counters::{DROP_REASONS, DropReason, SwitchCounters};
use crate::frame::{Frame, FramePool};
use crate::limits::{BATCH_LEN, LEARNED_EVENTS, PATH_ANSWERS_PPS};
use crate::table::error_limit::ErrorLimit;
use crate::table::fdb::Fdb;
use crate::table::port::TokenBucket;
use crate::table::silent_hops::SilentHops;
use crate::table::underlay::Hop;
use crate::time::Instant;

/// The tables, and everything that a frame changes after it is decided on. `F` is the FDB, or `()` in a dry run.
#[derive(Debug)]
pub(super) struct Pipeline<F = Fdb> {
    pub tables: Tables<F>,
    pub counters: SwitchCounters,
    pub output: Output,
    pub reports: Reports,
    pub answers: Answers,
}

/// What leaves, besides the queues of the ports, and how.
#[derive(Debug)]
pub(super) struct Output {
    /// Frames for the kernel.
    pub punted: Vec<Frame>,
    pub merges: Merges,
    /// Ports with an egress rate limit or mirror.
    pub gated: Vec<PortId>,
    /// A transmit queue should be flushed before the next batch.
    pub crowded: bool,
    /// Scratch space for the recipients of a flooded frame.
    pub targets: Vec<FloodTarget>,
}

/// What the agent gets to know, and how much of it is already reported in this tick.
#[derive(Debug)]
pub(super) struct Reports {
    pub events: Vec<Event>,
    /// Number of station events reported since the last tick.
    pub learned_told: u32,
    /// Number of path events reported since the last tick.
    pub path_told: u32,
    /// Number of events about differently configured peers reported since the last tick.
    pub peers_told: u32,
    /// A dropped frame of each reason.
    pub samples: Vec<Option<DropSample>>,
    /// The reasons that have a sample of this tick.
    pub sampled: [bool; DROP_REASONS],
}

/// What bounds and numbers the packets that the switch makes itself.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    pub error_limit: ErrorLimit,
    pub silent_hops: SilentHops,
    pub path_answers: TokenBucket,
    /// IP identification of the last outer packet that was fragmented.
    pub fragment_id: u32,
}

/// A frame in the decision stages: its ingress, headers and verdict.
#[derive(Clone, Copy, Debug)]
pub(super) struct Onward<'a> {
    pub id: PortId,
    pub adm: &'a Admission,
    pub h: &'a Headers,
    pub verdict: &'a Verdict,
}

/// Number of bytes kept as the sample of a drop reason.
const SAMPLE_LEN: usize = 128;

impl Pipeline {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            tables: Tables::new(seed),
            counters: SwitchCounters::default(),
            output: Output {
                punted: Vec::with_capacity(BATCH_LEN),
                merges: Merges::new(),
                gated: Vec::new(),
                crowded: false,
                targets: Vec::new(),
            },
            reports: Reports {
                events: Vec::with_capacity(2 * LEARNED_EVENTS as usize),
                learned_told: 0,
                path_told: 0,
                peers_told: 0,
                samples: (0..DROP_REASONS).map(|_| None).collect(),
                sampled: [false; DROP_REASONS],
            },
            answers: Answers {
                error_limit: ErrorLimit::new(seed.rotate_left(32)),
                silent_hops: SilentHops::default(),
                path_answers: TokenBucket::new(Instant::ZERO, Some(PATH_ANSWERS_PPS)),
                fragment_id: seed as u32,
            },
        }
    }

    /// A pipeline in the same state with nothing on its queues. What happens to frames in it has no effect on this
    /// one.
    pub(super) fn fork(&self) -> Pipeline<()> {
        let Reports { learned_told, path_told, peers_told, .. } = self.reports;
        Pipeline {
            tables: self.tables.fork(),
            counters: self.counters,
            output: Output {
                punted: Vec::with_capacity(self.output.punted.capacity()),
                merges: Merges::new(),
                gated: self.output.gated.clone(),
                crowded: false,
                targets: Vec::new(),
            },
            reports: Reports {
                events: Vec::new(),
                learned_told,
                path_told,
                peers_told,
                samples: Vec::new(),
                // No sample is kept.
                sampled: [true; DROP_REASONS],
            },
            answers: self.answers.clone(),
        }
    }
}

impl<F> Pipeline<F> {
    /// Stages three and later: edits the frame and queues it for its output.
    pub(super) fn carry_out<P: FramePool, T: Trail>(
        &mut self,
        now: Instant,
        on: Onward<'_>,
        mut frame: Frame,
        pool: &mut P,
        trail: &mut T,
    ) {
        let Onward { id, adm, h, verdict } = on;
        match verdict.out {
            Out::Drop(reason) => return self.drop_frame(id, frame, reason, pool),
            Out::Refuse(reason, what) => {
                self.tell(now, on, what, true, &frame, pool, trail);
                return self.drop_frame(id, frame, reason, pool);
            }
            Out::Consume => {
                self.counters.consumed += 1;
                return pool.free(frame);
            }
            Out::Flood => {
                let local = matches!(adm.from, From::Port(_));
                if local && self.tables.ports.get_mut(id).is_some_and(|p| !p.bum.take(now)) {
                    return self.drop_frame(id, frame, DropReason::BumRateLimit, pool);
                }
            }
            Out::Punt if self.is_silent_hop(now, h, verdict) => {
                self.tell(now, on, Refusal::HostUnreachable, true, &frame, pool, trail);
                return self.drop_frame(id, frame, DropReason::NeighborUnresolved, pool);
            }
            _ => {}
        }
        if mss::opens(h, pool.bytes(&frame)) {
            self.clamp_mss(adm, h, verdict, &mut frame, pool);
        }
        if let Some(mtu) = self.exceeded_mtu(h, verdict) {
            return self.exceed(now, on, mtu, frame, pool, trail);
        }
        if !act::act(pool, &mut frame, h, verdict) {
            return self.drop_frame(id, frame, DropReason::PoolExhausted, pool);
        }
        self.count_mapping(verdict, frame.len);
        if verdict.out == Out::Hairpin(Responder::Dhcp { boots: true }) {
            self.ask_boot_servers(now, on, &frame, pool);
        }
        self.send_onward(on, frame, pool);
    }

    /// Whether the kernel has failed to resolve the next hop of a packet that the switch would punt to it.
    #[cold]
    fn is_silent_hop(&mut self, now: Instant, h: &Headers, verdict: &Verdict) -> bool {
        let from = verdict.edits.nat.filter(|nat| nat.source).map_or(h.src, |nat| nat.address);
        match self.tables.underlay.hop_from(from, h.dst) {
            Hop::Unresolved(hop) => self.answers.silent_hops.wanted(now, hop),
            Hop::Mac(_) | Hop::NoRoute => false,
        }
    }

    /// Queues an edited frame for the output that the verdict names.
    #[inline]
    pub(super) fn send_onward<P: FramePool>(&mut self, on: Onward<'_>, frame: Frame, pool: &mut P) {
        let Onward { id, adm, h, verdict } = on;
        match verdict.out {
            Out::Port(to) => self.send_to_port(id, to, verdict, frame, pool),
            Out::Peer(to) => {
                let tunnel = TunnelFacts::new(adm, h, verdict);
                self.send_to_peer(id, to, verdict.vni, tunnel, frame, pool);
            }
            Out::Flood => {
                let tunnel = TunnelFacts::new(adm, h, verdict);
                let from = if verdict.edits.route.is_some() { None } else { Some(adm.from) };
                self.flood(id, from, verdict, tunnel, frame, pool);
            }
            Out::Hairpin(who) => self.answer(id, adm, h, verdict, who, frame, pool),
            Out::Punt => self.punt(id, frame, pool),
            Out::Consume | Out::Drop(_) | Out::Refuse(..) => unreachable!("carried out already"),
        }
    }

    pub(super) fn count_mapping(&mut self, verdict: &Verdict, bytes: u32) {
        if let Some(nat) = &verdict.edits.nat {
            self.tables.floating.hit(nat.id, nat.source, bytes);
        } else if let Some(id) = verdict.edits.route.and_then(|r| r.id) {
            self.tables.floating.hit(id, true, bytes);
        }
    }

    pub(super) fn count_drop(&mut self, id: PortId, reason: DropReason) {
        self.counters.dropped += 1;
        if let Some(port) = self.tables.ports.get_mut(id) {
            port.count_drop(reason);
        }
    }

    pub(super) fn drop_frame<P: FramePool>(
        &mut self,
        id: PortId,
        frame: Frame,
        reason: DropReason,
        pool: &mut P,
    ) {
        self.count_drop(id, reason);
        if !self.reports.sampled[reason as usize] {
            self.sample(id, &frame, reason, pool);
        }
        pool.free(frame);
    }

    /// Keeps the first bytes of a dropped frame, once per tick and reason.
    #[cold]
    pub(super) fn sample<P: FramePool>(&mut self, port: PortId, frame: &Frame, reason: DropReason, pool: &P) {
        self.reports.sampled[reason as usize] = true;
        let bytes = pool.bytes(frame);
        let slot = &mut self.reports.samples[reason as usize];
        let sample = slot.get_or_insert_with(|| DropSample {
            port,
            reason,
            bytes: Vec::with_capacity(SAMPLE_LEN),
            len: 0,
        });
        (sample.port, sample.len) = (port, frame.len);
        sample.bytes.clear();
        sample.bytes.extend_from_slice(&bytes[..bytes.len().min(SAMPLE_LEN)]);
    }
}

//! Probes between switches. The switch sends them at the agent's command, and answers those of peers. Their
//! meaning is the agent's business (`ctl::path`, `ctl::liveness`).
//!
//! A probe resembles the packets that it stands for: the same outer header, with an unusual source port, and
//! never fragmented. The switch answers only peers, with at most as many bytes as they sent, and a bounded
//! number per second.

use super::parse::Headers;
use super::{Pipeline, Switch, TICK};
use crate::command::{Event, PeerId, PortId, Vni};
use crate::counters::DropReason;
use crate::frame::{Frame, FramePool, SlotSize};
use crate::limits::LEARNED_EVENTS;
use crate::time::Instant;
use crate::tunnel::ENCAP_LEN;
use crate::wire::path_probe::{self, About, Kind, PathProbe};
use crate::wire::{ethernet, ipv4, ipv6, view, view_mut};

/// The content of a probe.
#[derive(Clone, Copy)]
pub(super) struct Said {
    kind: Kind,
    /// Size in bytes of the underlay packet that the probe tests.
    size: u16,
    nonce: u64,
    /// The network that the probe tests or refuses.
    vni: Option<Vni>,
}

impl Said {
    /// A refusal: this switch does not take packets of a network.
    pub(super) const fn refusal(vni: Vni) -> Self {
        Self { kind: Kind::Refusal, size: 0, nonce: 0, vni: Some(vni) }
    }
}

impl Switch {
    /// Asks a peer whether an underlay packet of `size` bytes reaches it. Does nothing if the probe cannot be
    /// sent, since the agent has to expect missing answers anyway. All workers get the command; one of them
    /// sends the probe.
    pub(super) fn ask_path<P: FramePool>(&mut self, to: PeerId, size: u16, nonce: u64, pool: &mut P) {
        if self.is_speaker() && self.pipeline.tables.uplink.as_ref().is_some_and(|u| size <= u.mtu) {
            let said = Said { kind: Kind::Ask, size, nonce, vni: None };
            self.pipeline.send_probe(to, said, usize::from(size), pool);
        }
    }

    /// Asks a peer whether it is alive, and whether it takes packets of a network. Uses the smallest possible
    /// packet.
    pub(super) fn ask_peer<P: FramePool>(&mut self, to: PeerId, vni: Option<Vni>, nonce: u64, pool: &mut P) {
        let Some(peer) = self.pipeline.tables.peers.get(to).filter(|_| self.is_speaker()) else { return };
        let size = (peer.outer.len + path_probe::LEN).saturating_sub(ethernet::HEADER_LEN);
        let said = Said { kind: Kind::Ask, size: size as u16, nonce, vni };
        self.pipeline.send_probe(to, said, size, pool);
    }
}

impl<F> Pipeline<F> {
    pub(super) fn send_probe<P: FramePool>(
        &mut self,
        to: PeerId,
        said: Said,
        packet_len: usize,
        pool: &mut P,
    ) {
        let t = &self.tables;
        let Some(uplink) = &t.uplink else { return };
        let Some(peer) = t.peers.get(to) else { return };
        let (port, src, name, outer) = (uplink.port, uplink.switch_mac, uplink.name, peer.outer);
        let live = t.ports.get(port).is_some_and(|p| p.config.live);
        let len = (ethernet::HEADER_LEN + packet_len).max(outer.len + path_probe::LEN);
        if !live || outer.len == 0 || peer.next.mac().is_none() {
            return;
        }
        let Some(mut frame) = pool.alloc(SlotSize::for_len(len)) else { return };
        if usize::from(frame.head) + len > pool.slot_len(&frame) {
            return pool.free(frame);
        }
        frame.len = len as u32;
        let bytes = pool.bytes_mut(&mut frame);
        bytes.fill(0);
        if let Some(probe) = view_mut(bytes, outer.len) {
            *probe = PathProbe::new(src, said.kind, said.size, said.nonce);
        }
        if let (Some(vni), Some(about)) = (said.vni, view_mut(bytes, outer.len + path_probe::ABOUT_AT)) {
            *about = About::new(vni);
        }
        path_probe::set_name(&mut bytes[outer.len..], name);
        // Another source port for every probe: another way, where the underlay has several.
        let entropy = 0xc000 | (said.nonce & 0x3fff) as u16;
        outer.stamp(bytes, path_probe::VNI, entropy, 0, outer.ttl);
        self.counters.originated += 1;
        self.enqueue(port, frame, pool);
    }

    /// Ends a frame that may not enter: handles it if it is a probe, otherwise drops it.
    #[cold]
    pub(super) fn refuse<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        h: &Headers,
        frame: Frame,
        reason: DropReason,
        pool: &mut P,
    ) {
        if reason == DropReason::UnknownVni
            && let Some((peer, said)) = self.probe_in(h, pool.bytes(&frame))
        {
            self.counters.consumed += 1;
            let name = path_probe::name(&pool.bytes(&frame)[usize::from(h.eth)..]);
            pool.free(frame);
            self.look_for_twin(peer, h.eth_src);
            self.note_name(peer, name);
            return self.take_probe(now, peer, said, pool);
        }
        if reason == DropReason::LinkLocalGroup && h.eth_dst.is_bridge_group() {
            self.tell_of_bpdu(now, id);
        }
        self.tell_of_difference(now, h, reason, pool);
        self.drop_frame(id, frame, reason, pool);
    }

    /// Reports a BPDU to the agent where the port has a BPDU guard. The frame itself is dropped like every
    /// frame to its group.
    fn tell_of_bpdu(&mut self, now: Instant, id: PortId) {
        if let Some(port) = self.tables.ports.get_mut(id)
            && port.config.policy.bpdu_guard
            && port.next_bpdu <= now
        {
            port.next_bpdu = now + TICK;
            self.reports.events.push(Event::Bpdu(id));
        }
    }

    /// The probe in a tunnel packet from a peer, if the packet is a well-formed probe.
    fn probe_in(&self, h: &Headers, bytes: &[u8]) -> Option<(PeerId, Said)> {
        let outer = h.outer.filter(|o| o.vni == path_probe::VNI)?;
        let peer = self.tables.peers.by_address(outer.src)?;
        let probe: &PathProbe = view(bytes, usize::from(h.eth))?;
        let kind = probe.kind()?;
        let ip_len = if outer.src.is_v4() { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
        let in_front = ip_len + ENCAP_LEN;
        let came = h.end as usize - usize::from(h.eth) + in_front;
        let whole = kind != Kind::Ask || came == usize::from(probe.size());
        // A probe of an older switch lacks this field and is about no network.
        let about: Option<&About> = view(&bytes[..h.end as usize], usize::from(h.eth) + path_probe::ABOUT_AT);
        let vni = about.and_then(|about| about.vni());
        whole.then(|| (peer, Said { kind, size: probe.size(), nonce: probe.nonce(), vni }))
    }

    fn take_probe<P: FramePool>(&mut self, now: Instant, peer: PeerId, said: Said, pool: &mut P) {
        let Said { kind, size, nonce, vni } = said;
        match kind {
            Kind::Ask if self.answers.path_answers.take(now) => {
                let refused = vni.filter(|&vni| !self.takes(peer, vni));
                let kind = if refused.is_some() { Kind::Refusal } else { Kind::Answer };
                self.send_probe(peer, Said { kind, ..said }, 0, pool);
                self.tell_of_path(Event::PathAsked(peer));
            }
            Kind::Ask => {}
            Kind::Answer => self.tell_of_path(Event::PathAnswered(peer, size, nonce)),
            Kind::Refusal => {
                if let Some(vni) = vni {
                    self.tell_of_path(Event::PeerRefuses(peer, vni, nonce));
                }
            }
        }
    }

    /// Reports a bounded number of events per tick. The agent asks again if one is lost.
    fn tell_of_path(&mut self, event: Event) {
        if self.reports.path_told < 8 * LEARNED_EVENTS {
            self.reports.path_told += 1;
            self.reports.events.push(event);
        }
    }
}

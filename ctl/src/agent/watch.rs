//! Observation: dry runs and captures, and the description of a frame's way through the pipeline.

use engine::command::{Command, FloatingId, Location, NextHop, PortId, Query, Vni};
use engine::counters::DropReason;
use engine::forward::parse::{self, Headers};
use engine::forward::trail::Step;
use engine::forward::verdict::{Out, Refusal, Responder, Verdict};
use engine::limits::{SLOT_LARGE_LEN, WATCHES_MAX};
use engine::table::port::TagEdit;
use engine::watch::{Fate, Seen, Sent, Walk, WatchId, WatchSpec};
use engine::wire::l4;
use engine::wire::mac::MacAddr;

use super::Agent;
use super::ask::Ask;
use super::request::{not_found, quoted};
use super::show::hex;
use crate::api::{self, CaptureStarted, Captured, Code, Error, SeenRow, SentRow, StepRow, WalkDrop, WalkRow};
use crate::filter;
use crate::io::ClientId;
use crate::model::UplinkKind;
use crate::reconcile::UPLINK_PORT;
use crate::steering::{self, Steering};

/// The most frames and bytes in one answer to `capture.read`. In hexadecimal and with their descriptions, they stay
/// well below the amount that a client may leave unread.
const ANSWER_FRAMES: usize = 512;
const ANSWER_BYTES: usize = 256 << 10;

/// The bytes that a capture keeps of each frame by default: the whole frame.
const SNAP_LEN: u32 = 1 << 18;

/// A running capture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capture {
    /// The client that started the capture; it ends with that client.
    pub(super) client: ClientId,
    walk: bool,
}

impl Agent {
    /// Prepares the dry run of a frame.
    pub(super) fn trace(&self, p: &api::TraceFrame) -> Result<Ask, Error> {
        let port = self.port_id(&p.port).ok_or_else(|| not_found("port", &quoted(&p.port)))?;
        let bytes = unhex(&p.frame).filter(|bytes| bytes.len() <= SLOT_LARGE_LEN - 512);
        let bytes = bytes.ok_or_else(|| {
            Error::new(
                Code::Params,
                "trace",
                "`frame` is not a frame",
                "send its bytes from the Ethernet header on, in hexadecimal, 65536 at most",
            )
        })?;
        Ok(Ask::Trace(port, bytes))
    }

    /// Starts a capture, which ends with the client at the latest.
    pub(super) fn start_capture(&mut self, client: ClientId, p: &api::StartCapture) -> Result<Ask, Error> {
        let port = match &p.port {
            Some(name) => Some(self.port_id(name).ok_or_else(|| not_found("port", &quoted(name)))?),
            None => None,
        };
        let filter = filter::parse(&p.filter).map_err(|why| {
            Error::new(
                Code::Failed,
                crate::model::clean(&format!("filter `{}`", p.filter)),
                why,
                filter::HELP,
            )
        })?;
        if self.captures.len() >= WATCHES_MAX {
            let why = format!("{WATCHES_MAX} captures and traces are under way");
            return Err(Error::new(Code::Busy, "the capture is not started", why, "end one of them"));
        }
        let id = WatchId(self.number() as u32);
        let spec = WatchSpec {
            port,
            filter,
            snap_len: p.snap_len.filter(|&len| len > 0).unwrap_or(SNAP_LEN),
            count: p.count,
            leaving: !p.incoming,
            results: p.walk,
        };
        self.captures.insert(id, Capture { client, walk: p.walk });
        self.command(Command::Watch(id, spec));
        Ok(Ask::CaptureStarted(id, port))
    }

    /// The capture with this number, if it belongs to this client.
    pub(super) fn capture_of(&self, client: ClientId, number: u32) -> Result<WatchId, Error> {
        let id = WatchId(number);
        match self.captures.get(&id) {
            Some(capture) if capture.client == client => Ok(id),
            _ => Err(Error::new(
                Code::NotFound,
                format!("capture {number}"),
                "this connection has no such capture",
                "start one with `capture.start` on the same connection",
            )),
        }
    }

    /// The query for the captured frames.
    pub(super) fn read_capture(&self, id: WatchId) -> Ask {
        let workers = self.options.workers.max(1);
        Ask::Captured(id, (ANSWER_FRAMES / workers).max(1), ANSWER_BYTES / workers)
    }

    /// Ends a capture.
    pub(super) fn stop_capture(&mut self, id: WatchId) {
        if self.captures.remove(&id).is_some() {
            self.command(Command::Unwatch(id));
        }
    }

    /// Ends the captures of a client that is gone.
    pub(super) fn stop_captures(&mut self, client: ClientId) {
        let its: Vec<WatchId> =
            self.captures.iter().filter(|(_, c)| c.client == client).map(|(&id, _)| id).collect();
        for id in its {
            self.stop_capture(id);
        }
    }

    pub(super) fn capture_started(&self, id: WatchId, port: Option<PortId>) -> CaptureStarted {
        let ports = match port {
            Some(id) => vec![id],
            None => self.attachments.keys().copied().collect(),
        };
        CaptureStarted { capture: id.0, ports: ports.into_iter().map(|id| self.port_name(id)).collect() }
    }

    pub(super) fn captured(&self, id: WatchId, seen: &[Seen], lost: u64) -> Captured {
        let walk = self.captures.get(&id).is_some_and(|c| c.walk);
        let mut seen: Vec<&Seen> = seen.iter().collect();
        seen.sort_by_key(|seen| seen.at);
        let frames = seen.into_iter().map(|s| self.seen_row(s, walk)).collect();
        Captured { now: self.now.as_nanos(), frames, lost }
    }

    fn seen_row(&self, s: &Seen, whole: bool) -> SeenRow {
        let (leaving, verdict, walk) = match &s.fate {
            Fate::Walked(walk) => {
                let row = whole.then(|| {
                    let mut row = self.walk_row(s.port, walk);
                    // The frame has reached the switch, so only the reason is missing.
                    if let (UPLINK_PORT, Ok(step)) = (s.port, self.steering(&s.bytes)) {
                        row.steps.insert(0, step);
                    }
                    row
                });
                (false, self.verdict(walk), row)
            }
            Fate::Sent => (true, "sent".to_owned(), None),
            Fate::NotSent(reason) => (true, format!("dropped: {}", reason.name()), None),
        };
        SeenRow {
            at: s.at.as_nanos(),
            port: self.port_name(s.port),
            leaving,
            len: s.len,
            bytes: hex(&s.bytes),
            verdict,
            walk,
        }
    }

    /// The steering's decision about a frame on the uplink, before the switch sees the frame: a step when the frame
    /// goes to the switch, otherwise the complete result, because the kernel takes it.
    pub(super) fn steering(&self, frame: &[u8]) -> Result<StepRow, WalkRow> {
        let step =
            |text: String| StepRow { stage: "steer".to_owned(), table: Some("steering".to_owned()), text };
        let mac = self.facts.underlay.as_ref().map_or(MacAddr::ZERO, |underlay| underlay.mac);
        let sockets = self.config.uplink.as_ref().is_some_and(|u| u.kind == UplinkKind::Udp);
        let kernel = match steering::steer(&self.steered, mac, frame) {
            Steering::Tunnel => return Ok(step("a tunnel packet to us: to the switch".to_owned())),
            Steering::Reality(_) if sockets => {
                "an uplink of kind \"udp\" receives tunnel packets only".to_owned()
            }
            Steering::Reality(ip) => {
                let own = if self.uplink_steered.as_ref().is_some_and(|s| s.own_unknown.is_empty()) {
                    ", unless it answers a packet that the rVM's kernel itself has sent"
                } else {
                    ""
                };
                return Ok(step(format!("to reality address {ip}: to the switch{own}")));
            }
            Steering::Kernel(why) => why.to_string(),
        };
        Err(WalkRow {
            steps: vec![step(format!("left to the kernel: {kernel}"))],
            verdict: "to the rVM's kernel".to_owned(),
            delivered: true,
            sent: Vec::new(),
            drops: Vec::new(),
        })
    }

    /// A frame's way through the pipeline, step by step.
    pub(super) fn walk_row(&self, from: PortId, walk: &Walk) -> WalkRow {
        let mut steps = Vec::new();
        let mut step = |stage: &str, table: Option<&str>, text: String| {
            steps.push(StepRow { stage: stage.to_owned(), table: table.map(str::to_owned), text });
        };
        let leaves = |s: &&Step| match s {
            Step::Limit { leaving, .. } | Step::Mirror { leaving, .. } => *leaving,
            Step::Told(..) | Step::Fragmented(_) => true,
            _ => false,
        };
        for s in walk.steps.iter().filter(|s| !leaves(s)) {
            let (stage, table, text) = self.step_words(s);
            step(stage, table, text);
        }
        if walk.verdict.is_none() {
            let why = dropped(walk).map_or_else(String::new, |reason| format!(": {}", help(reason)));
            step("admit", None, format!("port {} does not let it in{why}", self.port_name(from)));
        }
        if let Some(verdict) = &walk.verdict {
            for text in edits(verdict) {
                step("act", None, text);
            }
            let (table, text) = self.out_words(verdict, walk);
            step("output", table, text);
        }
        for s in walk.steps.iter().filter(leaves) {
            let (stage, table, text) = self.step_words(s);
            step(stage, table, text);
        }
        let sent = walk.sent.iter().map(|s| SentRow {
            port: self.port_name(s.port),
            peer: self.peer_of(s.port, &s.bytes),
            len: s.len,
            bytes: hex(&s.bytes),
        });
        let drops = walk.drops.iter().map(|(port, reason)| WalkDrop {
            port: self.port_name(*port),
            reason: reason.name().to_owned(),
            help: help(*reason).to_owned(),
        });
        let sent_on = forwarded(walk).next().is_some();
        let handled = sent_on || walk.punted || walk.consumed || walk.coalesced;
        WalkRow {
            sent: sent.collect(),
            drops: drops.collect(),
            verdict: self.verdict(walk),
            delivered: handled && dropped(walk).is_none(),
            steps,
        }
    }

    fn step_words(&self, step: &Step) -> (&'static str, Option<&'static str>, String) {
        match *step {
            Step::Admitted(vni, vid) => {
                let vlan = if vid == 0 { "untagged".to_owned() } else { format!("VLAN {vid}") };
                ("admit", None, format!("network {} (VNI {vni}), {vlan}", self.network_name(vni)))
            }
            Step::Tunnel(peer, vni) => {
                let name = self.place(Location::Peer(peer)).1.unwrap_or_default();
                (
                    "admit",
                    Some("peer"),
                    format!("through the tunnel from peer {name}, which takes part in VNI {vni}"),
                )
            }
            Step::Routed => {
                ("classify", Some("network"), "for the virtual gateway: routed, not switched".to_owned())
            }
            Step::Floating(id, ip) => ("classify", Some("floating_ip"), self.floating_words(id, ip.into())),
            Step::SourceRoute(NextHop::Peer(peer)) => {
                let name = self.place(Location::Peer(peer)).1.unwrap_or_default();
                ("classify", Some("source_route"), format!("its source is routed to peer {name}"))
            }
            Step::SourceRoute(NextHop::Address(ip)) => {
                ("classify", Some("source_route"), format!("its source is routed to {ip}"))
            }
            Step::Fdb(mac, location) => {
                let (port, peer) = self.place(location);
                let place = peer.map_or_else(|| format!("port {port}"), |peer| format!("peer {peer}"));
                ("classify", Some("fdb"), format!("{mac} is behind {place}"))
            }
            Step::FdbMiss(mac) => ("classify", Some("fdb"), format!("{mac} is not known: flooded")),
            Step::Underlay(ip) => {
                ("classify", Some("underlay"), format!("it leaves for {ip} through the underlay"))
            }
            Step::Told(what, from) => {
                ("output", None, format!("its sender gets an error from {from}: {}", refusal_words(what)))
            }
            Step::Fragmented(mtu) => {
                ("output", None, format!("in fragments: the next hop carries {mtu} bytes"))
            }
            Step::Limit { port, leaving, within } => {
                let (way, is) =
                    (if leaving { "egress" } else { "ingress" }, if within { "within" } else { "over" });
                ("limit", None, format!("{is} the {way} limit of port {}", self.port_name(port)))
            }
            Step::Mirror { port, tap, leaving, copied } => {
                let way = if leaving { "sends" } else { "receives" };
                let end = if copied { "" } else { ", which cannot take it" };
                let (port, tap) = (self.port_name(port), self.port_name(tap));
                ("mirror", None, format!("port {port} {way} it: a copy goes to {tap}{end}"))
            }
        }
    }

    fn floating_words(&self, id: FloatingId, address: std::net::IpAddr) -> String {
        match self.told.floatings.get(&id) {
            Some(f) if f.ip == address => format!("floating IP {}", f.ip),
            Some(f) => format!("floating IP {}: translated to {address}", f.ip),
            None => format!("floating IP mapping {}: {address}", id.0),
        }
    }

    fn out_words(&self, verdict: &Verdict, walk: &Walk) -> (Option<&'static str>, String) {
        let to = match verdict.out {
            Out::Port(id) => format!("to port {}", self.port_name(id)),
            Out::Peer(id) => {
                format!("to peer {}, encapsulated", self.place(Location::Peer(id)).1.unwrap_or_default())
            }
            Out::Flood => format!("to all stations on network {}", self.network_name(verdict.vni)),
            Out::Hairpin(Responder::Arp(mac)) => format!("back, as an ARP reply: it is at {mac}"),
            Out::Hairpin(Responder::Nd(mac)) => format!("back, as a neighbor advertisement: it is at {mac}"),
            Out::Hairpin(Responder::Echo) => "back, as an echo reply".to_owned(),
            Out::Hairpin(Responder::Dhcp { boots: false }) => {
                "back, as a DHCP answer, by the port's binding".to_owned()
            }
            Out::Hairpin(Responder::Dhcp { boots: true }) => {
                "back, as a DHCP answer, by the port's binding; and to boot servers".to_owned()
            }
            Out::Punt => "to the kernel, which resolves the next hop".to_owned(),
            Out::Consume => return (None, "for the switch itself".to_owned()),
            Out::Drop(reason) | Out::Refuse(reason, _) => {
                return (None, format!("nowhere: {}", help(reason)));
            }
        };
        // An ICMP error that goes back to the sender is not the frame itself.
        let sent = if is_told(walk) { 0 } else { forwarded(walk).count() };
        let end = match (dropped(walk), sent) {
            (Some(reason), 0) => format!(", but dropped: {}", help(reason)),
            (Some(reason), n) => format!(": {n} sent, others dropped: {}", help(reason)),
            (None, _) => String::new(),
        };
        (matches!(verdict.out, Out::Flood).then_some("network"), format!("{to}{end}"))
    }

    /// The result of the dry run, in one line.
    pub(super) fn verdict(&self, walk: &Walk) -> String {
        let mut parts = Vec::new();
        if let Some(verdict) = &walk.verdict {
            if let Some(network) =
                self.told.networks.get(&verdict.vni).filter(|_| verdict.vni != Vni::default())
            {
                parts.push(format!("network {}", network.0));
            }
            if let Some(nat) = &verdict.edits.nat {
                parts.push(format!(
                    "{} becomes {}",
                    if nat.source { "source" } else { "destination" },
                    nat.address
                ));
            }
            let sent = forwarded(walk).next().is_some();
            match verdict.out {
                _ if is_told(walk) => parts.push("its sender gets an error".to_owned()),
                Out::Peer(id) if sent => {
                    parts.push(format!("to peer {}", self.place(Location::Peer(id)).1.unwrap_or_default()));
                }
                Out::Hairpin(_) if sent => parts.push("answered".to_owned()),
                _ if sent => {
                    const NAMED: usize = 4;
                    let mut names: Vec<String> =
                        forwarded(walk).take(NAMED).map(|s| self.port_name(s.port)).collect();
                    names.dedup();
                    let more = if forwarded(walk).count() > NAMED { ", ..." } else { "" };
                    let flood = if verdict.out == Out::Flood { "flooded to " } else { "to " };
                    parts.push(format!("{flood}{}{more}", names.join(", ")));
                }
                _ => {}
            }
        }
        for (said, is) in [
            ("to the kernel", walk.punted),
            ("for the switch itself", walk.consumed),
            ("coalesced with others of its flow", walk.coalesced),
        ] {
            if is {
                parts.push(said.to_owned());
            }
        }
        let mut reasons: Vec<&str> = walk.drops.iter().map(|(_, reason)| reason.name()).collect();
        reasons.dedup();
        if !reasons.is_empty() {
            parts.push(format!("dropped: {}", reasons.join(", ")));
        }
        parts.join("; ")
    }

    fn port_name(&self, id: PortId) -> String {
        match self.attachments.get(&id) {
            Some(attachment) => attachment.name.clone(),
            None => self.place(Location::Port(id)).0,
        }
    }

    /// The peer that receives a tunnelled frame on the uplink.
    fn peer_of(&self, port: PortId, bytes: &[u8]) -> Option<String> {
        let mut h = Headers::default();
        let tunnel_port = self.config.uplink.as_ref()?.port;
        let tunnel = port == UPLINK_PORT
            && parse::ethernet(bytes, 0, &mut h).is_ok()
            && h.proto == l4::UDP
            && h.dport == tunnel_port;
        let to: std::net::IpAddr = h.dst.into();
        let peer = self.told.peers.values().find(|(_, config)| tunnel && config.address == to)?;
        Some(peer.0.clone())
    }
}

/// The changes that `act` makes, in their order.
fn edits(verdict: &Verdict) -> Vec<String> {
    let mut texts = Vec::new();
    if let Some(ecn) = verdict.edits.ecn {
        texts.push(format!("ECN field becomes {ecn}"));
    }
    if let Some(nat) = &verdict.edits.nat {
        let end = if nat.source { "source" } else { "destination" };
        texts.push(format!("{end} address becomes {}", nat.address));
    }
    if let Some(route) = &verdict.edits.route {
        texts.push(format!("MAC addresses become {} > {}, one hop less", route.src, route.dst));
    }
    match verdict.edits.tag {
        TagEdit::Keep => {}
        TagEdit::Push(vid) => texts.push(format!("VLAN tag {vid} is added")),
        TagEdit::Retag(vid) => texts.push(format!("VLAN becomes {vid}")),
        TagEdit::Pop => texts.push("VLAN tag is removed".to_owned()),
    }
    texts
}

/// The frames that were sent, without copies for a mirror.
fn forwarded(walk: &Walk) -> impl Iterator<Item = &Sent> {
    let is_tap = |port| walk.steps.iter().any(|s| matches!(s, Step::Mirror { tap, .. } if *tap == port));
    walk.sent.iter().filter(move |sent| !is_tap(sent.port))
}

/// Whether the sender got an error that says why the frame is not forwarded.
fn is_told(walk: &Walk) -> bool {
    walk.steps.iter().any(|s| matches!(s, Step::Told(..)))
}

/// Why some or all of the frame was dropped. A full mirror target does not count.
fn dropped(walk: &Walk) -> Option<DropReason> {
    walk.drops.iter().map(|(_, reason)| *reason).find(|reason| *reason != DropReason::MirrorLost)
}

/// The error that a sender gets, in the words of `ping` and `traceroute`.
fn refusal_words(what: Refusal) -> String {
    match what {
        Refusal::TimeExceeded => "time exceeded in transit".to_owned(),
        Refusal::NoRoute => "network unreachable".to_owned(),
        Refusal::HostUnreachable => "host unreachable".to_owned(),
        Refusal::Prohibited => "communication administratively prohibited".to_owned(),
        Refusal::PortUnreachable => "port unreachable".to_owned(),
        Refusal::ProtocolUnreachable => "protocol unreachable".to_owned(),
        Refusal::Reset => "TCP reset".to_owned(),
        Refusal::TooBig(mtu) => format!("packet too big, {mtu} bytes fit"),
    }
}

fn help(reason: DropReason) -> &'static str {
    reason.help().trim().trim_end_matches('.')
}

/// Decodes hexadecimal digits.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => {
            let digit = |c: u8| char::from(c).to_digit(16);
            Some((digit(*high)? << 4 | digit(*low)?) as u8)
        }
        _ => None,
    });
    pairs.collect()
}

impl Ask {
    /// The queries to the workers on behalf of an observer.
    pub(super) fn watch_queries(&self) -> Vec<Query> {
        match self {
            Self::Trace(port, bytes) => vec![Query::Trace(*port, bytes.clone())],
            Self::CaptureStarted(id, _) => vec![Query::Seen(*id, 0, 0)],
            Self::Captured(id, frames, bytes) => vec![Query::Seen(*id, *frames, *bytes)],
            _ => Vec::new(),
        }
    }
}

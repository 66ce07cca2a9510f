//! Signs that another rVM is configured differently from this one: this switch refuses its packets, it
//! refuses ours, it is not a peer here, or it claims a floating IP as its own. They do not change forwarding;
//! the agent reports them to people (`ctl::agent`).

use super::Pipeline;
use super::classify::Admission;
use super::parse::{Headers, Net};
use super::path::Said;
use crate::command::{Event, PeerId, Vni};
use crate::counters::DropReason;
use crate::frame::FramePool;
use crate::limits::PEER_EVENTS;
use crate::table::floating_ip::Domain;
use crate::time::Instant;
use crate::wire::icmp;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;
use crate::wire::nd;
use crate::wire::path_probe;

impl<F> Pipeline<F> {
    /// Whether this switch takes packets of a network from a peer. `admit` checks the same for each packet.
    pub(super) fn takes(&self, peer: PeerId, vni: Vni) -> bool {
        self.tables.networks.get(vni).is_some_and(|network| network.has_member(peer))
    }

    /// Handles a tunnel packet that was refused for its sender or its network: the agent gets an event, and a
    /// peer gets a refusal. A sender that is not a peer gets no answer.
    pub(super) fn tell_of_difference<P: FramePool>(
        &mut self,
        now: Instant,
        h: &Headers,
        reason: DropReason,
        pool: &mut P,
    ) {
        let Some(outer) = h.outer.filter(|_| self.reports.peers_told < PEER_EVENTS) else { return };
        match reason {
            DropReason::UnknownPeer => self.tell_of_peers(Event::Stranger(outer.src.into(), outer.vni)),
            // VNI 0 is for probes: this one is malformed, or has an unknown version.
            DropReason::UnknownVni | DropReason::PeerNotInVni if outer.vni != path_probe::VNI => {
                let Some(peer) = self.tables.peers.by_address(outer.src) else { return };
                self.tell_of_peers(Event::PeerRefused(peer, outer.vni, reason));
                if self.answers.path_answers.take(now) {
                    self.send_probe(peer, Said::refusal(outer.vni), 0, pool);
                }
            }
            _ => {}
        }
    }

    /// Evaluates a message that another rVM's switch sends on a network. A request for a floating IP, or its
    /// announcement, shows which part that switch plays for the IP.
    #[cold]
    pub(super) fn hear_switch(&mut self, adm: &Admission, peer: PeerId, h: &Headers, bytes: &[u8]) {
        if h.eth_src == self.tables.switch_mac() {
            return self.look_for_twin(peer, h.eth_src);
        }
        let nd = h.is_icmpv6();
        let nd_target = || nd::target(h.segment(bytes)).unwrap_or_default();
        let (speaker, target) = match h.net {
            Net::Arp => (h.src, h.dst),
            Net::V6 if nd && h.icmp_type() == icmp::NEIGHBOR_SOLICITATION => (h.src, nd_target()),
            Net::V6 if nd && h.icmp_type() == icmp::NEIGHBOR_ADVERTISEMENT => (nd_target(), Ip::default()),
            _ => return,
        };
        let floating = |ip: Ip| self.tables.floating.is_mapped(Domain::From(adm.vni), ip);
        let (ip, owner) = match (floating(speaker), floating(target)) {
            (true, _) => (speaker, true),
            (false, true) => (target, false),
            (false, false) => return,
        };
        self.tell_of_peers(Event::FloatingClaimed(adm.vni, ip.into(), peer, h.eth_src, owner));
    }

    /// A frame or a probe that a peer sent under our own switch's MAC address: it is a copy of this rVM.
    pub(super) fn look_for_twin(&mut self, peer: PeerId, mac: MacAddr) {
        if mac == self.tables.switch_mac() && mac != MacAddr::ZERO {
            self.tell_of_peers(Event::OurMac(peer, mac));
        }
    }

    /// A peer's probe says its rVM's name.
    pub(super) fn note_name(&mut self, id: PeerId, name: u64) {
        let Some(peer) = self.tables.peers.get_mut(id) else { return };
        if name != 0 && peer.name != name && self.reports.peers_told < PEER_EVENTS {
            peer.name = name;
            self.tell_of_peers(Event::PeerNamed(id, name));
        }
    }

    fn tell_of_peers(&mut self, event: Event) {
        if self.reports.peers_told < PEER_EVENTS {
            self.reports.peers_told += 1;
            self.reports.events.push(event);
        }
    }
}

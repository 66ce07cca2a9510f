//! Claims of opaque link-local addresses ([`crate::table::link_local`]): records and contests them, and tells
//! other workers.

use super::classify::{Admission, From};
use super::output::TunnelFacts;
use super::parse::{Headers, Net};
use super::verdict::{Edits, Out, Verdict};
use super::{Switch, act, guard};
use crate::command::PortId;
use crate::counters::DropReason;
use crate::frame::{Frame, FramePool, SlotSize};
use crate::table::link_local::is_opaque;
use crate::table::port::TagEdit;
use crate::time::Instant;
use crate::wire::ip::Ip;
use crate::wire::{icmp, nd};

impl Switch {
    /// Takes an admitted ND message into account. It may claim an address for the guest behind its port, and
    /// it ends the claim of any other port to that address. The later station wins, because the guards have
    /// already dropped the message if its sender is a guest that may not use the address.
    #[cold]
    pub(super) fn hear_of_link_local<P: FramePool>(
        &mut self,
        now: Instant,
        adm: &Admission,
        h: &Headers,
        frame: &Frame,
        pool: &mut P,
    ) {
        let segment = h.segment(pool.bytes(frame));
        let probes = h.icmp_type() == icmp::NEIGHBOR_SOLICITATION && h.src.is_unspecified();
        let ip = match h.icmp_type() {
            icmp::NEIGHBOR_ADVERTISEMENT => nd::target(segment),
            icmp::NEIGHBOR_SOLICITATION if probes => nd::target(segment),
            _ => Some(h.src),
        };
        let Some(ip) = ip.filter(|&ip| is_opaque(ip)) else { return };
        let from = if let From::Port(id) = adm.from { Some(id) } else { None };
        for at in 0..self.pipeline.tables.ports.bound() {
            let id = PortId(at);
            let port =
                self.pipeline.tables.ports.get_mut(id).filter(|p| p.net == Some(adm.net) && from != Some(id));
            if port.is_some_and(|port| port.link_locals.contest(ip, adm.vid, probes)) {
                self.tell_link_local(id, ip, adm.vid, false);
            }
        }
        if let Some(id) = from
            && probes
            && self.claim_link_local(now, id, adm.vid, ip)
        {
            // The guest may have asked in a form that the owner does not receive or does not recognise.
            self.ask_if_free(id, adm.vid, ip, pool);
        }
    }

    /// Handles a refused frame whose source address the guest may claim. The guest may have had the address
    /// before this switch could see its claim: it migrated here while running, or the switch was restarted.
    #[inline]
    pub(super) fn note_refusal<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        h: &Headers,
        reason: DropReason,
        frame: &Frame,
        pool: &mut P,
    ) {
        let address = matches!(reason, DropReason::SpoofedIp | DropReason::SpoofedNeighbor);
        if address && h.net == Net::V6 && self.pipeline.tables.ports.any_claims() {
            self.claim_refused(now, id, h, frame, pool);
        }
    }

    /// Asks, in the guest's place, whether its address is free.
    #[cold]
    fn claim_refused<P: FramePool>(
        &mut self,
        now: Instant,
        id: PortId,
        h: &Headers,
        frame: &Frame,
        pool: &mut P,
    ) {
        let Some(port) = self.pipeline.tables.ports.get(id).filter(|port| port.takes_claims()) else {
            return;
        };
        let Some((vid, _)) = port.vlan.ingress(h.tagged, h.vid) else { return };
        let ip = if is_opaque(h.src) {
            h.src
        } else if h.is_icmpv6() && h.icmp_type() == icmp::NEIGHBOR_ADVERTISEMENT {
            nd::target(h.segment(pool.bytes(frame))).unwrap_or_default()
        } else {
            return;
        };
        if self.claim_link_local(now, id, vid, ip) {
            self.ask_if_free(id, vid, ip, pool);
        }
    }

    fn claim_link_local(&mut self, now: Instant, id: PortId, vid: u16, ip: Ip) -> bool {
        let t = &mut self.pipeline.tables;
        let claimed = t.ports.get(id).is_some_and(|port| {
            let network = port.net.and_then(|net| t.networks.at(net));
            network.is_some_and(|network| guard::is_claimable(t, network, id, port, ip))
        }) && t.ports.get_mut(id).is_some_and(|port| port.link_locals.claim(now, ip, vid));
        if claimed {
            self.tell_link_local(id, ip, vid, true);
        }
        claimed
    }

    /// Takes over another worker's news: a guest of this port has claimed the address, or has lost it.
    pub(super) fn hear_link_local(&mut self, now: Instant, id: PortId, ip: Ip, vid: u16, claimed: bool) {
        let Some(port) = self.pipeline.tables.ports.get_mut(id).filter(|port| port.takes_claims()) else {
            return;
        };
        if claimed {
            port.link_locals.claim(now, ip, vid);
        } else {
            port.link_locals.retain(|known| known != ip);
        }
    }

    /// Drops the claims that the current configuration does not allow.
    pub(super) fn revise_link_locals(&mut self) {
        if !self.pipeline.tables.ports.any_claims() {
            return;
        }
        for at in 0..self.pipeline.tables.ports.bound() {
            let id = PortId(at);
            let Some(port) = self.pipeline.tables.ports.get_mut(id).filter(|p| !p.link_locals.is_empty())
            else {
                continue;
            };
            let mut claims = core::mem::take(&mut port.link_locals);
            let t = &self.pipeline.tables;
            claims.retain(|ip| {
                t.ports.get(id).is_some_and(|port| {
                    let network = port.net.and_then(|net| t.networks.at(net));
                    network.is_some_and(|network| guard::is_claimable(t, network, id, port, ip))
                })
            });
            if let Some(port) = self.pipeline.tables.ports.get_mut(id) {
                port.link_locals = claims;
            }
        }
    }

    /// Asks every station of the network except the guest whether it has an address (RFC 4862 §5.4.2).
    fn ask_if_free<P: FramePool>(&mut self, id: PortId, vid: u16, ip: Ip, pool: &mut P) {
        let network =
            self.pipeline.tables.ports.get(id).and_then(|p| self.pipeline.tables.networks.at(p.net?));
        let Some((vni, mac)) = network.map(|n| (n.config.vni, n.config.router_mac)) else { return };
        let Some(mut frame) = pool.alloc(SlotSize::Small) else { return };
        frame.len = act::QUESTION_MAX as u32;
        frame.len = act::ask(pool.bytes_mut(&mut frame), mac, Some(Ip(0)), ip) as u32;
        if vid != 0 {
            act::tag(pool, &mut frame, TagEdit::Push(vid));
        }
        self.pipeline.counters.originated += 1;
        let verdict = Verdict { edits: Edits::NONE, out: Out::Flood, vni, vid };
        let tunnel = TunnelFacts::ours(ip.0 as u32);
        self.pipeline.flood(id, Some(From::Port(id)), &verdict, tunnel, frame, pool);
    }
}

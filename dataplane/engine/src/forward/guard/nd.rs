//! ICMPv6: Neighbor Discovery (RFC 4861) and queries for multicast listeners (RFC 2710).

use super::Guard;
use crate::counters::DropReason;
use crate::wire::{icmp, nd};

impl Guard<'_> {
    /// Judges an ICMPv6 message. `fragmented`: the packet has a fragment header. Receivers differ in whether
    /// they then take ND, so the guard drops it (RFC 6980 §5).
    pub(super) fn icmpv6(&self, fragmented: bool) -> Result<(), DropReason> {
        let kind = self.h.icmp_type();
        match kind {
            icmp::ROUTER_ADVERTISEMENT | icmp::V6_REDIRECT | icmp::ROUTER_RENUMBERING => {
                return Err(DropReason::RaGuard);
            }
            icmp::LISTENER_QUERY | icmp::MULTICAST_ROUTER_ADVERTISEMENT => {
                return Err(DropReason::QuerierGuard);
            }
            icmp::INVERSE_SOLICITATION | icmp::INVERSE_ADVERTISEMENT => {
                return Err(DropReason::SpoofedNeighbor);
            }
            kind if fragmented && icmp::is_nd(kind) => return Err(DropReason::FragmentGuard),
            _ => {}
        }
        self.icmpv6_source(kind, fragmented)?;
        match kind {
            icmp::ROUTER_SOLICITATION => self.link_layer_options(),
            icmp::NEIGHBOR_SOLICITATION | icmp::NEIGHBOR_ADVERTISEMENT => self.neighbor(kind),
            _ => Ok(()),
        }
    }

    /// Without an address, a station may ask whether one is free, ask for routers (RFC 4861 §4.1), and join
    /// groups (RFC 3590).
    fn icmpv6_source(&self, kind: u8, fragmented: bool) -> Result<(), DropReason> {
        let own = if self.h.src.is_unspecified() {
            !fragmented
                && matches!(
                    kind,
                    icmp::NEIGHBOR_SOLICITATION
                        | icmp::ROUTER_SOLICITATION
                        | icmp::LISTENER_REPORT
                        | icmp::LISTENER_DONE
                        | icmp::LISTENER_REPORT_V2
                )
        } else {
            self.owns(self.h.src)
        };
        if own { Ok(()) } else { Err(DropReason::SpoofedIp) }
    }

    /// An advertisement claims its target for the sender. So does a solicitation from `::`, which makes
    /// another station give the address up (RFC 4862 §5.4.3). Any other solicitation asks for a neighbour's
    /// address.
    fn neighbor(&self, kind: u8) -> Result<(), DropReason> {
        let target = nd::target(self.h.segment(self.bytes)).ok_or(DropReason::IpMalformed)?;
        let own = match kind {
            icmp::NEIGHBOR_ADVERTISEMENT => self.owns(target),
            _ => !self.h.src.is_unspecified() || self.may_probe(target),
        };
        if !own {
            return Err(DropReason::SpoofedNeighbor);
        }
        self.link_layer_options()
    }

    /// Every link-layer address in a message has to be the iVM's own, since receivers differ in which of
    /// several they take. A message from `::` must not contain one (RFC 4861 §6.1.1, §7.1.1).
    fn link_layer_options(&self) -> Result<(), DropReason> {
        for option in nd::options(self.h.segment(self.bytes)) {
            let option = option.map_err(|nd::Malformed| DropReason::IpMalformed)?;
            let is_mac = matches!(option.kind, icmp::OPTION_SOURCE_MAC | icmp::OPTION_TARGET_MAC);
            if is_mac && self.h.src.is_unspecified() {
                return Err(DropReason::IpMalformed);
            }
            if is_mac && !option.mac().is_some_and(|mac| self.port.binds_mac(mac)) {
                return Err(DropReason::SpoofedNeighbor);
            }
        }
        Ok(())
    }
}

//! Routing: decides about packets sent to the virtual gateway or, on the underlay, to a reality address. Part
//! of `classify`, and as pure.
//!
//! Here the switch is a router, so it reports packets that it does not forward (RFC 1812 §4.3, RFC 4443
//! §2.4). Each refusal is the one that Linux would send; `icmp_error.rs` says which senders get none. As in
//! Linux, a missing route takes precedence over the hop limit, and the hop limit over everything else.
//!
//! Some drops stay silent on purpose:
//!
//! - A packet that would leave in a connection of the *rVM's own kernel*: a guest could find all these
//!   connections.
//! - A *guarded* destination of a single address: see
//!   [`Guard::may_be_told`](crate::table::underlay::Guard::may_be_told).
//! - A packet from the *underlay* to a port of a reality address that is not mapped: such ports belong to the
//!   rVM's own kernel, and only fragments of its packets ever arrive here.
//! - A malformed packet.

use super::Tables;
use super::classify::{Admission, From, towards};
use super::parse::{Headers, Net};
use super::trail::{Step, Trail};
use super::verdict::{Edits, NatRewrite, Out, Refusal, Route, Verdict};
use crate::command::{Location, NextHop, Vni};
use crate::counters::DropReason;
use crate::own::OwnFlow;
use crate::table::floating_ip::{Action, Domain, L4Key, Target};
use crate::table::fragments::{First, FragmentKey};
use crate::table::network::Network;
use crate::table::underlay::Hop;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;
use crate::wire::{ipv4, ipv6, l4, word};

/// Stands for the underlay where a network is expected. A VNI has only 24 bits.
const UNDERLAY: u32 = u32::MAX;

/// Routes a packet sent to the virtual gateway: to the gateway itself, to a floating IP that ends here, from
/// one, or source-routed.
pub(super) fn route(
    tables: &Tables,
    network: &Network,
    adm: &Admission,
    h: &Headers,
    bytes: &[u8],
    trail: &mut impl Trail,
) -> Verdict {
    trail.step(|| Step::Routed);
    if !h.routable() {
        return Verdict::drop(adm.vni, DropReason::IpMalformed);
    }
    // The hop limit of a packet for the router itself does not matter.
    if network.gateways.contains(&h.dst) {
        return to_gateway(adm.vni, h);
    }
    last_hop(adm.vni, h, onward(tables, network, adm, h, bytes, trail))
}

/// Decides about a packet to the virtual gateway itself, which offers no service.
fn to_gateway(vni: Vni, h: &Headers) -> Verdict {
    let what = match h.proto {
        l4::UDP => Refusal::PortUnreachable,
        l4::TCP => Refusal::Reset,
        // An ICMP answer needs no answer, and the gateway does not reassemble fragments.
        l4::ICMP | l4::ICMPV6 => return Verdict::drop(vni, DropReason::GatewayNoService),
        _ => Refusal::ProtocolUnreachable,
    };
    Verdict::refuse(vni, DropReason::GatewayNoService, what)
}

/// Refuses a packet whose hop limit ends here (RFC 1812 §5.3.1, RFC 8200 §3).
fn last_hop(vni: Vni, h: &Headers, verdict: Verdict) -> Verdict {
    let unroutable =
        matches!(verdict.out, Out::Drop(DropReason::NoRoute) | Out::Refuse(DropReason::NoRoute, _));
    if h.ttl > 1 || unroutable {
        return verdict;
    }
    Verdict::refuse(vni, DropReason::TtlExpired, Refusal::TimeExceeded)
}

/// Finds the next hop of a packet that is not for the gateway itself.
fn onward(
    tables: &Tables,
    network: &Network,
    adm: &Admission,
    h: &Headers,
    bytes: &[u8],
    trail: &mut impl Trail,
) -> Verdict {
    let vni = adm.vni;
    let no_route = Verdict::refuse(vni, DropReason::NoRoute, Refusal::NoRoute);
    if h.src.is_v6_link_local() || h.dst.is_v6_link_local() {
        return no_route;
    }
    let to = Domain::To(vni);
    if let Some(found) = tables.floating.lookup(to, h.dst, || l4_key(tables, adm, h, bytes, false)) {
        return match found {
            Ok(action) => translated(tables, vni, h, action, false, trail),
            // A host that has the address but not the service answers this way.
            Err(reason @ DropReason::PortNotMapped) if matches!(h.proto, l4::TCP | l4::UDP) => {
                Verdict::refuse(vni, reason, Refusal::PortUnreachable)
            }
            Err(reason) => unmapped(vni, reason),
        };
    }
    let from = Domain::From(vni);
    if let Some(found) = tables.floating.lookup(from, h.src, || l4_key(tables, adm, h, bytes, true)) {
        return match found {
            Ok(action) => translated(tables, vni, h, action, true, trail),
            Err(reason) => unmapped(vni, reason),
        };
    }
    let Some(via) = tables.routes.lookup(vni, h.src) else { return no_route };
    trail.step(|| Step::SourceRoute(via));
    let (dst, out) = match via {
        NextHop::Peer(peer) => (network.config.router_mac, Out::Peer(peer)),
        NextHop::Address(ip) => {
            let Some(mac) = tables.neighbors.mac(vni, ip.into()) else {
                return unresolved(vni, tables.neighbors.is_silent(vni, ip.into()));
            };
            (mac, tables.fdb.get(vni, 0, mac).map_or(Out::Flood, |l| towards(tables, adm.from, l)))
        }
    };
    let route = Some(Route { dst, src: tables.switch_mac(), id: None });
    Verdict { edits: Edits { route, ..Edits::NONE }, out, vni, vid: 0 }
}

/// Drops a packet to a port outside a floating IP's list. The operator chose that list.
fn unmapped(vni: Vni, reason: DropReason) -> Verdict {
    match reason {
        DropReason::PortNotMapped => Verdict::refuse(vni, reason, Refusal::Prohibited),
        _ => Verdict::drop(vni, reason),
    }
}

/// Drops a packet because the next hop's MAC address is missing. Silent at first, since the next hop may
/// still answer.
fn unresolved(vni: Vni, silent: bool) -> Verdict {
    let reason = DropReason::NeighborUnresolved;
    if silent { Verdict::refuse(vni, reason, Refusal::HostUnreachable) } else { Verdict::drop(vni, reason) }
}

/// Routes a packet of the underlay to a reality address.
pub(super) fn from_underlay(
    tables: &Tables,
    adm: &Admission,
    h: &Headers,
    bytes: &[u8],
    trail: &mut impl Trail,
) -> Verdict {
    let vni = const { Vni::new(0).unwrap() };
    let drop = |reason| Verdict::drop(vni, reason);
    if !matches!(h.net, Net::V4 | Net::V6) || h.tagged {
        return drop(DropReason::NotOurs);
    }
    let key = || l4_key(tables, adm, h, bytes, false);
    let Some(found) = tables.floating.lookup(Domain::Uplink, h.dst, key) else {
        return drop(DropReason::NotOurs);
    };
    if !h.routable() {
        return drop(DropReason::IpMalformed);
    }
    match found {
        Ok(action) => last_hop(vni, h, translated(tables, vni, h, action, false, trail)),
        Err(reason) => drop(reason),
    }
}

/// Applies a floating IP's action.
#[inline]
fn translated(
    tables: &Tables,
    vni: Vni,
    h: &Headers,
    action: &Action,
    source: bool,
    trail: &mut impl Trail,
) -> Verdict {
    trail.step(|| Step::Floating(action.id, action.address));
    let old = if source { h.src } else { h.dst };
    let nat = (old != action.address).then_some(NatRewrite {
        id: action.id,
        source,
        address: action.address,
        delta: action.delta,
    });
    let id = nat.is_none().then_some(action.id);
    let no_route = Verdict::refuse(vni, DropReason::NoRoute, Refusal::NoRoute);
    let (vni, out, dst, src) = match action.to {
        Target::Station { vni, mac, location } => {
            let Some(mac) = mac else {
                return unresolved(vni, tables.neighbors.is_silent(vni, action.address));
            };
            let out = match location {
                Some(Location::Port(port)) => Out::Port(port),
                Some(Location::Peer(peer)) => Out::Peer(peer),
                None => Out::Flood,
            };
            (vni, out, mac, tables.switch_mac())
        }
        Target::Peer(vni, peer) => {
            let Some(network) = tables.networks.get(vni) else {
                return Verdict::drop(vni, DropReason::UnknownVni);
            };
            (vni, Out::Peer(peer), network.config.router_mac, tables.switch_mac())
        }
        Target::Uplink => {
            let Some(uplink) = &tables.uplink else { return no_route };
            if guarded(tables, h) {
                return refuse_guarded(tables, vni, h);
            }
            if source && is_own(tables, h, action.address) {
                return Verdict::drop(vni, DropReason::OwnConnection);
            }
            trail.step(|| Step::Underlay(h.dst));
            match tables.underlay.hop_from(action.address, h.dst) {
                Hop::Mac(mac) => (vni, Out::Port(uplink.port), mac, uplink.mac),
                Hop::Unresolved(_) => (vni, Out::Punt, MacAddr::ZERO, uplink.mac),
                Hop::NoRoute => return no_route,
            }
        }
    };
    Verdict { edits: Edits { nat, route: Some(Route { dst, src, id }), ..Edits::NONE }, out, vni, vid: 0 }
}

/// Whether a packet that leaves by NAT from `local` would become part of a connection of the rVM's own
/// kernel.
#[inline]
fn is_own(tables: &Tables, h: &Headers, local: Ip) -> bool {
    let Some(own) = &tables.own else { return false };
    (h.proto == l4::TCP || h.proto == l4::UDP)
        && h.l4 != 0
        && own.holds(&OwnFlow {
            remote: h.dst,
            remote_port: h.dport,
            local,
            local_port: h.sport,
            proto: h.proto,
        })
}

/// Whether a guest's packet must not leave by NAT, where it would have the rVM's own, trusted, source
/// address.
#[inline]
fn guarded(tables: &Tables, h: &Headers) -> bool {
    !h.dst.is_host() || tables.guard.covers(h.dst) || is_tunnel(tables, h)
}

/// Whether a receiver would take the packet for a tunnel packet.
fn is_tunnel(tables: &Tables, h: &Headers) -> bool {
    let tunnel = tables.uplink.as_ref().map_or(0, |u| u.tunnel_port);
    h.proto == l4::UDP && h.l4 != 0 && (h.dport == tunnel || h.sport == tunnel)
}

#[cold]
fn refuse_guarded(tables: &Tables, vni: Vni, h: &Headers) -> Verdict {
    if tables.guard.may_be_told(h.dst) && !is_tunnel(tables, h) {
        return Verdict::refuse(vni, DropReason::Guarded, Refusal::Prohibited);
    }
    Verdict::drop(vni, DropReason::Guarded)
}

/// The transport port that selects the mapping for a packet. A later fragment uses the port of its first
/// fragment.
fn l4_key(tables: &Tables, adm: &Admission, h: &Headers, bytes: &[u8], outbound: bool) -> L4Key {
    match h.l4_key(bytes, outbound) {
        L4Key::Fragment => {
            let first = fragment_key(adm, h, bytes).and_then(|key| tables.fragments.first(&key));
            let port = |f: First| L4Key::Port(f.proto, if outbound { f.sport } else { f.dport });
            first.map_or(L4Key::Fragment, port)
        }
        key => key,
    }
}

/// Records the ports of a packet's first fragment where they decide about the later ones.
#[cold]
pub(super) fn note_fragment(tables: &mut Tables, adm: &Admission, h: &Headers, bytes: &[u8]) {
    let by_port = |domain, address| tables.floating.decides_by_port(domain, address);
    let wanted = match adm.from {
        From::Underlay => by_port(Domain::Uplink, h.dst),
        _ => by_port(Domain::To(adm.vni), h.dst) || by_port(Domain::From(adm.vni), h.src),
    };
    if wanted
        && h.l4 != 0
        && matches!(h.proto, l4::TCP | l4::UDP)
        && let Some(key) = fragment_key(adm, h, bytes)
    {
        tables.fragments.note(key, First { proto: h.proto, sport: h.sport, dport: h.dport });
    }
}

fn fragment_key(adm: &Admission, h: &Headers, bytes: &[u8]) -> Option<FragmentKey> {
    let packet = bytes.get(usize::from(h.l3)..)?;
    // RFC 791 §3.2, RFC 8200 §4.5: in IPv6 the protocol does not tell packets apart.
    let (proto, id) = match h.net {
        Net::V4 => (h.proto, u32::from(word(packet, ipv4::ID_AT))),
        _ => (0, ipv6::fragment_id(packet)?),
    };
    Some(FragmentKey { domain: domain(adm), src: h.src, dst: h.dst, proto, id })
}

/// The domain that a packet came from, for tables that distinguish networks and the underlay.
pub(super) fn domain(adm: &Admission) -> u32 {
    if adm.from == From::Underlay { UNDERLAY } else { adm.vni.get() }
}

//! Routing: what becomes of a packet sent to the virtual gateway or, on the underlay, to a reality address. A part of
//! `classify`, and as pure.

use super::Tables;
use super::classify::{Admission, towards};
use super::parse::{Headers, Net};
use super::trail::{Step, Trail};
use super::verdict::{Edits, NatRewrite, Out, Route, Verdict};
use crate::command::{Location, NextHop, Vni};
use crate::counters::DropReason;
use crate::own::OwnFlow;
use crate::table::floating_ip::{Action, Domain, Target};
use crate::table::network::Network;
use crate::table::underlay::Hop;
use crate::wire::ip::Ip;
use crate::wire::l4;
use crate::wire::mac::MacAddr;

/// A packet sent to the virtual gateway: to a floating IP that ends here, from one, or source-routed.
pub(super) fn route(
    tables: &Tables,
    network: &Network,
    adm: &Admission,
    h: &Headers,
    bytes: &[u8],
    trail: &mut impl Trail,
) -> Verdict {
    let vni = adm.vni;
    let drop = |reason| Verdict::drop(vni, reason);
    trail.step(|| Step::Routed);
    if !h.routable() {
        return drop(DropReason::IpMalformed);
    }
    if h.ttl <= 1 {
        return drop(DropReason::TtlExpired);
    }
    if network.gateways.contains(&h.dst) {
        return drop(DropReason::NoRoute);
    }
    if let Some(found) = tables.floating.lookup(Domain::To(vni), h.dst, || h.l4_key(bytes, false)) {
        return match found {
            Ok(action) => translated(tables, vni, h, action, false, trail),
            Err(reason) => drop(reason),
        };
    }
    if let Some(found) = tables.floating.lookup(Domain::From(vni), h.src, || h.l4_key(bytes, true)) {
        return match found {
            Ok(action) => translated(tables, vni, h, action, true, trail),
            Err(reason) => drop(reason),
        };
    }
    let Some(via) = tables.routes.lookup(vni, h.src) else { return drop(DropReason::NoRoute) };
    trail.step(|| Step::SourceRoute(via));
    let (dst, out) = match via {
        NextHop::Peer(peer) => (network.config.router_mac, Out::Peer(peer)),
        NextHop::Address(ip) => {
            let Some(mac) = tables.neighbors.mac(vni, ip.into()) else {
                return drop(DropReason::NeighborUnresolved);
            };
            (mac, tables.fdb.get(vni, 0, mac).map_or(Out::Flood, |l| towards(tables, adm.from, l)))
        }
    };
    let route = Some(Route { dst, src: tables.switch_mac(), id: None });
    Verdict { edits: Edits { route, ..Edits::NONE }, out, vni, vid: 0 }
}

/// A packet of the underlay to a reality address.
pub(super) fn from_underlay(tables: &Tables, h: &Headers, bytes: &[u8], trail: &mut impl Trail) -> Verdict {
    let vni = const { Vni::new(0).unwrap() };
    let drop = |reason| Verdict::drop(vni, reason);
    if !matches!(h.net, Net::V4 | Net::V6) || h.tagged {
        return drop(DropReason::NotOurs);
    }
    let Some(found) = tables.floating.lookup(Domain::Uplink, h.dst, || h.l4_key(bytes, false)) else {
        return drop(DropReason::NotOurs);
    };
    if !h.routable() {
        return drop(DropReason::IpMalformed);
    }
    if h.ttl <= 1 {
        return drop(DropReason::TtlExpired);
    }
    match found {
        Ok(action) => translated(tables, vni, h, action, false, trail),
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
    let (vni, out, dst, src) = match action.to {
        Target::Station { vni, mac, location } => {
            let Some(mac) = mac else { return Verdict::drop(vni, DropReason::NeighborUnresolved) };
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
            let Some(uplink) = &tables.uplink else { return Verdict::drop(vni, DropReason::NoRoute) };
            if guarded(tables, h) {
                return Verdict::drop(vni, DropReason::Guarded);
            }
            if source && is_own(tables, h, action.address) {
                return Verdict::drop(vni, DropReason::OwnConnection);
            }
            trail.step(|| Step::Underlay(h.dst));
            match tables.underlay.hop_from(action.address, h.dst) {
                Hop::Mac(mac) => (vni, Out::Port(uplink.port), mac, uplink.mac),
                Hop::Unresolved(_) => (vni, Out::Punt, MacAddr::ZERO, uplink.mac),
                Hop::NoRoute => return Verdict::drop(vni, DropReason::NoRoute),
            }
        }
    };
    Verdict { edits: Edits { nat, route: Some(Route { dst, src, id }), ..Edits::NONE }, out, vni, vid: 0 }
}

/// Whether a packet that leaves by NAT from `local` would do so in a connection of the rVM's own kernel.
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

/// Whether a guest's packet may not leave by NAT: it would have our own, trusted, source address.
#[inline]
fn guarded(tables: &Tables, h: &Headers) -> bool {
    let tunnel = tables.uplink.as_ref().map_or(0, |u| u.tunnel_port);
    !h.dst.is_host()
        || tables.guard.covers(h.dst)
        || h.proto == l4::UDP && h.l4 != 0 && (h.dport == tunnel || h.sport == tunnel)
}

//! Floating IPs: 1:1 translations in both directions, ready to apply.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Map, Station, hasher};
use crate::command::{FloatingConfig, FloatingId, Gateway, L4Range, Location, PeerId, Vni};
use crate::counters::{DropReason, Volume};
use crate::wire::checksum::Delta;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;

/// The side on which a packet is when its address is looked up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Domain {
    /// On the underlay, to a reality address.
    Uplink,
    /// On a network, to a floating IP.
    To(Vni),
    /// On a network, from a floating IP or the inside address of one.
    From(Vni),
}

/// Maps an address in its [`Domain`] to an action: translation, checksum delta, next MAC and output. So a
/// translated packet makes one lookup here and none in another table that depends on it. Exact match; a
/// shared public IP has several actions, which differ in their ports.
///
/// Only the configuration creates entries, never a packet. The MAC and the location of the next station are
/// filled in when they change (`resolve`), not per packet.
#[derive(Clone, Debug)]
pub struct FloatingIps {
    /// Shared with the dry runs in progress.
    maps: Arc<Maps>,
    hits: Vec<Hits>,
}

/// The mappings, composed.
#[derive(Clone, Debug)]
struct Maps {
    entries: Map<(Domain, Ip), Entry>,
    mappings: Map<FloatingId, FloatingConfig>,
    /// Actions that send to a station: (VNI, IP) to the entries to fill in.
    stations: Map<(Vni, Ip), Waiting>,
    /// The IP addresses of those stations with a known MAC.
    macs: Map<(Vni, MacAddr), Vec<Ip>>,
}

/// The packets that a mapping has translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hits {
    inbound: Volume,
    outbound: Volume,
}

#[derive(Clone, Debug)]
struct Entry {
    first: Action,
    more: Vec<Action>,
}

/// The entries that send to a station, and the MAC address that was last filled in.
#[derive(Clone, Debug, Default)]
struct Waiting {
    users: Vec<(Domain, Ip)>,
    mac: Option<MacAddr>,
}

/// The edits and the output for packets of one mapping in one direction.
#[derive(Clone, Debug)]
pub struct Action {
    /// The mapping.
    pub id: FloatingId,
    /// The new destination (towards the floating IP) or source (from it). Equal to the old one when the
    /// packet is only routed.
    pub address: Ip,
    /// Difference between the two addresses, for checksums.
    pub delta: Delta,
    /// The output.
    pub to: Target,
    ports: Option<Box<Ports>>,
}

#[derive(Clone, Debug)]
struct Ports {
    only: Vec<L4Range>,
    except: Vec<L4Range>,
}

/// The output of a translated packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Out of the uplink, to its destination on the underlay.
    Uplink,
    /// To the virtual gateway of another rVM, on this network.
    Peer(Vni, PeerId),
    /// To a station.
    Station {
        /// The station's network.
        vni: Vni,
        /// The station's MAC address, once known.
        mac: Option<MacAddr>,
        /// The station's location, once known.
        location: Option<Location>,
    },
}

/// The ports that select the action for a packet: its own, or those of the packet that it quotes (ICMP
/// errors).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L4Key {
    /// TCP or UDP, with the port on the floating IP's side.
    Port(u8, u16),
    /// A protocol without ports.
    Other,
    /// A later fragment of a TCP or UDP packet whose first fragment was not seen (`table/fragments.rs`).
    Fragment,
}

/// Maximum number of mappings, so that their counters fit a dense array.
pub const MAPPINGS_MAX: usize = 1 << 20;

impl FloatingIps {
    /// Creates an empty table whose hash is keyed by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let maps = Maps {
            entries: Map::with_hasher(hasher(seed)),
            mappings: Map::with_hasher(hasher(seed ^ 1)),
            stations: Map::with_hasher(hasher(seed ^ 2)),
            macs: Map::with_hasher(hasher(seed ^ 3)),
        };
        Self { maps: Arc::new(maps), hits: Vec::new() }
    }

    /// The action for `address` in `domain`. `None`: not mapped; `Some(Err)`: mapped, but not for this port.
    #[inline]
    #[must_use]
    pub fn lookup(
        &self,
        domain: Domain,
        address: Ip,
        l4: impl Fn() -> L4Key,
    ) -> Option<Result<&Action, DropReason>> {
        let entry = self.maps.entries.get(&(domain, address))?;
        if entry.first.ports.is_none() && entry.more.is_empty() {
            return Some(Ok(&entry.first));
        }
        Some(entry.by_port(l4()))
    }

    /// Whether ports decide about packets of `address` in `domain`.
    #[must_use]
    pub fn decides_by_port(&self, domain: Domain, address: Ip) -> bool {
        self.maps
            .entries
            .get(&(domain, address))
            .is_some_and(|e| e.first.ports.is_some() || !e.more.is_empty())
    }

    /// Whether any mapping has `address` in `domain`.
    #[inline]
    #[must_use]
    pub fn is_mapped(&self, domain: Domain, address: Ip) -> bool {
        self.maps.entries.contains_key(&(domain, address))
    }

    /// Creates or changes a mapping. Returns the stations that it no longer needs and those that it now
    /// needs.
    pub fn set(&mut self, id: FloatingId, config: FloatingConfig) -> (Vec<Station>, Vec<Station>) {
        let before = self.remove(id);
        if id.0 as usize >= MAPPINGS_MAX {
            return (before, Vec::new());
        }
        if self.hits.len() <= id.0 as usize {
            self.hits.resize(id.0 as usize + 1, Hits::default());
        }
        let maps = Arc::make_mut(&mut self.maps);
        let mut waits = Vec::new();
        for (domain, address, action, station) in actions(id, &config) {
            match maps.entries.get_mut(&(domain, address)) {
                Some(entry) => entry.more.push(action),
                None => {
                    maps.entries.insert((domain, address), Entry { first: action, more: Vec::new() });
                }
            }
            if let Some(station) = station {
                let users = &mut maps.stations.entry(station).or_default().users;
                if !users.contains(&(domain, address)) {
                    users.push((domain, address));
                }
                waits.push(station);
            }
        }
        maps.mappings.insert(id, config);
        (before, waits)
    }

    /// Removes a mapping. Returns the stations that it no longer needs.
    pub fn remove(&mut self, id: FloatingId) -> Vec<Station> {
        let maps = Arc::make_mut(&mut self.maps);
        let Some(config) = maps.mappings.remove(&id) else { return Vec::new() };
        let mut waits = Vec::new();
        for (domain, address, _, station) in actions(id, &config) {
            let key = (domain, address);
            if let Some(entry) = maps.entries.get_mut(&key) {
                entry.more.retain(|a| a.id != id);
                if entry.first.id == id {
                    if entry.more.is_empty() {
                        maps.entries.remove(&key);
                    } else {
                        entry.first = entry.more.remove(0);
                    }
                }
            }
            if let Some(station) = station {
                waits.push(station);
                let used = maps.entries.get(&key).is_some_and(|e| e.waits_for(station.0));
                if let (false, Some(waiting)) = (used, maps.stations.get_mut(&station)) {
                    waiting.users.retain(|k| *k != key);
                    if waiting.users.is_empty() {
                        maps.set_mac(station, None);
                        maps.stations.remove(&station);
                    }
                }
            }
        }
        if let Some(hits) = self.hits.get_mut(id.0 as usize) {
            *hits = Hits::default();
        }
        waits
    }

    /// Fills in the location of a station.
    pub fn resolve(&mut self, vni: Vni, ip: Ip, mac: Option<MacAddr>, location: Option<Location>) {
        let maps = Arc::make_mut(&mut self.maps);
        let Some(waiting) = maps.stations.get(&(vni, ip)) else { return };
        for key in &waiting.users {
            let Some(entry) = maps.entries.get_mut(key) else { continue };
            for action in core::iter::once(&mut entry.first).chain(&mut entry.more) {
                if let Target::Station { vni: v, mac: m, location: l } = &mut action.to
                    && *v == vni
                    && action.address == ip
                {
                    (*m, *l) = (mac, location);
                }
            }
        }
        maps.set_mac((vni, ip), mac);
    }

    /// IP addresses of the stations with this MAC that mappings send to.
    #[inline]
    #[must_use]
    pub fn stations_at(&self, vni: Vni, mac: MacAddr) -> &[Ip] {
        self.maps.macs.get(&(vni, mac)).map_or(&[], Vec::as_slice)
    }

    /// Every station that mappings send to.
    #[must_use]
    pub fn stations(&self) -> Vec<Station> {
        self.maps.stations.keys().copied().collect()
    }

    /// Counts a packet of a mapping: inbound or outbound.
    #[inline]
    pub fn hit(&mut self, id: FloatingId, outbound: bool, bytes: u32) {
        self.add_hits(id, outbound, Volume { frames: 1, bytes: u64::from(bytes) });
    }

    /// Counts several packets of a mapping.
    #[inline]
    pub fn add_hits(&mut self, id: FloatingId, outbound: bool, volume: Volume) {
        if let Some(hits) = self.hits.get_mut(id.0 as usize) {
            *(if outbound { &mut hits.outbound } else { &mut hits.inbound }) += volume;
        }
    }

    /// Every mapping with its inbound target and its counters, in the order of their numbers.
    #[must_use]
    pub fn rows(&self) -> Vec<crate::command::FloatingRow> {
        let mut rows: Vec<_> = self
            .maps
            .mappings
            .iter()
            .map(|(&id, config)| {
                let station = station(config);
                let action = station.and_then(|(vni, ip)| {
                    let key = self.maps.stations.get(&(vni, ip))?.users.first()?;
                    self.maps.entries.get(key)?.iter().find(|a| a.id == id).map(|a| a.to)
                });
                let (next_mac, location) = match action {
                    Some(Target::Station { mac, location, .. }) => (mac, location),
                    _ => (None, None),
                };
                let Hits { inbound, outbound } = self.hits.get(id.0 as usize).copied().unwrap_or_default();
                crate::command::FloatingRow { id, next_mac, location, inbound, outbound }
            })
            .collect();
        rows.sort_unstable_by_key(|r| r.id);
        rows
    }

    /// The gateway of a mapping: the side with the provider's end.
    #[must_use]
    pub fn gateway(&self, id: FloatingId) -> Option<Gateway> {
        self.maps.mappings.get(&id).map(|c| c.gateway)
    }
}

impl Maps {
    fn set_mac(&mut self, station: (Vni, Ip), mac: Option<MacAddr>) {
        let Some(waiting) = self.stations.get_mut(&station) else { return };
        let before = core::mem::replace(&mut waiting.mac, mac);
        if before == mac {
            return;
        }
        if let Some(key) = before.map(|m| (station.0, m))
            && let Some(ips) = self.macs.get_mut(&key)
        {
            ips.retain(|ip| *ip != station.1);
            if ips.is_empty() {
                self.macs.remove(&key);
            }
        }
        if let Some(mac) = mac {
            self.macs.entry((station.0, mac)).or_default().push(station.1);
        }
    }
}

/// The station that receives a mapping's inbound packets from here, if they go to a station.
fn station(config: &FloatingConfig) -> Option<(Vni, Ip)> {
    match (config.gateway, config.inside) {
        (_, Some((vni, ip))) => Some((vni, ip.into())),
        (Gateway::Here { .. }, None) => Some((config.vni, config.ip.into())),
        (Gateway::Peer(_), None) => None,
    }
}

type Composed = (Domain, Ip, Action, Option<(Vni, Ip)>);

/// All entries of one mapping: towards the floating IP on its gateway and on its owner's rVM, and from it on
/// both. An rVM that is both translates once.
fn actions(id: FloatingId, config: &FloatingConfig) -> Vec<Composed> {
    let public = Ip::from(config.ip);
    let ports = |except: bool| {
        let except = if except { config.except.clone() } else { Vec::new() };
        (!config.only.is_empty() || !except.is_empty())
            .then(|| Box::new(Ports { only: config.only.clone(), except }))
    };
    let action = |old: Ip, new: Ip, to, except| Action {
        id,
        address: new,
        delta: Delta::ZERO.address(old, new),
        to,
        ports: ports(except),
    };
    let to_station = |vni| Target::Station { vni, mac: None, location: None };
    let mut all = Vec::new();
    let station = station(config);
    let (outside, source_of_outside, at_gateway) = match config.gateway {
        Gateway::Here { reality } => (Target::Uplink, Ip::from(reality), true),
        Gateway::Peer(peer) => (Target::Peer(config.vni, peer), public, false),
    };
    if let (Gateway::Here { reality }, Some((vni, ip))) = (config.gateway, station) {
        let reality = Ip::from(reality);
        all.push((Domain::Uplink, reality, action(reality, ip, to_station(vni), true), station));
    }
    if let Some((vni, ip)) = config.inside {
        let ip = Ip::from(ip);
        all.push((Domain::To(config.vni), public, action(public, ip, to_station(vni), false), station));
        all.push((Domain::From(vni), ip, action(ip, source_of_outside, outside, at_gateway), None));
    }
    all.push((
        Domain::From(config.vni),
        public,
        action(public, source_of_outside, outside, at_gateway),
        None,
    ));
    all
}

impl Entry {
    fn iter(&self) -> impl Iterator<Item = &Action> {
        core::iter::once(&self.first).chain(&self.more)
    }

    #[cold]
    fn by_port(&self, l4: L4Key) -> Result<&Action, DropReason> {
        if l4 == L4Key::Fragment {
            return Err(DropReason::FragmentWithoutFirst);
        }
        self.iter().find(|a| a.ports.as_ref().is_none_or(|p| p.allow(l4))).ok_or(DropReason::PortNotMapped)
    }

    fn waits_for(&self, vni: Vni) -> bool {
        self.iter().any(|a| matches!(a.to, Target::Station { vni: v, .. } if v == vni))
    }
}

impl Ports {
    fn allow(&self, l4: L4Key) -> bool {
        match l4 {
            L4Key::Port(proto, port) => {
                (self.only.is_empty() || self.only.iter().any(|r| r.contains(proto, port)))
                    && !self.except.iter().any(|r| r.contains(proto, port))
            }
            L4Key::Other => self.only.is_empty(),
            L4Key::Fragment => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::L4Proto;
    use alloc::vec;

    fn ip(s: &str) -> core::net::IpAddr {
        s.parse().unwrap()
    }

    fn vni(n: u32) -> Vni {
        Vni::new(n).unwrap()
    }

    fn config() -> FloatingConfig {
        FloatingConfig {
            ip: ip("56.0.0.11"),
            vni: vni(200),
            gateway: Gateway::Here { reality: ip("10.0.0.11") },
            inside: None,
            only: vec![],
            except: vec![],
        }
    }

    fn find(t: &FloatingIps, d: Domain, a: &str, l4: L4Key) -> Option<Result<(Ip, Target), DropReason>> {
        t.lookup(d, ip(a).into(), || l4).map(|r| r.map(|a| (a.address, a.to)))
    }

    #[test]
    fn gateway_translates_both_ways() {
        let mut t = FloatingIps::new(1);
        let (_, waits) = t.set(FloatingId(0), config());
        assert_eq!(waits, [(vni(200), ip("56.0.0.11").into())]);
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        t.resolve(vni(200), ip("56.0.0.11").into(), Some(mac), Some(Location::Peer(PeerId(3))));
        let want =
            Target::Station { vni: vni(200), mac: Some(mac), location: Some(Location::Peer(PeerId(3))) };
        assert_eq!(
            find(&t, Domain::Uplink, "10.0.0.11", L4Key::Other),
            Some(Ok((ip("56.0.0.11").into(), want)))
        );
        assert_eq!(t.stations_at(vni(200), mac), [Ip::from(ip("56.0.0.11"))]);
        let out = find(&t, Domain::From(vni(200)), "56.0.0.11", L4Key::Other);
        assert_eq!(out, Some(Ok((ip("10.0.0.11").into(), Target::Uplink))));
        assert_eq!(
            find(&t, Domain::From(vni(100)), "56.0.0.11", L4Key::Other),
            None,
            "other networks do not see it"
        );
        assert_eq!(t.remove(FloatingId(0)), waits);
        assert_eq!(find(&t, Domain::Uplink, "10.0.0.11", L4Key::Other), None);
        assert!(t.maps.entries.is_empty() && t.maps.stations.is_empty() && t.maps.macs.is_empty());
    }

    /// One iVM with one floating IP, whose gateway and owner are the same rVM: one translation, without a
    /// tunnel.
    #[test]
    fn i42_gateway_is_owner() {
        let mut t = FloatingIps::new(1);
        t.set(FloatingId(0), FloatingConfig { inside: Some((vni(100), ip("192.168.1.2"))), ..config() });
        let Some(Ok((to, Target::Station { vni: v, .. }))) =
            find(&t, Domain::Uplink, "10.0.0.11", L4Key::Other)
        else {
            panic!()
        };
        assert_eq!((to, v), (ip("192.168.1.2").into(), vni(100)));
        assert_eq!(
            find(&t, Domain::From(vni(100)), "192.168.1.2", L4Key::Other),
            Some(Ok((ip("10.0.0.11").into(), Target::Uplink)))
        );
    }

    #[test]
    fn n27_shared_public_ip() {
        let range = |p| L4Range { proto: L4Proto::Tcp, first: p, last: p };
        let mut t = FloatingIps::new(1);
        for (id, port, inside) in [(0, 80, "192.168.1.2"), (1, 25, "192.168.1.3")] {
            let inside = Some((vni(100), ip(inside)));
            t.set(FloatingId(id), FloatingConfig { inside, only: vec![range(port)], ..config() });
        }
        let to =
            |port| find(&t, Domain::Uplink, "10.0.0.11", L4Key::Port(6, port)).map(|r| r.map(|(a, _)| a));
        assert_eq!(to(80), Some(Ok(ip("192.168.1.2").into())));
        assert_eq!(to(25), Some(Ok(ip("192.168.1.3").into())));
        assert_eq!(to(26), Some(Err(DropReason::PortNotMapped)));
        let fragment = find(&t, Domain::Uplink, "10.0.0.11", L4Key::Fragment).map(|r| r.map(|(a, _)| a));
        assert_eq!(fragment, Some(Err(DropReason::FragmentWithoutFirst)));
        assert!(t.decides_by_port(Domain::Uplink, ip("10.0.0.11").into()));
        t.remove(FloatingId(0));
        let to =
            |port| find(&t, Domain::Uplink, "10.0.0.11", L4Key::Port(6, port)).map(|r| r.map(|(a, _)| a));
        assert_eq!(to(80), Some(Err(DropReason::PortNotMapped)));
        assert_eq!(to(25), Some(Ok(ip("192.168.1.3").into())));
    }
}

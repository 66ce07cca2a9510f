//! The rules between the values of a [`Config`]. Validation finds all errors, not only the first.

mod binding;
mod network;
mod policy;
mod port;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;

use engine::limits;
use engine::tunnel::vxlan;
use ipnet::IpNet;

use super::driver::{IoKind, XdpMode};
use super::wording::{clean, suggest};
use super::{
    Config, ConfigError, Fault, Floating, Outer, Peer, Place, Port, PortSet, ReservedBits, Section,
    UplinkKind, WorkerCount,
};

/// The most errors in one report. Operators would not read more.
pub(crate) const ERRORS_MAX: usize = 200;

/// The most floating-IP mappings: a /16. Bounds memory and the time of an edit.
pub const FLOATINGS_MAX: usize = 65_536;
/// The most source routes; bounds memory.
pub const ROUTES_MAX: usize = 16_384;
/// The most static FDB entries; bounds memory.
pub const FDB_STATIC_MAX: usize = 65_536;
/// The most entries of a list inside one object (MACs, addresses, VLANs, ports); bounds the number of comparisons for
/// one frame.
pub const LIST_LEN_MAX: usize = 1024;

/// The longest name of a network or port, in bytes: the limit of interface names.
const NAME_LEN_MAX: usize = 15;
/// The longest alternative name of an interface, in bytes.
const ALT_NAME_LEN_MAX: usize = 127;
/// The longest name of an rVM, in bytes: the limit of a label in a host name.
const RVM_NAME_LEN_MAX: usize = 63;
/// The longest age in seconds: more than eleven days would make no sense.
const FDB_AGE_MAX: u64 = 1_000_000;
/// The highest number of a core (the limit of a `cpu_set_t`).
const CPU_MAX: usize = 1023;
/// The smallest MTU of IPv4 hosts (RFC 791).
const MTU_MIN: u16 = 576;
/// The smallest MTU of IPv6 links (RFC 8200 §5).
const MTU_MIN_V6: u16 = 1280;
/// The largest MTU of common jumbo frames.
const MTU_MAX: u16 = 9216;

/// Checks a configuration that did not come from text, on the host with this name.
///
/// # Errors
/// All errors.
pub fn validate(config: &Config, hostname: Option<&str>) -> Result<(), Vec<ConfigError>> {
    let errors: Vec<_> = check(config, hostname).into_iter().map(|f| f.error).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Why `name` cannot name a network or port, or `None` when it can.
#[must_use]
pub fn name_fault(name: &str) -> Option<String> {
    fault_of_name(name, NAME_LEN_MAX)
}

fn fault_of_name(name: &str, len_max: usize) -> Option<String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.is_empty() {
        Some("the name is empty".to_owned())
    } else if name.len() > len_max {
        Some(format!("the name has {} bytes, more than {len_max}", name.len()))
    } else if !name.starts_with(good) {
        Some("the name does not begin with a lower-case letter or digit".to_owned())
    } else {
        let bad = name.chars().find(|&c| !good(c) && !"._-".contains(c))?;
        Some(format!("the name contains {bad:?}"))
    }
}

/// One error and its place.
pub(crate) struct Finding {
    pub(crate) place: Place,
    /// For [`Fault::NotFound`]: the key of the section that lacks the object.
    pub(crate) missing_in: &'static str,
    pub(crate) error: ConfigError,
}

/// All errors in `config`.
pub(crate) fn check(config: &Config, hostname: Option<&str>) -> Vec<Finding> {
    let own = config.name.as_deref().or(hostname);
    let mut checker = Checker {
        config,
        own,
        networks: config.network.iter().map(|n| n.name.as_str()).collect(),
        peers: config.peer.iter().map(|p| (p.name.as_str(), p)).collect(),
        errors: Vec::new(),
    };
    checker.top();
    checker.uplink();
    checker.workers();
    checker.networks();
    checker.ports();
    checker.peers();
    checker.floatings();
    checker.routes();
    checker.fdb();
    checker.errors
}

struct Checker<'c> {
    config: &'c Config,
    /// The name of this rVM, if it is known.
    own: Option<&'c str>,
    networks: BTreeSet<&'c str>,
    peers: BTreeMap<&'c str, &'c Peer>,
    errors: Vec<Finding>,
}

use Fault::{Conflict, Invalid};

impl<'c> Checker<'c> {
    fn error(&mut self, place: Place, fault: Fault, object: &str, cause: impl Display, remedy: impl Display) {
        if self.errors.len() < ERRORS_MAX {
            let error = ConfigError {
                fault,
                object: clean(object),
                cause: clean(&cause.to_string()),
                remedy: clean(&remedy.to_string()),
                position: None,
            };
            self.errors.push(Finding { place, missing_in: "", error });
        }
    }

    fn missing(
        &mut self,
        place: Place,
        section: &'static str,
        object: &str,
        cause: impl Display,
        remedy: impl Display,
    ) {
        let before = self.errors.len();
        self.error(place, Fault::NotFound, object, cause, remedy);
        if let Some(finding) = self.errors.get_mut(before) {
            finding.missing_in = section;
        }
    }

    fn workers(&mut self) {
        let workers = &self.config.workers;
        if let WorkerCount::Number(count) = workers.count
            && !(1..=limits::WORKERS_MAX).contains(&count)
        {
            let cause = format!("count {count} is out of range");
            let remedy = format!("use 1 to {}, or \"auto\" for one per core", limits::WORKERS_MAX);
            self.error(Place::Workers, Invalid, "workers", cause, remedy);
        }
        if let Some(cpu) = workers.cpus.iter().find(|&&cpu| cpu > CPU_MAX) {
            let cause = format!("cpus: there is no core {cpu}");
            self.error(Place::Workers, Invalid, "workers", cause, "use numbers as in /proc/cpuinfo, from 0");
        }
        self.list_len(Place::Workers, "workers", "cpus", workers.cpus.len());
        let mut seen = BTreeSet::new();
        if let Some(cpu) = workers.cpus.iter().find(|&&cpu| !seen.insert(cpu)) {
            let cause = format!("cpus: core {cpu} is named twice");
            self.error(Place::Workers, Conflict, "workers", cause, "remove one");
        }
    }

    fn limit(&mut self, section: Section, count: usize, max: usize) {
        if count > max {
            let place = Place::Entry(section, max);
            let cause = format!("there are {count}, more than {max}");
            self.error(place, Invalid, section.key(), cause, format_args!("remove {}", count - max));
        }
    }

    fn list_len(&mut self, place: Place, object: &str, key: &str, count: usize) {
        if count > LIST_LEN_MAX {
            let cause = format!("`{key}` has {count} entries, more than {LIST_LEN_MAX}");
            self.error(place, Invalid, object, cause, "shorten the list");
        }
    }

    fn name(&mut self, place: Place, object: &str, name: &str, len_max: usize) {
        if let Some(cause) = fault_of_name(name, len_max) {
            let remedy = format!(
                "use lower-case letters, digits, `.`, `_` and `-`, at most {len_max}, as in \"private\""
            );
            self.error(place, Invalid, object, cause, remedy);
        }
    }

    /// Reports every name that its list already contains.
    fn duplicates(&mut self, section: Section, names: impl Iterator<Item = &'c str>) {
        let mut seen = BTreeSet::new();
        for (i, name) in names.enumerate() {
            if !seen.insert(name) {
                let key = section.key();
                self.error(
                    Place::Entry(section, i),
                    Conflict,
                    &format!("{key} \"{name}\""),
                    format_args!("another {key} has this name"),
                    "give each its own name, or remove one",
                );
            }
        }
    }

    fn known_network(&mut self, place: Place, object: &str, network: &str) {
        if !self.networks.contains(network) {
            let known: Vec<_> = self.networks.iter().copied().take(20).collect();
            let remedy = if known.is_empty() {
                format!("add a [[network]] with `name = \"{network}\"` and its `vni`")
            } else {
                format!("add the network first; {}", suggest(network, &known))
            };
            self.missing(place, "network", object, format_args!("there is no network \"{network}\""), remedy);
        }
    }

    fn known_peer(&mut self, place: Place, object: &str, peer: &str) {
        if !self.peers.contains_key(peer) {
            let known: Vec<_> = self.peers.keys().copied().take(20).collect();
            let remedy = if known.is_empty() {
                format!("add a [[peer]] with `name = \"{peer}\"` and its `address`")
            } else {
                format!("add the peer first; {}", suggest(peer, &known))
            };
            self.missing(place, "peer", object, format_args!("there is no peer \"{peer}\""), remedy);
        }
    }

    fn interface_name(&mut self, place: Place, object: &str, name: &str) {
        let bad = name.is_empty()
            || name.len() > ALT_NAME_LEN_MAX
            || name == "."
            || name == ".."
            || name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
        if bad {
            let cause = format!("{name:?} cannot be the name of an interface");
            self.error(
                place,
                Invalid,
                object,
                cause,
                "write one of its names as `ip link show` shows them, at most 127 bytes",
            );
        }
    }

    /// Checks that a host can have the address.
    fn host_address(&mut self, place: Place, object: &str, key: &str, ip: IpAddr) {
        if let Some(kind) = not_of_a_host(ip) {
            let cause = format!("`{key}` {ip} is {kind}");
            self.error(place, Invalid, object, cause, "write the address of a host");
        }
    }

    fn vid(&mut self, place: Place, object: &str, vid: u16) {
        if !(1..=4094).contains(&vid) {
            self.error(
                place,
                Invalid,
                object,
                format_args!("VLAN {vid} does not exist"),
                "use a VLAN from 1 to 4094",
            );
        }
    }

    fn top(&mut self) {
        if let Some(name) = &self.config.name {
            self.name(Place::Top, "name", name, RVM_NAME_LEN_MAX);
        }
    }

    fn uplink(&mut self) {
        let Some(uplink) = &self.config.uplink else { return };
        let (place, object) = (Place::Uplink, "uplink");
        self.interface_name(place, object, &uplink.interface);
        if let Some(address) = uplink.address {
            self.host_address(place, object, "address", address);
        }
        if uplink.port == 0 {
            self.error(
                place,
                Invalid,
                object,
                "UDP port 0 does not exist",
                "use `port = 4789`, or another up to 65535",
            );
        }
        self.xdp(place, object, uplink.xdp, uplink.kind == UplinkKind::Afxdp, IoKind::from(uplink.kind));
        if uplink.kind == UplinkKind::Udp
            && (uplink.fragment || self.config.peer.iter().any(|p| p.fragment == Some(true)))
        {
            let cause = "`fragment` is on, and an uplink of kind \"udp\" sends no fragments";
            self.error(
                place,
                Conflict,
                object,
                cause,
                "use `kind = \"packet\"` or `kind = \"afxdp\"`, or remove `fragment`",
            );
        }
        self.outer(place, object, uplink.ttl, uplink.tos, uplink.kind);
        let used = uplink.reserved_bits.0 & !vxlan::RESERVED;
        if used != 0 {
            let cause = format!("`reserved_bits` has {used:#x}, which is the I flag's or the VNI's");
            self.error(
                place,
                Invalid,
                object,
                cause,
                format_args!("use bits of {} only", ReservedBits::default()),
            );
        }
        self.list_len(place, object, "guard", uplink.guard.as_ref().map_or(0, Vec::len));
    }

    /// Checks the TTL and TOS of tunnel packets.
    fn outer(
        &mut self,
        place: Place,
        object: &str,
        ttl: Option<Outer>,
        tos: Option<Outer>,
        kind: UplinkKind,
    ) {
        if ttl == Some(Outer::Number(0)) {
            self.error(place, Invalid, object, "`ttl` 0 reaches nobody", "use 1 to 255, or \"inherit\"");
        }
        if let Some(Outer::Number(tos)) = tos
            && tos & 3 != 0
        {
            let cause = format!("`tos` {tos} sets bits of ECN, which are the packet's inside");
            self.error(place, Invalid, object, cause, format_args!("use {}, or \"inherit\"", tos & !3));
        }
        if kind == UplinkKind::Udp && (ttl.is_some() || tos.is_some()) {
            let cause = "`ttl` or `tos` is set, and an uplink of kind \"udp\" leaves them to the kernel";
            self.error(
                place,
                Conflict,
                object,
                cause,
                "use `kind = \"packet\"` or `kind = \"afxdp\"`, or remove them",
            );
        }
    }

    fn xdp(&mut self, place: Place, object: &str, mode: XdpMode, meant: bool, kind: IoKind) {
        if mode != XdpMode::Auto && !meant {
            let cause = format!("`xdp` chooses a mode of AF_XDP, but kind is \"{}\"", kind.name());
            self.error(place, Invalid, object, cause, "remove `xdp`, or `kind`");
        }
    }

    fn mtu(&mut self, place: Place, object: &str, mtu: u16, min: u16) {
        if !(min..=MTU_MAX).contains(&mtu) {
            let cause = format!("mtu {mtu} is out of range");
            self.error(place, Invalid, object, cause, format_args!("use {min} to {MTU_MAX}"));
        }
    }

    fn peers(&mut self) {
        let config = self.config;
        self.limit(Section::Peer, config.peer.len(), limits::PEERS_MAX);
        self.duplicates(Section::Peer, config.peer.iter().map(|p| p.name.as_str()));
        let vtep = config.uplink.as_ref().and_then(|u| u.address);
        let family = vtep.or_else(|| config.peer.iter().find(|p| p.via.is_none()).map(|p| p.address));
        let mut addresses = BTreeMap::new();
        for (i, p) in config.peer.iter().enumerate() {
            let place = Place::Entry(Section::Peer, i);
            let object = format!("peer \"{}\"", p.name);
            self.name(place, &object, &p.name, RVM_NAME_LEN_MAX);
            if self.own == Some(&p.name) {
                let cause = "this rVM itself has this name";
                self.error(place, Conflict, &object, cause, "list only the other rVMs, or set `name`");
            }
            self.host_address(place, &object, "address", p.address);
            if vtep == Some(p.address) {
                let cause = format!("address {} is this rVM's own", p.address);
                let remedy =
                    format!("write the other rVM's address; if it is this rVM, set `name = \"{}\"`", p.name);
                self.error(place, Conflict, &object, cause, remedy);
            }
            if let Some(other) = addresses.insert(p.address, p.name.as_str()) {
                let cause = format!("address {} is peer \"{other}\"'s", p.address);
                self.error(place, Conflict, &object, cause, "each peer has its own VTEP address");
            }
            if p.via.is_none()
                && let Some(family) = family
                && family.is_ipv4() != p.address.is_ipv4()
            {
                let cause =
                    format!("address {} is of another family than the underlay ({family})", p.address);
                self.error(place, Invalid, &object, cause, "use one address family for all VTEPs");
            }
            if let Some(networks) = &p.networks {
                self.list_len(place, &object, "networks", networks.len());
                let mut seen = BTreeSet::new();
                for network in networks {
                    self.known_network(place, &object, network);
                    if !seen.insert(network) {
                        let cause = format!("network \"{network}\" is listed twice");
                        self.error(place, Conflict, &object, cause, "keep it once");
                    }
                }
            }
            let kind = config.uplink.as_ref().map_or(UplinkKind::default(), |u| u.kind);
            self.outer(place, &object, p.ttl, p.tos, kind);
            if let Some(mtu) = p.mtu {
                self.mtu(place, &object, mtu, if p.address.is_ipv6() { MTU_MIN_V6 } else { MTU_MIN });
            }
            if let Some(via) = &p.via {
                self.via(place, &object, p, via);
            }
        }
    }

    fn via(&mut self, place: Place, object: &str, peer: &Peer, via: &str) {
        if peer.relay {
            let cause = "`relay` and `via` contradict each other: it is reached through another peer, so \
                         this rVM does not relay for it";
            self.error(place, Invalid, object, cause, "remove one of them");
        }
        if via == peer.name {
            self.error(
                place,
                Invalid,
                object,
                "it is reached `via` itself",
                "name the rVM that relays, or remove `via`",
            );
            return;
        }
        let Some(first) = self.peers.get(via).copied() else {
            return self.known_peer(place, object, via);
        };
        let Some(second) = &first.via else { return };
        // Only the first hop matters here; a longer way would let two rVMs point at each other.
        let mut seen = BTreeSet::from([peer.name.as_str()]);
        let mut at = Some(via);
        while let Some(name) = at {
            if !seen.insert(name) {
                let cause = format!("`via` forms a loop through \"{via}\"");
                return self.error(place, Invalid, object, cause, "let one of them be reached directly");
            }
            at = self.peers.get(name).and_then(|p| p.via.as_deref());
        }
        let cause = format!("peer \"{via}\" is itself reached via \"{second}\"");
        self.error(place, Invalid, object, cause, format_args!("name the first hop: `via = \"{second}\"`"));
    }

    fn floatings(&mut self) {
        let config = self.config;
        self.limit(Section::Floating, config.floating.len(), FLOATINGS_MAX);
        // Group mappings by everything that only one of them may claim.
        let mut by_ip: Meetings<(&str, IpAddr)> = BTreeMap::new();
        let mut by_reality: Meetings<IpAddr> = BTreeMap::new();
        let mut by_inside: Meetings<(&str, IpAddr)> = BTreeMap::new();
        for (i, f) in config.floating.iter().take(FLOATINGS_MAX).enumerate() {
            let place = Place::Entry(Section::Floating, i);
            let object = format!("floating {}", f.ip);
            self.host_address(place, &object, "ip", f.ip);
            self.known_network(place, &object, &f.network);
            let here = match self.own {
                Some(own) => own == f.gateway,
                None => !self.peers.contains_key(f.gateway.as_str()),
            };
            if here {
                self.here(place, &object, f);
            } else if !self.peers.contains_key(f.gateway.as_str()) {
                let known: Vec<_> =
                    self.own.iter().copied().chain(self.peers.keys().copied()).take(20).collect();
                let cause = format!("gateway \"{}\" is neither this rVM nor a peer", f.gateway);
                let remedy = format!("add the peer first; {}", suggest(&f.gateway, &known));
                self.missing(place, "peer", &object, cause, remedy);
            }
            if let Some(reality) = f.reality {
                self.host_address(place, &object, "reality", reality);
                if reality.is_ipv4() != f.ip.is_ipv4() {
                    let cause = format!("reality {reality} is of another address family");
                    self.error(
                        place,
                        Invalid,
                        &object,
                        cause,
                        "floating IP and reality are both IPv4 or both IPv6",
                    );
                }
            }
            if let Some(inside) = &f.inside {
                self.known_network(place, &object, &inside.network);
                self.host_address(place, &object, "inside", inside.address);
                if inside.address.is_ipv4() != f.ip.is_ipv4() {
                    let cause = format!("inside address {} is of another address family", inside.address);
                    self.error(
                        place,
                        Invalid,
                        &object,
                        cause,
                        "floating IP and inside are both IPv4 or both IPv6",
                    );
                }
            }
            self.list_len(place, &object, "only", f.only.len());
            self.list_len(place, &object, "except", f.except.as_ref().map_or(0, Vec::len));
            if f.only.len().max(f.except.as_ref().map_or(0, Vec::len)) > LIST_LEN_MAX {
                continue;
            }
            let ports = PortSet::new(&f.only, &f.except_effective());
            if ports.is_empty() {
                let cause = "`except` excludes everything that `only` includes";
                self.error(place, Invalid, &object, cause, "remove the ports from `except`, or the mapping");
            }
            let item = (i, ports);
            by_ip.entry((f.network.as_str(), f.ip)).or_default().push(item.clone());
            if let (true, Some(reality)) = (here, f.reality) {
                by_reality.entry(reality).or_default().push(item.clone());
            }
            if let Some(inside) = &f.inside {
                by_inside.entry((inside.network.as_str(), inside.address)).or_default().push(item);
            }
        }
        self.meetings(by_ip.into_values(), "the same floating IP");
        self.meetings(by_reality.into_values(), "the same reality address");
        self.meetings(by_inside.into_values(), "the same inside address");
    }

    fn here(&mut self, place: Place, object: &str, f: &Floating) {
        if f.reality.is_none() {
            let cause = "its gateway is this rVM, but `reality` is missing";
            let remedy = "add `reality = \"...\"`, the NIC address that the provider maps to it";
            self.error(place, Invalid, object, cause, remedy);
        }
        if self.config.uplink.as_ref().is_some_and(|uplink| uplink.kind == UplinkKind::Udp) {
            let cause = "its gateway is this rVM, whose uplink of kind \"udp\" carries tunnel packets only";
            let remedy = "use `kind = \"packet\"` or `kind = \"afxdp\"` in [uplink], or another gateway";
            self.error(place, Conflict, object, cause, remedy);
        }
        if self.config.uplink.is_none() {
            let cause = "its gateway is this rVM, which has no [uplink]";
            self.missing(place, "uplink", object, cause, "add [uplink] with the NIC as its `interface`");
        }
    }

    /// Reports mappings in one group that take packets of another mapping.
    fn meetings(&mut self, groups: impl Iterator<Item = Vec<(usize, PortSet)>>, what: &str) {
        for group in groups.filter(|g| g.len() > 1) {
            let mut taken = PortSet::default();
            for (i, ports) in group {
                if let Some(common) = taken.common(&ports) {
                    let object = format!("floating {}", self.config.floating[i].ip);
                    let cause = format!("another mapping with {what} takes {common} too");
                    let remedy = "give each mapping its own `only` ports, or remove one";
                    self.error(Place::Entry(Section::Floating, i), Conflict, &object, cause, remedy);
                }
                taken.add(&ports);
            }
        }
    }

    fn routes(&mut self) {
        let config = self.config;
        self.limit(Section::Route, config.route.len(), ROUTES_MAX);
        let mut seen = BTreeSet::new();
        for (i, r) in config.route.iter().enumerate() {
            let place = Place::Entry(Section::Route, i);
            let object = format!("route {}", r.from);
            self.known_network(place, &object, &r.network);
            if r.from != r.from.trunc() {
                let cause = format!("{} has bits set beyond its length", r.from);
                self.error(place, Invalid, &object, cause, format_args!("write {}", r.from.trunc()));
            }
            if !seen.insert((r.network.as_str(), r.from.trunc())) {
                let cause = format!("network \"{}\" has this route already", r.network);
                self.error(place, Conflict, &object, cause, "keep one");
            }
            if let Ok(address) = r.via.parse::<IpAddr>() {
                self.host_address(place, &object, "via", address);
                if address.is_ipv4() != matches!(r.from, IpNet::V4(_)) {
                    let cause = format!("router {address} is of another address family");
                    self.error(
                        place,
                        Invalid,
                        &object,
                        cause,
                        "prefix and router are both IPv4 or both IPv6",
                    );
                }
            } else if self.own == Some(&r.via) {
                let cause = "it goes `via` this rVM itself";
                self.error(
                    place,
                    Invalid,
                    &object,
                    cause,
                    "name a peer, or a router's address on the network",
                );
            } else {
                self.known_peer(place, &object, &r.via);
            }
        }
    }

    fn fdb(&mut self) {
        let config = self.config;
        self.limit(Section::Fdb, config.fdb.len(), FDB_STATIC_MAX);
        let ports: BTreeMap<&str, &Port> = config.port.iter().map(|p| (p.name.as_str(), p)).collect();
        let mut seen = BTreeSet::new();
        for (i, e) in config.fdb.iter().enumerate() {
            let place = Place::Entry(Section::Fdb, i);
            let object = format!("fdb {}", e.mac);
            self.known_network(place, &object, &e.network);
            if !e.mac.0.is_unicast() {
                let cause = "it is not the address of a station";
                self.error(place, Invalid, &object, cause, "groups are flooded: write a unicast MAC");
            }
            if e.vlan != 0 {
                self.vid(place, &object, e.vlan);
            }
            if !seen.insert((e.network.as_str(), e.vlan, e.mac)) {
                let cause = format!("network \"{}\" has it already", e.network);
                self.error(place, Conflict, &object, cause, "keep one");
            }
            match (&e.peer, &e.port) {
                (Some(peer), None) => match self.peers.get(peer.as_str()) {
                    None => self.known_peer(place, &object, peer),
                    Some(p) if p.networks.as_ref().is_some_and(|n| !n.contains(&e.network)) => {
                        let cause =
                            format!("peer \"{peer}\" does not take part in network \"{}\"", e.network);
                        self.error(
                            place,
                            Invalid,
                            &object,
                            cause,
                            "add the network to the peer's `networks`",
                        );
                    }
                    Some(_) => {}
                },
                (None, Some(port)) => match ports.get(port.as_str()) {
                    None => {
                        let known: Vec<_> = ports.keys().copied().take(20).collect();
                        let cause = format!("there is no port \"{port}\"");
                        let remedy = format!("add the port first; {}", suggest(port, &known));
                        self.missing(place, "port", &object, cause, remedy);
                    }
                    Some(p) if p.network != e.network => {
                        let cause = format!("port \"{port}\" is on network \"{}\"", p.network);
                        self.error(place, Invalid, &object, cause, "name a port of the entry's own network");
                    }
                    Some(_) => {}
                },
                _ => {
                    let cause = "it needs either `peer` or `port`";
                    self.error(place, Invalid, &object, cause, "write one of them: where the MAC is");
                }
            }
        }
    }
}

type Meetings<K> = BTreeMap<K, Vec<(usize, PortSet)>>;

/// Why an address cannot belong to a host, or `None` if it can.
fn not_of_a_host(ip: IpAddr) -> Option<&'static str> {
    if ip.is_unspecified() {
        Some("the unspecified address")
    } else if ip.is_multicast() {
        Some("a multicast address")
    } else if ip.is_loopback() {
        Some("a loopback address")
    } else {
        match ip {
            IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped address"),
            _ => None,
        }
    }
}

//! The addresses that guests are bound to: each guest has its own, within its network.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Checker;
use super::Fault::{Conflict, Invalid};
use crate::macs;
use crate::model::{AddressOrPrefix, LinkLocal, Mac, Place, Port, PortRole, Section, Vlan};

/// The guest ports of every network, with their bindings.
#[derive(Default)]
pub(super) struct Bindings<'c>(BTreeMap<&'c str, Vec<(usize, &'c Port)>>);

impl<'c> Bindings<'c> {
    pub(super) fn add(&mut self, index: usize, port: &'c Port) {
        if port.role == PortRole::Guest {
            self.0.entry(&port.network).or_default().push((index, port));
        }
    }
}

/// The addresses of one port, from first to last.
struct Range<'c> {
    first: u128,
    last: u128,
    index: usize,
    port: &'c Port,
    text: AddressOrPrefix,
    shared: bool,
}

impl Checker<'_> {
    /// Checks the binding of one port by itself.
    pub(super) fn binding(&mut self, place: Place, object: &str, p: &Port) {
        let lists = [
            ("mac", p.mac.len()),
            ("ip", p.ip.len()),
            ("shared_mac", p.shared_mac.len()),
            ("shared_ip", p.shared_ip.len()),
        ];
        for (key, count) in lists {
            self.list_len(place, object, key, count);
        }
        for (key, mac) in named("mac", &p.mac).chain(named("shared_mac", &p.shared_mac)) {
            if !mac.0.is_unicast() {
                let cause = format!("{key} {mac} is not the address of a station");
                self.error(place, Invalid, object, cause, "write the guest's own MAC");
            }
        }
        for (key, ip) in named("ip", &p.ip).chain(named("shared_ip", &p.shared_ip)) {
            if ip.0.addr.is_multicast() {
                let cause = format!("{key} {} is a multicast address", ip.0.addr);
                self.error(place, Invalid, object, cause, "write the guest's own address");
            }
        }
        if p.role == PortRole::Guest && p.ip.is_empty() {
            let unused = [
                ("shared_ip", !p.shared_ip.is_empty()),
                ("link_local", p.link_local != LinkLocal::default()),
            ];
            for (key, _) in unused.into_iter().filter(|(_, set)| *set) {
                let cause = format!("`{key}` is set without `ip`, so any address may be used anyway");
                self.error(place, Invalid, object, cause, format_args!("add `ip`, or remove `{key}`"));
            }
        }
    }

    /// Checks the bindings of each network's ports against each other: a MAC or an address belongs to one guest,
    /// unless all its guests list it as shared. The virtual gateway's addresses belong to the gateway alone.
    pub(super) fn bindings(&mut self, bindings: Bindings<'_>) {
        for (network, ports) in bindings.0 {
            self.gateways(network, &ports);
            self.macs(network, &ports);
            self.addresses(network, &ports, true);
            self.addresses(network, &ports, false);
            self.link_locals(network, &ports);
        }
    }

    fn gateways(&mut self, network: &str, ports: &[(usize, &Port)]) {
        let Some(n) = self.config.network(network) else { return };
        let router = n.router_mac.unwrap_or_else(|| Mac(macs::router_mac(n.vni)));
        for &(index, p) in ports {
            let (place, object) = (Place::Entry(Section::Port, index), format!("port \"{}\"", p.name));
            if p.mac.iter().chain(&p.shared_mac).any(|mac| *mac == router) {
                let cause = format!("mac {router} belongs to the virtual gateway of network \"{network}\"");
                self.error(place, Conflict, &object, cause, "write the guest's own MAC");
            }
            let own = p.ip.iter().chain(&p.shared_ip);
            for ip in own.filter(|ip| n.gateway.iter().any(|g| ip.0 == engine::command::IpPrefix::host(*g))) {
                let cause = format!("ip {ip} is a gateway address of network \"{network}\"");
                self.error(place, Conflict, &object, cause, "write the guest's own address");
            }
        }
    }

    fn macs(&mut self, network: &str, ports: &[(usize, &Port)]) {
        let mut seen: HashMap<Mac, Vec<(&Port, bool)>> = HashMap::new();
        for &(index, p) in ports {
            let own = p.mac.iter().map(|mac| (mac, false));
            for (mac, shared) in own.chain(p.shared_mac.iter().map(|mac| (mac, true))) {
                let users = seen.entry(*mac).or_default();
                let other = users
                    .iter()
                    .find(|(other, both)| !(shared && *both) && p.name != other.name && meet(p, other));
                if let Some((other, _)) = other {
                    let cause = format!(
                        "mac {mac} also belongs to port \"{}\", and both are on network \"{network}\"",
                        other.name
                    );
                    let remedy = "give each guest its own MAC, or list one that they share (VRRP) in `shared_mac` of both";
                    let object = format!("port \"{}\"", p.name);
                    self.error(Place::Entry(Section::Port, index), Conflict, &object, cause, remedy);
                } else {
                    users.push((p, shared));
                }
            }
        }
    }

    /// Checks that no port lists the link-local address that follows from another port's MAC.
    fn link_locals(&mut self, network: &str, ports: &[(usize, &Port)]) {
        let mut owners: HashMap<[u8; 16], Vec<&Port>> = HashMap::new();
        for &(_, p) in ports {
            for mac in &p.mac {
                owners.entry(mac.0.link_local()).or_default().push(p);
            }
        }
        for &(index, p) in ports {
            for ip in p.ip.iter().chain(&p.shared_ip) {
                let IpAddr::V6(address) = ip.0.addr else { continue };
                let others = owners.get(&address.octets()).filter(|_| ip.0.len == 128).into_iter().flatten();
                let Some(other) = others.into_iter().find(|other| other.name != p.name && meet(p, other))
                else {
                    continue;
                };
                let cause = format!(
                    "ip {ip} is the link-local address that follows from the mac of port \"{}\", and both \
                     are on network \"{network}\"",
                    other.name
                );
                let object = format!("port \"{}\"", p.name);
                let remedy = "write the guest's own address";
                self.error(Place::Entry(Section::Port, index), Conflict, &object, cause, remedy);
            }
        }
    }

    fn addresses(&mut self, network: &str, ports: &[(usize, &Port)], v4: bool) {
        let mut ranges: Vec<Range<'_>> = Vec::new();
        for &(index, port) in ports {
            let own = port.ip.iter().map(|ip| (*ip, false));
            let all = own.chain(port.shared_ip.iter().map(|ip| (*ip, true)));
            for (text, shared) in all.filter(|(ip, _)| ip.0.addr.is_ipv4() == v4) {
                let (first, last) = bounds(text);
                ranges.push(Range { first, last, index, port, text, shared });
            }
        }
        // Sorted by their start, an earlier range overlaps the next one if it ends at or after the next one's start.
        ranges.sort_by_key(|r| (r.first, r.last));
        let mut open: Vec<&Range<'_>> = Vec::new();
        for range in &ranges {
            open.retain(|earlier| earlier.last >= range.first);
            let other = open.iter().find(|earlier| {
                !(range.shared && earlier.shared)
                    && range.port.name != earlier.port.name
                    && meet(range.port, earlier.port)
            });
            let Some(other) = other else {
                open.push(range);
                continue;
            };
            // The later of the two ports gets the error.
            let (wrong, first) = if range.index > other.index { (range, *other) } else { (*other, range) };
            let cause = if wrong.text == first.text {
                format!("ip {} also belongs to port \"{}\"", wrong.text, first.port.name)
            } else {
                format!("ip {} overlaps ip {} of port \"{}\"", wrong.text, first.text, first.port.name)
            };
            let cause = format!("{cause}, and both are on network \"{network}\"");
            let remedy = "give each guest its own addresses, or list one that they share (VRRP) in `shared_ip` of both";
            let object = format!("port \"{}\"", wrong.port.name);
            self.error(Place::Entry(Section::Port, wrong.index), Conflict, &object, cause, remedy);
        }
    }
}

fn named<'a, T>(key: &'static str, list: &'a [T]) -> impl Iterator<Item = (&'static str, &'a T)> {
    list.iter().map(move |item| (key, item))
}

/// The first and the last address of a prefix.
fn bounds(AddressOrPrefix(prefix): AddressOrPrefix) -> (u128, u128) {
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    match IpNet::new(prefix.addr, prefix.len) {
        Ok(net) => (number(net.network()), number(net.broadcast())),
        Err(_) => (number(prefix.addr), number(prefix.addr)),
    }
}

/// Whether frames of one port may reach the other: both have a VLAN in common, or one of them accepts all.
fn meet(a: &Port, b: &Port) -> bool {
    let (Some(a), Some(b)) = (&a.vlan, &b.vlan) else { return true };
    let has = |vlan: &Vlan, vid: u16| {
        vlan.access == Some(vid) || vlan.native == Some(vid) || vlan.trunk.iter().flatten().any(|v| *v == vid)
    };
    let all = a.access.iter().chain(&a.native).chain(a.trunk.iter().flatten());
    all.into_iter().any(|vid| has(b, *vid))
}

#[cfg(test)]
mod tests {
    use crate::model::{ConfigError, Fault, parse};

    /// Two guests on network `n` (gateways 10.1.0.1 and fd01::1), the first with the keys `first`, the second with
    /// the keys `second`.
    fn two(first: &str, second: &str) -> Result<(), Vec<ConfigError>> {
        let network = "[[network]]\nname = \"n\"\nvni = 100\ngateway = [\"10.1.0.1\", \"fd01::1\"]\n[[network]]\nname = \"m\"\nvni = 101\n";
        let port = |name: &str, keys: &str| {
            let network = if keys.contains("network = ") { "" } else { "network = \"n\"\n" };
            format!(
                "[[port]]\nname = \"{name}\"\n{network}role = \"guest\"\ninterface = \"v{name}\"\n{keys}\n"
            )
        };
        parse(&(network.to_owned() + &port("g1", first) + &port("g2", second))).map(|_| ())
    }

    fn keys(mac: u8, more: &str) -> String {
        format!("mac = [\"02:00:00:00:00:0{mac}\"]\n{more}")
    }

    /// The second port is refused, with an error that names both ports, the common address and a remedy.
    fn refused(first: &str, second: &str, what: &str, remedy: &str) {
        let errors = two(first, second).expect_err(what);
        let [e] = errors.as_slice() else { panic!("{errors:#?}") };
        assert_eq!((e.fault, e.object.as_str()), (Fault::Conflict, "port \"g2\""), "{e}");
        for word in [what, "port \"g1\"", "network \"n\""] {
            assert!(e.cause.contains(word), "{word}: {e}");
        }
        assert!(e.remedy.contains(remedy), "{e}");
        assert!(e.position.is_some());
    }

    /// Two guests of a network may not have the same MAC or address, and the prefix of one may not contain the
    /// address of the other.
    #[test]
    fn an_address_is_one_guests() {
        refused(&keys(1, ""), &keys(1, ""), "mac 02:00:00:00:00:01", "`shared_mac`");
        refused(
            &keys(1, ""),
            &keys(2, "shared_mac = [\"02:00:00:00:00:01\"]"),
            "mac 02:00:00:00:00:01",
            "of both",
        );
        for (first, second, what) in [
            ("10.1.0.5", "10.1.0.5", "ip 10.1.0.5 also belongs"),
            ("10.1.0.5", "10.1.0.0/24", "ip 10.1.0.0/24 overlaps ip 10.1.0.5"),
            ("10.1.0.0/24", "10.1.0.5", "ip 10.1.0.5 overlaps ip 10.1.0.0/24"),
            ("10.1.0.0/24", "10.1.0.128/25", "overlaps"),
            ("10.1.0.130/25", "10.1.0.200", "overlaps"),
            ("fd01::5", "fd01::/64", "overlaps"),
            ("fe80::1", "fe80::1", "ip fe80::1 also belongs"),
        ] {
            let ip = |own: &str, text: &str| format!("ip = [\"{own}\", \"{text}\"]");
            refused(&keys(1, &ip("10.9.0.1", first)), &keys(2, &ip("10.9.0.2", second)), what, "`shared_ip`");
        }
        // The link-local address that follows from the MAC of the first guest.
        refused(
            &keys(1, ""),
            &keys(2, "ip = [\"fd01::2\", \"fe80::ff:fe00:1\"]"),
            "ip fe80::ff:fe00:1 is the link-local address",
            "own address",
        );
        two(&keys(1, ""), &keys(2, "ip = [\"fe80::ff:fe00:2\"]")).unwrap();
        refused(&keys(1, "ip = [\"0.0.0.0/0\"]"), &keys(2, "ip = [\"10.1.0.5\"]"), "overlaps", "`shared_ip`");
        refused(
            &keys(1, "ip = [\"10.1.0.5\"]"),
            &keys(2, "ip = [\"10.1.0.6\"]\nshared_ip = [\"10.1.0.5\"]"),
            "ip 10.1.0.5",
            "of both",
        );
    }

    /// Addresses may be equal if both ports share them, are on different networks or VLANs, or are the same port.
    /// Prefixes of different families do not overlap. A port without addresses conflicts with no other port.
    #[test]
    fn what_is_not_in_each_others_way() {
        let shared =
            "shared_mac = [\"00:00:5e:00:01:0a\"]\nshared_ip = [\"10.1.0.100\", \"fe80::200:5eff:fe00:10a\"]";
        let own = |n: u8| format!("ip = [\"10.1.0.1{n}\", \"fd01::{n}\"]");
        two(&keys(2, &format!("{}\n{shared}", own(2))), &keys(3, &format!("{}\n{shared}", own(3)))).unwrap();
        let same = keys(1, "ip = [\"10.1.0.5\"]");
        two(&same, &format!("network = \"m\"\n{same}")).unwrap();
        two(
            &format!("{same}\nvlan = {{ access = 10 }}"),
            &format!("{same}\nvlan = {{ trunk = [20], native = 30 }}"),
        )
        .unwrap();
        refused(
            &format!("{same}\nvlan = {{ access = 10 }}"),
            &format!("{}\nvlan = {{ trunk = [20], native = 10 }}", keys(2, "ip = [\"10.1.0.5\"]")),
            "ip 10.1.0.5",
            "`shared_ip`",
        );
        two(&keys(1, "ip = [\"10.1.0.5\", \"10.1.0.0/28\"]"), &keys(2, "ip = [\"10.1.0.16\"]")).unwrap();
        two(&keys(1, "ip = [\"::/0\"]"), &keys(2, "ip = [\"10.1.0.5\"]")).unwrap();
        two(&keys(1, ""), &keys(2, "ip = [\"10.1.0.5\"]")).unwrap();
    }

    /// A guest may not have an address of the virtual gateway, and keys without an effect are refused.
    #[test]
    fn what_a_binding_may_not_say() {
        for (keys, object, cause) in [
            (keys(2, "ip = [\"10.1.0.1\"]"), "port \"g2\"", "ip 10.1.0.1 is a gateway address"),
            (
                keys(2, "ip = [\"10.1.0.2\"]\nshared_ip = [\"fd01::1\"]"),
                "port \"g2\"",
                "fd01::1 is a gateway",
            ),
            ("mac = [\"02:69:76:00:00:64\"]".to_owned(), "port \"g2\"", "belongs to the virtual gateway"),
            (keys(2, "shared_ip = [\"10.1.0.5\"]"), "port \"g2\"", "`shared_ip` is set without `ip`"),
            (keys(2, "link_local = \"stable-privacy\""), "port \"g2\"", "`link_local` is set without `ip`"),
            (keys(2, "shared_mac = [\"01:00:5e:00:00:01\"]"), "port \"g2\"", "not the address of a station"),
            (keys(2, "ip = [\"10.1.0.2\"]\nshared_ip = [\"224.0.0.18\"]"), "port \"g2\"", "multicast"),
        ] {
            let errors = two("mac = [\"02:00:00:00:00:01\"]", &keys).expect_err(cause);
            let [e] = errors.as_slice() else { panic!("{errors:#?}") };
            assert!(e.object == object && e.cause.contains(cause), "{e}");
            assert!(!e.remedy.is_empty());
        }
        // A prefix may contain the network's gateway; the switch keeps the guest from that address.
        two(&keys(1, "ip = [\"10.1.0.0/24\"]"), &keys(2, "")).unwrap();
        let door = "[[network]]\nname = \"n\"\nvni = 1\n[[port]]\nname = \"d\"\nnetwork = \"n\"\nshared_ip = [\"10.1.0.5\"]";
        let errors = parse(door).unwrap_err();
        assert!(errors[0].cause.contains("this is a door"), "{errors:?}");
    }
}

//! The rules for networks.

use std::collections::{BTreeMap, BTreeSet};

use engine::limits;

use super::Fault::{Conflict, Invalid};
use super::{Checker, FDB_AGE_MAX, NAME_LEN_MAX};
use crate::model::{Network, Place, Section};

impl Checker<'_> {
    pub(super) fn networks(&mut self) {
        let config = self.config;
        self.limit(Section::Network, config.network.len(), limits::NETWORKS_MAX);
        self.duplicates(Section::Network, config.network.iter().map(|n| n.name.as_str()));
        let mut vnis = BTreeMap::new();
        for (i, n) in config.network.iter().enumerate() {
            let place = Place::Entry(Section::Network, i);
            let object = format!("network \"{}\"", n.name);
            self.name(place, &object, &n.name, NAME_LEN_MAX);
            if n.vni == 0 || n.vni >= 1 << 24 {
                let cause = format!("vni {} is out of range", n.vni);
                self.error(
                    place,
                    Invalid,
                    &object,
                    cause,
                    "use a VNI from 1 to 16777215, the same on every rVM",
                );
            } else if let Some(other) = vnis.insert(n.vni, n.name.as_str()) {
                let cause = format!("vni {} belongs to network \"{other}\"", n.vni);
                self.error(place, Conflict, &object, cause, "give each network its own VNI");
            }
            self.list_len(place, &object, "gateway", n.gateway.len());
            let mut seen = BTreeSet::new();
            for &gateway in &n.gateway {
                self.host_address(place, &object, "gateway", gateway);
                if !seen.insert(gateway) {
                    self.error(
                        place,
                        Conflict,
                        &object,
                        format_args!("gateway {gateway} is listed twice"),
                        "remove one",
                    );
                }
            }
            self.dhcp(place, &object, n);
            if let Some(mac) = n.router_mac
                && !mac.0.is_unicast()
            {
                let cause = format!("router_mac {mac} is not the address of a station");
                self.error(place, Invalid, &object, cause, "use a unicast MAC such as 02:69:76:00:00:64");
            }
            if n.fdb_max == 0 || n.fdb_max > limits::FDB_TOTAL_MAX {
                let cause = format!("fdb_max {} is out of range", n.fdb_max);
                self.error(
                    place,
                    Invalid,
                    &object,
                    cause,
                    format_args!("use 1 to {}", limits::FDB_TOTAL_MAX),
                );
            }
            if n.fdb_age == 0 {
                self.error(
                    place,
                    Invalid,
                    &object,
                    "fdb_age 0 would flood every frame, as a hub does",
                    "set the seconds that a MAC may be silent, such as 300",
                );
            } else if n.fdb_age > FDB_AGE_MAX {
                let cause = format!("fdb_age {} is out of range", n.fdb_age);
                self.error(place, Invalid, &object, cause, format_args!("use 1 to {FDB_AGE_MAX} seconds"));
            }
        }
    }

    fn dhcp(&mut self, place: Place, object: &str, n: &Network) {
        self.list_len(place, object, "dhcp", n.dhcp.len());
        if n.dhcp.is_empty() && !n.dns.is_empty() {
            let cause = "`dns` is announced by DHCP, but `dhcp` is not set";
            self.error(place, Invalid, object, cause, "add `dhcp = [\"192.168.1.0/24\"]`, or remove `dns`");
        }
        if n.dhcp.is_empty() && (n.next_server.is_some() || n.boot_file.is_some()) {
            let cause = "`next_server` and `boot_file` are announced by DHCP, but `dhcp` is not set";
            self.error(place, Invalid, object, cause, "add `dhcp = [\"192.168.1.0/24\"]`, or remove them");
        }
        if let Some(server) = n.next_server {
            self.host_address(place, object, "next_server", server.into());
        }
        if let Some(file) = &n.boot_file {
            let printable = file.bytes().all(|byte| byte.is_ascii_graphic());
            if file.is_empty() || file.len() > limits::DHCP_BOOT_FILE_LEN_MAX || !printable {
                let cause = format!("boot_file {file:?} cannot be the name of a boot file");
                let remedy = format_args!(
                    "write a path or URL of at most {} characters without spaces",
                    limits::DHCP_BOOT_FILE_LEN_MAX
                );
                self.error(place, Invalid, object, cause, remedy);
            }
        }
        for net in n.dhcp.iter().filter(|net| net.addr().is_multicast() || net.addr().is_loopback()) {
            let cause = format!("dhcp {net} contains no addresses of stations");
            self.error(place, Invalid, object, cause, "write the network's own prefix");
        }
        for &ip in &n.dns {
            self.host_address(place, object, "dns", ip);
        }
        for (family, v4) in [("IPv4", true), ("IPv6", false)] {
            let count = n.dns.iter().filter(|ip| ip.is_ipv4() == v4).count();
            if count > limits::DHCP_DNS_MAX {
                let cause = format!("dns has {count} name servers of {family}");
                self.error(place, Invalid, object, cause, "keep three, since resolvers use no more");
            }
        }
    }
}

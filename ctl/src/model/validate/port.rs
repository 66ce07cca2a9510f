//! The rules for ports: names, interfaces, drivers, requirements of guests, VLAN tags.

use std::collections::{BTreeMap, BTreeSet};

use engine::limits;

use super::Fault::{Conflict, Invalid};
use super::binding::Bindings;
use super::{Checker, MTU_MIN, NAME_LEN_MAX};
use crate::model::IoKind;
use crate::model::{LinkLocal, Place, Port, PortKind, PortRole, QUEUES_MAX, Section, Vlan, door_peer};

/// The longest path of a socket, in bytes: the limit of the kernel's socket address.
const SOCKET_PATH_MAX: usize = 107;

impl Checker<'_> {
    pub(super) fn ports(&mut self) {
        let config = self.config;
        // One id is reserved for the uplink.
        self.limit(Section::Port, config.port.len(), limits::PORTS_MAX - 1);
        self.duplicates(Section::Port, config.port.iter().map(|p| p.name.as_str()));
        // The interface names in use, with their users.
        let mut interfaces: BTreeMap<String, String> = BTreeMap::new();
        if let Some(uplink) = &config.uplink {
            interfaces.insert(uplink.interface.clone(), "uplink".to_owned());
        }
        let (mut names, mut bindings) = (BTreeSet::new(), Bindings::default());
        for (i, p) in config.port.iter().enumerate() {
            let place = Place::Entry(Section::Port, i);
            let object = format!("port \"{}\"", p.name);
            self.port(place, &object, p);
            if !names.insert(&p.name) {
                continue;
            }
            let used = match &p.interface {
                Some(interface) => vec![interface.clone()],
                None if p.kind == PortKind::Vhostuser => vec![p.attached_to()],
                None if p.makes_door() && p.kind == PortKind::Tap => vec![p.name.clone()],
                None if p.makes_door() => vec![p.name.clone(), door_peer(&p.name)],
                None => Vec::new(),
            };
            bindings.add(i, p);
            for interface in used {
                if let Some(other) = interfaces.get(&interface) {
                    let cause = format!("interface {interface} belongs to {other}");
                    self.error(place, Conflict, &object, cause, "an interface serves one port: name another");
                } else {
                    interfaces.insert(interface, object.clone());
                }
            }
        }
        self.bindings(bindings);
    }

    fn port(&mut self, place: Place, object: &str, p: &Port) {
        self.name(place, object, &p.name, NAME_LEN_MAX);
        if p.name == "uplink" {
            self.error(
                place,
                Conflict,
                object,
                "the name `uplink` is reserved for the uplink",
                "use another name",
            );
        }
        self.known_network(place, object, &p.network);
        if let Some(interface) = &p.interface {
            self.interface_name(place, object, interface);
            if !p.address.is_empty() {
                let cause =
                    "`address` is for doors that the daemon creates, but this port has an `interface`";
                self.error(place, Invalid, object, cause, "remove `address`, or `interface`");
            }
        }
        match p.role {
            PortRole::Guest => {
                if p.interface.is_none() && p.kind != PortKind::Vhostuser {
                    let cause = "a guest port has no `interface`";
                    let remedy = "add `interface = \"...\"`, the host's end of the guest's NIC, or `kind = \"vhostuser\"`";
                    self.error(place, Invalid, object, cause, remedy);
                }
                if p.mac.is_empty() {
                    let cause = "a guest port has no `mac`, so nothing could come in";
                    self.error(
                        place,
                        Invalid,
                        object,
                        cause,
                        "add `mac = [\"...\"]`, the MAC of the guest's NIC",
                    );
                }
                if p.interface.is_none() && !p.address.is_empty() {
                    let cause = "`address` is for doors, but this is a guest port";
                    self.error(place, Invalid, object, cause, "use `ip` to bind the guest's addresses");
                }
            }
            PortRole::Door => {
                let shares = !p.shared_mac.is_empty() || !p.shared_ip.is_empty();
                if !p.mac.is_empty() || !p.ip.is_empty() || shares || p.link_local != LinkLocal::default() {
                    let cause = "`mac`, `ip`, `shared_mac`, `shared_ip` and `link_local` bind a guest, but \
                                 this is a door";
                    self.error(place, Invalid, object, cause, "remove them, or write `role = \"guest\"`");
                }
                if p.makes_door() && p.kind != PortKind::Tap && p.name.len() == NAME_LEN_MAX {
                    let cause =
                        format!("our end would be {}, longer than an interface name", door_peer(&p.name));
                    self.error(place, Invalid, object, cause, "use a name of at most 14 characters");
                }
            }
        }
        if p.kind == PortKind::Tap && !p.makes_door() {
            let cause = "kind \"tap\" creates its own interface, but this port attaches to an existing one";
            let remedy = "remove `interface` (a door only), or use `kind = \"packet\"`";
            self.error(place, Invalid, object, cause, remedy);
        }
        self.guest_socket(place, object, p);
        self.xdp(place, object, p.xdp, p.means() == IoKind::Afxdp, p.means());
        self.list_len(place, object, "address", p.address.len());
        self.binding(place, object, p);
        for address in &p.address {
            self.host_address(place, object, "address", address.addr());
        }
        if let Some(vlan) = &p.vlan {
            self.vlan(place, object, vlan);
        }
        self.port_policy(place, object, p);
        if p.fdb_max == 0 || p.fdb_max > limits::FDB_TOTAL_MAX {
            let cause = format!("fdb_max {} is out of range", p.fdb_max);
            self.error(place, Invalid, object, cause, format_args!("use 1 to {}", limits::FDB_TOTAL_MAX));
        }
        if let Some(mtu) = p.mtu {
            self.mtu(place, object, mtu, MTU_MIN);
        }
    }

    /// Checks that keys of the `vhostuser` driver appear only with it, and that it has the keys that it needs.
    fn guest_socket(&mut self, place: Place, object: &str, p: &Port) {
        if p.kind != PortKind::Vhostuser {
            if p.socket.is_some() || p.queues != 1 {
                let cause = "`socket` and `queues` are for kind \"vhostuser\"";
                self.error(place, Invalid, object, cause, "remove them, or write `kind = \"vhostuser\"`");
            }
            return;
        }
        if p.interface.is_some() || !p.address.is_empty() {
            let cause = "kind \"vhostuser\" has no interface on this host";
            self.error(place, Invalid, object, cause, "remove `interface` and `address`");
        }
        let path = p.attached_to();
        if !path.starts_with('/') || path.len() > SOCKET_PATH_MAX || path.chars().any(char::is_control) {
            let cause = format!("{path:?} cannot be the path of a socket");
            let remedy = format_args!("use an absolute path of at most {SOCKET_PATH_MAX} bytes");
            self.error(place, Invalid, object, cause, remedy);
        }
        if !(1..=QUEUES_MAX).contains(&p.queues) {
            let cause = format!("queues {} is out of range", p.queues);
            self.error(place, Invalid, object, cause, format_args!("use 1 to {QUEUES_MAX}"));
        }
    }

    fn vlan(&mut self, place: Place, object: &str, vlan: &Vlan) {
        for vid in vlan.access.iter().chain(&vlan.native).chain(vlan.trunk.iter().flatten()) {
            self.vid(place, object, *vid);
        }
        match (&vlan.access, &vlan.trunk) {
            (Some(_), Some(_)) => {
                self.error(
                    place,
                    Invalid,
                    object,
                    "`vlan` has both `access` and `trunk`",
                    "keep one of them",
                );
            }
            (None, None) => {
                let remedy = "write `vlan = { access = 10 }` or `vlan = { trunk = [10, 20], native = 1 }`";
                self.error(place, Invalid, object, "`vlan` has neither `access` nor `trunk`", remedy);
            }
            (Some(_), None) if vlan.native.is_some() => {
                self.error(
                    place,
                    Invalid,
                    object,
                    "`native` is for trunks, but this is `access`",
                    "remove `native`",
                );
            }
            (None, Some(trunk)) => {
                let unique: BTreeSet<_> = trunk.iter().collect();
                if trunk.len() > 4094 {
                    self.error(
                        place,
                        Invalid,
                        object,
                        "`trunk` has more entries than there are VLANs",
                        "shorten it",
                    );
                } else if unique.len() != trunk.len() {
                    self.error(place, Conflict, object, "`trunk` has a VLAN twice", "keep each once");
                }
                if trunk.is_empty() && vlan.native.is_none() {
                    self.error(
                        place,
                        Invalid,
                        object,
                        "`trunk` lets no VLAN pass",
                        "list the VLANs, or add `native`",
                    );
                }
                if let Some(native) = vlan.native
                    && unique.contains(&native)
                {
                    let cause = format!("VLAN {native} is both tagged and `native`");
                    self.error(place, Conflict, object, cause, "take it out of `trunk`");
                }
            }
            _ => {}
        }
    }
}

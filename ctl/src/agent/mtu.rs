//! `ivctl mtu`: the MTU of every hop from the underlay's NIC to the CMS's end of a door, and the values that do not
//! fit together.

use super::Agent;
use crate::api::{
    MtuNetwork, MtuPaste, MtuPeer, MtuPort, MtuProblem, MtuReport, MtuUplink, Problem, ProblemKind,
};
use crate::model::{Network, Peer, Port, PortRole};
use crate::path::{Origin, Path};
use crate::reconcile;

/// The smallest MTU of every IPv6 link (RFC 8200 §5).
const IPV6_MIN: u16 = 1280;

impl Agent {
    /// The report of all MTUs.
    pub(super) fn mtu_report(&self) -> MtuReport {
        let uplink = self.config.uplink.as_ref().zip(self.facts.underlay.as_ref()).map(|(c, u)| MtuUplink {
            interface: c.interface.clone(),
            mtu: u.mtu,
            family: if u.vtep.is_ipv6() { 6 } else { 4 },
            overhead: self.facts.overhead(),
            probe: c.probe,
        });
        let networks: Vec<_> = self.config.network.iter().map(|n| self.mtu_network(n)).collect();
        MtuReport {
            uplink,
            peers: self.config.peer.iter().map(|p| self.mtu_peer(p)).collect(),
            problems: self.mtu_problems(),
            paste: paste(&networks),
            networks,
        }
    }

    fn path_of(&self, p: &Peer) -> Option<&Path> {
        self.ids.peer(&p.name).and_then(|id| self.paths.get(id))
    }

    /// The origin of a peer's path MTU.
    pub(super) fn mtu_origin(&self, p: &Peer) -> &'static str {
        let direct = self.direct(p);
        match self.path_of(direct) {
            _ if p.mtu.or(direct.mtu).is_some() => "configured",
            Some(path) if path.origin() == Origin::Measured => "measured",
            _ => "assumed",
        }
    }

    fn mtu_peer(&self, p: &Peer) -> MtuPeer {
        let path = self.path_of(p);
        let path_mtu = reconcile::path_mtu(p, &self.config, &self.ids, &self.facts);
        MtuPeer {
            name: p.name.clone(),
            address: p.address,
            via: p.via.clone(),
            path_mtu,
            origin: self.mtu_origin(p).to_owned(),
            measured: path.filter(|path| path.origin() == Origin::Measured).map(Path::mtu),
            state: path.map_or("off", Path::state).to_owned(),
            age: path.map(|path| self.now.since(path.since()).as_secs()),
            carried: path_mtu.saturating_sub(self.facts.overhead()),
            fragment: reconcile::fragments(p, &self.config),
        }
    }

    /// The peer that receives our packets for `p`: the relay, or `p` itself.
    fn direct<'a>(&'a self, p: &'a Peer) -> &'a Peer {
        let mut direct = p;
        for _ in 0..8 {
            match direct.via.as_deref().and_then(|via| self.config.peer(via)) {
                Some(via) => direct = via,
                None => break,
            }
        }
        direct
    }

    fn mtu_network(&self, n: &Network) -> MtuNetwork {
        let mtu = self.facts.network_mtu(&n.name);
        let narrow = |p: &&Peer| {
            let path = reconcile::path_mtu(p, &self.config, &self.ids, &self.facts);
            reconcile::takes_part(p, &n.name)
                && !reconcile::fragments(p, &self.config)
                && mtu < self.facts.overlay_mtu()
                && path.saturating_sub(self.facts.overhead()) == mtu
        };
        let limited_by = self.config.peer.iter().find(narrow).map_or("uplink", |p| p.name.as_str());
        let ports = self.config.port.iter().filter(|p| p.network == n.name);
        MtuNetwork {
            name: n.name.clone(),
            vni: n.vni,
            mtu,
            limited_by: limited_by.to_owned(),
            mss_clamp: n.mss_clamp,
            ports: ports.map(|p| self.mtu_port(p)).collect(),
            nested: (1..=3u16).map(|level| mtu.saturating_sub(level * reconcile::OVERHEAD_V4)).collect(),
        }
    }

    fn mtu_port(&self, p: &Port) -> MtuPort {
        let link_mtu = self.links.get(&p.attached_to()).map(|l| l.mtu);
        let told = self.ids.port(&p.name).and_then(|id| self.told.ports.get(&id));
        MtuPort {
            ifname: p.name.clone(),
            role: if p.role == PortRole::Door { "door" } else { "guest" }.to_owned(),
            mtu: told.map_or(0, |(_, c)| c.mtu),
            origin: match p.mtu {
                Some(_) => "configured",
                None if p.makes_door() || link_mtu.is_none() => "derived",
                None => "interface",
            }
            .to_owned(),
            link: p.attached_to(),
            link_mtu,
            cms_mtu: p.makes_door().then(|| self.links.get(&p.name).map(|l| l.mtu)).flatten(),
        }
    }

    fn mtu_problems(&self) -> Vec<MtuProblem> {
        let mut problems = Vec::new();
        let mut say = |severity: &str, object: String, why: String, how: String| {
            problems.push(MtuProblem { severity: severity.to_owned(), object, why, how });
        };
        if self.config.uplink.is_none() {
            return problems;
        }
        let uplink = self.facts.underlay.as_ref().map_or(1500, |u| u.mtu);
        for p in &self.config.peer {
            let object = format!("peer \"{}\"", p.name);
            let path = self.path_of(p);
            let measured = path.filter(|path| path.origin() == Origin::Measured).map(Path::mtu);
            match (p.mtu, measured) {
                (Some(mtu), Some(found)) if mtu > found => say(
                    "warning",
                    object.clone(),
                    format!("`mtu = {mtu}` is configured, but packets over {found} do not arrive"),
                    format!("remove `mtu`, or lower it to {found}: `ivctl peer set {} --mtu {found}`", p.name),
                ),
                (Some(mtu), _) if mtu > uplink => say(
                    "warning",
                    object.clone(),
                    format!("`mtu = {mtu}` is configured, but the uplink's MTU is {uplink}"),
                    format!("raise the uplink's MTU, or lower the peer's: `ivctl peer set {} --mtu {uplink}`", p.name),
                ),
                (None, None) if path.is_some_and(|path| path.decided() && path.state() == "silent") => say(
                    "note",
                    object.clone(),
                    format!("it does not answer probes; the uplink's {uplink} is assumed"),
                    "a kernel's VXLAN never answers: test with `ping -M do -s SIZE ADDRESS`, and set the peer's `mtu` if it is less"
                        .to_owned(),
                ),
                (None, Some(found)) if found < uplink => say(
                    "note",
                    object.clone(),
                    format!("its path carries {found} of the uplink's {uplink}; its networks follow"),
                    "raise the MTU of the links between, or keep it in networks of its own (`networks`)".to_owned(),
                ),
                _ => {}
            }
            if reconcile::fragments(p, &self.config) && measured.is_some() {
                say(
                    "warning",
                    object,
                    "tunnel packets may go to it in fragments, and it is an ivswitchd, which drops fragments"
                        .to_owned(),
                    format!("`ivctl peer set {} --fragment false`", p.name),
                );
            }
        }
        for p in &self.config.port {
            let row = self.mtu_port(p);
            let carried = self.facts.network_mtu(&p.network);
            let object = format!("port \"{}\"", p.name);
            match p.mtu {
                Some(mtu) if mtu > carried => say(
                    "warning",
                    object.clone(),
                    format!("`mtu = {mtu}` is configured, but network \"{}\" carries {carried}", p.network),
                    format!(
                        "remove `mtu`, or lower it: `ivctl port set {} --mtu {carried}`; larger packets are answered with \
                         ICMP errors",
                        p.name
                    ),
                ),
                None if row.origin == "interface" && row.link_mtu.is_some_and(|l| l > u32::from(carried)) => {
                    say(
                        "warning",
                        object.clone(),
                        format!(
                            "interface {} has MTU {}, but network \"{}\" carries {carried}",
                            row.link, row.mtu, p.network
                        ),
                        format!("lower it on both ends: `ip link set {} mtu {carried}`", row.link),
                    )
                }
                _ => {}
            }
            if let (Some(cms), true) = (row.cms_mtu, p.makes_door())
                && cms != u32::from(row.mtu)
            {
                say(
                    "warning",
                    object,
                    format!("the CMS's end {} has MTU {cms}, ours {}", p.name, row.mtu),
                    format!("`ip link set {} mtu {}`", p.name, row.mtu),
                );
            }
        }
        for n in self.config.network.iter().filter(|n| self.facts.network_mtu(&n.name) < IPV6_MIN) {
            say(
                "warning",
                format!("network \"{}\"", n.name),
                format!("it carries {}; IPv6 needs {IPV6_MIN}", self.facts.network_mtu(&n.name)),
                "raise the underlay's MTU".to_owned(),
            );
        }
        problems.truncate(100);
        problems
    }

    /// The MTU problems that are also part of `ivctl status`.
    pub(super) fn mtu_warnings(&self) -> impl Iterator<Item = Problem> {
        let warnings = self.mtu_problems().into_iter().filter(|p| p.severity == "warning");
        warnings.map(|p| {
            let what = format!("MTU of {}: {}", p.object, p.why);
            Problem::new(ProblemKind::Mtu, p.object, what, p.how)
        })
    }
}

/// The settings to paste into the CMS behind the doors, which sees each door as a physical network.
fn paste(networks: &[MtuNetwork]) -> MtuPaste {
    let ports = || networks.iter().flat_map(|n| n.ports.iter().map(move |p| (n, p)));
    let guests = ports().filter(|(_, p)| p.role == "guest");
    let libvirt =
        guests.map(|(n, p)| format!("<mtu size='{}'/> <!-- {} -->", n.mtu.min(p.mtu), p.ifname)).collect();
    let doors: Vec<_> = ports().filter(|(_, p)| p.role == "door").collect();
    let Some(least) = doors.iter().map(|(_, p)| p.mtu).min() else {
        return MtuPaste { libvirt, ..MtuPaste::default() };
    };
    let physical: Vec<String> =
        doors.iter().map(|(_, p)| format!("PHYSNET-OF-{}:{}", p.ifname, p.mtu)).collect();
    MtuPaste {
        neutron: vec![
            "# neutron.conf".to_owned(),
            "[DEFAULT]".to_owned(),
            format!("global_physnet_mtu = {least}"),
            "# ml2_conf.ini".to_owned(),
            "[ml2]".to_owned(),
            format!("path_mtu = {least}"),
            format!("physical_network_mtus = {}", physical.join(",")),
            "overlay_ip_version = 4".to_owned(),
            format!("# existing networks keep their MTU: openstack network set --mtu {least} NETWORK"),
        ],
        cloudstack: ["vr.public.interface.max.mtu", "vr.private.interface.max.mtu"]
            .map(|name| format!("update configuration zoneid=ZONE name={name} value={least}"))
            .to_vec(),
        libvirt,
    }
}

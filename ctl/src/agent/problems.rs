//! The warnings of `ivctl status`. They need the operator's attention, and stay until the problem is solved.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Agent;
use super::peers::PeerFault;
use super::strangers::Misfit;
use crate::api::{Problem, ProblemKind};
use crate::model::Peer;

/// The most warnings of one kind. Operators would not read more, and they would hide the other kinds.
pub(super) const OF_A_KIND_MAX: usize = 25;

impl Agent {
    /// Everything that needs attention.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = self.port_problems();
        self.uplink_problems(&mut problems);
        problems.extend(self.own_entries().map(|p| self.own_entry_problem(p)));
        problems.extend(self.peer_faults().into_iter().map(|PeerFault { peer, network, why, how }| {
            let kind = if network { ProblemKind::PeerNetwork } else { ProblemKind::Peer };
            let what = format!("peer \"{peer}\": {why}");
            Problem::new(kind, peer, what, how)
        }));
        let misfit = |kind| move |Misfit { object, what, how }| Problem::new(kind, object, what, how);
        problems.extend(self.stranger_misfits().into_iter().map(misfit(ProblemKind::UnknownPeer)));
        problems.extend(self.floating_misfits().into_iter().map(misfit(ProblemKind::Floating)));
        problems.extend(self.twin_problems());
        self.configuration_problems(&mut problems);
        let mut count = BTreeMap::new();
        problems.retain(|p| {
            let count = count.entry(p.kind).or_insert(0);
            *count += 1;
            *count <= OF_A_KIND_MAX
        });
        problems
    }

    fn port_problems(&self) -> Vec<Problem> {
        let problem = |a: &super::machine::Attachment| {
            let (state, why) = a.state();
            let name = &a.name;
            let (what, how) = match state {
                "live" | "ready" | "disabled" | "quarantined" => return None,
                // The cause has the remedy.
                "err-disabled" => (format!("port \"{name}\": {why}"), String::new()),
                "failed" if name == "uplink" => {
                    (format!("port \"{name}\": {why}"), "it is tried again by itself".to_owned())
                }
                "failed" => (
                    format!("port \"{name}\": {why}"),
                    format!("it is tried again by itself; `ivctl port disable {name}` ends that"),
                ),
                "waiting" if !a.makes_door => (
                    format!("port \"{name}\" is {why}"),
                    "it is taken as soon as it is there; `ip link show` lists those that are".to_owned(),
                ),
                _ => (format!("port \"{name}\" is {why}"), "it takes a moment".to_owned()),
            };
            Some(Problem::new(ProblemKind::Port, name, what, how))
        };
        self.attachments.values().filter_map(problem).collect()
    }

    fn uplink_problems(&self, problems: &mut Vec<Problem>) {
        self.reality_problems(problems);
        let Some(uplink) = &self.config.uplink else {
            if !self.config.peer.is_empty() {
                let what = "there are peers but no [uplink]: nothing reaches them";
                let how = "give the underlay's NIC as `interface` in [uplink]";
                problems.push(Problem::new(ProblemKind::Uplink, "", what, how));
            }
            return;
        };
        match &self.facts.underlay {
            None if self.links.contains_key(&uplink.interface) => {
                let what = format!("uplink {} has no global address", uplink.interface);
                let how = format!(
                    "add one with `ip address add ADDRESS/LENGTH dev {}`, or give another `interface` in [uplink]",
                    uplink.interface
                );
                problems.push(Problem::new(ProblemKind::Uplink, &uplink.interface, what, how));
            }
            None => {}
            Some(underlay) => self.address_problems(&uplink.interface, underlay.vtep, problems),
        }
        self.sharer_problems(problems);
        problems.extend(self.mtu_warnings());
    }

    /// Warns about vxlan devices of the kernel on our UDP port with a network of ours.
    fn sharer_problems(&self, problems: &mut Vec<Problem>) {
        for (link, vxlan) in self.port_sharers() {
            let Some(network) = self.config.network.iter().find(|n| Some(n.vni) == vxlan.vni) else {
                continue;
            };
            let what = format!(
                "UDP {} is in use by the kernel's vxlan device {}, too, whose VNI {} is network \"{}\" here: its packets come to \
                 the switch",
                vxlan.port, link.name, network.vni, network.name
            );
            let how = "give the device another VNI or dstport, or [uplink] another `port`";
            problems.push(Problem::new(ProblemKind::Uplink, &link.name, what, how));
        }
    }

    fn reality_problems(&self, problems: &mut Vec<Problem>) {
        let mut say = |what, how| problems.push(Problem::new(ProblemKind::Reality, "", what, how));
        let own_unknown = self.uplink_steered.as_ref().map(|s| &s.own_unknown);
        if let Some(why) = own_unknown.filter(|why| !why.is_empty()) {
            say(
                format!("answers to the rVM's own kernel at a reality address go to the floating IP: {why}"),
                "until then, give the rVM a second address, or list its ports in `except`",
            );
        }
        if !self.closed.why.is_empty() {
            let why = &self.closed.why;
            say(
                format!(
                    "while the daemon is away, the kernel answers for the reality addresses of floating IPs: {why}"
                ),
                "mend that, then `systemctl reload ivswitchd`",
            );
        }
    }

    fn address_problems(&self, interface: &str, vtep: IpAddr, problems: &mut Vec<Problem>) {
        let Some(link) = self.links.get(interface) else { return };
        let held = |ip: IpAddr| link.addresses.iter().any(|a| a.addr == ip);
        if !held(vtep) {
            let what = format!("VTEP {vtep} is not an address of {interface}");
            let how = format!(
                "add it with `ip address add {vtep}/LENGTH dev {interface}`, or correct `address` in [uplink]"
            );
            problems.push(Problem::new(ProblemKind::Uplink, vtep.to_string(), what, how));
        }
        for f in self.config.floating.iter().filter(|f| f.gateway == self.facts.name) {
            if let Some(reality) = f.reality.filter(|&r| !held(r)) {
                let what = format!("floating {}: reality {reality} is not an address of {interface}", f.ip);
                let how = format!(
                    "add it with `ip address add {reality}/LENGTH dev {interface}`, or correct `reality`"
                );
                problems.push(Problem::new(ProblemKind::Floating, f.ip.to_string(), what, how));
            }
        }
        let other_family = |p: &&Peer| p.via.is_none() && p.address.is_ipv4() != vtep.is_ipv4();
        for p in self.config.peer.iter().filter(other_family) {
            let what = format!(
                "peer \"{}\": {} is of another address family than the VTEP {vtep}",
                p.name, p.address
            );
            let how = "give it an address of that family, or set `address` in [uplink] to one of the other";
            problems.push(Problem::new(ProblemKind::Peer, &p.name, what, how));
        }
    }

    /// Peers that have this rVM's own address by mistake. A drop-in that lists all rVMs may contain this one, unless
    /// something refers to the entry by a name other than this rVM's.
    fn own_entries(&self) -> impl Iterator<Item = &Peer> {
        let used = |p: &Peer| {
            self.config.floating.iter().any(|f| f.gateway == p.name)
                || self.config.route.iter().any(|r| r.via == p.name)
                || self.config.peer.iter().any(|other| other.via.as_ref() == Some(&p.name))
                || self.config.fdb.iter().any(|e| e.peer.as_ref() == Some(&p.name))
        };
        let main = self.main.peer.len();
        let peers = self.config.peer.iter().enumerate();
        peers.filter(move |(at, p)| self.is_ourselves(p) && (*at < main || used(p))).map(|(_, p)| p)
    }

    fn own_entry_problem(&self, p: &Peer) -> Problem {
        let own = &self.facts.name;
        let what =
            format!("peer \"{}\" has this rVM's own address {}: nothing is sent to it", p.name, p.address);
        let how = format!(
            "correct its address, or remove it with `ivctl peer del {}`; if it is this rVM, which is called \"{own}\" here, set `name`",
            p.name
        );
        Problem::new(ProblemKind::Peer, &p.name, what, how)
    }

    fn configuration_problems(&self, problems: &mut Vec<Problem>) {
        let mut say = |kind, what: String, how: &str| problems.push(Problem::new(kind, "", what, how));
        if self.config.workers != self.workers {
            let what =
                format!("[workers] was changed: {} run until the daemon restarts", self.options.workers);
            say(ProblemKind::Daemon, what, "`systemctl restart ivswitchd`");
        }
        if let Some(trial) = &self.trial {
            let left = trial.until().since(self.now).as_secs();
            let what = format!("the configuration is not confirmed, and is rolled back in {left} s");
            say(ProblemKind::Configuration, what, "`ivctl config confirm` keeps it");
        }
        if let Some(why) = &self.refused {
            let what = format!(
                "the configuration files were refused at the last reload, and the previous configuration \
                 stays in force: {why}"
            );
            say(ProblemKind::Configuration, what, "correct them, then `systemctl reload ivswitchd`");
        }
        if let Some(why) = &self.persist.failure {
            let what = format!("the configuration is not saved: {why}");
            say(
                ProblemKind::Configuration,
                what,
                "it is tried again by itself; `ivctl config show` prints what a restart would lose",
            );
        }
    }
}

//! Ports and their interfaces: the agent creates doors, opens a port when its interface is there, and opens it again
//! when the interface returns.

use std::net::IpAddr;

use engine::command::{Command, IpPrefix, PortId};
use engine::limits::{HEADROOM, SLOT_SMALL_LEN};
use engine::time::{Duration, Instant};

use super::Agent;
use crate::io::{
    DoorFault, DoorSpec, GuestIo, IoKind, KernelDrops, KernelVxlan, LinkFacts, OpenPort, Output, PortDown,
    PortFacts, XdpMode,
};
use crate::model::{self, Port, clean, door_peer};
use crate::reconcile::{self, PortFact, UPLINK_PORT, Underlay};

/// The pause after the first failure; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The shortest time between two attempts when a new interface appears under the same name, in case the interface
/// flaps.
const PAUSE_NEW: Duration = Duration::from_millis(100);

/// Stands for the interface's index when the port is attached to a socket.
const NO_INTERFACE: u32 = 0;

/// The largest MTU whose frames, with an Ethernet header and two VLAN tags, fit into one small slot.
const ONE_SLOT_MTU: u16 = (SLOT_SMALL_LEN - HEADROOM - 22) as u16;

/// The state of one port and of its interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Attachment {
    /// The name of the port, for people.
    pub(super) name: String,
    /// The interface to attach to.
    pub(super) interface: String,
    shared: bool,
    pub(super) means: Means,
    enabled: bool,
    /// Whether the owner has cut the port off.
    quarantine: bool,
    /// The guard that has disabled the port, if any; the port forwards nothing.
    pub(super) err_disabled: Option<ErrDisabled>,
    pub(super) phase: Phase,
    /// How the port was opened last.
    pub(super) facts: PortFacts,
    /// The kernel's drops at the port since then.
    pub(super) kernel_drops: KernelDrops,
    /// The frames that we and the guest have exchanged since then.
    pub(super) guest_io: Option<GuestIo>,
    /// The last request for the door, if we make one.
    door: Option<DoorSpec>,
    pub(super) makes_door: bool,
    /// When the agent last asked for the port to be opened.
    opened_at: Option<Instant>,
    /// The interface's MTU at that time.
    opened_mtu: u16,
    /// The pause after the next failure.
    pause: Duration,
    /// The last failure that was logged.
    last_failure: Option<String>,
}

/// The driver and its settings. When any of them changes, the port is closed and opened again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Means {
    /// The driver.
    pub(super) kind: IoKind,
    xdp: XdpMode,
    /// The address and UDP port that tunnel packets arrive at, for the `udp` driver, which opens nothing else.
    tunnel: Option<(IpAddr, u16)>,
    /// The number of queue pairs that we offer to a guest.
    queues: u32,
}

/// How far a port has come on its way to forwarding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The configuration disables the port.
    Disabled,
    /// The interface does not exist.
    Waiting,
    /// The agent has asked for the port to be opened on the interface with this index.
    Opening(u32),
    /// The port is open but passes nothing; it goes live by itself.
    Ready(PortDown),
    /// The port is attached to the interface with this index.
    Live(u32),
    /// The door or the port could not be created or opened.
    Failed {
        /// The cause.
        why: String,
        /// The time of the next attempt.
        retry: Instant,
    },
}

/// The record that a guard has disabled a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ErrDisabled {
    /// When the guard disabled the port.
    pub(super) since: Instant,
    /// When the port is enabled again automatically, if ever.
    pub(super) until: Option<Instant>,
}

impl Attachment {
    /// The time of the next action, if one is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let recovery = self.err_disabled.and_then(|e| e.until);
        self.retry().into_iter().chain(recovery).min()
    }

    fn retry(&self) -> Option<Instant> {
        match self.phase {
            Phase::Failed { retry, .. } => Some(retry),
            _ => None,
        }
    }

    /// Whether the port forwards.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live(_)) && !self.quarantine && self.err_disabled.is_none()
    }

    /// Whether the state is stable. A door that we have asked for, or a port that is being opened, will change soon.
    pub(super) fn settled(&self) -> bool {
        match self.phase {
            Phase::Opening(_) => false,
            Phase::Waiting => !self.makes_door,
            Phase::Disabled | Phase::Ready(_) | Phase::Live(_) | Phase::Failed { .. } => true,
        }
    }

    /// The name of the state, and why the port is not live, for people.
    pub(super) fn state(&self) -> (&'static str, String) {
        match &self.phase {
            Phase::Disabled => ("disabled", "it is not enabled".to_owned()),
            Phase::Waiting if self.makes_door => {
                ("waiting", format!("creating the interface {}", self.interface))
            }
            Phase::Waiting => ("waiting", format!("waiting for interface {}", self.interface)),
            Phase::Opening(_) => ("opening", format!("opening {}", self.interface)),
            Phase::Ready(down) if down.faulty => ("failed", down.why.clone()),
            Phase::Ready(down) => ("ready", down.why.clone()),
            Phase::Live(_) if self.quarantine => (
                "quarantined",
                format!("isolated by its owner; `ivctl port release {}` ends that", self.name),
            ),
            Phase::Live(_) if self.err_disabled.is_some() => {
                let how = format!("`ivctl port enable {}` enables it", self.name);
                let recovers = self.err_disabled.is_some_and(|e| e.until.is_some());
                let by_itself = if recovers { ", and time does" } else { "" };
                ("err-disabled", format!("a BPDU came in (bpdu_guard); {how}{by_itself}"))
            }
            Phase::Live(_) => ("live", String::new()),
            Phase::Failed { why, .. } => ("failed", why.clone()),
        }
    }

    fn attached(&self) -> bool {
        matches!(self.phase, Phase::Opening(_) | Phase::Ready(_) | Phase::Live(_))
    }
}

impl Agent {
    /// Brings the attachments in line with the configuration, updates the workers, and advances every port.
    pub(super) fn attach_all(&mut self) {
        let mut before = std::mem::take(&mut self.attachments);
        let mut afterwards = Vec::new();
        for (id, wanted) in self.wanted() {
            let attachment = match before.remove(&id) {
                Some(mut was) if was.interface == wanted.interface && was.makes_door == wanted.makes_door => {
                    if was.attached() && (was.means != wanted.means || !wanted.enabled) {
                        afterwards.push(Output::ClosePort(id));
                        was.phase = Phase::Waiting;
                    }
                    if !was.enabled && wanted.enabled {
                        was.phase = Phase::Waiting;
                        // The door may have been removed while the port was disabled.
                        was.door = None;
                    }
                    Attachment {
                        name: wanted.name,
                        means: wanted.means,
                        enabled: wanted.enabled,
                        quarantine: wanted.quarantine,
                        // Disabling and enabling a port clears err-disabled, as on other switches.
                        err_disabled: was.err_disabled.filter(|_| wanted.enabled),
                        ..was
                    }
                }
                Some(was) => {
                    leave(id, &was, &mut afterwards);
                    wanted
                }
                None => wanted,
            };
            self.attachments.insert(id, attachment);
        }
        for (id, was) in before {
            leave(id, &was, &mut afterwards);
        }
        self.sync_paths();
        self.gather_facts();
        self.sync_peers();
        self.tell();
        self.outputs.extend(afterwards);
        self.step_all();
    }

    /// The attachments that the configuration asks for, in their initial state.
    fn wanted(&self) -> Vec<(PortId, Attachment)> {
        let new = |name: &str, interface: String, shared, means, enabled, makes_door| Attachment {
            name: name.to_owned(),
            interface,
            shared,
            means,
            enabled,
            quarantine: false,
            err_disabled: None,
            phase: Phase::Waiting,
            facts: PortFacts::default(),
            door: None,
            makes_door,
            opened_at: None,
            opened_mtu: 0,
            pause: PAUSE_MIN,
            kernel_drops: KernelDrops::default(),
            guest_io: None,
            last_failure: None,
        };
        let uplink = self.config.uplink.iter().map(|u| {
            let kind = IoKind::from(u.kind);
            let vtep = self.underlay().map(|underlay| (underlay.vtep, u.port));
            let means = Means { kind, xdp: u.xdp, tunnel: vtep.filter(|_| kind == IoKind::Udp), queues: 1 };
            (UPLINK_PORT, new("uplink", u.interface.clone(), true, means, true, false))
        });
        let ports = self.config.port.iter().filter_map(|p| {
            let means = Means { kind: p.means(), xdp: p.xdp, tunnel: None, queues: p.queues };
            let attachment = new(&p.name, p.attached_to(), false, means, p.enabled, p.makes_door());
            Some((self.ids.port(&p.name)?, Attachment { quarantine: p.quarantine, ..attachment }))
        });
        uplink.chain(ports).collect()
    }

    /// Collects the state of links and attachments for [`reconcile::compile`].
    fn gather_facts(&mut self) {
        self.facts.underlay = self.underlay();
        self.facts.shares_port = self.shares_port();
        self.facts.paths = self.paths.measured();
        self.facts.network_mtus = reconcile::network_mtus(&self.config, &self.ids, &self.facts);
        self.facts.ports = self.attachments.iter().map(|(&id, a)| (id, self.port_fact(a))).collect();
    }

    /// The kernel's vxlan devices on the tunnel's UDP port.
    pub(super) fn port_sharers(&self) -> impl Iterator<Item = (&LinkFacts, KernelVxlan)> {
        let port = self.config.uplink.as_ref().map(|u| u.port);
        let on_it = move |link| {
            let link: &LinkFacts = link;
            Some((link, link.vxlan.filter(|vxlan| Some(vxlan.port) == port)?))
        };
        self.links.values().filter_map(on_it)
    }

    fn shares_port(&self) -> bool {
        self.port_sharers().next().is_some()
    }

    fn port_fact(&self, a: &Attachment) -> PortFact {
        let mtu = self.links.get(&a.interface).map(mtu_of);
        PortFact { live: matches!(a.phase, Phase::Live(_)), err_disabled: a.err_disabled.is_some(), mtu }
    }

    /// The uplink as observed. While its interface is away, the last known state.
    pub(super) fn underlay(&self) -> Option<Underlay> {
        let uplink = self.config.uplink.as_ref()?;
        let before = self.facts.underlay.as_ref();
        let Some(link) = self.links.get(&uplink.interface) else {
            return before.filter(|u| uplink.address.is_none_or(|a| a == u.vtep)).cloned();
        };
        let held = |ip| link.addresses.iter().any(|a| a.addr == ip);
        let vtep = uplink
            .address
            .or_else(|| before.map(|u| u.vtep).filter(|&vtep| held(vtep)))
            .or_else(|| link.addresses.iter().map(|a| a.addr).find(|&ip| model::is_global(ip)))
            .or_else(|| before.map(|u| u.vtep))?;
        let mut connected: Vec<IpPrefix> =
            link.addresses.iter().filter(|a| a.len > 0).map(|&a| reconcile::truncate(a)).collect();
        connected.sort_unstable();
        connected.dedup();
        Some(Underlay { mac: link.mac, vtep, mtu: mtu_of(link), connected })
    }

    /// Sends the workers every difference between the desired state and the state that they already have.
    pub(super) fn tell(&mut self) {
        let state = reconcile::compile(&self.config, &self.ids, &self.facts);
        for command in reconcile::diff(&self.told, &state) {
            self.command(command);
        }
        self.told = state;
        self.sync_twins();
        let plan = reconcile::steer(&self.config, &self.facts);
        if plan != self.steered {
            self.steered = plan.clone();
            self.outputs.push_back(Output::Steer(plan));
        }
        let vtep = self.facts.underlay.as_ref().map(|underlay| underlay.vtep);
        let mut plan = reconcile::close(&self.config, &self.facts.name, vtep);
        if let Some(link) = self.links.get(&plan.interface) {
            plan.interface.clone_from(&link.name);
        }
        if self.closed_plan.as_ref() != Some(&plan) {
            self.closed_plan = Some(plan.clone());
            self.outputs.push_back(Output::Close(plan));
        }
    }

    /// Does the same as [`Agent::tell`] when only this port's state changed.
    fn tell_port(&mut self, id: PortId) {
        let Some(a) = self.attachments.get(&id) else { return };
        self.facts.ports.insert(id, self.port_fact(a));
        let wanted = match self.config.port(&a.name) {
            Some(p) => reconcile::compile_port(p, &self.config, id, &self.ids, &self.facts),
            None if id == UPLINK_PORT => reconcile::compile_uplink_port(&self.facts),
            None => return,
        };
        let entry = (a.name.clone(), wanted);
        if self.told.ports.get(&id) != Some(&entry) {
            self.command(Command::SetPort(id, entry.1.clone()));
            self.told.ports.insert(id, entry);
        }
    }

    /// The door that the configuration asks for at this port.
    fn door_spec(&self, p: &Port) -> DoorSpec {
        DoorSpec {
            kind: p.means(),
            name: p.name.clone(),
            peer: door_peer(&p.name),
            mac: reconcile::door_mac(self.facts.identity, &p.name),
            mtu: reconcile::port_mtu(p, None, &self.facts),
            queues: self.options.workers as u32,
            mtu_is_guess: p.mtu.is_none() && !self.paths_decided(&p.network),
            addresses: p.address.iter().map(|&a| model::prefix(a)).collect(),
        }
    }

    fn step_all(&mut self) {
        let ids: Vec<PortId> = self.attachments.keys().copied().collect();
        for id in ids {
            self.step(id);
        }
    }

    /// Advances one port: creates its door, opens the port when its interface is there and the time has come, and
    /// closes it when the interface is gone or has been replaced. Does nothing when nothing is due.
    pub(super) fn step(&mut self, id: PortId) {
        let Some(mut a) = self.attachments.remove(&id) else { return };
        if a.err_disabled.and_then(|e| e.until).is_some_and(|until| until <= self.now) {
            a.err_disabled = None;
            self.log("info", format!("port \"{}\" is enabled again: errdisable_recovery is over", a.name));
        }
        // A socket has no interface to wait for, so the port can be opened at any time.
        let link = || self.links.get(&a.interface).map(|l| l.index);
        let index = if a.means.kind == IoKind::Vhostuser { Some(NO_INTERFACE) } else { link() };
        if a.makes_door {
            self.step_door(id, &mut a, index.is_some());
        }
        self.step_port(id, &mut a, index);
        self.attachments.insert(id, a);
        self.tell_port(id);
    }

    fn step_door(&mut self, id: PortId, a: &mut Attachment, there: bool) {
        let Some(spec) = self.config.port(&a.name).map(|p| self.door_spec(p)) else { return };
        let due = a.retry().is_none_or(|at| at <= self.now);
        let lost = !there && matches!(a.phase, Phase::Failed { .. });
        // If the MTU was a guess and is now certain, the pair stays as it is, unless its MTU differs.
        let is = self.links.get(&a.interface).map(mtu_of);
        let same = |door: &DoorSpec| {
            let certain = DoorSpec { mtu_is_guess: spec.mtu_is_guess, ..door.clone() };
            certain == spec && (*door == spec || spec.mtu_is_guess || is.is_none_or(|is| is == spec.mtu))
        };
        if due && (lost || !a.door.as_ref().is_some_and(same)) {
            a.door = Some(spec.clone());
            if !there {
                a.phase = Phase::Waiting;
            }
            self.outputs.push_back(Output::CreateDoor(id, spec));
        }
    }

    fn step_port(&mut self, id: PortId, a: &mut Attachment, index: Option<u32>) {
        let now = self.now;
        let Some(index) = index.filter(|_| a.enabled) else {
            let was_attached = a.attached();
            if was_attached {
                self.outputs.push_back(Output::ClosePort(id));
            }
            if !a.enabled {
                a.phase = Phase::Disabled;
            } else if was_attached {
                a.phase = Phase::Waiting;
                let why = format!("interface {} is gone", a.interface);
                self.log("warn", format!("port \"{}\": {why}", a.name));
                if a.makes_door {
                    // Another program removed the door. Create it again, but not in a tight loop.
                    a.phase = Phase::Failed { why, retry: now + PAUSE_MIN };
                }
            } else if !a.makes_door {
                a.phase = Phase::Waiting;
            }
            return;
        };
        let mtu = self.links.get(&a.interface).map_or(0, mtu_of);
        // The largest frame that an AF_XDP port takes is fixed when the port is opened.
        let outgrown = a.means.kind == IoKind::Afxdp && mtu > ONE_SLOT_MTU && a.opened_mtu <= ONE_SLOT_MTU;
        let not_before = match a.phase {
            Phase::Opening(at) | Phase::Live(at) if at == index && !outgrown => return,
            Phase::Ready(_) => return,
            Phase::Opening(_) | Phase::Live(_) => {
                self.outputs.push_back(Output::ClosePort(id));
                a.opened_at.map(|at| at + PAUSE_NEW)
            }
            Phase::Waiting | Phase::Disabled => a.opened_at.map(|at| at + PAUSE_NEW),
            Phase::Failed { retry, .. } => Some(retry),
        };
        if let Some(retry) = not_before.filter(|&at| now < at) {
            let why = match &a.phase {
                Phase::Failed { why, .. } => why.clone(),
                _ => format!("interface {} has only just changed", a.interface),
            };
            a.phase = Phase::Failed { why, retry };
            return;
        }
        if let Some(why) = self.taken_by_another(&a.interface, index) {
            let news = a.last_failure.as_ref() != Some(&why);
            a.last_failure = Some(why.clone());
            a.phase = Phase::Failed { why: why.clone(), retry: now + PAUSE_MAX };
            if news {
                self.log("warn", format!("port \"{}\": {why}", a.name));
            }
            return;
        }
        a.opened_at = Some(now);
        a.opened_mtu = mtu;
        a.phase = Phase::Opening(index);
        let Means { kind, xdp, tunnel, queues } = a.means;
        let name = self.links.get(&a.interface).map_or_else(|| a.interface.clone(), |l| l.name.clone());
        let (interface, shared, ours) = (name, a.shared, a.makes_door);
        let open = OpenPort { interface, index, shared, xdp, kind, ours, tunnel, queues };
        self.outputs.push_back(Output::OpenPort(id, open));
    }

    /// Why an interface cannot be opened for a port: another port uses it under another of its names.
    fn taken_by_another(&self, name: &str, index: u32) -> Option<String> {
        let has = |a: &&Attachment| {
            let held = matches!(a.phase, Phase::Opening(at) | Phase::Live(at) if at == index);
            held && index != NO_INTERFACE
        };
        let other = self.attachments.values().find(has)?;
        Some(format!(
            "interface {name} is {}, by another name, and that is \"{}\"'s; an interface serves one port: name another",
            other.interface, other.name
        ))
    }

    pub(super) fn link(&mut self, link: LinkFacts) {
        let is_new = self.links.get(&link.name).is_none_or(|b| b.index != link.index);
        let Some(names) = self.links.insert(link) else { return };
        // A changed interface may well work now: ask again, though not more often than once per second.
        for a in self.attachments.values_mut().filter(|a| names.contains(&a.interface)) {
            if let Phase::Failed { retry, .. } = &mut a.phase {
                let pause = if is_new { PAUSE_NEW } else { PAUSE_MIN };
                *retry = (*retry).min(a.opened_at.map_or(self.now, |at| at + pause)).max(self.now);
                a.pause = PAUSE_MIN;
            }
        }
        self.link_changed(&names);
    }

    pub(super) fn link_gone(&mut self, name: &str) {
        let names = self.links.remove(name);
        if !names.is_empty() {
            self.link_changed(&names);
        }
    }

    /// Handles a change of the interface that has, or had, these names.
    fn link_changed(&mut self, names: &[String]) {
        let shares_port = self.shares_port();
        if shares_port != self.facts.shares_port {
            self.facts.shares_port = shares_port;
            self.tell();
        }
        if self.config.uplink.as_ref().is_some_and(|u| names.contains(&u.interface)) {
            let underlay = self.underlay();
            if underlay != self.facts.underlay {
                self.follow_vtep(underlay.as_ref());
                self.facts.underlay = underlay;
                self.sync_paths();
                self.gather_facts();
                self.sync_peers();
                self.tell();
                // The MTU of doors follows the uplink's MTU.
                self.step_all();
                return;
            }
        }
        let ids: Vec<PortId> = self
            .attachments
            .iter()
            .filter(|(_, a)| names.contains(&a.interface))
            .map(|(&id, _)| id)
            .collect();
        for id in ids {
            self.step(id);
        }
    }

    /// Opens the uplink again when it is bound to our VTEP address and that address changes.
    fn follow_vtep(&mut self, underlay: Option<&Underlay>) {
        let Some(port) = self.config.uplink.as_ref().map(|u| u.port) else { return };
        let Some(a) = self.attachments.get_mut(&UPLINK_PORT) else { return };
        let tunnel = underlay.map(|u| (u.vtep, port));
        if a.means.kind == IoKind::Udp && a.means.tunnel != tunnel {
            a.means.tunnel = tunnel;
            if a.attached() {
                self.outputs.push_back(Output::ClosePort(UPLINK_PORT));
            }
            a.phase = Phase::Waiting;
        }
    }

    /// Disables a port with a BPDU guard after a BPDU. More BPDUs that arrive before the workers know change nothing.
    pub(super) fn bpdu(&mut self, id: PortId) {
        let now = self.now;
        let Some(a) = self.attachments.get_mut(&id).filter(|a| a.err_disabled.is_none()) else { return };
        let Some(port) = self.config.port(&a.name).filter(|p| p.bpdu_guard) else { return };
        let until = port.errdisable_recovery.map(|s| now + Duration::from_secs(s.into()));
        a.err_disabled = Some(ErrDisabled { since: now, until });
        let text = format!("port \"{}\" is err-disabled: a BPDU came in (bpdu_guard)", a.name);
        self.log("warn", text);
        self.tell_port(id);
    }

    /// Clears err-disabled. Returns false when no guard had disabled the port.
    pub(super) fn enable(&mut self, id: PortId) -> bool {
        let Some(a) = self.attachments.get_mut(&id) else { return false };
        let was = a.err_disabled.take();
        if let Some(ErrDisabled { since, .. }) = was {
            let seconds = self.now.since(since).as_secs();
            let text = format!("port \"{}\" is enabled again after {seconds} s err-disabled", a.name);
            self.log("info", text);
            self.tell_port(id);
        }
        was.is_some()
    }

    pub(super) fn port_opened(&mut self, id: PortId, facts: PortFacts) {
        let Some(a) = self.attachments.get_mut(&id) else { return };
        let index = match a.phase {
            Phase::Opening(index) | Phase::Live(index) => index,
            Phase::Ready(_) => NO_INTERFACE,
            // This is a late answer: the port was closed again, or has failed since. Only a port whose interface
            // exists can be live.
            Phase::Failed { .. } => match self.links.get(&a.interface) {
                Some(link) => link.index,
                None => return,
            },
            Phase::Waiting | Phase::Disabled => return,
        };
        a.phase = Phase::Live(index);
        a.pause = PAUSE_MIN;
        let text = format!("port \"{}\" is live on {} ({})", a.name, a.interface, facts.mode);
        a.facts = facts;
        if a.means.kind != IoKind::Vhostuser {
            a.kernel_drops = KernelDrops::default();
        }
        self.log("info", text);
        self.tell_port(id);
        if id == UPLINK_PORT {
            self.restart_paths();
            self.restart_peers();
            self.outputs.push_back(Output::Steer(self.steered.clone()));
        }
    }

    /// Notes that the other end of an open port went away or misbehaved.
    pub(super) fn port_down(&mut self, id: PortId, down: PortDown) {
        let Some(a) = self.attachments.get_mut(&id).filter(|a| a.attached()) else { return };
        let down = PortDown { why: clean(&down.why), ..down };
        let (before, name) = (std::mem::replace(&mut a.phase, Phase::Ready(down.clone())), a.name.clone());
        if before != a.phase {
            let level = if down.faulty { "warn" } else { "info" };
            self.log(level, format!("port \"{name}\": {}", down.why));
            self.tell_port(id);
        }
    }

    pub(super) fn port_failed(&mut self, id: PortId, why: &str) {
        if self.attachments.get(&id).is_some_and(Attachment::attached) {
            if matches!(self.attachments[&id].phase, Phase::Live(_) | Phase::Ready(_)) {
                self.outputs.push_back(Output::ClosePort(id));
            }
            self.failed(id, why);
        }
    }

    pub(super) fn door_failed(&mut self, id: PortId, fault: &DoorFault) {
        let Some(a) = self.attachments.get_mut(&id).filter(|a| a.makes_door) else { return };
        if !fault.usable {
            // An interface with the door's name may exist, but it is not the door that we asked for.
            a.door = None;
        }
        let attached = a.attached();
        if !a.enabled || (attached && fault.usable) {
            // The door works, but differs from the request.
            let text = format!("port \"{}\": {}", a.name, clean(&fault.why));
            self.log("warn", text);
            return;
        }
        if attached {
            self.outputs.push_back(Output::ClosePort(id));
        }
        self.failed(id, &fault.why);
    }

    fn failed(&mut self, id: PortId, why: &str) {
        let now = self.now;
        let Some(a) = self.attachments.get_mut(&id) else { return };
        let why = clean(why);
        let (name, news) = (a.name.clone(), a.last_failure.as_ref() != Some(&why));
        a.last_failure = Some(why.clone());
        a.phase = Phase::Failed { why: why.clone(), retry: now + a.pause };
        a.pause = (a.pause * 2).min(PAUSE_MAX);
        if news {
            // Log a failure once, not at every attempt.
            self.log("warn", format!("port \"{name}\": {why}"));
        }
        self.tell_port(id);
    }
}

/// Closes the port and deletes the door of an attachment that the configuration no longer has.
fn leave(id: PortId, was: &Attachment, outputs: &mut Vec<Output>) {
    if was.attached() {
        outputs.push(Output::ClosePort(id));
    }
    if was.makes_door {
        outputs.push(Output::DeleteDoor(was.name.clone()));
    }
}

pub(super) fn mtu_of(link: &LinkFacts) -> u16 {
    u16::try_from(link.mtu).unwrap_or(u16::MAX)
}

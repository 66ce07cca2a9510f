//! Answers to clients, made from the configuration and the workers' answers, for people and scripts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use engine::command::{Command, FdbRow, Location, PortId, Vni};
use engine::counters::{DropReason, PortCounters};
use engine::forward::verdict::Refusal;
use engine::limits;
use serde_json::{Value, json};

use super::Agent;
use super::ask::{Ask, FdbFilter};
use super::machine::{Attachment, Phase};
use super::pending::Found;
use super::request::is_floating;
use crate::api::{
    self, CacheRow, ClosedRow, Code, DropRow, Edited, Error, FloatingRow, Frames, LeftOut, NeighRow,
    NetworkRow, PeerRow, PortRow, Problem, ProblemKind, RateRow, Rows, SampleRow, SharerRow, Stats, Stats64,
    Status, SteeredRow, WorkerRow,
};
use crate::io::{CacheMode, IoKind};
use crate::liveness::Liveness;
use crate::model::{Network, Port, PortKind, PortRole, Section};
use crate::reconcile::{self, UPLINK_PORT};

impl Agent {
    /// The answer to `ask`.
    pub(super) fn answered(&mut self, ask: Ask, found: &Found) -> Result<Value, Error> {
        let mut warnings = Vec::new();
        if found.incomplete {
            warnings.push("a worker did not answer in time: numbers may be missing or too small".to_owned());
        }
        if found.cut {
            warnings.push(format!("only {} rows are shown", api::ROWS_MAX));
        }
        Ok(match ask {
            Ask::Status => json!(self.status(found, warnings)),
            Ask::Look => {
                self.looked(found);
                Value::Null
            }
            Ask::Networks(name) => {
                let mut rows = self.network_rows(found);
                rows.retain(|r| name.as_ref().is_none_or(|n| *n == r.name));
                let mut config = self.configured_networks(rows.iter().map(|r| r.name.as_str()));
                rows.iter_mut().for_each(|r| r.config = config.remove(&r.name));
                json!(Rows { rows, warnings })
            }
            Ask::Ports(name) => {
                let mut rows = self.port_rows(found);
                rows.retain(|r| name.as_ref().is_none_or(|n| *n == r.ifname));
                let mut config = self.configured_ports(rows.iter().map(|r| r.ifname.as_str()));
                for row in &mut rows {
                    row.config = config.remove(&row.ifname);
                    let drops = self.drop_rows(found, self.port_id(&row.ifname));
                    row.drops = drops.into_iter().map(|d| (d.reason, d.count)).collect();
                }
                let shapes = self.shape_problems(found, |port| rows.iter().any(|r| r.ifname == port));
                warnings.extend(shapes.iter().map(ToString::to_string));
                json!(Rows { rows, warnings })
            }
            Ask::Peers(name) => {
                let mut rows = self.peer_rows(found);
                rows.extend(self.left_out_rows());
                rows.retain(|r| name.as_ref().is_none_or(|n| *n == r.name));
                let mut config = self.configured_peers(rows.iter().map(|r| r.name.as_str()));
                rows.iter_mut().for_each(|r| r.config = config.remove(&r.name));
                json!(Rows { rows, warnings })
            }
            Ask::Floatings(which) => {
                let mut rows = self.floating_rows(found, &which);
                let of = self.config.floating.iter().enumerate().filter(|(_, f)| is_floating(f, &which));
                for (row, (at, f)) in rows.iter_mut().zip(of) {
                    row.config = Some(self.configured(Section::Floating, at, f));
                }
                json!(Rows { rows, warnings })
            }
            Ask::Fdb(filter) => {
                let mut matching = found.fdb.values().filter(|r| filter.matches(r));
                let rows: Vec<_> = matching.by_ref().take(filter.limit).map(|r| self.fdb_row(r)).collect();
                if matching.next().is_some() {
                    warnings.push(format!("only {} rows are shown", rows.len()));
                }
                json!(Rows { rows, warnings })
            }
            Ask::FdbDelete { filter, if_exists } => self.fdb_delete(&filter, if_exists, found)?,
            Ask::Neighbors(vni) => {
                let wanted = found.neighbors.values().filter(|n| vni.is_none_or(|v| v == n.vni));
                let rows: Vec<_> = wanted
                    .map(|n| NeighRow {
                        dst: n.ip,
                        dev: self.network_name(n.vni),
                        lladdr: n.mac.map(|m| m.to_string()),
                        state: vec![neighbor_state(n.mac.is_some(), n.idle.as_secs()).to_owned()],
                        used: n.idle.as_secs(),
                    })
                    .collect();
                json!(Rows { rows, warnings })
            }
            Ask::Drops(port) => json!(Rows { rows: self.drop_rows(found, port), warnings }),
            Ask::Pulse => {
                self.tell_of_pulse(found);
                Value::Null
            }
            Ask::Trace(port, frame) => {
                let steer = (port == UPLINK_PORT).then(|| self.steering(&frame));
                if let Some(Err(kernel)) = steer {
                    return Ok(json!(kernel));
                }
                let walk = found.walk.as_ref().ok_or_else(|| {
                    let why = "no worker answered in time";
                    Error::new(
                        Code::Timeout,
                        "the frame is not traced",
                        why,
                        "try again with a longer --timeout",
                    )
                })?;
                let mut row = self.walk_row(port, walk);
                if let Some(Ok(step)) = steer {
                    row.steps.insert(0, step);
                }
                json!(row)
            }
            Ask::CaptureStarted(id, port) => json!(self.capture_started(id, port)),
            Ask::Captured(id, ..) => json!(self.captured(id, &found.seen, found.seen_lost)),
        })
    }

    fn status(&self, found: &Found, incomplete: Vec<String>) -> Status {
        let s = found.switch;
        let daemon = |what: String, how: &str| Problem::new(ProblemKind::Daemon, "", what, how);
        let late = |what| daemon(what, "ask again; `ivctl top` shows how busy the workers are");
        let mut problems: Vec<Problem> = incomplete.into_iter().map(late).collect();
        problems.extend(self.problems());
        problems.extend(self.shape_problems(found, |_| true));
        if !found.incomplete && !s.conserved() {
            let what = "frames were lost or counted twice".to_owned();
            problems.push(daemon(what, "please report this, with what `ivctl sysdump` writes"));
        }
        let mut drops = self.drop_rows(found, None);
        drops.sort_by_key(|d| std::cmp::Reverse(d.count));
        Status {
            name: self.facts.name.clone(),
            version: self.options.version.clone(),
            api: api::API,
            uptime: self.now.since(self.started).as_secs(),
            vtep: self.facts.underlay.as_ref().map(|u| u.vtep),
            tunnel_port: self.config.uplink.as_ref().map_or(0, |u| u.port),
            overlay_mtu: self.facts.overlay_mtu(),
            port_sharers: self
                .port_sharers()
                .map(|(link, vxlan)| SharerRow { link: link.name.clone(), vni: vxlan.vni })
                .collect(),
            ports: self.port_rows(found),
            networks: self.network_rows(found),
            peers: self.peer_rows(found),
            floating: self.floating_rows(found, &api::WhichFloating::default()),
            workers: self
                .stats
                .iter()
                .map(|w| WorkerRow { busy: w.busy, sleeps: w.sleeps, frames: w.frames })
                .collect(),
            cache: self.cache_row(),
            steered: self.steered_row(),
            closed: self.closed_row(),
            frames: Frames {
                rx: s.rx,
                replicated: s.replicated,
                originated: s.originated,
                segmented: s.segmented,
                tx: s.tx,
                dropped: s.dropped,
                punted: s.punted,
                consumed: s.consumed,
                coalesced: s.coalesced,
                queued: s.queued,
                handed_off: s.handed_off,
                taken_over: s.taken_over,
            },
            icmp_errors: Refusal::KINDS.iter().map(|kind| (*kind).to_owned()).zip(s.refusals).collect(),
            icmp_errors_limited: s.refusals_limited,
            drops,
            warnings: problems.iter().map(ToString::to_string).collect(),
            problems,
        }
    }

    fn cache_row(&self) -> CacheRow {
        let mode = self.config.cache;
        let stats = &self.cache;
        let left_out =
            |(link, reason): &(String, String)| LeftOut { link: link.clone(), reason: reason.clone() };
        CacheRow {
            mode,
            on: stats.on,
            reason: match (mode, stats.on) {
                (_, true) => String::new(),
                (CacheMode::Off, _) => "switched off".to_owned(),
                (..) if stats.reason.is_empty() => "starting".to_owned(),
                (..) => stats.reason.clone(),
            },
            flows: stats.flows,
            hits: stats.hits,
            left_out: if stats.on { stats.left_out.iter().map(left_out).collect() } else { Vec::new() },
        }
    }

    fn steered_row(&self) -> Option<SteeredRow> {
        let s = self.uplink_steered.as_ref().filter(|_| self.config.uplink.is_some())?;
        Some(SteeredRow {
            tunnel: s.tunnel,
            reality: s.reality,
            own: s.own,
            passed: s.passed,
            own_flows: s.own_flows,
            own_unknown: s.own_unknown.clone(),
        })
    }

    fn closed_row(&self) -> ClosedRow {
        let plan = self.closed_plan.as_ref();
        let addresses: Vec<IpAddr> = plan.iter().flat_map(|p| &p.reality).map(|r| r.address).collect();
        ClosedRow {
            in_place: !addresses.is_empty() && self.closed.why.is_empty(),
            addresses,
            why: self.closed.why.clone(),
            instead: self.closed.instead.clone(),
            restored: self.closed.restored,
        }
    }

    fn network_rows(&self, found: &Found) -> Vec<NetworkRow> {
        let row = |n: &Network| {
            let vni = Vni::new(n.vni);
            let told = vni.and_then(|v| self.told.networks.get(&v));
            let takes_part =
                |p: &&crate::model::Peer| p.networks.as_ref().is_none_or(|list| list.contains(&n.name));
            NetworkRow {
                name: n.name.clone(),
                vni: n.vni,
                gateway: n.gateway.clone(),
                router_mac: told.map(|(_, c)| c.router_mac.to_string()).unwrap_or_default(),
                fdb_max: n.fdb_max,
                fdb_age: n.fdb_age,
                ports: self
                    .config
                    .port
                    .iter()
                    .filter(|p| p.network == n.name)
                    .map(|p| p.name.clone())
                    .collect(),
                peers: self.config.peer.iter().filter(takes_part).map(|p| p.name.clone()).collect(),
                fdb: vni.and_then(|v| found.fdb_by_network.get(&v)).copied(),
                mtu: self.facts.network_mtu(&n.name),
                config: None,
            }
        };
        self.config.network.iter().map(row).collect()
    }

    fn port_rows(&self, found: &Found) -> Vec<PortRow> {
        let none = PortCounters::default();
        let row = |id: PortId, a: &Attachment, role: &str, p: Option<&Port>| {
            let (state, why) = a.state();
            let link = self.links.get(&a.interface);
            let live = matches!(a.phase, Phase::Live(_));
            PortRow {
                ifname: a.name.clone(),
                link: a.interface.clone(),
                ifindex: link.map(|l| l.index),
                address: link.map(|l| l.mac.to_string()),
                door_address: p
                    .filter(|p| p.makes_door())
                    .map(|p| reconcile::door_mac(self.facts.identity, &p.name).to_string()),
                role: role.to_owned(),
                network: p.map(|p| p.network.clone()),
                mtu: self.told.ports.get(&id).map_or(0, |(_, p)| p.mtu),
                operstate: if a.is_live() && link.is_none_or(|l| l.up && l.carrier) { "UP" } else { "DOWN" }
                    .to_owned(),
                state: state.to_owned(),
                why,
                kind: a.means.kind.name().to_owned(),
                mode: if live { a.facts.mode.clone() } else { String::new() },
                reason: if live { a.facts.reason.clone() } else { String::new() },
                queues: if live { a.facts.queues } else { 0 },
                quarantine: p.is_some_and(|p| p.quarantine),
                mirror: p.and_then(|p| p.mirror.clone()),
                mirrors: self.config.mirrored_to(&a.name).map(|p| p.name.clone()).collect(),
                ingress: p.map_or(RateRow::default(), |p| RateRow {
                    bps: p.ingress_bps,
                    pps: p.ingress_pps,
                    burst: p.ingress_burst,
                }),
                egress: p.map_or(RateRow::default(), |p| RateRow {
                    bps: p.egress_bps,
                    pps: p.egress_pps,
                    burst: p.egress_burst,
                }),
                guest: a.guest_io,
                chosen: p.map_or_else(|| "set by `kind` in [uplink]".to_owned(), chosen),
                up: link.map(|l| l.up),
                carrier: link.map(|l| l.carrier),
                link_mtu: link.map(|l| l.mtu),
                recovers: a.err_disabled.and_then(|e| e.until).map(|until| until.since(self.now).as_secs()),
                stats64: stats64(found.ports.get(&id).unwrap_or(&none)),
                drops: BTreeMap::new(),
                config: None,
            }
        };
        let uplink = self.attachments.get(&UPLINK_PORT).map(|a| row(UPLINK_PORT, a, "uplink", None));
        let ports = self.config.port.iter().filter_map(|p| {
            let id = self.ids.port(&p.name)?;
            let role = match p.role {
                PortRole::Door => "door",
                PortRole::Guest => "guest",
            };
            Some(row(id, self.attachments.get(&id)?, role, Some(p)))
        });
        uplink.into_iter().chain(ports).collect()
    }

    fn peer_rows(&self, found: &Found) -> Vec<PeerRow> {
        let all = || self.config.network.iter().map(|n| n.name.clone()).collect();
        let rows = self.config.peer.iter().filter_map(|p| {
            let id = self.ids.peer(&p.name)?;
            let seen = found.peers.get(&id);
            let (told, machine) = (self.peer_told(p), self.peers.get(id));
            let seconds = |at| self.now.since(at).as_secs();
            Some(PeerRow {
                name: p.name.clone(),
                address: p.address,
                via: p.via.clone(),
                relay: p.relay,
                networks: p.networks.clone().unwrap_or_else(all),
                mtu: self.told.peers.get(&id).map_or(0, |(_, c)| c.mtu),
                mtu_origin: self.mtu_origin(p).to_owned(),
                state: told.state,
                why: told.why,
                since: machine.map(|m| seconds(m.since())),
                answered: machine.and_then(Liveness::answered).map(seconds),
                heard: machine.and_then(Liveness::heard).map(seconds),
                refuses: self.refused_names(id),
                resolved: seen.is_some_and(|r| r.next_mac.is_some()),
                no_route: seen.is_some_and(|r| r.no_route),
                lladdr: seen.and_then(|r| r.next_mac).map(|m| m.to_string()),
                tx: seen.map_or(0, |r| r.tx.frames),
                tx_bytes: seen.map_or(0, |r| r.tx.bytes),
                rx: seen.map_or(0, |r| r.rx.frames),
                rx_bytes: seen.map_or(0, |r| r.rx.bytes),
                config: None,
            })
        });
        rows.collect()
    }

    fn floating_rows(&self, found: &Found, which: &api::WhichFloating) -> Vec<FloatingRow> {
        let rows = self.config.floating.iter().filter(|f| is_floating(f, which)).map(|f| {
            let seen = self.ids.floating(&f.key()).and_then(|id| found.floatings.get(&id));
            let location = seen.and_then(|r| r.location).map(|l| self.place(l));
            FloatingRow {
                ip: f.ip,
                network: f.network.clone(),
                gateway: f.gateway.clone(),
                here: f.gateway == self.facts.name,
                reality: f.reality,
                inside: f.inside.clone(),
                only: f.only.clone(),
                except: f.except_effective(),
                resolved: seen.is_some_and(|r| r.next_mac.is_some() && r.location.is_some()),
                lladdr: seen.and_then(|r| r.next_mac).map(|m| m.to_string()),
                location: location.map(|(port, peer)| peer.unwrap_or(port)),
                packets_in: seen.map_or(0, |r| r.inbound.frames),
                bytes_in: seen.map_or(0, |r| r.inbound.bytes),
                packets_out: seen.map_or(0, |r| r.outbound.frames),
                bytes_out: seen.map_or(0, |r| r.outbound.bytes),
                config: None,
            }
        });
        rows.collect()
    }

    /// The name of the port that an address is behind, and the name of the peer if it is behind one.
    pub(super) fn place(&self, location: Location) -> (String, Option<String>) {
        match location {
            Location::Port(id) => {
                (self.told.ports.get(&id).map_or_else(|| format!("port-{}", id.0), |(n, _)| n.clone()), None)
            }
            Location::Peer(id) => {
                let peer =
                    self.told.peers.get(&id).map_or_else(|| format!("peer-{}", id.0), |(n, _)| n.clone());
                ("uplink".to_owned(), Some(peer))
            }
        }
    }

    pub(super) fn network_name(&self, vni: Vni) -> String {
        self.told.networks.get(&vni).map_or_else(|| format!("vni-{vni}"), |(n, _)| n.clone())
    }

    fn fdb_row(&self, r: &FdbRow) -> api::FdbRow {
        let (ifname, peer) = self.place(r.location);
        let dst = match r.location {
            Location::Peer(id) => self.told.peers.get(&id).map(|(_, c)| c.address),
            Location::Port(_) => None,
        };
        api::FdbRow {
            mac: r.mac.to_string(),
            ifname,
            vlan: (r.vid != 0).then_some(r.vid),
            dst,
            vni: r.vni.get(),
            network: self.network_name(r.vni),
            peer,
            flags: Vec::new(),
            state: if r.is_static { "static".to_owned() } else { String::new() },
            used: r.idle.as_secs(),
        }
    }

    /// The second half of `fdb.del` for a learned entry, when the workers have said whether it exists.
    fn fdb_delete(&mut self, filter: &FdbFilter, if_exists: bool, found: &Found) -> Result<Value, Error> {
        let row = found.fdb.values().find(|r| filter.matches(r)).copied();
        let Some(row) = row else {
            if if_exists {
                return Ok(json!(Edited::default()));
            }
            let what = format!("fdb {} is not deleted", filter.mac.unwrap_or_default());
            return Err(Error::new(
                Code::NotFound,
                what,
                "there is no such entry",
                "`ivctl fdb list` shows them",
            ));
        };
        self.command(Command::RemoveFdb(row.vni, row.vid, row.mac));
        Ok(json!(Edited { changed: true, warnings: Vec::new() }))
    }

    fn drop_rows(&self, found: &Found, port: Option<PortId>) -> Vec<DropRow> {
        let mut rows = Vec::new();
        for (&id, counters) in found.ports.iter().filter(|(id, _)| port.is_none_or(|p| p == **id)) {
            for (&reason, &count) in
                DropReason::ALL.iter().zip(&counters.drops).filter(|(_, count)| **count > 0)
            {
                let sample = found.samples.iter().find(|s| s.port == id && s.reason == reason);
                rows.push(DropRow {
                    port: self.place(Location::Port(id)).0,
                    reason: reason.name().to_owned(),
                    count,
                    help: reason.help().trim().to_owned(),
                    sample: sample.map(|s| SampleRow { len: s.len, bytes: hex(&s.bytes) }),
                });
            }
            let kernel = self.attachments.get(&id).map(|a| a.kernel_drops).unwrap_or_default();
            for (count, reason, help) in kernel.rows().into_iter().filter(|row| row.0 > 0) {
                let (port, reason, help) =
                    (self.place(Location::Port(id)).0, reason.to_owned(), help.to_owned());
                rows.push(DropRow { port, reason, count, help, sample: None });
            }
        }
        rows
    }
}

/// Why a port uses its driver.
fn chosen(p: &Port) -> String {
    match p.kind {
        PortKind::Auto if p.means() == IoKind::Packet => {
            "chosen by `kind = \"auto\"`: a door that the daemon creates"
        }
        PortKind::Auto if p.makes_door() => "chosen by `kind = \"auto\"`: `xdp` is given",
        PortKind::Auto => "chosen by `kind = \"auto\"`: an existing interface",
        _ => "set by `kind`",
    }
    .to_owned()
}

impl FdbFilter {
    fn matches(&self, r: &FdbRow) -> bool {
        self.vni.is_none_or(|v| v == r.vni)
            && self.location.is_none_or(|l| l == r.location)
            && self.mac.is_none_or(|m| m == r.mac)
            && self.vid.is_none_or(|v| v == r.vid)
    }
}

fn stats64(c: &PortCounters) -> Stats64 {
    Stats64 {
        rx: Stats {
            bytes: c.rx_bytes,
            packets: c.rx_frames,
            errors: 0,
            dropped: c.dropped() - tx_dropped(c),
        },
        tx: Stats { bytes: c.tx_bytes, packets: c.tx_frames, errors: 0, dropped: tx_dropped(c) },
    }
}

/// The drops that the output itself caused.
fn tx_dropped(c: &PortCounters) -> u64 {
    let of_output = |(reason, count): (&DropReason, &u64)| if reason.is_of_output() { *count } else { 0 };
    DropReason::ALL.iter().zip(&c.drops).map(of_output).sum()
}

fn neighbor_state(known: bool, idle_s: u64) -> &'static str {
    match known {
        false => "INCOMPLETE",
        true if idle_s < limits::NEIGHBOR_AGE.as_secs() => "REACHABLE",
        true => "STALE",
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

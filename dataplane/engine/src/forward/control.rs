//! The control side of the switch: commands, queries, time, and draining of the transmit queues.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::act;
use super::cache::{FlowBook, FlowCache};
use super::learn::station_moved;
use super::{Switch, TICK};
use crate::command::{
    Answer, Command, Event, FloatingId, Gateway, NextHop, PeerId, PeerRow, PortId, Query, Vni,
};
use crate::counters::{DropReason, PortCounters, SwitchCounters};
use crate::frame::{Frame, FramePool};
use crate::limits::{AGE_SLICE_MAX, ANNOUNCEMENTS, REFRESH_INTERVAL, RESOLVE_INTERVAL};
use crate::own::OwnFlows;
use crate::port::PortCaps;
use crate::table::floating_ip::Domain;
use crate::table::underlay::Hop;
use crate::time::Instant;
use crate::wire::ip::Ip;

impl Switch {
    /// Applies a command.
    pub fn apply<P: FramePool>(&mut self, now: Instant, command: Command, pool: &mut P) {
        self.share_command(&command);
        if let Command::RemovePort(_)
        | Command::RemovePeer(_)
        | Command::SetFloating(..)
        | Command::RemoveFloating(_) = command
        {
            // The hits so far belong to the configuration so far.
            self.fold_flows(now);
        }
        let revises = matches!(command, Command::SetPort(..) | Command::SetNetwork(_));
        let t = &mut self.pipeline.tables;
        t.changed();
        match command {
            Command::SetUplink(config) => {
                if let Some(old) = &t.uplink {
                    Arc::make_mut(&mut t.guard).remove(old.vtep.into());
                }
                Arc::make_mut(&mut t.guard).add(config.vtep.into());
                Arc::make_mut(&mut t.guard).set_prefixes(&config.guard);
                t.uplink = Some(config);
                self.compose_peers();
                self.resolve_soon(now);
            }
            Command::SetNetwork(config) => {
                let (vni, max, age) = (config.vni, config.fdb_max, config.fdb_age);
                if Arc::make_mut(&mut t.networks).set(config) {
                    t.fdb.set_network(vni, max, age);
                    self.compose_flood(Some(vni));
                }
            }
            Command::RemoveNetwork(vni) => {
                Arc::make_mut(&mut t.networks).remove(vni);
                t.fdb.remove_network(vni);
                self.compose_flood(None);
                self.locate_stations();
            }
            Command::SetPort(id, mut config) => {
                let policy = &mut config.policy;
                if policy.tap {
                    config.vni = None;
                }
                policy.mirror = policy.mirror.filter(|&to| to != id && !policy.tap);
                let before = t.ports.get(id).map(|p| (p.config.vni, p.config.live));
                let (vni, live) = (config.vni, config.live);
                if before.is_some_and(|(v, _)| v != vni) {
                    t.fdb.flush(None, Some(crate::command::Location::Port(id)), true);
                }
                t.ports.set(now, id, config);
                self.pipeline.compose_gates();
                self.compose_flood(vni);
                if let Some((old, _)) = before.filter(|(v, _)| *v != vni) {
                    self.compose_flood(old);
                }
                if live && before.is_none_or(|(_, was)| !was) {
                    self.ask_again(now);
                }
            }
            Command::RemovePort(id) => {
                let Some(port) = t.ports.remove(id) else { return };
                t.fdb.flush(None, Some(crate::command::Location::Port(id)), true);
                self.pipeline.end_merges(id);
                self.pipeline.compose_gates();
                for frame in port.queue {
                    self.pipeline.counters.queued -= 1;
                    self.pipeline.counters.dropped += 1;
                    pool.free(frame);
                }
                self.compose_flood(port.config.vni);
                self.locate_stations();
            }
            Command::SetPeer(id, config) => {
                self.unguard_peer(id);
                let address = config.address.into();
                if self.pipeline.tables.peers.set(id, config) {
                    Arc::make_mut(&mut self.pipeline.tables.guard).add(address);
                }
                self.compose_peers();
                self.compose_flood(None);
                self.resolve_soon(now);
            }
            Command::RemovePeer(id) => {
                self.unguard_peer(id);
                let t = &mut self.pipeline.tables;
                t.peers.remove(id);
                t.fdb.flush(None, Some(crate::command::Location::Peer(id)), true);
                self.compose_peers();
                self.compose_flood(None);
                self.locate_stations();
            }
            Command::SetFloating(id, config) => {
                self.unguard_reality(id);
                let t = &mut self.pipeline.tables;
                if let Gateway::Here { reality } = config.gateway {
                    Arc::make_mut(&mut t.guard).add(reality.into());
                }
                // Gateways learn immediately that the floating IP is here now, not only when they next ask.
                if config.inside.is_some() {
                    self.chores.announcing.push((config.vni, config.ip.into(), ANNOUNCEMENTS));
                    self.chores.next_announce = now;
                }
                let (released, wanted) = t.floating.set(id, config);
                for &(vni, ip) in &wanted {
                    t.neighbors.want(vni, ip);
                }
                for (vni, ip) in released {
                    t.neighbors.unwant(vni, ip);
                }
                for (vni, ip) in wanted {
                    self.locate_station(vni, ip);
                }
                self.chores.next_tick = now;
            }
            Command::RemoveFloating(id) => {
                self.unguard_reality(id);
                let t = &mut self.pipeline.tables;
                for (vni, ip) in t.floating.remove(id) {
                    t.neighbors.unwant(vni, ip);
                }
            }
            Command::SetSourceRoute(route) => {
                self.remove_route(route.vni, route.from);
                if let NextHop::Address(ip) = route.via {
                    self.pipeline.tables.neighbors.want(route.vni, ip.into());
                }
                Arc::make_mut(&mut self.pipeline.tables.routes).set(route.vni, route.from, route.via);
                self.chores.next_tick = now;
            }
            Command::RemoveSourceRoute(vni, from) => self.remove_route(vni, from),
            Command::SetUnderlayRoutes(routes) => {
                Arc::make_mut(&mut t.underlay).set_routes(&routes);
                self.compose_peers();
                self.resolve_soon(now);
            }
            Command::SetUnderlayNeighbor(ip, mac) => {
                if Arc::make_mut(&mut t.underlay).set_neighbor(ip.into(), mac) {
                    self.compose_peers();
                    self.ask_again(now);
                }
                self.pipeline.answers.silent_hops.answered(ip.into());
            }
            Command::RemoveUnderlayNeighbor(ip) => {
                Arc::make_mut(&mut t.underlay).remove_neighbor(ip.into());
                self.compose_peers();
                self.resolve_soon(now);
            }
            Command::AddFdb(vni, vid, mac, location) => {
                if t.fdb.add_static(now, vni, vid, mac, location) {
                    station_moved(t, vni, mac, Some(location));
                }
            }
            Command::RemoveFdb(vni, vid, mac) => {
                if t.fdb.remove(vni, vid, mac) {
                    station_moved(t, vni, mac, None);
                }
            }
            Command::ProbePath(id, size, nonce) => self.ask_path(id, size, nonce, pool),
            Command::AskPeer(id, vni, nonce) => self.ask_peer(id, vni, nonce, pool),
            Command::FlushFdb(vni, location) => {
                t.fdb.flush(vni, location, false);
                self.locate_stations();
            }
            Command::FlushNeighbors(vni) => {
                for (vni, ip) in t.neighbors.flush(vni) {
                    t.floating.resolve(vni, ip, None, None);
                }
                t.changed();
                self.ask_again(now);
            }
            Command::Watch(id, spec) => self.watches.add(id, spec),
            Command::Unwatch(id) => self.watches.remove(id),
        }
        if revises {
            self.revise_link_locals();
        }
    }

    fn remove_route(&mut self, vni: Vni, from: crate::command::IpPrefix) {
        let before: Vec<_> = self.pipeline.tables.routes.next_hops().collect();
        Arc::make_mut(&mut self.pipeline.tables.routes).remove(vni, from);
        let after: Vec<_> = self.pipeline.tables.routes.next_hops().collect();
        if before.len() == after.len() {
            return;
        }
        for (v, via) in before {
            if let NextHop::Address(ip) = via
                && v == vni
                && !after.contains(&(v, via))
            {
                self.pipeline.tables.neighbors.unwant(v, ip.into());
            }
        }
    }

    /// Composes the peers' outer headers, which depend on the uplink and on the underlay's next hops.
    fn compose_peers(&mut self) {
        let t = &mut self.pipeline.tables;
        t.peers.compose(t.uplink.as_ref(), &t.underlay);
    }

    fn unguard_peer(&mut self, id: PeerId) {
        if let Some(peer) = self.pipeline.tables.peers.get(id) {
            Arc::make_mut(&mut self.pipeline.tables.guard).remove(peer.config.address.into());
        }
    }

    fn unguard_reality(&mut self, id: FloatingId) {
        if let Some(Gateway::Here { reality }) = self.pipeline.tables.floating.gateway(id) {
            Arc::make_mut(&mut self.pipeline.tables.guard).remove(reality.into());
        }
    }

    /// Composes the flood sets of one network, or of all, and the network of each port.
    fn compose_flood(&mut self, only: Option<Vni>) {
        let t = &mut self.pipeline.tables;
        for port in t.ports.iter_mut() {
            port.net = port.config.vni.and_then(|vni| t.networks.id(vni));
        }
        for network in Arc::make_mut(&mut t.networks).iter_mut() {
            let vni = network.config.vni;
            if only.is_some_and(|v| v != vni) {
                continue;
            }
            let ports = t.ports.iter().filter(|(_, p)| p.live_member() == Some(vni)).map(|(id, _)| id);
            let takes_part = |c: &crate::command::PeerConfig| c.via.is_none() && c.vnis.contains(&vni);
            let peers =
                t.peers.iter().filter(|(_, p)| takes_part(&p.config)).map(|(id, p)| (id, p.config.spoke));
            network.set_flood(ports.collect(), peers.collect());
        }
    }

    /// Looks up again where the stations are that floating IPs send to.
    fn locate_stations(&mut self) {
        for (vni, ip) in self.pipeline.tables.floating.stations() {
            self.locate_station(vni, ip);
        }
    }

    fn locate_station(&mut self, vni: Vni, ip: Ip) {
        let t = &mut self.pipeline.tables;
        let mac = t.neighbors.mac(vni, ip);
        let location = mac.and_then(|mac| t.fdb.get(vni, 0, mac));
        t.floating.resolve(vni, ip, mac, location);
    }

    /// Ages the tables and asks for missing addresses. Cheap to call too often.
    pub fn tick<P: FramePool>(&mut self, now: Instant, pool: &mut P) {
        self.now = now;
        if now < self.chores.next_tick {
            return;
        }
        self.chores.next_tick = now + TICK;
        self.pipeline.reports.sampled.fill(false);
        self.pipeline.reports.learned_told = 0;
        (self.pipeline.reports.path_told, self.pipeline.reports.peers_told) = (0, 0);
        let slots = (self.pipeline.tables.fdb.slots() / 32).clamp(256, AGE_SLICE_MAX);
        let mut gone = Vec::new();
        self.pipeline.tables.fdb.age(now, slots, |vni, vid, mac| {
            if vid == 0 {
                gone.push((vni, mac));
            }
        });
        for (vni, mac) in gone {
            station_moved(&mut self.pipeline.tables, vni, mac, None);
        }
        if self.pipeline.tables.ports.any_claims() {
            self.pipeline.tables.ports.iter_mut().for_each(|port| port.link_locals.settle(now));
        }
        self.announce(now, pool);
        self.pipeline.tables.fragments.set_time(now);
        self.pipeline.answers.silent_hops.age(now);
        let (due, lost) = self.pipeline.tables.neighbors.due(now);
        if !lost.is_empty() {
            self.pipeline.tables.changed();
        }
        for (vni, ip) in lost {
            self.pipeline.tables.floating.resolve(vni, ip, None, None);
        }
        if self.is_speaker() {
            for (vni, ip) in due {
                self.pipeline.ask(vni, ip, pool);
            }
            self.resolve_underlay(now);
        }
        self.share_sightings(now, TICK);
        if let Some(flows) = &mut self.flows.book {
            flows.tick(now, &mut self.pipeline.tables, &mut self.pipeline.counters);
        }
    }

    /// Repeats lost ARP and ND questions immediately, since a path to some station may have opened.
    fn ask_again(&mut self, now: Instant) {
        self.pipeline.tables.neighbors.ask_again();
        self.chores.next_tick = now;
    }

    /// Makes the next tick due now, and makes it ask for missing underlay next hops.
    fn resolve_soon(&mut self, now: Instant) {
        (self.chores.next_resolve, self.chores.next_tick) = (now, now);
    }

    /// Announces the floating IPs that moved here. Sends each announcement several times, since it is not
    /// acknowledged.
    fn announce<P: FramePool>(&mut self, now: Instant, pool: &mut P) {
        if !self.is_speaker() {
            self.chores.announcing.clear();
        }
        if self.chores.announcing.is_empty() || now < self.chores.next_announce {
            return;
        }
        self.chores.next_announce = now + RESOLVE_INTERVAL;
        let mut announcing = core::mem::take(&mut self.chores.announcing);
        announcing.retain_mut(|(vni, ip, left)| {
            let here = self.pipeline.tables.floating.is_mapped(Domain::To(*vni), *ip);
            if here {
                self.pipeline.send_question(*vni, Some(*ip), *ip, pool);
            }
            *left -= 1;
            here && *left > 0
        });
        self.chores.announcing = announcing;
    }

    /// Asks the kernel for next hops: often for missing ones, and now and then for every one, since the
    /// kernel does not see the switch's traffic and would forget them.
    fn resolve_underlay(&mut self, now: Instant) {
        let refresh = now >= self.chores.next_refresh;
        if now < self.chores.next_resolve && !refresh {
            return;
        }
        self.chores.next_resolve = now + RESOLVE_INTERVAL;
        if refresh {
            self.chores.next_refresh = now + REFRESH_INTERVAL;
        }
        let t = &self.pipeline.tables;
        let peers =
            t.peers.iter().filter(|(_, p)| p.config.via.is_none()).map(|(_, p)| Ip::from(p.config.address));
        let mut wanted: Vec<Ip> = peers
            .filter_map(|ip| t.underlay.next_address(ip))
            .chain(t.underlay.gateways())
            .filter(|&next| refresh || !t.underlay.is_known(next))
            .collect();
        wanted.extend(self.pipeline.answers.silent_hops.unreachable(now));
        wanted.sort_unstable();
        wanted.dedup();
        self.pipeline.reports.events.extend(wanted.into_iter().map(|ip| Event::Resolve(ip.into())));
    }

    /// The time at which [`Switch::tick`] is due.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.chores.next_tick
    }

    /// Attaches the kernel offload, which repeats the verdicts of hot flows.
    pub fn attach_cache(&mut self, cache: Box<dyn FlowCache + Send>) {
        self.flows.book = Some(FlowBook::new(cache));
    }

    /// Attaches the source of information about the connections of the rVM's own kernel.
    pub fn attach_own(&mut self, own: Arc<dyn OwnFlows>) {
        self.pipeline.tables.own = Some(own);
    }

    /// Revokes offloaded verdicts that no longer hold. Call it before the switch answers or sends anything
    /// that follows from a change.
    #[inline]
    pub fn publish(&mut self) {
        if let Some(flows) = &mut self.flows.book {
            flows.set_watched(!self.watches.is_empty());
            flows.publish(&self.pipeline.tables);
        }
    }

    /// Brings the counters up to date with the kernel offload.
    pub fn fold_flows(&mut self, now: Instant) {
        if let Some(flows) = &mut self.flows.book {
            flows.fold(now, &mut self.pipeline.tables, &mut self.pipeline.counters);
        }
    }

    /// Answers a query.
    #[must_use]
    pub fn answer_query<P: FramePool>(&mut self, now: Instant, query: &Query, pool: &mut P) -> Answer {
        let t = &self.pipeline.tables;
        match *query {
            Query::Seen(id, frames, bytes) => {
                let (seen, lost) = self.watches.take(id, frames, bytes);
                Answer::Seen(seen, lost)
            }
            Query::Trace(port, ref bytes) => Answer::Trace(self.trace(now, port, bytes, pool)),
            Query::Counters => Answer::Counters {
                switch: Box::new(self.pipeline.counters),
                ports: t.ports.iter().map(|(id, p)| (id, p.counters.clone())).collect(),
                pool: pool.usage(),
                fdb_entries: t.fdb.len(),
                fdb_by_network: t.fdb.by_network(),
            },
            Query::Fdb(cursor) => {
                let (rows, next) = t.fdb.page(now, cursor);
                Answer::Fdb(rows, next)
            }
            Query::Neighbors(cursor) => {
                let (rows, next) = t.neighbors.page(now, cursor);
                Answer::Neighbors(rows, next)
            }
            Query::Floating => Answer::Floating(t.floating.rows()),
            Query::Peers => {
                let row = |(id, p): (_, &crate::table::peer::PeerEntry)| {
                    let next = p.direct.and_then(|d| t.peers.get(d)).map(|d| d.next);
                    let no_route = next == Some(Hop::NoRoute);
                    PeerRow { id, next_mac: next.and_then(Hop::mac), no_route, tx: p.tx, rx: p.rx }
                };
                Answer::Peers(t.peers.iter().map(row).collect())
            }
            Query::DropSamples => {
                Answer::DropSamples(self.pipeline.reports.samples.iter().flatten().cloned().collect())
            }
        }
    }

    /// Counters of the whole switch.
    #[must_use]
    pub const fn counters(&self) -> SwitchCounters {
        self.pipeline.counters
    }

    /// Counters of one port.
    #[must_use]
    pub fn port_counters(&self, id: PortId) -> Option<&PortCounters> {
        self.pipeline.tables.ports.get(id).map(|p| &p.counters)
    }

    /// Number of frames that were forwarded from the flow cache.
    #[must_use]
    pub const fn remembered(&self) -> u64 {
        self.flows.remembered
    }

    /// Invalidates every cached verdict, so that the next frame of each flow is classified again.
    pub fn forget(&mut self) {
        self.pipeline.tables.changed();
    }

    /// Read access to the tables.
    #[must_use]
    pub const fn tables(&self) -> &super::Tables {
        &self.pipeline.tables
    }

    /// Sets which unfinished frames the I/O of a port accepts.
    pub fn set_caps(&mut self, id: PortId, caps: PortCaps) {
        self.pipeline.tables.changed();
        if let Some(port) = self.pipeline.tables.ports.get_mut(id) {
            port.caps = caps;
        }
    }

    /// Drains the events that wait to be reported.
    pub fn take_events(&mut self) -> alloc::vec::Drain<'_, Event> {
        self.pipeline.reports.events.drain(..)
    }

    /// Upper bound of the port numbers in use, exclusive.
    #[must_use]
    pub fn port_bound(&self) -> u16 {
        self.pipeline.tables.ports.bound()
    }

    /// Lets `send` take frames from the front of a port's queue. Counts these as sent; frees and counts the
    /// rest.
    pub fn flush<P: FramePool>(
        &mut self,
        id: PortId,
        pool: &mut P,
        send: impl FnOnce(&mut P, &mut Vec<Frame>) -> Result<(), DropReason>,
    ) {
        let Some(port) = self.pipeline.tables.ports.get_mut(id).filter(|p| !p.queue.is_empty()) else {
            return;
        };
        let mut queue = core::mem::take(&mut port.queue);
        self.pipeline.end_merges(id);
        let leaving = if self.watches.is_empty() { None } else { self.leaving(id, &queue, pool) };
        let before = tally(&queue);
        let result = send(pool, &mut queue);
        let after = tally(&queue);
        let sent = before.0 - after.0;
        let reason = result.err().unwrap_or(DropReason::TxQueueFull);
        if let Some(leaving) = leaving {
            self.show_leaving(self.now, id, leaving, sent as usize, reason);
        }
        if let Some(frame) = queue.first().filter(|_| !self.pipeline.reports.sampled[reason as usize]) {
            self.pipeline.sample(id, frame, reason, pool);
        }
        let Some(port) = self.pipeline.tables.ports.get_mut(id) else { return };
        port.counters.tx_frames += sent;
        port.counters.tx_bytes += before.1 - after.1;
        port.counters.drops[reason as usize] += after.0;
        self.pipeline.counters.tx += sent;
        self.pipeline.counters.queued -= before.0;
        self.pipeline.counters.dropped += after.0;
        for frame in queue.drain(..) {
            pool.free(frame);
        }
        if let Some(port) = self.pipeline.tables.ports.get_mut(id) {
            port.queue = queue;
        }
    }

    /// Like [`Switch::flush`], for a port that another worker owns. That worker sends and counts the frames
    /// that `send` takes.
    pub fn hand_off<P: FramePool>(
        &mut self,
        id: PortId,
        pool: &mut P,
        send: impl FnOnce(&mut P, &mut Vec<Frame>),
    ) {
        self.pipeline.end_merges(id);
        let Some(port) = self.pipeline.tables.ports.get_mut(id).filter(|p| !p.queue.is_empty()) else {
            return;
        };
        let mut queue = core::mem::take(&mut port.queue);
        let before = queue.len() as u64;
        send(pool, &mut queue);
        let left = queue.len() as u64;
        port.counters.drops[DropReason::TxQueueFull as usize] += left;
        self.pipeline.counters.queued -= before;
        self.pipeline.counters.handed_off += before - left;
        self.pipeline.counters.dropped += left;
        for frame in queue.drain(..) {
            pool.free(frame);
        }
        if let Some(port) = self.pipeline.tables.ports.get_mut(id) {
            port.queue = queue;
        }
    }

    /// Takes a finished frame from another worker, for a port that this worker owns. `None` means that no
    /// slot was free for it.
    pub fn take_over<P: FramePool>(&mut self, id: PortId, frame: Option<Frame>, pool: &mut P) {
        self.pipeline.counters.taken_over += 1;
        // The other worker sent the frame before it learned that the port was closed.
        let closed =
            self.pipeline.tables.ports.get(id).filter(|p| !p.config.live).map(|p| p.why_no_way_out());
        match (frame, closed) {
            (Some(frame), None) => self.pipeline.enqueue(id, frame, pool),
            (Some(frame), Some(reason)) => self.pipeline.drop_frame(id, frame, reason, pool),
            (None, _) => self.pipeline.count_drop(id, DropReason::PoolExhausted),
        }
    }

    /// Like [`Switch::flush`], for punted frames.
    pub fn flush_punted<P: FramePool>(&mut self, pool: &mut P, send: impl FnOnce(&mut P, &mut Vec<Frame>)) {
        if self.pipeline.output.punted.is_empty() {
            return;
        }
        let before = self.pipeline.output.punted.len() as u64;
        send(pool, &mut self.pipeline.output.punted);
        let left = self.pipeline.output.punted.len() as u64;
        self.pipeline.counters.queued -= before;
        self.pipeline.counters.punted += before - left;
        self.pipeline.counters.dropped += left;
        let uplink = self.pipeline.tables.uplink.as_ref().map(|u| u.port);
        if let Some(port) = uplink.and_then(|id| self.pipeline.tables.ports.get_mut(id)) {
            port.counters.drops[DropReason::NeighborUnresolved as usize] += left;
        }
        for frame in self.pipeline.output.punted.drain(..) {
            pool.free(frame);
        }
    }
}

fn tally(frames: &[Frame]) -> (u64, u64) {
    (frames.len() as u64, frames.iter().map(|f| u64::from(f.len)).sum())
}

const _: () = assert!(act::QUESTION_MAX < crate::limits::SLOT_SMALL_LEN - crate::limits::HEADROOM);

//! Opens ports, hands their parts to the workers, watches over them, and closes them.

use super::*;

impl Control {
    /// Opens the port that has waited longest, unless others have their turn.
    pub(super) fn open_next(&mut self) {
        if clock::now() < self.open_until
            && let Some((id, spec)) = self.to_open.pop_front()
        {
            let mut out = Vec::new();
            self.open(id, spec, &mut out);
            self.inbox.extend(out);
        }
    }

    /// Tells the agent of ports that were taken up from the process before, once none is still to be opened.
    pub(super) fn release_resumed(&mut self) {
        if self.to_open.is_empty() && !self.resumed.is_empty() {
            self.inbox.extend(self.resumed.drain(..));
            self.settle();
        }
    }

    pub(super) fn open(&mut self, id: PortId, spec: OpenPort, out: &mut Vec<Input>) {
        if spec.ours && self.unfinished.contains(&id) {
            return;
        }
        if spec.kind == IoKind::Udp {
            // The port's socket needs the UDP port that we only held.
            self.hold = None;
        }
        if spec.kind == IoKind::Packet
            && let Err(error) = links::keep_unmerged(&spec.interface)
        {
            tracing::warn!("{}: cannot switch LRO off ({error}); what it merges is dropped", spec.interface);
        }
        let promiscuous = match Promiscuous::of(&spec) {
            Ok(promiscuous) => promiscuous,
            Err(error) => return out.push(Input::PortFailed(id, error)),
        };
        let mac = self.links.by_name(&spec.interface).map(|link| link.mac).unwrap_or_default();
        let count = self.workers.len();
        let opened = ports::open(&spec, mac, &self.umem, id, count, self.cache.maps(), &mut self.kept);
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => return out.push(Input::PortFailed(id, error)),
        };
        let of = opened.facts.queues;
        let part = |part: ports::OpenedPart| Part {
            fds: part.fds,
            pending: part.pending,
            share: Share { queues: part.queues, of },
            port: part.port,
        };
        if let Some(cached) = &opened.cached {
            self.cache.open_port(id, cached, &spec.interface);
        }
        self.attach(id, opened.parts.into_iter().map(|(worker, opened)| (worker, part(opened))).collect());
        let mut control = opened.control;
        let shared = spec.shared;
        if let Some(fd) = control.fd() {
            let token = Token(PORTS + usize::from(id.0));
            if let Err(error) = self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE) {
                self.workers.iter().for_each(|worker| worker.detach(id));
                return out.push(Input::PortFailed(id, format!("port {:?}: epoll: {error}", spec.interface)));
            }
            // Such a port reports by itself when it becomes more than ready.
            if control.turn(id, out) {
                self.ports_wait.insert(id);
            }
        } else {
            tracing::info!("{}: {}, {}", spec.interface, spec.kind.name(), opened.facts.mode);
            let opened = Input::PortOpened(id, opened.facts);
            if self.resuming {
                // After all other inputs, together: the frames that waited in its rings are for those ports too.
                self.resumed.push(opened);
            } else {
                // Before other interfaces' inputs: this port forwards while the next one is being opened.
                self.inbox.push_front(opened);
            }
        }
        let (drops, guest_io) = (KernelDrops::default(), None);
        let port = OpenedPort { control, drops, guest_io, moved: false, _promiscuous: promiscuous, spec };
        self.ports.insert(id, port);
        if shared && let Err(why) = self.apply_plan() {
            self.close_port(id);
            out.push(Input::PortFailed(id, why));
        }
    }

    /// Gives the workers their parts of a port. Workers without a part send through a worker that has one.
    pub(super) fn attach(&self, id: PortId, parts: Vec<(usize, Part<UmemPool>)>) {
        let Some((_, first)) = parts.first() else { return };
        let caps = first.port.caps();
        let owners: Vec<usize> = parts.iter().map(|(worker, _)| *worker).collect();
        for (worker, part) in parts {
            self.workers[worker].attach(id, part);
        }
        for (n, worker) in self.workers.iter().enumerate().filter(|(n, _)| !owners.contains(n)) {
            worker.attach_at(id, owners[n % owners.len()], caps);
        }
    }

    pub(super) fn close_port(&mut self, id: PortId) {
        self.to_open.retain(|(waits, _)| *waits != id);
        if let Some(port) = self.ports.remove(&id) {
            self.cache.close_port(id);
            if let Some(fd) = port.control.fd() {
                // The descriptor is closed next, and is registered only here.
                let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
            }
            // The program first: from here on the kernel has the traffic, and no more frames arrive.
            drop(port.control);
            // Then the sockets; the slots lent to them are back when this returns.
            self.workers.iter().for_each(|worker| worker.detach(id));
            // A thousand of them take longer than the service manager's patience.
            self.alive();
        }
    }

    /// Closes ports that stopped working by themselves. (The kernel reports when an interface is gone.)
    pub(super) fn look_after_ports(&mut self) {
        let (before, after) = (self.ports.range(..self.looked_at), self.ports.range(self.looked_at..));
        let turn: Vec<_> = after.chain(before).take(LOOKED_AT_MAX).collect();
        let dead: Vec<PortId> =
            turn.iter().filter(|(_, port)| port.control.is_dead()).map(|(id, _)| **id).collect();
        self.looked_at = turn.last().map_or(PortId(0), |(id, _)| PortId(id.0 + 1));
        for id in dead {
            let interface = self.ports[&id].spec.interface.clone();
            if self.ports[&id].moved {
                self.inbox.push_back(Input::LinkGone(interface.clone()));
            }
            self.close_port(id);
            let why = format!(
                "port {interface:?}: the kernel took its sockets or its program away; it is opened again"
            );
            self.inbox.push_back(Input::PortFailed(id, why));
        }
    }
}

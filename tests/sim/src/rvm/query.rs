//! Settings of an rVM, and questions to its workers, outside of the control interface.

use ctl::io::{Input, SteerPlan};
use engine::command::{Answer, Event, FdbRow, FloatingRow, Input as EngineInput, PortId, Query};
use engine::counters::{DropReason, PortCounters, SwitchCounters};
use engine::port::PortCaps;
use engine::time::Instant;

use super::Rvm;

impl Rvm {
    /// Sets the number of queues of the interface from the next open on. The default is one for each worker.
    pub fn set_queues(&mut self, interface: &str, count: usize) {
        if let Some(i) = self.interfaces.get_mut(interface) {
            i.queue_count = Some(count);
        }
    }

    /// Sets the interface's abilities with unfinished frames, before the switch starts.
    pub fn set_caps(&mut self, interface: &str, caps: PortCaps) {
        if let Some(i) = self.interfaces.get_mut(interface) {
            i.caps = caps;
        }
    }

    /// Counters of the switch.
    ///
    /// # Panics
    /// When the switch does not run.
    #[must_use]
    pub fn counters(&self) -> SwitchCounters {
        let life = self.life.as_ref().expect("the switch runs");
        let mut sum = SwitchCounters::default();
        life.workers.iter().for_each(|w| sum += w.worker.counters());
        sum
    }

    /// Counters of one worker.
    ///
    /// # Panics
    /// When the switch does not run.
    #[must_use]
    pub fn worker_counters(&self, worker: usize) -> SwitchCounters {
        self.life.as_ref().expect("the switch runs").workers[worker].worker.counters()
    }

    /// Counters of the port on `interface`.
    ///
    /// # Panics
    /// When no port is open on it.
    #[must_use]
    pub fn port(&self, interface: &str) -> PortCounters {
        let life = self.life.as_ref().expect("the switch runs");
        let id = self.port_id(interface).unwrap_or_else(|| panic!("{}: no port on {interface}", self.name));
        let mut sum: Option<PortCounters> = None;
        for c in life.workers.iter().filter_map(|w| w.worker.port_counters(id)) {
            match &mut sum {
                Some(sum) => *sum += &c,
                None => sum = Some(c),
            }
        }
        sum.unwrap_or_else(|| panic!("{}: no counters of {interface}", self.name))
    }

    /// The switch port on `interface`.
    #[must_use]
    pub fn port_id(&self, interface: &str) -> Option<PortId> {
        self.ports.iter().find(|(_, name)| *name == interface).map(|(id, _)| *id)
    }

    /// Drops of the port on `interface` for `reason`.
    #[must_use]
    pub fn drops(&self, interface: &str, reason: DropReason) -> u64 {
        self.port(interface).drops[reason as usize]
    }

    /// Every drop so far, by port and reason, for messages.
    #[must_use]
    pub fn all_drops(&self) -> Vec<(String, &'static str, u64)> {
        let mut all = Vec::new();
        for name in self.ports.values() {
            let counters = self.port(name);
            for (reason, &n) in DropReason::ALL.iter().zip(&counters.drops) {
                if n != 0 {
                    all.push((name.clone(), reason.name(), n));
                }
            }
        }
        all
    }

    /// The steering plan in force.
    #[must_use]
    pub fn plan(&self) -> Option<&SteerPlan> {
        self.life.as_ref().map(|l| &l.plan)
    }

    /// Asks the first worker.
    ///
    /// # Panics
    /// When the switch does not run or does not answer.
    pub fn query(&mut self, now_ns: u64, query: Query) -> Answer {
        self.query_worker(0, now_ns, query)
    }

    /// Asks one worker.
    ///
    /// # Panics
    /// When the switch does not run or does not answer.
    pub fn query_worker(&mut self, worker: usize, now_ns: u64, query: Query) -> Answer {
        let now = Instant::from_nanos(now_ns);
        let token = self.next_token;
        self.next_token += 1;
        let life = self.life.as_mut().expect("the switch runs");
        let w = &mut life.workers[worker];
        w.mailbox.send(EngineInput::Query(token, query)).expect("room in the mailbox");
        for _ in 0..64 {
            let _ = w.worker.poll(now);
            while let Some(event) = w.mailbox.recv() {
                match event {
                    Event::Reply(t, answer) if t == token => return answer,
                    other => life.agent.handle(now, Input::Event(worker, other)),
                }
            }
        }
        panic!("{}: a query was not answered", self.name);
    }

    /// The whole FDB of the first worker.
    ///
    /// # Panics
    /// When the switch does not run.
    pub fn fdb(&mut self, now_ns: u64) -> Vec<FdbRow> {
        self.worker_fdb(0, now_ns)
    }

    /// The whole FDB of one worker.
    ///
    /// # Panics
    /// When the switch does not run.
    pub fn worker_fdb(&mut self, worker: usize, now_ns: u64) -> Vec<FdbRow> {
        let (mut rows, mut cursor) = (Vec::new(), 0);
        loop {
            let Answer::Fdb(page, next) = self.query_worker(worker, now_ns, Query::Fdb(cursor)) else {
                panic!("an FDB page")
            };
            rows.extend(page);
            match next {
                Some(n) => cursor = n,
                None => return rows,
            }
        }
    }

    /// Floating IPs as the worker has resolved them.
    ///
    /// # Panics
    /// When the switch does not run.
    pub fn floating(&mut self, now_ns: u64) -> Vec<FloatingRow> {
        let mut all: Vec<FloatingRow> = Vec::new();
        for worker in 0..self.worker_count() {
            let Answer::Floating(rows) = self.query_worker(worker, now_ns, Query::Floating) else {
                panic!("floating IPs")
            };
            for row in rows {
                match all.iter_mut().find(|r| r.id == row.id) {
                    Some(r) => {
                        r.inbound += row.inbound;
                        r.outbound += row.outbound;
                    }
                    None => all.push(row),
                }
            }
        }
        all
    }

    /// Number of workers that run.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.life.as_ref().map_or(0, |l| l.workers.len())
    }

    /// Verifies that tables are within their bounds.
    ///
    /// # Errors
    /// Says which table is not.
    ///
    /// # Panics
    /// When the switch does not answer.
    pub fn check_tables(&mut self, now_ns: u64) -> Result<(), String> {
        (0..self.worker_count()).try_for_each(|worker| self.check_tables_of(worker, now_ns))
    }

    fn check_tables_of(&mut self, worker: usize, now_ns: u64) -> Result<(), String> {
        let Answer::Counters { switch, ports, fdb_by_network, fdb_entries, .. } =
            self.query_worker(worker, now_ns, Query::Counters)
        else {
            return Err(format!("{}: not the counters that were asked for", self.name));
        };
        let sum: u32 = fdb_by_network.iter().map(|(_, n)| n).sum();
        if sum != fdb_entries {
            return Err(format!("{}: FDB holds {fdb_entries} entries, its networks {sum}", self.name));
        }
        let config = ctl::model::parse(&self.config).map_err(|e| format!("{}: {e:?}", self.name))?;
        for (vni, n) in fdb_by_network {
            let statics = config.fdb.len() as u32;
            let bound = config.network.iter().find(|c| c.vni == vni.get()).map_or(0, |c| c.fdb_max);
            if n > bound + statics {
                return Err(format!("{}: {n} MACs on network {vni}, bound {bound}", self.name));
            }
        }
        let by_port: u64 = ports.iter().map(|(_, c)| c.rx_frames).sum();
        if by_port > switch.rx {
            return Err(format!("{}: ports received {by_port} frames, the switch {}", self.name, switch.rx));
        }
        Ok(())
    }
}

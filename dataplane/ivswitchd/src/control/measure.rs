//! Measurements for `ivctl status`, once a second: workers, kernel offload, steering, drops.

use ctl::io::{Input, Steered, WorkerStats};

use super::{Control, REFRESH, TICK};
use crate::clock;
use crate::ports::afxdp;

impl Control {
    /// Measures everything that `ivctl status` shows and that changes without an event.
    pub(super) fn measure(&mut self) {
        self.inbox.push_back(Input::WallClock(clock::wall()));
        let mut stats = Vec::new();
        for (worker, before) in self.workers.iter().zip(&mut self.usage) {
            let now = worker.usage();
            let share = (now.busy_ns - before.busy_ns) as f64 / TICK.as_nanos() as f64;
            stats.push(WorkerStats { busy: share.min(1.0), sleeps: now.sleeps, frames: now.frames });
            *before = now;
        }
        if stats != self.stats {
            self.stats.clone_from(&stats);
            self.inbox.push_back(Input::WorkerStats(stats));
        }
        self.measure_steering();
        self.cache.tick();
        let stats = self.cache.stats();
        if stats != self.cache_stats {
            self.cache_stats = stats.clone();
            self.inbox.push_back(Input::CacheStats(stats));
        }
        for (&id, port) in &mut self.ports {
            let Some(drops) = port.control.drops() else { continue };
            if drops != port.drops {
                port.drops = drops;
                self.inbox.push_back(Input::KernelDrops(id, drops));
            }
            let guest_io = port.control.guest_io();
            if let Some(io) = guest_io.filter(|_| guest_io != port.guest_io) {
                port.guest_io = guest_io;
                self.inbox.push_back(Input::GuestIo(id, io));
            }
        }
    }

    fn measure_steering(&mut self) {
        let Some(uplink) = self.ports.values().find(|port| port.spec.shared) else { return };
        let Some((own, counters)) = uplink.control.own().zip(uplink.control.steer_counters()) else { return };
        let (own_flows, own_unknown) = own.state();
        let afxdp::SteerCounters { passed, tunnel, reality, own: answers } = counters;
        let own_unknown = own_unknown.to_owned();
        let steered = Steered { tunnel, reality, own: answers, passed, own_flows, own_unknown };
        let now = clock::now();
        let due = now >= self.refresh;
        if due {
            self.refresh = now + REFRESH;
        }
        // If it failed before, it may work now; if another tool detached the program, it is attached again.
        if due
            && !own.refresh()
            && let Err(why) = self.apply_plan()
        {
            tracing::error!("{why}");
        }
        if steered != self.steered {
            self.steered = steered.clone();
            self.inbox.push_back(Input::Steered(steered));
        }
    }
}

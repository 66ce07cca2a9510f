//! Measurements between two hosts: round trips, goodput, small packets, and their costs in kicks, calls and CPU time.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::process::{Background, Limit};
use bench::results::{Key, Metric};

use crate::guest::{Guest, Spec};
use crate::host::{Counts, Host, ticks_of};
use crate::lab::{Lab, Peer};
use crate::rows::{Outcome, Plan};

/// The case of round trips.
pub const RTT: &str = "rtt";
/// The case of TCP.
pub const TCP: &str = "tcp";
/// The case of TCP in the opposite direction.
pub const BACK: &str = "tcp back";
/// The case of small packets.
pub const SMALL: &str = "small packets";

/// How often figures that targets compare are measured, in turns: the speed of a shared machine varies over minutes.
pub const PASSES: u32 = 3;

/// The place of a pair's guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Two rVMs on the provider's network, a bridge.
    Provider,
    /// Two iVMs of one rVM.
    Same,
    /// iVMs of two rVMs, across the tunnel.
    Vxlan,
}

impl Place {
    /// The name in keys.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Provider => "rVM-rVM",
            Self::Same => "iVM-iVM same rVM",
            Self::Vxlan => "iVM-iVM vxlan",
        }
    }
}

/// Two ends of a measurement.
#[derive(Debug)]
pub struct Pair<'a> {
    /// The pair's name in keys.
    pub scenario: &'a str,
    /// The switch between the ends.
    pub peer: &'a str,
    /// The client.
    pub from: &'a Host,
    /// The server.
    pub to: &'a Host,
    /// The server's address.
    pub address: &'a str,
    /// The client's address, if the opposite direction is measured too.
    pub back: Option<&'a str>,
    /// Processes of QEMU at L0.
    pub guests: Vec<u32>,
    /// Processes of the switch at L0.
    pub switch: Vec<u32>,
    /// How many times slower everything is than between guests of this machine.
    pub slow: f64,
}

impl Pair<'_> {
    fn key(&self, case: &str, metric: Metric) -> Key {
        Key::nested(self.scenario, case, self.peer, metric)
    }

    /// Waits until the far end answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn reach(&self, limit: &Limit) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(20).mul_f64(self.slow);
        loop {
            let pinged = self.from.run(
                &format!("ping -c 1 -W {} {}", self.slow.ceil(), self.address),
                Duration::from_secs(10).mul_f64(self.slow),
                limit,
            );
            match pinged {
                Ok(_) => return Ok(()),
                Err(why) if Instant::now() > end || limit.interrupted() => {
                    return Err(why).with_context(|| format!("no answer from {}", self.address));
                }
                Err(_) => {}
            }
        }
    }

    /// Measures everything, `rounds` times.
    ///
    /// # Errors
    /// When the ends do not reach each other, or a probe fails.
    pub fn measure(&self, plan: &Plan, outcome: &mut Outcome, limit: &Limit) -> Result<()> {
        self.reach(limit)?;
        // A probe ends with an answer from the far end, even a slow one.
        let seconds = plan.seconds;
        let bound = Duration::from_secs_f64(20.0 + (seconds + 20.0) * self.slow.max(1.0));
        for _ in 0..plan.rounds {
            let said = self.from.probe(&format!("rtt {} {seconds}", self.address), bound, limit)?;
            for (name, metric) in [("p50", Metric::RttP50), ("p90", Metric::RttP90), ("p99", Metric::RttP99)]
            {
                outcome.add(self.key(RTT, metric), said[name].as_f64().context("no round trip")?);
            }
            let kept = said["kept"].as_array().cloned().unwrap_or_default();
            outcome.round_trips.insert(
                format!("{}/{}", self.scenario, self.peer),
                kept.iter().filter_map(serde_json::Value::as_f64).collect(),
            );
            self.cost(TCP, outcome, limit, |outcome| {
                let said = self.from.probe(&format!("tcp {} {seconds}", self.address), bound, limit)?;
                let goodput = goodput(&said)?;
                outcome.add(self.key(TCP, Metric::Gbps), goodput);
                Ok(())
            })?;
            if let Some(back) = self.back {
                let said = self.to.probe(&format!("tcp {back} {seconds}"), bound, limit)?;
                outcome.add(self.key(BACK, Metric::Gbps), goodput(&said)?);
            }
            self.cost(SMALL, outcome, limit, |outcome| {
                let said = self.from.probe(&format!("small {} {seconds}", self.address), bound, limit)?;
                let (count, took) = (said["arrived"].as_f64(), said["seconds"].as_f64());
                let (count, took) = count.zip(took).context("no count")?;
                ensure!(took > 0.0, "no small packet arrived");
                outcome.add(self.key(SMALL, Metric::Pps), count / took);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The costs of `work`: CPU time by level, kicks and calls.
    fn cost(
        &self,
        case: &str,
        outcome: &mut Outcome,
        limit: &Limit,
        work: impl FnOnce(&mut Outcome) -> Result<()>,
    ) -> Result<()> {
        let own = Host::Namespace { name: String::new(), path: "/".into() };
        let read = || -> Result<[Counts; 3]> {
            Ok([own.counts(limit)?, self.from.counts(limit)?, self.to.counts(limit)?])
        };
        let before = read()?;
        let (guests, switch) = (ticks_of(&self.guests), ticks_of(&self.switch));
        let start = Instant::now();
        work(outcome)?;
        let seconds = start.elapsed().as_secs_f64();
        // First, because reading the counters of a guest in a guest takes long.
        let used = [&self.guests, &self.switch].map(|pids| ticks_of(pids));
        let after = read()?;
        let [host, from, to] = [0, 1, 2].map(|n| after[n].since(&before[n]));
        let cores = |ticks: u64| ticks as f64 / 100.0 / seconds;
        let busy = host.share() * bench::machine::processors() as f64;
        for (what, value) in [
            ("L0 all", busy),
            ("L0 guests' emulation", cores(used[0].saturating_sub(guests))),
            ("L0 switch", cores(used[1].saturating_sub(switch))),
            ("client", from.share()),
            ("server", to.share()),
        ] {
            outcome.add(self.key(&format!("{case}: cores, {what}"), Metric::Cores), value);
        }
        let (events, packets) = (from.kicks + from.calls + to.kicks + to.calls, from.packets + to.packets);
        if packets > 0 {
            outcome.add(self.key(case, Metric::Events), events as f64 / packets as f64);
        }
        Ok(())
    }
}

fn goodput(said: &serde_json::Value) -> Result<f64> {
    let (bytes, seconds) = said["bytes"].as_f64().zip(said["seconds"].as_f64()).context("no count")?;
    Ok(bytes * 8.0 / seconds / 1e9)
}

/// The guest `n` of a pair.
#[must_use]
pub fn spec(plan: &Plan, lab: &Lab, rvm: &str, n: usize, nic: crate::guest::Nic) -> Spec {
    Spec {
        name: format!("g{n}"),
        namespace: lab.name(rvm),
        accel: plan.found.accel,
        nic,
        mac: crate::guest::mac(&format!("g{n}")),
        address: format!("10.1.0.{n}/24"),
        memory: 256,
        cpus: 1,
        image: plan.kit.small.clone(),
        words: String::new(),
        options: Vec::new(),
    }
}

/// Measures two guests of this machine with a peer between them; `with_own`, also the rVM itself with a guest.
///
/// # Errors
/// When a part does not start, or does not answer.
pub fn guests(
    plan: &Plan,
    place: Place,
    peer: Peer,
    with_own: bool,
    outcome: &mut Outcome,
    limit: &Limit,
) -> Result<()> {
    let mut lab = Lab::new(&plan.state, &plan.kit.binaries)?;
    let two = place == Place::Vxlan;
    lab.rvms(two, limit)?;
    let far = if two { "r2" } else { "r1" };
    let nics = [lab.nic(peer, "r1", "g1", limit)?, lab.nic(peer, far, "g2", limit)?];
    let mut switches = Vec::new();
    if two {
        switches.push(lab.switch(peer, "r1", &["g1"], true, limit)?);
        switches.push(lab.switch(peer, "r2", &["g2"], true, limit)?);
    } else {
        switches.push(lab.switch(peer, "r1", &["g1", "g2"], false, limit)?);
    }
    let since = Instant::now();
    let [near_nic, far_nic] = nics;
    let mut near = Guest::start(&spec(plan, &lab, "r1", 1, near_nic), &lab.dir)?;
    let mut other = Guest::start(&spec(plan, &lab, far, 2, far_nic), &lab.dir)?;
    for guest in [&mut near, &mut other] {
        guest.wait_up(since, Duration::from_secs(90))?;
    }
    let guests = vec![near.pid(), other.pid()];
    let [from, to] = [near, other].map(|guest| Host::Guest(Arc::new(guest)));
    if place != Place::Provider {
        for host in [&from, &to] {
            host.run("ip link set eth0 mtu 1450", Duration::from_secs(20), limit)?;
        }
    }
    let _server = to.start("serve", limit)?;
    let switch = switches.iter().flat_map(|s| s.pids.iter().copied()).collect();
    let (scenario, name, address) = (place.name(), peer.name(), "10.1.0.2");
    let pair =
        Pair { scenario, peer: name, from: &from, to: &to, address, back: None, guests, switch, slow: 1.0 };
    pair.measure(plan, outcome, limit)?;
    // The rVM itself, in its guests' network. For our switch with shared memory in one rVM, the row of levels
    // measures it.
    if !with_own || place == Place::Provider || (place, peer) == (Place::Same, Peer::VhostUser) {
        return Ok(());
    }
    let own = |rvm: &str, address: &str| -> Result<(Host, Option<Background>)> {
        lab.door(peer, rvm, address, limit)?;
        let path = plan.kit.probe.parent().unwrap_or(Path::new("/")).to_owned();
        let own = Host::Namespace { name: lab.name(rvm), path };
        let server = own.start("serve", limit)?;
        Ok((own, server))
    };
    let (near, _near_server) = own("r1", "10.1.0.100/24")?;
    let mut pair = Pair { from: &near, back: Some("10.1.0.100"), ..pair };
    pair.scenario = if two { "L0-L1 vxlan" } else { "L0-L1" };
    pair.peer = peer.between_levels();
    pair.measure(plan, outcome, limit)?;
    // No guest is in the last rVM, so that guests by TAPs and in shared memory are measured alike.
    if !two || peer == Peer::Tap {
        return Ok(());
    }
    let (far, _far_server) = own("r2", "10.1.0.101/24")?;
    (pair.scenario, pair.to, pair.address, pair.back) = ("L0-L0 vxlan", &far, "10.1.0.101", None);
    pair.measure(plan, outcome, limit)
}

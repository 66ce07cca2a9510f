//! Measurements of a level without the network: web pages from a small database, block I/O, processor speed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bench::process::Limit;
use bench::results::{Key, Metric};

use crate::host::Host;
use crate::rows::{Outcome, Plan};

/// Users of the web server, as many as in Nested Cloud.
const USERS: u32 = 64;
/// The peer in keys: no switch is measured here.
pub const PEER: &str = "level";
/// The case of web pages.
pub const WEB: &str = "http";

/// One level.
#[derive(Debug)]
pub struct Level<'a> {
    /// The level's name.
    pub name: &'a str,
    /// The host at that level.
    pub host: &'a Host,
    /// The host that requests web pages, at L0.
    pub client: &'a Host,
    /// The address for these requests.
    pub address: &'a str,
    /// A file or disk to read and write.
    pub disk: &'a str,
    /// How many times longer everything may take.
    pub slow: f64,
}

impl Level<'_> {
    /// Measures everything once. A part that fails does not prevent the next one.
    pub fn measure(&self, plan: &Plan, outcome: &mut Outcome, limit: &Limit) {
        outcome.attempt(&format!("{}, disk and processor", self.name), |outcome| {
            self.machine(plan, outcome, limit)
        });
        outcome.attempt(&format!("{}, web pages", self.name), |outcome| self.web(plan, outcome, limit));
    }

    fn bound(&self) -> Duration {
        Duration::from_secs_f64(60.0 + 20.0 * self.slow)
    }

    fn key(&self, case: &str, metric: Metric) -> Key {
        Key::nested(self.name, case, PEER, metric)
    }

    fn web(&self, plan: &Plan, outcome: &mut Outcome, limit: &Limit) -> Result<()> {
        let _server = self.host.start("web", limit)?;
        // The server fills its database first.
        let end = Instant::now() + self.bound();
        let mut said;
        loop {
            said = self.client.probe(&format!("users {} 1 0.5", self.address), self.bound(), limit);
            if said.is_ok() || Instant::now() > end || limit.interrupted() {
                break;
            }
            std::thread::sleep(Duration::from_secs_f64(0.2 * self.slow));
        }
        said.context("the web server does not answer")?;
        for _ in 0..plan.rounds {
            let seconds = plan.seconds * 2.0 * self.slow;
            let said = self.client.probe(
                &format!("users {} {USERS} {seconds}", self.address),
                self.bound(),
                limit,
            )?;
            for what in ["mean", "p80", "p90"] {
                let value = said[what].as_f64().context("no request")?;
                outcome.add(self.key(&format!("{WEB} {what}"), Metric::Seconds), value);
            }
        }
        Ok(())
    }

    fn machine(&self, plan: &Plan, outcome: &mut Outcome, limit: &Limit) -> Result<()> {
        let each = plan.seconds / 6.0;
        for _ in 0..plan.rounds {
            let said = self.host.probe(&format!("disk {} {each}", self.disk), self.bound(), limit)?;
            for (what, rate) in said["requests_per_s"].as_object().context("no request")? {
                let rate = rate.as_f64().context("no rate")?;
                if what.starts_with("128") {
                    outcome.add(self.key(what, Metric::MibPerS), rate / 8.0);
                } else {
                    outcome.add(self.key(what, Metric::Ops), rate);
                }
            }
            let said = self.host.probe(&format!("processor {each}"), self.bound(), limit)?;
            for (what, rate) in said["per_s"].as_object().context("no rate")? {
                outcome.add(self.key(what, Metric::Ops), rate.as_f64().context("no rate")?);
            }
        }
        Ok(())
    }
}

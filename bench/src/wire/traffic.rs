//! Traffic through a switch, and its measurements, each with one peer in one scenario.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::lab::Up;
use crate::process::{Background, Limit, run};
use crate::results::{Key, Metric, Results};
use crate::stats::percentile;

/// One peer in one scenario.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    pub up: &'a Up<'a>,
    pub peer: &'static str,
    pub quick: bool,
    pub round: u32,
    pub limit: &'a Limit,
}

/// Source and destination of generated frames.
struct Route {
    from: &'static str,
    from_interface: &'static str,
    to: &'static str,
    to_interface: &'static str,
    /// Source and destination MAC, then IP.
    headers: [String; 4],
    /// Outer headers, for frames that come out of a tunnel.
    tunnel: Option<String>,
    /// The UDP port of frames that arrive.
    port: String,
}

/// The output of `meter`.
#[derive(Deserialize)]
struct Metered {
    #[serde(default)]
    pps: f64,
    #[serde(default)]
    sw_cpu: f64,
    #[serde(default)]
    total: f64,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

impl Metered {
    /// The busy share of a core.
    fn core(&self, n: usize) -> Option<f64> {
        self.rest.get(&format!("cpu{n}"))?.as_f64()
    }

    /// The busy share of all cores together.
    fn cores(&self) -> f64 {
        (0..64).map_while(|n| self.core(n)).sum()
    }
}

/// One burst of small frames.
struct Blast {
    metered: Metered,
    loss: f64,
}

impl Bench<'_> {
    fn key(&self, case: impl Into<String>, metric: Metric) -> Key {
        Key::wire(self.up.scenario, case, self.peer, metric)
    }

    fn directions(&self) -> &'static [&'static str] {
        match self.up.scenario {
            "vtep" => &["encap", "decap"],
            "fip" => &["in", "out"],
            "vxlan-plain" => &[],
            _ => &["fwd"],
        }
    }

    fn route(&self, direction: &str) -> Route {
        let plan = |name: &str| self.up.plan(name).to_string();
        let route = |from, to, headers: [&str; 4]| Route {
            from,
            from_interface: "eth0",
            to,
            to_interface: "eth0",
            headers: headers.map(plan),
            tunnel: None,
            port: plan("UDP_PORT"),
        };
        match direction {
            "encap" => Route {
                to_interface: "under",
                port: plan("VXLAN_PORT"),
                ..route("h1", "r2", ["MAC_h1", "MAC_h2", "IP_h1", "IP_h2"])
            },
            "decap" => Route {
                from_interface: "under",
                tunnel: Some(["VNI", "MAC_r2", "MAC_r1", "IP_r2", "IP_r1"].map(plan).join(",")),
                ..route("r2", "h1", ["MAC_h2", "MAC_h1", "IP_h2", "IP_h1"])
            },
            "in" => route("ext", "h2", ["MAC_ext", "MAC_r1", "IP_ext", "IP_r1"]),
            "out" => route("h2", "ext", ["MAC_h2", "MAC_gw", "PRIV_h2", "IP_ext"]),
            _ if self.up.scenario == "l2" => route("h1", "h3", ["MAC_h1", "MAC_h3", "IP_h1", "IP_h3"]),
            _ => route("h1", "h2", ["MAC_h1", "MAC_h2", "IP_h1", "IP_h2"]),
        }
    }

    /// The generator: 60-byte frames of 16 UDP flows at `rate` per second, or at full speed for 0.
    fn generator(&self, route: &Route, source: &str, rate: f64, seconds: f64) -> Command {
        let mut generator = self.up.inside(route.from, true, self.up.tool("gen"));
        let [smac, dmac, sip, dip] = &route.headers;
        generator.args([
            "-i",
            route.from_interface,
            "-m",
            source,
            "-s",
            smac,
            "-d",
            dmac,
            "-S",
            sip,
            "-D",
            dip,
        ]);
        generator.args(["-p", self.up.plan("UDP_PORT"), "-l", "60", "-f", "16"]);
        generator.args(["-r", &rate.to_string(), "-t", &seconds.to_string()]);
        if let Some(tunnel) = &route.tunnel {
            generator.args(["-V", tunnel]);
        }
        generator
    }

    fn blast(&self, direction: &str, source: &str, rate: f64, seconds: f64) -> Result<Blast> {
        self.limit.spare(Duration::from_secs_f64(seconds + 4.0))?;
        let route = self.route(direction);
        let mut meter = self.up.inside(route.to, true, self.up.tool("meter"));
        meter.args([
            "-i",
            route.to_interface,
            "-p",
            &route.port,
            "-t",
            &seconds.to_string(),
            "-w",
            "0.3",
            "-P",
        ]);
        let mut meter = Background::start(meter.arg(self.up.pids()?))?;
        meter.wait_for("ready", Duration::from_secs(5))?;
        let bound = Duration::from_secs_f64(seconds + 15.0);
        let mut generator = self.generator(&route, source, rate, seconds + 0.6);
        let generated: Value = serde_json::from_str(&run(&mut generator, bound, self.limit)?)?;
        let said = meter.finish(bound, self.limit)?;
        let metered: Metered = serde_json::from_str(said.lines().last().context("meter said nothing")?)?;
        let sent = generated["sent"].as_f64().filter(|sent| *sent > 0.0).context("nothing was sent")?;
        let loss = 1.0 - metered.total / sent;
        Ok(Blast { metered, loss })
    }

    /// Delivered packets per second at saturation. Far more packets than a switch can handle make it slower (they
    /// fight over the veth's ring), so the better of two rates counts.
    pub fn pps(&self, results: &mut Results) -> Result<()> {
        let seconds = if self.quick { 0.7 } else { 1.5 };
        for direction in self.directions() {
            for source in ["live", "pkt"] {
                let pointless = source == "live" && self.up.without_live_frames();
                if pointless || source == "pkt" && self.quick {
                    continue;
                }
                let rates: &[f64] = match (source, self.quick) {
                    ("live", false) => &[0.0, 1_500_000.0],
                    ("live", true) => &[1_500_000.0],
                    _ => &[0.0],
                };
                let mut best: Option<Blast> = None;
                for &rate in rates {
                    let blast = self.blast(direction, source, rate, seconds)?;
                    if best.as_ref().is_none_or(|b| blast.metered.pps > b.metered.pps) {
                        best = Some(blast);
                    }
                }
                let best = best.context("no rate")?.metered;
                ensure!(best.pps > 0.0, "nothing arrived, {direction} {source}");
                let case = format!("{direction} {source}");
                results.add(self.key(&case, Metric::Pps), best.pps);
                results.add(self.key(&case, Metric::AllNs), best.cores() / best.pps * 1e9);
                let core = self.up.plan("SW_CPU").parse().ok().and_then(|n| best.core(n));
                if let Some(busy) = core.filter(|busy| *busy > 0.5) {
                    results.add(self.key(&case, Metric::CoreNs), busy / best.pps * 1e9);
                }
            }
        }
        Ok(())
    }

    /// The highest rate with under 0.5 % loss, by bisection up to a tenth above the delivered rate at saturation.
    pub fn loss_free(&self, results: &mut Results) -> Result<()> {
        let source = if self.up.without_live_frames() { "pkt" } else { "live" };
        for direction in self.directions() {
            let saturated = results.median(&self.key(format!("{direction} {source}"), Metric::Pps));
            let (mut low, mut high) = (0.0, saturated.unwrap_or(2_000_000.0) * 1.1);
            for _ in 0..6 {
                let rate = f64::midpoint(low, high).round();
                if self.blast(direction, source, rate, 0.8)?.loss < 0.005 {
                    low = rate;
                } else {
                    high = rate;
                }
            }
            results.add(self.key(format!("{direction} {source}"), Metric::LossFree), low);
        }
        Ok(())
    }

    /// TCP goodput with one and four streams, and the CPU time of the machine for it.
    pub fn tcp(&self, results: &mut Results) -> Result<()> {
        let Some((client, server, address)) = self.up.ends() else { return Ok(()) };
        let seconds: u32 = if self.quick { 2 } else { 3 };
        let both = self.up.scenario != "l2" && (!self.quick || self.up.scenario == "fip");
        for direction in if both { &["fwd", "back"][..] } else { &["fwd"] } {
            for streams in [1, 4] {
                if self.quick && streams == 4 && self.up.scenario != "l2" {
                    continue;
                }
                self.limit.spare(Duration::from_secs(u64::from(seconds) + 4))?;
                let mut listen = self.up.inside(server, false, "iperf3");
                let listen = Background::start(listen.args(["-s", "-1", "--forceflush"]));
                let mut listen = listen.context("iperf3 is needed (Debian: iperf3)")?;
                listen.wait_for("listening", Duration::from_secs(5))?;
                let mut send = self.up.inside(client, false, "iperf3");
                send.args(["-c", address, "-J", "-t", &seconds.to_string()]);
                send.args(["-P", &streams.to_string()]);
                if *direction == "back" {
                    send.arg("-R");
                }
                let send = Background::start(&mut send)?;
                std::thread::sleep(Duration::from_millis(500));
                let mut meter = Command::new(self.up.tool("meter"));
                meter.args(["-t", &(seconds - 1).to_string(), "-w", "0", "-P"]).arg(self.up.pids()?);
                let bound = Duration::from_secs(u64::from(seconds) + 15);
                let metered: Metered = serde_json::from_str(&run(&mut meter, bound, self.limit)?)?;
                let report: Value = serde_json::from_str(&send.finish(bound, self.limit)?)?;
                let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
                let gbps = bits.context("iperf3 gave no goodput")? / 1e9;
                let case = format!("{direction} {streams} stream{}", if streams == 1 { "" } else { "s" });
                results.add(self.key(&case, Metric::Gbps), gbps);
                if gbps > 0.0 {
                    results.add(self.key(&case, Metric::CpuPerGb), metered.cores() / (gbps / 8.0));
                }
            }
        }
        Ok(())
    }

    /// UDP goodput with many datagrams per system call, and the CPU time of the machine for it.
    pub fn udp(&self, results: &mut Results) -> Result<()> {
        let Some((client, server, address)) = self.up.ends() else { return Ok(()) };
        let seconds = 2_u32;
        self.limit.spare(Duration::from_secs(u64::from(seconds) + 4))?;
        let program = std::env::current_exe()?;
        let bound = Duration::from_secs(u64::from(seconds) + 15);
        let mut receive = self.up.inside(server, false, &program);
        receive.args(["receive-datagrams", "0.0.0.0:9", &seconds.to_string()]);
        let mut receive = Background::start(&mut receive)?;
        receive.wait_for("listening", Duration::from_secs(5))?;
        let mut send = self.up.inside(client, false, &program);
        send.args(["send-datagrams", &format!("{address}:9"), &(seconds + 1).to_string()]);
        let send = Background::start(&mut send)?;
        std::thread::sleep(Duration::from_millis(300));
        let mut meter = Command::new(self.up.tool("meter"));
        meter.args(["-t", &(seconds - 1).to_string(), "-w", "0", "-P"]).arg(self.up.pids()?);
        let metered: Metered = serde_json::from_str(&run(&mut meter, bound, self.limit)?)?;
        let report = receive.finish(bound, self.limit)?;
        send.finish(bound, self.limit)?;
        let bits: f64 = report.lines().last().unwrap_or_default().trim().parse().context("no goodput")?;
        let gbps = bits / 1e9;
        results.add(self.key("fwd UDP", Metric::Gbps), gbps);
        if gbps > 0.0 {
            results.add(self.key("fwd UDP", Metric::CpuPerGb), metered.cores() / (gbps / 8.0));
        }
        Ok(())
    }

    /// Round trips of a 64-byte UDP message: one after another; with pauses in which everything falls asleep;
    /// next to other traffic.
    pub fn round_trips(&self, results: &mut Results) -> Result<()> {
        let Some((client, server, address)) = self.up.ends() else { return Ok(()) };
        let mut answer = self.up.inside(server, false, "sockperf");
        let answer = Background::start(answer.args(["sr", "-p", "11111"]));
        let _answer = answer.context("sockperf is needed (Debian: sockperf)")?;
        std::thread::sleep(Duration::from_millis(300));
        let (short, long) = if self.quick { (1, 1) } else { (2, 4) };
        let idle = self.ping_pong(client, address, short, None)?;
        self.keep("ping-pong", idle, results);
        let asleep = self.ping_pong(client, address, long, Some(200))?;
        self.keep("after a pause", asleep, results);
        if self.up.without_live_frames() || self.quick && self.up.scenario != "l2" {
            return Ok(());
        }
        let direction = if self.up.scenario == "fip" { "in" } else { "fwd" };
        let route = self.route(direction);
        let mut meter = self.up.inside(route.to, true, self.up.tool("meter"));
        meter.args(["-i", "eth0", "-p", &route.port, "-t", &long.to_string(), "-w", "0"]);
        let mut meter = Background::start(&mut meter)?;
        meter.wait_for("ready", Duration::from_secs(5))?;
        let seconds = f64::from(long) + 1.2;
        let load = Background::start(&mut self.generator(&route, "live", 50_000.0, seconds))?;
        std::thread::sleep(Duration::from_millis(300));
        let loaded = self.ping_pong(client, address, long, None)?;
        self.keep("beside 50 kpps", loaded, results);
        drop(load);
        // The counter detaches its program from the interface only if it ends by itself.
        meter.finish(Duration::from_secs(15), self.limit)?;
        Ok(())
    }

    fn keep(&self, case: &str, sorted: Vec<f64>, results: &mut Results) {
        for (metric, share) in [(Metric::RttP50, 0.50), (Metric::RttP99, 0.99)] {
            if let Some(value) = percentile(&sorted, share) {
                results.add(self.key(case, metric), value);
            }
        }
        if self.round == 1 {
            let few = (0..=400).filter_map(|n| percentile(&sorted, f64::from(n) / 400.0)).collect();
            results.round_trips.insert(format!("{}/{case}/{}", self.up.scenario, self.peer), few);
        }
    }

    /// Round trips in microseconds, sorted. One lost packet ends the measurement, so if there are few it is repeated
    /// once.
    fn ping_pong(
        &self,
        client: &str,
        address: &str,
        seconds: u32,
        per_second: Option<u32>,
    ) -> Result<Vec<f64>> {
        let trips = self.ping_pong_once(client, address, seconds, per_second);
        trips.or_else(|_| self.ping_pong_once(client, address, seconds, per_second))
    }

    fn ping_pong_once(
        &self,
        client: &str,
        address: &str,
        seconds: u32,
        per_second: Option<u32>,
    ) -> Result<Vec<f64>> {
        self.limit.spare(Duration::from_secs(u64::from(seconds) + 4))?;
        let log = self.up.file("round-trips.csv");
        std::fs::remove_file(&log).ok();
        let mut ping = self.up.inside(client, false, "sockperf");
        ping.args(["pp", "-i", address, "-p", "11111", "--msg-size", "64", "--full-rtt"]);
        ping.args(["-t", &seconds.to_string(), "--full-log"]).arg(&log);
        if let Some(rate) = per_second {
            ping.args(["--mps", &rate.to_string()]);
        }
        run(&mut ping, Duration::from_secs(u64::from(seconds) + 10), self.limit)?;
        let mut trips = read_trips(&log)?;
        ensure!(trips.len() > 20, "only {} round trips in {seconds} s", trips.len());
        trips.sort_by(f64::total_cmp);
        Ok(trips)
    }

    /// CPU time of an idle switch.
    pub fn idle(&self, results: &mut Results) -> Result<()> {
        if self.up.scenario != "l2" && self.up.scenario != "vtep" {
            return Ok(());
        }
        let seconds = if self.quick { 1.5 } else { 4.0 };
        self.limit.spare(Duration::from_secs_f64(seconds + 3.0))?;
        std::thread::sleep(Duration::from_millis(500));
        let mut meter = Command::new(self.up.tool("meter"));
        meter.args(["-t", &seconds.to_string(), "-w", "0", "-P"]).arg(self.up.pids()?);
        let metered: Metered = serde_json::from_str(&run(&mut meter, Duration::from_secs(20), self.limit)?)?;
        results.add(self.key("idle", Metric::Cores), metered.sw_cpu);
        Ok(())
    }
}

/// Reads sockperf's log of every message: its number, when it was sent, when its answer arrived, and the time between
/// the two in microseconds.
fn read_trips(log: &Path) -> Result<Vec<f64>> {
    let text = std::fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    Ok(trips(&text))
}

fn trips(text: &str) -> Vec<f64> {
    let one = |line: &str| {
        let [_, _, _, trip] = line.split(',').map(str::trim).collect::<Vec<_>>()[..] else { return None };
        trip.parse::<f64>().ok().filter(|us| *us > 0.0)
    };
    text.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_read_from_the_log() {
        let text = "sockperf: [Valid Duration] RunTime=0.5 sec, a, b, c\n\
                    packet, txTime(sec), rxTime(sec), rtt(usec)\n\
                    0, 2.410152367, 2.410180308, 27.941\n\
                    1, 2.410180339, 2.410208350, 28.011\n\
                    2, 2.41, -, -\n";
        assert_eq!(trips(text), [27.941, 28.011]);
    }

    #[test]
    fn meters_are_read() {
        let said = r#"{"secs":1.0,"pkts":5,"pps":500000,"sw_cpu":0.9,"cpu0":0.5,"softirq0":0.1,"cpu1":1.0,"total":9}"#;
        let metered: Metered = serde_json::from_str(said).expect("as meter writes it");
        assert_eq!((metered.core(1), metered.core(2), metered.total), (Some(1.0), None, 9.0));
        assert!((metered.cores() - 1.5).abs() < 1e-9);
    }
}

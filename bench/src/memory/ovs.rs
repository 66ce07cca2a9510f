//! Open vSwitch's userspace datapath without I/O: DPDK ports that are fed from a capture in memory and discard all
//! output. Its own counters give the cycles of a packet. `bench/peers/ovs-null.sh` sets it up.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::{Limit, run as run_bounded};
use crate::results::{Key, Metric, Results};

/// The peer's name in keys.
pub const NAME: &str = "ovs";

/// Numbers of flows: one that fits its exact-match cache, and one that does not.
pub const FLOWS: [u32; 2] = [64, 10_000];

/// The cases, named after our walks, and the frames that each sends.
const CASES: [(&str, Frames); 7] = [
    ("l2", Frames::Plain),
    ("encap", Frames::Plain),
    ("decap", Frames::Tunnel),
    ("fip-in-gateway", Frames::Outside),
    ("fip-in-owner", Frames::TunnelToPublic),
    ("fip-out-owner", Frames::Inside),
    ("fip-out-gateway", Frames::TunnelFromPublic),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Frames {
    Plain,
    Tunnel,
    Outside,
    TunnelToPublic,
    Inside,
    TunnelFromPublic,
}

#[derive(Deserialize)]
struct Report {
    ns_per_pkt: f64,
    packets: u64,
    sent: u64,
}

/// The key of a case.
#[must_use]
pub fn key(case: &str, flows: u32) -> Key {
    Key::memory(case, format!("64 B, {flows} flows"), NAME, Metric::Ns)
}

/// Runs every case once.
pub fn run(quick: bool, scripts: &Path, state: &Path, limit: &Limit, results: &mut Results) {
    for (case, frames) in CASES {
        if quick && !matches!(frames, Frames::Plain | Frames::Tunnel | Frames::Outside) {
            continue;
        }
        for flows in FLOWS {
            eprintln!("   {NAME} {case}, {flows} flows");
            let outcome = limit
                .spare(Duration::from_secs(10))
                .and_then(|()| one(case, frames, flows, quick, scripts, state, limit));
            match outcome {
                Ok(ns) => results.add(key(case, flows), ns),
                Err(why) => {
                    let again = why.to_string();
                    results.skip(format!("in memory: {NAME} {case}, {flows} flows"), &again);
                    if again.contains("missing:") {
                        return;
                    }
                }
            }
        }
    }
}

fn one(
    case: &str,
    frames: Frames,
    flows: u32,
    quick: bool,
    scripts: &Path,
    state: &Path,
    limit: &Limit,
) -> Result<f64> {
    let capture = state.join("in.pcap");
    std::fs::write(&capture, pcap(frames, flows))
        .with_context(|| format!("writing {}", capture.display()))?;
    let mut script = Command::new("bash");
    script.arg(scripts.join("ovs-null.sh")).arg(case).arg(&capture).arg(if quick { "0.7" } else { "2" });
    let ran = run_bounded(script.env("STATE", state), Duration::from_secs(60), limit);
    // If the script hangs it is killed, and the things it made are removed here.
    if ran.is_err() {
        let mut down = Command::new("bash");
        down.arg(scripts.join("ovs-null.sh")).arg("down").env("STATE", state);
        down.status().ok();
    }
    let ran = ran?;
    let line = ran.lines().last().context("ovs-null.sh printed nothing")?;
    let report: Report =
        serde_json::from_str(line).with_context(|| format!("ovs-null.sh printed {line:?}"))?;
    let (came, went) = (report.packets, report.sent);
    anyhow::ensure!(
        came > 1000 && went > came / 2,
        "not the case that was meant: {came} came in, {went} went out"
    );
    Ok(report.ns_per_pkt)
}

const H1: [u8; 6] = [2, 0, 10, 1, 0, 1];
const H2: [u8; 6] = [2, 0, 10, 1, 0, 2];
const R1: [u8; 6] = [2, 0, 10, 0, 0, 11];
const R2: [u8; 6] = [2, 0, 10, 0, 0, 12];
const OUTSIDE: [u8; 6] = [2, 0, 10, 0, 0, 99];
const PUBLIC: [u8; 4] = [56, 0, 0, 11];

/// A capture file with one frame of every flow, at least 64.
fn pcap(frames: Frames, flows: u32) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for i in 0..flows.max(64) {
        let flow = (i % flows) as u16;
        let sport = 10_000 + flow;
        let pad = [0u8; 18];
        let tunnel = |inner: Vec<u8>| {
            let mut payload = vec![8, 0, 0, 0, 0, 0, 100, 0];
            payload.extend(inner);
            udp(R1, R2, [10, 0, 0, 12], [10, 0, 0, 11], 49_152 + flow % 16_384, 4789, &payload)
        };
        let frame = match frames {
            Frames::Plain => udp(H2, H1, [10, 1, 0, 1], [10, 1, 0, 2], sport, 9999, &pad),
            Frames::Outside => udp(R1, OUTSIDE, [10, 0, 0, 99], [10, 0, 0, 11], sport, 9999, &pad),
            Frames::Inside => udp(R1, H2, [192, 168, 1, 2], [10, 0, 0, 99], sport, 9999, &pad),
            Frames::Tunnel => tunnel(udp(H1, H2, [10, 1, 0, 2], [10, 1, 0, 1], sport, 9999, &pad)),
            Frames::TunnelToPublic => tunnel(udp(H1, H2, [10, 0, 0, 99], PUBLIC, sport, 9999, &pad)),
            Frames::TunnelFromPublic => tunnel(udp(H1, H2, PUBLIC, [10, 0, 0, 99], sport, 9999, &pad)),
        };
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

/// An Ethernet frame with IPv4, UDP without a checksum, and `payload`.
fn udp(
    to: [u8; 6],
    from: [u8; 6],
    src: [u8; 4],
    dst: [u8; 4],
    sport: u16,
    dport: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42 + payload.len());
    frame.extend(to);
    frame.extend(from);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((28 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(src);
    frame.extend(dst);
    let sum = !engine::wire::checksum::sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(sport.to_be_bytes());
    frame.extend(dport.to_be_bytes());
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_hold_a_frame_of_each_flow() {
        let one = pcap(Frames::Plain, 1);
        assert_eq!(one.len(), 24 + 64 * (16 + 60), "at least a burst's worth of 60-byte frames");
        let tunnels = pcap(Frames::Tunnel, 1000);
        assert_eq!(tunnels.len(), 24 + 1000 * (16 + 110));
        assert_eq!(&tunnels[24 + 16 + 12..24 + 16 + 14], &[8, 0], "IPv4 in the outer header");
    }
}

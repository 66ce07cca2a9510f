//! The commands that the demo runs: on the nodes, and for their interfaces.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::{Direction, Failure, Outcome, PREFIX};

pub(super) fn need_root() -> Outcome {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure(6, "the demo creates network namespaces, which needs root; try `sudo ivctl demo up`".into()))
}

/// Runs one step, and prints its result and duration.
pub(super) fn step(what: &str, work: impl FnOnce() -> Outcome) -> Outcome {
    let start = Instant::now();
    let outcome = work();
    let verdict = if outcome.is_ok() { " ok " } else { "FAIL" };
    say!("{verdict} {what} ({} ms)", start.elapsed().as_millis());
    outcome
}

pub(super) fn namespace(node: &str) -> String {
    format!("{PREFIX}{node}")
}

pub(super) fn namespace_exists(node: &str) -> bool {
    Path::new("/run/netns").join(namespace(node)).exists()
}

/// Creates a veth pair with one end in each of two nodes, both up.
pub(super) fn veth(node_a: &str, a: &str, node_b: &str, b: &str) -> Outcome {
    ip(&format!(
        "link add {a} netns {} type veth peer name {b} netns {}",
        namespace(node_a),
        namespace(node_b)
    ))?;
    on(node_a, &format!("link set {a} up"))?;
    on(node_b, &format!("link set {b} up"))
}

/// Runs `ip` on a node.
pub(super) fn on(node: &str, arguments: &str) -> Outcome {
    ip(&format!("-n {} {arguments}", namespace(node)))
}

/// Runs `ip` with arguments separated by blanks.
pub(super) fn ip(arguments: &str) -> Outcome {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .map_err(|e| format!("running ip: {e}; it comes with the package iproute2"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

pub(super) fn nft(node: &str, rules: &str) -> Outcome {
    let mut child = Command::new("ip")
        .args(["netns", "exec", &namespace(node), "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().expect("asked for a pipe").write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    Err(format!("nft on {node}: {said}; it comes with the package nftables").into())
}

pub(super) fn sysctl(node: &str, key: &str, value: &str) -> Outcome {
    let mut tee = Command::new("ip")
        .args(["netns", "exec", &namespace(node), "tee", &format!("/proc/sys/{key}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    tee.stdin.take().expect("asked for a pipe").write_all(value.as_bytes())?;
    if tee.wait()?.success() { Ok(()) } else { Err(format!("setting {key} on {node} failed").into()) }
}

/// The packets that an interface has sent or received.
pub(super) fn packets(node: &str, interface: &str, direction: Direction) -> Outcome<u64> {
    let output =
        Command::new("ip").args(["-n", &namespace(node), "-s", "-j", "link", "show", interface]).output()?;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let way = match direction {
        Direction::Sent => "tx",
        Direction::Received => "rx",
    };
    json[0]["stats64"][way]["packets"]
        .as_u64()
        .ok_or_else(|| format!("no counters of {interface} on {node}").into())
}

/// Returns true if the command succeeds. Discards its output.
pub(super) fn quiet(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The start time of a process, in the kernel's ticks; together with its number it identifies the process. `None` if
/// the process has ended.
pub(super) fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    // Field 22 of proc(5); the state is field 3.
    (state != "Z").then(|| fields.nth(18).map(str::to_string))?
}

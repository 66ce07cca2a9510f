//! The time that commands take when they come from far away: a guest from the command to its first packet, a
//! floating IP from the command to the first packet through it, a live migration.
//!
//! Two rVMs have a link of a chosen one-way latency between them ([`crate::probe`]'s relay). Commands go from one
//! to a shell on the other, as by `ssh`; the tunnel, the commands and the guest's memory share the link.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bench::process::{Background, Limit, run};
use bench::results::{Key, Metric};
use serde_json::json;

use crate::guest::{Guest, Nic, Spec, arguments, mac};
use crate::lab::Lab;
use crate::rows::{Outcome, Plan};

/// One-way latencies of Iris, table 2 and figure 5, in ms.
pub const LATENCIES: [u32; 5] = [0, 5, 10, 50, 100];
/// From the command to the guest's first packet at the other end.
pub const CREATE: &str = "guest, command to first packet";
/// From the command to the first packet through a floating IP.
pub const FLOATING: &str = "floating IP, command to first packet";
/// The whole migration.
pub const MIGRATION: &str = "migration";
/// The longest time in which a migrating guest did not answer.
pub const OUTAGE: &str = "migration, longest silence";
/// How long QEMU paused the guest.
pub const PAUSE: &str = "migration, pause";

const PUBLIC: &str = "56.0.0.11";
const PRIVATE: &str = "10.1.0.1";

/// The scenario's name for a latency.
#[must_use]
pub fn scenario(milliseconds: u32) -> String {
    format!("{milliseconds} ms one way")
}

/// Builds the rVMs, the provider's network, an Internet host, and the long link to the second rVM.
fn build(lab: &mut Lab, plan: &Plan, milliseconds: u32, limit: &Limit) -> Result<Vec<Background>> {
    for name in ["r1", "r2", "net", "link", "ext", "h1"] {
        lab.add(name, limit)?;
    }
    lab.ip("net", "link add lan type bridge mcast_snooping 0", limit)?;
    lab.ip("net", "link set lan up", limit)?;
    lab.ip("net", "addr add 10.0.0.1/24 dev lan", limit)?;
    lab.veth(("r1", "under"), ("net", "n1"), limit)?;
    lab.veth(("link", "near"), ("net", "n2"), limit)?;
    lab.veth(("r2", "under"), ("link", "far"), limit)?;
    lab.veth(("ext", "eth0"), ("net", "wan"), limit)?;
    lab.veth(("h1", "eth0"), ("r1", "p-h1"), limit)?;
    for port in ["n1", "n2"] {
        lab.ip("net", &format!("link set {port} master lan"), limit)?;
    }
    lab.ip("net", "addr add 203.0.113.1/24 dev wan", limit)?;
    lab.ip("ext", "addr add 203.0.113.9/24 dev eth0", limit)?;
    lab.ip("ext", "route add default via 203.0.113.1", limit)?;
    for (rvm, address) in [("r1", "10.0.0.11/24"), ("r2", "10.0.0.12/24")] {
        lab.ip(rvm, &format!("addr add {address} dev under"), limit)?;
        lab.ip(rvm, "route add default via 10.0.0.1", limit)?;
    }
    lab.ip("h1", "addr add 10.1.0.100/24 dev eth0", limit)?;
    lab.ip("h1", "link set eth0 mtu 1450", limit)?;
    let bound = Duration::from_secs(10);
    run(lab.command("net", "sysctl").args(["-qw", "net.ipv4.ip_forward=1"]), bound, limit)?;
    // The link carries finished frames of at most the MTU, as a wire does.
    for (name, interface) in
        [("r1", "under"), ("r2", "under"), ("net", "n2"), ("net", "n1"), ("net", "wan"), ("ext", "eth0")]
    {
        let words = ["-K", interface, "tx", "off", "gso", "off", "tso", "off", "gro", "off"];
        run(lab.command(name, "ethtool").args(words), bound, limit)?;
    }
    let mut relay = lab.command("link", &plan.kit.probe);
    relay.args(["probe", "relay", "near", "far", &milliseconds.to_string()]);
    let mut relay = Background::start(&mut relay)?;
    relay.wait_for("ready", bound)?;
    let mut shell = Background::start(lab.command("r2", &plan.kit.probe).args(["probe", "shell"]))?;
    shell.wait_for("ready", bound)?;
    Ok(vec![relay, shell])
}

fn config(own: &str, address: &str, peer: &str, far: &str) -> String {
    format!(
        "name = \"{own}\"\n[uplink]\ninterface = \"under\"\naddress = \"{address}\"\nkind = \"packet\"\n\
         [[peer]]\nname = \"{peer}\"\naddress = \"{far}\"\n\
         [[network]]\nname = \"public\"\nvni = 200\ngateway = [\"10.2.0.1\"]\n\
         [[network]]\nname = \"private\"\nvni = 100\ngateway = [\"10.1.0.254\"]\n"
    )
}

/// Runs a command in the shell of the far rVM.
fn remote(lab: &Lab, plan: &Plan, command: &str, limit: &Limit) -> Result<String> {
    let mut asked = lab.command("r1", &plan.kit.probe);
    asked.args(["probe", "remote", "10.0.0.12", command]);
    run(&mut asked, Duration::from_secs(60), limit)
}

/// Measures everything at one latency.
///
/// # Errors
/// When a part does not start, or never answers.
pub fn at(plan: &Plan, milliseconds: u32, outcome: &mut Outcome, limit: &Limit) -> Result<()> {
    (0..plan.rounds).try_for_each(|_| once(plan, milliseconds, outcome, limit))
}

fn once(plan: &Plan, milliseconds: u32, outcome: &mut Outcome, limit: &Limit) -> Result<()> {
    let mut lab = Lab::new(&plan.state, &plan.kit.binaries)?;
    let _link = build(&mut lab, plan, milliseconds, limit)?;
    let near = config("r1", "10.0.0.11", "r2", "10.0.0.12")
        + "[[port]]\nname = \"p-h1\"\ninterface = \"p-h1\"\nnetwork = \"private\"\nkind = \"packet\"\nbum_pps = 0\n";
    let _near = lab.ivswitchd("r1", &near, limit)?;
    let _far = lab.ivswitchd("r2", &config("r2", "10.0.0.12", "r1", "10.0.0.11"), limit)?;
    let mut add = |what: &str, seconds: f64| {
        outcome.add(Key::nested(scenario(milliseconds), what, "vhost-user", Metric::Seconds), seconds);
    };
    let end = Instant::now() + Duration::from_secs(20);
    while let Err(why) =
        run(lab.command("r1", "ping").args(["-c1", "-W1", "10.0.0.12"]), Duration::from_secs(5), limit)
    {
        ensure!(Instant::now() < end, "the long link does not pass a ping: {why:#}");
    }
    let (guest, seconds) = create(plan, &lab, limit)?;
    add(CREATE, seconds);
    let patience = Duration::from_secs(30);
    for command in ["ip route add default via 10.1.0.254", "(ivbench probe serve > /dev/null 2>&1 &)"] {
        guest.run(command, patience)?;
    }
    add(FLOATING, floating(plan, &lab, &guest, limit)?);
    let [all, silence, pause] = migrate(plan, &lab, &guest, milliseconds, limit)?;
    add(MIGRATION, all);
    add(OUTAGE, silence);
    add(PAUSE, pause);
    Ok(())
}

fn spec(plan: &Plan, lab: &Lab, rvm: &str, name: &str, socket: &str) -> Spec {
    Spec {
        name: name.into(),
        namespace: lab.name(rvm),
        accel: plan.found.accel,
        nic: Nic::VhostUser(lab.dir.join(socket)),
        mac: mac("g1"),
        address: format!("{PRIVATE}/24"),
        words: "iv.run=ivbench,probe,hello,10.1.0.100".into(),
        memory: 192,
        cpus: 1,
        image: plan.kit.small.clone(),
        options: Vec::new(),
    }
}

/// The arguments of `ivctl port add` for the guest whose NIC is at this socket.
fn port_add(lab: &Lab, rvm: &str, socket: &str) -> Vec<String> {
    let words = format!(
        "--socket {} --no-wait port add g1 --network private --role guest --kind vhostuser --mac {} --bum-pps 0 --guest-socket {}",
        lab.dir.join(format!("{rvm}.sock")).display(),
        mac("g1"),
        lab.dir.join(socket).display()
    );
    words.split(' ').map(str::to_owned).collect()
}

/// Creates a guest on the far rVM with one command from here; gives the time until its first packet arrives here.
fn create(plan: &Plan, lab: &Lab, limit: &Limit) -> Result<(Guest, f64)> {
    let spec = spec(plan, lab, "r2", "g1", "g1.vhost");
    let ivctl = plan.kit.binaries.join("ivctl");
    let quoted: Vec<String> = arguments(&spec, &lab.dir).iter().map(|word| format!("'{word}'")).collect();
    let log = lab.dir.join("g1.qemu");
    let command = format!(
        "{} {} && (setsid qemu-system-x86_64 {} > {} 2>&1 &)",
        ivctl.display(),
        port_add(lab, "r2", "g1.vhost").join(" "),
        quoted.join(" "),
        log.display()
    );
    let mut first = Background::start(lab.command("h1", &plan.kit.probe).args(["probe", "first"]))?;
    first.wait_for("ready", Duration::from_secs(10))?;
    let start = Instant::now();
    remote(lab, plan, &command, limit)?;
    let guest = Guest::elsewhere(&spec, &lab.dir);
    first.wait_for("came", Duration::from_secs(90)).with_context(|| guest.last_word())?;
    Ok((guest, start.elapsed().as_secs_f64()))
}

/// Adds a floating IP for the guest; gives the time until an Internet host reaches it.
fn floating(plan: &Plan, lab: &Lab, guest: &Guest, limit: &Limit) -> Result<f64> {
    guest.run("(ivbench probe first > /dev/null 2>&1 &)", Duration::from_secs(20))?;
    let hello = Background::start(lab.command("ext", &plan.kit.probe).args(["probe", "hello", "10.0.0.11"]))?;
    let start = Instant::now();
    let far = format!(
        "{} --socket {} fip add {PUBLIC} --network public --gateway r1 --inside private:{PRIVATE}",
        plan.kit.binaries.join("ivctl").display(),
        lab.dir.join("r2.sock").display()
    );
    remote(lab, plan, &far, limit)?;
    lab.ivctl(
        "r1",
        &["fip", "add", PUBLIC, "--network", "public", "--gateway", "r1", "--reality", "10.0.0.11"],
        limit,
    )?;
    hello.finish(Duration::from_secs(30), limit).context("nobody reaches the floating IP")?;
    let seconds = start.elapsed().as_secs_f64();
    // Removed, because its reality address is the one that the guest's memory will be sent to.
    lab.ivctl("r1", &["fip", "del", PUBLIC], limit)?;
    Ok(seconds)
}

/// Migrates the guest to this rVM; gives the time of the whole migration, the longest silence, and QEMU's pause.
fn migrate(plan: &Plan, lab: &Lab, guest: &Guest, milliseconds: u32, limit: &Limit) -> Result<[f64; 3]> {
    let mut target = spec(plan, lab, "r1", "g1in", "g1in.vhost");
    target.options = vec!["-incoming".into(), "tcp:10.0.0.11:4444".into()];
    let here = Guest::start(&target, &lab.dir)?;
    let mut port = Command::new(plan.kit.binaries.join("ivctl"));
    run(port.args(port_add(lab, "r1", "g1in.vhost")), Duration::from_secs(20), limit)?;
    let end = Instant::now() + Duration::from_secs(20);
    while run(
        lab.command("r1", "sh").args(["-c", "grep -q ':115C 00000000:0000 0A' /proc/net/tcp"]),
        Duration::from_secs(5),
        limit,
    )
    .is_err()
    {
        ensure!(Instant::now() < end, "nobody waits for the guest: {}", here.last_word());
        std::thread::sleep(Duration::from_millis(20));
    }
    let long = 6.0 + f64::from(milliseconds) * 0.2;
    let mut outage = Background::start(lab.command("h1", &plan.kit.probe).args([
        "probe",
        "outage",
        PRIVATE,
        &long.to_string(),
        "5",
    ]))?;
    outage.wait_for("ready", Duration::from_secs(10))?;
    std::thread::sleep(Duration::from_millis(300));
    guest.qmp("migrate", &json!({ "uri": "tcp:10.0.0.11:4444" }))?;
    let end = Instant::now() + Duration::from_secs_f64(long + 30.0);
    let about = loop {
        let about = guest.qmp("query-migrate", &json!({}))?;
        match about["status"].as_str() {
            Some("completed") => break about,
            Some("failed" | "cancelled") => bail!("the guest did not migrate: {about}; {}", here.last_word()),
            _ => ensure!(Instant::now() < end, "the migration takes too long: {about}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let said = outage.finish(Duration::from_secs_f64(long + 30.0), limit)?;
    let line = said.lines().find(|line| line.starts_with('{')).context("no outage")?;
    let said: serde_json::Value = serde_json::from_str(line)?;
    let ms =
        |name: &str| about[name].as_f64().map(|ms| ms / 1e3).with_context(|| format!("no {name}: {about}"));
    let all = ms("total-time")?;
    ensure!(all < long - 0.5, "the migration took {all} s, longer than it was watched");
    Ok([all, said["longest_s"].as_f64().context("no silence")?, ms("downtime")?])
}

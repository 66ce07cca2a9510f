//! Guests of guests: an L1 guest that runs our switch (or a Linux bridge) and QEMU, with L2 guests in it.
//!
//! Where both levels are emulated, an L2 guest takes minutes to boot. So it is booted once at L1, by the same QEMU
//! with the same devices, and its state is saved; at L2 it continues from that state within a few seconds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bench::process::{Limit, run};
use bench::results::{Key, Metric};
use serde_json::json;

use crate::guest::{Guest, Nic, mac};
use crate::host::Host;
use crate::lab::{Lab, Peer};
use crate::network::{Pair, spec};
use crate::outer::{Outer, drive, inner_spec, plain};
use crate::rows::{Outcome, Plan};
use crate::work::Level;

/// How many times longer an emulated guest of an emulated guest may take.
const SLOW: f64 = 6.0;
/// Rounds of every probe there: one takes as long as ten do at other levels.
const ROUNDS: u32 = 1;
/// From the start of an L2 guest's QEMU to the first answer of its agent.
pub const ANSWER: &str = "guest, start to first answer";

/// L0 with itself and with L1: two namespaces and a guest behind our switch.
///
/// # Errors
/// When a part does not start, or does not answer.
pub fn first(plan: &Plan, outcome: &mut Outcome, limit: &Limit) -> Result<()> {
    let mut lab = Lab::new(&plan.state, &plan.kit.binaries)?;
    lab.rvms(false, limit)?;
    let mut config = String::from("name = \"r1\"\n[[network]]\nname = \"private\"\nvni = 100\n");
    for (n, name) in [(3, "h3"), (4, "h4")] {
        lab.add(name, limit)?;
        lab.veth((name, "eth0"), ("r1", &format!("p-{name}")), limit)?;
        lab.ip(name, "link set eth0 mtu 1450", limit)?;
        lab.ip(name, &format!("addr add 10.1.0.{n}/24 dev eth0"), limit)?;
        config += &format!(
            "[[port]]\nname = \"p-{name}\"\ninterface = \"p-{name}\"\nnetwork = \"private\"\nkind = \"packet\"\nbum_pps = 0\n"
        );
    }
    let nic = lab.nic(Peer::VhostUser, "r1", "g1", limit)?;
    let Nic::VhostUser(socket) = &nic else { bail!("no shared memory") };
    config += &format!(
        "[[port]]\nname = \"g1\"\nnetwork = \"private\"\nrole = \"guest\"\nmac = [\"{}\"]\nkind = \"vhostuser\"\nsocket = \"{}\"\nbum_pps = 0\n",
        mac("g1"),
        socket.display()
    );
    let switch = lab.ivswitchd("r1", &config, limit)?;
    let disk = disk(plan, "l1")?;
    let mut guest_spec = spec(plan, &lab, "r1", 1, nic);
    guest_spec.options = drive(&disk, "cache=none");
    let mut guest = Guest::start(&guest_spec, &lab.dir)?;
    guest.wait_up(Instant::now(), Duration::from_secs(90))?;
    let guests = vec![guest.pid()];
    let guest = Host::Guest(Arc::new(guest));
    guest.run("ip link set eth0 mtu 1450", Duration::from_secs(20), limit)?;
    let path = plan.kit.probe.parent().unwrap_or(Path::new("/")).to_owned();
    let [h3, h4] = ["h3", "h4"].map(|name| Host::Namespace { name: lab.name(name), path: path.clone() });
    let mut servers = Vec::new();
    for host in [&guest, &h3, &h4] {
        servers.extend(host.start("serve", limit)?);
    }
    let name = Peer::VhostUser.between_levels();
    for (scenario, from, to, address, back) in
        [("L0-L0", &h3, &h4, "10.1.0.4", None), ("L0-L1", &h3, &guest, "10.1.0.1", Some("10.1.0.3"))]
    {
        let (guests, switch) = (guests.clone(), switch.pids.clone());
        let pair = Pair { scenario, peer: name, from, to, address, back, guests, switch, slow: 1.0 };
        pair.measure(plan, outcome, limit)?;
    }
    let own_disk = self::disk(plan, "l0")?.display().to_string();
    for (name, host, address, disk) in
        [("L0", &h4, "10.1.0.4", own_disk.as_str()), ("L1", &guest, "10.1.0.1", "/dev/vda")]
    {
        let level = Level { name, host, client: &h3, address, disk, slow: 1.0 };
        level.measure(plan, outcome, limit);
    }
    Ok(())
}

/// A file of this machine for block I/O.
fn disk(plan: &Plan, name: &str) -> Result<PathBuf> {
    let path = plan.state.join(format!("{name}.disk"));
    std::fs::write(&path, vec![0x5a; 64 << 20]).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// Boots the later L2 guest at L1, and saves its state.
fn saved(plan: &Plan, peer: Peer, limit: &Limit) -> Result<PathBuf> {
    let mut lab = Lab::new(&plan.state, &plan.kit.binaries)?;
    lab.rvms(false, limit)?;
    let nic = lab.nic(peer, "r1", "i0", limit)?;
    let _switch = lab.switch(peer, "r1", &["i0"], false, limit)?;
    let mut spec = inner_spec(plan, "i0", nic, &plan.kit.small);
    spec.namespace = lab.name("r1");
    // The same devices as at L2.
    spec.options.extend(drive(&disk(plan, "inner")?, "cache=none"));
    let mut guest = Guest::start(&spec, &lab.dir)?;
    guest.wait_up(Instant::now(), Duration::from_secs(90))?;
    guest.run("(ivbench probe serve > /dev/null 2>&1 &)", Duration::from_secs(20))?;
    guest.run("ip link set eth0 mtu 1450", Duration::from_secs(20))?;
    let file = plan.state.join(format!("{}.state", peer.name()));
    guest.qmp("migrate-set-parameters", &json!({ "max-bandwidth": 1u64 << 34, "downtime-limit": 2000 }))?;
    guest.qmp("migrate", &json!({ "uri": format!("exec:cat > {}", file.display()) }))?;
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let about = guest.qmp("query-migrate", &json!({}))?;
        match about["status"].as_str() {
            Some("completed") => break,
            Some("failed" | "cancelled") => bail!("saving the guest: {about}"),
            _ => ensure!(Instant::now() < end, "saving the guest takes too long: {about}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // A disk consists of whole sectors.
    let len = std::fs::metadata(&file)?.len().next_multiple_of(4096);
    std::fs::OpenOptions::new().write(true).open(&file)?.set_len(len)?;
    Ok(file)
}

/// Starts `count` L1 guests behind our switch at L0, each with the files that it needs to have guests.
fn outers(
    plan: &Plan,
    lab: &mut Lab,
    peer: Peer,
    count: usize,
    limit: &Limit,
) -> Result<(Vec<Outer>, crate::lab::Running)> {
    let image = plan.kit.large.clone().map_err(|why| anyhow::anyhow!("no image for L1: {why}"))?;
    let state = saved(plan, peer, limit)?;
    lab.rvms(false, limit)?;
    let names: Vec<String> = (1..=count).map(|n| format!("g{n}")).collect();
    let mut specs = Vec::new();
    for n in 1..=count {
        let nic = lab.nic(Peer::VhostUser, "r1", &names[n - 1], limit)?;
        let mut spec = spec(plan, lab, "r1", n, nic);
        (spec.image, spec.memory, spec.cpus) = (image.clone(), 2048, if count == 1 { 2 } else { 1 });
        spec.options = drive(&state, "readonly=on");
        spec.options.extend(plain(plan));
        spec.options.extend(drive(&disk(plan, &format!("l2-{n}"))?, "cache=none"));
        specs.push(spec);
    }
    let short: Vec<&str> = names.iter().map(String::as_str).collect();
    let switch = if count == 1 {
        outside(lab, peer, limit)?
    } else {
        lab.switch(Peer::VhostUser, "r1", &short, false, limit)?
    };
    let since = Instant::now();
    let mut guests = Vec::new();
    for spec in &specs {
        guests.push(Guest::start(spec, &lab.dir)?);
    }
    let mut outers = Vec::new();
    for mut guest in guests {
        guest.wait_up(since, Duration::from_secs(120))?;
        outers.push(Outer { guest: Arc::new(guest), inner: Vec::new() });
    }
    Ok((outers, switch))
}

/// The switch outside of an L1 guest whose guests are also reached from L0: from the namespace `h3`, as 10.2.0.100.
fn outside(lab: &mut Lab, peer: Peer, limit: &Limit) -> Result<crate::lab::Running> {
    lab.add("h3", limit)?;
    lab.veth(("h3", "eth0"), ("r1", "p-h3"), limit)?;
    lab.ip("h3", "link set eth0 mtu 1450", limit)?;
    lab.ip("h3", "addr add 10.2.0.100/24 dev eth0", limit)?;
    if peer == Peer::Ovs {
        // The ports in L1 would pass unfinished checksums on to guests that accept only finished frames.
        run(lab.command("h3", "ethtool").args(["-K", "eth0", "tx", "off"]), Duration::from_secs(20), limit)?;
    }
    let config = format!(
        "name = \"r1\"\n[[network]]\nname = \"private\"\nvni = 100\n\
         [[port]]\nname = \"p-h3\"\ninterface = \"p-h3\"\nnetwork = \"private\"\nkind = \"packet\"\nbum_pps = 0\n\
         [[port]]\nname = \"g1\"\nnetwork = \"private\"\nrole = \"guest\"\nkind = \"vhostuser\"\nsocket = \"{}\"\n\
         bum_pps = 0\nmac = [\"{}\", \"{}\", \"{}\"]\n",
        lab.dir.join("g1.vhost").display(),
        mac("g1"),
        mac("i2"),
        mac("i3")
    );
    lab.ivswitchd("r1", &config, limit)
}

/// L1 with L2, L2 with itself and L0 with L2, in one rVM that is a guest.
///
/// # Errors
/// When a part does not start, or does not answer.
pub fn same(plan: &Plan, peer: Peer, outcome: &mut Outcome, limit: &Limit) -> Result<()> {
    let plan = &Plan { rounds: ROUNDS, ..plan.clone() };
    let mut lab = Lab::new(&plan.state, &plan.kit.binaries)?;
    let (mut outers, switch) = outers(plan, &mut lab, peer, 1, limit)?;
    let outer = outers.first_mut().context("an L1 guest")?;
    for seconds in outer.furnish(plan, peer, 1, &[2, 3], None, limit)? {
        outcome.add(Key::nested("L2", ANSWER, peer.name(), Metric::Seconds), seconds);
    }
    let own = Host::Guest(Arc::clone(&outer.guest));
    own.start("serve", limit)?;
    let path = plan.kit.probe.parent().unwrap_or(Path::new("/")).to_owned();
    let client = Host::Namespace { name: lab.name("h3"), path };
    let _server = client.start("serve", limit)?;
    let name = peer.between_levels();
    let pairs = [
        ("L1-L2", &own, &outer.inner[0], "10.2.0.2", Some("10.2.0.1")),
        ("L2-L2", &outer.inner[0], &outer.inner[1], "10.2.0.3", None),
        ("L0-L2", &client, &outer.inner[0], "10.2.0.2", Some("10.2.0.100")),
    ];
    for (scenario, from, to, address, back) in pairs {
        let (guests, switch) = (vec![outer.guest.pid()], switch.pids.clone());
        let pair = Pair { scenario, peer: name, from, to, address, back, guests, switch, slow: SLOW };
        outcome.attempt(scenario, |outcome| pair.measure(plan, outcome, limit));
    }
    if peer == Peer::VhostUser {
        let (host, address, disk) = (&outer.inner[0], "10.2.0.2", "/dev/vda");
        let level = Level { name: "L2", host, client: &client, address, disk, slow: SLOW };
        level.measure(plan, outcome, limit);
    }
    Ok(())
}

/// L1 with L2 and L2 with itself, across the tunnel between two rVMs that are guests.
///
/// # Errors
/// When a part does not start, or does not answer.
pub fn vxlan(plan: &Plan, peer: Peer, outcome: &mut Outcome, limit: &Limit) -> Result<()> {
    let plan = &Plan { rounds: ROUNDS, ..plan.clone() };
    let mut lab = Lab::new(&plan.state, &plan.kit.binaries)?;
    let (mut outers, switch) = outers(plan, &mut lab, peer, 2, limit)?;
    let ends = ["10.1.0.1", "10.1.0.2"];
    outers[0].furnish(plan, peer, 1, &[2], Some((ends[0], ends[1])), limit)?;
    outers[1].furnish(plan, peer, 4, &[5], Some((ends[1], ends[0])), limit)?;
    let name = peer.between_levels();
    let own = Host::Guest(Arc::clone(&outers[0].guest));
    let pids: Vec<u32> = outers.iter().map(|outer| outer.guest.pid()).collect();
    for (scenario, from, to) in [
        ("L1-L2 vxlan", &own, &outers[1].inner[0]),
        ("L2-L2 vxlan", &outers[0].inner[0], &outers[1].inner[0]),
    ] {
        let (guests, switch) = (pids.clone(), switch.pids.clone());
        let (address, back) = ("10.2.0.5", None);
        let pair = Pair { scenario, peer: name, from, to, address, back, guests, switch, slow: SLOW };
        outcome.attempt(scenario, |outcome| pair.measure(plan, outcome, limit));
    }
    Ok(())
}

//! Guests of guests: an L1 guest that runs our switch (or a Linux bridge) and QEMU, with L2 guests in it.
//!
//! Where both levels are emulated, an L2 guest takes minutes to boot. It is booted once at L1, the same QEMU with the
//! same devices, and its state saved; at L2 it goes on from there, a few seconds later.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bench::process::Limit;
use bench::results::{Key, Metric};
use serde_json::json;

use crate::guest::{Guest, Nic, Spec, arguments, mac};
use crate::host::Host;
use crate::lab::{Lab, Peer};
use crate::level::Accel;
use crate::network::{Pair, spec};
use crate::rows::{Outcome, Plan};
use crate::work::Level;

/// How much longer an emulated guest of an emulated guest may take.
const SLOW: f64 = 6.0;
/// Where an L1 guest keeps what its guests need.
const INNER: &str = "/inner";
/// What is said of QEMU there when it ends.
const ENDED: &str = "QEMU ended with exit code";
/// The processor of an emulated guest of these rows, L1 or L2, as the last `-cpu` says: little, so that QEMU in L1 writes
/// plain code, and the C library of L2 chooses plain loops; newer instructions are long functions of the emulator.
const PLAIN: &str = "qemu64,+rdrand,-cx16";
/// How long the first answer of an L2 guest may take: emulated twice, its kernel and shell are translated anew first.
const FIRST_ANSWER: Duration = Duration::from_secs(200);
/// MiB of an L2 guest.
const INNER_MEMORY: u32 = 192;

/// From the start of an L2 guest's QEMU to the first answer of its agent.
pub const ANSWER: &str = "guest, start to first answer";
/// Who switches in the table of levels, where it is ours.
pub const OURS: &str = "ivswitch";

/// L0 with itself and with L1: two namespaces and a guest behind our switch.
///
/// # Errors
/// Something does not start, or does not answer.
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
    for (scenario, from, to, address, back) in
        [("L0-L0", &h3, &h4, "10.1.0.4", None), ("L0-L1", &h3, &guest, "10.1.0.1", Some("10.1.0.3"))]
    {
        let (guests, switch) = (guests.clone(), switch.pids.clone());
        let pair = Pair { scenario, peer: OURS, from, to, address, back, guests, switch, slow: 1.0 };
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

/// QEMU's options for a disk.
fn drive(path: &Path, more: &str) -> Vec<String> {
    vec!["-drive".into(), format!("file={},format=raw,if=virtio,{more}", path.display())]
}

/// What an L2 guest is; the same at the level where its state is made and at the one where it goes on.
fn inner_spec(plan: &Plan, name: &str, nic: Nic, image: &Path) -> Spec {
    Spec {
        name: name.into(),
        namespace: String::new(),
        accel: plan.found.accel,
        nic,
        mac: mac(name),
        address: "10.2.0.99/24".into(),
        memory: INNER_MEMORY,
        cpus: 1,
        image: image.into(),
        words: String::new(),
        options: plain(plan),
    }
}

/// QEMU's options for the processor.
fn plain(plan: &Plan) -> Vec<String> {
    match plan.found.accel {
        Accel::Kvm => Vec::new(),
        Accel::Tcg => vec!["-cpu".into(), PLAIN.into()],
    }
}

/// Boots what will be an L2 guest at L1, and saves it.
fn saved(plan: &Plan, peer: Peer, limit: &Limit) -> Result<PathBuf> {
    let mut lab = Lab::new(&plan.state, &plan.kit.binaries)?;
    lab.rvms(false, limit)?;
    let nic = lab.nic(peer, "r1", "i0", limit)?;
    let _switch = lab.switch(peer, "r1", &["i0"], false, limit)?;
    let mut spec = inner_spec(plan, "i0", nic, &plan.kit.small);
    spec.namespace = lab.name("r1");
    // The same devices as there.
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
    // A disk is of whole sectors.
    let len = std::fs::metadata(&file)?.len().next_multiple_of(4096);
    std::fs::OpenOptions::new().write(true).open(&file)?.set_len(len)?;
    Ok(file)
}

/// An L1 guest with guests.
struct Outer {
    guest: Arc<Guest>,
    inner: Vec<Host>,
}

fn quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
}

impl Outer {
    fn run(&self, command: &str, limit: &Limit) -> Result<String> {
        Host::Guest(Arc::clone(&self.guest)).run(command, Duration::from_secs(60), limit)
    }

    /// The switch and the guests in it. Guest `n` of them has the address 10.2.0.`n`, the door 10.2.0.`door`. How many
    /// seconds passed until each answered.
    fn furnish(
        &mut self,
        plan: &Plan,
        peer: Peer,
        door: u32,
        guests: &[u32],
        far: Option<(&str, &str)>,
        limit: &Limit,
    ) -> Result<Vec<f64>> {
        let vhost = |n: &u32| format!("{INNER}/i{n}.vhost");
        if peer == Peer::VhostUser {
            let mut config = String::from("name = \"l1\"\n");
            if let Some((own, far)) = far {
                config += &format!(
                    "[uplink]\ninterface = \"eth0\"\naddress = \"{own}\"\nkind = \"packet\"\n[[peer]]\nname = \"far\"\naddress = \"{far}\"\n"
                );
            }
            config += "[[network]]\nname = \"private\"\nvni = 100\n";
            config += &format!(
                "[[port]]\nname = \"d1\"\nnetwork = \"private\"\nkind = \"tap\"\nmtu = 1450\naddress = [\"10.2.0.{door}/24\"]\nbum_pps = 0\n"
            );
            if far.is_none() {
                config += "[[port]]\nname = \"eth0\"\ninterface = \"eth0\"\nnetwork = \"private\"\nkind = \"packet\"\nbum_pps = 0\n";
            }
            for n in guests {
                config += &format!(
                    "[[port]]\nname = \"i{n}\"\nnetwork = \"private\"\nrole = \"guest\"\nmac = [\"{}\"]\nkind = \"vhostuser\"\nsocket = \"{}\"\nbum_pps = 0\n",
                    mac(&format!("i{n}")),
                    vhost(n)
                );
            }
            let text = crate::probe::agent::packed(&config);
            // Hexadecimal passes every shell; xxd is busybox's.
            self.run(&format!("echo {text} | xxd -r -p > {INNER}/config.toml"), limit)?;
            self.run(
                &format!(
                    "(ivswitchd --config {INNER}/config.toml --socket {INNER}/sock > {INNER}/log 2>&1 &)"
                ),
                limit,
            )?;
            let status = format!(
                "for n in $(seq 60); do ivctl --socket {INNER}/sock status > /dev/null 2>&1 && exit 0; sleep 0.3; done; tail -3 {INNER}/log; exit 1"
            );
            self.run(&status, limit).context("the switch at L1")?;
        } else {
            let ip = "/usr/bin/ip";
            let mut words = format!(
                "set -e; {ip} link add br0 type bridge; {ip} link set br0 up; {ip} addr add 10.2.0.{door}/24 dev br0; {ip} link set br0 mtu 1450"
            );
            for n in guests {
                words += &format!(
                    "; {ip} tuntap add dev tap-i{n} mode tap vnet_hdr; {ip} link set tap-i{n} up; {ip} link set tap-i{n} master br0"
                );
            }
            if let Some((own, far)) = far {
                words += &format!(
                    "; {ip} link add vx type vxlan id 100 local {own} remote {far} dstport 4789 dev eth0; {ip} link set vx mtu 1450 master br0; {ip} link set vx up"
                );
            }
            if far.is_none() {
                words += &format!("; {ip} addr flush dev eth0; {ip} link set eth0 master br0");
            }
            self.run(&words, limit).context("the bridge at L1")?;
        }
        for n in guests {
            let nic = if peer == Peer::VhostUser {
                Nic::VhostUser(vhost(n).into())
            } else {
                Nic::Tap(format!("tap-i{n}"))
            };
            let mut spec = inner_spec(plan, &format!("i{n}"), nic, Path::new(INNER));
            // One of them has the disk that is measured; the devices of all are those of the saved one.
            let own = format!("{INNER}/i{n}.disk");
            let (disk, more) = match guests.first() == Some(n) {
                true => ("/dev/vdb", "cache=none"),
                false => (own.as_str(), "cache=writeback"),
            };
            self.run(&format!("truncate -s 64M {own}"), limit)?;
            spec.options.extend(drive(Path::new(disk), more));
            if plan.found.accel == Accel::Tcg {
                spec.options.extend(["-incoming".into(), "exec:cat /dev/vda".into()]);
            }
            // QEMU would take an eighth of the memory for translated code; there is not so much of it in a guest.
            let accel = spec.accel.qemu();
            let limited = format!("{accel},tb-size=128");
            let words = arguments(&spec, Path::new(INNER)).into_iter();
            let words: Vec<String> =
                words.map(|word| if word == accel { limited.clone() } else { word }).collect();
            let words = quoted(&words);
            let log = format!("{INNER}/i{n}.qemu");
            let start = format!("((qemu-system-x86_64 {words}; echo \"{ENDED} $?\") > {log} 2>&1 &)");
            self.run(&start, limit)?;
        }
        let since = Instant::now();
        let mut answered = Vec::new();
        for n in guests {
            let host = Host::Inner { outer: Arc::clone(&self.guest), socket: format!("{INNER}/i{n}.agent") };
            let end = Instant::now() + FIRST_ANSWER;
            // One program: to start one takes seconds there.
            let setup = format!(
                "ifconfig eth0 hw ether {} 10.2.0.{n} netmask 255.255.255.0 up",
                mac(&format!("i{n}"))
            );
            // One question, and patience: what is asked again is done again, after all that was asked before.
            while let Err(why) = host.run(&setup, end.saturating_duration_since(Instant::now()), limit) {
                let said = self.run(&format!("cat {INNER}/i{n}.qemu"), limit).unwrap_or_default();
                if limit.interrupted() || Instant::now() > end || said.contains(ENDED) {
                    let look = format!(
                        "grep -v '^/ #' {INNER}/i{n}.console | tail -n 60; dmesg | tail -n 3; free -m | head -n 2"
                    );
                    let about = self.run(&look, limit).unwrap_or_default();
                    return Err(why)
                        .with_context(|| format!("the L2 guest i{n}: {}\n{}", said.trim(), about.trim()));
                }
                std::thread::sleep(Duration::from_millis(500));
            }
            answered.push(since.elapsed().as_secs_f64());
            self.inner.push(host);
        }
        Ok(answered)
    }
}

/// Starts `count` L1 guests behind our switch at L0, each with what it takes to have guests.
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
        outside(lab, limit)?
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

/// The switch of an L1 guest whose guests are reached from L0, too: from the namespace `h3`, as 10.2.0.100.
fn outside(lab: &mut Lab, limit: &Limit) -> Result<crate::lab::Running> {
    lab.add("h3", limit)?;
    lab.veth(("h3", "eth0"), ("r1", "p-h3"), limit)?;
    lab.ip("h3", "link set eth0 mtu 1450", limit)?;
    lab.ip("h3", "addr add 10.2.0.100/24 dev eth0", limit)?;
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

/// L1 with L2 and L2 with itself, in one rVM that is a guest; where our switch is at every level, L0 with L2, too.
///
/// # Errors
/// Something does not start, or does not answer.
pub fn same(plan: &Plan, peer: Peer, outcome: &mut Outcome, limit: &Limit) -> Result<()> {
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
    let name = if peer == Peer::VhostUser { OURS } else { peer.name() };
    let mut pairs = vec![
        ("L1-L2", &own, &outer.inner[0], "10.2.0.2", Some("10.2.0.1")),
        ("L2-L2", &outer.inner[0], &outer.inner[1], "10.2.0.3", None),
    ];
    if peer == Peer::VhostUser {
        pairs.push(("L0-L2", &client, &outer.inner[0], "10.2.0.2", Some("10.2.0.100")));
    }
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
/// Something does not start, or does not answer.
pub fn vxlan(plan: &Plan, peer: Peer, outcome: &mut Outcome, limit: &Limit) -> Result<()> {
    let mut lab = Lab::new(&plan.state, &plan.kit.binaries)?;
    let (mut outers, switch) = outers(plan, &mut lab, peer, 2, limit)?;
    let ends = ["10.1.0.1", "10.1.0.2"];
    outers[0].furnish(plan, peer, 1, &[2], Some((ends[0], ends[1])), limit)?;
    outers[1].furnish(plan, peer, 4, &[5], Some((ends[1], ends[0])), limit)?;
    let own = Host::Guest(Arc::clone(&outers[0].guest));
    let name = if peer == Peer::VhostUser { OURS } else { peer.name() };
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

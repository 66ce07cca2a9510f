//! An L1 guest that has guests: the switch in it, and QEMU with the L2 guests.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bench::process::Limit;

use crate::guest::{Guest, Nic, Spec, arguments, mac};
use crate::host::Host;
use crate::lab::{OVS_SCHEMA, Peer};
use crate::level::Accel;
use crate::probe::agent::packed;
use crate::rows::Plan;

/// The directory of an L1 guest with the files of its guests.
const INNER: &str = "/inner";
/// The text that is written to QEMU's log there when QEMU ends.
const ENDED: &str = "QEMU ended with exit code";
/// The processor of an emulated guest of these rows, L1 or L2, as the last `-cpu` option. It has few features, so
/// that QEMU in L1 generates plain code and the C library of L2 chooses plain loops; newer instructions are slow in
/// the emulator.
const PLAIN: &str = "qemu64,+rdrand,-cx16";
/// The limit for the first answer of an L2 guest: its kernel and shell are translated again, by two emulators.
const FIRST_ANSWER: Duration = Duration::from_secs(200);
/// Memory of an L2 guest, in MiB.
const INNER_MEMORY: u32 = 192;
/// The `ip` of iproute2 instead of busybox's.
const IP: &str = "/usr/bin/ip";

/// QEMU's options for a disk.
pub fn drive(path: &Path, more: &str) -> Vec<String> {
    vec!["-drive".into(), format!("file={},format=raw,if=virtio,{more}", path.display())]
}

/// An L2 guest; the same at the level where its state is made and at the one where it continues.
pub fn inner_spec(plan: &Plan, name: &str, nic: Nic, image: &Path) -> Spec {
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
pub fn plain(plan: &Plan) -> Vec<String> {
    match plan.found.accel {
        Accel::Kvm => Vec::new(),
        Accel::Tcg => vec!["-cpu".into(), PLAIN.into()],
    }
}

/// An L1 guest that has guests.
pub struct Outer {
    /// The L1 guest.
    pub guest: Arc<Guest>,
    /// Its guests, after they have answered.
    pub inner: Vec<Host>,
}

fn quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
}

impl Outer {
    fn run(&self, command: &str, limit: &Limit) -> Result<String> {
        Host::Guest(Arc::clone(&self.guest)).run(command, Duration::from_secs(60), limit)
    }

    /// Starts the switch and the guests in it. Guest `n` has the address 10.2.0.`n`, this guest itself 10.2.0.`door`;
    /// `far` has the addresses of both ends of a tunnel. Gives the seconds until each guest answered.
    ///
    /// # Errors
    /// When a part does not start, or does not answer.
    /// Something does not start, or does not answer.
    pub fn furnish(
        &mut self,
        plan: &Plan,
        peer: Peer,
        door: u32,
        guests: &[u32],
        far: Option<(&str, &str)>,
        limit: &Limit,
    ) -> Result<Vec<f64>> {
        let taps = |kind: &str| -> String {
            let one =
                |n| format!("{IP} tuntap add dev tap-i{n} mode tap {kind}; {IP} link set tap-i{n} up; ");
            guests.iter().map(one).collect()
        };
        let words = match peer {
            Peer::VhostUser => ours(peer, door, guests, far),
            Peer::Tap => taps("vnet_hdr") + &ours(peer, door, guests, far),
            Peer::Bridge => taps("vnet_hdr") + &bridge(door, guests, far),
            Peer::Ovs => taps("") + &ovs(door, guests, far),
        };
        self.run(&format!("set -e; {words}"), limit).with_context(|| format!("{} at L1", peer.name()))?;
        for n in guests {
            let nic = match peer {
                Peer::VhostUser => Nic::VhostUser(vhost(*n).into()),
                Peer::Tap | Peer::Bridge => Nic::Tap(format!("tap-i{n}")),
                Peer::Ovs => Nic::PlainTap(format!("tap-i{n}")),
            };
            let mut spec = inner_spec(plan, &format!("i{n}"), nic, Path::new(INNER));
            // One guest has the disk that is measured; all have the devices of the saved one.
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
            // By default QEMU takes an eighth of the memory for translated code, which is more than a guest has.
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
            // One program only, because starting a program takes seconds there.
            let setup = format!(
                "ifconfig eth0 hw ether {} 10.2.0.{n} netmask 255.255.255.0 up",
                mac(&format!("i{n}"))
            );
            // Asked as rarely as possible: each repetition runs the command again, after all earlier ones.
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

/// The socket where QEMU listens for our switch.
fn vhost(n: u32) -> String {
    format!("{INNER}/i{n}.vhost")
}

/// The commands that start our switch.
fn ours(peer: Peer, door: u32, guests: &[u32], far: Option<(&str, &str)>) -> String {
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
        let kind = match peer {
            Peer::VhostUser => format!("kind = \"vhostuser\"\nsocket = \"{}\"", vhost(*n)),
            _ => format!("kind = \"packet\"\ninterface = \"tap-i{n}\""),
        };
        let mac = mac(&format!("i{n}"));
        config += &format!(
            "[[port]]\nname = \"i{n}\"\nnetwork = \"private\"\nrole = \"guest\"\nmac = [\"{mac}\"]\n{kind}\nbum_pps = 0\n"
        );
    }
    // Hexadecimal text passes every shell unchanged; xxd is busybox's.
    let text = packed(&config);
    format!(
        "echo {text} | xxd -r -p > {INNER}/config.toml; \
         (ivswitchd --config {INNER}/config.toml --socket {INNER}/sock > {INNER}/log 2>&1 &); \
         for n in $(seq 60); do ivctl --socket {INNER}/sock status > {INNER}/status 2>&1 && break; sleep 0.3; done; \
         if ! grep -q live {INNER}/status || grep ' failed ' {INNER}/status; then tail -n 3 {INNER}/log; exit 1; fi"
    )
}

/// The commands that make a Linux bridge.
fn bridge(door: u32, guests: &[u32], far: Option<(&str, &str)>) -> String {
    let mut words = format!(
        "{IP} link add br0 type bridge; {IP} link set br0 up; {IP} addr add 10.2.0.{door}/24 dev br0; \
         {IP} link set br0 mtu 1450"
    );
    for n in guests {
        words += &format!("; {IP} link set tap-i{n} master br0");
    }
    words
        + &match far {
            Some((own, far)) => format!(
                "; {IP} link add vx type vxlan id 100 local {own} remote {far} dstport 4789 dev eth0; \
                 {IP} link set vx mtu 1450 master br0; {IP} link set vx up"
            ),
            None => format!("; {IP} addr flush dev eth0; {IP} link set eth0 master br0"),
        }
}

/// The commands that start Open vSwitch's userspace datapath. Its ports only read frames along with the kernel, which
/// must not answer them too: so the kernel has no address there, and neither answers nor listens for one that it has
/// on another interface. As an rVM it has the MAC of its NIC, the only one that the provider lets out.
fn ovs(door: u32, guests: &[u32], far: Option<(&str, &str)>) -> String {
    let dir = format!("{INNER}/ovs");
    let vs = format!("ovs-vsctl --db=unix:{dir}/db.sock --timeout=20");
    let add = |bridge: &str| format!("{vs} add-br {bridge} -- set bridge {bridge} datapath_type=netdev");
    let mut words = format!(
        "mkdir -p {dir}; export OVS_RUNDIR={dir} OVS_LOGDIR={dir} OVS_DBDIR={dir} OVS_SYSCONFDIR={dir}; \
         cd /proc/sys/net/ipv4/conf/all; echo 1 > arp_ignore; echo 1 > rp_filter; ethtool -K eth0 gro off tx off > {dir}/log 2>&1; \
         ovsdb-tool create {dir}/conf.db {OVS_SCHEMA}; \
         (ovsdb-server {dir}/conf.db --remote=punix:{dir}/db.sock > {dir}/log 2>&1 &); \
         for n in $(seq 60); do test -S {dir}/db.sock && break; sleep 0.3; done; {vs} --no-wait init; \
         (ovs-vswitchd unix:{dir}/db.sock > {dir}/log 2>&1 &); {}",
        add("br0")
    );
    for n in guests {
        words += &format!("; {vs} add-port br0 tap-i{n}");
    }
    words += &match far {
        Some((own, far)) => format!(
            "; {} other-config:hwaddr=$(cat /sys/class/net/eth0/address); {vs} add-port br-phy eth0; \
             {IP} addr flush dev eth0; {IP} link set br-phy up; {IP} addr add {own}/24 dev br-phy; \
             {vs} add-port br0 vx -- set interface vx type=vxlan options:remote_ip={far} options:key=100 options:dst_port=4789",
            add("br-phy")
        ),
        None => format!("; {vs} add-port br0 eth0; {IP} addr flush dev eth0"),
    };
    words
        + &format!(
            "; {IP} link set br0 mtu 1450; {IP} link set br0 up; {IP} addr add 10.2.0.{door}/24 dev br0"
        )
}

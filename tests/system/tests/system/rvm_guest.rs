//! An rVM that is itself a guest: the switch runs in it, with native XDP on its virtio NIC, in copy mode and with
//! zero-copy.
//!
//! The far rVM is a namespace of this machine with the kernel's own `vxlan`, behind the TAP that is the guest's NIC.
//! In the rVM a namespace of its own stands for an L2 guest, behind a door. The rVM's second NIC, a port, is in the
//! segment of a customer's site, and filters by MAC as real ones do.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use system::{
    Guest, Lab, Libvirt, Namespace, RvmKernel, RvmSpec, Session, assert_conserved, rvm_image, wait_for,
};

const RVM: &str = "10.0.0.11";
const FAR: &str = "10.0.0.12";
/// The L2 namespace in the rVM, and the far end of its segment.
const INNER: &str = "10.1.0.1";
const OUTER: &str = "10.1.0.2";
/// A machine of the site.
const SITE: &str = "10.1.0.3";
const MEGABYTES: u32 = 4;
/// How long an answer of an undisturbed session may take: TCP's first retransmission, emulated.
const DISTURBED: Duration = Duration::from_secs(3);

/// The rVM, and the cloud around it.
struct Cloud {
    far: Namespace,
    site: Namespace,
    rvm: Guest,
    busybox: PathBuf,
    /// Serves files to the L2 namespace.
    httpd: Child,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.httpd.kill();
        let _ = self.httpd.wait();
    }
}

impl Cloud {
    fn new(lab: &Lab, kernel: RvmKernel, queues: u32, options: &str) -> Self {
        let far = lab.namespace("far");
        let address = format!("{RVM}/16");
        let spec = RvmSpec { kernel, tap: "cloud", lan: "lan", address: &address, queues, options };
        let mut rvm = Guest::start_rvm(lab, &far, spec);
        far.ip(&format!("addr add {FAR}/16 dev cloud"));
        far.ip(&format!("link add vx type vxlan id 100 local {FAR} remote {RVM} dstport 4789 dev cloud"));
        far.ip("link set vx mtu 1450 up");
        far.ip(&format!("addr add {OUTER}/24 dev vx"));
        let files = lab.dir().join("files");
        std::fs::create_dir(&files).expect("a directory of ours");
        let mut random = vec![0; (MEGABYTES as usize) << 20];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").expect("there"), &mut random)
            .expect("random bytes");
        std::fs::write(files.join("sent"), random).expect("a file of ours");
        let busybox = rvm_image(kernel).join("busybox");
        let mut httpd = far.command(&busybox);
        httpd.args(["httpd", "-f", "-p", "5000", "-h"]).arg(&files).stdin(Stdio::null());
        let httpd = httpd.spawn().expect("running busybox");
        rvm.wait_up();
        let site = lab.namespace("site");
        far.ip(&format!("link set lan netns {}", site.name()));
        site.ip("link set lan mtu 1450 up");
        site.ip(&format!("addr add {SITE}/24 dev lan"));
        // The distribution's `ip` supports namespaces, busybox's does not.
        let inner = format!(
            "set -e; ip=/usr/bin/ip; $ip netns add l2; $ip link add p-l2 type veth peer name eth0 netns l2; \
             $ip link set p-l2 mtu 1450 up; $ip -n l2 link set eth0 mtu 1450 up; \
             $ip -n l2 addr add {INNER}/24 dev eth0; $ip link set eth1 mtu 1450 up"
        );
        rvm.run(&inner);
        Self { far, site, rvm, busybox, httpd }
    }

    /// Starts the switch in the rVM; gives the mode of its uplink.
    fn start_switch(&mut self) -> String {
        let config = format!(
            "name = \"rvm\"\n[uplink]\ninterface = \"eth0\"\naddress = \"{RVM}\"\n\
             [[peer]]\nname = \"far\"\naddress = \"{FAR}\"\n[[network]]\nname = \"private\"\nvni = 100\n\
             [[port]]\nname = \"l2\"\nnetwork = \"private\"\ninterface = \"p-l2\"\n\
             [[port]]\nname = \"lan\"\nnetwork = \"private\"\ninterface = \"eth1\"\n"
        );
        let hex: String = config.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.rvm.run(&format!("echo {hex} | xxd -r -p > /run/config.toml"));
        self.rvm.run("(ivswitchd --config /run/config.toml --socket /run/ivs >> /run/log 2>&1 &)");
        let mut status = Value::Null;
        wait_for("the rVM's ports to be live", || {
            let (code, text) = self.rvm.try_run("ivctl --socket /run/ivs -j status");
            status = serde_json::from_str(&text).unwrap_or_default();
            let rows = status["ports"].as_array().cloned().unwrap_or_default();
            [0, 8].contains(&code)
                && ["uplink", "l2", "lan"]
                    .iter()
                    .all(|port| rows.iter().any(|row| row["ifname"] == **port && row["state"] == "live"))
        });
        let rows = status["ports"].as_array().cloned().unwrap_or_default();
        let uplink = rows.iter().find(|row| row["ifname"] == "uplink").expect("it is live");
        uplink["mode"].as_str().expect("a mode").to_owned()
    }

    /// Checks that the L2 namespace and the far one reach each other, and that a file goes either way unchanged.
    fn forwards(&mut self, lab: &Lab) {
        let start = Instant::now();
        wait_for("the L2 namespace to be reached", || self.far.ping(&format!("-c 1 -W 1 {INNER}")) == 1);
        let reached = start.elapsed();
        // the second NIC accepts frames for MACs behind it, of the rVM and of its peers.
        for address in [INNER, OUTER] {
            self.site.reaches(address);
        }
        let sent = lab.dir().join("files/sent");
        let inner = "/usr/bin/ip netns exec l2";
        let received = self
            .rvm
            .run(&format!("{inner} wget -q -O /tmp/got http://{OUTER}:5000/sent; sha256sum < /tmp/got"));
        let sum = |path| {
            let text = self.far.command("sha256sum").arg(path).output().expect("running sha256sum").stdout;
            String::from_utf8_lossy(&text).split(' ').next().expect("a sum").to_owned()
        };
        assert_eq!(received.split(' ').next(), Some(&*sum(sent.clone())), "to the L2 namespace");
        self.rvm.run(&format!("{inner} sh -c 'httpd -p 5000 -h /tmp'"));
        let back = lab.dir().join("back");
        let mut wget = self.far.command("timeout");
        wget.arg("20").arg(&self.busybox).args(["wget", "-q", "-O"]).arg(&back);
        let status = wget.arg(format!("http://{INNER}:5000/got")).status().expect("running busybox");
        assert!(status.success(), "wget from the L2 namespace: {status}");
        assert_eq!(sum(back), sum(sent), "from the L2 namespace");
        self.rvm.run(&format!("kill $(pidof httpd); {inner} true"));
        eprintln!("reached in {reached:?}, 2 x {MEGABYTES} MiB after {:?}", start.elapsed());
    }

    fn has_program(&mut self) -> bool {
        self.rvm.run("/usr/bin/ip link show eth0").contains("prog/xdp")
    }
}

/// The story of both tests.
fn runs_in_a_guest(lab: &Lab, mut cloud: Cloud, mode: &str) {
    // A login session at the rVM: its kernel's TCP, with which the switch shares the NIC.
    cloud.rvm.run("(nc -ll -p 22 -e cat > /dev/null 2>&1 &)");
    cloud.far.reaches(RVM);
    let login = Session::with(&cloud.far, format!("{RVM}:22").parse().expect("an address"));
    let found = cloud.start_switch();
    assert!(
        found.starts_with(mode),
        "the uplink is {found:?}, not {mode:?}: {}",
        cloud.rvm.run("cat /run/log")
    );
    assert!(cloud.has_program());
    login.assert_alive("when the switch started");
    cloud.forwards(lab);
    login.assert_alive("while the switch forwards");

    cloud.rvm.run("kill -9 $(pidof ivswitchd)");
    wait_for("the program to go with the switch", || !cloud.has_program());
    login.assert_alive("when the switch was killed");
    assert_eq!(cloud.start_switch(), found);
    cloud.forwards(lab);
    login.assert_alive("when the switch was back");

    let status = {
        let mut last = Value::Null;
        wait_for("frames to come to rest", || {
            let (_, text) = cloud.rvm.try_run("ivctl --socket /run/ivs -j status");
            let now: Value = serde_json::from_str(&text).expect("JSON");
            let same = now["frames"] == last["frames"] && now["frames"]["queued"] == 0;
            last = now;
            same
        });
        last
    };
    assert_conserved(&status);
    let drops = status["drops"].as_array().cloned().unwrap_or_default();
    // A driver that finds no slot and tries again has lost nothing.
    let lost = drops.iter().find(|row| row["port"] == "uplink" && row["reason"] == "kernel-no-slots");
    assert!(lost.is_none() || !mode.contains("zero"), "{lost:?}");
    let longest = login.finish();
    eprintln!("{found}: the longest that an answer of the rVM's kernel took: {longest:?}");
    assert!(longest < DISTURBED, "an answer of the rVM's kernel took {longest:?}");
    cloud.rvm.run(
        "kill $(pidof ivswitchd); for n in $(seq 100); do pidof ivswitchd || exit 0; sleep 0.1; done; exit 1",
    );
    let log = cloud.rvm.run("cat /run/log");
    assert!(!log.contains("panicked") && !log.contains(" ERROR "), "{log}");
}

/// A NIC of four queue pairs, two of them in use, and the kernel of Debian's stable release: native XDP, in copy
/// mode, because that kernel's virtio driver has no other; the port reports that.
#[test]
fn an_rvm_that_is_a_guest_forwards_in_copy_mode() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let mut cloud = Cloud::new(&lab, RvmKernel::Stable, 4, "");
    cloud.rvm.run("ethtool -L eth0 combined 2");
    runs_in_a_guest(&lab, cloud, "native, copy");
}

/// The same where kernel and NIC support zero-copy.
#[test]
fn an_rvm_that_is_a_guest_forwards_with_zero_copy() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let cloud = Cloud::new(&lab, RvmKernel::Newest, 1, ",iommu_platform=on");
    runs_in_a_guest(&lab, cloud, "native, zero-copy");
}

//! Guests' NICs made by `ivctl guest`: in shared memory unless a TAP is requested, with addresses from the switch;
//! and the guest of a newcomer.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use system::{BOOT, GuestShell, Lab, Libvirt, guest_image, wait_until};

use crate::libvirt::Rvm;
use crate::topology::{host, port};

/// A guest on a network with DHCP, created without options for its NIC: it shares memory with the switch, gets its
/// address and MTU by DHCP, keeps its link while the switch dies and returns, accepts another such NIC and one by TAP
/// while it runs, and leaves nothing behind.
#[test]
fn i06_guests_share_memory_unless_told_otherwise() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let namespace = lab.namespace("rvm");
    let h1 = host(&lab, &namespace, "h1", &["10.1.0.1/24"]);
    let network =
        "[[network]]\nname = \"leased\"\nvni = 300\ngateway = [\"10.1.0.254\"]\ndhcp = [\"10.1.0.0/24\"]\n";
    let mut rvm = Rvm::start(&lab, &namespace, "rvm1", &(network.to_owned() + &port("h1", "leased")));
    let before = rvm.everything();
    // Socket names are shared by the whole machine, so this test has its own.
    let name = format!("vu{}", std::process::id());
    let (agent, image) = (lab.dir().join("agent"), guest_image().display().to_string());
    rvm.does(
        0,
        &format!(
            "guest create {name} --image {image} --memory 160M --accel tcg --timeout 20 --nic leased,ip=10.1.0.5 \
             --append iv.ip=dhcp --channel ivswitch.agent={}",
            agent.display()
        ),
    );
    let shell = GuestShell::at(&agent);
    let first = format!("{name}-0");
    let kind = |port: &str| rvm.switch.json(&format!("port show {port}"))[0]["kind"].clone();
    assert_eq!(kind(&first), "vhostuser");
    assert!(!namespace.has_link(&first), "no TAP is made for it");
    assert_eq!(shell.run("true").0, 0);
    h1.reaches("10.1.0.5");
    let route = shell.run("ip route").1;
    assert!(route.contains("default via 10.1.0.254"), "by DHCP: {route}");

    let carrier = || shell.run("cat /sys/class/net/eth0/carrier_changes /sys/class/net/eth0/carrier").1;
    let noted = carrier();
    rvm.switch.kill();
    rvm.switch.start_again();
    h1.reaches("10.1.0.5");
    assert_eq!(carrier(), noted, "the guest's link never dropped");

    // The second NIC takes the place of the first, under the first one's name.
    let (eth, port) = ("eth1", format!("{name}-1"));
    for (last, more, wanted) in [(6, "", "vhostuser"), (7, ",kind=packet", "packet")] {
        rvm.does(0, &format!("guest attach {name} --nic leased,ip=10.1.0.{last}{more} --timeout 20"));
        assert_eq!(rvm.switch.json(&format!("port show {port}"))[0]["kind"], wanted);
        assert_eq!(namespace.has_link(&port), wanted == "packet");
        // The only active NIC in the guest, so that the answers come from this one.
        let up = format!(
            "ip link set {eth} up && ip addr add 10.1.0.{last}/24 dev {eth} && ip link set eth0 down"
        );
        assert!(wait_until(BOOT, || shell.run(&up).0 == 0), "the guest sees {eth}");
        h1.reaches(&format!("10.1.0.{last}"));
        shell.run(&format!("ip link set {eth} down; ip link set eth0 up"));
        rvm.does(0, &format!("guest detach {name} --nic {port}"));
        assert_ne!(shell.run(&format!("ls /sys/class/net/{eth}")).0, 0, "it is gone in the guest too");
    }
    h1.reaches("10.1.0.5");
    rvm.does(0, &format!("guest delete {name} --force"));
    assert_eq!(rvm.everything(), before, "nothing is left on either side");
    rvm.switch.counters_at_rest();
}

/// The guest of a newcomer: one command, a console, a ping to the switch from inside, and complete removal.
#[test]
fn a_newcomer_gets_a_guest_with_a_console() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let namespace = lab.namespace("rvm");
    let rvm = Rvm::start(&lab, &namespace, "rvm1", "");
    let networks = || rvm.switch.json("network list").as_array().expect("rows").len();
    let (before, networks_before) = (rvm.everything(), networks());
    let mut demo = Command::new(system::binaries().join("ivctl"))
        .args(["guest", "demo", "--connect", &rvm.libvirt.uri(), "--image"])
        .arg(guest_image())
        .arg("--socket")
        .arg(rvm.switch.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("running ivctl");
    let (mut keys, mut out) = (demo.stdin.take().expect("piped"), demo.stdout.take().expect("piped"));
    let screen = Arc::new(Mutex::new(Vec::new()));
    let shown = screen.clone();
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = out.read(&mut bytes) {
            shown.lock().expect("the screen").extend_from_slice(&bytes[..count]);
        }
    });
    let text = || String::from_utf8_lossy(&screen.lock().expect("the screen")).into_owned();
    assert!(wait_until(BOOT, || text().contains("IV-UP")), "it boots: {}", text());
    keys.write_all(b"\nping -c 2 192.0.2.1\n").expect("typing");
    assert!(wait_until(BOOT, || text().contains("2 packets received")), "the switch answers: {}", text());
    keys.write_all(b"\x1d").expect("leaving");
    assert!(demo.wait().expect("it ends").success(), "{}", text());
    reader.join().expect("its output ends");
    assert_eq!((rvm.everything(), networks()), (before, networks_before), "nothing is left");
    rvm.switch.counters_at_rest();
}

/// I-02, N-16: a domain that plain libvirt defined, with a NIC of each type: on the bridge that a CMS has over a
/// door, a TAP, and shared memory. The switch needs neither a change of the domain nor a front end. When the domain
/// is gone, its ports wait for the next one.
#[test]
fn n16_domains_of_plain_libvirt_with_every_type_of_interface() {
    let Some(lab) = Lab::new() else { return };
    if !Libvirt::possible() {
        return;
    }
    let namespace = lab.namespace("rvm");
    let h1 = host(&lab, &namespace, "h1", &["10.1.0.1/24", "10.3.0.1/24", "10.4.0.1/24"]);
    let (socket, agent) = (lab.dir().join("g1.vhost"), lab.dir().join("g1.agent"));
    let guest = |name: &str, kind: &str, at: &str, last: u8| {
        format!(
            "[[port]]\nname = \"{name}\"\nnetwork = \"private\"\nrole = \"guest\"\nkind = \"{kind}\"\n{at}\n\
             mac = [\"52:54:00:00:00:0{last}\"]\nip = [\"10.{last}.0.5\"]\n"
        )
    };
    let ports = port("h1", "private")
        + "[[port]]\nname = \"eth1\"\nnetwork = \"private\"\n"
        + &guest("tapped", "packet", "interface = \"ivt1\"", 3)
        + &guest("shared", "vhostuser", &format!("socket = \"{}\"", socket.display()), 4);
    let rvm = Rvm::start(&lab, &namespace, "rvm1", &ports);
    // The CMS's part: its own bridge, with the door as if it were a NIC.
    namespace.ip("link add br1 type bridge");
    namespace.ip("link set eth1 master br1");
    namespace.ip("link set br1 up");
    let interface = |kind: &str, last: u8, source: &str| {
        format!(
            "<interface type='{kind}'><mac address='52:54:00:00:00:0{last}'/>{source}<model type='virtio'/></interface>"
        )
    };
    let interfaces = interface("bridge", 1, "<source bridge='br1'/>")
        + &interface("ethernet", 3, "<target dev='ivt1'/>")
        + &interface(
            "vhostuser",
            4,
            &format!("<source type='unix' path='{}' mode='server'/>", socket.display()),
        );
    // The elements for shared memory, and those that QEMU 7.2 needs without KVM, are as in the README.
    let xml = format!(
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>g1</name>
         <memory unit='MiB'>160</memory><vcpu>1</vcpu>
         <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{0}/vmlinux</kernel><initrd>{0}/initramfs</initrd>
         <cmdline>console=ttyS0 quiet net.ifnames=0 no_timer_check tsc=reliable \
         iv.ip=10.1.0.5/24,eth1:10.3.0.5/24,eth2:10.4.0.5/24</cmdline></os>
         <features><acpi/></features><devices>{interfaces}
         <channel type='unix'><source mode='bind' path='{1}'/><target type='virtio' name='ivswitch.agent'/></channel>
         </devices><qemu:commandline><qemu:arg value='-global'/><qemu:arg value='virtio-net-pci.vectors=0'/>
         </qemu:commandline></domain>",
        guest_image().display(),
        agent.display()
    );
    let file = lab.dir().join("g1.xml");
    std::fs::write(&file, xml).expect("writing a domain");
    let virsh = |arguments: &str| {
        let (code, said) = rvm.libvirt.virsh(arguments);
        assert_eq!(code, 0, "virsh {arguments}: {said}");
    };
    virsh(&format!("define --validate {}", file.display()));
    virsh("start g1");
    assert_eq!(GuestShell::at(&agent).run("true").0, 0);
    for address in ["10.1.0.5", "10.3.0.5", "10.4.0.5"] {
        h1.reaches(address);
    }
    rvm.switch.wait_live(&["eth1", "tapped", "shared"]);
    // `ivctl` shows the domain, and leaves it alone.
    assert!(rvm.does(0, "guest list").contains("g1"));
    rvm.does(4, "guest delete g1 --force");
    virsh("destroy g1");
    let waits = |name: &str| rvm.switch.json(&format!("port show {name}"))[0]["state"] != "live";
    assert!(wait_until(BOOT, || waits("tapped") && waits("shared")), "its ports wait for the next");
    rvm.switch.counters_at_rest();
}

//! Topologies that several tests use.

use system::{Lab, Namespace, Switch};

/// A host with `eth0` at these addresses; the other end is `p-NAME` in the rVM, as the kernel makes it.
pub fn host(lab: &Lab, rvm: &Namespace, name: &str, addresses: &[&str]) -> Namespace {
    let host = lab.namespace(name);
    lab.veth((&host, "eth0"), (rvm, &format!("p-{name}")));
    for address in addresses {
        host.ip(&format!("addr add {address} dev eth0 {}", if address.contains(':') { "nodad" } else { "" }));
    }
    host
}

/// A port of the configuration, attached to `p-NAME` of [`host`].
pub fn port(name: &str, network: &str) -> String {
    format!("[[port]]\nname = \"{name}\"\nnetwork = \"{network}\"\ninterface = \"p-{name}\"\n")
}

/// Makes the interface send frames as on a wire: at most of the MTU's size, with every checksum finished. By default,
/// a veth passes on frames as unfinished as its sender left them.
pub fn finished(namespace: &Namespace, interface: &str) {
    for feature in ["tx", "tso", "gso", "tx-udp_tnl-segmentation", "tx-udp-segmentation"] {
        // The kernel switches some features off together with the first.
        let _ = namespace.command("ethtool").args(["-K", interface, feature, "off"]).output();
    }
    let features = namespace.command("ethtool").args(["-k", interface]).output().expect("running ethtool");
    let features = String::from_utf8_lossy(&features.stdout).into_owned();
    for feature in ["tx-checksumming", "tcp-segmentation-offload", "tx-udp-segmentation"] {
        assert!(features.contains(&format!("{feature}: off")), "{interface}: {features}");
    }
}

/// A network of the configuration.
pub fn network(name: &str, vni: u32) -> String {
    format!("[[network]]\nname = \"{name}\"\nvni = {vni}\n")
}

/// The underlay of a test: the addresses of the two VTEPs.
#[derive(Clone, Copy)]
pub struct Underlay {
    /// The address on our side.
    pub ours: &'static str,
    /// The address of the far side.
    pub far: &'static str,
    /// Length of the common prefix.
    pub prefix: u8,
    /// Bytes that encapsulation adds to a packet.
    pub overhead: u16,
}

pub const V4: Underlay = Underlay { ours: "10.0.0.11", far: "10.0.0.12", prefix: 16, overhead: 50 };
pub const V6: Underlay = Underlay { ours: "fd00:10::11", far: "fd00:10::12", prefix: 64, overhead: 70 };

/// Our switch on `rvm`, and on `far` a kernel `vxlan` device in a Linux bridge. A host behind each, in the
/// same segment (VNI 100): `h1` 10.1.0.1 and fd01::1 on ours, `h2` 10.1.0.2 and fd01::2 on the kernel's.
pub struct FarKernel {
    pub rvm: Namespace,
    pub far: Namespace,
    pub h1: Namespace,
    pub h2: Namespace,
    pub switch: Switch,
}

impl FarKernel {
    pub fn new(lab: &Lab, underlay: Underlay, checksum: bool) -> Self {
        Self::with_uplink(lab, underlay, checksum, "")
    }

    /// As `new`, with more lines about the uplink.
    pub fn with_uplink(lab: &Lab, underlay: Underlay, checksum: bool, uplink: &str) -> Self {
        let (rvm, far) = underlay_pair(lab, underlay);
        let h1 = host(lab, &rvm, "h1", &["10.1.0.1/24", "fd01::1/64"]);
        let h2 = host(lab, &far, "h2", &["10.1.0.2/24", "fd01::2/64"]);
        let mtu = 1500 - underlay.overhead;
        for host in [&h1, &h2] {
            host.ip(&format!("link set eth0 mtu {mtu}"));
        }
        kernel_vtep(&far, underlay, mtu, checksum);
        let switch = Switch::start(
            lab,
            &rvm,
            &format!(
                "name = \"rvm\"\n[uplink]\ninterface = \"eth0\"\naddress = \"{}\"\nchecksum = {checksum}\n\
                 {uplink}{}{}[[peer]]\nname = \"far\"\naddress = \"{}\"\n",
                underlay.ours,
                network("private", 100),
                port("h1", "private"),
                underlay.far
            ),
        );
        Self { rvm, far, h1, h2, switch }
    }
}

/// `rvm` and `far`, joined by the veth `eth0`, with their underlay addresses.
pub fn underlay_pair(lab: &Lab, underlay: Underlay) -> (Namespace, Namespace) {
    let (rvm, far) = (lab.namespace("rvm"), lab.namespace("far"));
    lab.veth((&rvm, "eth0"), (&far, "eth0"));
    for (namespace, address) in [(&rvm, underlay.ours), (&far, underlay.far)] {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        namespace.ip(&format!("addr add {address}/{} dev eth0 {nodad}", underlay.prefix));
    }
    (rvm, far)
}

/// A kernel `vxlan` device (VNI 100) and the host's port `p-h2` in a Linux bridge.
fn kernel_vtep(far: &Namespace, underlay: Underlay, mtu: u16, checksum: bool) {
    let six = underlay.far.contains(':');
    let checksums = match (six, checksum) {
        (false, true) => "udpcsum",
        (false, false) => "noudpcsum",
        (true, true) => "noudp6zerocsumtx noudp6zerocsumrx",
        (true, false) => "udp6zerocsumtx udp6zerocsumrx",
    };
    far.ip(&format!(
        "link add vx type vxlan id 100 local {} remote {} dstport 4789 dev eth0 {checksums}",
        underlay.far, underlay.ours
    ));
    far.ip("link add br0 type bridge");
    for interface in ["vx", "p-h2"] {
        far.ip(&format!("link set {interface} mtu {mtu} master br0 up"));
    }
    far.ip("link set br0 up");
}

//! Worlds from which several stories start.

use sim::cms::CmsSpec;
use sim::guest::{HostSpec, INTERNET};
use sim::world::{MS, NodeId, SiteId, World};

/// VNI of the network `private` in these worlds.
pub const PRIVATE: u32 = 100;
/// VNI of the network `public`.
pub const PUBLIC: u32 = 200;

/// The head of a configuration: name, uplink, and the private and the public network, each with a virtual gateway.
#[must_use]
pub fn head(name: &str, vtep: &str) -> String {
    format!(
        r#"
name = "{name}"
[uplink]
interface = "eth0"
address = "{vtep}"
[[network]]
name = "private"
vni = {PRIVATE}
[[network]]
name = "public"
vni = {PUBLIC}
gateway = ["10.2.0.1", "fd02::1"]
"#
    )
}

/// A guest port: interface, network, MAC, and addresses (an empty list: addresses are not checked).
#[must_use]
pub fn guest_port(interface: &str, network: &str, mac: &str, ips: &[&str]) -> String {
    let ips = if ips.is_empty() { String::new() } else { format!("ip = {ips:?}\n") };
    format!(
        "[[port]]\nname = \"{interface}\"\ninterface = \"{interface}\"\nrole = \"guest\"\nnetwork = \"{network}\"\n\
         mac = [\"{mac}\"]\n{ips}"
    )
}

/// A door on an interface that already exists.
#[must_use]
pub fn door_port(interface: &str, network: &str, more: &str) -> String {
    format!(
        "[[port]]\nname = \"{interface}\"\ninterface = \"{interface}\"\nrole = \"door\"\nnetwork = \"{network}\"\n{more}\n"
    )
}

/// A peer.
#[must_use]
pub fn peer(name: &str, address: &str, more: &str) -> String {
    format!("[[peer]]\nname = \"{name}\"\naddress = \"{address}\"\n{more}\n")
}

/// A floating IP: the gateway's end with `reality`, another rVM's without.
#[must_use]
pub fn floating(ip: &str, gateway: &str, reality: Option<&str>, more: &str) -> String {
    let reality = reality.map(|r| format!("reality = \"{r}\"\n")).unwrap_or_default();
    format!("[[floating]]\nip = \"{ip}\"\nnetwork = \"public\"\ngateway = \"{gateway}\"\n{reality}{more}\n")
}

/// The MAC of machine `n`.
#[must_use]
pub fn mac(n: u32) -> String {
    let b = n.to_be_bytes();
    format!("02:00:{:02x}:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2], b[3])
}

/// Figure 4 of the Inception paper: provider NAT 56.0.0.11 <-> 10.0.0.11 on rVM1; on rVM2 a CMS behind the doors
/// `eth1` and `eth2` with its own NAT 56.0.0.11 <-> 192.168.1.2 and an iVM; a host on the Internet.
#[derive(Debug)]
pub struct Figure4 {
    /// The data centre.
    pub site: SiteId,
    /// The gateway, which has the provider's end of the floating IP.
    pub rvm1: NodeId,
    /// Hosts the iVM.
    pub rvm2: NodeId,
    /// The CMS on rVM2.
    pub cms: NodeId,
    /// The iVM.
    pub ivm: NodeId,
    /// The host on the Internet, 8.8.8.8.
    pub host: NodeId,
}

/// Configuration of rVM1 in [`figure4`].
#[must_use]
pub fn figure4_rvm1() -> String {
    head("rvm1", "10.0.0.11")
        + "[[port]]\nname = \"eth1\"\nnetwork = \"private\"\n"
        + "[[port]]\nname = \"eth2\"\nnetwork = \"public\"\n"
        + &peer("rvm2", "10.0.0.12", "")
        + &floating("56.0.0.11", "rvm1", Some("10.0.0.11"), "")
}

/// Configuration of rVM2 in [`figure4`].
#[must_use]
pub fn figure4_rvm2() -> String {
    head("rvm2", "10.0.0.12")
        + "[[port]]\nname = \"eth1\"\nnetwork = \"private\"\n"
        + "[[port]]\nname = \"eth2\"\nnetwork = \"public\"\n"
        + &peer("rvm1", "10.0.0.11", "")
        + "[[route]]\nnetwork = \"public\"\nfrom = \"56.0.0.0/24\"\nvia = \"rvm1\"\n"
}

/// Figure 4, running.
pub fn figure4(w: &mut World) -> Figure4 {
    let site = w.site("east", &["10.0.0.0/16"], true);
    let rvm1 = w.rvm(site, "rvm1", &["10.0.0.11"], &figure4_rvm1());
    let rvm2 = w.rvm(site, "rvm2", &["10.0.0.12"], &figure4_rvm2());
    w.public_ip(rvm1, "10.0.0.11", "56.0.0.11");
    let host = w.internet_host("internet", &["8.8.8.8/24"]);
    let cms = w.cms(rvm2, cms_spec(&[("56.0.0.11", "192.168.1.2")]));
    let ivm = w.ivm(cms, HostSpec::new("ivm2", &mac(0x12), PRIVATE, &["192.168.1.2/24"]).via("192.168.1.1"));
    allow_internet(w, PRIVATE, "192.168.1.2", "8.8.8.8");
    // The CMS starts with the doors that exist by then, and uses the public door's MAC as its own.
    w.start(rvm2);
    w.run_for(MS);
    let eth2 = w.r(rvm2).facts("eth2").expect("the agent made the door").mac;
    w.c(cms).spec.eth2_mac = eth2;
    w.start(rvm1);
    w.run_for(50 * MS);
    Figure4 { site, rvm1, rvm2, cms, ivm, host }
}

/// A CMS with these floating IPs.
///
/// # Panics
/// When an address cannot be parsed.
#[must_use]
pub fn cms_spec(floating: &[(&str, &str)]) -> CmsSpec {
    let ip = |s: &str| s.parse().expect("an IP address");
    CmsSpec {
        name: "cms".into(),
        br1_mac: "02:0b:00:00:00:01".parse().expect("a MAC"),
        br1_ips: vec![ip("192.168.1.1")],
        eth2_mac: "02:0b:00:00:00:02".parse().expect("a MAC"),
        eth2_ips: vec![ip("10.2.0.12")],
        next_hops: vec![ip("10.2.0.1")],
        floating: floating.iter().map(|(a, b)| (ip(a), ip(b))).collect(),
        filtered: Vec::new(),
    }
}

/// Lets payload cross between an Internet host and a guest with a floating IP, in packets to these addresses only.
pub fn allow_internet(w: &mut World, network: u32, guest: &str, host: &str) {
    w.allow(INTERNET.0, network, guest);
    w.allow(network, INTERNET.0, host);
}

/// `count` rVMs in one flat site, each with one guest (`192.168.1.(10+n)`) on `private`; each is a peer of each
/// other.
pub fn mesh(w: &mut World, count: u8) -> (Vec<NodeId>, Vec<NodeId>) {
    let site = w.site("east", &["10.0.0.0/16", "fd00::/64"], true);
    mesh_at(w, site, count, |n| format!("10.0.0.{}", 10 + n), "")
}

/// As [`mesh`], in `site`, with these VTEP addresses, and `more` at the end of every `[uplink]`.
pub fn mesh_at(
    w: &mut World,
    site: SiteId,
    count: u8,
    vtep: impl Fn(u8) -> String,
    more: &str,
) -> (Vec<NodeId>, Vec<NodeId>) {
    let (mut rvms, mut guests) = (Vec::new(), Vec::new());
    for n in 0..count {
        let name = format!("rvm{n}");
        let mut text = head(&name, &vtep(n))
            .replace("[[network]]\nname = \"private\"", &format!("{more}\n[[network]]\nname = \"private\""));
        text += &guest_port("h1", "private", &mac(u32::from(n)), &[]);
        for m in (0..count).filter(|&m| m != n) {
            text += &peer(&format!("rvm{m}"), &vtep(m), "");
        }
        let rvm = w.rvm(site, &name, &[&vtep(n)], &text);
        let ips = [format!("192.168.1.{}/24", 10 + n), format!("fd01::{:x}/64", 0x10 + n)];
        let spec = HostSpec::new(&format!("g{n}"), &mac(u32::from(n)), PRIVATE, &[&ips[0], &ips[1]]);
        guests.push(w.guest(rvm, "h1", spec));
        rvms.push(rvm);
    }
    w.start_all();
    (rvms, guests)
}

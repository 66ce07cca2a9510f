//! Requests for guests, and the XML that libvirt gets for them.

use super::domain::{claims, domain, metadata, shares_memory};
use super::xml::Element;
use super::*;

fn guest() -> Guest {
    let uuid = "6b0fa8a1-5f0e-4b5d-9a9e-0123456789ab".to_owned();
    let interface = interface_name("web1", &uuid, 0);
    let mut port = model::Port::new(&interface, "private");
    port.role = model::PortRole::Guest;
    port.interface = Some(interface.clone());
    port.mac = vec![mac_of(&uuid, 0)];
    port.ip = vec!["192.168.1.2".parse().expect("an address")];
    let mapping = Floating::new("56.0.0.11".parse().expect("an address"), "public", "rvm1");
    let mapping = with_inside(mapping, std::slice::from_ref(&port)).expect("it has an address");
    Guest {
        name: "web1".into(),
        vcpus: 1,
        vcpus_max: 2,
        shares: Some(2048),
        memory: 256 << 20,
        memory_max: 512 << 20,
        accel: Accel::Tcg,
        boot: Boot::Kernel { kernel: "/k".into(), initrd: Some("/i".into()), append: "a=<b> \"c\"".into() },
        disks: vec![Disk {
            path: "/d&d.qcow2".into(),
            format: Format::Qcow2,
            target: "vda".into(),
            readonly: true,
        }],
        nics: vec![Nic {
            interface,
            mac: mac_of(&uuid, 0),
            model: "virtio".into(),
            mtu: Some(1450),
            offloads: false,
            shared: None,
        }],
        shared_memory: false,
        claims: Claims { ports: vec![port], floating: vec![Claim { mapping, borrowed: false }] },
        channels: vec![("gk.agent".into(), "/run/a.sock".into())],
        uuid,
    }
}

/// N-07: a launch is an XML definition with UUID, name, resources and image. Every value of the request is in it, and
/// the guest's ports and floating IPs can be read back.
#[test]
fn n07_a_guest_is_an_xml_definition() {
    let guest = guest();
    guest.check().expect("a good guest");
    let xml = Element::read(&domain(&guest).write()).expect("our own XML");
    assert_eq!(xml.text_of("name"), "web1");
    assert_eq!(xml.text_of("uuid"), guest.uuid);
    assert_eq!((xml.text_of("memory"), xml.text_of("currentMemory")), ("524288", "262144"));
    assert_eq!(xml.first("vcpu").and_then(|v| v.get("current")), Some("1"));
    assert_eq!(xml.text_of("os/cmdline"), "a=<b> \"c\"");
    assert_eq!(xml.text_of("cputune/shares"), "2048");
    assert_eq!(xml.first("devices/interface/target").and_then(|t| t.get("dev")), Some("web1-0"));
    assert_eq!(xml.first("devices/disk/source").and_then(|t| t.get("file")), Some("/d&d.qcow2"));
    let slots =
        xml.all("devices/controller").into_iter().filter(|c| c.get("model") == Some("pcie-root-port"));
    assert!(slots.count() >= 2 + NICS_MAX, "a slot for its NIC, its disk, and more while it runs");
    assert_eq!(claims(&xml).expect("our metadata").as_ref(), Some(&guest.claims));
    assert_eq!(claims(&metadata(&guest.claims)).expect("our metadata"), Some(guest.claims));
    assert_eq!(claims(&Element::new("domain")).expect("nothing is fine"), None);
}

/// A NIC in shared memory: the memory can be shared, QEMU listens where the switch looks, and libvirt gets no TAP
/// interface.
#[test]
fn a_nic_in_shared_memory_brings_its_memory_along() {
    let mut guest = guest();
    assert!(!shares_memory(&domain(&guest)));
    guest.shared_memory = true;
    guest.nics[0].shared = Some(Shared { socket: "/run/x.sock".into(), queues: 2 });
    let xml = Element::read(&domain(&guest).write()).expect("our own XML");
    assert!(shares_memory(&xml));
    let nic = xml.first("devices/interface").expect("a NIC");
    assert_eq!(nic.get("type"), Some("vhostuser"));
    let source = nic.first("source").expect("its socket");
    assert_eq!((source.get("path"), source.get("mode")), (Some("/run/x.sock"), Some("server")));
    assert_eq!(nic.first("driver").and_then(|d| d.get("queues")), Some("2"));
    assert!(nic.first("target").is_none());
    let words: Vec<_> =
        xml.all("qemu:commandline/qemu:arg").into_iter().filter_map(|e| e.get("value")).collect();
    assert_eq!(words, ["-global", "virtio-net-pci.status=off", "-global", "virtio-net-pci.vectors=0"]);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    type Spoil = fn(&mut Guest);
    let breaks: [(&str, Spoil); 12] = [
        ("name", |g| g.name = "a b".into()),
        ("name", |g| g.name = "../x".into()),
        ("UUID", |g| g.uuid = "x".into()),
        ("vCPUs", |g| g.vcpus = 0),
        ("vCPUs", |g| g.vcpus = 3),
        ("memory", |g| g.memory = 1),
        ("memory", |g| g.memory_max = u64::MAX),
        ("shares", |g| g.shares = Some(1)),
        ("absolute", |g| g.disks[0].path = "d".into()),
        ("boot", |g| (g.boot, g.disks) = (Boot::Disk, vec![])),
        ("NICs", |g| g.nics = vec![g.nics[0].clone(); NICS_MAX + 1]),
        ("command line", |g| {
            g.boot = Boot::Kernel { kernel: "/k".into(), initrd: None, append: "a\nb".into() };
        }),
    ];
    for (word, spoil) in breaks {
        let mut g = guest();
        spoil(&mut g);
        let wrong = g.check().expect_err(word);
        assert!(wrong.cause.contains(word), "{word}: {wrong:?}");
        assert!(!wrong.remedy.is_empty());
    }
}

#[test]
fn interfaces_have_names_that_fit_and_stay() {
    let uuid = guest().uuid;
    assert_eq!(interface_name("web1", &uuid, 3), "web1-3");
    for name in ["a-very-long-name", "Web1", "vnet1", "a@b"] {
        assert_eq!(interface_name(name, &uuid, 0), "iv6b0fa8a1-0");
    }
    assert_ne!(mac_of(&uuid, 0), mac_of(&uuid, 1));
}

#[test]
fn a_floating_ip_needs_an_address_of_its_family() {
    let guest = guest();
    let of = |ip: &str| Floating::new(ip.parse().expect("an address"), "public", "rvm1");
    assert!(with_inside(of("2001:db8::1"), &guest.claims.ports).is_err());
    let mut wrong = of("56.0.0.12");
    wrong.inside = Some(Inside { network: "private".into(), address: "192.168.1.3".parse().expect("one") });
    assert!(with_inside(wrong, &guest.claims.ports).is_err());
}

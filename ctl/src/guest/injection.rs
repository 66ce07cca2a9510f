//! T21 of the threat model: for any text in a guest's name, paths and addresses, libvirt gets exactly the requested
//! guest, or the request is refused.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::domain::{claims, disks_of, domain};
use super::xml::Element;
use super::*;

/// Text that tries to be more than text.
fn nasty() -> impl Strategy<Value = String> {
    let markup = prop::sample::select(vec![
        "</name><qemu:commandline><qemu:arg value='-S'/></qemu:commandline>",
        "'/><source file='/etc/shadow",
        "\" onload=\"",
        "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/shadow'>]>&a;",
        "]]>",
        "<![CDATA[",
        "<!--",
        "&lt;",
        "&#0;",
        "../../etc/shadow",
        "\u{0}",
        "\n",
        "\u{1b}[31m",
        "\u{fffe}",
        "ü",
        "a",
        "/",
    ]);
    prop_oneof![vec(markup, 1..4).prop_map(|parts| parts.concat()), any::<String>(), "[a-z0-9._-]{1,20}"]
}

fn path() -> impl Strategy<Value = std::path::PathBuf> {
    nasty().prop_map(|text| format!("/{text}").into())
}

fn any_guest() -> impl Strategy<Value = Guest> {
    let boot = prop_oneof![
        Just(Boot::Disk),
        (path(), of(path()), nasty()).prop_map(|(kernel, initrd, append)| Boot::Kernel {
            kernel,
            initrd,
            append
        }),
    ];
    let disk = (path(), any::<bool>(), prop_oneof![Just("vda".to_owned()), nasty()])
        .prop_map(|(path, readonly, target)| Disk { path, format: Format::Raw, target, readonly });
    let nic = (nasty(), any::<[u8; 6]>(), prop_oneof![Just("virtio".to_owned()), nasty()], any::<bool>())
        .prop_map(|(interface, mac, model, offloads)| Nic {
            interface,
            mac: model::Mac(engine::wire::mac::MacAddr(mac)),
            model,
            mtu: None,
            offloads,
            shared: None,
        });
    let uuid = prop_oneof![3 => Just("6b0fa8a1-5f0e-4b5d-9a9e-0123456789ab".to_owned()), 1 => nasty()];
    let channels = vec((nasty(), path()), 0..2);
    (nasty(), uuid, boot, vec(disk, 0..3), vec(nic, 0..3), channels, nasty()).prop_map(
        |(name, uuid, boot, disks, nics, channels, port)| Guest {
            name,
            vcpus: 1,
            vcpus_max: 1,
            shares: None,
            memory: 256 << 20,
            memory_max: 256 << 20,
            shared_memory: false,
            accel: Accel::Tcg,
            boot,
            disks,
            nics,
            claims: Claims { ports: vec![model::Port::new(port.clone(), port)], floating: vec![] },
            channels,
            uuid,
        },
    )
}

/// The names of all elements, in order.
fn shape(e: &Element, into: &mut Vec<String>) {
    into.push(e.name.clone());
    e.children.iter().for_each(|child| shape(child, into));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Reading returns what was written: the same elements, attributes and texts, except characters that XML cannot
    /// contain. So no text from outside becomes an element, a QEMU argument or another attribute.
    #[test]
    fn t21_what_comes_from_outside_is_never_markup(guest in any_guest()) {
        let meant = domain(&guest);
        let read = Element::read(&meant.write()).expect("our own XML");
        let (mut a, mut b) = (Vec::new(), Vec::new());
        shape(&meant, &mut a);
        shape(&read, &mut b);
        prop_assert_eq!(&a, &b);
        prop_assert!(!b.iter().any(|name| name.contains("commandline")));
        prop_assert_eq!(disks_of(&read).len(), guest.disks.len());
        // In an accepted guest, every value equals the requested value.
        if guest.check().is_ok() {
            prop_assert_eq!(read.text_of("name"), &guest.name);
            prop_assert_eq!(read.text_of("uuid"), &guest.uuid);
            let found = claims(&read).expect("our metadata").expect("it is there");
            prop_assert_eq!(&found, &guest.claims);
            let name_is_plain = guest.name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
            prop_assert!(name_is_plain, "{}", guest.name);
            for (disk, (target, file, _)) in guest.disks.iter().zip(disks_of(&read)) {
                prop_assert_eq!(&target, &disk.target);
                prop_assert_eq!(file, disk.path.to_str().expect("made of text"));
            }
        }
    }
}

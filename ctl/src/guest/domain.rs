//! Writes a guest as libvirt's domain XML, and reads our own parts of that XML.
//!
//! The guest's NICs are `type='vhostuser'` if it shares its memory: QEMU listens at a socket, and the switch moves
//! frames in and out of the guest's rings. Other NICs are `type='ethernet'`: libvirt creates a TAP interface with our
//! name in the switch's namespace, and the switch's port with that name attaches to it. AF_XDP carries whole packets
//! without offload metadata, so a guest on AF_XDP is not offered checksum and segmentation offload.

use std::path::Path;

use super::xml::Element;
use super::{Accel, Boot, Claims, Disk, Format, Guest, Nic};

/// The XML name space of our metadata.
pub const NAMESPACE: &str = "https://inception-switch.invalid/guest/1";
/// libvirt's name space for QEMU arguments.
const QEMU_NAMESPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";
/// Our prefix.
pub const PREFIX: &str = "ivswitch";

/// The domain XML of a guest.
#[must_use]
pub fn domain(guest: &Guest) -> Element {
    let kib = |bytes: u64| (bytes / 1024).to_string();
    let size = |name: &str, bytes| Element::new(name).with("unit", "KiB").holding(kib(bytes));
    let mut vcpu = Element::new("vcpu").with("placement", "static").holding(guest.vcpus_max);
    if guest.vcpus != guest.vcpus_max {
        vcpu = vcpu.with("current", guest.vcpus);
    }
    let (kind, cpu) = match guest.accel {
        Accel::Kvm => ("kvm", Element::new("cpu").with("mode", "host-passthrough")),
        // The baseline of 64-bit distributions, which every emulator has.
        Accel::Tcg => {
            let model = Element::new("model").with("fallback", "forbid").holding("qemu64");
            let cpu = Element::new("cpu").with("mode", "custom").with("match", "exact").with("check", "none");
            ("qemu", cpu.child(model))
        }
    };
    let mut e = Element::new("domain")
        .with("type", kind)
        .child(Element::new("name").holding(&guest.name))
        .child(Element::new("uuid").holding(&guest.uuid))
        .child(Element::new("metadata").child(metadata(&guest.claims)))
        .child(size("memory", guest.memory_max))
        .child(size("currentMemory", guest.memory))
        .child(vcpu);
    if let Some(shares) = guest.shares {
        e = e.child(Element::new("cputune").child(Element::new("shares").holding(shares)));
    }
    if guest.shared_memory {
        e = e.with("xmlns:qemu", QEMU_NAMESPACE).child(shared_memory());
    }
    let words = guest.shared_memory.then(|| qemu_words(guest.accel));
    e.child(os(&guest.boot))
        .child(Element::new("features").child(Element::new("acpi")).child(Element::new("apic")))
        .child(cpu)
        .child(Element::new("on_poweroff").holding("destroy"))
        .child(Element::new("on_reboot").holding("restart"))
        .child(Element::new("on_crash").holding("destroy"))
        .child(devices(guest))
        .children(words)
}

fn os(boot: &Boot) -> Element {
    let os = Element::new("os")
        .child(Element::new("type").with("arch", "x86_64").with("machine", "q35").holding("hvm"));
    match boot {
        Boot::Disk => os.child(Element::new("boot").with("dev", "hd")),
        Boot::Kernel { kernel, initrd, append } => {
            let path = |name: &str, path: &Path| Element::new(name).holding(path.display());
            os.child(path("kernel", kernel))
                .children(initrd.iter().map(|initrd| path("initrd", initrd)))
                .child(Element::new("cmdline").holding(append))
        }
    }
}

fn devices(guest: &Guest) -> Element {
    let channels = guest.channels.iter().map(|(name, path)| {
        Element::new("channel")
            .with("type", "unix")
            .child(Element::new("source").with("mode", "bind").with("path", path.display()))
            .child(Element::new("target").with("type", "virtio").with("name", name))
    });
    let serial = Element::new("target").with("port", 0);
    Element::new("devices")
        .children(slots(guest.disks.len() + guest.nics.len()))
        .children(guest.disks.iter().map(disk))
        .children(guest.nics.iter().map(interface))
        .child(Element::new("serial").with("type", "pty").child(serial))
        .child(
            Element::new("console").with("type", "pty").child(Element::new("target").with("type", "serial")),
        )
        .children(channels)
        .child(Element::new("memballoon").with("model", "virtio"))
        .child(rng())
}

/// The slots for PCI Express devices. libvirt by itself leaves one free, so a running guest could not get a second
/// NIC or disk.
fn slots(devices: usize) -> impl Iterator<Item = Element> {
    let controller = |index: usize, model: &str| {
        Element::new("controller").with("type", "pci").with("index", index).with("model", model)
    };
    let count = devices + DEVICES_OF_EVERY_GUEST + SLOTS_FREE;
    std::iter::once(controller(0, "pcie-root"))
        .chain((1..=count).map(move |index| controller(index, "pcie-root-port")))
}

/// The slots of USB, serial ports, memory balloon, and random number generator.
const DEVICES_OF_EVERY_GUEST: usize = 4;
/// The slots that stay free for devices that are attached while the guest runs.
const SLOTS_FREE: usize = 8;

/// The random number generator. Without it a fresh guest waits for randomness.
fn rng() -> Element {
    Element::new("rng")
        .with("model", "virtio")
        .child(Element::new("backend").with("model", "random").holding("/dev/urandom"))
}

/// Memory in an unnamed file that cannot shrink. QEMU gives its descriptor to the switch.
fn shared_memory() -> Element {
    Element::new("memoryBacking")
        .child(Element::new("source").with("type", "memfd"))
        .child(Element::new("access").with("mode", "shared"))
}

/// Whether a domain shares its memory in this way.
#[must_use]
pub fn shares_memory(domain: &Element) -> bool {
    let is = |path: &str, key: &str, value: &str| domain.first(path).and_then(|e| e.get(key)) == Some(value);
    is("memoryBacking/source", "type", "memfd") && is("memoryBacking/access", "mode", "shared")
}

/// QEMU settings that libvirt has no elements for. A link state that followed the switch would tell the guest about
/// every restart. And QEMU 7.2 without KVM ends when a NIC in shared memory uses MSI-X.
fn qemu_words(accel: Accel) -> Element {
    let mut words = vec!["virtio-net-pci.status=off"];
    if accel == Accel::Tcg {
        words.push("virtio-net-pci.vectors=0");
    }
    let arg = |value: &str| Element::new("qemu:arg").with("value", value);
    let words = words.into_iter().flat_map(|word| [arg("-global"), arg(word)]);
    Element::new("qemu:commandline").children(words)
}

/// The XML of a disk.
#[must_use]
pub fn disk(disk: &Disk) -> Element {
    let e = Element::new("disk")
        .with("type", "file")
        .with("device", "disk")
        .child(Element::new("driver").with("name", "qemu").with("type", disk.format.name()))
        .child(Element::new("source").with("file", disk.path.display()))
        .child(Element::new("target").with("dev", &disk.target).with("bus", "virtio"));
    if disk.readonly { e.child(Element::new("readonly")) } else { e }
}

/// The XML of a NIC.
#[must_use]
pub fn interface(nic: &Nic) -> Element {
    let off = |name: &str, keys: &[&str]| keys.iter().fold(Element::new(name), |e, key| e.with(key, "off"));
    let mac = Element::new("mac").with("address", nic.mac);
    let model = Element::new("model").with("type", &nic.model);
    let mut e = match &nic.shared {
        Some(shared) => {
            let source = Element::new("source").with("type", "unix").with("path", &shared.socket);
            let e = Element::new("interface").with("type", "vhostuser").child(mac);
            let e = e.child(source.with("mode", "server")).child(model);
            if shared.queues > 1 { e.child(Element::new("driver").with("queues", shared.queues)) } else { e }
        }
        None => Element::new("interface")
            .with("type", "ethernet")
            .child(mac)
            .child(Element::new("target").with("dev", &nic.interface))
            .child(model),
    };
    if nic.shared.is_none() && nic.model == "virtio" && !nic.offloads {
        let driver = Element::new("driver")
            .with("name", "qemu")
            .child(off("host", &["csum", "gso", "tso4", "tso6", "ecn", "ufo", "mrg_rxbuf"]))
            .child(off("guest", &["csum", "tso4", "tso6", "ecn", "ufo"]));
        e = e.child(driver);
    }
    // libvirt would also set the MTU on a host interface, which a NIC in shared memory does not have. DHCP tells the
    // guest.
    if let Some(mtu) = nic.mtu.filter(|_| nic.shared.is_none()) {
        e = e.child(Element::new("mtu").with("size", mtu));
    }
    e
}

/// The metadata element: the guest's ports and floating IPs on the switch, as JSON.
#[must_use]
pub fn metadata(claims: &Claims) -> Element {
    let text = serde_json::to_string(claims).expect("plain data");
    Element::new(&format!("{PREFIX}:guest")).with(&format!("xmlns:{PREFIX}"), NAMESPACE).holding(text)
}

/// The guest's ports and floating IPs, read from the metadata element or from a domain.
///
/// # Errors
/// When the element was not written by us.
pub fn claims(xml: &Element) -> Result<Option<Claims>, String> {
    let ours = |e: &&Element| e.attributes.iter().any(|(k, v)| k.starts_with("xmlns") && v == NAMESPACE);
    let inside = xml.first("metadata").into_iter().flat_map(|m| m.children.iter());
    let Some(element) = std::iter::once(xml).chain(inside).find(ours) else { return Ok(None) };
    serde_json::from_str(&element.text).map(Some).map_err(|e| format!("its metadata is not understood: {e}"))
}

/// The disks of a domain: target, file or volume, format.
#[must_use]
pub fn disks_of(domain: &Element) -> Vec<(String, String, String)> {
    let get = |e: &Element, path: &str, key: &str| {
        e.first(path).and_then(|e| e.get(key)).unwrap_or_default().to_owned()
    };
    let disks = domain.all("devices/disk").into_iter().filter(|d| d.get("device") != Some("cdrom"));
    disks.map(|d| (get(d, "target", "dev"), get(d, "source", "file"), get(d, "driver", "type"))).collect()
}

/// The first free disk name: `vda`, `vdb`, and so on.
#[must_use]
pub fn free_target(taken: &[String]) -> Option<String> {
    ('a'..='z').map(|letter| format!("vd{letter}")).find(|name| !taken.contains(name))
}

/// The XML of a volume.
#[must_use]
pub fn volume(name: &str, bytes: u64, format: Format) -> Element {
    let mut e = Element::new("volume")
        .child(Element::new("name").holding(name))
        .child(Element::new("capacity").with("unit", "bytes").holding(bytes));
    if format == Format::Raw {
        // Sparse, so that even a volume of a terabyte is created quickly.
        e = e.child(Element::new("allocation").with("unit", "bytes").holding(0));
    }
    e.child(Element::new("target").child(Element::new("format").with("type", format.name())))
}

/// The place of a pool's volumes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PoolSource {
    /// A directory of the host.
    Directory,
    /// An NFS export: host and path.
    Nfs(String, String),
}

/// The XML of a pool whose volumes are files in `target`.
#[must_use]
pub fn pool(name: &str, source: &PoolSource, target: &Path) -> Element {
    let e = Element::new("pool")
        .with("type", if matches!(source, PoolSource::Directory) { "dir" } else { "netfs" })
        .child(Element::new("name").holding(name));
    let e = match source {
        PoolSource::Directory => e,
        PoolSource::Nfs(host, path) => e.child(
            Element::new("source")
                .child(Element::new("host").with("name", host))
                .child(Element::new("dir").with("path", path))
                .child(Element::new("format").with("type", "nfs")),
        ),
    };
    e.child(Element::new("target").child(Element::new("path").holding(target.display())))
}

//! Nested guests (iVMs): the description of a guest and its checks, the XML for libvirt ([`domain`]), and the command
//! lines of `ivctl guest`, `volume`, `image` and `host` ([`verbs`]).
//!
//! This module does not talk to libvirt. Only the program `ivctl-guest` does, and only it links libvirt's library, so
//! neither the switch nor `ivctl` needs libvirt to build or run (`dataplane/decisions/0014`).

pub mod accel;
pub mod domain;
pub mod image;
pub mod quantity;
pub mod verbs;
pub mod xml;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use engine::command::IpPrefix;
use serde::{Deserialize, Serialize};

use crate::model::{self, AddressOrPrefix, Floating, Inside, Mac};

/// The most NICs of one guest.
pub const NICS_MAX: usize = 8;
/// The most disks of one guest.
pub const DISKS_MAX: usize = 16;
/// The most floating IPs of one guest.
pub const FLOATINGS_MAX: usize = 64;
/// The most vCPUs of one guest: the limit of QEMU's q35 without further options.
pub const VCPUS_MAX: u32 = 255;
/// The least memory: a kernel needs this much to say why it stops.
pub const MEMORY_MIN: u64 = 16 << 20;
/// Most memory.
pub const MEMORY_MAX: u64 = 4 << 40;
/// The longest name of a guest, in bytes.
const NAME_LEN_MAX: usize = 63;
/// The longest name of an interface, in bytes.
const INTERFACE_LEN_MAX: usize = 15;

/// A requested guest.
#[derive(Clone, PartialEq, Debug)]
pub struct Guest {
    /// The guest's name.
    pub name: String,
    /// The guest's UUID, 36 characters.
    pub uuid: String,
    /// The vCPUs at the start.
    pub vcpus: u32,
    /// The vCPUs that the guest may grow to.
    pub vcpus_max: u32,
    /// The weight among guests that compete for a processor; 1024 is usual.
    pub shares: Option<u32>,
    /// The bytes of memory at the start.
    pub memory: u64,
    /// The bytes of memory that the guest may grow to.
    pub memory_max: u64,
    /// The guest's kind of processor.
    pub accel: Accel,
    /// The guest's boot source.
    pub boot: Boot,
    /// The guest's disks.
    pub disks: Vec<Disk>,
    /// The guest's NICs.
    pub nics: Vec<Nic>,
    /// Whether QEMU shares the guest's memory with the switch.
    pub shared_memory: bool,
    /// The guest's ports and floating IPs on the switch.
    pub claims: Claims,
    /// Virtio-serial ports: the name in the guest, and the unix socket on the host.
    pub channels: Vec<(String, PathBuf)>,
}

/// A kind of processor for guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accel {
    /// The host's processor, through KVM.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

/// The boot source of a guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Boot {
    /// The first disk.
    Disk,
    /// A kernel on the host.
    Kernel {
        /// The kernel.
        kernel: PathBuf,
        /// The kernel's initramfs.
        initrd: Option<PathBuf>,
        /// The kernel's command line.
        append: String,
    },
}

/// A disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disk {
    /// The file on the host.
    pub path: PathBuf,
    /// `raw` or `qcow2`.
    pub format: Format,
    /// The disk's name in the guest: `vda` is the first.
    pub target: String,
    /// Whether the guest may only read the disk.
    pub readonly: bool,
}

/// The format of a disk's file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// The disk's bytes, unchanged
    Raw,
    /// QEMU's own format: it grows as it is written, and holds snapshots
    Qcow2,
}

impl Format {
    /// The format's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// The usual format of a file with this name.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        if path.extension().is_some_and(|e| e == "qcow2") { Self::Qcow2 } else { Self::Raw }
    }
}

/// A NIC: a TAP interface that libvirt creates and the switch attaches to, or rings in shared memory.
#[derive(Clone, PartialEq, Debug)]
pub struct Nic {
    /// The switch's port, and the TAP interface with the same name.
    pub interface: String,
    /// The NIC's MAC address.
    pub mac: Mac,
    /// The NIC's model: `virtio`, or one of QEMU's models for old guests.
    pub model: String,
    /// The largest packet, which a virtio guest learns.
    pub mtu: Option<u16>,
    /// Whether the guest may leave checksums and segmentation to the switch, because the port's driver carries the
    /// offload metadata.
    pub offloads: bool,
    /// Set for a NIC in shared memory, which has no interface: QEMU listens for the switch at a socket.
    pub shared: Option<Shared>,
}

/// A NIC in memory that QEMU shares with the switch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shared {
    /// The socket at which QEMU listens.
    pub socket: String,
    /// The number of queue pairs.
    pub queues: u32,
}

/// A guest's ports and floating IPs on the switch. The domain's metadata holds them, so that a command that deletes
/// or moves the guest knows what belongs to it. They travel with the guest.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The guest's ports, with their bindings.
    #[serde(default)]
    pub ports: Vec<model::Port>,
    /// The guest's floating IPs, each translated to one of its addresses.
    #[serde(default)]
    pub floating: Vec<Claim>,
}

/// A floating IP of a guest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The mapping.
    pub mapping: Floating,
    /// Whether the mapping existed before the guest, without an owner. Such a mapping stays when the guest goes.
    #[serde(default)]
    pub borrowed: bool,
}

/// An error in a request: the cause and the remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrong {
    /// The cause.
    pub cause: String,
    /// The remedy.
    pub remedy: String,
}

impl Wrong {
    fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { cause: cause.into(), remedy: remedy.into() }
    }
}

/// Checks the name of a guest, volume, pool or snapshot.
///
/// # Errors
/// When it is empty or too long, or contains characters that a path, a shell or a log could read differently.
pub fn check_name(name: &str) -> Result<(), Wrong> {
    let good = |c: char| c.is_ascii_alphanumeric();
    let fault = if name.is_empty() {
        "the name is empty".to_owned()
    } else if name.len() > NAME_LEN_MAX {
        format!("the name has {} bytes, more than {NAME_LEN_MAX}", name.len())
    } else if !name.starts_with(good) {
        "the name does not begin with a letter or digit".to_owned()
    } else if let Some(bad) = name.chars().find(|&c| !good(c) && !"._-@".contains(c)) {
        format!("the name contains {bad:?}")
    } else {
        return Ok(());
    };
    Err(Wrong::new(fault, "use letters, digits, dots, dashes and underscores, 63 at most"))
}

/// Checks a path for libvirt.
///
/// # Errors
/// When it is not absolute, or contains control characters.
pub fn check_path(path: &Path) -> Result<(), Wrong> {
    match path.to_str() {
        None => Err(Wrong::new(format!("the path {} is not UTF-8", path.display()), "rename the file")),
        Some(text) if text.chars().any(char::is_control) => {
            Err(Wrong::new("the path contains control characters", "rename the file"))
        }
        Some(_) if !path.is_absolute() => Err(Wrong::new(
            format!("the path {} is not absolute", path.display()),
            "write it from / on: libvirt has another working directory",
        )),
        Some(_) => Ok(()),
    }
}

/// The name of NIC `index` as interface and as port: based on the guest's name if it fits, otherwise on its UUID.
#[must_use]
pub fn interface_name(guest: &str, uuid: &str, index: usize) -> String {
    let plain = format!("{guest}-{index}");
    // libvirt takes such names for its own, and forgets them when the guest stops.
    let libvirts = ["vnet", "vif", "macvtap", "macvlan"].iter().any(|prefix| plain.starts_with(prefix));
    let fits = plain.len() <= INTERFACE_LEN_MAX && model::name_fault(&plain).is_none() && plain != "uplink";
    if fits && !libvirts { plain } else { format!("iv{}-{index}", uuid.get(..8).unwrap_or("00000000")) }
}

/// The MAC address of NIC `index`, derived from the guest's UUID: QEMU's prefix, and the same at every start.
#[must_use]
pub fn mac_of(uuid: &str, index: usize) -> Mac {
    let hex: Vec<u8> = uuid.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |at: usize| {
        let pair = hex.get(at * 2..at * 2 + 2).and_then(|p| std::str::from_utf8(p).ok());
        pair.and_then(|p| u8::from_str_radix(p, 16).ok()).unwrap_or(0)
    };
    let last = byte(15).wrapping_add(index as u8);
    Mac(engine::wire::mac::MacAddr([0x52, 0x54, 0x00, byte(13), byte(14), last]))
}

impl Guest {
    /// Checks everything that needs neither libvirt nor the switch.
    ///
    /// # Errors
    /// The first error.
    pub fn check(&self) -> Result<(), Wrong> {
        check_name(&self.name)?;
        let uuid = self.uuid.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
        if !uuid || !self.uuid.chars().all(|c| c == '-' || c.is_ascii_hexdigit()) {
            return Err(Wrong::new(
                format!("{} is not a UUID", self.uuid),
                "leave it out, or take one from uuidgen",
            ));
        }
        if self.vcpus == 0 || self.vcpus > self.vcpus_max || self.vcpus_max > VCPUS_MAX {
            return Err(Wrong::new(
                format!("{} vCPUs that may grow to {} are not possible", self.vcpus, self.vcpus_max),
                format!("write 1 to {VCPUS_MAX}, as in --vcpus 2 or --vcpus 2/4"),
            ));
        }
        if self.memory < MEMORY_MIN || self.memory > self.memory_max || self.memory_max > MEMORY_MAX {
            return Err(Wrong::new(
                format!(
                    "{} bytes of memory that may grow to {} are not possible",
                    self.memory, self.memory_max
                ),
                "write 16M to 4T, as in --memory 1G or --memory 1G/4G",
            ));
        }
        if self.shares.is_some_and(|s| !(2..=262_144).contains(&s)) {
            return Err(Wrong::new(
                "CPU shares are 2 to 262144",
                "1024 is the usual weight; 2048 is twice that",
            ));
        }
        for (what, count, most) in [
            ("NICs", self.nics.len(), NICS_MAX),
            ("disks", self.disks.len(), DISKS_MAX),
            ("floating IPs", self.claims.floating.len(), FLOATINGS_MAX),
        ] {
            if count > most {
                return Err(Wrong::new(format!("{count} {what}, more than {most}"), "give it fewer"));
            }
        }
        match &self.boot {
            Boot::Disk if self.disks.is_empty() => {
                return Err(Wrong::new(
                    "there is nothing to boot from",
                    "add --image, --disk, or --kernel and --initrd",
                ));
            }
            Boot::Disk => {}
            Boot::Kernel { kernel, initrd, append } => {
                check_path(kernel)?;
                initrd.iter().try_for_each(|path| check_path(path))?;
                if append.len() > 2047 || append.chars().any(char::is_control) {
                    return Err(Wrong::new(
                        "the kernel's command line is not a single line of at most 2047 bytes",
                        "shorten it",
                    ));
                }
            }
        }
        let is_word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if let Some(disk) = self.disks.iter().find(|disk| !is_word(&disk.target)) {
            return Err(Wrong::new(
                format!("{:?} is not the name of a disk", disk.target),
                "use vda, vdb and so on",
            ));
        }
        self.disks.iter().try_for_each(|disk| check_path(&disk.path))?;
        self.channels.iter().try_for_each(|(_, path)| check_path(path))
    }
}

/// Gives the floating IP `mapping` to the owner of `ports`. Without an inside address, it uses the guest's first
/// address of the same family.
///
/// # Errors
/// When no NIC of the guest has an address that the switch could translate to.
pub fn with_inside(mut mapping: Floating, ports: &[model::Port]) -> Result<Floating, Wrong> {
    let host =
        |ip: &AddressOrPrefix| -> Option<IpAddr> { (ip.0 == IpPrefix::host(ip.0.addr)).then_some(ip.0.addr) };
    let owned = |network: &str, ip: IpAddr| {
        ports.iter().any(|p| p.network == network && p.ip.iter().filter_map(host).any(|own| own == ip))
    };
    match &mapping.inside {
        Some(inside) if !owned(&inside.network, inside.address) => Err(Wrong::new(
            format!("the guest has no address {} on {}", inside.address, inside.network),
            "bind it to a NIC, as in --nic private,ip=192.168.1.2",
        )),
        Some(_) => Ok(mapping),
        None => {
            let mut all = ports.iter().flat_map(|p| p.ip.iter().filter_map(host).map(move |ip| (p, ip)));
            let Some((port, address)) = all.find(|(_, ip)| ip.is_ipv4() == mapping.ip.is_ipv4()) else {
                return Err(Wrong::new(
                    format!("no NIC has an address that floating IP {} could be translated to", mapping.ip),
                    "bind an address of the same family to a NIC, as in --nic private,ip=192.168.1.2",
                ));
            };
            mapping.inside = Some(Inside { network: port.network.clone(), address });
            Ok(mapping)
        }
    }
}

#[cfg(test)]
mod injection;
#[cfg(test)]
mod tests;

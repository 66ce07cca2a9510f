//! Nested guests (iVMs): what one is made of, checked; how libvirt is told ([`domain`]); and the words of
//! `ivctl guest`, `volume`, `image` and `host` ([`verbs`]).
//!
//! Nothing here talks to libvirt. The program `ivctl-guest` does, which alone links its library, so the switch
//! and `ivctl` neither build with it nor need it (`dataplane/decisions/0014`).

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

/// NICs of one guest.
pub const NICS_MAX: usize = 8;
/// Disks of one guest.
pub const DISKS_MAX: usize = 16;
/// Floating IPs of one guest.
pub const FLOATINGS_MAX: usize = 64;
/// vCPUs of one guest: what QEMU's q35 takes without further options.
pub const VCPUS_MAX: u32 = 255;
/// Least memory: what a kernel needs to say why it stops.
pub const MEMORY_MIN: u64 = 16 << 20;
/// Most memory.
pub const MEMORY_MAX: u64 = 4 << 40;
/// Bytes of a guest's name.
const NAME_LEN_MAX: usize = 63;
/// Bytes of an interface's name.
const INTERFACE_LEN_MAX: usize = 15;

/// A guest as it is asked for.
#[derive(Clone, PartialEq, Debug)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Its UUID, 36 characters.
    pub uuid: String,
    /// vCPUs at the start.
    pub vcpus: u32,
    /// vCPUs it may grow to.
    pub vcpus_max: u32,
    /// Weight among guests that compete for a processor; 1024 is usual.
    pub shares: Option<u32>,
    /// Bytes of memory at the start.
    pub memory: u64,
    /// Bytes it may grow to.
    pub memory_max: u64,
    /// How its processor is made.
    pub accel: Accel,
    /// What it starts from.
    pub boot: Boot,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its NICs.
    pub nics: Vec<Nic>,
    /// QEMU keeps its memory so that the switch can share it.
    pub shared_memory: bool,
    /// What it has on the switch.
    pub claims: Claims,
    /// A unix socket on the host that is a virtio-serial port of this name in the guest.
    pub channels: Vec<(String, PathBuf)>,
}

/// How a guest's processor is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accel {
    /// By the processor's own virtualisation.
    Kvm,
    /// By QEMU, in software.
    Tcg,
}

/// What a guest starts from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Boot {
    /// Its first disk.
    Disk,
    /// A kernel of the host's.
    Kernel {
        /// The kernel.
        kernel: PathBuf,
        /// Its initramfs.
        initrd: Option<PathBuf>,
        /// Its command line.
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
    /// Its name in the guest: `vda` is the first.
    pub target: String,
    /// The guest cannot write to it.
    pub readonly: bool,
}

/// How a disk lies in its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// As it is
    Raw,
    /// QEMU's own: grows as it is written, holds snapshots
    Qcow2,
}

impl Format {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// What a file of this name usually holds.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        if path.extension().is_some_and(|e| e == "qcow2") { Self::Qcow2 } else { Self::Raw }
    }
}

/// A NIC: a TAP interface that libvirt makes and the switch attaches to, or rings in memory that both share.
#[derive(Clone, PartialEq, Debug)]
pub struct Nic {
    /// The switch's port, and the TAP interface of the same name.
    pub interface: String,
    /// Its MAC address.
    pub mac: Mac,
    /// Its model: `virtio`, or what QEMU has for old guests.
    pub model: String,
    /// Largest packet, told to a virtio guest.
    pub mtu: Option<u16>,
    /// It may leave checksums and segmentation to the switch, which attaches by means that carry notes on them.
    pub offloads: bool,
    /// It has no interface: QEMU listens for the switch at a socket.
    pub shared: Option<Shared>,
}

/// A NIC in memory that QEMU shares with the switch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shared {
    /// Where QEMU listens.
    pub socket: String,
    /// Queue pairs.
    pub queues: u32,
}

/// What a guest has on the switch. It is kept in the domain's metadata, so that whoever deletes or
/// moves the guest knows what goes with it, and it travels with the guest.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Its ports, with their bindings.
    #[serde(default)]
    pub ports: Vec<model::Port>,
    /// Its floating IPs, each translated to one of its addresses.
    #[serde(default)]
    pub floating: Vec<Claim>,
}

/// A floating IP of a guest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The mapping.
    pub mapping: Floating,
    /// It was there before the guest, without an owner; it stays when the guest goes.
    #[serde(default)]
    pub borrowed: bool,
}

/// One thing wrong with what was asked for: what, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrong {
    /// What is wrong.
    pub cause: String,
    /// What helps.
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
/// When it is empty, too long, or holds anything a path, a shell or a log could read differently.
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

/// Checks a path that libvirt will open.
///
/// # Errors
/// When it is not absolute, or holds control characters.
pub fn check_path(path: &Path) -> Result<(), Wrong> {
    match path.to_str() {
        None => Err(Wrong::new(format!("the path {} is no UTF-8", path.display()), "rename the file")),
        Some(text) if text.chars().any(char::is_control) => {
            Err(Wrong::new("the path holds control characters", "rename the file"))
        }
        Some(_) if !path.is_absolute() => Err(Wrong::new(
            format!("the path {} is not absolute", path.display()),
            "write it from / on: libvirt runs elsewhere",
        )),
        Some(_) => Ok(()),
    }
}

/// The name of NIC `index` of a guest, as interface and as port: the guest's name where it fits, else from its UUID.
#[must_use]
pub fn interface_name(guest: &str, uuid: &str, index: usize) -> String {
    let plain = format!("{guest}-{index}");
    // What libvirt takes for names of its own, it forgets when the guest stops.
    let libvirts = ["vnet", "vif", "macvtap", "macvlan"].iter().any(|prefix| plain.starts_with(prefix));
    let fits = plain.len() <= INTERFACE_LEN_MAX && model::name_fault(&plain).is_none() && plain != "uplink";
    if fits && !libvirts { plain } else { format!("iv{}-{index}", uuid.get(..8).unwrap_or("00000000")) }
}

/// The MAC of NIC `index`, from the guest's UUID: QEMU's prefix, the same at every start.
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
    /// Everything wrong with it that can be said without asking libvirt or the switch.
    ///
    /// # Errors
    /// The first thing that is.
    pub fn check(&self) -> Result<(), Wrong> {
        check_name(&self.name)?;
        let uuid = self.uuid.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
        if !uuid || !self.uuid.chars().all(|c| c == '-' || c.is_ascii_hexdigit()) {
            return Err(Wrong::new(
                format!("{} is no UUID", self.uuid),
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
                        "the kernel's command line is no line of at most 2047 bytes",
                        "shorten it",
                    ));
                }
            }
        }
        let is_word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if let Some(disk) = self.disks.iter().find(|disk| !is_word(&disk.target)) {
            return Err(Wrong::new(
                format!("{:?} is no name of a disk", disk.target),
                "use vda, vdb and so on",
            ));
        }
        self.disks.iter().try_for_each(|disk| check_path(&disk.path))?;
        self.channels.iter().try_for_each(|(_, path)| check_path(path))
    }
}

/// The floating IP `mapping` given to the owner of `ports`: to its first address of the same family unless said.
///
/// # Errors
/// When none of its NICs has an address the switch could translate to.
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
                    format!("floating IP {} has nothing to be translated to", mapping.ip),
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

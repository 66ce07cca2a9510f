//! The command lines of `ivctl guest`, `volume`, `image` and `host`, with their help.
//!
//! `ivctl` prints their help, completes them and includes them in its manual, even on machines without libvirt;
//! `ivctl-guest` carries them out.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Format;
use super::quantity::{pair, size};
use crate::model::{AddressOrPrefix, Floating, Inside, Mac, PortKind, Ports, QUEUES_MAX};

/// The connections of these commands, in addition to the flags of every command.
#[derive(Args, Debug, Clone, Default)]
pub struct Where {
    /// The libvirt daemon: qemu:///system, qemu:///session, or any other URI of libvirt's
    #[arg(long, global = true, env = "IVS_LIBVIRT", value_name = "URI", default_value = "qemu:///system")]
    pub connect: String,
}

/// `ivctl guest`.
#[derive(Subcommand, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one")]
pub enum GuestVerb {
    /// Show all guests
    List,
    /// Show one guest
    Show {
        /// Name of the guest
        name: String,
        /// Print libvirt's XML instead
        #[arg(long)]
        xml: bool,
    },
    /// Create a guest with its ports, bindings and floating IPs, and start it
    Create(Create),
    /// Start a guest
    Start {
        /// Name of the guest
        name: String,
    },
    /// Ask a guest to shut down, and wait until it has: a minute, or longer with --timeout
    Stop {
        /// Name of the guest
        name: String,
    },
    /// Ask a guest to reboot
    Reboot {
        /// Name of the guest
        name: String,
        /// Reset the guest without asking it
        #[arg(long)]
        force: bool,
    },
    /// Switch a guest off immediately; its definition stays
    Destroy {
        /// Name of the guest
        name: String,
    },
    /// Delete a guest with its ports, bindings and floating IPs; its disks stay
    Delete {
        /// Name of the guest
        name: String,
        /// Also delete a running guest: switch it off first
        #[arg(long)]
        force: bool,
        /// Succeed if the guest does not exist
        #[arg(long)]
        if_exists: bool,
    },
    /// Boot a small guest on a network of its own, and join its console; both are removed when you leave
    Demo(Demo),
    /// Join the console of a guest; Ctrl-] leaves
    Console {
        /// Name of the guest
        name: String,
    },
    /// Change the resources of a guest, immediately if it runs, and for its next start
    Resize(Resize),
    /// Add a NIC or a disk, immediately if the guest runs
    Attach {
        /// Name of the guest
        name: String,
        /// A NIC: NETWORK[,ip=IP][,mac=MAC][,model=MODEL][,mtu=BYTES][,kind=vhostuser|afxdp|packet][,queues=N]; ip
        /// may be repeated
        #[arg(long, value_name = "NIC", value_parser = nic, required_unless_present = "disk")]
        nic: Option<NicWish>,
        /// A disk: POOL/VOLUME or a path, with [,ro][,format=raw|qcow2]
        #[arg(long, value_name = "DISK", value_parser = disk, conflicts_with = "nic")]
        disk: Option<DiskWish>,
    },
    /// Remove a NIC or a disk, immediately if the guest runs
    Detach {
        /// Name of the guest
        name: String,
        /// The NIC's port or MAC address
        #[arg(long, value_name = "PORT|MAC", required_unless_present = "disk")]
        nic: Option<String>,
        /// The disk's name in the guest, as in vdb
        #[arg(long, value_name = "TARGET", conflicts_with = "nic")]
        disk: Option<String>,
    },
    /// Save the state of a guest, including memory if it runs; needs qcow2 disks. Without a snapshot's name, show the
    /// snapshots
    Snapshot {
        /// Name of the guest
        name: String,
        /// Name of the snapshot
        snapshot: Option<String>,
        /// Delete the snapshot
        #[arg(long, requires = "snapshot")]
        delete: bool,
    },
    /// Revert a guest to a snapshot
    Revert {
        /// Name of the guest
        name: String,
        /// Name of the snapshot
        snapshot: String,
    },
    /// Isolate a guest with all its NICs: nothing in, nothing out, until it is released. The guest keeps running, and
    /// may be moved
    Quarantine {
        /// Name of the guest
        name: String,
    },
    /// End a quarantine
    Release {
        /// Name of the guest
        name: String,
    },
    /// Mirror a guest: copy the frames from and to all its NICs to a port, which then does nothing else
    Mirror {
        /// Name of the guest
        name: String,
        /// The mirror target, the port that receives the copies; for example that of an intrusion detection system
        #[arg(long, value_name = "PORT", required_unless_present = "off")]
        to: Option<String>,
        /// End the mirroring
        #[arg(long, conflicts_with = "to")]
        off: bool,
    },
    /// Move a running guest to another host, with its ports, bindings and floating IPs
    Migrate(Migrate),
    /// Start, stop or resize guests at a given time; the schedule survives restarts of everything
    Schedule {
        /// The action on the schedule
        #[command(subcommand)]
        verb: ScheduleVerb,
    },
}

/// `ivctl guest create`.
#[derive(Args, Debug)]
pub struct Create {
    /// Name of the guest
    pub name: String,
    /// UUID of the guest [default: a random one]
    #[arg(long)]
    pub uuid: Option<String>,
    /// Number of vCPUs, or vCPUs/MAXIMUM, where MAXIMUM is the number that the guest may grow to
    #[arg(long, value_name = "N[/MAX]", default_value = "1", value_parser = count)]
    pub vcpus: (u32, u32),
    /// Weight among guests that compete for a processor [default: 1024]
    #[arg(long, value_name = "WEIGHT")]
    pub shares: Option<u32>,
    /// Amount of memory, or MEMORY/MAXIMUM, where MAXIMUM is the amount that the guest may grow to
    #[arg(long, value_name = "SIZE[/MAX]", default_value = "512M", value_parser = sizes)]
    pub memory: (u64, u64),
    /// A disk: POOL/VOLUME or a path, with [,ro][,format=raw|qcow2]; may be repeated
    #[arg(long, value_name = "DISK", value_parser = disk)]
    pub disk: Vec<DiskWish>,
    /// Boot this kernel of the host instead of the first disk
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// The kernel's initramfs
    #[arg(long, value_name = "PATH", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "WORDS", requires = "kernel", default_value = "console=ttyS0")]
    pub append: String,
    /// Boot the result of `ivctl image build` in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "kernel")]
    pub image: Option<PathBuf>,
    /// A NIC: NETWORK[,ip=IP][,mac=MAC][,model=MODEL][,mtu=BYTES][,kind=vhostuser|afxdp|packet][,queues=N]; ip may be
    /// repeated, and the whole option too
    #[arg(long, value_name = "NIC", value_parser = nic)]
    pub nic: Vec<NicWish>,
    /// A floating IP: IP,network=NETWORK,gateway=RVM[,reality=IP][,inside=NETWORK:IP][,only=PORTS]; may be repeated
    #[arg(long, value_name = "FLOATING", value_parser = floating)]
    pub floating: Vec<Floating>,
    /// The kind of processor
    #[arg(long, value_enum, default_value_t = AccelWish::Auto)]
    pub accel: AccelWish,
    /// A virtio-serial port and its unix socket on the host; may be repeated
    #[arg(long, value_name = "NAME=PATH", value_parser = channel)]
    pub channel: Vec<(String, PathBuf)>,
    /// Define the guest and its ports, but do not start it
    #[arg(long)]
    pub no_start: bool,
    /// Start the guest whenever libvirt starts
    #[arg(long)]
    pub autostart: bool,
    /// Print the XML for libvirt, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `ivctl guest demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// Boot the result of `ivctl image build` in this directory; build it if it does not exist
    #[arg(long, value_name = "DIR", default_value = "/var/lib/ivswitch/tiny")]
    pub image: PathBuf,
    /// Keep the guest running
    #[arg(long)]
    pub keep: bool,
}

/// `ivctl guest resize`.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub struct Resize {
    /// Name of the guest
    pub name: String,
    /// Number of vCPUs; a number above the guest's maximum needs a guest that is off
    #[arg(long, value_name = "N", group = "what")]
    pub vcpus: Option<u32>,
    /// Amount of memory; an amount above the guest's maximum needs a guest that is off
    #[arg(long, value_name = "SIZE", value_parser = size, group = "what")]
    pub memory: Option<u64>,
    /// Weight among guests that compete for a processor
    #[arg(long, value_name = "WEIGHT", group = "what")]
    pub shares: Option<u32>,
}

/// `ivctl guest migrate`.
#[derive(Args, Debug)]
pub struct Migrate {
    /// Name of the guest
    pub name: String,
    /// The libvirt daemon of the other host
    #[arg(long, value_name = "URI")]
    pub to: String,
    /// Control socket of the switch on the other host; forward it with ssh -L LOCAL:/run/ivswitch/control.sock
    #[arg(long, value_name = "PATH")]
    pub to_socket: PathBuf,
    /// Also copy the disks, for hosts without shared storage
    #[arg(long)]
    pub storage: bool,
    /// Also migrate if libvirt cannot tell whether the disks are safe on both hosts
    #[arg(long)]
    pub r#unsafe: bool,
    /// Run on the other host immediately, and fetch the memory on demand
    #[arg(long)]
    pub postcopy: bool,
    /// Address of the other host for QEMU's own connection, such as tcp://10.0.0.12
    #[arg(long, value_name = "URI")]
    pub migrate_uri: Option<String>,
    /// Address of the other host for the disks, such as tcp://10.0.0.12:49153
    #[arg(long, value_name = "URI", requires = "storage")]
    pub disks_uri: Option<String>,
}

/// `ivctl guest schedule`.
#[derive(Subcommand, Debug)]
pub enum ScheduleVerb {
    /// Show the schedule
    List,
    /// Schedule an action on a guest
    Add {
        /// The time: +10m, +2h, or 2026-11-22T08:00 in UTC
        at: String,
        /// The action: start NAME, stop NAME, destroy NAME, reboot NAME, or resize NAME --vcpus N --memory SIZE
        #[arg(required = true, num_args = 1.., allow_hyphen_values = true, trailing_var_arg = true)]
        what: Vec<String>,
    },
    /// Delete an entry
    Del {
        /// Number of the entry
        number: u64,
    },
    /// Carry out entries as they become due, until ended; a service runs this
    Run {
        /// Carry out only the entries that are due now
        #[arg(long)]
        once: bool,
    },
    /// Carry out one entry; `run` starts a process with this verb for each entry
    #[command(hide = true)]
    CarryOut {
        /// Number of the entry
        number: u64,
    },
}

/// `ivctl volume`.
#[derive(Subcommand, Debug)]
pub enum VolumeVerb {
    /// Show all volumes
    List {
        /// Only volumes in this pool
        #[arg(long)]
        pool: Option<String>,
    },
    /// Create a volume
    Create {
        /// Name of the volume
        name: String,
        /// Size of the volume
        #[arg(long, value_name = "SIZE", value_parser = size)]
        size: u64,
        /// Pool of the volume
        #[arg(long, default_value = POOL)]
        pool: String,
        /// Format of the volume
        #[arg(long, value_enum, default_value_t = Format::Qcow2)]
        format: Format,
        /// Create this filesystem on the volume
        #[arg(long, value_enum)]
        fs: Option<Filesystem>,
    },
    /// Enlarge a volume, immediately if a running guest uses it
    Resize {
        /// Name of the volume
        name: String,
        /// New size of the volume
        #[arg(long, value_name = "SIZE", value_parser = size)]
        size: u64,
        /// Pool of the volume
        #[arg(long, default_value = POOL)]
        pool: String,
    },
    /// Copy the present content of a volume to NAME@SNAPSHOT; no running guest may use the volume
    Snapshot {
        /// Name of the volume
        name: String,
        /// Name of the snapshot
        snapshot: String,
        /// Pool of the volume
        #[arg(long, default_value = POOL)]
        pool: String,
    },
    /// Attach a volume to a guest
    Attach {
        /// Name of the volume
        name: String,
        /// The guest
        guest: String,
        /// Pool of the volume
        #[arg(long, default_value = POOL)]
        pool: String,
        /// Let the guest only read the volume
        #[arg(long)]
        readonly: bool,
    },
    /// Detach a volume from a guest
    Detach {
        /// Name of the volume
        name: String,
        /// The guest
        guest: String,
        /// Pool of the volume
        #[arg(long, default_value = POOL)]
        pool: String,
    },
    /// Delete a volume that no guest uses
    Delete {
        /// Name of the volume
        name: String,
        /// Pool of the volume
        #[arg(long, default_value = POOL)]
        pool: String,
        /// Succeed if the volume does not exist
        #[arg(long)]
        if_exists: bool,
    },
    /// Pools: the places of volumes
    Pool {
        /// The action on pools
        #[command(subcommand)]
        verb: PoolVerb,
    },
}

/// The pool for volumes that name none.
pub const POOL: &str = "default";

/// `ivctl volume pool`.
#[derive(Subcommand, Debug)]
pub enum PoolVerb {
    /// Show all pools
    List,
    /// Add a pool: a directory, or an NFS export mounted at a directory
    Add {
        /// Name of the pool
        name: String,
        /// The directory; it is created if it does not exist
        #[arg(long, value_name = "PATH")]
        dir: PathBuf,
        /// The NFS export to mount at the directory
        #[arg(long, value_name = "HOST:/PATH", value_parser = export)]
        nfs: Option<(String, String)>,
        /// Succeed if a pool with this name exists already
        #[arg(long)]
        may_exist: bool,
    },
    /// Remove a pool; its volumes stay where they are
    Del {
        /// Name of the pool
        name: String,
        /// Succeed if the pool does not exist
        #[arg(long)]
        if_exists: bool,
    },
}

/// `ivctl image`.
#[derive(Subcommand, Debug)]
pub enum ImageVerb {
    /// Build a small guest, kernel and initramfs, from the packages of this Debian
    Build(Build),
}

/// `ivctl image build`.
#[derive(Args, Debug)]
pub struct Build {
    /// The directory for the result: vmlinux, initramfs and the parts that they were built from
    pub dir: PathBuf,
    /// Package of the kernel
    #[arg(long, default_value = "linux-image-6.12-cloud-amd64")]
    pub kernel: String,
    /// Take the kernel from this suite of Debian, such as trixie-backports, whether or not this host uses it
    #[arg(long, value_name = "SUITE")]
    pub suite: Option<String>,
    /// A kernel module in addition to those for virtio; may be repeated
    #[arg(long)]
    pub module: Vec<String>,
    /// A program of this host, added with its libraries; may be repeated
    #[arg(long)]
    pub program: Vec<PathBuf>,
    /// A file to add, and its path in the guest; may be repeated
    #[arg(long, value_name = "SOURCE:PATH")]
    pub file: Vec<String>,
    /// Use the kernel and busybox that the directory already contains
    #[arg(long)]
    pub offline: bool,
}

/// A requested NIC.
#[derive(Clone, Debug, PartialEq)]
pub struct NicWish {
    /// The network that the NIC joins.
    pub network: String,
    /// The NIC's addresses; empty means any.
    pub ip: Vec<AddressOrPrefix>,
    /// The NIC's MAC address.
    pub mac: Option<Mac>,
    /// The NIC's model.
    pub model: String,
    /// The NIC's MTU.
    pub mtu: Option<u16>,
    /// The driver of the switch's port; `None` chooses the fastest that the guest's memory and the model allow.
    pub kind: Option<PortKind>,
    /// The number of queue pairs, if the NIC shares memory.
    pub queues: Option<u32>,
}

impl NicWish {
    /// The driver of the switch's port: the requested one, otherwise the fastest that the guest's memory and the
    /// model allow.
    #[must_use]
    pub fn kind(&self, shared_memory: bool) -> PortKind {
        let fastest =
            if shared_memory && self.model == "virtio" { PortKind::Vhostuser } else { PortKind::Afxdp };
        self.kind.unwrap_or(fastest)
    }
}

/// A requested disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskWish {
    /// A path, or a pool and a volume.
    pub source: DiskSource,
    /// Whether the guest may only read the disk.
    pub readonly: bool,
    /// The format of the file; for a volume, its pool knows the format.
    pub format: Option<Format>,
}

/// The place of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskSource {
    /// A file.
    Path(PathBuf),
    /// A volume: pool and name.
    Volume(String, String),
}

/// The requested kind of processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccelWish {
    /// KVM if it works, otherwise QEMU's emulation
    Auto,
    /// KVM
    Kvm,
    /// QEMU's emulation
    Tcg,
}

/// A filesystem for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Filesystem {
    /// ext4, created by mkfs.ext4
    Ext4,
    /// XFS, created by mkfs.xfs
    Xfs,
    /// FAT, created by mkfs.vfat
    Vfat,
}

fn count(text: &str) -> Result<(u32, u32), String> {
    pair(text, |n| n.parse().map_err(|_| format!("{n} is not a number")))
}

fn sizes(text: &str) -> Result<(u64, u64), String> {
    pair(text, size)
}

fn nic(text: &str) -> Result<NicWish, String> {
    let mut parts = text.split(',');
    let network =
        parts.next().filter(|n| !n.is_empty() && !n.contains('=')).ok_or("it begins with a network")?;
    let mut nic = NicWish {
        network: network.to_owned(),
        ip: vec![],
        mac: None,
        model: "virtio".to_owned(),
        mtu: None,
        kind: None,
        queues: None,
    };
    for part in parts {
        match part.split_once('=') {
            Some(("ip", v)) => nic.ip.push(v.parse()?),
            Some(("mac", v)) => nic.mac = Some(v.parse()?),
            Some(("model", v))
                if !v.is_empty() && v.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') =>
            {
                nic.model = v.to_owned();
            }
            Some(("mtu", v)) => {
                let good = |mtu: &u16| (576..=9216).contains(mtu);
                nic.mtu = Some(v.parse().ok().filter(good).ok_or("an MTU is 576 to 9216")?);
            }
            Some(("kind", "vhostuser")) => nic.kind = Some(PortKind::Vhostuser),
            Some(("kind", "afxdp")) => nic.kind = Some(PortKind::Afxdp),
            Some(("kind", "packet")) => nic.kind = Some(PortKind::Packet),
            Some(("queues", v)) => {
                let good = |queues: &u32| (1..=QUEUES_MAX).contains(queues);
                nic.queues =
                    Some(v.parse().ok().filter(good).ok_or(format!("queues are 1 to {QUEUES_MAX}"))?);
            }
            _ => {
                return Err(format!(
                    "{part} is none of ip=, mac=, model=, mtu=, queues=, kind=vhostuser, kind=afxdp, kind=packet"
                ));
            }
        }
    }
    let shares = nic.kind == Some(PortKind::Vhostuser);
    if shares && nic.model != "virtio" {
        return Err("a NIC of kind vhostuser needs model virtio".to_owned());
    }
    if nic.queues.is_some() && nic.kind.is_some() && !shares {
        return Err("queues= is for NICs of kind vhostuser".to_owned());
    }
    Ok(nic)
}

fn disk(text: &str) -> Result<DiskWish, String> {
    let mut parts = text.split(',');
    let source = match parts.next().unwrap_or_default() {
        path if path.starts_with('/') => DiskSource::Path(path.into()),
        volume => match volume.split_once('/') {
            Some((pool, name)) if !pool.is_empty() && !name.is_empty() && !name.contains('/') => {
                DiskSource::Volume(pool.to_owned(), name.to_owned())
            }
            _ => return Err("a disk is POOL/VOLUME or an absolute path".to_owned()),
        },
    };
    let mut disk = DiskWish { source, readonly: false, format: None };
    for part in parts {
        match part {
            "ro" => disk.readonly = true,
            "format=raw" => disk.format = Some(Format::Raw),
            "format=qcow2" => disk.format = Some(Format::Qcow2),
            _ => return Err(format!("{part} is none of ro, format=raw, format=qcow2")),
        }
    }
    Ok(disk)
}

fn floating(text: &str) -> Result<Floating, String> {
    let mut parts = text.split(',');
    let ip = |v: &str| v.parse::<IpAddr>().map_err(|_| format!("{v} is not an IP address"));
    let mut f = Floating::new(ip(parts.next().unwrap_or_default())?, "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("network", v)) => f.network = v.to_owned(),
            Some(("gateway", v)) => f.gateway = v.to_owned(),
            Some(("reality", v)) => f.reality = Some(ip(v)?),
            Some(("inside", v)) => {
                let (network, address) =
                    v.split_once(':').ok_or("inside is written as private:192.168.1.2")?;
                f.inside = Some(Inside { network: network.to_owned(), address: ip(address)? });
            }
            Some(("only", v)) => f.only.push(v.parse::<Ports>()?),
            _ => return Err(format!("{part} is none of network=, gateway=, reality=, inside=, only=")),
        }
    }
    if f.network.is_empty() || f.gateway.is_empty() {
        return Err("it needs network= and gateway=".to_owned());
    }
    Ok(f)
}

fn channel(text: &str) -> Result<(String, PathBuf), String> {
    let good =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    match text.split_once('=') {
        Some((name, path)) if good(name) => Ok((name.to_owned(), path.into())),
        _ => Err("a channel is written as org.example.agent=/run/agent.sock".to_owned()),
    }
}

fn export(text: &str) -> Result<(String, String), String> {
    match text.split_once(":/") {
        Some((host, path)) if !host.is_empty() => Ok((host.to_owned(), format!("/{path}"))),
        _ => Err("an export is written as 10.0.0.5:/srv/volumes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_values() {
        let n = nic("private,ip=10.1.0.5,ip=fd00::5,mac=52:54:00:00:00:01,mtu=1450").expect("a NIC");
        assert_eq!(
            (n.network.as_str(), n.ip.len(), n.mtu, n.model.as_str()),
            ("private", 2, Some(1450), "virtio")
        );
        assert_eq!(
            disk("pool/vol,ro").expect("a disk").source,
            DiskSource::Volume("pool".into(), "vol".into())
        );
        assert_eq!(disk("/a/b").expect("a disk").source, DiskSource::Path("/a/b".into()));
        let f = floating("56.0.0.11,network=public,gateway=rvm1,inside=private:10.1.0.5,only=tcp/80")
            .expect("one");
        assert_eq!((f.network.as_str(), f.only.len()), ("public", 1));
        for text in
            ["", "ip=1.2.3.4", "private,ip=x", "private,mtu=70000", "private,color=red", "private,model="]
        {
            assert!(nic(text).is_err(), "{text}");
        }
        assert_eq!((n.kind(true), n.kind(false)), (PortKind::Vhostuser, PortKind::Afxdp));
        assert_eq!(nic("private,model=e1000").expect("a NIC").kind(true), PortKind::Afxdp);
        assert_eq!(nic("private,kind=packet").expect("a NIC").kind(true), PortKind::Packet);
        assert_eq!(nic("private,queues=4").expect("a NIC").queues, Some(4));
        for text in [
            "p,queues=0",
            "p,queues=65",
            "p,kind=tap",
            "p,kind=afxdp,queues=2",
            "p,kind=vhostuser,model=e1000",
        ] {
            assert!(nic(text).is_err(), "{text}");
        }
        for text in ["", "vol", "pool/", "a/b/c", "pool/vol,rw"] {
            assert!(disk(text).is_err(), "{text}");
        }
        for text in ["", "56.0.0.11", "56.0.0.11,network=public", "x,network=a,gateway=b"] {
            assert!(floating(text).is_err(), "{text}");
        }
        assert!(channel("a b=/x").is_err() && export("host").is_err());
    }
}

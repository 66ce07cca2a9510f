//! The XDP program of an interface: loaded from the object that is part of this binary, attached by a
//! link that goes away with the process however it ends.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapError, PerCpuArray, XskMap};
#[cfg(test)]
use aya::programs::ProgramError;
use aya::programs::Xdp;
use aya::{Ebpf, EbpfError, EbpfLoader};

use super::SteerCounters;
use super::steer::{self, SteerEntries, SteerKey};
use ctl::io::SteerPlan;
use engine::wire::mac::MacAddr;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/steer.bpf.o"));

const BPF_OBJ_GET_INFO_BY_FD: i64 = 15;
const BPF_LINK_CREATE: i64 = 28;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// A loaded program with its maps, and its link once attached.
pub struct Program {
    ebpf: Ebpf,
    name: &'static str,
    link: Option<OwnedFd>,
    table: SteerTable,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("name", &self.name).field("link", &self.link).finish_non_exhaustive()
    }
}

impl Program {
    /// Loads the program for a shared or a dedicated interface with room for `queues` sockets.
    ///
    /// # Errors
    /// What the kernel or its verifier refuses.
    pub fn load(shared: bool, queues: u32) -> Result<Self, EbpfError> {
        // No BTF of the running kernel: the program uses nothing of it, and reading it takes a while.
        let mut ebpf = EbpfLoader::new().btf(None).map_max_entries("xsks_map", queues).load(OBJECT)?;
        let name = if shared { "steer_shared" } else { "steer_all" };
        xdp(&mut ebpf, name).load()?;
        Ok(Self { ebpf, name, link: None, table: SteerTable::default() })
    }

    /// Sends what arrives on queue `index` to this socket, if the program takes it up.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn set_socket(&mut self, index: u32, socket: RawFd) -> Result<(), MapError> {
        XskMap::try_from(self.ebpf.map_mut("xsks_map").expect("the object has this map"))?
            .set(index, socket, 0)
    }

    /// Attaches the program to the interface.
    ///
    /// # Errors
    /// `EBUSY` or `EEXIST`: another program is there. Else what the driver refuses.
    pub fn attach(&mut self, interface: u32, native: bool) -> io::Result<()> {
        // Not aya's attach: that falls back to netlink, whose programs outlive the process.
        let program = xdp(&mut self.ebpf, self.name).fd().map_err(io::Error::other)?.as_fd().as_raw_fd();
        let flags = if native { XDP_FLAGS_DRV_MODE } else { XDP_FLAGS_SKB_MODE };
        // The first fields of `union bpf_attr` for this command, the rest zero.
        let mut attributes = [0_u32; 16];
        attributes[..4].copy_from_slice(&[program as u32, interface, BPF_XDP, flags]);
        // SAFETY: the pointer and length describe `attributes`; this command reads no other memory.
        let link = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, attributes.as_ptr(), size_of::<[u32; 16]>())
        };
        if link < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        self.link = Some(unsafe { OwnedFd::from_raw_fd(link as RawFd) });
        Ok(())
    }

    /// Whether the program, once attached, no longer is: another tool detached it, or the interface is gone.
    #[must_use]
    pub fn is_detached(&self) -> bool {
        let Some(link) = &self.link else { return false };
        // `struct bpf_link_info`: type, id, program, padding, and for XDP the interface, which is 0 when detached.
        let mut info = [0_u32; 16];
        let mut attributes = [0_u64; 2];
        attributes[0] = (size_of::<[u32; 16]>() as u64) << 32 | link.as_raw_fd() as u64;
        attributes[1] = info.as_mut_ptr().addr() as u64;
        // SAFETY: the attributes are the descriptor, the length of `info`, and its address; the kernel writes at most
        // so many bytes there.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_OBJ_GET_INFO_BY_FD,
                attributes.as_mut_ptr(),
                size_of::<[u64; 2]>(),
            )
        };
        done == 0 && info[4] == 0
    }

    /// The program's descriptor, to run it on given frames.
    #[cfg(test)]
    pub fn fd(&mut self) -> Result<RawFd, ProgramError> {
        Ok(xdp(&mut self.ebpf, self.name).fd()?.as_fd().as_raw_fd())
    }

    /// Replaces the steering.
    ///
    /// # Errors
    /// When the table is full. What was changed stays changed; the next call goes on from there.
    pub fn steer(&mut self, plan: &SteerPlan, mac: MacAddr) -> Result<(), MapError> {
        self.table.replace(&mut self.ebpf, plan, mac)
    }

    /// What the program did so far.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn counters(&self) -> Result<SteerCounters, MapError> {
        SteerTable::counters(&self.ebpf)
    }
}

/// The steering as the maps of an object have it, whatever its programs are attached to.
#[derive(Debug, Default)]
pub struct SteerTable {
    /// What is in the table now.
    entries: SteerEntries,
}

impl SteerTable {
    /// Replaces the steering. `mac` is the interface's own address.
    ///
    /// While it changes, single packets may still go the old way, and none goes a way that is in
    /// neither plan: entries that leave packets to the kernel come first, obsolete ones go last.
    ///
    /// # Errors
    /// When the table is full. What was changed stays changed; the next call goes on from there.
    pub fn replace(&mut self, ebpf: &mut Ebpf, plan: &SteerPlan, mac: MacAddr) -> Result<(), MapError> {
        let (config, wanted) = (steer::config(plan, mac), steer::entries(plan));
        let map = ebpf.map_mut("steering").expect("the object has this map");
        let mut table = LpmTrie::<_, [u8; 20], u32>::try_from(map)?;
        for up in [false, true] {
            for (key, _) in wanted.iter().filter(|(_, wanted)| **wanted == up) {
                if self.entries.get(key) != Some(&up) {
                    table.insert(&to_key(key), u32::from(up), 0)?;
                    self.entries.insert(*key, up);
                }
            }
        }
        let map = ebpf.map_mut("config").expect("the object has this map");
        Array::<_, [u8; 24]>::try_from(map)?.set(0, config, 0)?;
        let map = ebpf.map_mut("steering").expect("the object has this map");
        let mut table = LpmTrie::<_, [u8; 20], u32>::try_from(map)?;
        // Longest last: a packet must not be taken up because only its exception is gone already.
        let mut obsolete: Vec<(SteerKey, bool)> = self.entries.iter().map(|(key, up)| (*key, *up)).collect();
        obsolete.retain(|(key, _)| !wanted.contains_key(key));
        obsolete.sort_by_key(|(_, up)| !*up);
        for (key, _) in obsolete {
            table.remove(&to_key(&key))?;
            self.entries.remove(&key);
        }
        Ok(())
    }

    /// What the programs did so far, all processors together.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn counters(ebpf: &Ebpf) -> Result<SteerCounters, MapError> {
        let map = ebpf.map("counters").expect("the object has this map");
        let counters = PerCpuArray::<_, u64>::try_from(map)?;
        let sum = |index: u32| Ok::<u64, MapError>(counters.get(&index, 0)?.iter().sum());
        Ok(SteerCounters { passed: sum(0)?, tunnel: sum(1)?, reality: sum(2)? })
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    let program = ebpf.program_mut(name).expect("the object has this program");
    program.try_into().expect("it is an XDP program")
}

fn to_key(key: &SteerKey) -> Key<[u8; 20]> {
    Key::new(key.prefix_len, key.bits)
}

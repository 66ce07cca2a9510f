//! The XDP program of an interface: loaded from the object that is part of this binary, attached by a link
//! that goes away with the process however it ends.
//!
//! Every interface has its own program and maps. Only the maps of the kernel offload ([`SharedMaps`]) belong
//! to all programs of the daemon. Aya's own loader cannot share maps without a BPF file system, so this
//! module assembles the object from aya's parts. Unsafe for `bpf(2)`.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap as BpfHashMap, Map, MapData, MapError, PerCpuArray, XskMap};
use aya_obj::Object;

use super::SteerCounters;
pub use super::object::LoadError;
use super::object::{CAST, fit_to_kernel, parse, parse_object, parse_tagged};
use super::steer::{self, SteerEntries, SteerKey};
use crate::ports::own::{self, Own};
use ctl::io::SteerPlan;
use engine::wire::mac::MacAddr;

static PACKET_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/packet.bpf.o"));
static TRACK_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/track.bpf.o"));
static SKB_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/cache_skb.bpf.o"));

/// The program that restores VLAN tags.
const TAGGED: &str = "steer_tagged";

/// The map of an interface's sockets, by queue.
const SOCKETS: &str = "xsks_map";

const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_PROG_LOAD: i64 = 5;
const BPF_OBJ_GET_INFO_BY_FD: i64 = 15;
const BPF_LINK_CREATE: i64 = 28;
const BPF_LINK_UPDATE: i64 = 29;
const BPF_LINK_DETACH: i64 = 34;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const BPF_F_XDP_DEV_BOUND_ONLY: u32 = 1 << 6;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The maps of the kernel offload, which all programs share.
#[derive(Debug)]
pub struct SharedMaps {
    /// The epoch and the keys of the hash.
    pub cache: MapData,
    /// The flows.
    pub flows: MapData,
    /// The devices by which flows may leave.
    pub outputs: MapData,
    /// By name, maps of the object that the programs of dedicated interfaces do not read. The object cannot be put together
    /// without them, and the kernel keeps the largest 4 MiB long, so that all those programs have these, of one entry each.
    unread: HashMap<String, MapData>,
    /// Loaded with the first AF_PACKET port.
    skb: OnceLock<Result<SkbPrograms, String>>,
}

/// The programs of `cache_skb.bpf.c`, to which the programs of AF_PACKET ports jump at their end.
#[derive(Debug)]
pub struct SkbPrograms {
    /// The socket filters: one for a plain frame, one for a tunnel packet.
    pub socket: [OwnedFd; 2],
    /// The tc program.
    pub tc: OwnedFd,
}

impl SharedMaps {
    /// Creates new maps.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn create() -> Result<Self, LoadError> {
        let mut object = parse()?;
        let mut create = |name: &str| {
            let map = object.maps.remove(name).expect("the object has this map");
            create_map(&map, name)
        };
        let (cache, flows, outputs) = (create("cache")?, create("flows")?, create("outputs")?);
        let mut unread = HashMap::new();
        for (name, mut map) in object.maps.drain().filter(|(name, _)| name != SOCKETS) {
            map.set_max_entries(1);
            unread.insert(name.clone(), create_map(&map, &name)?);
        }
        Ok(Self { cache, flows, outputs, unread, skb: OnceLock::new() })
    }

    /// The programs for AF_PACKET ports.
    ///
    /// # Errors
    /// Returns the error of the kernel or its verifier.
    pub fn skb(&self) -> Result<&SkbPrograms, &str> {
        let load = || {
            let names = [
                ("follow_socket", BPF_PROG_TYPE_SOCKET_FILTER),
                ("follow_socket_tunnel", BPF_PROG_TYPE_SOCKET_FILTER),
                ("follow_tc", BPF_PROG_TYPE_SCHED_CLS),
            ];
            let mut object = parse_object(SKB_OBJECT)?;
            fit_to_kernel(&mut object, &CAST)?;
            let ([plain, tunnel, tc], _) = load_all(object, names, None, 1, &|name| self.get(name))?;
            Ok(SkbPrograms { socket: [plain, tunnel], tc })
        };
        let loaded = self.skb.get_or_init(|| load().map_err(|error: LoadError| error.to_string()));
        loaded.as_ref().map_err(String::as_str)
    }

    fn get(&self, name: &str) -> Option<RawFd> {
        let map = match name {
            "cache" => &self.cache,
            "flows" => &self.flows,
            "outputs" => &self.outputs,
            _ => return None,
        };
        Some(map.fd().as_fd().as_raw_fd())
    }

    /// As [`Self::get`], for a program that steers nothing.
    fn get_or_unread(&self, name: &str) -> Option<RawFd> {
        self.get(name).or_else(|| Some(self.unread.get(name)?.fd().as_fd().as_raw_fd()))
    }
}

/// A loaded program with its maps, and its link once attached.
pub struct Program {
    fd: OwnedFd,
    maps: HashMap<String, Map>,
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
    /// Returns the error of the kernel or its verifier.
    pub fn load(shared: bool, queues: u32, cache: &Arc<SharedMaps>) -> Result<Self, LoadError> {
        if !shared {
            return Self::load_unsteered(parse()?, "steer_all", None, queues, cache);
        }
        let programs = [("steer_shared", BPF_PROG_TYPE_XDP)];
        let (fds, own) = load_all(parse()?, programs, None, queues, &|name| cache.get(name))?;
        Self::of("steer_shared", fds, own)
    }

    /// Loads a program for this dedicated interface only. It asks the driver for the VLAN tag that is kept
    /// outside a frame, and writes the tag into the frame. The program can only be attached in native mode.
    ///
    /// # Errors
    /// The kernel or its verifier refuses: Linux before 6.8, or a driver that cannot tell the tag.
    pub fn load_tagged(interface: u32, queues: u32, cache: &Arc<SharedMaps>) -> Result<Self, LoadError> {
        Self::load_unsteered(parse_tagged()?, TAGGED, Some(interface), queues, cache)
    }

    /// Loads the program that finds out which devices accept redirected frames.
    ///
    /// # Errors
    /// See [`Program::load`].
    pub fn load_probe(cache: &Arc<SharedMaps>) -> Result<Self, LoadError> {
        Self::load_unsteered(parse()?, "probe_output", None, 1, cache)
    }

    /// Loads a program that reads no steering. The only map of its own is that of its sockets.
    fn load_unsteered(
        object: Object,
        name: &'static str,
        bound: Option<u32>,
        queues: u32,
        cache: &Arc<SharedMaps>,
    ) -> Result<Self, LoadError> {
        let programs = [(name, BPF_PROG_TYPE_XDP)];
        let (fds, own) = load_all(object, programs, bound, queues, &|name| cache.get_or_unread(name))?;
        Self::of(name, fds, own)
    }

    fn of(name: &'static str, [fd]: [OwnedFd; 1], own: HashMap<String, MapData>) -> Result<Self, LoadError> {
        let maps = own.into_iter().map(|(name, data)| Ok((name, Map::from_map_data(data)?)));
        let maps = maps.collect::<Result<_, MapError>>()?;
        Ok(Self { fd, maps, name, link: None, table: SteerTable::default() })
    }

    /// Whether the program restores VLAN tags that the driver keeps outside the frame.
    #[must_use]
    pub fn sees_tags(&self) -> bool {
        self.name == TAGGED
    }

    fn map_mut(&mut self, name: &str) -> &mut Map {
        self.maps.get_mut(name).expect("the object has this map")
    }

    /// Sends what arrives on queue `index` to this socket, if the program takes it up.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn set_socket(&mut self, index: u32, socket: RawFd) -> Result<(), MapError> {
        XskMap::try_from(self.map_mut(SOCKETS))?.set(index, socket, 0)
    }

    /// Attaches the program to the interface.
    ///
    /// # Errors
    /// `EBUSY` or `EEXIST`: another program is attached. Otherwise the driver's error.
    pub fn attach(&mut self, interface: u32, native: bool) -> io::Result<()> {
        // Aya's own attach falls back to netlink, whose programs outlive the process.
        let flags = if native { XDP_FLAGS_DRV_MODE } else { XDP_FLAGS_SKB_MODE };
        // The first fields of `union bpf_attr` for this command, the rest zero.
        let mut attributes = [0_u32; 16];
        attributes[..4].copy_from_slice(&[self.fd.as_raw_fd() as u32, interface, BPF_XDP, flags]);
        // SAFETY: the pointer and length describe `attributes`; this command reads no other memory.
        let link = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, attributes.as_ptr(), size_of::<[u32; 16]>())
        };
        if link < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and this is its only owner.
        self.link = Some(unsafe { OwnedFd::from_raw_fd(link as RawFd) });
        Ok(())
    }

    /// Replaces the program that a link has attached; the interface has a program at every moment.
    ///
    /// # Errors
    /// Returns the kernel's error and the link.
    pub fn attach_over(&mut self, link: OwnedFd) -> Result<(), (io::Error, OwnedFd)> {
        let mut attributes = [0_u32; 16];
        attributes[..2].copy_from_slice(&[link.as_raw_fd() as u32, self.fd.as_raw_fd() as u32]);
        match link_command(BPF_LINK_UPDATE, &attributes) {
            Ok(()) => self.link = Some(link),
            Err(error) => return Err((error, link)),
        }
        Ok(())
    }

    /// The link, once attached.
    #[must_use]
    pub fn link(&self) -> Option<&OwnedFd> {
        self.link.as_ref()
    }

    /// Whether the program was attached and no longer is: another tool detached it, or the interface is gone.
    #[must_use]
    pub fn is_detached(&self) -> bool {
        self.link.as_ref().is_some_and(is_detached)
    }

    /// The program's descriptor, to run it on given frames.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Replaces the steering of the frames that come in by `interface`.
    ///
    /// # Errors
    /// When the table is full. Changes up to there remain; the next call continues from there.
    pub fn steer(&mut self, plan: &SteerPlan, mac: MacAddr, interface: &str) -> Result<(), MapError> {
        self.table.replace(&mut self.maps, plan, mac, interface)
    }

    /// The record of the kernel's own flows.
    pub fn own(&self) -> &Own {
        self.table.own()
    }

    /// Loads the program that notes the kernel's own flows.
    #[cfg(test)]
    pub fn load_track(&self) -> Result<OwnedFd, LoadError> {
        load_track(&self.maps)
    }

    /// The program's counts so far.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn counters(&self) -> Result<SteerCounters, MapError> {
        SteerTable::counters(&self.maps)
    }
}

/// Runs a command whose attributes are descriptors only.
fn link_command(command: i64, attributes: &[u32; 16]) -> io::Result<()> {
    // SAFETY: the pointer and length describe `attributes`; these commands read no other memory.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of::<[u32; 16]>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Detaches a link's program from its interface, even if other processes hold the link, and waits until its
/// current runs end.
pub fn detach(link: &OwnedFd) {
    let mut attributes = [0_u32; 16];
    attributes[0] = link.as_raw_fd() as u32;
    match link_command(BPF_LINK_DETACH, &attributes) {
        Ok(()) => super::membarrier::wait_for_programs(),
        Err(error) => tracing::debug!("a link that was kept is gone already: {error}"),
    }
}

/// Whether a link is detached.
pub fn is_detached(link: &OwnedFd) -> bool {
    // `struct bpf_link_info`: type, id, program, padding, and for XDP and tcx the interface, which is 0 when detached.
    let info = link_info(link);
    info.is_ok_and(|info| info[4] == 0)
}

/// Whether a link attaches an XDP program to this interface.
pub fn is_attached_to(link: &OwnedFd, interface: u32) -> bool {
    const LINK_TYPE_XDP: u32 = 6;
    link_info(link).is_ok_and(|info| info[0] == LINK_TYPE_XDP && info[4] == interface)
}

fn link_info(link: &OwnedFd) -> io::Result<[u32; 16]> {
    let mut info = [0_u32; 16];
    let mut attributes = [0_u64; 2];
    attributes[0] = (size_of::<[u32; 16]>() as u64) << 32 | link.as_raw_fd() as u64;
    attributes[1] = info.as_mut_ptr().addr() as u64;
    // SAFETY: the attributes are the descriptor, the length of `info`, and its address; the kernel writes at
    // most that length there.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, attributes.as_mut_ptr(), size_of::<[u64; 2]>())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(info) }
}

/// Finds maps by name, whichever code loaded them.
pub trait SteerMaps {
    /// The map, to read it.
    fn map(&self, name: &str) -> Option<&Map>;
    /// The map, to change it.
    fn map_mut(&mut self, name: &str) -> Option<&mut Map>;
}

impl SteerMaps for HashMap<String, Map> {
    fn map(&self, name: &str) -> Option<&Map> {
        self.get(name)
    }
    fn map_mut(&mut self, name: &str) -> Option<&mut Map> {
        self.get_mut(name)
    }
}

impl SteerMaps for aya::Ebpf {
    fn map(&self, name: &str) -> Option<&Map> {
        Self::map(self, name)
    }
    fn map_mut(&mut self, name: &str) -> Option<&mut Map> {
        Self::map_mut(self, name)
    }
}

/// The steering in an object's maps, wherever its programs are attached.
#[derive(Debug, Default)]
pub struct SteerTable {
    /// The entries in the table now.
    entries: SteerEntries,
    vnis: BTreeSet<u32>,
    own: Own,
}

impl SteerTable {
    /// Creates steering that stays in the kernel after this process has ended.
    #[must_use]
    pub fn lasting() -> Self {
        Self { own: Own::lasting(), ..Self::default() }
    }

    /// Replaces the steering. `mac` is the interface's own address.
    ///
    /// During the change, single packets may still go the old way, but every packet goes a way that one of
    /// the two plans has: entries that leave packets to the kernel come first, obsolete entries go last. The
    /// kernel's own flows are noted before an entry takes their packets up.
    ///
    /// # Errors
    /// When the table is full. Changes up to there remain; the next call continues from there.
    pub fn replace(
        &mut self,
        maps: &mut impl SteerMaps,
        plan: &SteerPlan,
        mac: MacAddr,
        interface: &str,
    ) -> Result<(), MapError> {
        let own = self.own.follow(maps, plan, interface);
        let (config, wanted) = (steer::config(plan, mac, own), steer::entries(plan));
        self.add_vnis(maps, plan)?;
        for up in [false, true] {
            if up {
                let map = maps.map_mut("config").expect("the object has this map");
                Array::<_, [u8; steer::CONFIG_LEN]>::try_from(map)?.set(0, config, 0)?;
            }
            let map = maps.map_mut("steering").expect("the object has this map");
            let mut table = LpmTrie::<_, [u8; 20], u32>::try_from(map)?;
            for (key, _) in wanted.iter().filter(|(_, wanted)| **wanted == up) {
                if self.entries.get(key) != Some(&up) {
                    table.insert(&to_key(key), u32::from(up), 0)?;
                    self.entries.insert(*key, up);
                }
            }
        }
        let map = maps.map_mut("steering").expect("the object has this map");
        let mut table = LpmTrie::<_, [u8; 20], u32>::try_from(map)?;
        // Longest prefix last: otherwise a packet whose exception is already gone would be taken up.
        let mut obsolete: Vec<(SteerKey, bool)> = self.entries.iter().map(|(key, up)| (*key, *up)).collect();
        obsolete.retain(|(key, _)| !wanted.contains_key(key));
        obsolete.sort_by_key(|(_, up)| !*up);
        for (key, _) in obsolete {
            table.remove(&to_key(&key))?;
            self.entries.remove(&key);
        }
        self.remove_vnis(maps, plan)
    }

    /// Adds our networks, before the programs learn that the port is shared.
    fn add_vnis(&mut self, maps: &mut impl SteerMaps, plan: &SteerPlan) -> Result<(), MapError> {
        /// Probes of the path.
        const NO_NETWORK: u32 = 0;
        let Some(vnis) = &plan.vnis else { return Ok(()) };
        let mut table = vni_map(maps)?;
        for vni in vnis.iter().copied().chain([NO_NETWORK]).filter(|vni| !self.vnis.contains(vni)) {
            table.insert(vni, 1, 0)?;
        }
        self.vnis.extend(vnis);
        Ok(())
    }

    fn remove_vnis(&mut self, maps: &mut impl SteerMaps, plan: &SteerPlan) -> Result<(), MapError> {
        let none = BTreeSet::new();
        let wanted = plan.vnis.as_ref().unwrap_or(&none);
        let obsolete: Vec<u32> = self.vnis.difference(wanted).copied().collect();
        if obsolete.is_empty() {
            return Ok(());
        }
        let mut table = vni_map(maps)?;
        for vni in obsolete {
            table.remove(&vni)?;
            self.vnis.remove(&vni);
        }
        Ok(())
    }

    /// The programs' counts so far, all processors together.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn counters(maps: &impl SteerMaps) -> Result<SteerCounters, MapError> {
        let map = maps.map("counters").expect("the object has this map");
        let counters = PerCpuArray::<_, u64>::try_from(map)?;
        let sum = |index: u32| Ok::<u64, MapError>(counters.get(&index, 0)?.iter().sum());
        Ok(SteerCounters { passed: sum(0)?, tunnel: sum(1)?, reality: sum(2)?, own: sum(3)? })
    }

    /// The record of the kernel's own flows.
    #[must_use]
    pub fn own(&self) -> &Own {
        &self.own
    }
}

/// Loads the program that notes the kernel's own flows, for the steering that has these maps.
///
/// # Errors
/// Returns the error of the kernel or its verifier.
pub fn load_track(maps: &impl SteerMaps) -> Result<OwnedFd, LoadError> {
    let object = parse_object(TRACK_OBJECT)?;
    let shared = |name: &str| maps.map(name).and_then(own::fd_of);
    let ([program], _) = load_all(object, [("track", BPF_PROG_TYPE_SCHED_CLS)], None, 1, &shared)?;
    Ok(program)
}

/// Loads the program that closes an uplink to the kernel while the daemon is away, with the maps of its steering.
///
/// # Errors
/// Returns the error of the kernel or its verifier.
pub fn load_closed() -> Result<(OwnedFd, HashMap<String, Map>), LoadError> {
    let object = parse_object(PACKET_OBJECT)?;
    let programs = [("packet_closed", BPF_PROG_TYPE_SCHED_CLS)];
    let ([program], own) = load_all(object, programs, None, 1, &|_| None)?;
    let maps = own.into_iter().map(|(name, data)| Ok((name, Map::from_map_data(data)?)));
    Ok((program, maps.collect::<Result<_, MapError>>()?))
}

/// Loads programs of an object. Their maps are new, except for the shared ones. `bound`: for this interface alone.
fn load_all<const N: usize>(
    mut object: Object,
    programs: [(&'static str, u32); N],
    bound: Option<u32>,
    queues: u32,
    shared: &dyn Fn(&str) -> Option<RawFd>,
) -> Result<([OwnedFd; N], HashMap<String, MapData>), LoadError> {
    let broken = |error: &dyn std::fmt::Display| LoadError::Object(error.to_string());
    let mut own = HashMap::new();
    let mut used = Vec::new();
    for (name, mut map) in object.maps.drain() {
        if name == SOCKETS {
            map.set_max_entries(queues);
        }
        let fd = match shared(&name) {
            Some(fd) => fd,
            None => {
                let data = create_map(&map, &name)?;
                own.entry(name.clone()).or_insert(data).fd().as_fd().as_raw_fd()
            }
        };
        used.push((name, fd, map));
    }
    let text = object.functions.keys().map(|(section, _)| *section).collect();
    let maps = used.iter().map(|(name, fd, map)| (name.as_str(), *fd, map));
    object.relocate_maps(maps, &text).map_err(|e| broken(&e))?;
    object.relocate_calls(&text).map_err(|e| broken(&e))?;
    let mut loaded = Vec::with_capacity(N);
    for (name, kind) in programs {
        let program = object.programs.get(name).expect("the object has this program");
        let function = object.functions.get(&program.function_key()).expect("it has code");
        loaded.push(load(name, kind, bound, &function.instructions)?);
    }
    Ok((loaded.try_into().expect("as many as names"), own))
}

/// Puts a program into a map of tail calls, where other programs jump to it.
///
/// # Errors
/// Returns the kernel's error.
pub fn set_tail_call(map: &MapData, index: u32, program: &OwnedFd) -> io::Result<()> {
    /// The fields of `union bpf_attr` for this command.
    #[repr(C)]
    struct Update {
        map: u64,
        key: u64,
        value: u64,
        flags: u64,
    }
    let value = program.as_raw_fd() as u32;
    let attributes = Update {
        map: map.fd().as_fd().as_raw_fd() as u64,
        key: (&raw const index).addr() as u64,
        value: (&raw const value).addr() as u64,
        flags: 0,
    };
    // SAFETY: the pointer and length describe `attributes`, whose pointers are to a key and a value of four
    // bytes each, the sizes in a map of programs.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_ELEM, &raw const attributes, size_of::<Update>())
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Creates a map without BTF, which the programs do not use.
fn create_map(map: &aya_obj::Map, name: &str) -> Result<MapData, MapError> {
    let (kind, entries, flags) = (map.map_type(), map.max_entries(), map.map_flags());
    let plain = aya_obj::Map::new_from_params(kind, map.key_size(), map.value_size(), entries, flags);
    MapData::create(plain, name, None)
}

/// Loads instructions whose maps are filled in.
fn load(
    name: &str,
    kind: u32,
    bound: Option<u32>,
    instructions: &[aya_obj::generated::bpf_insn],
) -> Result<OwnedFd, LoadError> {
    /// The fields of `union bpf_attr` for this command.
    #[repr(C)]
    #[derive(Default)]
    struct ProgLoad {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    const LOG_LEN: usize = 1 << 20;
    const LOG_SHOWN: usize = 400;
    let xdp = kind == BPF_PROG_TYPE_XDP;
    let mut attributes = ProgLoad {
        prog_type: kind,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"Dual BSD/GPL".as_ptr() as u64,
        prog_flags: if xdp { BPF_F_XDP_HAS_FRAGS } else { 0 }
            | if bound.is_some() { BPF_F_XDP_DEV_BOUND_ONLY } else { 0 },
        prog_ifindex: bound.unwrap_or(0),
        expected_attach_type: if xdp { BPF_XDP } else { 0 },
        ..ProgLoad::default()
    };
    attributes.prog_name[..name.len().min(15)].copy_from_slice(&name.as_bytes()[..name.len().min(15)]);
    let mut try_to = |log: Option<&mut Vec<u8>>| {
        if let Some(log) = log {
            (attributes.log_level, attributes.log_size) = (1, log.len() as u32);
            attributes.log_buf = log.as_mut_ptr() as u64;
        }
        // SAFETY: the pointer and length describe `attributes`, whose pointers are to live memory of the
        // lengths given next to them (the license ends with a zero); the kernel writes only to the log.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_LOAD,
                std::ptr::from_mut(&mut attributes),
                size_of::<ProgLoad>(),
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and this is its only owner.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    };
    let cause = match try_to(None) {
        Ok(fd) => return Ok(fd),
        Err(cause) => cause,
    };
    // Load again, this time with a log of the reason.
    let mut log = vec![0; LOG_LEN];
    if let Ok(fd) = try_to(Some(&mut log)) {
        return Ok(fd);
    }
    let len = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[len.saturating_sub(LOG_SHOWN)..len]);
    let log = if text.is_empty() { String::new() } else { format!(": {}", text.trim().replace('\n', "; ")) };
    Err(LoadError::Kernel { cause, log })
}

fn vni_map(maps: &mut impl SteerMaps) -> Result<BpfHashMap<&mut MapData, u32, u32>, MapError> {
    BpfHashMap::try_from(maps.map_mut("vnis").expect("the object has this map"))
}

fn to_key(key: &SteerKey) -> Key<[u8; 20]> {
    Key::new(key.prefix_len, key.bits)
}

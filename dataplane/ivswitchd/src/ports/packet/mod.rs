//! A network interface through AF_PACKET with virtio-net headers: GSO packets and partial checksums pass
//! through unchanged.
//!
//! For veths whose far end is a local stack, and for NICs that segment by themselves. A packet socket only
//! listens, so `guard` keeps our frames from the kernel. Frames come and go in batches by `recvmmsg` and
//! `sendmmsg`, directly into and out of slots. Neither of the kernel's mapped rings is used: a received GSO
//! packet would be copied once more, and a frame sent from a ring is passed on by reference, but the kernel
//! marks the ring's slot free as soon as a veth has passed it on, long before the receiver has read it.

mod guard;
mod place;
mod spill;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use ctl::io::{KernelDrops, OpenPort, PortFacts, SteerPlan};
use engine::forward::fit::big::USUAL_MAX;
use engine::frame::{Batch, Frame, FramePool};
use engine::limits::BATCH_LEN;
use engine::port::{Port, PortCaps};
use engine::time::Instant;
use engine::wire::mac::MacAddr;
use engine::wire::virtio_net::{self, HEADER_LEN};

use super::afxdp::cache::{Candidate, Way};
use super::afxdp::{InterfaceFacts, SharedMaps, SteerCounters};
use super::landing::{LARGE_MAX, Landing};
use super::lane::{Appetite, Lane, LaneError, LaneShared, Refusal, refusal, set};
use super::messages::Messages;
use super::own::Own;
use super::umem::UmemPool;
use guard::Guard;
pub use guard::remove_left;
use spill::Spill;

/// Bytes that may wait in the socket, each way. Some two hundred GSO packets: as much as a few TCP streams
/// have in flight.
const BUFFER_LEN: i32 = 16 << 20;

/// `struct tpacket_auxdata`: status, length, captured length, MAC and network offsets, VLAN tag and its EtherType.
const AUX_LEN: usize = 20;
const AUX_TCI_AT: usize = 16;
const AUX_TPID_AT: usize = 18;

/// Not in libc yet (linux/if_packet.h).
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// Kinds and flags of a fanout group (linux/if_packet.h).
const FANOUT_HASH: i32 = 0;
const FANOUT_UNIQUE_ID: i32 = 0x2000;
const FANOUT_IGNORE_OUTGOING: i32 = 0x4000;

/// An AF_PACKET port: one socket.
#[derive(Debug)]
pub struct PacketPort {
    socket: Arc<OwnedFd>,
    shared: Arc<LaneShared>,
    messages: Messages,
    landings: Vec<Landing>,
    appetite: Appetite,
    spill: Spill,
    uso: bool,
}

/// The control thread's part. While it lives, our frames are kept from the kernel.
#[derive(Debug)]
pub struct PacketControl {
    interface: String,
    sockets: Vec<Weak<OwnedFd>>,
    shared: Weak<LaneShared>,
    guard: Guard,
    /// Frames that did not fit the socket's buffer; a query resets the kernel's own count.
    overruns: AtomicU64,
}

/// Opens the interface: a socket for each worker; the kernel spreads flows over the sockets.
///
/// # Errors
/// The kernel's error, and the remedy.
pub fn open(
    spec: &OpenPort,
    workers: usize,
    cache: &SharedMaps,
) -> Result<(Vec<PacketPort>, PacketControl, PortFacts, Candidate), LaneError> {
    let failed = |what, remedy| {
        let interface = spec.interface.clone();
        move |cause| LaneError { interface, what, cause, remedy }
    };
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        sockets.push(prepared(spec)?);
    }
    // First close the port to the kernel, then listen: in between a frame may be lost, but none is handled twice.
    let followed = cache.skb();
    let guard = Guard::attach(spec, &sockets, followed.ok()).map_err(failed(
        "the kernel cannot be kept from its frames",
        "the kernel needs CONFIG_NET_CLS_BPF or version 6.6; or use `kind = \"afxdp\"`",
    ))?;
    let mut group = None;
    for socket in &sockets {
        bind(socket, spec.index)
            .map_err(failed("cannot bind", "`ip link show` says whether the interface is there and up"))?;
        if workers > 1 {
            spread(socket, &mut group)
                .map_err(failed("flows cannot be spread over the workers", "set `count = 1` in [workers]"))?;
        }
    }
    let sockets: Vec<Arc<OwnedFd>> = sockets.into_iter().map(Arc::new).collect();
    let shared = Arc::new(LaneShared::default());
    let uso = super::kernel_at_least(6, 2);
    let facts = PortFacts {
        mode: offloads(uso).into(),
        reason: if uso { String::new() } else { "Linux 6.2 or newer takes GSO packets of UDP".into() },
        queues: workers as u32,
    };
    let control = PacketControl {
        interface: spec.interface.clone(),
        sockets: sockets.iter().map(Arc::downgrade).collect(),
        shared: Arc::downgrade(&shared),
        guard,
        overruns: AtomicU64::new(0),
    };
    let interface = InterfaceFacts::of(&spec.interface)
        .map_err(failed("it cannot be asked", "`ip link show` says whether it is there"))?;
    let unfit = followed.err().map(|error| format!("its programs cannot be loaded: {error}"));
    let candidate = Candidate { interface, way: Way::Skb, unfit };
    let port = |socket| PacketPort {
        socket,
        shared: shared.clone(),
        messages: Messages::new(),
        landings: Vec::with_capacity(BATCH_LEN),
        appetite: Appetite::default(),
        spill: Spill::default(),
        uso,
    };
    Ok((sockets.into_iter().map(port).collect(), control, facts, candidate))
}

/// A fully configured socket, not yet bound. It sends through the queueing discipline (PACKET_QDISC_BYPASS is
/// off): otherwise the kernel drops packets that the interface cannot segment or checksum by itself.
fn prepared(spec: &OpenPort) -> Result<OwnedFd, LaneError> {
    let failed = |what, remedy| {
        let interface = spec.interface.clone();
        move |cause| LaneError { interface, what, cause, remedy }
    };
    let socket = packet_socket().map_err(failed("no packet socket", "the kernel needs CONFIG_PACKET"))?;
    let option = |option, value| set(&socket, libc::SOL_PACKET, option, value);
    option(libc::PACKET_VNET_HDR, 1).map_err(failed("no virtio-net headers", "use `kind = \"afxdp\"`"))?;
    option(libc::PACKET_AUXDATA, 1).map_err(failed("no auxiliary data", "use `kind = \"afxdp\"`"))?;
    option(PACKET_IGNORE_OUTGOING, 1)
        .map_err(failed("it would hear its own frames", "Linux 4.20 or newer is needed"))?;
    for buffer in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        set(&socket, libc::SOL_SOCKET, buffer, BUFFER_LEN).map_err(failed("no buffers", "free memory"))?;
    }
    Ok(socket)
}

/// Adds a bound socket to a group, whose sockets receive whole flows each. The first socket creates the group.
fn spread(socket: &OwnedFd, group: &mut Option<i32>) -> io::Result<()> {
    let flags = FANOUT_IGNORE_OUTGOING | if group.is_none() { FANOUT_UNIQUE_ID } else { 0 };
    let id = group.unwrap_or(0);
    set(socket, libc::SOL_PACKET, libc::PACKET_FANOUT, id | (FANOUT_HASH | flags) << 16)?;
    if group.is_none() {
        let (mut value, mut len) = (0_i32, size_of::<i32>() as libc::socklen_t);
        // SAFETY: the pointers are to `value`, and to its length.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_FANOUT,
                (&raw mut value).cast(),
                &raw mut len,
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        *group = Some(value & 0xffff);
    }
    Ok(())
}

/// The offloads of the port, as text for people.
pub fn offloads(uso: bool) -> &'static str {
    if uso { "checksum tso uso" } else { "checksum tso" }
}

/// A packet socket that receives nothing until it is bound.
pub(super) fn packet_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Protocol 0: nothing arrives before it is bound.
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and this is its only owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bind(socket: &OwnedFd, index: u32) -> io::Result<()> {
    // SAFETY: plain data for which all zeroes is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    let len = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the pointer and length describe `address`.
    let done = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl PacketPort {
    /// Takes slots for up to `want` messages. Returns false if not even one is free.
    fn make_room(&mut self, pool: &mut UmemPool, want: usize) -> bool {
        self.messages.clear();
        for _ in 0..want {
            let Some(mut landing) = Landing::new(pool) else { break };
            let places = landing.places(pool, HEADER_LEN, Some(self.spill.place()));
            self.messages.push_receive(places, false);
            self.landings.push(landing);
        }
        !self.landings.is_empty()
    }

    /// Puts the frame of message `at` into the batch, or counts its drop.
    fn take(&mut self, pool: &mut UmemPool, at: usize, last: bool, mut landing: Landing, batch: &mut Batch) {
        let (cut, len) = (self.messages.is_cut(at), self.messages.len(at).checked_sub(HEADER_LEN));
        let Some(len) = len.filter(|_| !cut) else {
            // With a large slot, the frame was longer than the spill takes.
            let too_long = landing.room() > LARGE_MAX / 2;
            landing.discard(pool);
            return LaneShared::count(if too_long {
                &self.shared.rx_too_long
            } else {
                &self.shared.rx_dropped
            });
        };
        let header = landing.lead::<HEADER_LEN>(pool);
        let auxiliary = self.messages.control(at, libc::SOL_PACKET, libc::PACKET_AUXDATA);
        let tag = auxiliary.and_then(vlan_tag);
        if len > USUAL_MAX {
            let whole = last || len <= LARGE_MAX;
            return self.take_big(pool, (whole, len), (header, tag), landing, batch);
        }
        let Some(mut frame) = landing.settle(pool, len) else {
            return LaneShared::count(&self.shared.rx_dropped);
        };
        let Ok(offload) = virtio_net::read(&header, pool.bytes(&frame)) else {
            pool.free(frame);
            return LaneShared::count(&self.shared.rx_unsaid);
        };
        frame.offload = offload;
        if let Some(tag) = tag {
            put_tag(pool, &mut frame, tag);
        }
        pool.prefetch(&frame);
        batch.push(frame);
    }

    /// Does the same for a frame longer than any IP header can express. `whole`: no later message of the call has
    /// overwritten its end.
    #[cold]
    fn take_big(
        &mut self,
        pool: &mut UmemPool,
        (whole, len): (bool, usize),
        (header, tag): ([u8; HEADER_LEN], Option<[u8; 4]>),
        landing: Landing,
        batch: &mut Batch,
    ) {
        let offload = |frame: &[u8]| virtio_net::read(&header, frame).ok().filter(|_| whole);
        let split = self.spill.split(pool, landing, len, offload, |pool, mut part| {
            if batch.is_full() {
                pool.free(part);
                return false;
            }
            if let Some(tag) = tag {
                put_tag(pool, &mut part, tag);
            }
            batch.push(part);
            true
        });
        match split {
            Some(lost) => (0..lost).for_each(|_| LaneShared::count(&self.shared.no_slots)),
            None if whole => LaneShared::count(&self.shared.rx_too_long),
            None => LaneShared::count(&self.shared.no_slots),
        }
    }
}

/// The VLAN tag that the kernel took out of the frame: EtherType and TCI, as they were on the wire.
fn vlan_tag(auxiliary: &[u8]) -> Option<[u8; 4]> {
    if auxiliary.len() < AUX_LEN {
        return None;
    }
    let word = |at: usize| u16::from_ne_bytes([auxiliary[at], auxiliary[at + 1]]);
    let status = u32::from_ne_bytes(auxiliary[..4].try_into().ok()?);
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid = if status & libc::TP_STATUS_VLAN_TPID_VALID != 0 { word(AUX_TPID_AT) } else { 0x8100 };
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), word(AUX_TCI_AT).to_be_bytes());
    Some([a, b, c, d])
}

/// Puts a tag back in its place behind the MAC addresses.
fn put_tag(pool: &mut UmemPool, frame: &mut Frame, tag: [u8; 4]) {
    const MACS_LEN: usize = 12;
    if (frame.len as usize) < MACS_LEN {
        return; // A runt stays a runt, and is dropped as such.
    }
    frame.head -= 4;
    frame.len += 4;
    let bytes = pool.bytes_mut(frame);
    bytes.copy_within(4..4 + MACS_LEN, 0);
    bytes[MACS_LEN..MACS_LEN + 4].copy_from_slice(&tag);
    if frame.offload.csum_partial() {
        frame.offload.csum_start += 4;
    }
}

impl Lane for PacketPort {
    fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn shared(&self) -> &Arc<LaneShared> {
        &self.shared
    }
}

impl Port<UmemPool> for PacketPort {
    fn rx(&mut self, _now: Instant, pool: &mut UmemPool, batch: &mut Batch) {
        loop {
            let want = self.spill.restrain(self.appetite.of(batch), batch);
            if want == 0 {
                return;
            }
            if !self.make_room(pool, want) {
                self.shared.starved(true);
                return;
            }
            self.shared.starved(false);
            let got = match self.messages.receive(&self.socket) {
                Ok(got) => got,
                Err(error) => {
                    match refusal(&error) {
                        Refusal::Gone => self.shared.dead.store(true, Ordering::Relaxed),
                        // The kernel has dropped a frame whose offload facts a virtio-net header cannot express.
                        Refusal::Frame => LaneShared::count(&self.shared.rx_unsaid),
                        Refusal::Later => {}
                    }
                    0
                }
            };
            self.spill.relax(got);
            let asked = self.landings.len();
            let mut landings = std::mem::take(&mut self.landings);
            let is_long = |at: &usize| self.messages.len(*at) > HEADER_LEN + LARGE_MAX;
            let last_long = (0..got).rev().find(is_long);
            for (at, landing) in landings.drain(..).enumerate() {
                if at >= got {
                    landing.discard(pool);
                } else {
                    self.take(pool, at, last_long == Some(at), landing, batch);
                }
            }
            self.landings = landings;
            if !self.appetite.fed(asked, got, self.messages.largest(got)) {
                return;
            }
        }
    }

    fn tx(&mut self, _now: Instant, pool: &mut UmemPool, frames: &mut Vec<Frame>) {
        let mut done = 0;
        while done < frames.len() {
            self.messages.clear();
            for frame in frames[done..].iter().take(BATCH_LEN) {
                let bytes = pool.bytes(frame);
                let mut header = [0; HEADER_LEN];
                virtio_net::write(&mut header, frame.offload, bytes);
                self.messages.push_send(header, bytes);
            }
            match self.messages.send(&self.socket, 0) {
                Ok(sent) => done += sent,
                Err(error) => match refusal(&error) {
                    Refusal::Later => break,
                    Refusal::Frame => {
                        LaneShared::count(&self.shared.tx_invalid);
                        done += 1;
                    }
                    Refusal::Gone => {
                        self.shared.dead.store(true, Ordering::Relaxed);
                        break;
                    }
                },
            }
        }
        for frame in frames.drain(..done) {
            pool.free(frame);
        }
    }

    fn caps(&self) -> PortCaps {
        PortCaps { tx_csum: true, tx_tso: true, tx_uso: self.uso, rx_csum_unmarked: false }
    }
}

impl Drop for PacketControl {
    /// Logs the final counts.
    fn drop(&mut self) {
        let Some(drops) = self.drops() else { return };
        tracing::info!(
            "{}: closing; dropped {} (socket full), {} (cut off or impossible), {} could not be sent",
            self.interface,
            drops.rx_ring_full,
            drops.rx_other + drops.rx_unsaid + drops.rx_too_long,
            drops.tx_invalid
        );
        if let Some(steered) = self.steer_counters() {
            tracing::info!(
                "{}: steered up {} tunnel packets and {} for reality addresses, left {} to the kernel, {} of them in \
                 connections of its own on reality addresses",
                self.interface,
                steered.tunnel,
                steered.reality,
                steered.passed + steered.own,
                steered.own
            );
        }
    }
}

impl PacketControl {
    /// Replaces the set of packets that the uplink takes up. `mac` is the interface's own address.
    ///
    /// # Errors
    /// The plan has more entries than the kernel's tables take.
    pub fn steer(&mut self, plan: &SteerPlan, mac: MacAddr) -> Result<(), String> {
        self.guard.steer(plan, mac).map_err(|cause| {
            format!("port {:?}: steering: {cause}; name fewer ports in `only` and `except`", self.interface)
        })
    }

    /// The kernel's own flows on the uplink.
    #[must_use]
    pub fn own(&self) -> &Own {
        self.guard.own()
    }

    /// The counts of dropped frames; `None` once the worker's part is closed.
    #[must_use]
    pub fn drops(&self) -> Option<KernelDrops> {
        let shared = self.shared.upgrade()?;
        let sockets = self.sockets.iter().filter_map(Weak::upgrade);
        let overruns: u64 = sockets.filter_map(|socket| overruns(&socket).ok()).sum();
        let before = self.overruns.fetch_add(overruns, Ordering::Relaxed);
        Some(shared.drops(before + overruns))
    }

    /// The counts of the steering; `None` for a port that is not shared.
    #[must_use]
    pub fn steer_counters(&self) -> Option<SteerCounters> {
        self.guard.counters()
    }

    /// True once the worker has noticed that the interface is gone.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.shared.upgrade().is_none_or(|shared| shared.dead.load(Ordering::Relaxed))
    }
}

/// Frames that did not fit the socket's buffer since the last query.
fn overruns(socket: &OwnedFd) -> io::Result<u64> {
    let mut stats = [0_u32; 2];
    let mut len = size_of_val(&stats) as libc::socklen_t;
    // SAFETY: the pointers are to `stats`, and to its length.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            stats.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(stats[1].into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::frame::Offload;

    #[test]
    fn a_tag_goes_back_where_it_was() {
        let mut pool = UmemPool::new(64, 0).unwrap();
        let bytes: Vec<u8> = (0..60).collect();
        let mut frame = pool.alloc_from(&bytes).unwrap();
        frame.offload = Offload { csum_start: 34, csum_offset: 6, ..Offload::NONE };
        let mut auxiliary = [0; AUX_LEN];
        assert_eq!(vlan_tag(&auxiliary), None);
        let status = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID;
        auxiliary[..4].copy_from_slice(&status.to_ne_bytes());
        auxiliary[AUX_TCI_AT..AUX_TCI_AT + 2].copy_from_slice(&0x2005_u16.to_ne_bytes());
        auxiliary[AUX_TPID_AT..].copy_from_slice(&0x88a8_u16.to_ne_bytes());
        let tag = vlan_tag(&auxiliary).unwrap();
        put_tag(&mut pool, &mut frame, tag);
        let expected = [&bytes[..12], &[0x88, 0xa8, 0x20, 5], &bytes[12..]].concat();
        assert_eq!(pool.bytes(&frame), expected);
        assert_eq!(frame.offload.csum_start, 38);
        pool.free(frame);
        assert_eq!(vlan_tag(&auxiliary[..19]), None);
    }
}

//! A packet's way through the switch in memory: the production `Switch::forward` on one core, with real header bytes
//! and without I/O. [`Walk`] sets up one kind of walk over a number of flows and runs it.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant as WallClock};

use engine::command::*;
use engine::counters::DropReason;
use engine::forward::Switch;
use engine::forward::classify::{self, Probe};
use engine::forward::parse::{self, Headers};
use engine::forward::trail::Trail;
use engine::frame::{Batch, Frame, FramePool, Offload, SlotSize};
use engine::limits::{BATCH_LEN, FDB_AGE, HEADROOM};
use engine::time::Instant;
use engine::wire::mac::MacAddr;

use crate::pool::MappedPool;

/// The treatment that the frames get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Known unicast from one door to another.
    L2,
    /// Broadcast from one door to four others.
    Flood,
    /// Known unicast from a door to a peer: encapsulation.
    Encap,
    /// From a peer to a door: decapsulation.
    Decap,
    /// Floating IP, inbound, on the gateway: DNAT and encapsulation.
    FipInGateway,
    /// Floating IP, inbound, on the owner: decapsulation and the inside DNAT.
    FipInOwner,
    /// Floating IP, outbound, on the owner: SNAT, source route and encapsulation.
    FipOutOwner,
    /// Floating IP, outbound, on the gateway: decapsulation, guard and SNAT.
    FipOutGateway,
    /// Dropped: a tunnel packet from a stranger.
    Drop,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::L2,
        Self::Flood,
        Self::Encap,
        Self::Decap,
        Self::FipInGateway,
        Self::FipInOwner,
        Self::FipOutOwner,
        Self::FipOutGateway,
        Self::Drop,
    ];

    /// The largest number of stations for this kind: floating IPs are sent to neighbours, whose number is bounded
    /// ([`engine::limits::NEIGHBORS_MAX`]).
    #[must_use]
    pub const fn stations_max(self) -> u32 {
        match self {
            Self::FipInGateway | Self::FipInOwner | Self::FipOutOwner | Self::FipOutGateway => 10_000,
            _ => u32::MAX,
        }
    }

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::Flood => "flood",
            Self::Encap => "encap",
            Self::Decap => "decap",
            Self::FipInGateway => "fip-in-gateway",
            Self::FipInOwner => "fip-in-owner",
            Self::FipOutOwner => "fip-out-owner",
            Self::FipOutGateway => "fip-out-gateway",
            Self::Drop => "drop",
        }
    }
}

const NET: u32 = 100;
const UPLINK: PortId = PortId(0);
const DOOR: PortId = PortId(1);
const SINK: PortId = PortId(2);
const PEER: PeerId = PeerId(0);

/// One kind of walk over a number of flows, ready to be repeated.
#[derive(Debug)]
pub struct Walk {
    switch: Switch,
    pool: MappedPool,
    ingress: PortId,
    /// The frames, each with a copy of the bytes that forwarding changes.
    frames: Vec<(Option<Frame>, Saved)>,
    order: Vec<u32>,
    next: usize,
    now: Instant,
    out: Vec<Frame>,
}

const SAVED_LEN: usize = 128;

#[derive(Clone, Debug)]
struct Saved {
    slot: u32,
    len: u32,
    bytes: [u8; SAVED_LEN],
}

fn vni(n: u32) -> Vni {
    Vni::new(n).expect("24 bits")
}

fn v4(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(n).into()
}

/// The MAC of station `n`.
fn mac(n: u32) -> MacAddr {
    let b = n.to_be_bytes();
    MacAddr([2, 1, b[0], b[1], b[2], b[3]])
}

const NIC: MacAddr = MacAddr([2, 0, 0, 0, 0, 11]);
const PEER_NIC: MacAddr = MacAddr([2, 0, 0, 0, 0, 12]);
const ROUTER: MacAddr = MacAddr([2, 0x69, 0x76, 0, 0, 100]);
const VTEP: u32 = 0x0a00_000b;
const PEER_VTEP: u32 = 0x0a00_000c;
const STATIONS: u32 = 0x0b00_0000;
const PUBLIC: u32 = 0x3800_0000;
const REALITY: u32 = 0x0c00_0000;
const OUTSIDE: u32 = 0xcb00_0000;

impl Walk {
    /// A walk of frames of `len` bytes (without an outer header) over `flows` flows, with as many stations (MACs,
    /// floating IPs) as flows. Each frame has its own memory and they come in random order, so that with
    /// many flows every header and every table line is cold.
    #[must_use]
    pub fn new(kind: Kind, flows: u32, len: usize) -> Self {
        Self::with_stations(kind, flows, flows.min(kind.stations_max()), len)
    }

    /// As [`new`](Self::new), with `stations` stations, spread over the flows.
    #[must_use]
    pub fn with_stations(kind: Kind, flows: u32, stations: u32, len: usize) -> Self {
        let count = flows.max(BATCH_LEN as u32 * 8);
        let mut walk = Self {
            switch: Switch::new(42),
            pool: MappedPool::new(count + 1024),
            ingress: UPLINK,
            frames: Vec::with_capacity(count as usize),
            order: (0..count).collect(),
            next: 0,
            now: Instant::from_millis(1000),
            out: Vec::with_capacity(4096),
        };
        walk.configure(kind, stations);
        shuffle(&mut walk.order);
        for i in 0..count {
            let bytes = frame_bytes(kind, i % flows, (i % flows) % stations, len);
            let frame = walk.pool.alloc_from(&bytes).expect("the pool is sized for it");
            let mut saved = Saved { slot: frame.slot, len: frame.len, bytes: [0; SAVED_LEN] };
            let n = bytes.len().min(SAVED_LEN);
            saved.bytes[..n].copy_from_slice(&bytes[..n]);
            walk.frames.push((Some(frame), saved));
        }
        walk.ingress = match kind {
            Kind::L2 | Kind::Flood | Kind::Encap | Kind::FipOutOwner => DOOR,
            _ => UPLINK,
        };
        walk
    }

    fn apply(&mut self, command: Command) {
        self.switch.apply(self.now, command, &mut self.pool);
    }

    fn configure(&mut self, kind: Kind, stations: u32) {
        let port = |vni, role| PortConfig {
            vni,
            role,
            live: true,
            mtu: if role == Role::Uplink { 1600 } else { 1500 },
            vlan: VlanPolicy::Transparent,
            binding: Box::default(),
            bum_pps: None,
            policy: Box::default(),
            fdb_max: u32::MAX,
        };
        self.apply(Command::SetPort(UPLINK, port(None, Role::Uplink)));
        self.apply(Command::SetUplink(UplinkConfig {
            port: UPLINK,
            mac: NIC,
            vtep: v4(VTEP),
            tunnel_port: 4789,
            checksum: false,
            mtu: 1600,
            guard: vec![IpPrefix { addr: v4(0xa9fe_a9fe), len: 32 }],
            switch_mac: MacAddr([2, 0x69, 0x77, 0, 0, 11]),
            name: 1,
            reserved_bits: engine::tunnel::vxlan::RESERVED,
        }));
        self.apply(Command::SetNetwork(NetworkConfig {
            vni: vni(NET),
            gateways: vec![v4(STATIONS | 0xff_ffff)],
            router_mac: ROUTER,
            fdb_max: u32::MAX,
            fdb_age: FDB_AGE,
            mss_clamp: true,
            dhcp: None,
        }));
        let doors = if kind == Kind::Flood { 5 } else { 2 };
        for n in 0..doors {
            self.apply(Command::SetPort(PortId(1 + n), port(Some(vni(NET)), Role::Door)));
        }
        if kind != Kind::Flood {
            let vnis = vec![vni(NET)];
            self.apply(Command::SetPeer(
                PEER,
                PeerConfig {
                    address: v4(PEER_VTEP),
                    vnis,
                    via: None,
                    spoke: false,
                    mtu: 1600,
                    fragment: false,
                    outer: engine::command::OuterIp::default(),
                },
            ));
        }
        self.apply(Command::SetUnderlayRoutes(
            vec![
                UnderlayRoute::new(IpPrefix { addr: v4(VTEP & 0xffff_0000), len: 16 }, None),
                UnderlayRoute::new(IpPrefix { addr: v4(0), len: 0 }, Some(v4(0x0a00_0001))),
            ]
            .into(),
        ));
        self.apply(Command::SetUnderlayNeighbor(v4(PEER_VTEP), PEER_NIC));
        self.apply(Command::SetUnderlayNeighbor(v4(0x0a00_0001), PEER_NIC));
        let behind_peer = matches!(kind, Kind::Encap | Kind::FipInGateway);
        let there = if behind_peer { Location::Peer(PEER) } else { Location::Port(SINK) };
        for n in 0..stations {
            if kind != Kind::Flood {
                self.apply(Command::AddFdb(vni(NET), 0, mac(n), there));
            }
            let reality = Gateway::Here { reality: v4(REALITY + n) };
            let (gateway, inside) = match kind {
                Kind::FipInGateway | Kind::FipOutGateway => (reality, None),
                Kind::FipInOwner | Kind::FipOutOwner => {
                    (Gateway::Peer(PEER), Some((vni(NET), v4(STATIONS + n))))
                }
                _ => continue,
            };
            let ip = v4(PUBLIC + n);
            let (only, except) = (vec![], vec![]);
            let config = FloatingConfig { ip, vni: vni(NET), gateway, inside, only, except };
            self.apply(Command::SetFloating(FloatingId(n), config));
            if matches!(kind, Kind::FipInGateway | Kind::FipInOwner) {
                let station = if kind == Kind::FipInOwner { STATIONS + n } else { PUBLIC + n };
                self.announce(station, mac(n), behind_peer);
            }
        }
        // The sender is known too, so that learning finds its entry.
        let sender = MacAddr([2, 2, 0, 0, 0, 1]);
        let from = if matches!(kind, Kind::Decap | Kind::FipInOwner | Kind::FipOutGateway) {
            Location::Peer(PEER)
        } else {
            Location::Port(DOOR)
        };
        self.apply(Command::AddFdb(vni(NET), 0, sender, from));
    }

    /// Announces a station at `mac` by gratuitous ARP.
    fn announce(&mut self, ip: u32, mac: MacAddr, through_tunnel: bool) {
        let mut arp = vec![0xff; 6];
        arp.extend(mac.0);
        arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        arp.extend(mac.0);
        arp.extend(ip.to_be_bytes());
        arp.extend([0; 6]);
        arp.extend(ip.to_be_bytes());
        let (port, bytes) = if through_tunnel { (UPLINK, encapsulate(&arp)) } else { (SINK, arp) };
        let frame = self.pool.alloc_from(&bytes).expect("room for one");
        let mut batch = Batch::new();
        batch.push(frame);
        self.switch.forward(self.now, port, &mut batch, &mut self.pool);
        self.drain();
        while let Some(frame) = self.out.pop() {
            self.pool.free(frame);
        }
    }

    /// Forwards `batches` batches and returns the time spent in `Switch::forward`. Taking frames off the
    /// transmit queues and restoring them does not count.
    pub fn run(&mut self, batches: u64) -> Duration {
        let mut spent = Duration::ZERO;
        let mut batch = Batch::new();
        let mut taken = [0u32; BATCH_LEN];
        for _ in 0..batches {
            for slot in &mut taken {
                *slot = self.order[self.next];
                self.next = (self.next + 1) % self.order.len();
                let entry = &mut self.frames[*slot as usize];
                batch.push(entry.0.take().expect("restored after its last walk"));
            }
            self.now = self.now + Duration::from_micros(5);
            // The measured time must not include waiting for the stores of the restoring.
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            let start = WallClock::now();
            forward_batch(&mut self.switch, self.now, self.ingress, &mut batch, &mut self.pool);
            spent += start.elapsed();
            self.drain();
            for frame in self.out.drain(..) {
                self.pool.free(frame);
            }
            for &i in &taken {
                let entry = &mut self.frames[i as usize];
                let mut frame = restore(&mut self.pool);
                let saved = &entry.1;
                frame.len = saved.len;
                let n = (saved.len as usize).min(SAVED_LEN);
                self.pool.bytes_mut(&mut frame)[..n].copy_from_slice(&saved.bytes[..n]);
                entry.1.slot = frame.slot;
                entry.0 = Some(frame);
            }
        }
        spent
    }

    /// Measures a whole loop: copies every frame into the pool, forwards the batch, takes the frames off the
    /// transmit queues and frees them, all within the measured time. A userspace switch does this between
    /// a ring that is already filled and a port that discards its output.
    pub fn run_loop(&mut self, batches: u64) -> Duration {
        let mut batch = Batch::new();
        let start = WallClock::now();
        for _ in 0..batches {
            for _ in 0..BATCH_LEN {
                let saved = &self.frames[self.order[self.next] as usize].1;
                self.next = (self.next + 1) % self.order.len();
                let mut frame = self.pool.alloc(SlotSize::Small).expect("the pool is larger than a batch");
                frame.len = saved.len;
                let n = (saved.len as usize).min(SAVED_LEN);
                self.pool.bytes_mut(&mut frame)[..n].copy_from_slice(&saved.bytes[..n]);
                batch.push(frame);
            }
            self.now = self.now + Duration::from_micros(5);
            forward_batch(&mut self.switch, self.now, self.ingress, &mut batch, &mut self.pool);
            self.drain();
            for frame in self.out.drain(..) {
                self.pool.free(frame);
            }
        }
        start.elapsed()
    }

    /// Forwards other frames than the walk's, from `port`; returns the time that this took.
    pub(crate) fn inject(&mut self, port: PortId, frames: &[Vec<u8>]) -> Duration {
        let mut batch = Batch::new();
        for bytes in frames {
            batch.push(self.pool.alloc_from(bytes).expect("room for one batch more"));
        }
        self.now = self.now + Duration::from_micros(5);
        let start = WallClock::now();
        forward_batch(&mut self.switch, self.now, port, &mut batch, &mut self.pool);
        let spent = start.elapsed();
        self.drain();
        for frame in self.out.drain(..) {
            self.pool.free(frame);
        }
        self.switch.take_events();
        spent
    }

    /// Adds a port to the walk's network, which may hold `fdb_max` MAC addresses.
    pub(crate) fn add_door(&mut self, port: PortId, fdb_max: u32, bum_pps: Option<u32>) {
        self.apply(Command::SetPort(
            port,
            PortConfig {
                vni: Some(vni(NET)),
                role: Role::Door,
                live: true,
                mtu: 1500,
                vlan: VlanPolicy::Transparent,
                binding: Box::default(),
                bum_pps,
                policy: Box::default(),
                fdb_max,
            },
        ));
    }

    /// Maps another floating IP to this rVM; returns the time that the switch took.
    pub(crate) fn add_floating(&mut self, n: u32) -> Duration {
        let config = FloatingConfig {
            ip: v4(PUBLIC + n),
            vni: vni(NET),
            gateway: Gateway::Here { reality: v4(REALITY + n) },
            inside: None,
            only: vec![],
            except: vec![],
        };
        let start = WallClock::now();
        self.switch.apply(self.now, Command::SetFloating(FloatingId(n), config), &mut self.pool);
        start.elapsed()
    }

    /// Decides about every frame of the walk `rounds` times, reporting the steps to a listener made by `trail`;
    /// returns the number of decisions and their time. Frames are not forwarded.
    pub fn decide<T: Trail>(&mut self, rounds: u32, mut trail: impl FnMut() -> T) -> (u64, Duration) {
        let tables = self.switch.tables();
        let port = tables.ports.get(self.ingress).expect("configured");
        let mut ready = Vec::new();
        for (frame, _) in self.frames.iter().take(BATCH_LEN) {
            let bytes = self.pool.bytes(frame.as_ref().expect("at rest"));
            let mut h = Headers::default();
            let read = match tables.uplink.as_ref().filter(|u| u.port == self.ingress) {
                Some(uplink) => parse::uplink(bytes, uplink, uplink.vtep.into(), &mut h),
                None => parse::ethernet(bytes, 0, &mut h),
            };
            let Ok(adm) = read.and_then(|()| classify::admit(tables, self.ingress, port, &h, bytes)) else {
                continue;
            };
            let probe = Probe::new(tables, &adm, &h);
            ready.push((adm, h, probe, bytes));
        }
        let start = WallClock::now();
        for _ in 0..rounds {
            for (adm, h, probe, bytes) in &ready {
                let mut listener = trail();
                black_box(classify::classify(tables, adm, h, probe, bytes, &mut listener));
                black_box(&listener);
            }
        }
        (u64::from(rounds) * ready.len() as u64, start.elapsed())
    }

    fn drain(&mut self) {
        for id in 0..self.switch.port_bound() {
            let out = &mut self.out;
            self.switch.flush(PortId(id), &mut self.pool, |_, queue| {
                out.append(queue);
                Ok(())
            });
        }
    }

    /// Frames forwarded and frames dropped so far. Drops mean that the walk is not the intended one.
    #[must_use]
    pub fn tally(&self) -> (u64, u64) {
        let counters = self.switch.counters();
        (counters.tx, counters.dropped)
    }

    /// Drops by reason at the ingress port, for error messages.
    #[must_use]
    pub fn reasons(&self) -> Vec<(DropReason, u64)> {
        let counters = self.switch.port_counters(self.ingress).expect("configured");
        DropReason::ALL.iter().map(|&r| (r, counters.drops[r as usize])).filter(|r| r.1 > 0).collect()
    }

    /// Frames of the walk that were dropped, in all.
    #[must_use]
    pub fn drops_at_ingress(&self) -> u64 {
        self.reasons().iter().map(|(_, count)| count).sum()
    }

    /// Bytes of FDB memory per slot, which is an entry's size without the load factor.
    #[must_use]
    pub fn fdb_bytes_per_slot(&self) -> f64 {
        let fdb = &self.switch.tables().fdb;
        fdb.memory_len() as f64 / f64::from(fdb.slots().max(1))
    }

    /// Bytes of FDB memory per entry.
    #[must_use]
    pub fn fdb_bytes_per_entry(&self) -> f64 {
        let fdb = &self.switch.tables().fdb;
        fdb.memory_len() as f64 / f64::from(fdb.len().max(1))
    }
}

/// A frame of 64 bytes from random MACs to random MACs, or of a random flow between two known ones.
pub(crate) fn stranger(seed: &mut u64, random_macs: bool) -> Vec<u8> {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    let mut bytes = frame_bytes(Kind::L2, 0, 0, 64);
    let noise = seed.to_be_bytes();
    if random_macs {
        bytes[..6].copy_from_slice(&[2, 3, noise[0], noise[1], noise[2], noise[3]]);
        bytes[6..12].copy_from_slice(&[2, 4, noise[4], noise[5], noise[6], noise[7]]);
    } else {
        bytes[6..12].copy_from_slice(&[2, 5, 0, 0, 0, 1]);
        bytes[34..38].copy_from_slice(&noise[..4]);
        bytes[28..30].copy_from_slice(&noise[4..6]);
        bytes[24..26].fill(0);
        let sum = !engine::wire::checksum::sum(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// A frame from a new station to a known one.
pub(crate) fn newcomer(n: u32) -> Vec<u8> {
    let mut bytes = frame_bytes(Kind::L2, 0, 0, 64);
    let b = n.to_be_bytes();
    bytes[6..12].copy_from_slice(&[2, 6, b[0], b[1], b[2], b[3]]);
    bytes
}

/// The forwarding itself, in its own function so that instructions can be counted for it alone.
#[inline(never)]
fn forward_batch(switch: &mut Switch, now: Instant, port: PortId, batch: &mut Batch, pool: &mut MappedPool) {
    switch.forward(now, port, batch, pool);
    // Keeps this a call: callgrind would take a tail call for the end of the function.
    black_box(batch);
}

/// A slot for the next frame: the pool hands out the one freed last.
fn restore(pool: &mut MappedPool) -> Frame {
    let mut frame = pool.alloc(SlotSize::Small).expect("as many as were freed");
    frame.head = HEADROOM as u16;
    frame.offload = Offload::NONE;
    frame
}

fn shuffle(order: &mut [u32]) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for i in (1..order.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(i, (state % (i as u64 + 1)) as usize);
    }
}

/// The frame of flow `flow` to (or from) station `station`.
fn frame_bytes(kind: Kind, flow: u32, station: u32, len: usize) -> Vec<u8> {
    let sender = MacAddr([2, 2, 0, 0, 0, 1]);
    let (dst, src, from, to) = match kind {
        Kind::Flood => (MacAddr::BROADCAST, sender, STATIONS, STATIONS + station),
        Kind::L2 | Kind::Encap | Kind::Decap | Kind::Drop => {
            (mac(station), sender, OUTSIDE, STATIONS + station)
        }
        Kind::FipInGateway => (NIC, PEER_NIC, OUTSIDE, REALITY + station),
        Kind::FipInOwner => (ROUTER, sender, OUTSIDE, PUBLIC + station),
        Kind::FipOutOwner => (ROUTER, sender, STATIONS + station, OUTSIDE),
        Kind::FipOutGateway => (ROUTER, sender, PUBLIC + station, OUTSIDE),
    };
    let mut bytes = Vec::with_capacity(len + 50);
    bytes.extend(dst.0);
    bytes.extend(src.0);
    bytes.extend([8, 0, 0x45, 0]);
    bytes.extend(((len - 14) as u16).to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    bytes.extend(from.to_be_bytes());
    bytes.extend(to.to_be_bytes());
    let sum = !engine::wire::checksum::sum(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    // Packets from the tunnel's own port must not leave by NAT.
    let sport = match 1024 + (flow % 60_000) as u16 {
        4789 => 62_000,
        port => port,
    };
    bytes.extend(sport.to_be_bytes());
    bytes.extend(80u16.to_be_bytes());
    bytes.extend(((len - 34) as u16).to_be_bytes());
    bytes.extend([0x12, 0x34]);
    bytes.resize(len, 0);
    match kind {
        Kind::Decap | Kind::FipInOwner | Kind::FipOutGateway => encapsulate(&bytes),
        Kind::Drop => {
            let mut outer = encapsulate(&bytes);
            outer[29] = 77;
            outer
        }
        _ => bytes,
    }
}

/// The tunnel packet that the peer would send.
fn encapsulate(inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(inner.len() + 50);
    bytes.extend(NIC.0);
    bytes.extend(PEER_NIC.0);
    bytes.extend([8, 0, 0x45, 0]);
    bytes.extend(((inner.len() + 36) as u16).to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    bytes.extend(PEER_VTEP.to_be_bytes());
    bytes.extend(VTEP.to_be_bytes());
    bytes.extend(50_000u16.to_be_bytes());
    bytes.extend(4789u16.to_be_bytes());
    bytes.extend(((inner.len() + 16) as u16).to_be_bytes());
    bytes.extend([0, 0, 8, 0, 0, 0]);
    bytes.extend((NET << 8).to_be_bytes());
    bytes.extend(inner);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind of walk forwards as its name says, because a benchmark of drops would be fast and meaningless.
    #[test]
    fn walks_walk() {
        for kind in Kind::ALL {
            for flows in [1, 1000, 10_000] {
                let mut walk = Walk::new(kind, flows, 64);
                let before = walk.tally();
                walk.run(200);
                let after = walk.tally();
                let (tx, dropped) = (after.0 - before.0, after.1 - before.1);
                let want = match kind {
                    Kind::Drop => (0, 12_800),
                    Kind::Flood => (51_200, 0),
                    _ => (12_800, 0),
                };
                assert_eq!((tx, dropped), want, "{} {flows}: {:?}", kind.name(), walk.reasons());
            }
        }
    }
}

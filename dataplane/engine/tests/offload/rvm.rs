//! An rVM whose ports receive batches of frames with offload facts and record the frames that they send.

use std::net::IpAddr;

use engine::command::*;
use engine::counters::DropReason;
use engine::forward::Switch;
use engine::frame::{Batch, Frame, FramePool, HeapPool, Offload};
use engine::limits::{BATCH_LEN, FDB_AGE};
use engine::port::PortCaps;
use engine::time::Instant;
use engine::wire::mac::MacAddr;

pub const PRIVATE: u32 = 100;
pub const PUBLIC: u32 = 200;
pub const UPLINK: PortId = PortId(0);
pub const DOOR: PortId = PortId(1);
pub const OTHER: PortId = PortId(2);
pub const PUBLIC_DOOR: PortId = PortId(3);

/// Takes no unfinished frames, as AF_XDP.
pub const PLAIN: PortCaps =
    PortCaps { tx_csum: false, tx_tso: false, tx_uso: false, rx_csum_unmarked: false };
/// Takes all unfinished frames, as TAP and AF_PACKET.
pub const WHOLE: PortCaps = PortCaps { tx_csum: true, tx_tso: true, tx_uso: true, rx_csum_unmarked: false };
/// Finishes checksums but does not segment.
pub const CSUM: PortCaps = PortCaps { tx_csum: true, ..PLAIN };

pub type Given = (Vec<u8>, Offload);

pub fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

pub fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

pub fn router_mac(v: u32) -> MacAddr {
    let b = v.to_be_bytes();
    MacAddr([2, 0x69, 0x76, b[1], b[2], b[3]])
}

pub struct Rvm {
    pub switch: Switch,
    pub pool: HeapPool,
    pub now: Instant,
}

impl Rvm {
    /// rVM `n` of 11 and 12: two doors on the network private, one on public, the other rVM as peer.
    pub fn new(n: u8, v6: bool, checksum: bool) -> Self {
        let address = |n: u8| if v6 { ip(&format!("fd00::{n}")) } else { ip(&format!("10.0.0.{n}")) };
        let mut rvm = Self {
            switch: Switch::new(u64::from(n)),
            pool: HeapPool::new(2048, 8),
            now: Instant::from_millis(1000),
        };
        rvm.apply(Command::SetPort(UPLINK, port(None, Role::Uplink)));
        rvm.apply(Command::SetUplink(UplinkConfig {
            port: UPLINK,
            mac: mac(n),
            vtep: address(n),
            tunnel_port: 4789,
            checksum,
            mtu: 1600,
            guard: vec![],
            switch_mac: MacAddr([2, 0x69, 0x77, 0, 0, n]),
            name: u64::from(n),
            reserved_bits: engine::tunnel::vxlan::RESERVED,
        }));
        for v in [PRIVATE, PUBLIC] {
            rvm.apply(Command::SetNetwork(NetworkConfig {
                vni: vni(v),
                gateways: vec![ip("192.168.1.1"), ip("fd01::1")],
                router_mac: router_mac(v),
                fdb_max: 100,
                fdb_age: FDB_AGE,
                mss_clamp: true,
                dhcp: None,
            }));
        }
        for (id, v) in [(DOOR, PRIVATE), (OTHER, PRIVATE), (PUBLIC_DOOR, PUBLIC)] {
            rvm.apply(Command::SetPort(id, port(Some(vni(v)), Role::Door)));
        }
        rvm.apply(Command::SetPeer(
            PeerId(0),
            PeerConfig {
                address: address(if n == 11 { 12 } else { 11 }),
                vnis: vec![vni(PRIVATE), vni(PUBLIC)],
                via: None,
                spoke: false,
                mtu: 1600,
                fragment: false,
                outer: OuterIp::default(),
            },
        ));
        let on_link = if v6 { "fd00::" } else { "10.0.0.0" };
        rvm.apply(Command::SetUnderlayRoutes(
            vec![
                UnderlayRoute::new(IpPrefix { addr: ip(on_link), len: if v6 { 64 } else { 16 } }, None),
                UnderlayRoute::new(IpPrefix { addr: ip("0.0.0.0"), len: 0 }, Some(ip("10.0.0.1"))),
                UnderlayRoute::new(IpPrefix { addr: ip("::"), len: 0 }, Some(ip("fd00::1"))),
            ]
            .into(),
        ));
        for n in [1, 11, 12] {
            rvm.apply(Command::SetUnderlayNeighbor(ip(&format!("10.0.0.{n}")), mac(n)));
            rvm.apply(Command::SetUnderlayNeighbor(ip(&format!("fd00::{n}")), mac(n)));
        }
        rvm
    }

    pub fn apply(&mut self, command: Command) {
        self.switch.apply(self.now, command, &mut self.pool);
    }

    pub fn caps(mut self, caps: &[(PortId, PortCaps)]) -> Self {
        for (id, caps) in caps {
            self.switch.set_caps(*id, *caps);
        }
        self
    }

    /// Adds the station `who` of `network`, in every VLAN that the tests use.
    pub fn at(mut self, network: u32, who: MacAddr, location: Location) -> Self {
        for vid in [0, 5, 7, 10] {
            self.apply(Command::AddFdb(vni(network), vid, who, location));
        }
        self
    }

    /// Passes these frames to the switch in batches. Returns the frames that each port sent. Checks
    /// conservation and the pool.
    pub fn forward(&mut self, at: PortId, frames: &[Given]) -> Vec<(PortId, Vec<u8>, Offload)> {
        let mut out = Vec::new();
        for frames in frames.chunks(BATCH_LEN) {
            let mut batch = Batch::new();
            for (bytes, offload) in frames {
                let mut frame = self.pool.alloc_from(bytes).expect("slots for what comes in");
                frame.offload = *offload;
                batch.push(frame);
            }
            self.switch.forward(self.now, at, &mut batch, &mut self.pool);
            assert!(batch.is_empty());
            assert!(self.switch.counters().conserved(), "{:?}", self.switch.counters());
            self.flush(&mut out);
        }
        out
    }

    fn flush(&mut self, out: &mut Vec<(PortId, Vec<u8>, Offload)>) {
        for id in 0..self.switch.port_bound() {
            self.switch.flush(PortId(id), &mut self.pool, |pool, queue| {
                take(pool, queue, |bytes, offload| out.push((PortId(id), bytes, offload)));
                Ok(())
            });
        }
        self.switch.flush_punted(&mut self.pool, |pool, queue| {
            take(pool, queue, |bytes, offload| out.push((PortId(999), bytes, offload)));
        });
        assert!(self.switch.counters().conserved(), "{:?}", self.switch.counters());
        assert_eq!(self.switch.counters().queued, 0);
        assert_eq!(self.pool.usage().used, 0, "a slot leaked");
    }

    /// The other rVM's row in the list of peers.
    pub fn peer(&mut self) -> PeerRow {
        match self.switch.answer_query(self.now, &Query::Peers, &mut self.pool) {
            Answer::Peers(rows) => rows[0],
            other => panic!("{other:?}"),
        }
    }

    pub fn drops(&self, at: PortId, reason: DropReason) -> u64 {
        self.switch.port_counters(at).unwrap().drops[reason as usize]
    }
}

fn take(pool: &mut HeapPool, queue: &mut Vec<Frame>, mut each: impl FnMut(Vec<u8>, Offload)) {
    for frame in queue.drain(..) {
        each(pool.bytes(&frame).to_vec(), frame.offload);
        pool.free(frame);
    }
}

fn port(vni: Option<Vni>, role: Role) -> PortConfig {
    PortConfig {
        vni,
        role,
        live: true,
        mtu: if role == Role::Uplink { 1600 } else { 1500 },
        vlan: VlanPolicy::Transparent,
        binding: Box::default(),
        bum_pps: None,
        policy: Box::default(),
        fdb_max: 100,
    }
}

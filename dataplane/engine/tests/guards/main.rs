//! The guards of guest ports against receivers that accept everything: no frame of a guest makes another
//! station believe a lie about it. Frames of honest guests pass.

mod beyond;
mod build;
mod honest;
mod link_local;
mod victim;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::discriminant;

use engine::command::*;
use engine::counters::DropReason;
use engine::forward::Switch;
use engine::frame::{Batch, FramePool, GsoKind, HeapPool, Offload};
use engine::limits::FDB_AGE;
use engine::time::{Duration, Instant};
use engine::wire::ip::Ip;
use engine::wire::mac::MacAddr;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use build::{Attempt, OPAQUE, OTHER, OWN, ROUTER, attempt, ip};
use victim::{Belief, Victim};

/// The attacker, its neighbour, a guest that may claim link-local addresses, and a door.
const GUEST: PortId = PortId(0);
const NEIGHBOR: PortId = PortId(1);
const CLAIMANT: PortId = PortId(2);
const DOOR: PortId = PortId(3);
const PORTS: [PortId; 4] = [GUEST, NEIGHBOR, CLAIMANT, DOOR];

const VNI: Vni = Vni::new(100).unwrap();

struct World {
    switch: Switch,
    pool: HeapPool,
    now: Instant,
}

fn prefix(text: &str) -> IpPrefix {
    match text.split_once('/') {
        Some((addr, len)) => IpPrefix { addr: addr.parse().unwrap(), len: len.parse().unwrap() },
        None => IpPrefix::host(text.parse().unwrap()),
    }
}

/// The binding of a guest with this MAC and these addresses.
fn binding(mac: MacAddr, ips: &[&str], link_local: LinkLocalRule) -> Binding {
    let ips = ips.iter().map(|text| prefix(text)).collect();
    Binding { macs: vec![mac], ips, link_local, ..Binding::default() }
}

const CLAIMANTS_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

impl World {
    fn new() -> Self {
        let mut world =
            Self { switch: Switch::new(3), pool: HeapPool::new(128, 8), now: Instant::from_millis(1000) };
        world.apply(Command::SetNetwork(NetworkConfig {
            vni: VNI,
            gateways: ["10.1.0.1", "fd01::1", "fe80::1"].map(|text| text.parse().unwrap()).to_vec(),
            router_mac: ROUTER,
            fdb_max: 100,
            fdb_age: FDB_AGE,
            mss_clamp: true,
            dhcp: None,
        }));
        world.port(GUEST, Role::Guest, binding(OWN, &["10.1.0.9", "fd01::9"], LinkLocalRule::Eui64));
        world.port(NEIGHBOR, Role::Guest, binding(OTHER, &["10.1.0.8", "fd01::8"], LinkLocalRule::Eui64));
        world.port(CLAIMANT, Role::Guest, binding(CLAIMANTS_MAC, &["fd01::7"], LinkLocalRule::Opaque));
        world.port(DOOR, Role::Door, Binding::default());
        world
    }

    fn apply(&mut self, command: Command) {
        self.switch.apply(self.now, command, &mut self.pool);
    }

    fn port(&mut self, id: PortId, role: Role, binding: Binding) {
        self.apply(Command::SetPort(
            id,
            PortConfig {
                vni: Some(VNI),
                role,
                live: true,
                mtu: 1500,
                vlan: VlanPolicy::Transparent,
                binding: Box::new(binding),
                bum_pps: None,
                policy: Box::default(),
                fdb_max: 100,
            },
        ));
    }

    /// The frames that come out, by port. Checks conservation and that no frame is lost.
    fn forward(&mut self, at: PortId, bytes: &[u8], offload: Offload) -> Vec<(PortId, Vec<u8>)> {
        let mut frame = self.pool.alloc_from(bytes).unwrap();
        frame.offload = offload;
        let mut batch = Batch::new();
        batch.push(frame);
        self.switch.forward(self.now, at, &mut batch, &mut self.pool);
        self.sent()
    }

    fn sent(&mut self) -> Vec<(PortId, Vec<u8>)> {
        let mut out = Vec::new();
        for id in PORTS {
            self.switch.flush(id, &mut self.pool, |pool, queue| {
                for frame in queue.drain(..) {
                    out.push((id, pool.bytes(&frame).to_vec()));
                    pool.free(frame);
                }
                Ok(())
            });
        }
        assert!(self.switch.counters().conserved(), "{:?}", self.switch.counters());
        assert_eq!(self.pool.usage().used, 0, "a slot leaked");
        out
    }

    /// Whether the frame reaches the door.
    fn passes(&mut self, at: PortId, bytes: &[u8]) -> bool {
        let sender = &bytes[6..12];
        self.forward(at, bytes, Offload::NONE).iter().any(|(to, sent)| *to == DOOR && &sent[6..12] == sender)
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        self.switch.tick(self.now, &mut self.pool);
        assert_eq!(self.sent(), vec![]);
    }

    /// The reasons for which a port's frames were dropped.
    fn drops(&self, at: PortId) -> BTreeMap<DropReason, u64> {
        let counters = self.switch.port_counters(at).unwrap();
        DropReason::ALL.iter().map(|r| (*r, counters.drops[*r as usize])).filter(|(_, n)| *n > 0).collect()
    }
}

/// Puts an attempt in. Returns the beliefs that the door and the neighbour then hold.
fn beliefs(world: &mut World, attempt: &Attempt) -> BTreeSet<Belief> {
    let mut victims: BTreeMap<PortId, Victim> = BTreeMap::new();
    let mut all = BTreeSet::new();
    for (bytes, unfinished) in attempt {
        let offload = unfinished.map_or(Offload::NONE, |(start, field, segment)| Offload {
            csum_start: start,
            csum_offset: field,
            gso_kind: if segment == 0 { GsoKind::None } else { GsoKind::Udp },
            gso_size: segment,
            ..Offload::NONE
        });
        for (to, bytes) in world.forward(GUEST, bytes, offload) {
            // Questions that the switch itself sends for the guest come from the gateway's MAC.
            if to != GUEST && bytes[6..12] != ROUTER.0 {
                all.extend(victims.entry(to).or_default().hear(&bytes));
            }
        }
    }
    all
}

fn is_own(address: Ip) -> bool {
    ["10.1.0.9", "fd01::9", "fe80::ff:fe00:9"].map(ip).contains(&address)
}

/// Whether a belief about the guest at [`OWN`] is true.
fn is_true(belief: Belief, own: impl Fn(Ip) -> bool) -> bool {
    match belief {
        Belief::Neighbor(address, mac) => own(address) && mac == OWN,
        Belief::InUse(address) => own(address),
        Belief::Source(address) => own(address) || address.is_unspecified(),
        Belief::Asks(mac) => mac == OWN,
        Belief::Server | Belief::Relay | Belief::Router | Belief::Querier => false,
    }
}

/// No frame of a bound guest, in any fragments and any wrapping, makes another station believe a lie, neither
/// the first time nor when the flow cache has seen the same frame before. A guest that may claim link-local
/// addresses gets the one that is free, and no other.
#[test]
fn nobody_believes_a_lie() {
    let cases = if cfg!(debug_assertions) { 30_000 } else { 300_000 };
    for rule in [LinkLocalRule::Eui64, LinkLocalRule::Opaque] {
        let mut runner = TestRunner::new(ProptestConfig { cases, ..ProptestConfig::default() });
        // One switch serves all attempts, since its creation costs more than an attempt.
        let world = RefCell::new(World::new());
        world.borrow_mut().port(GUEST, Role::Guest, binding(OWN, &["10.1.0.9", "fd01::9"], rule));
        let is_own = |address| is_own(address) || rule == LinkLocalRule::Opaque && address == ip(OPAQUE);
        let attempts = prop::collection::vec(attempt(), 1..4);
        let result = runner.run(&attempts, |attempts| {
            for attempt in attempts.iter().chain(&attempts) {
                let world = &mut world.borrow_mut();
                for belief in beliefs(world, attempt) {
                    prop_assert!(is_true(belief, is_own), "{belief:?} after {attempt:02x?}");
                }
                world.wait(300);
            }
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The property can fail: without guards, the same attempts make receivers believe every kind of lie, and
/// with guards, every guard refuses some of the attempts.
#[test]
fn every_lie_is_told_and_every_guard_is_met() {
    let mut runner = TestRunner::deterministic();
    let (mut believed, mut refused, mut passed) = (HashMap::new(), BTreeSet::new(), 0);
    let (mut guarded, mut unguarded) = (World::new(), World::new());
    unguarded.port(GUEST, Role::Door, Binding::default());
    for _ in 0..6000 {
        let attempt = attempt().new_tree(&mut runner).unwrap().current();
        for lie in beliefs(&mut unguarded, &attempt).into_iter().filter(|belief| !is_true(*belief, is_own)) {
            *believed.entry(discriminant(&lie)).or_insert(0) += 1;
        }
        passed += u32::from(!beliefs(&mut guarded, &attempt).is_empty());
    }
    refused.extend(guarded.drops(GUEST).into_keys());
    assert_eq!(believed.len(), 8, "{believed:?}");
    assert!(believed.values().all(|&times| times > 5), "{believed:?}");
    assert!(passed > 300, "{passed} attempts are no lies");
    for reason in [
        DropReason::SpoofedMac,
        DropReason::SpoofedIp,
        DropReason::SpoofedNeighbor,
        DropReason::DhcpServerGuard,
        DropReason::DhcpMalformed,
        DropReason::RaGuard,
        DropReason::QuerierGuard,
        DropReason::FragmentGuard,
        DropReason::LlcGuard,
        DropReason::LinkLocalGroup,
        DropReason::VlanNotAllowed,
        DropReason::IpMalformed,
        DropReason::OffloadInvalid,
    ] {
        assert!(refused.contains(&reason), "{reason} was never met");
    }
}

//! The owner's rules for a port: rate limits, quarantine, mirrors, and the BPDU guard. Each also applies to
//! flows in the flow cache, and keeps them out of the kernel offload; none affects other ports.

mod random;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::command::*;
use engine::counters::DropReason;
use engine::forward::Switch;
use engine::forward::cache::{FlowCache, Hits};
use engine::forward::flow::Flow;
use engine::forward::trail::Step as TrailStep;
use engine::frame::{Batch, FramePool, GsoKind, HeapPool, Offload};
use engine::limits::{FDB_AGE, FLOW_HOT_FRAMES};
use engine::port::PortCaps;
use engine::time::Instant;
use engine::watch::Walk;
use engine::wire::mac::MacAddr;
use etherparse::PacketBuilder;

const A: PortId = PortId(1);
const B: PortId = PortId(2);
const C: PortId = PortId(3);
/// On another network.
const D: PortId = PortId(4);
const PORTS: [PortId; 4] = [A, B, C, D];

fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

/// The station behind a port.
fn mac(port: PortId) -> [u8; 6] {
    [2, 0, 0, 0, 0, port.0 as u8]
}

struct Rvm {
    switch: Switch,
    pool: HeapPool,
    now: Instant,
}

type Sent = Vec<(PortId, Vec<u8>)>;

impl Rvm {
    fn new() -> Self {
        let mut rvm =
            Self { switch: Switch::new(1), pool: HeapPool::new(1024, 128), now: Instant::from_millis(1000) };
        for n in [100, 200] {
            rvm.apply(Command::SetNetwork(NetworkConfig {
                vni: vni(n),
                gateways: vec![],
                router_mac: MacAddr([2, 0x69, 0x76, 0, 0, n as u8]),
                fdb_max: 100,
                fdb_age: FDB_AGE,
                mss_clamp: true,
                dhcp: None,
            }));
        }
        for port in PORTS {
            rvm.set(port, |_| {});
        }
        rvm
    }

    fn apply(&mut self, command: Command) {
        self.switch.apply(self.now, command, &mut self.pool);
    }

    /// Configures a port: a door, except for the fields that `change` sets.
    fn set(&mut self, id: PortId, change: impl Fn(&mut PortConfig)) {
        let mut config = PortConfig {
            vni: Some(vni(if id == D { 200 } else { 100 })),
            role: Role::Door,
            live: true,
            mtu: 1500,
            vlan: VlanPolicy::Transparent,
            binding: Box::default(),
            bum_pps: None,
            fdb_max: 100,
            policy: Box::default(),
        };
        change(&mut config);
        self.apply(Command::SetPort(id, config));
    }

    fn cut(&mut self, id: PortId, cut: Option<Cut>) {
        self.set(id, |p| (p.live, p.policy.cut) = (cut.is_none(), cut));
    }

    fn mirror(&mut self, from: PortId, to: PortId) {
        self.set(to, |p| p.policy.tap = true);
        self.set(from, |p| p.policy.mirror = Some(to));
    }

    fn put(&mut self, at: PortId, frames: &[(Vec<u8>, Offload)]) -> Sent {
        let mut batch = Batch::new();
        for (bytes, offload) in frames {
            let mut frame = self.pool.alloc_from(bytes).unwrap();
            frame.offload = *offload;
            batch.push(frame);
        }
        self.switch.forward(self.now, at, &mut batch, &mut self.pool);
        self.sent()
    }

    fn send(&mut self, at: PortId, bytes: &[u8]) -> Sent {
        self.put(at, &[(bytes.to_vec(), Offload::NONE)])
    }

    /// Returns the frames sent. Checks conservation and that no slot is lost.
    fn sent(&mut self) -> Sent {
        let mut out = Vec::new();
        self.switch.gate_leaving(self.now, &mut self.pool, |_| true);
        for id in 0..self.switch.port_bound() {
            self.switch.flush(PortId(id), &mut self.pool, |pool, queue| {
                for frame in queue.drain(..) {
                    out.push((PortId(id), pool.bytes(&frame).to_vec()));
                    pool.free(frame);
                }
                Ok(())
            });
        }
        assert!(self.switch.counters().conserved(), "{:?}", self.switch.counters());
        assert_eq!(self.pool.usage().used, 0, "slots are lost");
        out
    }

    fn drops(&self, at: PortId, reason: DropReason) -> u64 {
        self.switch.port_counters(at).unwrap().drops[reason as usize]
    }

    /// Every station sends a frame, so that the FDB knows all.
    fn introduce(&mut self) {
        for port in PORTS {
            self.send(port, &hello(port));
        }
    }
}

fn udp(from: PortId, to: PortId, len: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(mac(from), mac(to))
        .ipv4([10, 1, 0, from.0 as u8], [10, 1, 0, to.0 as u8], 64)
        .udp(1000, 2000);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &vec![7; len - 42]).unwrap();
    bytes
}

/// A TCP GSO packet with this payload and segments of 1000 bytes.
fn super_frame(from: PortId, to: PortId, payload: usize) -> (Vec<u8>, Offload) {
    let builder = PacketBuilder::ethernet2(mac(from), mac(to))
        .ipv4([10, 1, 0, from.0 as u8], [10, 1, 0, to.0 as u8], 64)
        .tcp(1000, 2000, 1, 5000);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &vec![9; payload]).unwrap();
    (
        bytes,
        Offload {
            csum_start: 34,
            csum_offset: 16,
            gso_kind: GsoKind::TcpV4,
            gso_size: 1000,
            ..Offload::NONE
        },
    )
}

fn hello(from: PortId) -> Vec<u8> {
    let mut bytes = [&[0xff; 6][..], &mac(from), &[0x88, 0xb5]].concat();
    bytes.resize(60, 0);
    bytes
}

fn bpdu(from: PortId, last: u8) -> Vec<u8> {
    let mut bytes = [&[1, 0x80, 0xc2, 0, 0, last][..], &mac(from), &[0, 0x26, 0x42, 0x42, 3]].concat();
    bytes.resize(60, 0);
    bytes
}

fn places(sent: &Sent) -> Vec<PortId> {
    sent.iter().map(|(port, _)| *port).collect()
}

/// A flow exceeds its port's limit, with most frames in the flow cache. The burst passes, then the rate; the
/// ingress port counts the rest. The other direction is not limited.
#[test]
fn a_limit_on_what_comes_in_holds_for_remembered_flows() {
    let mut rvm = Rvm::new();
    rvm.introduce();
    let rate = Rate { bps: Some(8_000_000), burst: Some(20_000), ..Rate::default() };
    rvm.set(A, |p| p.policy.ingress = rate);
    let (frame, mut passed) = (udp(A, B, 1000), 0);
    for _ in 0..1000 {
        rvm.now = rvm.now + Duration::from_millis(1);
        for _ in 0..4 {
            passed += rvm.send(A, &frame).len();
        }
    }
    // A burst of 20 and one per millisecond.
    assert!((1015..=1021).contains(&passed), "{passed}");
    assert!(rvm.switch.remembered() > 900, "{}", rvm.switch.remembered());
    assert_eq!(rvm.drops(A, DropReason::IngressRateLimit), 4000 - passed as u64);
    let counters = rvm.switch.port_counters(A).unwrap();
    assert_eq!((counters.rx_frames, counters.rx_bytes), (4001, 4_000_060), "what is refused was received");
    let back = udp(B, A, 1000);
    assert_eq!((0..1000).map(|_| rvm.send(B, &back).len()).sum::<usize>(), 1000);
    // The same setting again changes nothing; another one starts with a full bucket.
    rvm.set(A, |p| p.policy.ingress = rate);
    assert_eq!(rvm.send(A, &frame).len(), 0);
    rvm.set(A, |p| p.policy.ingress = Rate { pps: Some(1000), ..Rate::default() });
    assert_eq!((0..200).map(|_| rvm.send(A, &frame).len()).sum::<usize>(), 100);
    rvm.set(A, |_| {});
    assert_eq!((0..200).map(|_| rvm.send(A, &frame).len()).sum::<usize>(), 200);
}

#[test]
fn a_limit_on_what_leaves_is_counted_at_the_output() {
    let mut rvm = Rvm::new();
    rvm.introduce();
    rvm.set(B, |p| p.policy.egress = Rate { pps: Some(160), ..Rate::default() });
    let frame = udp(A, B, 100);
    let passed: usize = (0..100).map(|_| rvm.send(A, &frame).len()).sum();
    assert_eq!(passed, 16);
    // Several frames on one queue: those within the limit leave in order.
    rvm.now = rvm.now + Duration::from_millis(25);
    let batch: Vec<_> = (0..10).map(|n| (udp(A, B, 100 + n), Offload::NONE)).collect();
    let sent = rvm.put(A, &batch);
    assert_eq!(sent.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [100, 101, 102, 103]);
    assert_eq!(rvm.drops(B, DropReason::EgressRateLimit), 84 + 6);
    assert_eq!(rvm.drops(A, DropReason::EgressRateLimit), 0);
    assert_eq!(rvm.send(A, &udp(A, C, 100)).len(), 1, "others are not limited");
}

/// A GSO packet counts as its segments, including their headers, on ingress and on egress.
#[test]
fn super_frames_count_as_their_segments() {
    let mut rvm = Rvm::new();
    rvm.introduce();
    // 10,000 bytes in ten segments of 1054.
    let whole = super_frame(A, B, 10_000);
    for (change, reason, at) in [
        ((|p, rate| p.ingress = rate) as fn(&mut PortPolicy, Rate), DropReason::IngressRateLimit, A),
        (|p, rate| p.egress = rate, DropReason::EgressRateLimit, B),
    ] {
        for (rate, per_second) in [
            (Rate { bps: Some(8 * 105_400), burst: Some(10_540), pps: None }, 10),
            (Rate { pps: Some(100), ..Rate::default() }, 10),
        ] {
            rvm.set(at, |p| change(&mut p.policy, rate));
            for port in [A, B] {
                rvm.switch.set_caps(port, PortCaps { tx_csum: true, tx_tso: true, ..PortCaps::default() });
            }
            let before = rvm.drops(at, reason);
            let mut passed = 0;
            for _ in 0..1000 {
                rvm.now = rvm.now + Duration::from_millis(10);
                passed += rvm.put(A, std::slice::from_ref(&whole)).len();
            }
            // Ten seconds and the burst.
            let expected = 10 * per_second..=10 * per_second + 3;
            assert!(expected.contains(&passed), "{at:?} {rate:?}: {passed}");
            assert_eq!(rvm.drops(at, reason) - before, 1000 - passed as u64);
        }
        rvm.set(at, |_| {});
    }
}

/// From the very next frame on, no frame comes in or goes out, even with a cached verdict; each is counted.
#[test]
fn a_port_in_quarantine_is_cut_off() {
    let mut rvm = Rvm::new();
    rvm.introduce();
    for _ in 0..10 {
        assert_eq!(rvm.send(A, &udp(A, B, 100)).len(), 1);
        assert_eq!(rvm.send(B, &udp(B, A, 100)).len(), 1);
    }
    for (cut, reason) in
        [(Cut::Quarantine, DropReason::Quarantined), (Cut::ErrDisabled, DropReason::ErrDisabled)]
    {
        let remembered = rvm.switch.remembered();
        rvm.cut(A, Some(cut));
        for n in 1..=10 {
            assert_eq!(rvm.send(A, &udp(A, B, 100)), []);
            assert_eq!(rvm.send(A, &hello(A)), []);
            assert_eq!(rvm.send(B, &udp(B, A, 100)), []);
            assert_eq!(places(&rvm.send(B, &hello(B))), [C], "a flood leaves it out");
            assert_eq!((rvm.drops(A, reason), rvm.drops(B, reason)), (2 * n, n));
        }
        assert_eq!(rvm.switch.remembered(), remembered, "a verdict was remembered");
        // A frame that another worker sent before it knew of the quarantine.
        let late = rvm.pool.alloc_from(&udp(B, A, 100));
        rvm.switch.take_over(A, late, &mut rvm.pool);
        assert_eq!(rvm.drops(A, reason), 21);
        assert_eq!(rvm.switch.counters().taken_over, 1 + u64::from(cut == Cut::ErrDisabled));
        assert_eq!(rvm.sent(), []);
        rvm.cut(A, None);
        assert_eq!(places(&rvm.send(A, &udp(A, B, 100))), [B]);
        assert_eq!(places(&rvm.send(B, &udp(B, A, 100))), [A], "where it is was not forgotten");
    }
}

/// Copies show the frames that a port receives and sends, as they are on its wire, from the flow cache or
/// not.
#[test]
fn a_mirror_shows_what_comes_and_goes() {
    let mut rvm = Rvm::new();
    rvm.introduce();
    // On another network.
    rvm.mirror(A, D);
    for _ in 0..5 {
        let (there, back) = (udp(A, B, 100), udp(B, A, 200));
        assert_eq!(rvm.send(A, &there), [(B, there.clone()), (D, there)]);
        assert_eq!(rvm.send(B, &back), [(A, back.clone()), (D, back)]);
    }
    assert!(rvm.switch.remembered() > 0);
    // Frames between other ports are not copied. A flood causes one copy, of the frame that leaves here.
    assert_eq!(places(&rvm.send(B, &udp(B, C, 100))), [C]);
    assert_eq!(places(&rvm.send(B, &hello(B))), [A, C, D]);
    // Refused frames are copied, too.
    rvm.set(A, |p| (p.live, p.policy.cut, p.policy.mirror) = (false, Some(Cut::Quarantine), Some(D)));
    assert_eq!(places(&rvm.send(A, &udp(A, B, 100))), [D]);
    // The target may not send, and gets only copies.
    let refused = rvm.drops(D, DropReason::MirrorTarget);
    assert_eq!(rvm.send(D, &hello(D)), []);
    assert_eq!(rvm.send(D, &udp(D, A, 100)), []);
    assert_eq!(rvm.drops(D, DropReason::MirrorTarget), refused + 2);
    // No longer a mirror target: it is an ordinary port again.
    rvm.set(A, |_| {});
    rvm.set(D, |_| {});
    assert_eq!(places(&rvm.send(A, &udp(A, B, 100))), [B]);
}

/// A trace shows limits, mirrors and quarantine in their order, as the next frame then meets them. It takes
/// no tokens: a hundred traces give the same result.
#[test]
fn a_trace_shows_what_policy_does() {
    let mut rvm = Rvm::new();
    rvm.introduce();
    let rate = Rate { pps: Some(160), ..Rate::default() };
    rvm.set(D, |p| p.policy.tap = true);
    rvm.set(A, |p| (p.policy.ingress, p.policy.mirror) = (rate, Some(D)));
    rvm.set(B, |p| (p.policy.egress, p.policy.mirror) = (rate, Some(D)));
    let there = udp(A, B, 100);
    let trace = |rvm: &mut Rvm| {
        let counters = PORTS.map(|port| rvm.switch.port_counters(port).unwrap().clone());
        let walk = rvm.switch.trace(rvm.now, A, &there, &rvm.pool);
        assert_eq!(PORTS.map(|port| rvm.switch.port_counters(port).unwrap().clone()), counters, "counted");
        assert_eq!(rvm.sent(), [], "sent");
        walk
    };
    let policy = |walk: &Walk| -> Vec<TrailStep> {
        let is = |step: &&TrailStep| matches!(step, TrailStep::Limit { .. } | TrailStep::Mirror { .. });
        walk.steps.iter().filter(is).cloned().collect()
    };
    let limit = |port, leaving, within| TrailStep::Limit { port, leaving, within };
    let copy = |port, leaving| TrailStep::Mirror { port, tap: D, leaving, copied: true };
    for _ in 0..100 {
        let walk = trace(&mut rvm);
        assert_eq!(
            policy(&walk),
            [limit(A, false, true), copy(A, false), limit(B, true, true), copy(B, true)]
        );
        assert_eq!(walk.sent.iter().map(|sent| sent.port).collect::<Vec<_>>(), [B, D, D]);
        assert_eq!(walk.drops, []);
    }
    // Both buckets are empty after 16 frames; the first decides.
    assert_eq!((0..20).map(|_| rvm.send(A, &there).len()).sum::<usize>(), 3 * 16);
    let walk = trace(&mut rvm);
    assert_eq!((policy(&walk), walk.sent, walk.verdict), (vec![limit(A, false, false)], vec![], None));
    assert_eq!(walk.drops, [(A, DropReason::IngressRateLimit)]);
    rvm.set(A, |p| p.policy.mirror = Some(D));
    let walk = trace(&mut rvm);
    assert_eq!(policy(&walk), [copy(A, false), limit(B, true, false)]);
    assert_eq!(walk.drops, [(B, DropReason::EgressRateLimit)]);
    assert_eq!(places(&rvm.send(A, &there)), [D], "as the trace said");
    // Frames of a quarantined port are still copied.
    rvm.set(A, |p| (p.live, p.policy.cut, p.policy.mirror) = (false, Some(Cut::Quarantine), Some(D)));
    let walk = trace(&mut rvm);
    assert_eq!((policy(&walk), walk.drops), (vec![copy(A, false)], vec![(A, DropReason::Quarantined)]));
}

/// Mirrors of mirrors, of themselves and in a ring: no copy is copied.
#[test]
fn mirrors_do_not_loop() {
    let mut rvm = Rvm::new();
    rvm.introduce();
    for (from, to) in [(A, B), (B, A), (C, C)] {
        rvm.set(from, |p| (p.policy.mirror, p.policy.tap) = (Some(to), from != C));
    }
    for port in [A, B, C] {
        assert_eq!(rvm.send(port, &hello(port)), [], "all that is left is C, alone on its network");
    }
    rvm.set(A, |p| p.policy.mirror = Some(B));
    assert_eq!(places(&rvm.send(C, &hello(C))), [A, B]);
    assert_eq!(places(&rvm.send(A, &hello(A))), [B, C]);
}

/// Copies that cannot be delivered are counted at the target, and the original frames are not affected.
#[test]
fn lost_copies_are_counted_and_cost_nothing() {
    let mut rvm = Rvm::new();
    rvm.introduce();
    rvm.mirror(A, C);
    let lost = |rvm: &Rvm| rvm.drops(C, DropReason::MirrorLost);
    // The frame is longer than the target's MTU.
    rvm.set(C, |p| (p.mtu, p.policy.tap) = (600, true));
    assert_eq!(places(&rvm.send(A, &udp(A, B, 1000))), [B]);
    assert_eq!(lost(&rvm), 1);
    // The target is not live.
    rvm.set(C, |p| (p.live, p.policy.tap) = (false, true));
    assert_eq!(places(&rvm.send(A, &udp(A, B, 100))), [B]);
    assert_eq!(lost(&rvm), 2);
    // The pool has no free slot.
    rvm.set(C, |p| p.policy.tap = true);
    let frame = rvm.pool.alloc_from(&udp(A, B, 100)).unwrap();
    let held: Vec<_> = std::iter::from_fn(|| rvm.pool.alloc_from(&[0; 100])).collect();
    let mut batch = Batch::new();
    batch.push(frame);
    rvm.switch.forward(rvm.now, A, &mut batch, &mut rvm.pool);
    held.into_iter().for_each(|frame| rvm.pool.free(frame));
    assert_eq!(places(&rvm.sent()), [B]);
    assert_eq!(lost(&rvm), 3);
    // The target's own limit.
    rvm.set(C, |p| (p.policy.egress.pps, p.policy.tap) = (Some(1), true));
    let sent: Vec<_> = (0..20).flat_map(|_| places(&rvm.send(A, &udp(A, B, 100)))).collect();
    assert_eq!(sent.iter().filter(|&&port| port == B).count(), 20);
    assert_eq!(rvm.drops(C, DropReason::EgressRateLimit), 4);
}

/// A mirror of GSO packets: whole where the target takes them, segmented where it does not, with right
/// checksums.
#[test]
fn a_mirror_fits_frames_to_its_target() {
    let mut rvm = Rvm::new();
    rvm.introduce();
    rvm.mirror(A, C);
    let whole = super_frame(A, B, 2500);
    rvm.switch.set_caps(B, PortCaps { tx_csum: true, tx_tso: true, ..PortCaps::default() });
    let sent = rvm.put(A, std::slice::from_ref(&whole));
    assert_eq!(
        sent.iter().map(|(port, bytes)| (*port, bytes.len())).collect::<Vec<_>>(),
        [(B, 2554), (C, 1054), (C, 1054), (C, 554)]
    );
    for (_, bytes) in &sent[1..] {
        let packet = etherparse::PacketHeaders::from_ethernet_slice(bytes).unwrap();
        let Some(etherparse::NetHeaders::Ipv4(ip, _)) = &packet.net else { panic!("IPv4") };
        let tcp = packet.transport.unwrap().tcp().unwrap();
        assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(ip, packet.payload.slice()).unwrap());
    }
    rvm.switch.set_caps(C, PortCaps { tx_csum: true, tx_tso: true, ..PortCaps::default() });
    assert_eq!(rvm.put(A, std::slice::from_ref(&whole)).len(), 2);
    // Frames with impossible facts are not copied.
    let impossible = (whole.0, Offload { csum_start: 60_000, ..whole.1 });
    assert_eq!(rvm.put(A, &[impossible]), []);
    assert_eq!(rvm.drops(A, DropReason::OffloadInvalid), 1);
    assert_eq!(rvm.drops(C, DropReason::MirrorLost), 1);
}

/// A BPDU is reported once per tick on ports with a guard, and dropped in any case.
#[test]
fn bpdus_are_told_of_where_there_is_a_guard() {
    let mut rvm = Rvm::new();
    let events =
        |rvm: &mut Rvm| rvm.switch.take_events().filter(|e| matches!(e, Event::Bpdu(_))).collect::<Vec<_>>();
    rvm.send(A, &bpdu(A, 0));
    assert_eq!(events(&mut rvm), []);
    rvm.set(A, |p| p.policy.bpdu_guard = true);
    for last in [1, 2, 14] {
        // Pause, slow protocols, LLDP.
        rvm.send(A, &bpdu(A, last));
    }
    assert_eq!(events(&mut rvm), []);
    for last in [0, 8] {
        rvm.now = rvm.now + Duration::from_millis(300);
        for _ in 0..100 {
            assert_eq!(rvm.send(A, &bpdu(A, last)), []);
        }
        assert_eq!(events(&mut rvm), [Event::Bpdu(A)]);
    }
    // A dry run causes no event and leaves no trace.
    rvm.now = rvm.now + Duration::from_millis(300);
    let (now, bytes) = (rvm.now, bpdu(A, 0));
    let _ = rvm.switch.trace(now, A, &bytes, &rvm.pool);
    assert_eq!(events(&mut rvm), []);
    rvm.send(A, &bytes);
    assert_eq!(events(&mut rvm), [Event::Bpdu(A)]);
}

/// Learning and flooding as a Linux bridge's ports have them: a port that does not learn is reached by flooding or by a
/// static entry, and its flows are remembered all the same; one without flooding gets what is for its stations and for
/// groups, but no unicast to stations of an unknown place.
#[test]
fn learning_and_flooding_are_each_ports_own() {
    let mut rvm = Rvm::new();
    rvm.set(A, |p| p.policy.learning = false);
    rvm.set(C, |p| p.policy.flood = false);
    rvm.introduce();
    assert_eq!(places(&rvm.send(B, &udp(B, A, 100))), [A], "flooded, since A was not learned");
    assert_eq!(places(&rvm.send(B, &udp(B, C, 100))), [C], "it is known");
    assert_eq!(places(&rvm.send(B, &udp(B, PortId(9), 100))), [A]);
    assert_eq!(places(&rvm.send(B, &hello(B))), [A, C]);
    let remembered = rvm.switch.remembered();
    for _ in 0..3 {
        assert_eq!(places(&rvm.send(A, &udp(A, B, 100))), [B]);
    }
    assert!(rvm.switch.remembered() > remembered);
    rvm.set(A, |p| (p.policy.learning, p.policy.flood) = (false, false));
    assert_eq!(places(&rvm.send(B, &udp(B, A, 100))), []);
    assert_eq!(rvm.drops(B, DropReason::NoDestination), 1);
    rvm.apply(Command::AddFdb(vni(100), 0, MacAddr(mac(A)), Location::Port(A)));
    assert_eq!(places(&rvm.send(B, &udp(B, A, 100))), [A]);
}

/// A cache that takes everything and says what.
struct Recorder(Arc<Mutex<Vec<Flow>>>);

impl FlowCache for Recorder {
    fn capacity(&self) -> u32 {
        64
    }
    fn is_on(&self) -> bool {
        true
    }
    fn is_alone(&self) -> bool {
        true
    }
    fn revoke_all(&mut self) {
        self.0.lock().unwrap().clear();
    }
    fn install(&mut self, flow: &Flow) -> Option<u32> {
        let mut flows = self.0.lock().unwrap();
        let slot = flows.iter().position(|known| known.key == flow.key).unwrap_or(flows.len());
        let len = flows.len().max(slot + 1);
        flows.resize(len, *flow);
        Some(slot as u32)
    }
    fn revoke(&mut self, _slot: u32) {}
    fn reclaim(&mut self) -> Option<u32> {
        None
    }
    fn take_hits(&mut self, _slot: u32) -> Hits {
        Hits::default()
    }
    fn take_lost(&mut self) -> Option<(PortId, u64)> {
        None
    }
    fn give_back_lost(&mut self, _id: PortId, _frames: u64) {}
}

/// No flow from or to a port with a limit, a mirror or a quarantine is installed; flows installed before are
/// revoked.
#[test]
fn the_verdict_cache_takes_no_flow_of_such_a_port() {
    type Change = fn(&mut PortConfig);
    let limited: Change = |p| p.policy.ingress.bps = Some(1_000_000_000_000);
    let limited_out: Change = |p| p.policy.egress.pps = Some(1_000_000_000);
    let mirrored: Change = |p| p.policy.mirror = Some(D);
    let quarantined: Change = |p| (p.live, p.policy.cut) = (false, Some(Cut::Quarantine));
    let plain: Change = |_| {};
    for (change, installed) in
        [(plain, true), (limited, false), (limited_out, false), (mirrored, false), (quarantined, false)]
    {
        let mut rvm = Rvm::new();
        rvm.set(D, |p| p.policy.tap = true);
        let flows = Arc::new(Mutex::new(Vec::new()));
        rvm.switch.attach_cache(Box::new(Recorder(flows.clone())));
        rvm.introduce();
        let talk = |rvm: &mut Rvm| {
            for (from, to) in [(A, B), (B, A)] {
                rvm.now = rvm.now + Duration::from_millis(300);
                let now = rvm.now;
                rvm.switch.tick(now, &mut rvm.pool);
                rvm.switch.publish();
                for _ in 0..64 * FLOW_HOT_FRAMES {
                    rvm.send(from, &udp(from, to, 100));
                }
            }
            rvm.switch.publish();
        };
        talk(&mut rvm);
        assert!(!flows.lock().unwrap().is_empty(), "hot flows are installed");
        rvm.set(A, change);
        rvm.switch.publish();
        assert!(flows.lock().unwrap().is_empty(), "a change revokes");
        talk(&mut rvm);
        assert_eq!(!flows.lock().unwrap().is_empty(), installed);
    }
}

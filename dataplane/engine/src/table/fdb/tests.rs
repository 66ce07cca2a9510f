//! The FDB against a naive map, and its bounds.

use super::*;
use crate::command::{PeerId, PortId};
use proptest::prelude::*;
use std::collections::BTreeMap;

const VNI: Vni = match Vni::new(100) {
    Some(v) => v,
    None => unreachable!(),
};

fn learn(fdb: &mut Fdb, now: Instant, key: FdbKey, location: Location, max: u32) -> Learned {
    fdb.learn(now, (fdb.hash(key), key), location, max)
}

fn mac(n: u32) -> MacAddr {
    let b = n.to_be_bytes();
    MacAddr([2, 0, b[0], b[1], b[2], b[3]])
}

fn port(n: u16) -> Location {
    Location::Port(PortId(n))
}

fn fdb(max: u32) -> Fdb {
    let mut fdb = Fdb::new(7);
    fdb.set_network(VNI, max, Duration::from_secs(300));
    fdb
}

#[test]
fn learns_moves_and_ages() {
    let mut fdb = fdb(100);
    let t0 = Instant::from_millis(1000);
    let key = FdbKey::new(VNI, 0, mac(1));
    assert_eq!(learn(&mut fdb, t0, key, port(1), 100), Learned::New);
    assert_eq!(learn(&mut fdb, t0, key, port(1), 100), Learned::Same);
    assert_eq!(fdb.get(VNI, 0, mac(1)), Some(port(1)));
    assert_eq!(fdb.get(VNI, 10, mac(1)), None, "the VLAN is part of the key");
    assert_eq!(learn(&mut fdb, t0, key, Location::Peer(PeerId(3)), 100), Learned::Moved);
    assert_eq!(fdb.get(VNI, 0, mac(1)), Some(Location::Peer(PeerId(3))));
    fdb.age(t0 + Duration::from_secs(299), u32::MAX, |_, _, _| panic!("too early"));
    let mut gone = 0;
    fdb.age(t0 + Duration::from_secs(302), u32::MAX, |vni, vid, m| {
        assert_eq!((vni, vid, m), (VNI, 0, mac(1)));
        gone += 1;
    });
    assert_eq!((gone, fdb.len()), (1, 0));
}

/// A guest floods random MACs. It evicts only its own entries.
#[test]
fn t1_mac_flood_evicts_only_the_flooder() {
    let mut fdb = fdb(1000);
    let now = Instant::from_millis(5);
    for n in 0..400 {
        assert_eq!(learn(&mut fdb, now, FdbKey::new(VNI, 0, mac(n)), port(1), 5000), Learned::New);
    }
    for n in 10_000..110_000 {
        learn(&mut fdb, now, FdbKey::new(VNI, 0, mac(n)), port(2), 5000);
    }
    assert!(fdb.len() <= 1000);
    for n in 0..400 {
        assert_eq!(fdb.get(VNI, 0, mac(n)), Some(port(1)), "victim's {n}");
    }
}

#[test]
fn static_entries_stay() {
    let mut fdb = fdb(4);
    let now = Instant::from_millis(5);
    assert!(fdb.add_static(now, VNI, 0, mac(1), port(1)));
    assert_eq!(learn(&mut fdb, now, FdbKey::new(VNI, 0, mac(1)), port(2), 10), Learned::Refused);
    for n in 2..100 {
        learn(&mut fdb, now, FdbKey::new(VNI, 0, mac(n)), port(2), 10);
    }
    fdb.age(now + Duration::from_secs(9999), u32::MAX, |_, _, _| {});
    fdb.flush(None, None, false);
    assert_eq!(fdb.get(VNI, 0, mac(1)), Some(port(1)));
    assert_eq!(fdb.len(), 1);
    fdb.remove_network(VNI);
    assert_eq!(fdb.len(), 0);
    assert_eq!(
        learn(&mut fdb, now, FdbKey::new(VNI, 0, mac(1)), port(2), 10),
        Learned::Refused,
        "unknown network"
    );
}

#[test]
fn pages_show_every_entry_once() {
    let mut fdb = fdb(10_000);
    for n in 0..3000 {
        learn(&mut fdb, Instant::ZERO, FdbKey::new(VNI, 0, mac(n)), port(1), 10_000);
    }
    let (mut seen, mut cursor) = (std::collections::BTreeSet::new(), Some(0));
    while let Some(at) = cursor {
        let (rows, next) = fdb.page(Instant::ZERO, at);
        for row in rows {
            assert!(seen.insert(row.mac));
        }
        cursor = next;
    }
    assert_eq!(seen.len(), 3000);
}

#[derive(Clone, Debug)]
enum Op {
    Learn(u32, u16),
    Static(u32, u16),
    Remove(u32),
    FlushPort(u16),
    Age(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0u32..60, 0u16..4).prop_map(|(m, p)| Op::Learn(m, p)),
        1 => (0u32..60, 0u16..4).prop_map(|(m, p)| Op::Static(m, p)),
        1 => (0u32..60).prop_map(Op::Remove),
        1 => (0u16..4).prop_map(Op::FlushPort),
        1 => (0u64..400).prop_map(Op::Age),
    ]
}

proptest! {
    /// The table equals a naive map until it reaches a bound.
    #[test]
    fn equals_a_naive_map(ops in proptest::collection::vec(op(), 0..200)) {
        let mut fdb = fdb(1000);
        let mut model: BTreeMap<u32, (u16, bool, u64)> = BTreeMap::new();
        let mut seconds = 0u64;
        for op in ops {
            let now = Instant::from_millis(seconds * 1000);
            match op {
                Op::Learn(m, p) => {
                    learn(&mut fdb, now, FdbKey::new(VNI, 0, mac(m)), port(p), 1000);
                    let e = model.entry(m).or_insert((p, false, seconds));
                    if !e.1 { *e = (p, false, seconds) }
                }
                Op::Static(m, p) => {
                    prop_assert!(fdb.add_static(now, VNI, 0, mac(m), port(p)));
                    model.insert(m, (p, true, seconds));
                }
                Op::Remove(m) => {
                    prop_assert_eq!(fdb.remove(VNI, 0, mac(m)), model.remove(&m).is_some());
                }
                Op::FlushPort(p) => {
                    fdb.flush(None, Some(port(p)), false);
                    model.retain(|_, e| e.0 != p || e.1);
                }
                Op::Age(s) => {
                    seconds += s;
                    fdb.age(Instant::from_millis(seconds * 1000), u32::MAX, |_, _, _| {});
                    model.retain(|_, e| e.1 || seconds - e.2 <= 300);
                }
            }
            prop_assert_eq!(fdb.len() as usize, model.len());
            for (&m, e) in &model {
                prop_assert_eq!(fdb.get(VNI, 0, mac(m)), Some(port(e.0)));
            }
        }
    }

    /// The bounds hold for any sequence of learned addresses.
    #[test]
    fn bounds_hold(learns in proptest::collection::vec((0u32..5000, 0u16..5), 0..2000), max in 1u32..100, per_port in 1u32..50) {
        let mut fdb = fdb(max);
        for (m, p) in learns {
            learn(&mut fdb, Instant::ZERO, FdbKey::new(VNI, 0, mac(m)), port(p), per_port);
            prop_assert!(fdb.len() <= max);
            for o in &fdb.origins {
                prop_assert!(o.learned <= per_port);
            }
        }
    }
}

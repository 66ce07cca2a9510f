//! Fragments of packets whose ports select a mapping.

use engine::command::*;
use engine::counters::DropReason;
use engine::limits::{FRAGMENT_AGE, FRAGMENT_WAYS};

use crate::rvm::{
    DOOR1, DOOR2, GUEST, Kind, PRIVATE, PROVIDER, PUBLIC, Rvm, UPLINK, addresses, ends, fix_ipv4, ip, mac,
    packet, router_mac, switch_mac, vni,
};

/// The three fragments of a datagram.
fn cut(whole: &[u8], id: u32) -> [Vec<u8>; 3] {
    let v6 = whole[12] == 0x86;
    let l4 = if v6 { 54 } else { 34 };
    let data = &whole[l4..];
    [0, 400, 800].map(|at| {
        let end = if at == 800 { data.len() } else { at + 400 };
        let more = end < data.len();
        let mut out = whole[..l4].to_vec();
        if v6 {
            let word = (at as u16) | u16::from(more);
            let [a, b] = word.to_be_bytes();
            out.extend([out[20], 0, a, b]);
            out.extend(id.to_be_bytes());
            out[20] = 44;
            out[18..20].copy_from_slice(&(8 + (end - at) as u16).to_be_bytes());
        } else {
            out[16..18].copy_from_slice(&(20 + (end - at) as u16).to_be_bytes());
            out[18..20].copy_from_slice(&(id as u16).to_be_bytes());
            out[20..22].copy_from_slice(&((at as u16 / 8) | (u16::from(more) << 13)).to_be_bytes());
            fix_ipv4(&mut out);
        }
        out.extend(&data[at..end]);
        out
    })
}

/// The number of these frames that are forwarded.
fn passed(rvm: &mut Rvm, at: PortId, frames: &[Vec<u8>]) -> usize {
    frames.iter().map(|f| rvm.forward(at, f).iter().filter(|(to, _)| *to != at).count()).sum()
}

const LOST: DropReason = DropReason::FragmentWithoutFirst;

/// A floating IP is mapped for some ports, or for all but some. In each of the three places where ports
/// decide (packets from the underlay, packets to the floating IP inside, packets from the guest), all
/// fragments of a datagram go where the first goes: to the guest of its port, or nowhere. A fragment that
/// comes before its first is dropped and counted.
#[test]
fn later_fragments_follow_the_first() {
    for v6 in [false, true] {
        for (only, except) in [(&["udp/53"][..], &[][..]), (&[], &["udp/54"])] {
            let a = addresses(v6);
            let mut rvm = Rvm::new(11);
            rvm.float(v6, true, true, only, except);
            rvm.announce(DOOR1, GUEST, a.guest);
            let station = ip(if v6 { "fd02::7" } else { "10.2.0.7" });
            let mut id = 0x0001_0000;
            for mapped in [true, false] {
                let port = if mapped { 53 } else { 54 };
                let inward = |eth, from, to| packet(eth, from, to, 64, Kind::Udp(4000, port), &[7; 1100]);
                let cases = [
                    (UPLINK, inward((PROVIDER, mac(11)), a.host, a.reality), mapped),
                    // Excluded ports belong to the gateway's kernel, so the exclusion has no effect inside.
                    (DOOR2, inward((mac(8), switch_mac(11)), station, a.public), mapped || only.is_empty()),
                    (
                        DOOR1,
                        packet(
                            (GUEST, router_mac(PRIVATE)),
                            a.guest,
                            a.host,
                            64,
                            Kind::Udp(port, 4000),
                            &[7; 1100],
                        ),
                        mapped,
                    ),
                ];
                for (at, whole, passes) in cases {
                    id += 1;
                    let frames = cut(&whole, id);
                    assert_eq!(
                        passed(&mut rvm, at, &frames),
                        if passes { 3 } else { 0 },
                        "{at:?} {only:?} {mapped}"
                    );
                    if !passes {
                        assert_eq!(rvm.drops(at, LOST), 0);
                        assert!(rvm.drops(at, DropReason::PortNotMapped) >= 3);
                    }
                }
            }
            // The fragments arrive out of order.
            let whole = packet((PROVIDER, mac(11)), a.host, a.reality, 64, Kind::Udp(4000, 53), &[7; 1100]);
            let [first, second, third] = cut(&whole, 0x0001_0100);
            assert_eq!(passed(&mut rvm, UPLINK, &[third.clone(), first, second]), 2);
            assert_eq!(rvm.drops(UPLINK, LOST), 1);
            // The third fragment again, after the first.
            assert_eq!(passed(&mut rvm, UPLINK, &[third]), 1);
        }
    }
}

/// Where ports do not decide, a fragment does not need its first; nor does one of a protocol without ports.
#[test]
fn others_need_no_first() {
    let a = addresses(false);
    let mut rvm = Rvm::new(11);
    rvm.float(false, true, true, &[], &[]);
    rvm.announce(DOOR1, GUEST, a.guest);
    let of = |kind| packet((PROVIDER, mac(11)), a.host, a.reality, 64, kind, &[7; 1100]);
    let [first, second, third] = cut(&of(Kind::Udp(1, 2)), 7);
    assert_eq!(passed(&mut rvm, UPLINK, &[third, second, first]), 3);
    rvm.float(false, true, true, &[], &["udp/53"]);
    let [first, second, third] = cut(&of(Kind::Echo), 7);
    assert_eq!(passed(&mut rvm, UPLINK, &[third, second, first]), 3);
    rvm.float(false, true, true, &["udp/53"], &[]);
    let [first, second, third] = cut(&of(Kind::Echo), 7);
    assert_eq!(passed(&mut rvm, UPLINK, &[third, second, first]), 0);
    assert_eq!((rvm.drops(UPLINK, DropReason::PortNotMapped), rvm.drops(UPLINK, LOST)), (3, 0));
}

/// With a shared address, each port's fragments go to its own guest.
#[test]
fn a_shared_address() {
    let a = addresses(false);
    let mut rvm = Rvm::new(11);
    rvm.float(false, true, true, &["udp/53"], &[]);
    let other = ip("192.168.1.3");
    rvm.apply(Command::SetFloating(
        FloatingId(7),
        FloatingConfig {
            ip: a.public,
            vni: vni(PUBLIC),
            gateway: Gateway::Here { reality: a.reality },
            inside: Some((vni(PRIVATE), other)),
            only: vec![L4Range { proto: L4Proto::Udp, first: 123, last: 123 }],
            except: vec![],
        },
    ));
    rvm.announce(DOOR1, GUEST, a.guest);
    rvm.announce(DOOR1, mac(10), other);
    for (n, (port, to)) in [(53, a.guest), (123, other), (53, a.guest)].into_iter().enumerate() {
        let whole = packet((PROVIDER, mac(11)), a.host, a.reality, 64, Kind::Udp(4000, port), &[7; 1100]);
        for frame in cut(&whole, n as u32) {
            let out = rvm.forward(UPLINK, &frame);
            assert_eq!((out.len(), ends(&out[0].1).1), (1, to));
        }
    }
}

/// The entry of a first fragment expires, belongs to one network only, gives way to newer packets of the same
/// sender, and is not created by a dry run.
#[test]
fn what_is_remembered() {
    let a = addresses(false);
    let mut rvm = Rvm::new(11);
    rvm.float(false, true, true, &["udp/53"], &[]);
    rvm.announce(DOOR1, GUEST, a.guest);
    let whole = packet((GUEST, router_mac(PRIVATE)), a.guest, a.host, 64, Kind::Udp(53, 4000), &[7; 1100]);
    let [first, second, third] = cut(&whole, 7);
    let now = rvm.now;
    let walk = rvm.switch.trace(now, DOOR1, &first, &rvm.pool);
    assert_eq!(walk.drops, []);
    assert_eq!(passed(&mut rvm, DOOR1, std::slice::from_ref(&second)), 0, "a dry run");
    assert_eq!(passed(&mut rvm, DOOR1, &[first.clone(), second.clone()]), 2);
    let walk = rvm.switch.trace(now, DOOR1, &third, &rvm.pool);
    assert_eq!(walk.drops, [], "what was really seen counts in a dry run, too");
    rvm.pass(FRAGMENT_AGE.as_secs() as u32 + 1);
    rvm.announce(DOOR1, GUEST, a.guest);
    assert_eq!(passed(&mut rvm, DOOR1, std::slice::from_ref(&third)), 0);
    assert_eq!(rvm.drops(DOOR1, LOST), 2);

    // The same addresses and identification on another network.
    rvm.apply(Command::SetFloating(
        FloatingId(7),
        FloatingConfig {
            ip: ip("56.0.0.99"),
            vni: vni(PUBLIC),
            gateway: Gateway::Peer(PeerId(0)),
            inside: Some((vni(PUBLIC), a.guest)),
            only: vec![L4Range { proto: L4Proto::Udp, first: 53, last: 53 }],
            except: vec![],
        },
    ));
    let mut elsewhere = second.clone();
    elsewhere[..6].copy_from_slice(&router_mac(PUBLIC).0);
    assert_eq!(passed(&mut rvm, DOOR1, std::slice::from_ref(&first)), 1);
    assert_eq!(passed(&mut rvm, DOOR2, &[elsewhere]), 0);
    assert_eq!(rvm.drops(DOOR2, LOST), 1);

    let mut newer = first;
    for id in 100..100 + FRAGMENT_WAYS as u16 {
        newer[18..20].copy_from_slice(&id.to_be_bytes());
        fix_ipv4(&mut newer);
        passed(&mut rvm, DOOR1, std::slice::from_ref(&newer));
    }
    assert_eq!(passed(&mut rvm, DOOR1, &[second]), 0, "displaced");
}

/// Each worker has its own table. Where a network card sends the fragments of a packet to different workers,
/// the later ones are dropped and counted.
#[test]
fn another_worker() {
    let a = addresses(false);
    let mut workers = [0, 1].map(|me| {
        let mut rvm = Rvm::new(11);
        rvm.switch.share(me);
        rvm.float(false, true, true, &["udp/53"], &[]);
        rvm.announce(DOOR1, GUEST, a.guest);
        rvm
    });
    let whole = packet((PROVIDER, mac(11)), a.host, a.reality, 64, Kind::Udp(4000, 53), &[7; 1100]);
    let [first, second, third] = cut(&whole, 7);
    assert_eq!(passed(&mut workers[0], UPLINK, &[first, second]), 2);
    assert_eq!(passed(&mut workers[1], UPLINK, &[third]), 0);
    assert_eq!(workers[1].drops(UPLINK, LOST), 1);
}

//! Single cases that the random steps would rarely meet.

use engine::command::*;
use engine::limits::FDB_AGE;
use engine::wire::mac::MacAddr;
use etherparse::PacketBuilder;

use super::{DOOR1, DOOR3, GUEST, PRIVATE, Packet, Rvm, UPLINK, frame, mac, router_mac, vni};

/// Two packets are alike in every byte of a cached flow's key, and a guest may send only the first: a
/// question to a DHCP server and an answer to a relay, a question to a boot server and an answer of one.
#[test]
fn what_a_guard_reads_is_not_remembered() {
    for dport in [1, 7] {
        let mut rvm = Rvm::new(true);
        let [question, answer] =
            [1, 5].map(|len| Packet { at: 3, src: 1, sport: 4, dport, len, ..Packet::plain() });
        rvm.apply(Command::AddFdb(vni(PRIVATE), 0, mac(1), Location::Port(DOOR3)));
        for _ in 0..3 {
            for (packet, passes) in [(&question, true), (&answer, false)] {
                let bytes = frame(packet).1;
                rvm.batch(GUEST, core::slice::from_ref(&bytes));
                assert_eq!(!rvm.account().0.is_empty(), passes, "{packet:?}");
            }
        }
        assert_eq!(rvm.switch.remembered(), 0);
    }
}

/// The property is not empty: in a plain conversation the flow cache finds all but the first packet.
#[test]
fn a_conversation_is_remembered() {
    let mut rvm = Rvm::new(true);
    rvm.apply(Command::AddFdb(vni(PRIVATE), 0, mac(1), Location::Port(DOOR3)));
    let one = Packet { at: 1, tcp: true, ..Packet::plain() };
    let bytes = frame(&one).1;
    for n in 0..5 {
        rvm.batch(DOOR1, core::slice::from_ref(&bytes));
        assert_eq!(rvm.switch.remembered(), n);
        assert_eq!(rvm.account().0, [(DOOR3.0, bytes.clone())]);
    }
}

/// Outer lengths that contradict each other or the frame produce no key, and the switch reads no bytes beyond
/// the frame.
#[test]
fn outer_lengths_that_lie() {
    let packet = Packet { len: 20, tunnel: Some((0, true, 0)), ..Packet::plain() };
    let whole = frame(&packet).1;
    let mut rvm = Rvm::new(true);
    for total_len in [0, 4, 19, 20, 36, 90, 9000, u16::MAX] {
        for udp_len in [0, 8, 16, 58, 70, 9000, u16::MAX] {
            let mut bytes = whole.clone();
            bytes[16..18].copy_from_slice(&u16::to_be_bytes(total_len));
            bytes[38..40].copy_from_slice(&u16::to_be_bytes(udp_len));
            for _ in 0..2 {
                rvm.batch(UPLINK, core::slice::from_ref(&bytes));
                rvm.account();
            }
        }
    }
}

/// With more flows than entries, new flows displace others, some found earlier in the same batch. Every frame
/// still goes where its own address says.
#[test]
fn displaced_by_a_newcomer_of_the_same_batch() {
    const SOURCES: u16 = 500;
    const STATIONS: u16 = 300;
    let station = |n: u16| MacAddr([2, 7, 0, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
    let mut rvm = Rvm::new(true);
    rvm.apply(Command::SetNetwork(NetworkConfig {
        vni: vni(PRIVATE),
        gateways: vec![],
        router_mac: router_mac(PRIVATE),
        fdb_max: 2000,
        fdb_age: FDB_AGE,
        mss_clamp: true,
        dhcp: None,
    }));
    for n in 0..SOURCES {
        rvm.apply(Command::AddFdb(vni(PRIVATE), 0, station(1000 + n), Location::Port(DOOR1)));
    }
    let places = [Location::Port(DOOR3), Location::Peer(PeerId(0)), Location::Peer(PeerId(1))];
    for n in 0..STATIONS {
        rvm.apply(Command::AddFdb(vni(PRIVATE), 0, station(n), places[usize::from(n) % 3]));
    }
    let mut bytes = Vec::new();
    let packet = PacketBuilder::ethernet2([0; 6], [0; 6]).ipv4([192, 168, 1, 2], [192, 168, 1, 3], 64);
    packet.udp(1, 2).write(&mut bytes, &[7; 20]).unwrap();
    let mut noise = 88_172_645_463_325_252_u64;
    let mut remembered = 0;
    for _ in 0..20_000 {
        let mut frames = Vec::new();
        for _ in 0..64 {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            bytes[..6].copy_from_slice(&station((noise % u64::from(STATIONS)) as u16).0);
            bytes[6..12].copy_from_slice(&station(1000 + (noise >> 32) as u16 % SOURCES).0);
            frames.push(bytes.clone());
        }
        rvm.batch(DOOR1, &frames);
        let (out, _) = rvm.account();
        assert_eq!(out.len(), 64);
        for (port, bytes) in out {
            let inner = if port == DOOR3.0 { &bytes[..] } else { &bytes[50..] };
            let n = usize::from(u16::from_be_bytes([inner[4], inner[5]]));
            match places[n % 3] {
                Location::Port(to) => assert_eq!(port, to.0, "station {n}"),
                Location::Peer(to) => {
                    assert_eq!((port, bytes[33]), (UPLINK.0, 12 + to.0 as u8), "station {n}");
                }
            }
        }
        remembered = rvm.switch.remembered();
    }
    assert!(remembered > 100_000, "{remembered}");
}

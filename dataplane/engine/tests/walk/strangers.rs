//! What arrives from the underlay and does not belong here.

use engine::command::*;
use engine::counters::DropReason;
use engine::frame::Offload;
use engine::limits::HEADROOM;
use engine::wire::path_probe::{self, About, PathProbe};
use engine::wire::view;

use super::{DOOR1, Kind, PRIVATE, PUBLIC, Rvm, UPLINK, ip, mac, packet, vni};

/// The network that the only frame sent refuses, to the underlay.
fn refused(sent: &[(PortId, Vec<u8>)]) -> Option<u32> {
    /// Offset of the frame in the VXLAN packet.
    const INNER: usize = 50;
    let [(UPLINK, bytes)] = sent else { return None };
    let probe: &PathProbe = view(bytes, INNER)?;
    let about: &About = view(bytes, INNER + path_probe::ABOUT_AT)?;
    (probe.kind() == Some(path_probe::Kind::Refusal)).then(|| about.vni())?.map(|vni| vni.get())
}

/// A frame from a stranger, for a stranger, or for a network that the peer has no part in. No part of it
/// reaches a port. Only a peer gets a refusal for its packets of a network.
#[test]
fn t12_tunnel_takes_only_from_peers() {
    let (mut a, mut b) = (Rvm::new(11, false, false), Rvm::new(12, false, false));
    let bytes = packet((mac(1), mac(2)), ip("192.168.1.2"), ip("192.168.1.3"), Kind::Udp, b"x");
    let outer = a.forward(DOOR1, &bytes, Offload::NONE)[0].1.clone();
    let cases: [(usize, u8, DropReason); 6] = [
        (29, 99, DropReason::UnknownPeer),
        (33, 99, DropReason::NotOurs),
        (48, 99, DropReason::UnknownVni),
        (42, 0, DropReason::VxlanHeader),
        (49, 1, DropReason::VxlanHeader),
        (0, 0xee, DropReason::NotOurMac),
    ];
    for (at, value, reason) in cases {
        let mut bad = outer.clone();
        bad[at] = value;
        let told = b.forward(UPLINK, &bad, Offload::NONE);
        assert_eq!(b.drops(UPLINK, reason), if at == 49 { 2 } else { 1 }, "{reason}");
        if reason == DropReason::UnknownVni {
            assert_eq!(refused(&told), Some(99), "{told:?}");
        } else {
            assert_eq!(told, vec![], "{reason}");
        }
    }
    let mut peer = PeerConfig {
        address: ip("10.0.0.11"),
        vnis: vec![vni(PUBLIC)],
        via: None,
        spoke: false,
        mtu: 1600,
        fragment: false,
        outer: engine::command::OuterIp::default(),
    };
    b.apply(Command::SetPeer(PeerId(0), peer.clone()));
    assert_eq!(refused(&b.forward(UPLINK, &outer, Offload::NONE)), Some(PRIVATE));
    assert_eq!(b.drops(UPLINK, DropReason::PeerNotInVni), 1);
    peer.vnis.push(vni(PRIVATE));
    b.apply(Command::SetPeer(PeerId(0), peer));
    assert_eq!(b.forward(UPLINK, &outer, Offload::NONE), vec![(DOOR1, bytes)]);
    const { assert!(HEADROOM >= 74) };
}

/// An outer IPv4 header claims a length shorter than a header. The switch reads nothing from the following
/// bytes.
#[test]
fn an_outer_length_that_wraps() {
    let (mut a, mut b) = (Rvm::new(11, false, false), Rvm::new(12, false, false));
    let bytes = packet((mac(1), mac(2)), ip("192.168.1.2"), ip("192.168.1.3"), Kind::Udp, b"x");
    let mut outer = a.forward(DOOR1, &bytes, Offload::NONE)[0].1.clone();
    outer[16..18].copy_from_slice(&[0, 0]);
    outer[38..40].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(b.forward(UPLINK, &outer, Offload::NONE), vec![]);
}

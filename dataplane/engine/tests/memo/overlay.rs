//! Datagrams that carry a packet of an overlay of their sender's own.

use std::net::IpAddr;

use engine::command::*;
use etherparse::PacketBuilder;

use crate::{DOOR1, DOOR3, PRIVATE, Packet, Rvm, Step, frame, mac, vni};

/// A TCP packet in a tunnel in a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Overlay {
    /// VXLAN, Geneve, GUE, or the bare packet.
    pub kind: u8,
    /// The inner checksum is not finished.
    pub partial: bool,
    /// The datagram has a checksum, computed as if the inner one were finished.
    pub summed: bool,
}

impl Overlay {
    const TCP_LEN: usize = 20 + 30;
    const FROM: [u8; 4] = [172, 16, 0, 1];
    const TO: [u8; 4] = [172, 16, 0, 2];

    /// The datagram's payload, finished.
    pub fn payload(self) -> Vec<u8> {
        let mut frame = Vec::new();
        let packet =
            PacketBuilder::ethernet2([2, 9, 0, 0, 0, 1], [2, 9, 0, 0, 0, 2]).ipv4(Self::FROM, Self::TO, 64);
        packet.tcp(5000, 80, 9, 100).write(&mut frame, &[7; Self::TCP_LEN - 20]).unwrap();
        match self.kind {
            0 => [&[8, 0, 0, 0, 0, 0, 9, 0][..], &frame].concat(),
            1 => [&[0, 0, 0x65, 0x58, 0, 0, 9, 0][..], &frame].concat(),
            2 => [&[0, 4, 0, 0][..], &frame[14..]].concat(),
            _ => frame[14..].to_vec(),
        }
    }

    /// Makes a finished frame unfinished again where it should be.
    pub fn open(self, frame: &mut [u8]) {
        if !self.summed {
            frame[40..42].fill(0);
        }
        if self.partial {
            let (from, to) = (IpAddr::from(Self::FROM), IpAddr::from(Self::TO));
            let pseudo = engine::wire::checksum::pseudo(from.into(), to.into(), 6, Self::TCP_LEN as u32);
            let at = frame.len() - Self::TCP_LEN + 16;
            frame[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        }
    }
}

/// The key of the flow cache does not distinguish finished packets of an overlay from unfinished ones.
/// Finished packets use the cache, unfinished ones take the slow path, and both arrive with the same bytes.
#[test]
fn an_overlay_is_remembered_where_it_is_finished() {
    let mut rvm = Rvm::new(true);
    rvm.apply(Command::AddFdb(vni(PRIVATE), 0, mac(1), Location::Port(DOOR3)));
    rvm.run(&Step::Caps(true), &[]);
    for (kind, summed) in (0..4).flat_map(|kind| [(kind, false), (kind, true)]) {
        let packet = |partial| {
            let overlay = Some(Overlay { kind, partial, summed });
            frame(&Packet { at: 1, dst: 1, src: 2, overlay, ..Packet::plain() }).1
        };
        let (finished, unfinished) = (packet(false), packet(true));
        assert_ne!(finished, unfinished);
        rvm.batch(DOOR1, core::slice::from_ref(&finished));
        let before = rvm.switch.remembered();
        for frames in [[&finished, &unfinished], [&unfinished, &finished]] {
            rvm.batch(DOOR1, &frames.map(Vec::clone));
        }
        assert_eq!(rvm.switch.remembered(), before + 2, "the finished ones");
        assert_eq!(rvm.account().0, vec![(DOOR3.0, finished); 5]);
    }
}

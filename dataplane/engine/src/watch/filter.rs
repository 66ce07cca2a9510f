//! The filter of a watch: a program in postfix order, made of the terms of pcap-filter(7).
//!
//! A term is true if it is true for the frame or, for a tunnel packet, for the frame inside. Terms look
//! through VLAN tags. (tcpdump looks through these only with `vlan` or `vxlan`.)

use alloc::vec::Vec;

use crate::command::{IpPrefix, Vni};
use crate::forward::parse::{self, Headers, Net, Part};
use crate::limits::WATCH_FILTER_OPS;
use crate::tunnel;
use crate::wire::l4;
use crate::wire::mac::MacAddr;

/// One term, or an operator that joins terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Tests the frame.
    Test(Test),
    /// Whether both of the last two results are true.
    And,
    /// Whether one of the last two results is true.
    Or,
    /// The opposite of the last result.
    Not,
}

/// The end of a packet that a term tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The sender.
    Src,
    /// The receiver.
    Dst,
    /// Either of the two.
    Either,
}

/// A test of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Test {
    /// The EtherType behind the tags is this one.
    EtherType(u16),
    /// The frame is IP with this protocol.
    Protocol(u8),
    /// An address of the network layer lies in this prefix.
    Address(End, IpPrefix),
    /// The frame is TCP or UDP, and a port lies in this range.
    Port(End, u16, u16),
    /// The frame has this MAC address.
    Mac(End, MacAddr),
    /// The frame has a VLAN tag, of this VLAN if one is given.
    Vlan(Option<u16>),
    /// The frame is a tunnel packet of this network.
    Vni(Vni),
}

/// A filter. The empty one matches every frame.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter(Vec<Op>);

impl Filter {
    /// Creates a filter of these operations; `None` when they are too many, or do not leave exactly one
    /// result.
    #[must_use]
    pub fn new(ops: Vec<Op>) -> Option<Self> {
        let mut depth = 0usize;
        for op in &ops {
            depth = match op {
                Op::Test(_) => depth + 1,
                Op::Not => depth.checked_sub(1)? + 1,
                Op::And | Op::Or => depth.checked_sub(2)? + 1,
            };
        }
        let sound = depth == usize::from(!ops.is_empty()) && ops.len() <= WATCH_FILTER_OPS;
        sound.then_some(Self(ops))
    }

    /// Whether the filter matches this frame.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let mut outer = Headers::default();
        if parse::ethernet(bytes, 0, &mut outer).is_err() {
            return false;
        }
        let inner = inner(bytes, &outer);
        let mut stack = 0u64;
        for op in &self.0 {
            let answer = match op {
                Op::Test(test) => {
                    let of_inner =
                        inner.as_ref().is_some_and(|(vni, h)| test.holds(h) || *test == Test::Vni(*vni));
                    u64::from(of_inner || test.holds(&outer))
                }
                Op::Not => pop(&mut stack) ^ 1,
                Op::And => pop(&mut stack) & pop(&mut stack),
                Op::Or => pop(&mut stack) | pop(&mut stack),
            };
            stack = stack << 1 | answer;
        }
        stack & 1 != 0
    }
}

fn pop(stack: &mut u64) -> u64 {
    let top = *stack & 1;
    *stack >>= 1;
    top
}

/// The frame inside a tunnel packet from any sender to any port.
fn inner(bytes: &[u8], outer: &Headers) -> Option<(Vni, Headers)> {
    let udp = outer.proto == l4::UDP && outer.l4 != 0 && outer.part == Part::Whole;
    if !udp || !matches!(outer.net, Net::V4 | Net::V6) {
        return None;
    }
    let at = usize::from(outer.l4) + l4::UDP_HEADER_LEN;
    let (vni, frame) = tunnel::recognize(bytes.get(at..)?)?;
    let mut h = Headers::default();
    parse::ethernet(frame, 0, &mut h).ok()?;
    Some((vni, h))
}

impl Test {
    fn holds(&self, h: &Headers) -> bool {
        let ip = matches!(h.net, Net::V4 | Net::V6);
        match *self {
            Self::EtherType(ethertype) => h.ethertype == ethertype,
            Self::Protocol(proto) => ip && h.proto == proto,
            Self::Address(end, prefix) => {
                (ip || h.net == Net::Arp) && end.of(h.src, h.dst, |ip| prefix.contains((*ip).into()))
            }
            Self::Port(end, first, last) => {
                ip && matches!(h.proto, l4::TCP | l4::UDP)
                    && h.l4 != 0
                    && end.of(h.sport, h.dport, |port| (first..=last).contains(port))
            }
            Self::Mac(end, mac) => end.of(h.eth_src, h.eth_dst, |m| *m == mac),
            Self::Vlan(None) => h.tagged,
            Self::Vlan(Some(vid)) => h.tagged && h.vid == vid,
            Self::Vni(_) => false,
        }
    }
}

impl End {
    fn of<T>(self, src: T, dst: T, is: impl Fn(&T) -> bool) -> bool {
        match self {
            Self::Src => is(&src),
            Self::Dst => is(&dst),
            Self::Either => is(&src) || is(&dst),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn only_programs_with_one_answer_are_taken() {
        let t = Op::Test(Test::EtherType(0x0806));
        for (ops, good) in [
            (vec![], true),
            (vec![t], true),
            (vec![t, t, Op::Or, Op::Not], true),
            (vec![t, t], false),
            (vec![Op::Not], false),
            (vec![t, Op::And], false),
            (vec![t; WATCH_FILTER_OPS + 1], false),
        ] {
            assert_eq!(Filter::new(ops.clone()).is_some(), good, "{ops:?}");
        }
    }

    #[test]
    fn short_and_odd_frames_match_nothing_and_harm_nobody() {
        let filter = Filter::new(vec![Op::Test(Test::Vlan(None)), Op::Not]).unwrap();
        for len in 0..14 {
            assert!(!filter.matches(&vec![0; len]), "there is nothing to be asked");
        }
        assert!(filter.matches(&[0; 14]));
        assert!(Filter::default().matches(&[]));
    }
}

//! TCP MSS clamping: a SYN announces the largest segments that its sender accepts. Where a path carries less
//! than its ends believe, and ICMP may be lost, the switch lowers the value in the SYN itself (RFC 4459 §3.2
//! explains the trade-off).
//!
//! The value in a SYN concerns packets in the other direction, and the value in the answer those in this
//! direction. The switch assumes that both directions of a path are equal, and uses the smaller MTU of
//! ingress and output.

use super::Pipeline;
use super::classify::{Admission, From};
use super::parse::{Headers, Net, Part};
use super::verdict::{Out, Verdict};
use crate::command::{PeerId, PortId};
use crate::frame::{Frame, FramePool};
use crate::wire::checksum::Delta;
use crate::wire::{ipv4, ipv6, l4, set_word, word};

/// TCP options (RFC 9293 §3.2).
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: usize = 4;

/// Lower bound of the MSS: every host accepts it (RFC 9293 §3.7.1, RFC 8200 §5).
const MSS_FLOOR_V4: u16 = 536;
const MSS_FLOOR_V6: u16 = 1220;

/// Whether this frame opens a TCP connection: SYN or SYN-ACK.
#[inline(always)]
pub(super) fn opens(h: &Headers, bytes: &[u8]) -> bool {
    h.proto == l4::TCP
        && h.l4 != 0
        && bytes.get(usize::from(h.l4) + l4::TCP_FLAGS_AT).is_some_and(|flags| flags & l4::TCP_SYN != 0)
}

impl<F> Pipeline<F> {
    /// Lowers the MSS of a new connection to the size that its path carries.
    #[cold]
    pub(super) fn clamp_mss<P: FramePool>(
        &self,
        adm: &Admission,
        h: &Headers,
        verdict: &Verdict,
        frame: &mut Frame,
        pool: &mut P,
    ) {
        let wanted = |n: &crate::table::network::Network| n.config.mss_clamp;
        if h.part != Part::Whole || !self.tables.networks.get(verdict.vni).is_none_or(wanted) {
            return;
        }
        let came = match adm.from {
            From::Port(port) => self.port_mtu(port),
            From::Peer(peer, _) => self.tunnel_mtu(peer),
            From::Underlay => self.tables.uplink.as_ref().map(|u| u.mtu),
        };
        let goes = match verdict.out {
            Out::Port(port) => self.port_mtu(port),
            Out::Peer(peer) => self.tunnel_mtu(peer),
            Out::Flood => self.flood_mtu(verdict),
            _ => None,
        };
        let partial = frame.offload.csum_partial();
        if let Some(mtu) = came.into_iter().chain(goes).min() {
            clamp(pool.bytes_mut(frame), h, mtu, partial);
        }
    }

    fn port_mtu(&self, id: PortId) -> Option<u16> {
        Some(self.tables.ports.get(id)?.config.mtu)
    }

    /// The largest inner IP packet that reaches a peer unfragmented.
    pub(super) fn tunnel_mtu(&self, id: PeerId) -> Option<u16> {
        let direct = self.tables.peers.get(id)?.direct?;
        let peer = self.tables.peers.get(direct)?;
        // Unresolved peers have no outer header. For some peers, larger packets are fragmented.
        let whole = peer.outer.len > 0 && !peer.config.fragment;
        peer.outer.mtu.checked_sub(peer.outer.len as u16).filter(|_| whole)
    }

    /// The largest IP packet that every member of the verdict's network takes.
    pub(super) fn flood_mtu(&self, verdict: &Verdict) -> Option<u16> {
        let network = self.tables.networks.get(verdict.vni)?;
        let ports = network.ports.iter().filter_map(|&p| self.port_mtu(p));
        ports.chain(network.peers.iter().filter_map(|&(p, _)| self.tunnel_mtu(p))).min()
    }
}

/// Lowers the MSS option of the TCP header at `h.l4` to fit an IP packet of `mtu` bytes, and corrects the
/// checksum. A partial checksum does not cover the header yet.
fn clamp(bytes: &mut [u8], h: &Headers, mtu: u16, partial: bool) {
    let (ip_len, floor) = match h.net {
        Net::V4 => (ipv4::HEADER_LEN, MSS_FLOOR_V4),
        Net::V6 => (ipv6::HEADER_LEN, MSS_FLOOR_V6),
        _ => return,
    };
    let most = mtu.saturating_sub((ip_len + l4::TCP_HEADER_LEN) as u16).max(floor);
    let at = usize::from(h.l4);
    let Some(tcp) = bytes.get_mut(at..at + usize::from(h.l4_len)) else { return };
    let header_len = usize::from(tcp[l4::TCP_DATA_OFFSET_AT] >> 4) * 4;
    let Some(header) = tcp.get_mut(..header_len) else { return };
    let Some(value_at) = mss_at(header) else { return };
    let old = word(header, value_at);
    if old <= most {
        return;
    }
    set_word(header, value_at, most);
    if !partial {
        // At an odd offset the value straddles two of the words that are summed.
        let (old, new) = if value_at % 2 == 0 { (old, most) } else { (old.swap_bytes(), most.swap_bytes()) };
        let sum = word(header, l4::TCP_CHECKSUM_AT);
        set_word(header, l4::TCP_CHECKSUM_AT, Delta::ZERO.word(old, new).apply(sum));
    }
}

/// Offset of the value of the MSS option in a TCP header.
fn mss_at(header: &[u8]) -> Option<usize> {
    let mut at = l4::TCP_HEADER_LEN;
    loop {
        match *header.get(at)? {
            END => return None,
            NOP => at += 1,
            MSS => return (header.get(at + 1) == Some(&4) && header.len() >= at + MSS_LEN).then_some(at + 2),
            _ => {
                let len = usize::from(*header.get(at + 1)?);
                if len < 2 {
                    return None;
                }
                at += len;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::parse;
    use crate::wire::checksum::{self, transport_ok};
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// A SYN with these options and a right or partial checksum.
    fn syn(v6: bool, options: &[u8], partial: bool) -> Vec<u8> {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), END);
        let tcp_len = l4::TCP_HEADER_LEN + options.len();
        let mut f = vec![2u8; 12];
        if v6 {
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, tcp_len as u8, l4::TCP, 64]);
            f.extend([0xfd; 32]);
        } else {
            f.extend([8, 0, 0x45, 0, 0, (20 + tcp_len) as u8, 0, 0, 0x40, 0, 64, l4::TCP, 0, 0]);
            f.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        }
        let at = f.len();
        f.extend([
            0,
            80,
            0x9c,
            0x40,
            0,
            0,
            0,
            1,
            0,
            0,
            0,
            0,
            ((tcp_len / 4) as u8) << 4,
            2,
            0xff,
            0xff,
            0,
            0,
            0,
            0,
        ]);
        f.extend(&options);
        let h = read(&f);
        let pseudo = checksum::pseudo(h.src, h.dst, l4::TCP, tcp_len as u32);
        set_word(&mut f, at + 16, pseudo);
        if !partial {
            let value = !checksum::sum(&f[at..]);
            set_word(&mut f, at + 16, value);
        }
        f
    }

    fn read(f: &[u8]) -> Headers {
        let mut h = Headers::default();
        parse::ethernet(f, 0, &mut h).unwrap();
        assert!(h.l4 != 0 || f.len() < 54);
        h
    }

    fn mss(f: &[u8]) -> Option<u16> {
        let at = usize::from(read(f).l4);
        mss_at(&f[at..]).map(|i| word(f, at + i))
    }

    #[test]
    fn literal() {
        for (v6, mtu, expected) in
            [(false, 1450, 1410), (true, 1450, 1390), (false, 300, 536), (true, 300, 1220)]
        {
            let mut f = syn(v6, &[2, 4, 0x05, 0xb4], false);
            let h = read(&f);
            assert!(opens(&h, &f));
            clamp(&mut f, &h, mtu, false);
            assert_eq!(mss(&f), Some(expected));
            let at = usize::from(h.l4);
            assert!(transport_ok(h.src, h.dst, l4::TCP, &f[at..]));
            clamp(&mut f, &h, 9000, false);
            assert_eq!(mss(&f), Some(expected), "it is never raised");
        }
    }

    #[test]
    fn partial_checksums_stay() {
        let mut f = syn(false, &[2, 4, 0x05, 0xb4], true);
        let h = read(&f);
        let (at, before) = (usize::from(h.l4), word(&f, usize::from(h.l4) + 16));
        clamp(&mut f, &h, 1400, true);
        assert_eq!((mss(&f), word(&f, at + 16)), (Some(1360), before));
        let value = !checksum::sum(&f[at..]);
        set_word(&mut f, at + 16, value);
        assert!(transport_ok(h.src, h.dst, l4::TCP, &f[at..]), "finished later, it is right");
    }

    proptest! {
        /// With any options at any offset: a right checksum stays right, only the value and the checksum
        /// change, and other options stay unchanged.
        #[test]
        fn any_options(v6: bool, nops in 0usize..8, junk in proptest::collection::vec(any::<u8>(), 0..16),
                       value: u16, with: bool, mtu in 68u16..9000) {
            let mut options = vec![NOP; nops];
            if with { options.extend([2, 4, (value >> 8) as u8, value as u8]); }
            options.extend(&junk);
            let mut f = syn(v6, &options, false);
            let (h, before) = (read(&f), f.clone());
            let at = usize::from(h.l4);
            clamp(&mut f, &h, mtu, false);
            prop_assert!(transport_ok(h.src, h.dst, l4::TCP, &f[at..]));
            let headers = if v6 { 60 } else { 40 };
            let floor = if v6 { MSS_FLOOR_V6 } else { MSS_FLOOR_V4 };
            if with {
                prop_assert_eq!(mss(&f), Some(value.min(mtu.saturating_sub(headers).max(floor))));
            }
            let value_at = mss_at(&before[at..]).map(|i| at + i);
            for (i, (was, is)) in before.iter().zip(&f).enumerate() {
                let may = value_at.is_some_and(|v| (v..v + 2).contains(&i)) || (at + 16..at + 18).contains(&i);
                prop_assert!(may || was == is, "byte {}", i);
            }
        }

        /// Options with any content, truncated anywhere, never panic.
        #[test]
        fn junk(bytes in proptest::collection::vec(any::<u8>(), 0..60), offset: u8) {
            let mut f = syn(false, &[2, 4, 0x05, 0xb4, 1, 1, 1, 0], false);
            let h = read(&f);
            let at = usize::from(h.l4) + 12;
            f[at] = offset;
            let n = bytes.len().min(f.len() - at - 8);
            f[at + 8..at + 8 + n].copy_from_slice(&bytes[..n]);
            clamp(&mut f, &h, 1400, false);
        }
    }
}

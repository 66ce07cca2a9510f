//! DHCP answers for guests: a guest whose address is bound to its port gets that address from the switch.
//!
//! This applies only to networks that ask for it, and there only to guest ports with a bound address in one
//! of the network's prefixes. All other questions are switched like any frame, to a DHCP server elsewhere.
//! The switch keeps no leases: the binding is the lease, so an answer is a function of the question and the
//! configuration, and a restart forgets nothing. A malformed question from a guest is dropped as
//! `dhcp-malformed`.
//!
//! A guest that boots from the network also needs the name of a file and of its server. These come from the
//! configuration or else from a boot server on the network, which adds only these to our answer (a proxyDHCP
//! server, PXE 2.1 §2.2.3). The question of such a guest is also flooded to every port that is not a guest's.

mod v4;
mod v6;

use arrayvec::ArrayVec;

use super::parse::{Headers, Net, Part};
use super::verdict::{Out, Responder};
use crate::command::{DhcpConfig, IpPrefix};
use crate::counters::DropReason;
use crate::table::network::Network;
use crate::table::port::PortEntry;
use crate::wire::ip::Ip;
use crate::wire::mac::MacAddr;
use crate::wire::{checksum, ethernet, ipv4, ipv6, l4};

/// Maximum length of an answer's message, in bytes. Every DHCPv4 client accepts this (RFC 2131 §2: a packet
/// of 576 bytes).
const MESSAGE_LEN_MAX: usize = 576 - ipv4::HEADER_LEN - l4::UDP_HEADER_LEN;
/// Maximum length of an answer's frame, in bytes.
const ANSWER_LEN_MAX: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + l4::UDP_HEADER_LEN + MESSAGE_LEN_MAX;
/// Lease time in seconds. A guest asks again when half of that time has passed.
const LEASE: u32 = 3600;

/// A DHCP message.
type Message = ArrayVec<u8, MESSAGE_LEN_MAX>;
/// A whole frame that answers a question.
pub type Answer = ArrayVec<u8, ANSWER_LEN_MAX>;

/// The outcome of a guest's DHCP frame.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time, on the stack")]
pub enum Outcome {
    /// Send this answer; and whether boot servers also get the question.
    Answer(Answer, bool),
    /// The frame needs no answer.
    Consume,
    /// The frame is malformed.
    Drop(DropReason),
}

/// The outcome of a DHCP message.
#[allow(clippy::large_enum_variant, reason = "there is one at a time, on the stack")]
enum Judged {
    /// Send this message from one address and UDP port to another. `boots`: boot servers also get the question.
    Answer { from: Ip, to: Ip, ports: (u16, u16), message: Message, boots: bool },
    /// The message needs no answer.
    Consume,
    /// The message is for another server.
    Elsewhere,
}

/// The output of a frame from a guest port, if the frame is a DHCP question for the switch. Cold, so that the
/// code for other frames stays small.
#[cold]
pub fn decide(network: &Network, port: &PortEntry, h: &Headers, bytes: &[u8]) -> Option<Out> {
    Some(match outcome(network, port, h, bytes)? {
        Outcome::Answer(_, boots) => Out::Hairpin(Responder::Dhcp { boots }),
        Outcome::Consume => Out::Consume,
        Outcome::Drop(reason) => Out::Drop(reason),
    })
}

/// The outcome of a frame from a guest port. `None` when the frame is not for the switch to answer.
#[must_use]
pub fn outcome(network: &Network, port: &PortEntry, h: &Headers, bytes: &[u8]) -> Option<Outcome> {
    let dhcp = network.config.dhcp.as_ref()?;
    let server = match h.net {
        Net::V4 => l4::DHCP_SERVER_PORT,
        Net::V6 => l4::DHCP6_SERVER_PORT,
        _ => return None,
    };
    if h.proto != l4::UDP || h.dport != server || h.part != Part::Whole || h.l4 == 0 {
        return None;
    }
    let (address, prefix) = bound(dhcp, port, h.net == Net::V4)?;
    let start = usize::from(h.l4) + l4::UDP_HEADER_LEN;
    let end = (usize::from(h.l4) + usize::from(h.l4_len)).min(bytes.len());
    let message = bytes.get(start..end).unwrap_or_default();
    let asker = Asker { network, dhcp, mtu: port.config.mtu, address, prefix, h };
    let judged = if h.net == Net::V4 { asker.v4(message) } else { asker.v6(message) };
    Some(match judged {
        None => Outcome::Drop(DropReason::DhcpMalformed),
        Some(Judged::Elsewhere) => return None,
        Some(Judged::Consume) => Outcome::Consume,
        Some(Judged::Answer { from, to, ports, message, boots }) => {
            let macs = (network.config.router_mac, h.eth_src);
            Outcome::Answer(frame(macs, (from, to), ports, &message)?, boots && h.eth_dst.is_multicast())
        }
    })
}

/// The port's first bound address of that family in one of the network's prefixes, with the prefix.
fn bound(dhcp: &DhcpConfig, port: &PortEntry, v4: bool) -> Option<(Ip, IpPrefix)> {
    let hosts = port
        .config
        .binding
        .ips
        .iter()
        .filter(|ip| **ip == IpPrefix::host(ip.addr) && ip.addr.is_ipv4() == v4);
    hosts.map(|ip| ip.addr).find_map(|ip| {
        let prefix = dhcp.prefixes.iter().find(|prefix| prefix.contains(ip))?;
        Some((ip.into(), *prefix))
    })
}

/// A guest that asks, and all inputs of its answer.
struct Asker<'a> {
    network: &'a Network,
    dhcp: &'a DhcpConfig,
    mtu: u16,
    address: Ip,
    prefix: IpPrefix,
    h: &'a Headers,
}

/// Wraps a message in UDP, IP and Ethernet, addressed to the guest.
fn frame(macs: (MacAddr, MacAddr), ips: (Ip, Ip), ports: (u16, u16), message: &[u8]) -> Option<Answer> {
    let (from, to) = ips;
    let udp_len = l4::UDP_HEADER_LEN + message.len();
    let mut frame = Answer::new();
    let mut put = |bytes: &[u8]| frame.try_extend_from_slice(bytes).ok();
    put(&macs.1.0)?;
    put(&macs.0.0)?;
    if from.is_v4() {
        put(&ethernet::TYPE_IPV4.to_be_bytes())?;
        let mut header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, l4::UDP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        header[2..4].copy_from_slice(&((ipv4::HEADER_LEN + udp_len) as u16).to_be_bytes());
        header[12..16].copy_from_slice(&from.v4_bytes());
        header[16..20].copy_from_slice(&to.v4_bytes());
        let sum = !checksum::sum(&header);
        header[ipv4::CHECKSUM_AT..ipv4::CHECKSUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
        put(&header)?;
    } else {
        put(&ethernet::TYPE_IPV6.to_be_bytes())?;
        let mut header = [0; ipv6::HEADER_LEN];
        (header[0], header[6], header[7]) = (0x60, l4::UDP, 64);
        header[4..6].copy_from_slice(&(udp_len as u16).to_be_bytes());
        header[8..24].copy_from_slice(&from.v6_bytes());
        header[24..40].copy_from_slice(&to.v6_bytes());
        put(&header)?;
    }
    for word in [ports.0, ports.1, udp_len as u16, 0] {
        put(&word.to_be_bytes())?;
    }
    put(message)?;
    let at = frame.len() - udp_len;
    let udp = frame.get_mut(at..)?;
    let sum = u32::from(checksum::pseudo(from, to, l4::UDP, udp_len as u32)) + u32::from(checksum::sum(udp));
    udp[6..8].copy_from_slice(&checksum::udp_nonzero(!checksum::fold(sum)).to_be_bytes());
    Some(frame)
}

//! The first decision about a frame that arrives on the uplink: it goes to the switch, or to the rVM's kernel. The
//! rules are those of the BPF programs (`dataplane/ivswitchd/bpf/steer.bpf.c`), repeated here for `trace`; a test of
//! these programs holds both to the same verdicts. One rule is missing here: whether a packet answers one that the
//! kernel itself has sent.

use std::net::IpAddr;

use engine::command::{L4Proto, L4Range};
use engine::wire::mac::MacAddr;

use crate::io::{SteerPlan, SteerReality};

/// The destination of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steering {
    /// The switch, as a tunnel packet.
    Tunnel,
    /// The switch, as a packet to this reality address, unless it answers a packet that the kernel itself has sent.
    Reality(IpAddr),
    /// The kernel, and why.
    Kernel(Why),
}

/// Why a frame goes to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The frame is not addressed to the uplink's own MAC address.
    OtherMac,
    /// The frame is neither IPv4 nor IPv6, has a VLAN tag, or is malformed.
    NoPacket,
    /// A tunnel packet of a network that a vxlan device of the kernel may have, on the same UDP port.
    OtherNetwork(u32),
    /// Its destination is neither our VTEP with the tunnel's port nor a reality address.
    OtherAddress(IpAddr),
    /// The port on a reality address belongs to the rVM itself.
    Port(IpAddr, L4Proto, u16),
    /// Only some ports of the address belong to a floating IP, and the packet has no port or is a fragment.
    NoPort(IpAddr),
    /// The packet keeps the address itself alive: DHCP, neighbour discovery or multicast listener discovery.
    Housekeeping,
    /// An ICMP error that does not concern a packet of a floating IP.
    ErrorOfKernel,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OtherMac => f.write_str("it is not for the uplink's own MAC address"),
            Self::NoPacket => f.write_str("it is not an untagged IP packet"),
            Self::OtherAddress(ip) => {
                write!(f, "{ip} is not a reality address, and it is not a tunnel packet to us")
            }
            Self::OtherNetwork(vni) => {
                write!(
                    f,
                    "VNI {vni} is no network here, and a vxlan device of the kernel's has the port, too"
                )
            }
            Self::Port(ip, proto, port) => {
                let proto = if *proto == L4Proto::Tcp { "tcp" } else { "udp" };
                write!(f, "{proto}/{port} of {ip} belongs to the rVM itself (`only`, `except`)")
            }
            Self::NoPort(ip) => {
                write!(f, "only some ports of {ip} belong to a floating IP, and the packet has no port")
            }
            Self::Housekeeping => f.write_str("DHCP and neighbour discovery keep the address itself alive"),
            Self::ErrorOfKernel => f.write_str("the error is about a packet of the kernel or of the tunnel"),
        }
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ETH_LEN: usize = 14;
/// The most extension headers; the BPF programs have the same limit.
const EXTENSIONS_MAX: usize = 6;

/// The fields of an IP header that steering needs.
struct Packet {
    source: IpAddr,
    dest: IpAddr,
    proto: u8,
    l4: usize,
    fragment: bool,
    first: bool,
}

/// The network of a tunnel packet.
fn vni(frame: &[u8], packet: &Packet) -> Option<u32> {
    let bytes = frame.get(packet.l4 + 12..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes) >> 8)
}

/// Decides where a frame goes first. `mac` is the uplink's own address.
#[must_use]
pub fn steer(plan: &SteerPlan, mac: MacAddr, frame: &[u8]) -> Steering {
    verdict(plan, mac, frame).unwrap_or_else(Steering::Kernel)
}

fn verdict(plan: &SteerPlan, mac: MacAddr, frame: &[u8]) -> Result<Steering, Why> {
    let header = frame.get(..ETH_LEN).ok_or(Why::NoPacket)?;
    if header[..6] != mac.0 || mac == MacAddr::ZERO {
        return Err(Why::OtherMac);
    }
    let v6 = match header[12..] {
        [0x08, 0x00] => false,
        [0x86, 0xdd] => true,
        _ => return Err(Why::NoPacket),
    };
    let packet = read(frame, ETH_LEN, v6).ok_or(Why::NoPacket)?;
    let ports = ports(frame, &packet);
    if let (UDP, Some((source, dest))) = (packet.proto, ports) {
        if plan.tunnel == Some((packet.dest, dest)) && dest != 0 {
            return match (&plan.vnis, vni(frame, &packet)) {
                // Path probes do not carry the number of a network.
                (Some(vnis), Some(vni)) if vni != 0 && !vnis.contains(&vni) => Err(Why::OtherNetwork(vni)),
                _ => Ok(Steering::Tunnel),
            };
        }
        if !v6 && (source, dest) == (67, 68) {
            return Err(Why::Housekeeping);
        }
    }
    let (mut proto, mut port) = (packet.proto, ports.map(|(_, dest)| dest).filter(|_| !packet.fragment));
    if !packet.fragment && proto == if v6 { 58 } else { 1 } {
        let kind = *frame.get(packet.l4).ok_or(Why::NoPacket)?;
        if v6 && matches!(kind, 130..=137 | 143) {
            return Err(Why::Housekeeping);
        }
        let error = if v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 4 | 5 | 11 | 12) };
        if error {
            let quoted = read(frame, packet.l4 + 8, v6).ok_or(Why::ErrorOfKernel)?;
            if quoted.source != packet.dest {
                return Err(Why::ErrorOfKernel);
            }
            proto = quoted.proto;
            if let Some((source, dest)) = self::ports(frame, &quoted) {
                if proto == UDP && plan.tunnel.is_some_and(|(_, tunnel)| tunnel == dest) {
                    return Err(Why::ErrorOfKernel);
                }
                port = Some(source);
            }
        }
    }
    let here: Vec<&SteerReality> = plan.reality.iter().filter(|r| r.address == packet.dest).collect();
    if here.is_empty() {
        return Err(Why::OtherAddress(packet.dest));
    }
    let proto = match proto {
        TCP => Some(L4Proto::Tcp),
        UDP => Some(L4Proto::Udp),
        _ => None,
    };
    let up = match proto.zip(port) {
        None => here.iter().any(|reality| reality.all),
        Some((proto, port)) => here.iter().any(|reality| {
            let is_in = |ranges: &[L4Range]| {
                ranges.iter().any(|r| r.proto == proto && (r.first..=r.last).contains(&port))
            };
            (reality.all || is_in(&reality.ports)) && !is_in(&reality.except)
        }),
    };
    match proto.zip(port) {
        _ if up => Ok(Steering::Reality(packet.dest)),
        Some((proto, port)) => Err(Why::Port(packet.dest, proto, port)),
        None => Err(Why::NoPort(packet.dest)),
    }
}

/// The source and destination port, if the packet has them.
fn ports(frame: &[u8], packet: &Packet) -> Option<(u16, u16)> {
    let bytes = frame.get(packet.l4..packet.l4 + 4).filter(|_| packet.first)?;
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    matches!(packet.proto, TCP | UDP).then(|| (port(0), port(2)))
}

/// Reads the IP header at `at`.
fn read(frame: &[u8], at: usize, v6: bool) -> Option<Packet> {
    if !v6 {
        let ip: &[u8; 20] = frame.get(at..)?.first_chunk()?;
        let header_len = usize::from(ip[0] & 15) * 4;
        if ip[0] >> 4 != 4 || header_len < 20 {
            return None;
        }
        let fragment = u16::from_be_bytes([ip[6], ip[7]]);
        let address = |at: usize| IpAddr::from([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
        return Some(Packet {
            source: address(12),
            dest: address(16),
            proto: ip[9],
            l4: at + header_len,
            fragment: fragment & 0x3fff != 0,
            first: fragment & 0x1fff == 0,
        });
    }
    let ip: &[u8; 40] = frame.get(at..)?.first_chunk()?;
    if ip[0] >> 4 != 6 {
        return None;
    }
    let address = |at: usize| ip[at..at + 16].first_chunk().map(|bytes: &[u8; 16]| IpAddr::from(*bytes));
    let (source, dest) = (address(8)?, address(24)?);
    let mut packet = Packet { source, dest, proto: ip[6], l4: at + 40, fragment: false, first: true };
    for count in 0..=EXTENSIONS_MAX {
        // Hop-by-hop, routing, fragment and destination options (RFC 8200 s.4).
        if !matches!(packet.proto, 0 | 43 | 44 | 60) {
            break;
        }
        let extension: &[u8; 8] = frame.get(packet.l4..)?.first_chunk()?;
        if count == EXTENSIONS_MAX {
            return None;
        }
        if packet.proto == 44 {
            let fragment = u16::from_be_bytes([extension[2], extension[3]]);
            packet.fragment |= fragment & 0xfff9 != 0;
            packet.first &= fragment & 0xfff8 == 0;
            packet.l4 += 8;
        } else {
            packet.l4 += 8 + usize::from(extension[1]) * 8;
        }
        packet.proto = extension[0];
        if !packet.first {
            break;
        }
    }
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any bytes can be read without harm. (Another test compares the verdicts with those of the BPF programs.)
    #[test]
    fn cut_frames_are_the_kernels() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let address: IpAddr = "10.0.0.11".parse().unwrap();
        let except = vec![L4Range { proto: L4Proto::Tcp, first: 22, last: 22 }];
        let plan = SteerPlan {
            tunnel: Some((address, 4789)),
            vnis: None,
            reality: vec![SteerReality { address, all: true, ports: vec![], except }],
        };
        let mut frame =
            [&mac.0[..], &[2, 0, 0, 0, 0, 2], &[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]].concat();
        frame.extend([203, 0, 113, 9, 10, 0, 0, 11, 0x9c, 0x40, 0, 22]);
        let ssh = Steering::Kernel(Why::Port(address, L4Proto::Tcp, 22));
        assert_eq!(steer(&plan, mac, &frame), ssh);
        frame[37] = 80;
        assert_eq!(steer(&plan, mac, &frame), Steering::Reality(address));
        for len in 0..34 {
            assert!(matches!(steer(&plan, mac, &frame[..len]), Steering::Kernel(_)), "{len}");
        }
        assert_eq!(steer(&plan, MacAddr([2; 6]), &frame), Steering::Kernel(Why::OtherMac));
        assert_eq!(steer(&SteerPlan::default(), MacAddr::ZERO, &[0; 60]), Steering::Kernel(Why::OtherMac));
    }
}

//! Which frames of the uplink reach the switch: the plan, applied as the XDP program applies it
//! (`dataplane/ivswitchd/bpf/steer.bpf.c`), so that a scenario sees the frames that the kernel keeps.

use ctl::io::{SteerPlan, SteerReality};
use engine::command::L4Range;
use engine::wire::mac::MacAddr;

use crate::packet::{self, ParsedIp};

/// Whether a frame that arrives at the NIC `mac` is steered up to the switch.
#[must_use]
pub fn goes_up(plan: &SteerPlan, mac: MacAddr, frame: &[u8]) -> bool {
    let Some(p) = packet::parse(frame) else { return false };
    let (true, true, Some(ip)) = (p.dst == mac, p.tags.is_empty(), p.ip) else { return false };
    let ports = packet::l4_ports(frame, &ip);
    if ip.proto == packet::UDP
        && let Some((sport, dport)) = ports
    {
        if plan.tunnel == Some((ip.dst, dport)) {
            return true;
        }
        if ip.dst.is_ipv4() && (sport, dport) == (67, 68) {
            return false;
        }
    }
    let (mut proto, mut port) = (ip.proto, None);
    if ip.is_fragment() {
        // Address and protocol decide.
    } else if ports.is_some() {
        port = ports.map(|p| p.1);
    } else if matches!(ip.proto, packet::ICMP | packet::ICMPV6) {
        let Some(&kind) = frame[..ip.end].get(ip.l4) else { return false };
        let v6 = ip.proto == packet::ICMPV6;
        if ip.end < ip.l4 + 8 || v6 && (matches!(kind, 130..=137) || kind == 143) {
            return false;
        }
        if if v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 4 | 5 | 11 | 12) } {
            let Some(quoted) = quoted_ip(frame, ip.l4 + 8).filter(|q| q.src == ip.dst) else { return false };
            proto = quoted.proto;
            if matches!(proto, packet::TCP | packet::UDP)
                && quoted.frag_offset == 0
                && let Some(b) = frame.get(quoted.l4..quoted.l4 + 4)
            {
                let of = |at: usize| u16::from_be_bytes([b[at], b[at + 1]]);
                if proto == packet::UDP && plan.tunnel.is_some_and(|t| t.1 == of(2)) {
                    return false;
                }
                port = Some(of(0));
            }
        }
    }
    plan.reality.iter().any(|r| r.address == ip.dst && takes(r, proto, port))
}

fn takes(r: &SteerReality, proto: u8, port: Option<u16>) -> bool {
    let within =
        |ranges: &[L4Range]| port.is_some_and(|n| ranges.iter().any(|range| range.contains(proto, n)));
    (r.all || within(&r.ports)) && !within(&r.except)
}

/// Parses a quoted packet. It is cut short, so its length field says more than there is.
fn quoted_ip(frame: &[u8], at: usize) -> Option<ParsedIp> {
    let mut whole = frame.get(at..)?.to_vec();
    let claimed = match whole.first()? >> 4 {
        4 => usize::from(u16::from_be_bytes([*whole.get(2)?, *whole.get(3)?])),
        _ => 40 + usize::from(u16::from_be_bytes([*whole.get(4)?, *whole.get(5)?])),
    };
    whole.resize(claimed.max(whole.len()), 0);
    let mut ip = packet::parse_ip(&whole, 0)?;
    ip.l4 += at;
    ip.end = frame.len().min(ip.end + at);
    Some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::command::L4Proto;
    use std::net::IpAddr;

    #[test]
    fn the_kernel_keeps_what_is_its_own() {
        let a = |s: &str| s.parse::<IpAddr>().unwrap();
        let (us, them) = (a("10.0.0.11"), a("8.8.8.8"));
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let ssh = L4Range { proto: L4Proto::Tcp, first: 22, last: 22 };
        let reality = SteerReality { address: us, all: true, ports: vec![], except: vec![ssh] };
        let plan = SteerPlan { tunnel: Some((us, 4789)), vnis: None, reality: vec![reality] };
        let up = |packet: &[u8]| goes_up(&plan, mac, &packet::eth_ip(mac, MacAddr([2; 6]), packet));
        let udp = |s, d| packet::ip(them, us, packet::UDP, &packet::udp(them, us, s, d, b"x"));
        let tcp = |s, d| packet::ip(them, us, packet::TCP, &packet::tcp(them, us, s, d, 2, b""));
        assert!(
            up(&udp(1, 4789))
                && up(&udp(1, 53))
                && up(&tcp(1, 80))
                && up(&packet::echo(them, us, false, 1, 1, b""))
        );
        assert!(!up(&tcp(1, 22)), "SSH stays");
        assert!(!up(&udp(67, 68)), "the lease stays");
        let quoted = |sport| {
            packet::ip(us, them, packet::TCP, &packet::tcp(us, them, sport, 9, 2, b""))[..28].to_vec()
        };
        let error = |sport| packet::ip(them, us, packet::ICMP, &packet::icmp(3, 3, [0; 4], &quoted(sport)));
        assert!(up(&error(80)) && !up(&error(22)), "an error goes where its flow lives");
        assert!(!goes_up(&SteerPlan::default(), mac, &packet::eth_ip(mac, mac, &udp(1, 4789))));
    }
}

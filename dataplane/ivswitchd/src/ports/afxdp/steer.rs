//! A steering plan as entries of the XDP program's longest-prefix-match table. Pure.
//!
//! A key is an address (16 bytes, IPv4 mapped), a protocol, a zero and a port, 160 bits; an entry covers the
//! first 128 (the address), or 144 to 160 (some ports of a protocol). A range of ports is split into the
//! fewest aligned blocks that are prefixes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ctl::io::{SteerPlan, SteerReality};
use engine::command::{L4Proto, L4Range};
use engine::wire::mac::MacAddr;

use crate::ports::own::Mix;

/// Bits of a key that are the address.
const BITS_ADDRESS: u32 = 128;

/// Bits of a key in front of the port.
const BITS_BEFORE_PORT: u32 = 144;

/// A key of the table: how many bits count, and the bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SteerKey {
    /// Leading bits that count.
    pub prefix_len: u32,
    /// Address, protocol, zero, port.
    pub bits: [u8; 20],
}

/// Entries by key: true takes the packet up, false leaves it to the kernel.
pub type SteerEntries = BTreeMap<SteerKey, bool>;

/// Ports as sorted, separate ranges with both ends included.
type Ports = Vec<(u16, u16)>;

/// The table's form of an address.
#[must_use]
pub fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Bytes of the programs' `struct config`.
pub const CONFIG_LEN: usize = 88;

/// The `struct config` of the programs. `own`: the hash keys of the kernel's own flows, if those are noted.
#[must_use]
pub fn config(plan: &SteerPlan, mac: MacAddr, own: Option<Mix>) -> [u8; CONFIG_LEN] {
    let mut config = [0; CONFIG_LEN];
    config[..6].copy_from_slice(&mac.0);
    if let Some((address, port)) = plan.tunnel {
        config[6..8].copy_from_slice(&port.to_be_bytes());
        config[8..24].copy_from_slice(&mapped(address));
    }
    if let Some(mix) = own {
        for (at, word) in [1].into_iter().chain(mix).enumerate() {
            config[24 + at * 8..32 + at * 8].copy_from_slice(&word.to_ne_bytes());
        }
    }
    config[80] = u8::from(plan.vnis.is_some());
    config
}

/// The table's entries for a plan. If several parts of the plan name one address, a packet that any of them
/// takes up goes up.
#[must_use]
pub fn entries(plan: &SteerPlan) -> SteerEntries {
    let mut by_address: BTreeMap<[u8; 16], Vec<&SteerReality>> = BTreeMap::new();
    for reality in &plan.reality {
        by_address.entry(mapped(reality.address)).or_default().push(reality);
    }
    let mut entries = SteerEntries::new();
    for (address, realities) in by_address {
        let all = realities.iter().any(|reality| reality.all);
        if all {
            entries.insert(key(address, BITS_ADDRESS, 0, 0), true);
        }
        for proto in [L4Proto::Tcp, L4Proto::Udp] {
            let up = union(realities.iter().flat_map(|reality| ports_up(reality, proto)).collect());
            // If the whole address goes up, only the exceptions need entries, and the other way round.
            let special = if all { subtract(vec![(0, u16::MAX)], &up) } else { up };
            for (first, last) in special {
                for (port, len) in prefixes(first, last) {
                    entries.insert(key(address, BITS_BEFORE_PORT + len, proto as u8, port), !all);
                }
            }
        }
    }
    entries
}

fn key(address: [u8; 16], prefix_len: u32, proto: u8, port: u16) -> SteerKey {
    let mut bits = [0; 20];
    bits[..16].copy_from_slice(&address);
    bits[16] = proto;
    bits[18..].copy_from_slice(&port.to_be_bytes());
    SteerKey { prefix_len, bits }
}

/// The ports of `proto` that one part of the plan takes up.
fn ports_up(reality: &SteerReality, proto: L4Proto) -> Ports {
    let of = |ranges: &[L4Range]| {
        union(ranges.iter().filter(|range| range.proto == proto).map(|r| (r.first, r.last)).collect())
    };
    let wanted = if reality.all { vec![(0, u16::MAX)] } else { of(&reality.ports) };
    subtract(wanted, &of(&reality.except))
}

/// Sorts ranges and joins those that touch. Ranges that end before they start are empty.
fn union(mut ranges: Ports) -> Ports {
    ranges.retain(|(first, last)| first <= last);
    ranges.sort_unstable();
    let mut joined: Ports = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if u32::from(first) <= u32::from(before.1) + 1 => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// Subtracts `holes` from `ranges`; both are sorted and separate.
fn subtract(ranges: Ports, holes: &Ports) -> Ports {
    let mut left = Ports::new();
    for (first, last) in ranges {
        let mut from = u32::from(first);
        for &(hole_first, hole_last) in holes {
            if hole_last < first || hole_first > last {
                continue;
            }
            if u32::from(hole_first) > from {
                left.push((from as u16, hole_first - 1));
            }
            from = u32::from(hole_last) + 1;
        }
        if from <= u32::from(last) {
            left.push((from as u16, last));
        }
    }
    left
}

/// Splits a range of ports into the fewest prefixes: each a first port and the number of bits that count.
pub fn prefixes(first: u16, last: u16) -> Vec<(u16, u32)> {
    let (mut from, end) = (u32::from(first), u32::from(last) + 1);
    let mut prefixes = Vec::new();
    while from < end {
        // The largest block that starts here: aligned to its length, and not beyond the end.
        let aligned = if from == 0 { 16 } else { from.trailing_zeros().min(16) };
        let fits = (end - from).ilog2();
        let bits = aligned.min(fits);
        prefixes.push((from as u16, 16 - bits));
        from += 1 << bits;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer of the kernel's table, found by a slow search.
    fn lookup(entries: &SteerEntries, address: IpAddr, proto: u8, port: Option<u16>) -> bool {
        let wanted = key(mapped(address), 0, proto, port.unwrap_or(0)).bits;
        let bits = if port.is_some() { 160 } else { 136 };
        let covers = |k: &SteerKey| {
            k.prefix_len <= bits
                && (0..k.prefix_len as usize)
                    .all(|bit| (k.bits[bit / 8] ^ wanted[bit / 8]) & (0x80 >> (bit % 8)) == 0)
        };
        entries.iter().filter(|(k, _)| covers(k)).max_by_key(|(k, _)| k.prefix_len).is_some_and(|(_, up)| *up)
    }

    fn range(proto: L4Proto, first: u16, last: u16) -> L4Range {
        L4Range { proto, first, last }
    }

    #[test]
    fn prefixes_cover_the_range_and_nothing_else() {
        assert_eq!(prefixes(0, u16::MAX), [(0, 0)]);
        assert_eq!(prefixes(22, 22), [(22, 16)]);
        assert_eq!(prefixes(5000, 5010), [(5000, 13), (5008, 15), (5010, 16)]);
        assert_eq!(prefixes(1, u16::MAX).len(), 16);
        assert_eq!(prefixes(1, u16::MAX - 1).len(), 30);
        let mut state = 1_u32;
        for _ in 0..300 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (a, b) = ((state >> 16) as u16, state as u16);
            let (first, last) = (a.min(b), a.max(b));
            let mut next = u32::from(first);
            for (port, len) in prefixes(first, last) {
                assert_eq!(u32::from(port), next, "{first}-{last}: a gap or an overlap");
                assert_eq!(u32::from(port) % (1 << (16 - len)), 0, "{first}-{last}: not a prefix");
                next += 1 << (16 - len);
            }
            assert_eq!(next, u32::from(last) + 1);
        }
    }

    #[test]
    fn sets_of_ports() {
        assert_eq!(union(vec![(5, 9), (1, 2), (3, 4), (8, 20), (30, 29)]), [(1, 20)]);
        assert_eq!(union(vec![(0, u16::MAX), (7, 7)]), [(0, u16::MAX)]);
        let all = || vec![(0, u16::MAX)];
        assert_eq!(subtract(all(), &vec![(0, 9), (20, u16::MAX)]), [(10, 19)]);
        assert_eq!(subtract(all(), &all()), []);
        assert_eq!(subtract(vec![(10, 20)], &vec![(20, 30)]), [(10, 19)]);
    }

    #[test]
    fn a_whole_address_less_its_exceptions() {
        let address: IpAddr = "10.0.0.11".parse().unwrap();
        let except = vec![range(L4Proto::Tcp, 22, 22), range(L4Proto::Udp, 5000, 5010)];
        let plan = SteerPlan {
            tunnel: None,
            vnis: None,
            reality: vec![SteerReality { address, all: true, ports: vec![], except }],
        };
        let entries = entries(&plan);
        assert!(lookup(&entries, address, 1, None), "echo goes up");
        assert!(lookup(&entries, address, 47, None));
        for port in [0, 21, 23, 5000, 5005, u16::MAX] {
            assert!(lookup(&entries, address, 6, Some(port)), "tcp {port}");
        }
        assert!(!lookup(&entries, address, 6, Some(22)));
        for port in 4990..5020 {
            assert_eq!(lookup(&entries, address, 17, Some(port)), !(5000..=5010).contains(&port), "{port}");
        }
        assert!(!lookup(&entries, "10.0.0.12".parse().unwrap(), 6, Some(80)));
    }

    #[test]
    fn some_ports_of_an_address_that_several_share() {
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        let reality =
            |ports: Vec<L4Range>, except: Vec<L4Range>| SteerReality { address, all: false, ports, except };
        let plan = SteerPlan {
            tunnel: None,
            vnis: None,
            reality: vec![
                reality(vec![range(L4Proto::Tcp, 80, 90)], vec![range(L4Proto::Tcp, 85, 85)]),
                reality(vec![range(L4Proto::Tcp, 443, 443), range(L4Proto::Udp, 443, 443)], vec![]),
            ],
        };
        let entries = entries(&plan);
        for port in 0..=u16::MAX {
            let up = (80..=90).contains(&port) && port != 85 || port == 443;
            if !(1000..=65_000).contains(&port) {
                assert_eq!(lookup(&entries, address, 6, Some(port)), up, "tcp {port}");
            }
        }
        assert!(lookup(&entries, address, 17, Some(443)));
        assert!(!lookup(&entries, address, 17, Some(80)));
        assert!(!lookup(&entries, address, 58, None), "echo stays with the kernel");
        assert!(!lookup(&entries, address, 6, None), "fragments stay with the kernel");
    }

    #[test]
    fn an_exception_of_one_mapping_does_not_take_from_another() {
        let address: IpAddr = "10.0.0.11".parse().unwrap();
        let plan = SteerPlan {
            tunnel: None,
            vnis: None,
            reality: vec![
                SteerReality { address, all: true, ports: vec![], except: vec![range(L4Proto::Tcp, 1, 100)] },
                SteerReality {
                    address,
                    all: false,
                    ports: vec![range(L4Proto::Tcp, 80, 80)],
                    except: vec![],
                },
            ],
        };
        let entries = entries(&plan);
        assert!(lookup(&entries, address, 6, Some(80)));
        assert!(!lookup(&entries, address, 6, Some(79)));
        assert!(lookup(&entries, address, 6, Some(101)));
    }

    #[test]
    fn the_config_is_laid_out_as_the_program_reads_it() {
        let plan =
            SteerPlan { tunnel: Some(("10.0.0.11".parse().unwrap(), 4789)), vnis: None, reality: vec![] };
        let with = config(&plan, MacAddr([2, 0, 0, 0, 0, 1]), Some([3, 5, 7, 9, 11, 13]));
        let word = |at: usize| u64::from_ne_bytes(with[at..at + 8].try_into().unwrap());
        assert_eq!([24, 32, 72].map(word), [1, 3, 13]);
        let config = config(&plan, MacAddr([2, 0, 0, 0, 0, 1]), None);
        assert_eq!(config[..8], [2, 0, 0, 0, 0, 1, 0x12, 0xb5]);
        assert_eq!(config[24..], [0; 64]);
        let shared = SteerPlan { vnis: Some([100].into()), ..plan };
        assert_eq!(super::config(&shared, MacAddr::ZERO, None)[80..], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(config[8..24], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 11]);
    }
}

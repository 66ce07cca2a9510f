//! Sets of transport ports, to detect whether two floating-IP mappings overlap.

use engine::command::{L4Proto, L4Range};

use super::Ports;

/// The packets that a mapping takes: for each protocol a sorted list of disjoint ranges, and all packets without
/// ports (ICMP and the rest).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortSet {
    tcp: Vec<(u16, u16)>,
    udp: Vec<(u16, u16)>,
    /// Whether the set includes protocols without ports.
    pub others: bool,
}

impl PortSet {
    /// The packets of a mapping with these `only` and `except` lists: everything when `only` is empty.
    #[must_use]
    pub fn new(only: &[Ports], except: &[Ports]) -> Self {
        let side = |proto| {
            let pick = |list: &[Ports]| {
                list.iter().filter(|p| p.0.proto == proto).map(|p| (p.0.first, p.0.last)).collect::<Vec<_>>()
            };
            let base = if only.is_empty() { vec![(0, u16::MAX)] } else { pick(only) };
            subtract(&merge(base), &merge(pick(except)))
        };
        Self { tcp: side(L4Proto::Tcp), udp: side(L4Proto::Udp), others: only.is_empty() }
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.udp.is_empty() && !self.others
    }

    /// Adds all packets of another set.
    pub fn add(&mut self, other: &Self) {
        self.tcp = merge(self.tcp.iter().chain(&other.tcp).copied().collect());
        self.udp = merge(self.udp.iter().chain(&other.udp).copied().collect());
        self.others |= other.others;
    }

    /// A port that both sets contain, as text for people, or `None` when they do not overlap.
    #[must_use]
    pub fn common(&self, other: &Self) -> Option<String> {
        if self.others && other.others {
            return Some("everything".to_owned());
        }
        let meet = |a: &[(u16, u16)], b: &[(u16, u16)]| {
            let (mut i, mut j) = (0, 0);
            while i < a.len() && j < b.len() {
                let low = a[i].0.max(b[j].0);
                if low <= a[i].1.min(b[j].1) {
                    return Some(low);
                }
                if a[i].1 < b[j].1 { i += 1 } else { j += 1 }
            }
            None
        };
        meet(&self.tcp, &other.tcp)
            .map(|p| format!("tcp/{p}"))
            .or_else(|| meet(&self.udp, &other.udp).map(|p| format!("udp/{p}")))
    }

    /// The port ranges in the set.
    #[must_use]
    pub fn ranges(&self) -> Vec<L4Range> {
        let of = |proto, list: &[(u16, u16)]| {
            list.iter().map(move |&(first, last)| L4Range { proto, first, last }).collect::<Vec<_>>()
        };
        let mut all = of(L4Proto::Tcp, &self.tcp);
        all.extend(of(L4Proto::Udp, &self.udp));
        all
    }

    /// The port ranges that the set does not contain.
    #[must_use]
    pub fn gaps(&self) -> Vec<L4Range> {
        let whole = [(0, u16::MAX)];
        Self { tcp: subtract(&whole, &self.tcp), udp: subtract(&whole, &self.udp), others: false }.ranges()
    }
}

/// Sorts ranges, and joins those that touch.
fn merge(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// The part of `base` that is not in `minus`; both must be sorted and disjoint.
fn subtract(base: &[(u16, u16)], minus: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut left = Vec::new();
    for &(first, last) in base {
        let mut from = u32::from(first);
        let last = u32::from(last);
        for &(a, b) in minus {
            let (a, b) = (u32::from(a), u32::from(b));
            if b < from || a > last {
                continue;
            }
            if a > from {
                left.push((from as u16, (a - 1) as u16));
            }
            from = b + 1;
        }
        if from <= last {
            left.push((from as u16, last as u16));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ports() -> impl Strategy<Value = Vec<Ports>> {
        // Use few distinct ports, and both ends of the range, so that ranges often touch and overlap.
        let port = prop_oneof![0u16..12, Just(u16::MAX), Just(u16::MAX - 1)];
        prop::collection::vec((any::<bool>(), port.clone(), port), 0..5).prop_map(|list| {
            let proto = |tcp| if tcp { L4Proto::Tcp } else { L4Proto::Udp };
            list.into_iter()
                .map(|(tcp, a, b)| Ports(L4Range { proto: proto(tcp), first: a.min(b), last: a.max(b) }))
                .collect()
        })
    }

    fn holds(only: &[Ports], except: &[Ports], proto: u8, port: u16) -> bool {
        (only.is_empty() || only.iter().any(|p| p.0.contains(proto, port)))
            && !except.iter().any(|p| p.0.contains(proto, port))
    }

    proptest! {
        /// The set, its gaps and its overlap with another agree with a test of each single port.
        #[test]
        fn agrees_with_asking_port_by_port(a in ports(), b in ports(), c in ports(), d in ports()) {
            let (x, y) = (PortSet::new(&a, &b), PortSet::new(&c, &d));
            let mut both = x.clone();
            both.add(&y);
            let (mut any, mut empty) = (x.others && y.others, !x.others);
            for proto in [6, 17] {
                for port in (0..16).chain(u16::MAX - 3..=u16::MAX) {
                    let (in_x, in_y) = (holds(&a, &b, proto, port), holds(&c, &d, proto, port));
                    any |= in_x && in_y;
                    empty &= !in_x;
                    prop_assert_eq!(x.ranges().iter().any(|r| r.contains(proto, port)), in_x);
                    prop_assert_eq!(x.gaps().iter().any(|r| r.contains(proto, port)), !in_x);
                    prop_assert_eq!(both.ranges().iter().any(|r| r.contains(proto, port)), in_x || in_y);
                }
            }
            prop_assert_eq!(x.common(&y).is_some(), any);
            prop_assert_eq!(x.is_empty(), empty);
        }
    }
}

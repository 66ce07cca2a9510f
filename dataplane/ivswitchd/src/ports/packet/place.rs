//! The place of the filter that closes a port to the kernel among other programs' filters: an operator's, a
//! CNI's, libvirt's.
//!
//! It should come first, since a packet that an earlier filter accepts also reaches the kernel. tc keeps
//! filters in one preference only if they are of one kind and for one protocol. If another tool has
//! preference 1 for something else, ours takes the next free one, and the other filters stay unchanged.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

use crate::netlink::Requester;

/// Our filter's number within its preference. It spells "iv".
const HANDLE: u32 = 0x6976;

/// Preferences that are tried: fewer filters than that come before ours on any real machine.
const PREFERENCES_MAX: u16 = 64;

/// tc's value for every protocol.
const ALL_PROTOCOLS: u16 = (libc::ETH_P_ALL as u16).to_be();

/// A filter at an interface's ingress.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Filter {
    preference: u16,
    protocol: u16,
    kind: String,
    handle: u32,
    /// The program's name, if this is a BPF filter.
    name: Option<String>,
}

/// Puts a program where it closes the interface to the kernel: in place of an earlier process's, without a
/// gap, otherwise at the first free preference. Returns how many filters of other programs come before it.
///
/// # Errors
/// Returns the kernel's error.
pub fn close(index: u32, name: &str, program: &OwnedFd) -> io::Result<usize> {
    let mut requester = Requester::open()?;
    let filters = filters(&mut requester, index)?;
    let before = |preference| filters.iter().filter(|f| f.preference < preference && f.handle != 0).count();
    if let Some(ours) = ours(&filters, name) {
        set(&mut requester, index, ours, name, program, NLM_F_REPLACE)?;
        return Ok(before(ours));
    }
    let mut refused = None;
    for preference in free(&filters) {
        match set(&mut requester, index, preference, name, program, NLM_F_EXCL) {
            Ok(()) => return Ok(before(preference)),
            // Taken since the dump, or by a filter that a dump does not show.
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| io::Error::other("all preferences of tc filters are taken")))
}

/// The preference of our filter, if it is there.
fn ours(filters: &[Filter], name: &str) -> Option<u16> {
    let is_ours = |f: &&Filter| f.handle == HANDLE && f.name.as_deref() == Some(name);
    filters.iter().find(is_ours).map(|f| f.preference)
}

/// The preferences that are open to our filter, lowest first.
fn free(filters: &[Filter]) -> impl Iterator<Item = u16> {
    let mut taken: BTreeMap<u16, bool> = BTreeMap::new();
    for filter in filters {
        let other = filter.kind != TcFilterBpf::KIND
            || filter.protocol != ALL_PROTOCOLS
            || filter.handle == HANDLE
            // A filter there that lets packets pass comes before ours, as the older one of the two.
            || filter.name.is_some();
        *taken.entry(filter.preference).or_default() |= other;
    }
    (1..=PREFERENCES_MAX).filter(move |preference| !taken.get(preference).copied().unwrap_or(false))
}

fn filters(requester: &mut Requester, index: u32) -> io::Result<Vec<Filter>> {
    let question = RouteNetlinkMessage::GetTrafficFilter(at(index));
    let answers = requester.dump(&question)?;
    let filter = |message: RouteNetlinkMessage| {
        let RouteNetlinkMessage::NewTrafficFilter(m) = message else { return None };
        let mut filter = Filter {
            preference: (m.header.info >> 16) as u16,
            protocol: m.header.info as u16,
            kind: String::new(),
            handle: u32::from(m.header.handle),
            name: None,
        };
        for attribute in &m.attributes {
            match attribute {
                TcAttribute::Kind(kind) => filter.kind.clone_from(kind),
                TcAttribute::Options(options) => {
                    filter.name = options.iter().find_map(|option| match option {
                        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(filter)
    };
    Ok(answers.into_iter().filter_map(filter).collect())
}

/// A message about the ingress of an interface: of the qdisc clsact, or of its older relative, ingress.
fn at(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor: TcHandle::MIN_INGRESS };
    message
}

fn set(
    requester: &mut Requester,
    index: u32,
    preference: u16,
    name: &str,
    program: &OwnedFd,
    flags: u16,
) -> io::Result<()> {
    let options = [
        TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32),
        TcFilterBpfOption::ProgName(name.to_owned()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    let mut message = at(index);
    message.header.handle = TcHandle::from(HANDLE);
    message.header.info = u32::from(preference) << 16 | u32::from(ALL_PROTOCOLS);
    message.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
        TcAttribute::Options(options.map(TcOption::Bpf).to_vec()),
    ];
    requester.change(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE | flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(preference: u16, kind: &str, handle: u32, name: Option<&str>) -> Filter {
        let name = name.map(str::to_owned);
        Filter { preference, protocol: ALL_PROTOCOLS, kind: kind.into(), handle, name }
    }

    /// Our filter comes as early as possible, and never among another tool's filters of another kind or protocol.
    #[test]
    fn preferences() {
        let first = |filters: &[Filter]| free(filters).next();
        assert_eq!(first(&[]), Some(1));
        assert_eq!(first(&[filter(1, "u32", 0, None), filter(1, "u32", 0x8000_0000, None)]), Some(2));
        assert_eq!(first(&[filter(2, "u32", 0, None)]), Some(1));
        assert_eq!(first(&[filter(1, "bpf", 1, Some("cil_from_netdev"))]), Some(2));
        let arp = Filter { protocol: 0x0608, ..filter(1, "bpf", 1, None) };
        assert_eq!(first(&[arp, filter(2, "flower", 1, None)]), Some(3));
        let all: Vec<_> = (1..=PREFERENCES_MAX).map(|n| filter(n, "u32", 0, None)).collect();
        assert_eq!(first(&all), None);
        let known = [filter(1, "u32", 0, None), filter(7, "bpf", HANDLE, Some("packet_all"))];
        assert_eq!((ours(&known, "packet_all"), ours(&known, "packet_shared")), (Some(7), None));
    }
}

//! Doors: veth pairs with one end for the CMS and one for us, or TAP interfaces (`tap`).
//!
//! A pair outlives the daemon, so that the CMS never loses its interface; the next daemon finds it and
//! corrects only the differences. Our end carries an alias that names this switch as its owner, the addresses
//! that we put on the CMS's end, and whether the pair was finished. So we never remove a pair that another
//! program made, and never put back an address that the CMS removed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;

use ctl::io::{DoorSpec, IoKind};
use engine::command::IpPrefix;
use engine::wire::mac::MacAddr;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use thiserror::Error;

use super::ethtool;
use crate::netlink::Requester;

mod tap;

/// The first words of our end's alias.
const ALIAS: &str = "ivswitch door ";

/// The longest alias that the kernel takes (IFALIASZ less its NUL).
const ALIAS_LEN_MAX: usize = 255;

/// The door could not be made.
#[derive(Debug, Error)]
pub enum DoorError {
    /// An interface that is not ours has the name.
    #[error(
        "interface \"{0}\" exists already and is not a door of this switch; rename it, name the port otherwise, \
         or give the port `interface = \"{0}\"` to attach to it"
    )]
    Taken(String),
    /// The kernel refused a step.
    #[error("interface \"{interface}\": cannot {step}: {source}{}", remedy(.source))]
    Kernel {
        /// The interface.
        interface: String,
        /// The attempted step.
        step: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; run ivswitchd as root or with CAP_NET_ADMIN",
        Some(libc::EOPNOTSUPP) => "; `modprobe veth` loads the driver of doors",
        Some(libc::EROFS) => {
            "; make /proc/sys/net writable here, or `sysctl -w net.ipv6.conf.default.disable_ipv6=1 \
             net.ipv6.conf.default.accept_ra=0` before the interface is made"
        }
        _ => "",
    }
}

/// One end as the kernel reports it.
struct End {
    index: u32,
    name: String,
    mac: Option<MacAddr>,
    mtu: u32,
    up: bool,
    kind: Option<InfoKind>,
    alias: Option<String>,
    /// Index of the other end, and whether it is in another namespace.
    other: Option<(u32, bool)>,
}

/// Makes the door, or corrects an existing one.
///
/// # Errors
/// A name is taken, or the kernel refused a step. Finished steps remain for the next try.
pub fn create(requester: &mut Requester, spec: &DoorSpec) -> Result<(), DoorError> {
    if spec.kind == IoKind::Tap {
        return tap::create(requester, spec);
    }
    let theirs = get(requester, &spec.name)?;
    if theirs.as_ref().is_some_and(|end| tap::is_ours(end, &spec.name)) {
        // The door used to be of that kind.
        delete(requester, &spec.name)?;
    }
    let ours = get(requester, &spec.peer)?;
    let theirs = get(requester, &spec.name)?;
    let ours = match ours {
        Some(ours) => {
            let pair = theirs.as_ref().is_some_and(|theirs| ours.other == Some((theirs.index, false)));
            let marked = mark_of(&ours).is_some_and(|(door, _)| door == spec.name);
            if ours.kind != Some(InfoKind::Veth) || !(pair || marked) {
                return Err(DoorError::Taken(spec.peer.clone()));
            }
            if theirs.is_some() && !pair {
                return Err(DoorError::Taken(spec.name.clone()));
            }
            ours
        }
        None if theirs.is_some() => return Err(DoorError::Taken(spec.name.clone())),
        None => {
            make(requester, spec)?;
            get(requester, &spec.peer)?.ok_or_else(|| gone(&spec.peer))?
        }
    };
    // The CMS may have renamed its end, or moved it to a namespace out of our reach.
    let theirs = match ours.other {
        Some((index, false)) => get_index(requester, index, &spec.name)?,
        _ => None,
    };
    correct(requester, spec, &ours, theirs.as_ref())
}

/// Whether a door that could not be made as configured was finished once, and our end is up. A TAP is also
/// the CMS's end, and the CMS decides whether it is up.
pub fn is_usable(requester: &mut Requester, spec: &DoorSpec) -> bool {
    let ours = if spec.kind == IoKind::Tap { &spec.name } else { &spec.peer };
    get(requester, ours).ok().flatten().is_some_and(|end| {
        let finished =
            mark_of(&end).is_some_and(|(door, addresses)| door == spec.name && addresses.is_some());
        finished && (spec.kind == IoKind::Tap || end.up)
    })
}

/// Removes the door whose CMS end has, or originally had, this name. Succeeds if the door is missing.
///
/// # Errors
/// Returns the kernel's error.
pub fn delete(requester: &mut Requester, name: &str) -> Result<(), DoorError> {
    let kernel = |source| DoorError::Kernel { interface: name.into(), step: "list interfaces", source };
    let all = requester.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default())).map_err(kernel)?;
    for message in all {
        if let RouteNetlinkMessage::NewLink(m) = message {
            let end = end_of(&m);
            if mark_of(&end).is_some_and(|(door, _)| door == name) {
                let mut message = LinkMessage::default();
                message.header.index = end.index;
                match requester.change(RouteNetlinkMessage::DelLink(message), 0) {
                    Err(source) if source.raw_os_error() != Some(libc::ENODEV) => {
                        return Err(DoorError::Kernel { interface: end.name, step: "remove it", source });
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

/// Makes a new pair, down, with our end marked as unfinished.
fn make(requester: &mut Requester, spec: &DoorSpec) -> Result<(), DoorError> {
    let mut peer = LinkMessage::default();
    // The kernel spreads flows over the pair's queues, and each queue has its own worker. Native XDP needs at
    // least as many receive queues at our end as there are transmit queues at the other.
    let queues = [LinkAttribute::NumTxQueues(spec.queues), LinkAttribute::NumRxQueues(spec.queues)];
    peer.attributes = vec![LinkAttribute::IfName(spec.peer.clone()), LinkAttribute::Mtu(spec.mtu.into())];
    peer.attributes.extend(queues.clone());
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(spec.name.clone()),
        LinkAttribute::Mtu(spec.mtu.into()),
        LinkAttribute::Address(spec.mac.0.to_vec()),
        queues[0].clone(),
        queues[1].clone(),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    step(&spec.name, "create the pair", || {
        requester.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    })?;
    let mut mark = LinkMessage::default();
    mark.attributes = vec![
        LinkAttribute::IfName(spec.peer.clone()),
        LinkAttribute::IfAlias(format!("{ALIAS}{}", spec.name)),
    ];
    step(&spec.peer, "mark it", || requester.change(RouteNetlinkMessage::SetLink(mark), 0))
}

/// Brings a pair to the desired state, touching only the differences.
fn correct(
    requester: &mut Requester,
    spec: &DoorSpec,
    ours: &End,
    theirs: Option<&End>,
) -> Result<(), DoorError> {
    let before = mark_of(ours).and_then(|(_, addresses)| addresses);
    let fresh = before.is_none();

    let mtu_is_wanted = fresh || !spec.mtu_is_guess;
    if mtu_is_wanted {
        set_mtu(requester, ours, spec.mtu)?;
    }
    if fresh {
        quiet_ipv6(requester, ours, true)?;
    }
    if let Some(theirs) = theirs {
        if mtu_is_wanted {
            set_mtu(requester, theirs, spec.mtu)?;
        }
        if theirs.mac != Some(spec.mac) {
            set(requester, theirs, "set its MAC address", vec![LinkAttribute::Address(spec.mac.0.to_vec())])?;
        }
        if fresh {
            quiet_ipv6(requester, theirs, spec.addresses.iter().all(|a| a.addr.is_ipv4()))?;
        }
        // AF_XDP has no mark for an unfinished checksum; where the port type has one, finishing it is a waste.
        let unfinished = spec.kind == IoKind::Packet;
        if step(&theirs.name, "read its offload settings", || ethtool::tx_checksum(&theirs.name))?
            != unfinished
        {
            step(&theirs.name, "switch its transmit checksum offload", || {
                ethtool::set_tx_checksum(&theirs.name, unfinished)
            })?;
        }
        step(&theirs.name, "have VLAN tags put into its frames", || {
            ethtool::set_tx_vlan_in_frame(&theirs.name)
        })?;
        step(&theirs.name, "have it merge what it receives", || ethtool::set_rx_merging(&theirs.name))?;
        if unfinished {
            step(&theirs.name, "have finished what virtio-net has no words for", || {
                ethtool::set_tx_as_virtio(&theirs.name)
            })?;
        }
        if fresh {
            set_up(requester, theirs)?;
        }
        addresses(requester, spec, theirs, before.clone().unwrap_or_default())?;
    } else {
        tracing::info!("door \"{}\": its CMS end is in another namespace and is left as it is", spec.name);
    }
    if !ours.up {
        set_up(requester, ours)?;
    }
    let alias = alias_of(spec);
    if theirs.is_some() && ours.alias.as_ref() != Some(&alias) {
        set(requester, ours, "mark it", vec![LinkAttribute::IfAlias(alias)])?;
    }
    Ok(())
}

/// Puts new addresses on the CMS's end, and takes away those that are no longer configured.
fn addresses(
    requester: &mut Requester,
    spec: &DoorSpec,
    theirs: &End,
    had: BTreeSet<String>,
) -> Result<(), DoorError> {
    let want: BTreeSet<String> = spec.addresses.iter().map(IpPrefix::to_string).collect();
    for prefix in spec.addresses.iter().filter(|prefix| !had.contains(&prefix.to_string())) {
        address(requester, theirs, *prefix, true)?;
    }
    for prefix in had.difference(&want).filter_map(|text| parse_prefix(text)) {
        address(requester, theirs, prefix, false)?;
    }
    Ok(())
}

/// The alias of a finished door. Addresses that do not fit are left out, and so are not removed later.
fn alias_of(spec: &DoorSpec) -> String {
    let mut alias = format!("{ALIAS}{} ", spec.name);
    for prefix in &spec.addresses {
        let text = format!("{prefix},");
        if alias.len() + text.len() > ALIAS_LEN_MAX {
            break;
        }
        alias.push_str(&text);
    }
    alias
}

/// The door that our end belongs to, and (if it was finished) the addresses we put on the other end.
fn mark_of(end: &End) -> Option<(&str, Option<BTreeSet<String>>)> {
    let rest = end.alias.as_deref()?.strip_prefix(ALIAS)?;
    Some(match rest.split_once(' ') {
        Some((door, addresses)) => {
            (door, Some(addresses.split(',').filter(|text| !text.is_empty()).map(String::from).collect()))
        }
        None => (rest, None),
    })
}

fn parse_prefix(text: &str) -> Option<IpPrefix> {
    let (addr, len) = text.split_once('/')?;
    Some(IpPrefix { addr: addr.parse().ok()?, len: len.parse().ok()? })
}

/// Disables IPv6 of the rVM itself on an interface that belongs to guests. Not one frame may leave, so before it is up.
fn quiet_ipv6(requester: &mut Requester, end: &End, disable: bool) -> Result<(), DoorError> {
    // Written through /proc, as rtnetlink has no attribute for it. Without IPv6 in the kernel the files are
    // missing. These files follow the namespace of the thread that opens them.
    for (file, value) in [("disable_ipv6", if disable { "1" } else { "0" }), ("accept_ra", "0")] {
        let path = format!("/proc/sys/net/ipv6/conf/{}/{file}", end.name);
        if fs::read_to_string(&path).is_ok_and(|is| is.trim() == value) {
            // The files have this value already where they cannot be written, as in many containers.
            continue;
        }
        match fs::write(&path, value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(DoorError::Kernel {
                    interface: end.name.clone(),
                    step: "switch IPv6 off",
                    source: error,
                });
            }
            _ => {}
        }
    }
    let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    match set(
        requester,
        end,
        "switch IPv6 address generation off",
        vec![LinkAttribute::AfSpecUnspec(vec![mode])],
    ) {
        // Kernels without IPv6 do not know the family.
        Err(DoorError::Kernel { source, .. })
            if matches!(
                source.raw_os_error(),
                Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL)
            ) =>
        {
            Ok(())
        }
        done => done,
    }
}

fn set_mtu(requester: &mut Requester, end: &End, mtu: u16) -> Result<(), DoorError> {
    if end.mtu == u32::from(mtu) {
        return Ok(());
    }
    set(requester, end, "set its MTU", vec![LinkAttribute::Mtu(mtu.into())])
}

fn set_up(requester: &mut Requester, end: &End) -> Result<(), DoorError> {
    let mut message = LinkMessage::default();
    message.header.index = end.index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    step(&end.name, "bring it up", || requester.change(RouteNetlinkMessage::SetLink(message), 0))
}

fn set(
    requester: &mut Requester,
    end: &End,
    what: &'static str,
    attributes: Vec<LinkAttribute>,
) -> Result<(), DoorError> {
    let mut message = LinkMessage::default();
    message.header.index = end.index;
    message.attributes = attributes;
    step(&end.name, what, || requester.change(RouteNetlinkMessage::SetLink(message), 0))
}

fn address(requester: &mut Requester, end: &End, prefix: IpPrefix, add: bool) -> Result<(), DoorError> {
    let mut message = AddressMessage::default();
    message.header.index = end.index;
    message.header.prefix_len = prefix.len;
    message.header.family = if prefix.addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes = vec![AddressAttribute::Local(prefix.addr), AddressAttribute::Address(prefix.addr)];
    if let IpAddr::V4(ip) = prefix.addr
        && prefix.len < 31
        && add
    {
        let host = u32::MAX.checked_shr(prefix.len.into()).unwrap_or(0);
        message.attributes.push(AddressAttribute::Broadcast((ip.to_bits() | host).into()));
    }
    if prefix.addr.is_ipv6() && add {
        // The operator chose the address; duplicate address detection would only delay it.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    let result = if add {
        requester.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    } else {
        requester.change(RouteNetlinkMessage::DelAddress(message), 0)
    };
    let what = if add { "give it its address" } else { "take its former address away" };
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::EADDRNOTAVAIL)) => Ok(()),
        other => step(&end.name, what, || other),
    }
}

fn step<T>(interface: &str, step: &'static str, run: impl FnOnce() -> io::Result<T>) -> Result<T, DoorError> {
    run().map_err(|source| DoorError::Kernel { interface: interface.into(), step, source })
}

fn gone(interface: &str) -> DoorError {
    DoorError::Kernel {
        interface: interface.into(),
        step: "find it after it was made",
        source: io::Error::from_raw_os_error(libc::ENODEV),
    }
}

fn get(requester: &mut Requester, name: &str) -> Result<Option<End>, DoorError> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.into())];
    ask(requester, message, name)
}

fn get_index(requester: &mut Requester, index: u32, name: &str) -> Result<Option<End>, DoorError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    ask(requester, message, name)
}

fn ask(requester: &mut Requester, message: LinkMessage, name: &str) -> Result<Option<End>, DoorError> {
    match requester.get(RouteNetlinkMessage::GetLink(message)) {
        Ok(Some(RouteNetlinkMessage::NewLink(m))) => Ok(Some(end_of(&m))),
        Ok(_) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(source) => Err(DoorError::Kernel { interface: name.into(), step: "look at it", source }),
    }
}

fn end_of(m: &LinkMessage) -> End {
    let mut end = End {
        index: m.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: m.header.flags.contains(LinkFlags::Up),
        kind: None,
        alias: None,
        other: None,
    };
    let mut other = None;
    let mut elsewhere = false;
    for attribute in &m.attributes {
        match attribute {
            LinkAttribute::IfName(name) => end.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => end.mtu = *mtu,
            LinkAttribute::Address(mac) => end.mac = mac.as_slice().try_into().ok().map(MacAddr),
            LinkAttribute::IfAlias(alias) => end.alias = Some(alias.clone()),
            LinkAttribute::Link(index) => other = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                end.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.clone()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    end.other = other.map(|index| (index, elsewhere));
    end
}

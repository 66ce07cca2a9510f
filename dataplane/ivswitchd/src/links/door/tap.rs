//! Doors that are TAP interfaces: the CMS gets the interface, we attach to its file.
//!
//! They are persistent, so that name, MAC address, addresses and bridge membership outlive the daemon. The interface
//! bears the same mark as our end of a pair. `ports::tap` opens its file to forward; this module only to create it.

use netlink_packet_route::link::{InfoKind, LinkAttribute};

use super::{
    ALIAS, DoorError, DoorSpec, End, addresses, alias_of, delete, get, gone, mark_of, quiet_ipv6, set,
    set_mtu, set_up, step,
};
use crate::netlink::Requester;
use crate::ports::tap;

/// Whether the interface is a TAP door of this name.
pub fn is_ours(end: &End, name: &str) -> bool {
    end.kind == Some(InfoKind::Tun) && mark_of(end).is_some_and(|(door, _)| door == name)
}

/// Makes the interface, or corrects an existing one.
///
/// # Errors
/// The name is taken, or the kernel refused a step. Finished steps remain for the next try.
pub fn create(requester: &mut Requester, spec: &DoorSpec) -> Result<(), DoorError> {
    let mut end = get(requester, &spec.name)?;
    if end.as_ref().is_some_and(|end| !is_ours(end, &spec.name)) {
        // Unless the door used to be a pair, the interface belongs to another program.
        let pair = get(requester, &spec.peer)?;
        if pair.is_none_or(|ours| mark_of(&ours).is_none_or(|(door, _)| door != spec.name)) {
            return Err(DoorError::Taken(spec.name.clone()));
        }
        delete(requester, &spec.name)?;
        end = None;
    }
    let end = match end {
        Some(end) => end,
        None => {
            let queue = step(&spec.name, "make the TAP interface", || tap::queue(&spec.name))?;
            step(&spec.name, "make it persistent", || tap::persist(&queue))?;
            let end = get(requester, &spec.name)?.ok_or_else(|| gone(&spec.name))?;
            set(requester, &end, "mark it", vec![LinkAttribute::IfAlias(format!("{ALIAS}{}", spec.name))])?;
            get(requester, &spec.name)?.ok_or_else(|| gone(&spec.name))?
        }
    };
    let before = mark_of(&end).and_then(|(_, addresses)| addresses);
    let fresh = before.is_none();
    if end.mac != Some(spec.mac) {
        set(requester, &end, "set its MAC address", vec![LinkAttribute::Address(spec.mac.0.to_vec())])?;
    }
    if fresh || !spec.mtu_is_guess {
        set_mtu(requester, &end, spec.mtu)?;
    }
    if fresh {
        quiet_ipv6(requester, &end, spec.addresses.iter().all(|a| a.addr.is_ipv4()))?;
        set_up(requester, &end)?;
    }
    addresses(requester, spec, &end, before.unwrap_or_default())?;
    let alias = alias_of(spec);
    if end.alias.as_ref() != Some(&alias) {
        set(requester, &end, "mark it", vec![LinkAttribute::IfAlias(alias)])?;
    }
    Ok(())
}

//! AF_XDP ports that outlived the process that opened them (see `keep`): taken up again as their rings stand.
//!
//! A crash may come between any two instructions. What holds then, and what is relied on:
//!
//! - Cursors are moved after the entries they cover. So a slot in a ring, between its cursors, is whole; received
//!   frames not yet released come again, and were not forwarded before.
//! - A slot that the books say is lent and that is in no ring was on its way into one, or is somewhere inside the
//!   kernel. It is left alone; if the kernel hands it back, it is found. Others lose nothing by it.
//! - The kernel shows a received frame before it gives up the chunk's place in the fill ring. So the fill ring is read
//!   first, and a slot may be seen twice, but never not at all.
//!
//! Anything that does not add up ends with new memory and new sockets, as if nothing had been kept.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;

use super::program;
use super::socket::{Queue, RING_LEN};
use crate::ports::keep;
use crate::ports::umem::{Claim, Lease, UmemError, UmemHandle, UmemPool};
use engine::limits::SLOT_SMALL_LEN;

/// What the name of a socket says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SocketName {
    /// Its interface.
    pub interface: u32,
    /// Its queue.
    pub queue: u32,
    /// How it was bound.
    pub bound: Bound,
    /// The tag of its slots.
    pub tag: NonZeroU16,
}

/// How a socket was bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// The program runs in the driver.
    pub native: bool,
    /// Frames may come in several chunks.
    pub multi_buffer: bool,
}

impl SocketName {
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("xsk-")?.split('-');
        let (interface, queue) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let bound = parts.next()?;
        let tag = parts.next()?.parse().ok()?;
        let bound = Bound { native: bound.starts_with('n'), multi_buffer: bound.ends_with('m') };
        let name_of = Self { interface, queue, bound, tag };
        (parts.next().is_none() && name_of.to_string() == name).then_some(name_of)
    }
}

impl std::fmt::Display for SocketName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Bound { native, multi_buffer } = self.bound;
        let bound = (if native { 'n' } else { 'g' }, if multi_buffer { 'm' } else { 's' });
        write!(f, "xsk-{}-{}-{}{}-{}", self.interface, self.queue, bound.0, bound.1, self.tag)
    }
}

/// The name of the link of this interface's program.
pub fn link_name(interface: u32) -> String {
    format!("xdp-{interface}")
}

/// The name of the frame memory. Whatever a socket's rings and slots depend on is part of it.
fn memory_name(small: u32, large: u32, workers: usize) -> String {
    let namespace = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    let namespace: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    format!("umem-1-{small}-{large}-{SLOT_SMALL_LEN}-{RING_LEN}-{workers}-{namespace}")
}

/// One worker's queues of a port.
#[derive(Debug)]
pub struct KeptPart {
    /// By number, with the slots its receive side has, and how many of its transmit side's are lent.
    pub queues: BTreeMap<u32, KeptQueue>,
    /// After the queues, so that it is dropped after them.
    pub lease: Lease,
}

/// A queue.
#[derive(Debug)]
pub struct KeptQueue {
    /// Its rings.
    pub queue: Queue,
    /// Its socket.
    pub socket: OwnedFd,
    /// Slots that its receive side has.
    pub filled: u32,
    /// Slots that its transmit side has.
    pub tx_lent: u32,
}

/// A port.
#[derive(Debug)]
pub struct KeptPort {
    interface: u32,
    names: Vec<String>,
    /// What attaches its program.
    pub link: OwnedFd,
    /// How its sockets were bound.
    pub bound: Bound,
    /// By tag.
    pub parts: Vec<KeptPart>,
}

impl KeptPort {
    /// Whether its queues are just these.
    pub fn has_queues(&self, count: u32) -> bool {
        let mut queues: Vec<u32> = self.parts.iter().flat_map(|part| part.queues.keys().copied()).collect();
        queues.sort_unstable();
        queues.into_iter().eq(0..count)
    }

    /// Takes it off the interface; its slots come back.
    pub fn discard(self) {
        program::detach(&self.link);
        self.names.iter().for_each(|name| keep::remove(name));
        keep::remove(&link_name(self.interface));
    }
}

/// Everything that was kept and not asked for yet.
#[derive(Debug, Default)]
pub struct Kept {
    ports: BTreeMap<u32, KeptPort>,
    taps: BTreeMap<String, OwnedFd>,
}

/// A socket on its way to be taken up.
struct Found {
    name: SocketName,
    queue: Queue,
    socket: OwnedFd,
    receive: BTreeSet<u32>,
    transmit: BTreeSet<u32>,
    tx_lent: u32,
}

impl Kept {
    /// The frame memory with what is at work in it, from what the service manager kept; or new memory, when there is
    /// nothing or it cannot be used.
    ///
    /// # Errors
    /// When there is no memory to be had.
    pub fn take_up(
        mut fds: BTreeMap<String, OwnedFd>,
        workers: usize,
    ) -> Result<(UmemPool, Self), UmemError> {
        const SMALL: u32 = UmemPool::SMALL_DEFAULT;
        const LARGE: u32 = UmemPool::LARGE_DEFAULT;
        let memory = memory_name(SMALL, LARGE, workers);
        let mut kept = Self::default();
        let (links, others): (BTreeMap<_, _>, _) =
            fds.into_iter().partition(|(name, _)| name.starts_with("xdp-"));
        fds = others;
        let mut links: BTreeMap<String, OwnedFd> = links;
        let memfd = fds.remove(&memory);
        let names: Vec<String> = fds.keys().cloned().collect();
        for name in names.iter().filter(|name| name.starts_with("tap-")) {
            kept.taps.extend(fds.remove_entry(name));
        }
        if let Some(memfd) = memfd {
            match Self::find(fds, &mut links).and_then(|found| {
                let pool = UmemPool::resume(SMALL, LARGE, memfd, &claims(&found))?;
                Ok((pool, found))
            }) {
                Ok((pool, found)) => {
                    kept.ports = assemble(found, &mut links, &pool.handle());
                    forget(links.into_iter());
                    return Ok((pool, kept));
                }
                Err(error) => tracing::warn!("{error}; ports are opened anew"),
            }
        }
        // Programs first: nothing may arrive in sockets that are about to go.
        forget(links.into_iter());
        for name in names.iter().filter(|name| !kept.taps.contains_key(*name)) {
            keep::remove(name);
        }
        let pool = UmemPool::new(SMALL, LARGE)?;
        if keep::is_possible() {
            keep::remove(&memory);
            keep::store(&memory, pool.handle().memory());
        }
        Ok((pool, kept))
    }

    fn find(
        fds: BTreeMap<String, OwnedFd>,
        links: &mut BTreeMap<String, OwnedFd>,
    ) -> Result<Vec<Found>, UmemError> {
        let mut found = Vec::new();
        for (name, socket) in fds {
            let unknown = UmemError::Kept("it names what this version does not know");
            let parsed = SocketName::parse(&name).ok_or(unknown)?;
            if !links.contains_key(&link_name(parsed.interface)) {
                return Err(UmemError::Kept("a socket has no program"));
            }
            let queue =
                Queue::resume(&socket).map_err(|_| UmemError::Kept("a socket's rings cannot be mapped"))?;
            found.push(Found::of(parsed, queue, socket));
        }
        Ok(found)
    }

    /// Whether nothing was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.taps.is_empty()
    }

    /// The port on this interface.
    pub fn port(&mut self, interface: u32) -> Option<KeptPort> {
        self.ports.remove(&interface)
    }

    /// The queue of a TAP interface of this name.
    pub fn tap(&mut self, name: &str) -> Option<OwnedFd> {
        self.taps.remove(name)
    }

    /// Lets go of everything that nobody asked for.
    pub fn clear(&mut self) {
        for (interface, port) in std::mem::take(&mut self.ports) {
            tracing::info!("interface {interface}: was kept over the restart, and is no port any more");
            port.discard();
        }
        for (name, queue) in std::mem::take(&mut self.taps) {
            drop(queue);
            keep::remove(&name);
        }
    }
}

impl Found {
    fn of(name: SocketName, mut queue: Queue, socket: OwnedFd) -> Self {
        let slot = |address: u64| u32::try_from(address / SLOT_SMALL_LEN as u64).unwrap_or(u32::MAX);
        // In this order: see the head of this file.
        let mut receive: BTreeSet<u32> = queue.fill.waiting().map(slot).collect();
        receive.extend(queue.rx.waiting().map(|desc| slot(desc.addr)));
        let mut transmit: BTreeSet<u32> = queue.tx.waiting().map(|desc| slot(desc.addr)).collect();
        transmit.extend(queue.completion.waiting().map(slot));
        let tx_lent = queue.tx.position().wrapping_sub(queue.completion.position()).min(RING_LEN);
        Self { name, queue, socket, receive, transmit, tx_lent }
    }
}

fn claims(found: &[Found]) -> Vec<Claim> {
    let claim = |found: &Found| Claim {
        tag: found.name.tag,
        slots: found.receive.iter().chain(&found.transmit).copied().collect(),
    };
    found.iter().map(claim).collect()
}

fn assemble(
    found: Vec<Found>,
    links: &mut BTreeMap<String, OwnedFd>,
    umem: &UmemHandle,
) -> BTreeMap<u32, KeptPort> {
    let mut ports: BTreeMap<u32, KeptPort> = BTreeMap::new();
    for Found { name, queue, socket, receive, tx_lent, .. } in found {
        let port = ports.entry(name.interface).or_insert_with(|| KeptPort {
            interface: name.interface,
            names: Vec::new(),
            link: links.remove(&link_name(name.interface)).expect("found with its link"),
            bound: name.bound,
            parts: Vec::new(),
        });
        port.names.push(name.to_string());
        let at = port.parts.iter().position(|part| part.lease.tag() == name.tag).unwrap_or_else(|| {
            port.parts.push(KeptPart { queues: BTreeMap::new(), lease: umem.lease_again(name.tag) });
            port.parts.len() - 1
        });
        let filled = receive.len() as u32;
        port.parts[at].queues.insert(name.queue, KeptQueue { queue, socket, filled, tx_lent });
    }
    ports
}

/// Links whose sockets are not there.
fn forget(links: impl Iterator<Item = (String, OwnedFd)>) {
    for (name, link) in links {
        program::detach(&link);
        keep::remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sockets_say_what_they_are() {
        let bound = Bound { native: true, multi_buffer: false };
        let name = SocketName { interface: 7, queue: 3, bound, tag: NonZeroU16::new(12).unwrap() };
        assert_eq!(name.to_string(), "xsk-7-3-ns-12");
        assert_eq!(SocketName::parse("xsk-7-3-ns-12"), Some(name));
        for other in
            ["xsk-7-3-ns-0", "xsk-7-3-xx-1", "xsk-7-3-ns", "xsk-07-3-ns-1", "xsk-7-3-ns-1-2", "xdp-7"]
        {
            assert_eq!(SocketName::parse(other), None, "{other}");
        }
    }
}

//! Resumes AF_XDP ports that outlived the process that opened them (see `keep`), from the state of their rings.
//!
//! A crash may come between any two instructions. The code relies on these facts:
//!
//! - A cursor moves after the entries that it covers. So a slot in a ring, between its cursors, is whole;
//!   received frames not yet released come again, and were not forwarded before.
//! - A slot that is recorded as lent but is in no ring was on its way into one, or is somewhere inside the
//!   kernel. It is left alone; if the kernel hands it back, it is found. Other ports lose nothing.
//! - The kernel shows a received frame before it gives up the chunk's place in the fill ring. So the fill
//!   ring is read first, and a slot may be seen twice but is never missed.
//!
//! If anything does not add up, the switch starts with new memory and new sockets, as if nothing had been kept.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;

use super::program;
use super::socket::{Queue, RING_LEN};
use crate::ports::keep;
use crate::ports::umem::{Claim, Lease, UmemError, UmemHandle, UmemPool};
use engine::limits::SLOT_SMALL_LEN;

/// The facts that a kept socket's name states.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SocketName {
    /// The index of the socket's interface.
    pub interface: u32,
    /// The socket's queue.
    pub queue: u32,
    /// How the socket was bound.
    pub bound: Bound,
    /// The tag of the socket's slots.
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

/// The name of the frame memory. It contains everything that a socket's rings and slots depend on.
fn memory_name(small: u32, large: u32, workers: usize) -> String {
    let namespace = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    let namespace: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    format!("umem-1-{small}-{large}-{SLOT_SMALL_LEN}-{RING_LEN}-{workers}-{namespace}")
}

/// One worker's queues of a port.
#[derive(Debug)]
pub struct KeptPart {
    /// The queues by number, each with the slots that its receive side has and its transmit side has lent out.
    pub queues: BTreeMap<u32, KeptQueue>,
    /// Declared after the queues, so that it is dropped after them.
    pub lease: Lease,
}

/// One kept queue.
#[derive(Debug)]
pub struct KeptQueue {
    /// The queue's rings.
    pub queue: Queue,
    /// The queue's socket.
    pub socket: OwnedFd,
    /// Slots that the receive side has.
    pub filled: u32,
    /// Slots that the transmit side has lent out.
    pub tx_lent: u32,
}

/// One kept port.
#[derive(Debug)]
pub struct KeptPort {
    interface: u32,
    names: Vec<String>,
    /// The link that attaches the port's program.
    pub link: OwnedFd,
    /// How the port's sockets were bound.
    pub bound: Bound,
    /// The workers' parts, by tag.
    pub parts: Vec<KeptPart>,
}

impl KeptPort {
    /// Whether the port has exactly `count` queues, numbered from 0.
    pub fn has_queues(&self, count: u32) -> bool {
        let mut queues: Vec<u32> = self.parts.iter().flat_map(|part| part.queues.keys().copied()).collect();
        queues.sort_unstable();
        queues.into_iter().eq(0..count)
    }

    /// Takes the port off the interface; its slots return to the pool.
    pub fn discard(self) {
        program::detach(&self.link);
        self.names.iter().for_each(|name| keep::remove(name));
        keep::remove(&link_name(self.interface));
    }
}

/// Everything that was kept and that no port has claimed yet.
#[derive(Debug, Default)]
pub struct Kept {
    ports: BTreeMap<u32, KeptPort>,
    taps: BTreeMap<String, OwnedFd>,
}

/// A socket that is about to be resumed.
struct Found {
    name: SocketName,
    queue: Queue,
    socket: OwnedFd,
    receive: BTreeSet<u32>,
    transmit: BTreeSet<u32>,
    tx_lent: u32,
}

impl Kept {
    /// The frame memory with the sockets that use it, from the descriptors that the service manager kept. New
    /// memory, if nothing was kept or it cannot be used.
    ///
    /// # Errors
    /// When memory cannot be allocated.
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
        // Programs first, so that no frame arrives in sockets that are about to be closed.
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

    /// Whether nothing was kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.taps.is_empty()
    }

    /// The kept port on this interface.
    pub fn port(&mut self, interface: u32) -> Option<KeptPort> {
        self.ports.remove(&interface)
    }

    /// The kept queue of the TAP interface with this name.
    pub fn tap(&mut self, name: &str) -> Option<OwnedFd> {
        self.taps.remove(name)
    }

    /// Closes everything that no port has claimed.
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

/// Closes links whose sockets are missing.
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

//! The meaning of the messages (QEMU, docs/interop/vhost-user.rst).
//!
//! A state machine without I/O: a message and its file descriptors in, an answer or a [`Fault`] out; rings of
//! the [`Device`] start and stop on the way. QEMU's virtio-net enables rings before it sets the features,
//! sends addresses twice and requests the base of rings that never ran; all of this is accepted.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use engine::wire::mac::MacAddr;
use rustix::fs::OFlags;
use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;
use vhost::vhost_user::message::{
    FrontendReq, VhostUserLog, VhostUserMemoryRegion, VhostUserVringAddr, VhostUserVringState,
};
use vm_memory::ByteValued;

use crate::features::{
    EVENT_IDX, FEATURES, GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6, GUEST_USO4, GUEST_USO6, LOG_ALL,
    MRG_RXBUF, PROTOCOL_FEATURES, VERSION_1,
};
use crate::memory::{Log, Memory};
use crate::ring::{Place, Terms};
use crate::{Device, Fault, REGIONS_MAX};

// VIRTIO 1.2 §5.1.3, §6, and vhost-user's additions.
/// The protocol features that we support.
const PROTOCOL: Protocol = Protocol::MQ
    .union(Protocol::LOG_SHMFD)
    .union(Protocol::RARP)
    .union(Protocol::REPLY_ACK)
    .union(Protocol::MTU);

/// A message's fixed part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The request's number.
    pub request: u32,
    /// Version, and whether QEMU expects an answer.
    pub flags: u32,
    /// Bytes that follow.
    pub len: u32,
}

/// `flags`: protocol version 1.
pub(crate) const VERSION: u32 = 1;
pub(crate) const VERSION_MASK: u32 = 3;
/// `flags`: an answer.
pub(crate) const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;

/// One session with QEMU. It ends with the connection; so do the rings.
#[derive(Debug)]
pub struct Session {
    device: Arc<Device>,
    features: u64,
    protocol: Protocol,
    memory: Option<Arc<Memory>>,
    log: Option<Arc<Log>>,
}

impl Session {
    /// Starts a session.
    #[must_use]
    pub fn new(device: Arc<Device>) -> Self {
        Self { device, features: 0, protocol: Protocol::empty(), memory: None, log: None }
    }

    /// The negotiated offloads, as text for people.
    #[must_use]
    pub fn offloads(&self) -> String {
        let known: [(u64, &str); 6] = [
            (GUEST_CSUM, "checksums"),
            (GUEST_TSO4 | GUEST_TSO6, "TSO"),
            (GUEST_USO4 | GUEST_USO6, "USO"),
            (MRG_RXBUF, "mergeable"),
            (EVENT_IDX, "event-idx"),
            (VERSION_1, "virtio 1"),
        ];
        let agreed = known.iter().filter(|(bits, _)| self.features & bits == *bits);
        agreed.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
    }

    /// Handles a message. Returns the payload of the answer, if QEMU expects one.
    ///
    /// # Errors
    /// A message that QEMU never sends: the caller must close the connection.
    pub fn handle(
        &mut self,
        header: Header,
        payload: &[u8],
        files: Vec<OwnedFd>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let message = Message { header, payload, files };
        let request = FrontendReq::try_from(header.request).map_err(|_| message.wrong("no such request"))?;
        if !matches!(
            request,
            FrontendReq::SET_MEM_TABLE
                | FrontendReq::SET_LOG_BASE
                | FrontendReq::SET_LOG_FD
                | FrontendReq::SET_VRING_KICK
                | FrontendReq::SET_VRING_CALL
                | FrontendReq::SET_VRING_ERR
        ) {
            message.no_files()?;
        }
        let answer = self.obey(request, message)?;
        let ack = self.protocol.contains(Protocol::REPLY_ACK) && header.flags & NEED_REPLY != 0;
        Ok(answer.or_else(|| ack.then(|| 0u64.to_ne_bytes().to_vec())))
    }

    fn obey(&mut self, request: FrontendReq, message: Message<'_>) -> Result<Option<Vec<u8>>, Fault> {
        let number = |n: u64| Ok(Some(n.to_ne_bytes().to_vec()));
        match request {
            FrontendReq::GET_FEATURES => return number(FEATURES),
            FrontendReq::GET_PROTOCOL_FEATURES => return number(PROTOCOL.bits()),
            FrontendReq::GET_QUEUE_NUM => return number(self.device.pairs() as u64),
            FrontendReq::SET_FEATURES => self.set_features(message.number()? & FEATURES),
            FrontendReq::SET_PROTOCOL_FEATURES => {
                self.protocol = Protocol::from_bits_truncate(message.number()?) & PROTOCOL;
            }
            FrontendReq::SET_MEM_TABLE => self.set_memory(message)?,
            FrontendReq::SET_LOG_BASE => {
                let log: VhostUserLog = message.value()?;
                let file = message.one_file()?;
                self.log = Some(Arc::new(Log::map(file, log.mmap_offset, log.mmap_size)?));
                self.spread_log();
                return number(0);
            }
            FrontendReq::SET_VRING_NUM => {
                let (ring, len) = self.state(&message)?;
                self.device.ring(ring).len =
                    u16::try_from(len).map_err(|_| Fault::Setup { ring, why: "it is too long" })?;
            }
            FrontendReq::SET_VRING_ADDR => self.set_place(&message)?,
            FrontendReq::SET_VRING_BASE => {
                let (ring, base) = self.state(&message)?;
                self.device.ring(ring).base =
                    u16::try_from(base).map_err(|_| Fault::Setup { ring, why: "its base is no index" })?;
            }
            FrontendReq::GET_VRING_BASE => {
                let (ring, _) = self.state(&message)?;
                let next = self.stop(ring);
                return Ok(Some(VhostUserVringState::new(ring as u32, next.into()).as_slice().to_vec()));
            }
            FrontendReq::SET_VRING_KICK => self.start(message)?,
            FrontendReq::SET_VRING_CALL => {
                let (ring, call) = self.event(message)?;
                self.device.ring(ring).set_call(call);
            }
            FrontendReq::SET_VRING_ERR => {
                self.event(message)?;
            }
            FrontendReq::SET_VRING_ENABLE => {
                let (ring, on) = self.state(&message)?;
                self.device.ring(ring).enabled = on != 0;
                self.device.wake_for(ring);
            }
            FrontendReq::RESET_OWNER => self.close(),
            FrontendReq::SEND_RARP => {
                let bytes = message.number()?.to_le_bytes();
                let mac = MacAddr(bytes[..6].try_into().expect("six of eight"));
                if mac.is_unicast() {
                    self.device.announce(mac);
                }
            }
            // The log's eventfd is for a QEMU that waits for dirty pages, and no version does. The MTU is the port's.
            FrontendReq::SET_OWNER | FrontendReq::SET_LOG_FD | FrontendReq::NET_SET_MTU => {}
            _ => return Err(message.wrong("it was not agreed on")),
        }
        Ok(None)
    }

    /// Ends the session: rings stop, memory is unmapped.
    pub fn close(&mut self) {
        for ring in 0..self.device.ring_count() {
            self.stop(ring);
            self.device.ring(ring).reset();
        }
        (self.memory, self.log, self.features) = (None, None, 0);
    }

    fn set_features(&mut self, features: u64) {
        self.features = features;
        self.device.set_features(features);
        if features & PROTOCOL_FEATURES == 0 {
            for ring in 0..self.device.ring_count() {
                self.device.ring(ring).enabled = true;
            }
        }
        self.spread_log();
    }

    /// Gives the rings the log, or takes it away.
    fn spread_log(&self) {
        let log = self.log.as_ref().filter(|_| self.features & LOG_ALL != 0);
        for ring in 0..self.device.ring_count() {
            self.device.ring(ring).set_log(log.cloned());
        }
    }

    fn set_memory(&mut self, message: Message<'_>) -> Result<(), Fault> {
        const REGION: usize = size_of::<VhostUserMemoryRegion>();
        let Some((count, regions)) = message.payload.split_first_chunk::<8>() else {
            return Err(message.wrong("it is cut short"));
        };
        let count = u32::from_ne_bytes(count[..4].try_into().expect("four of eight")) as usize;
        if count > REGIONS_MAX || regions.len() != count * REGION {
            return Err(message.wrong("its length is not that of its regions"));
        }
        let regions: Vec<VhostUserMemoryRegion> =
            regions.chunks_exact(REGION).filter_map(VhostUserMemoryRegion::from_slice).copied().collect();
        let memory = Arc::new(Memory::map(&regions, message.files)?);
        for ring in 0..self.device.ring_count() {
            self.device.ring(ring).relocate(&memory)?;
        }
        self.memory = Some(memory);
        Ok(())
    }

    fn set_place(&self, message: &Message<'_>) -> Result<(), Fault> {
        let said: VhostUserVringAddr = message.value()?;
        let ring = self.ring(said.index)?;
        let place = Place {
            descriptors: said.descriptor,
            available: said.available,
            used: said.used,
            log: (said.flags & 1 != 0).then_some(said.log),
        };
        let mut ring = self.device.ring(ring);
        ring.place = Some(place);
        match &self.memory {
            Some(memory) => ring.relocate(memory),
            None => Ok(()),
        }
    }

    fn start(&mut self, message: Message<'_>) -> Result<(), Fault> {
        let (number, kick) = self.event(message)?;
        self.stop(number);
        let memory = self.memory.as_ref();
        let memory = memory.ok_or(Fault::Setup { ring: number, why: "there is no memory yet" })?;
        let has = |bit| self.features & bit != 0;
        let terms = Terms {
            event_idx: has(EVENT_IDX),
            mergeable: has(MRG_RXBUF),
            long_header: has(MRG_RXBUF) || has(VERSION_1),
            ecn: has(GUEST_ECN),
        };
        let no_wait = |_| Fault::Setup { ring: number, why: "its kicks cannot be waited for" };
        self.device.listen(number, kick.as_ref()).map_err(no_wait)?;
        let mut ring = self.device.ring(number);
        ring.start(memory, terms, kick)?;
        ring.set_log(self.log.clone().filter(|_| has(LOG_ALL)));
        ring.hush();
        drop(ring);
        self.device.wake_for(number);
        Ok(())
    }

    fn stop(&self, number: usize) -> u16 {
        let mut ring = self.device.ring(number);
        self.device.ignore(number, ring.kick());
        let next = ring.stop();
        ring.base = next;
        next
    }

    fn ring(&self, number: u32) -> Result<usize, Fault> {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        if index < self.device.ring_count() { Ok(index) } else { Err(Fault::NoRing(number)) }
    }

    fn state(&self, message: &Message<'_>) -> Result<(usize, u32), Fault> {
        let state: VhostUserVringState = message.value()?;
        Ok((self.ring(state.index)?, state.num))
    }

    /// The ring that an event descriptor is for, and the descriptor, if the message has one.
    fn event(&self, message: Message<'_>) -> Result<(usize, Option<OwnedFd>), Fault> {
        const NO_FILE: u64 = 1 << 8;
        let said = message.number()?;
        let ring = self.ring((said & 0xff) as u32)?;
        if said & NO_FILE != 0 {
            message.no_files()?;
            return Ok((ring, None));
        }
        let file = message.one_file()?;
        if !is_eventfd(&file) {
            return Err(Fault::Setup { ring, why: "what it sent for kicks and calls is no eventfd" });
        }
        // Another process with the descriptor could undo this; see decisions/0013.
        let flags = rustix::fs::fcntl_getfl(&file).unwrap_or(OFlags::empty());
        rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK)
            .map_err(|_| Fault::Setup { ring, why: "its eventfd cannot be made not to wait" })?;
        Ok((ring, Some(file)))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

/// A message and its decoded parts.
struct Message<'a> {
    header: Header,
    payload: &'a [u8],
    files: Vec<OwnedFd>,
}

impl Message<'_> {
    fn wrong(&self, why: &'static str) -> Fault {
        Fault::Message { request: self.header.request, len: self.header.len, why }
    }

    /// The payload as a single value.
    fn value<T: ByteValued>(&self) -> Result<T, Fault> {
        let mut value = T::zeroed();
        if self.payload.len() != size_of::<T>() {
            return Err(self.wrong("its length is wrong"));
        }
        value.as_mut_slice().copy_from_slice(self.payload);
        Ok(value)
    }

    fn number(&self) -> Result<u64, Fault> {
        self.value()
    }

    fn no_files(&self) -> Result<(), Fault> {
        if self.files.is_empty() { Ok(()) } else { Err(self.surplus()) }
    }

    fn one_file(mut self) -> Result<OwnedFd, Fault> {
        match self.files.len() {
            1 => Ok(self.files.pop().expect("there is one")),
            _ => Err(self.surplus()),
        }
    }

    fn surplus(&self) -> Fault {
        Fault::Descriptors { request: self.header.request, got: self.files.len() }
    }
}

/// Whether a file is an eventfd. Only an eventfd counts writes and never blocks a nonblocking writer: a pipe
/// would fill.
fn is_eventfd(file: &OwnedFd) -> bool {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    rustix::fs::readlink(path, Vec::new()).is_ok_and(|name| name.as_bytes() == b"anon_inode:[eventfd]")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU and the guest's driver read these bits by their numbers: VIRTIO 1.2 s.5.1.3 and s.6, and vhost-user's.
    #[test]
    fn features_have_their_numbers() {
        let numbers = [0, 1, 3, 7, 8, 9, 11, 12, 13, 15, 17, 22, 26, 28, 29, 30, 32, 54, 55, 56];
        assert_eq!(FEATURES, numbers.iter().fold(0, |all, n| all | 1 << n));
    }
}

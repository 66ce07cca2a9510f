//! The other side, in this process: QEMU's messages over the socket, and a driver's writes to its rings. It
//! can be as wrong as a test requires. (Real guests: `tests/system`.)

#![allow(dead_code, reason = "each user needs some of it")]

use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine::frame::{Batch, Frame, FramePool, HeapPool};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vhostuser::wire::Turn;
use vhostuser::{Connection, Device, Fault, Session};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Bytes of guest memory.
pub const MEMORY: usize = 2 << 20;
/// The address at which QEMU claims to have mapped the memory.
pub const USER: u64 = 0x7f00_0000_0000;
/// Entries in each ring.
pub const RING: u16 = 64;
/// Bytes reserved for each ring's three parts.
const RING_SPAN: u64 = 0x4000;
/// The first address for buffers.
pub const BUFFERS: u64 = 0x10_0000;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

pub const MERGEABLE: u64 = 1 << 15;
pub const EVENT_IDX: u64 = 1 << 29;
pub const VERSION_1: u64 = 1 << 32;
pub const LOG_ALL: u64 = 1 << 26;
pub const PROTOCOL: u64 = 1 << 30;
/// The features that a Linux guest accepts.
pub const USUAL: u64 =
    VERSION_1 | MERGEABLE | EVENT_IDX | PROTOCOL | 0b11 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12;

/// QEMU and its guest.
pub struct Driver {
    pub stream: UnixStream,
    pub memory: GuestMemoryMmap,
    pub file: OwnedFd,
    pub kicks: Vec<OwnedFd>,
    pub calls: Vec<OwnedFd>,
    /// Next free descriptor, and next place in the available ring, of each ring.
    pub rings: Vec<(u16, u16)>,
}

/// Our side.
pub struct Ours {
    pub device: Arc<Device>,
    pub connection: Connection,
    pub pool: HeapPool,
}

/// A file of guest memory; `seals` as QEMU sets them, or fewer.
pub fn memory_file(len: usize, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create(c"guest", flags).unwrap();
    ftruncate(&file, len as u64).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file
}

/// A connected pair without any message yet.
pub fn pair(pairs: usize) -> (Driver, Ours) {
    let file = memory_file(MEMORY, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL);
    let mapping =
        MmapRegion::from_file(FileOffset::new(file.try_clone().unwrap().into(), 0), MEMORY).unwrap();
    let memory =
        GuestMemoryMmap::from_regions(vec![GuestRegionMmap::new(mapping, GuestAddress(0)).unwrap()]).unwrap();
    let (theirs, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let event = || eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let driver = Driver {
        stream: theirs,
        memory,
        file,
        kicks: (0..pairs * 2).map(|_| event()).collect(),
        calls: (0..pairs * 2).map(|_| event()).collect(),
        rings: vec![(0, 0); pairs * 2],
    };
    let device = Arc::new(Device::new(pairs, 1).unwrap());
    let connection = Connection::new(ours, Session::new(device.clone()));
    (driver, Ours { device, connection, pool: HeapPool::new(256, 8) })
}

/// A connected pair whose rings run.
pub fn running(features: u64) -> (Driver, Ours) {
    let (mut driver, mut ours) = pair(1);
    driver.start(&mut ours, features).unwrap();
    assert!(ours.device.is_running());
    (driver, ours)
}

impl Ours {
    /// Handles all messages sent so far.
    pub fn listen(&mut self) -> Result<Turn, Fault> {
        loop {
            let turn = self.connection.turn()?;
            if turn != Turn::More {
                return Ok(turn);
            }
        }
    }

    /// The frames that the guest sent, as bytes, and their offload facts.
    pub fn receive(&mut self) -> Vec<(Vec<u8>, engine::frame::Offload)> {
        let mut batch = Batch::new();
        self.device.receive(0, &mut self.pool, &mut batch);
        let taken = batch.drain(..).map(|frame| {
            let taken = (self.pool.bytes(&frame).to_vec(), frame.offload);
            self.pool.free(frame);
            taken
        });
        taken.collect()
    }

    /// Sends frames; returns how many found no room.
    pub fn send(&mut self, frames: Vec<Frame>) -> usize {
        let mut frames = frames;
        self.device.send(0, &mut self.pool, &mut frames);
        let left = frames.len();
        frames.into_iter().for_each(|frame| self.pool.free(frame));
        left
    }

    pub fn frame(&mut self, bytes: &[u8]) -> Frame {
        self.pool.alloc_from(bytes).unwrap()
    }
}

impl Driver {
    pub fn say(&self, request: u32, payload: &[u8], files: &[BorrowedFd<'_>]) {
        self.say_raw([request, 1, payload.len() as u32], payload, files);
    }

    pub fn say_raw(&self, header: [u32; 3], payload: &[u8], files: &[BorrowedFd<'_>]) {
        let header: Vec<u8> = header.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        }
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        sendmsg(&self.stream, &parts, &mut control, SendFlags::empty()).unwrap();
    }

    pub fn number(&self, request: u32, number: u64) {
        self.say(request, &number.to_ne_bytes(), &[]);
    }

    pub fn state(&self, request: u32, ring: u32, value: u32) {
        let payload = [ring.to_ne_bytes(), value.to_ne_bytes()].concat();
        self.say(request, &payload, &[]);
    }

    /// The payload of one answer.
    pub fn answer(&mut self) -> (u32, Vec<u8>) {
        let mut header = [0; 12];
        self.stream.read_exact(&mut header).unwrap();
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!(word(4), 5, "an answer of version 1");
        let mut payload = vec![0; word(8) as usize];
        self.stream.read_exact(&mut payload).unwrap();
        (word(0), payload)
    }

    pub fn memory_table(&self, regions: &[[u64; 4]], files: &[BorrowedFd<'_>]) {
        let mut payload = (regions.len() as u64).to_ne_bytes().to_vec();
        payload.extend(regions.iter().flatten().flat_map(|n| n.to_ne_bytes()));
        self.say(5, &payload, files);
    }

    pub fn place(&self, ring: usize, flags: u32, log: u64) {
        let [descriptors, available, used] = self.parts(ring).map(|at| at + USER);
        let mut payload = [(ring as u32).to_ne_bytes(), flags.to_ne_bytes()].concat();
        payload.extend([descriptors, used, available, log].into_iter().flat_map(u64::to_ne_bytes));
        self.say(9, &payload, &[]);
    }

    pub fn event(&self, request: u32, ring: usize, file: &OwnedFd) {
        self.say(request, &(ring as u64).to_ne_bytes(), &[file.as_fd()]);
    }

    /// Sends all messages of a start in QEMU 7.2's order: rings are enabled before the features are set.
    pub fn start(&mut self, ours: &mut Ours, features: u64) -> Result<(), Fault> {
        for request in [1, 15, 17] {
            self.say(request, &[], &[]);
        }
        ours.listen()?;
        for request in [1, 15, 17] {
            assert_eq!(self.answer().0, request);
        }
        self.number(16, 0b1111);
        self.say(3, &[], &[]);
        for ring in 0..self.rings.len() {
            self.state(18, ring as u32, 1);
        }
        self.number(2, features);
        self.memory_table(&[[0, MEMORY as u64, USER, 0]], &[self.file.as_fd()]);
        for ring in 0..self.rings.len() {
            self.state(8, ring as u32, RING.into());
            self.state(10, ring as u32, self.rings[ring].1.into());
            self.place(ring, 0, 0);
            self.event(12, ring, &self.kicks[ring]);
            self.event(13, ring, &self.calls[ring]);
        }
        ours.listen().map(drop)
    }

    /// The addresses of descriptor table, available ring and used ring.
    pub fn parts(&self, ring: usize) -> [u64; 3] {
        let at = 0x1000 + ring as u64 * RING_SPAN;
        [at, at + 0x1000, at + 0x2000]
    }

    pub fn write(&self, bytes: &[u8], at: u64) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    pub fn word(&self, at: u64) -> u16 {
        self.memory.load(GuestAddress(at), Ordering::SeqCst).unwrap()
    }

    pub fn set_word(&self, at: u64, word: u16) {
        self.memory.store(word, GuestAddress(at), Ordering::SeqCst).unwrap();
    }

    /// Writes one entry of a descriptor table.
    pub fn descriptor(&self, table: u64, index: u16, (at, len): (u64, u32), flags: u16, next: u16) {
        let mut bytes = at.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(&bytes, table + u64::from(index) * 16);
    }

    /// Offers a chain of these buffers. Returns its head.
    pub fn offer(&mut self, ring: usize, buffers: &[(u64, u32)], flags: u16) -> u16 {
        let table = self.parts(ring)[0];
        let head = self.rings[ring].0;
        for (n, buffer) in buffers.iter().enumerate() {
            let index = self.rings[ring].0;
            let next = (index + 1) % RING;
            let more = if n + 1 < buffers.len() { NEXT } else { 0 };
            self.descriptor(table, index, *buffer, flags | more, next);
            self.rings[ring].0 = next;
        }
        self.offer_head(ring, head);
        head
    }

    /// Makes a chain available.
    pub fn offer_head(&mut self, ring: usize, head: u16) {
        let available = self.parts(ring)[1];
        let next = self.rings[ring].1;
        self.set_word(available + 4 + u64::from(next % RING) * 2, head);
        self.rings[ring].1 = next.wrapping_add(1);
        self.set_word(available + 2, self.rings[ring].1);
    }

    /// Entries used so far.
    pub fn used_count(&self, ring: usize) -> u16 {
        self.word(self.parts(ring)[2] + 2)
    }

    /// Used entry `n`: head and length.
    pub fn used(&self, ring: usize, n: u16) -> (u32, u32) {
        let bytes = self.read(self.parts(ring)[2] + 4 + u64::from(n % RING) * 8, 8);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        (word(0), word(4))
    }

    /// Requests a call when entry `n` is used.
    pub fn call_at(&self, ring: usize, n: u16) {
        self.set_word(self.parts(ring)[1] + 4 + u64::from(RING) * 2, n);
    }

    /// The available entry at which the device requests a kick.
    pub fn kick_at(&self, ring: usize) -> u16 {
        self.word(self.parts(ring)[2] + 4 + u64::from(RING) * 8)
    }

    /// Calls since the last look.
    pub fn called(&self, ring: usize) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.calls[ring], &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(_) => 0,
        }
    }

    pub fn kick(&self, ring: usize) {
        rustix::io::write(&self.kicks[ring], &1u64.to_ne_bytes()).unwrap();
    }
}

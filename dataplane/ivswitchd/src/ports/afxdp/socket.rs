//! One AF_XDP socket: a queue of an interface, with its four rings. System calls only; [`super::AfxdpPort`]
//! deals with the contents of the rings.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use engine::limits::SLOT_SMALL_LEN;
use libc::{xdp_desc, xdp_mmap_offsets, xdp_ring_offset, xdp_statistics};

use super::ring::{Consumer, Producer, RingMemory};
use crate::ports::umem::UmemHandle;

/// Entries of each ring. A power of two. A veth's own queue has 256; this rides out a worker that is
/// descheduled for half a millisecond at 3 million frames a second.
pub const RING_LEN: u32 = 2048;

/// `XDP_MAX_TX_SKB_BUDGET` (since Linux 6.17, not in libc yet): how many frames one `sendto` may move in
/// copy mode. Without it, 32.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;

/// How a socket is bound to its queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BindMode {
    /// The driver reads and writes frames in place.
    pub zero_copy: bool,
    /// Frames longer than a chunk come and go in several descriptors.
    pub multi_buffer: bool,
}

/// A failed step of setting up a socket.
#[derive(Debug)]
pub struct SocketError {
    /// The step.
    pub what: &'static str,
    /// The kernel's error.
    pub cause: io::Error,
}

/// `struct xdp_umem_reg`. Older definitions end in padding where newer kernels read a length.
#[repr(C)]
struct Registration {
    addr: u64,
    len: u64,
    chunk_size: u32,
    headroom: u32,
    flags: u32,
    tx_metadata_len: u32,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> SocketError {
    move |cause| SocketError { what, cause }
}

/// A ring's mapping.
#[derive(Debug)]
struct RingMap {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is reached only through the ring side built on it.
unsafe impl Send for RingMap {}

impl Drop for RingMap {
    fn drop(&mut self) {
        // SAFETY: base and length came from mmap. The `Queue` that owns this drops the ring sides with it;
        // they do nothing on drop.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A socket with memory and rings, not yet bound: the fill ring can be filled first.
#[derive(Debug)]
pub struct Queue {
    /// Frames received.
    pub rx: Consumer<xdp_desc>,
    /// Chunks for the kernel to receive into.
    pub fill: Producer<u64>,
    /// Frames to send.
    pub tx: Producer<xdp_desc>,
    /// Chunks whose frame was sent.
    pub completion: Consumer<u64>,
    fd: RawFd,
    _maps: [RingMap; 4],
}

impl Queue {
    /// A socket with `umem` registered and four rings of [`RING_LEN`] entries. The descriptor is handed
    /// over separately: it must stay open as long as the `Queue` is used.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn new(umem: &UmemHandle) -> Result<(Self, OwnedFd), SocketError> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(failed("AF_XDP socket")(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is new, and this is its only owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let (addr, len) = umem.area();
        let chunk_size = SLOT_SMALL_LEN as u32;
        let registration = Registration { addr, len, chunk_size, headroom: 0, flags: 0, tx_metadata_len: 0 };
        set_option(&fd, libc::XDP_UMEM_REG, &registration).map_err(failed("register frame memory"))?;
        for (option, what) in [
            (libc::XDP_UMEM_FILL_RING, "fill ring"),
            (libc::XDP_UMEM_COMPLETION_RING, "completion ring"),
            (libc::XDP_RX_RING, "receive ring"),
            (libc::XDP_TX_RING, "transmit ring"),
        ] {
            set_option(&fd, option, &RING_LEN).map_err(failed(what))?;
        }
        raise_limits(&fd);

        Ok((Self::map(&fd)?, fd))
    }

    /// The rings of a socket that a process before this one made with [`Queue::new`] and bound.
    ///
    /// # Errors
    /// When the descriptor is not such a socket.
    pub fn resume(fd: &OwnedFd) -> Result<Self, SocketError> {
        Self::map(fd)
    }

    fn map(fd: &OwnedFd) -> Result<Self, SocketError> {
        let offsets = mmap_offsets(fd).map_err(failed("ring layout"))?;
        let desc_len = size_of::<xdp_desc>();
        let rx = map_ring(fd, &offsets.rx, desc_len, libc::XDP_PGOFF_RX_RING)?;
        let tx = map_ring(fd, &offsets.tx, desc_len, libc::XDP_PGOFF_TX_RING)?;
        let fill = map_ring(fd, &offsets.fr, 8, libc::XDP_UMEM_PGOFF_FILL_RING as i64)?;
        let completion = map_ring(fd, &offsets.cr, 8, libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64)?;
        // SAFETY: the mappings live in the same `Queue` as the ring sides, hold RING_LEN entries each,
        // and the kernel is on the other side of each. Any bits are a valid `xdp_desc` or `u64`.
        let queue = unsafe {
            Self {
                rx: Consumer::new(parts(&rx, &offsets.rx)),
                fill: Producer::new(parts(&fill, &offsets.fr)),
                tx: Producer::new(parts(&tx, &offsets.tx)),
                completion: Consumer::new(parts(&completion, &offsets.cr)),
                fd: fd.as_raw_fd(),
                _maps: [rx, tx, fill, completion],
            }
        };
        Ok(queue)
    }

    /// Binds to queue `index` of an interface. From now on the kernel may use the rings.
    ///
    /// # Errors
    /// Returns the kernel's error; `EBUSY`: another socket has that queue.
    pub fn bind(&self, interface: u32, index: u32, mode: BindMode) -> io::Result<()> {
        let mut flags = libc::XDP_USE_NEED_WAKEUP;
        flags |= if mode.zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
        if mode.multi_buffer {
            flags |= libc::XDP_USE_SG;
        }
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: flags,
            sxdp_ifindex: interface,
            sxdp_queue_id: index,
            sxdp_shared_umem_fd: 0,
        };
        let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
        // SAFETY: the pointer and length describe `address`.
        let done = unsafe { libc::bind(self.fd, (&raw const address).cast(), len) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Kicks this socket, see [`kick_tx`].
    #[inline]
    pub fn kick_tx(&self) -> io::Result<()> {
        kick_tx(self.fd)
    }

    /// Makes the kernel look at the fill ring. Its errors add nothing to those of `kick_tx`.
    #[inline]
    pub fn kick_rx(&self) {
        let null = std::ptr::null_mut();
        // SAFETY: no memory is passed.
        unsafe { libc::recvfrom(self.fd, null, 0, libc::MSG_DONTWAIT, null.cast(), null.cast()) };
    }
}

/// Makes the kernel look at the transmit ring. In copy mode the frames are sent within the call.
///
/// # Errors
/// `EAGAIN`, `EBUSY`, `ENOBUFS`: not all could be sent now. `ENETDOWN`: the interface is down. Other errors:
/// the interface is gone.
#[inline]
pub fn kick_tx(socket: RawFd) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let done = unsafe { libc::sendto(socket, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets one kick move a whole ring. Failures are ignored: one kick then moves fewer frames.
pub fn raise_limits(socket: &OwnedFd) {
    let _ = set_option(socket, XDP_MAX_TX_SKB_BUDGET, &RING_LEN);
    set_send_buffer(socket);
}

/// The kernel's counters of a socket.
///
/// # Errors
/// Returns the kernel's error.
pub fn statistics(fd: &OwnedFd) -> io::Result<xdp_statistics> {
    let mut stats = xdp_statistics {
        rx_dropped: 0,
        rx_invalid_descs: 0,
        tx_invalid_descs: 0,
        rx_ring_full: 0,
        rx_fill_ring_empty_descs: 0,
        tx_ring_empty_descs: 0,
    };
    get_option(fd, libc::XDP_STATISTICS, &mut stats)?;
    Ok(stats)
}

fn mmap_offsets(fd: &OwnedFd) -> io::Result<xdp_mmap_offsets> {
    let none = || xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
    let mut offsets = xdp_mmap_offsets { rx: none(), tx: none(), fr: none(), cr: none() };
    get_option(fd, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    Ok(offsets)
}

fn map_ring(
    fd: &OwnedFd,
    offset: &xdp_ring_offset,
    entry_len: usize,
    at: i64,
) -> Result<RingMap, SocketError> {
    let len = offset.desc as usize + RING_LEN as usize * entry_len;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
    // SAFETY: a new mapping at an address that the kernel chooses; it aliases nothing.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd.as_raw_fd(), at) };
    if base == libc::MAP_FAILED {
        return Err(failed("map ring")(io::Error::last_os_error()));
    }
    Ok(RingMap { base: NonNull::new(base.cast()).expect("mmap does not return null"), len })
}

fn parts<T>(map: &RingMap, offset: &xdp_ring_offset) -> RingMemory<T> {
    let at = |offset: u64| {
        assert!((offset as usize) < map.len, "the kernel's ring layout lies outside the ring");
        // SAFETY: the offset lies inside the mapping.
        unsafe { map.base.add(offset as usize) }
    };
    RingMemory {
        producer: at(offset.producer).cast::<AtomicU32>(),
        consumer: at(offset.consumer).cast::<AtomicU32>(),
        flags: at(offset.flags).cast::<AtomicU32>(),
        entries: at(offset.desc).cast::<T>(),
        size: RING_LEN,
    }
}

fn set_option<T>(fd: &OwnedFd, option: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`.
    let done = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_XDP, option, std::ptr::from_ref(value).cast(), len)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn get_option<T>(fd: &OwnedFd, option: i32, value: &mut T) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`, whose types here are plain integers.
    let done = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            option,
            std::ptr::from_mut(value).cast(),
            &raw mut len,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    if len as usize != size_of::<T>() {
        return Err(io::Error::other(
            "the kernel is too old for AF_XDP as used here (5.9 or newer is needed)",
        ));
    }
    Ok(())
}

/// Raises the send buffer: copy mode counts frames in flight against it, and the default stops at some 277.
fn set_send_buffer(fd: &OwnedFd) {
    let bytes: i32 = 16 << 20;
    let len = size_of::<i32>() as libc::socklen_t;
    for option in [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF] {
        // SAFETY: the pointer and length describe `bytes`.
        let done = unsafe {
            libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const bytes).cast(), len)
        };
        if done == 0 {
            return;
        }
    }
}

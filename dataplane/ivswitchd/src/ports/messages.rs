//! Many messages per system call: `recvmmsg` and `sendmmsg`, with their control data.
//!
//! Unsafe because the kernel is given pointers. All point to this structure's own vectors, which never grow beyond
//! their initial capacity and so never move, or to slots of frames that the caller holds during the call.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use engine::limits::BATCH_LEN;
use engine::wire::virtio_net::HEADER_LEN;
use libc::{c_int, iovec, mmsghdr, msghdr};

/// Bytes of control data that a message may have.
const CONTROL_LEN: usize = 128;

/// `struct cmsghdr`: length, level, type; data is aligned to the length's size.
const CMSG_HEADER: usize = 16;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_LEN]);

/// A socket address of either family.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Name([u8; 32]);

/// Up to a batch of messages, on their way in or out.
pub struct Messages {
    headers: Vec<mmsghdr>,
    places: Vec<[iovec; 3]>,
    leads: Vec<[u8; HEADER_LEN]>,
    control: Vec<Control>,
    names: Vec<Name>,
}

// SAFETY: only the kernel follows the pointers in it, during calls made here, after they were set again.
unsafe impl Send for Messages {}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messages").field("count", &self.headers.len()).finish_non_exhaustive()
    }
}

impl Messages {
    /// Starts without messages.
    pub fn new() -> Self {
        Self {
            headers: Vec::with_capacity(BATCH_LEN),
            places: Vec::with_capacity(BATCH_LEN),
            leads: Vec::with_capacity(BATCH_LEN),
            control: Vec::with_capacity(BATCH_LEN),
            names: Vec::with_capacity(BATCH_LEN),
        }
    }

    /// Forgets all messages.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.places.clear();
        self.leads.clear();
        self.control.clear();
        self.names.clear();
    }

    /// The number of messages.
    pub fn count(&self) -> usize {
        self.headers.len()
    }

    /// Adds a message to receive into these places, with control data, and with its sender if `named`.
    pub fn push_receive(&mut self, (places, count): ([iovec; 3], usize), named: bool) {
        self.push(places, 0, count);
        let at = self.headers.len() - 1;
        let header = &mut self.headers[at].msg_hdr;
        header.msg_control = self.control[at].0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_LEN as _;
        if named {
            header.msg_name = self.names[at].0.as_mut_ptr().cast();
            header.msg_namelen = size_of::<Name>() as u32;
        }
    }

    /// Adds a message to send: a virtio-net header, and the frame.
    pub fn push_send(&mut self, lead: [u8; HEADER_LEN], bytes: &[u8]) {
        let at = self.headers.len();
        self.push([place_of(bytes); 3], 0, 2);
        self.leads[at] = lead;
        self.places[at][0] = iovec { iov_base: self.leads[at].as_mut_ptr().cast(), iov_len: HEADER_LEN };
    }

    /// Adds a datagram to send to this address, with control data as `(level, type, value)`, the value in the
    /// machine's byte order.
    pub fn push_datagram(&mut self, bytes: &[u8], to: SocketAddr, control: &[(c_int, c_int, &[u8])]) {
        let at = self.headers.len();
        self.push([place_of(bytes); 3], 0, 1);
        let name_len = write_name(&mut self.names[at].0, to);
        let buffer = &mut self.control[at].0;
        let mut end = 0;
        for &(level, kind, value) in control {
            buffer[end..end + 8].copy_from_slice(&(CMSG_HEADER + value.len()).to_ne_bytes());
            buffer[end + 8..end + 12].copy_from_slice(&level.to_ne_bytes());
            buffer[end + 12..end + 16].copy_from_slice(&kind.to_ne_bytes());
            buffer[end + CMSG_HEADER..end + CMSG_HEADER + value.len()].copy_from_slice(value);
            end += CMSG_HEADER + value.len().next_multiple_of(8);
        }
        let header = &mut self.headers[at].msg_hdr;
        header.msg_name = self.names[at].0.as_mut_ptr().cast();
        header.msg_namelen = name_len;
        header.msg_control = self.control[at].0.as_mut_ptr().cast();
        header.msg_controllen = end as _;
    }

    fn push(&mut self, places: [iovec; 3], from: usize, count: usize) {
        assert!(self.headers.len() < BATCH_LEN, "a batch at most: the vectors must not move");
        let at = self.headers.len();
        self.places.push(places);
        self.leads.push([0; HEADER_LEN]);
        self.control.push(Control([0; CONTROL_LEN]));
        self.names.push(Name([0; 32]));
        // SAFETY: `msghdr` is plain data for which all zeroes is valid.
        let mut header: msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = self.places[at][from..].as_mut_ptr();
        header.msg_iovlen = count as _;
        self.headers.push(mmsghdr { msg_hdr: header, msg_len: 0 });
    }

    /// Receives the waiting messages, up to the number that was added. Never blocks.
    ///
    /// # Errors
    /// The kernel's error; `WouldBlock` when none waits.
    pub fn receive(&mut self, socket: &OwnedFd) -> io::Result<usize> {
        let (headers, count) = (self.headers.as_mut_ptr(), self.headers.len() as u32);
        // SAFETY: every header's pointers lead to our own live vectors, or to slots that the caller reserved.
        let got = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT as _, std::ptr::null_mut())
        };
        if got < 0 { Err(io::Error::last_os_error()) } else { Ok(got as usize) }
    }

    /// Sends the messages from `first` on. Never blocks.
    ///
    /// # Errors
    /// The kernel's error for the first message.
    pub fn send(&mut self, socket: &OwnedFd, first: usize) -> io::Result<usize> {
        let headers = &mut self.headers[first..];
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: as in `receive`; the kernel only reads through the pointers.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as u32, flags as _)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }

    /// Bytes of a received message, as far as they fitted.
    pub fn len(&self, at: usize) -> usize {
        self.headers[at].msg_len as usize
    }

    /// Bytes of the largest of the first `got` received messages.
    pub fn largest(&self, got: usize) -> usize {
        self.headers[..got].iter().map(|header| header.msg_len as usize).max().unwrap_or(0)
    }

    /// Whether a received message was truncated.
    pub fn is_cut(&self, at: usize) -> bool {
        self.headers[at].msg_hdr.msg_flags & libc::MSG_TRUNC != 0
    }

    /// The control data of this kind that came with a message.
    pub fn control(&self, at: usize, level: c_int, kind: c_int) -> Option<&[u8]> {
        let buffer = &self.control[at].0;
        let end = self.headers[at].msg_hdr.msg_controllen.min(CONTROL_LEN);
        let mut from = 0;
        while from + CMSG_HEADER <= end {
            let word = |at: usize| c_int::from_ne_bytes(buffer[at..at + 4].try_into().expect("four bytes"));
            let len = usize::from_ne_bytes(buffer[from..from + 8].try_into().expect("eight bytes"));
            if len < CMSG_HEADER || from + len > end {
                return None;
            }
            if (word(from + 8), word(from + 12)) == (level, kind) {
                return Some(&buffer[from + CMSG_HEADER..from + len]);
            }
            from += len.next_multiple_of(8);
        }
        None
    }

    /// The sender of a message.
    pub fn sender(&self, at: usize) -> Option<SocketAddr> {
        read_name(&self.names[at].0)
    }
}

fn place_of(bytes: &[u8]) -> iovec {
    iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn write_name(name: &mut [u8; 32], to: SocketAddr) -> u32 {
    name[2..4].copy_from_slice(&to.port().to_be_bytes());
    match to.ip() {
        IpAddr::V4(ip) => {
            name[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            name[4..8].copy_from_slice(&ip.octets());
            size_of::<libc::sockaddr_in>() as u32
        }
        IpAddr::V6(ip) => {
            name[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            name[8..24].copy_from_slice(&ip.octets());
            size_of::<libc::sockaddr_in6>() as u32
        }
    }
}

fn read_name(name: &[u8; 32]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([name[2], name[3]]);
    match i32::from(u16::from_ne_bytes([name[0], name[1]])) {
        libc::AF_INET => Some(([name[4], name[5], name[6], name[7]], port).into()),
        libc::AF_INET6 => {
            let octets: [u8; 16] = name[8..24].try_into().ok()?;
            Some((octets, port).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_there_and_back() {
        for text in ["10.0.0.11:4789", "[fd00::11]:4789"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut name = [0; 32];
            write_name(&mut name, address);
            assert_eq!(read_name(&name), Some(address));
        }
        assert_eq!(read_name(&[0; 32]), None);
    }

    #[test]
    fn control_data_is_found_by_its_kind() {
        let mut messages = Messages::new();
        let (short, long) = (1400_u16.to_ne_bytes(), 3_i32.to_ne_bytes());
        let control = [(17, 103, &short[..]), (0, 8, &[7; 20]), (0, 1, &long)];
        messages.push_datagram(b"x", "10.0.0.1:1".parse().unwrap(), &control);
        assert_eq!(messages.control(0, 0, 8), Some(&[7; 20][..]));
        assert_eq!(messages.control(0, 17, 103), Some(&1400_u16.to_ne_bytes()[..]));
        assert_eq!(messages.control(0, 0, 1), Some(&3_i32.to_ne_bytes()[..]));
        assert_eq!(messages.control(0, 0, 2), None);
    }
}

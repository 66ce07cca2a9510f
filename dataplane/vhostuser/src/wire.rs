//! Reads messages from the socket, and writes answers. Never waits.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};

use crate::session::{Header, REPLY, VERSION, VERSION_MASK};
use crate::{Fault, REGIONS_MAX, Session};

const HEADER_LEN: usize = 12;

/// The longest payload behind a header: a memory table of [`REGIONS_MAX`] regions.
const PAYLOAD_MAX: usize = 8 + 32 * REGIONS_MAX;

/// Messages per turn, so that a flood of them cannot starve other sockets.
const MESSAGES_PER_TURN: usize = 64;

/// A connection to QEMU, and the received part of a message.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    session: Session,
    buffer: [u8; HEADER_LEN + PAYLOAD_MAX],
    have: usize,
    files: Vec<OwnedFd>,
}

/// The result of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// No more messages have arrived.
    Idle,
    /// More messages may be waiting.
    More,
    /// QEMU closed the connection.
    Closed,
}

impl Connection {
    /// A session over this stream, which must not block.
    #[must_use]
    pub const fn new(stream: UnixStream, session: Session) -> Self {
        Self { stream, session, buffer: [0; HEADER_LEN + PAYLOAD_MAX], have: 0, files: Vec::new() }
    }

    /// The session.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Reads and answers the messages that have arrived.
    ///
    /// # Errors
    /// A message that QEMU never sends, or a socket failure: the caller must close the connection.
    pub fn turn(&mut self) -> Result<Turn, Fault> {
        for _ in 0..MESSAGES_PER_TURN {
            let wanted = match self.header()? {
                Some(header) => HEADER_LEN + header.len as usize,
                None => HEADER_LEN,
            };
            if self.have < wanted {
                match self.read(wanted)? {
                    Some(0) => return Ok(Turn::Closed),
                    Some(_) => continue,
                    None => return Ok(Turn::Idle),
                }
            }
            let header = self.header()?.expect("it is complete");
            let files = std::mem::take(&mut self.files);
            self.have = 0;
            let payload = &self.buffer[HEADER_LEN..wanted];
            if let Some(answer) = self.session.handle(header, payload, files)? {
                self.answer(header, &answer)?;
            }
            // A header alone is complete once it is read.
        }
        Ok(Turn::More)
    }

    /// The header, once it has arrived, if it is valid.
    fn header(&self) -> Result<Option<Header>, Fault> {
        if self.have < HEADER_LEN {
            return Ok(None);
        }
        let word = |at: usize| u32::from_ne_bytes(self.buffer[at..at + 4].try_into().expect("four bytes"));
        let header = Header { request: word(0), flags: word(4), len: word(8) };
        let wrong = |why| Fault::Message { request: header.request, len: header.len, why };
        if header.flags & VERSION_MASK != VERSION || header.flags & REPLY != 0 {
            return Err(wrong("it is no request of version 1"));
        }
        if header.len as usize > PAYLOAD_MAX {
            return Err(wrong("it is too long"));
        }
        Ok(Some(header))
    }

    /// Reads up to `wanted` bytes in all. `None`: no bytes have arrived.
    fn read(&mut self, wanted: usize) -> Result<Option<usize>, Fault> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(REGIONS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let place = &mut self.buffer[self.have..wanted];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = match recvmsg(&self.stream, &mut [IoSliceMut::new(place)], &mut control, flags) {
            Ok(got) => got,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(Errno::CONNRESET) => return Ok(Some(0)),
            Err(error) => return Err(Fault::Socket(error.to_string())),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.extend(files);
            }
        }
        // More descriptors than any message has: the kernel closes those that did not fit.
        if got.flags.contains(ReturnFlags::CTRUNC) || self.files.len() > REGIONS_MAX {
            let request = u32::from_ne_bytes(self.buffer[..4].try_into().expect("four bytes"));
            return Err(Fault::Descriptors { request, got: self.files.len() });
        }
        self.have += got.bytes;
        Ok(Some(got.bytes))
    }

    fn answer(&self, to: Header, payload: &[u8]) -> Result<(), Fault> {
        let mut message = Vec::with_capacity(HEADER_LEN + payload.len());
        for word in [to.request, VERSION | REPLY, payload.len() as u32] {
            message.extend(word.to_ne_bytes());
        }
        message.extend(payload);
        match send(&self.stream, &message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) if sent == message.len() => Ok(()),
            Ok(_) | Err(Errno::AGAIN) => Err(Fault::Socket("QEMU does not read our answers".to_owned())),
            // QEMU closed the connection; the next read reports it.
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(error) => Err(Fault::Socket(error.to_string())),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

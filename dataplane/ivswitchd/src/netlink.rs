//! Netlink sockets for rtnetlink: one that asks (and waits for the answer), one that listens.
//!
//! The kernel answers a request immediately, so the asking socket blocks; a receive timeout bounds the wait
//! nevertheless. The listening socket never blocks: it sits in the control thread's poll.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt;

/// Bytes of `struct nlmsghdr`.
const HEADER_LEN: usize = 16;

/// From `linux/netlink.h` and `linux/rtnetlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
/// The request for nexthop objects.
pub const RTM_GETNEXTHOP: u16 = 106;

/// The kernel's time limit for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Restarts of a dump whose table changed during the read.
const DUMP_RETRIES: u32 = 4;

/// Bytes of events that may wait while the control thread is busy. Beyond this the kernel reports an overrun
/// and everything is read again.
const MONITOR_BUFFER_LEN: usize = 1 << 20;

/// Sends requests to the kernel and waits for the answers.
pub struct Requester {
    socket: Socket,
    sequence: u32,
}

impl Requester {
    /// Opens the socket.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Errors then come with the kernel's own words, and dumps honour the filter in the request. Kernels
        // that are too old for either still answer.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Applies a change.
    ///
    /// # Errors
    /// The kernel's refusal, or a missing answer.
    pub fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.answers(sequence, |_| ()).map(|_| ())
    }

    /// Requests one object.
    ///
    /// # Errors
    /// The kernel's refusal (`ENODEV` for a missing interface), or a missing answer.
    pub fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_ACK)?;
        let mut found = None;
        self.answers(sequence, |message| found = Some(message))?;
        Ok(found)
    }

    /// Requests a whole table.
    ///
    /// # Errors
    /// The kernel's refusal, or a missing answer.
    pub fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_RETRIES {
            let sequence = self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            let mut all = Vec::new();
            if self.answers(sequence, |message| all.push(message))? {
                return Ok(all);
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the table kept changing while it was read"))
    }

    /// Requests all objects of a type that the netlink library does not know; returns the bodies of the answers.
    ///
    /// # Errors
    /// The kernel's refusal, or a missing answer.
    pub fn dump_raw(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let sequence = self.next_sequence();
        let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
        bytes.extend(((HEADER_LEN + body.len()) as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        let mut bodies = Vec::new();
        loop {
            let (datagram, from) = self.socket.recv_from_full()?;
            let ours = |(header, _): &(NetlinkHeader, &[u8])| header.sequence_number == sequence;
            for (header, message) in parts(&datagram).filter(|_| from.port_number() == 0).filter(ours) {
                let body = &message[HEADER_LEN..];
                let code = || body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                match header.message_type {
                    NLMSG_DONE | NLMSG_ERROR if code() < 0 => {
                        return Err(io::Error::from_raw_os_error(-code()));
                    }
                    NLMSG_DONE | NLMSG_ERROR => return Ok(bodies),
                    _ => bodies.push(body.to_vec()),
                }
            }
        }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.next_sequence();
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        Ok(self.sequence)
    }

    /// Reads answers to `sequence` up to the last. Returns true if they are consistent.
    fn answers(&mut self, sequence: u32, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<bool> {
        let mut consistent = true;
        loop {
            let (datagram, from) = self.socket.recv_from_full()?;
            if from.port_number() != 0 {
                continue; // Not from the kernel.
            }
            for (header, payload) in messages(&datagram) {
                if header.sequence_number != sequence {
                    continue; // An answer to an earlier request that timed out.
                }
                consistent &= header.flags & NLM_F_DUMP_INTR == 0;
                match payload {
                    Ok(NetlinkPayload::InnerMessage(message)) => each(message),
                    Ok(NetlinkPayload::Done(done)) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    Ok(NetlinkPayload::Done(_)) => return Ok(consistent),
                    Ok(NetlinkPayload::Error(error)) => {
                        return match error.code {
                            None => Ok(consistent),
                            Some(_) => Err(error.to_io()),
                        };
                    }
                    Ok(_) => {}
                    Err(error) => tracing::debug!("netlink: an answer was not understood: {error}"),
                }
            }
        }
    }
}

/// Receives every change of links, addresses, rules, routes, nexthop objects and neighbours.
pub struct Monitor {
    socket: Socket,
}

/// An event from a [`Monitor`].
pub enum Heard {
    /// A change.
    Message(RouteNetlinkMessage),
    /// A nexthop object changed.
    NextHop,
    /// Changes were lost: read everything again.
    Overrun,
}

impl Monitor {
    /// Opens the socket and joins the groups. From now on no change is missed.
    ///
    /// # Errors
    /// The kernel refused the socket or a group.
    pub fn open() -> io::Result<Self> {
        const GROUPS: [u32; 8] = [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_NEIGH,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_RULE,
        ];
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, MONITOR_BUFFER_LEN).is_err() {
            socket.set_rx_buf_sz(i32::try_from(MONITOR_BUFFER_LEN).expect("fits"))?;
        }
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        // Kernels before Linux 5.3 have no nexthop objects, and refuse.
        let _ = socket.add_membership(libc::RTNLGRP_NEXTHOP);
        Ok(Self { socket })
    }

    /// Takes the waiting events in order, up to `limit` datagrams. Returns false if more may wait.
    ///
    /// # Errors
    /// The socket is unusable.
    pub fn poll(&mut self, limit: usize, mut each: impl FnMut(Heard)) -> io::Result<bool> {
        for _ in 0..limit {
            match self.socket.recv_from_full() {
                Ok((datagram, from)) if from.port_number() == 0 => {
                    for (header, payload) in messages(&datagram) {
                        if matches!(header.message_type, RTM_NEWNEXTHOP | RTM_DELNEXTHOP) {
                            each(Heard::NextHop);
                            continue;
                        }
                        match payload {
                            Ok(NetlinkPayload::InnerMessage(message)) => each(Heard::Message(message)),
                            Ok(NetlinkPayload::Overrun(_)) => each(Heard::Overrun),
                            Ok(_) => {}
                            Err(error) => tracing::debug!("netlink: an event was not understood: {error}"),
                        }
                    }
                }
                Ok(_) => {} // Not from the kernel.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => each(Heard::Overrun),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

type Payload = Result<NetlinkPayload<RouteNetlinkMessage>, netlink_packet_core::DecodeError>;

/// The messages of one datagram. A message that cannot be parsed does not hide those behind it.
fn messages(datagram: &[u8]) -> impl Iterator<Item = (NetlinkHeader, Payload)> + '_ {
    parts(datagram).map(|(header, message)| {
        (header, NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).map(|m| m.into_parts().1))
    })
}

/// The messages of one datagram, each with a parsed header.
fn parts(datagram: &[u8]) -> impl Iterator<Item = (NetlinkHeader, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        if len < HEADER_LEN || len > rest.len() {
            return None;
        }
        let (message, behind) = rest.split_at(len);
        rest = behind.get(len.next_multiple_of(4) - len..).unwrap_or_default();
        let word = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
        let mut header = NetlinkHeader::default();
        header.length = len as u32;
        header.message_type = word(4);
        header.flags = word(6);
        header.sequence_number = u32::from_ne_bytes([message[8], message[9], message[10], message[11]]);
        Some((header, message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forged lengths end the datagram; they cause neither a panic nor a loop.
    #[test]
    fn lying_lengths_end_the_datagram() {
        for bytes in [&[][..], &[1, 0, 0], &[0; 16], &[255; 20], &[16, 0, 0, 0, 2, 0]] {
            assert_eq!(messages(bytes).count(), 0, "{bytes:?}");
        }
        // A done message of 16 + 4 bytes, then random bytes.
        let mut bytes = vec![20, 0, 0, 0, 3, 0, 2, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend([7; 5]);
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].0.sequence_number, 9);
        assert!(matches!(all[0].1, Ok(NetlinkPayload::Done(_))));
    }
}

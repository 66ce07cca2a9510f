//! The uplink through UDP sockets: tunnel packets only, on every kernel and every NIC.
//!
//! The engine gives and takes whole outer frames; this port removes and adds their Ethernet, IP and UDP
//! headers, since the kernel makes its own. Fields that matter accompany the payload: hop limit and traffic
//! class as control data, the entropy of the source port by the choice of one of several sockets that are
//! bound to different ports (peers accept any, RFC 7348 §5). A GSO packet leaves by `UDP_SEGMENT` and arrives
//! by `UDP_GRO`: one datagram to us, up to 64 on the wire. Checksums are always filled in: the kernel insists
//! on them for GSO packets, and does not coalesce datagrams without one.
//!
//! Not for floating IPs held here: their packets are not our datagrams. Such a configuration is refused.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use ctl::io::{KernelDrops, OpenPort, PortFacts};
use engine::forward::fit;
use engine::frame::{Batch, Frame, FramePool, GsoKind, Offload};
use engine::limits::BATCH_LEN;
use engine::port::{Port, PortCaps};
use engine::time::Instant;
use engine::wire::mac::MacAddr;

use super::landing::Landing;
use super::lane::{Appetite, Lane, LaneError, LaneShared, Refusal, deafen, refusal, set};
use super::messages::Messages;
use super::umem::UmemPool;

/// Sockets to send from, each with its own source port: paths that the underlay can tell apart.
const SOURCES: usize = 16;

/// Bytes that may wait in a socket.
const BUFFER_LEN: i32 = 16 << 20;

/// Datagrams of one GSO packet (UDP_MAX_SEGMENTS of older kernels), and their bytes.
const SEGMENTS_MAX: usize = 64;
const PAYLOAD_MAX: usize = 65_000;

const ETH_LEN: usize = 14;
const UDP_LEN: usize = 8;
const V4_LEN: usize = ETH_LEN + 20 + UDP_LEN;
const V6_LEN: usize = ETH_LEN + 40 + UDP_LEN;
const UDP_CHECKSUM_AT: u16 = 6;
const PROTO_UDP: u8 = 17;

/// The bits for more fragments and for the fragment's offset: zero in a whole packet.
const FRAGMENT_MASK: u16 = 0x3fff;

/// linux/udp.h; not in libc for every target.
const SOL_UDP: i32 = 17;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;

/// A UDP uplink.
#[derive(Debug)]
pub struct UdpPort {
    /// Receives on our tunnel port.
    inbound: OwnedFd,
    outbound: Vec<OwnedFd>,
    address: SocketAddr,
    mac: MacAddr,
    shared: Arc<LaneShared>,
    messages: Messages,
    landings: Vec<Landing>,
    appetite: Appetite,
}

/// The control thread's part.
#[derive(Debug)]
pub struct UdpControl {
    shared: Weak<LaneShared>,
}

/// Opens the sockets at our VTEP, which `spec` names: one receiving socket for each worker, over which the
/// kernel spreads flows, and for each worker its own sending sockets. `mac` is the uplink's.
///
/// # Errors
/// The kernel's error, and the remedy.
pub fn open(
    spec: &OpenPort,
    mac: MacAddr,
    workers: usize,
) -> Result<(Vec<UdpPort>, UdpControl, PortFacts), LaneError> {
    let failed = |what, remedy| {
        let interface = spec.interface.clone();
        move |cause| LaneError { interface, what, cause, remedy }
    };
    let Some((ip, port)) = spec.tunnel else {
        let cause = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
        return Err(failed("it has no VTEP address yet", "add an address, or set `address` in [uplink]")(
            cause,
        ));
    };
    let address = SocketAddr::new(ip, port);
    let shared = Arc::new(LaneShared::default());
    let mut ports = Vec::with_capacity(workers);
    for _ in 0..workers {
        let inbound = inbound(address, workers > 1).map_err(failed(
            "the tunnel's UDP port cannot be had",
            "remove the kernel's vxlan device or the program that has it, or give the uplink another `port`",
        ))?;
        prepare_inbound(&inbound, ip.is_ipv4())
            .map_err(failed("no datagrams in batches", "use `kind = \"packet\"`"))?;
        let mut outbound = Vec::with_capacity(SOURCES);
        for _ in 0..SOURCES {
            let socket = source(ip, spec.index)
                .map_err(failed("no socket to send from", "use `kind = \"packet\"`"))?;
            outbound.push(socket);
        }
        ports.push(UdpPort {
            inbound,
            outbound,
            address,
            mac,
            shared: shared.clone(),
            messages: Messages::new(),
            landings: Vec::with_capacity(BATCH_LEN),
            appetite: Appetite::default(),
        });
    }
    let facts = PortFacts { mode: "segment gro".into(), reason: String::new(), queues: workers as u32 };
    Ok((ports, UdpControl { shared: Arc::downgrade(&shared) }, facts))
}

/// A socket that receives on our tunnel port, alone or together with others of its kind.
fn inbound(address: SocketAddr, several: bool) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if several {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

fn prepare_inbound(socket: &OwnedFd, v4: bool) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER_LEN)?;
    set(socket, SOL_UDP, UDP_GRO, 1)?;
    if v4 {
        set(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        set(socket, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)
    } else {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)
    }
}

/// A socket to send from, at a source port that the kernel chooses. It receives nothing, and sends out of the uplink.
fn source(ip: IpAddr, uplink: u32) -> io::Result<OwnedFd> {
    let socket = OwnedFd::from(UdpSocket::bind(SocketAddr::new(ip, 0))?);
    set(&socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, uplink.cast_signed())?;
    set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER_LEN)?;
    deafen(&socket)?;
    // The kernel refuses a packet that exceeds the underlay's MTU; it is never fragmented on the way.
    if ip.is_ipv4() {
        set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
    } else {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
    }
    Ok(socket)
}

/// The fields of an outer frame that the kernel will write.
struct Outer {
    to: SocketAddr,
    source_port: u16,
    traffic_class: u8,
    hop_limit: u8,
    /// The offset of the datagram's payload.
    payload: usize,
}

/// Reads the outer headers that the engine has written. `None`: the frame is not one of our tunnel packets.
fn outer_of(frame: &[u8]) -> Option<Outer> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    match word(12)? {
        0x0800
            if frame.len() >= V4_LEN
                && frame[14] == 0x45
                && frame[23] == PROTO_UDP
                && word(20)? & FRAGMENT_MASK == 0 =>
        {
            let to: [u8; 4] = frame[30..34].try_into().ok()?;
            Some(Outer {
                to: (to, word(36)?).into(),
                source_port: word(34)?,
                traffic_class: frame[15],
                hop_limit: frame[22],
                payload: V4_LEN,
            })
        }
        0x86dd if frame.len() >= V6_LEN && frame[14] >> 4 == 6 && frame[20] == PROTO_UDP => {
            let to: [u8; 16] = frame[38..54].try_into().ok()?;
            Some(Outer {
                to: (to, word(56)?).into(),
                source_port: word(54)?,
                traffic_class: frame[14] << 4 | frame[15] >> 4,
                hop_limit: frame[21],
                payload: V6_LEN,
            })
        }
        _ => None,
    }
}

impl UdpPort {
    /// The frame of message `at`: its payload behind restored outer headers. `None`: it is dropped.
    fn take(&self, pool: &mut UmemPool, at: usize, landing: Landing) -> Option<Frame> {
        let sender = self.messages.sender(at).filter(|_| !self.messages.is_cut(at));
        let (Some(sender), len) = (sender, self.messages.len(at)) else {
            landing.discard(pool);
            return None;
        };
        let mut frame = landing.settle(pool, len)?;
        let v4 = self.address.is_ipv4();
        let (level, class, hops) = if v4 {
            (libc::IPPROTO_IP, libc::IP_TOS, libc::IP_TTL)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, libc::IPV6_HOPLIMIT)
        };
        // In the machine's order, one byte or four: the low byte counts, and a missing one is zero.
        let byte = |kind| match self.messages.control(at, level, kind) {
            Some(&[one]) => one,
            Some(&[a, b, c, d]) => i32::from_ne_bytes([a, b, c, d]) as u8,
            _ => 0,
        };
        let segment = match self.messages.control(at, SOL_UDP, UDP_GRO) {
            Some(&[a, b, c, d]) => u16::try_from(i32::from_ne_bytes([a, b, c, d])).unwrap_or(0),
            _ => 0,
        };
        let header_len = if v4 { V4_LEN } else { V6_LEN };
        frame.head -= header_len as u16;
        frame.len += header_len as u32;
        let (class, hops) = (byte(class), byte(hops));
        write_outer(&mut pool.bytes_mut(&mut frame)[..header_len], self, sender, class, hops, len);
        if segment > 0 && usize::from(segment) < len {
            frame.offload = Offload {
                csum_start: (header_len - UDP_LEN) as u16,
                csum_offset: UDP_CHECKSUM_AT,
                gso_kind: GsoKind::Udp,
                gso_size: segment,
                ..Offload::NONE
            };
        }
        Some(frame)
    }

    /// Sends a frame that takes several messages: a GSO packet with more segments than the kernel makes in one call.
    fn send_in_parts(
        &mut self,
        socket: usize,
        bytes: &[u8],
        outer: &Outer,
        segment: usize,
    ) -> io::Result<()> {
        let part_len = (PAYLOAD_MAX / segment).min(SEGMENTS_MAX) * segment;
        self.messages.clear();
        for part in bytes[outer.payload..].chunks(part_len) {
            let gso = if part.len() > segment { segment as u16 } else { 0 };
            push(&mut self.messages, part, outer, gso);
        }
        let mut sent = 0;
        while sent < self.messages.count() {
            match self.messages.send(&self.outbound[socket], sent) {
                Ok(more) => sent += more,
                // The rest of the packet is lost, as on any wire; the first part must not go out twice.
                Err(_) if sent > 0 => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Adds a datagram with the fields of its outer header; `gso` bytes per segment, or 0.
fn push(messages: &mut Messages, payload: &[u8], outer: &Outer, gso: u16) {
    let (level, class, hops) = if outer.to.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_TOS, libc::IP_TTL)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, libc::IPV6_HOPLIMIT)
    };
    let word = |value: u8| i32::from(value).to_ne_bytes();
    let (traffic_class, hop_limit) = (word(outer.traffic_class), word(outer.hop_limit));
    let gso_size = gso.to_ne_bytes();
    let control =
        [(level, class, &traffic_class[..]), (level, hops, &hop_limit), (SOL_UDP, UDP_SEGMENT, &gso_size)];
    messages.push_datagram(payload, outer.to, &control[..if gso > 0 { 3 } else { 2 }]);
}

/// Writes the outer headers of a datagram from `sender` as they were on the wire, except for the checksum,
/// which the kernel has checked.
fn write_outer(to: &mut [u8], port: &UdpPort, sender: SocketAddr, class: u8, hops: u8, payload: usize) {
    to[..6].copy_from_slice(&port.mac.0);
    // The kernel does not report the link-layer sender, and the engine does not need it.
    to[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0]);
    let udp_len = payload + UDP_LEN;
    let length = |len: usize| u16::try_from(len).unwrap_or(0).to_be_bytes();
    let udp = to.len() - UDP_LEN;
    match (sender.ip(), port.address.ip()) {
        (IpAddr::V4(from), IpAddr::V4(ours)) => {
            to[12..22].copy_from_slice(&[8, 0, 0x45, class, 0, 0, 0, 0, 0x40, 0]);
            to[16..18].copy_from_slice(&length(udp_len + 20));
            to[22..26].copy_from_slice(&[hops, PROTO_UDP, 0, 0]);
            to[26..30].copy_from_slice(&from.octets());
            to[30..34].copy_from_slice(&ours.octets());
            let check = !engine::wire::checksum::sum(&to[14..34]);
            to[24..26].copy_from_slice(&check.to_be_bytes());
        }
        (from, ours) => {
            let octets = |ip| match ip {
                IpAddr::V6(ip) => ip.octets(),
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            };
            to[12..18].copy_from_slice(&[0x86, 0xdd, 0x60 | class >> 4, class << 4, 0, 0]);
            to[18..20].copy_from_slice(&length(udp_len));
            to[20..22].copy_from_slice(&[PROTO_UDP, hops]);
            to[22..38].copy_from_slice(&octets(from));
            to[38..54].copy_from_slice(&octets(ours));
        }
    }
    to[udp..udp + 2].copy_from_slice(&sender.port().to_be_bytes());
    to[udp + 2..udp + 4].copy_from_slice(&port.address.port().to_be_bytes());
    to[udp + 4..udp + 6].copy_from_slice(&length(udp_len));
    to[udp + 6..udp + 8].fill(0);
}

impl Lane for UdpPort {
    fn fd(&self) -> RawFd {
        self.inbound.as_raw_fd()
    }

    fn shared(&self) -> &Arc<LaneShared> {
        &self.shared
    }
}

impl Port<UmemPool> for UdpPort {
    fn rx(&mut self, _now: Instant, pool: &mut UmemPool, batch: &mut Batch) {
        loop {
            let want = self.appetite.of(batch);
            if want == 0 {
                return;
            }
            self.messages.clear();
            for _ in 0..want {
                let Some(mut landing) = Landing::new(pool) else { break };
                self.messages.push_receive(landing.places(pool, 0, None), true);
                self.landings.push(landing);
            }
            self.shared.starved(self.landings.is_empty());
            if self.landings.is_empty() {
                return;
            }
            let got = self.messages.receive(&self.inbound).unwrap_or(0);
            let asked = self.landings.len();
            let mut landings = std::mem::take(&mut self.landings);
            for (at, landing) in landings.drain(..).enumerate() {
                if at >= got {
                    landing.discard(pool);
                } else if let Some(frame) = self.take(pool, at, landing) {
                    batch.push(frame);
                } else {
                    LaneShared::count(&self.shared.rx_dropped);
                }
            }
            self.landings = landings;
            if !self.appetite.fed(asked, got, self.messages.largest(got)) {
                return;
            }
        }
    }

    fn tx(&mut self, _now: Instant, pool: &mut UmemPool, frames: &mut Vec<Frame>) {
        let mut done = 0;
        while done < frames.len() {
            let taken = self.send_run(pool, &mut frames[done..]);
            match taken {
                Ok(count) => done += count,
                Err(error) => match refusal(&error) {
                    Refusal::Later | Refusal::Gone => break,
                    Refusal::Frame => {
                        LaneShared::count(&self.shared.tx_invalid);
                        done += 1;
                    }
                },
            }
        }
        for frame in frames.drain(..done) {
            pool.free(frame);
        }
    }

    fn caps(&self) -> PortCaps {
        PortCaps { tx_csum: true, tx_tso: false, tx_uso: true, rx_csum_unmarked: true }
    }
}

impl UdpPort {
    /// Sends the first frames that leave by one socket. Returns how many went (at least one), or why the first did not.
    fn send_run(&mut self, pool: &mut UmemPool, frames: &mut [Frame]) -> io::Result<usize> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let mut socket = None;
        self.messages.clear();
        for frame in frames.iter_mut().take(BATCH_LEN) {
            let first = self.messages.count() == 0;
            let Some(outer) = outer_of(pool.bytes(frame)) else {
                if first {
                    return Err(invalid());
                }
                break;
            };
            let from = usize::from(outer.source_port) % SOURCES;
            if *socket.get_or_insert(from) != from {
                break;
            }
            let offload = frame.offload;
            if usize::from(offload.csum_start) > outer.payload {
                // A checksum inside the tunnel, which no socket can finish.
                frame.offload = Offload::NONE;
                fit::finish(pool.bytes_mut(frame), offload).map_err(|_| invalid())?;
            }
            let bytes = pool.bytes(frame);
            let segment = match offload.gso_kind {
                GsoKind::None => 0,
                GsoKind::Udp => usize::from(offload.gso_size),
                GsoKind::TcpV4 | GsoKind::TcpV6 => {
                    if first {
                        return Err(invalid());
                    }
                    break;
                }
            };
            let payload_len = bytes.len() - outer.payload;
            if segment > 0 && payload_len > (SEGMENTS_MAX * segment).min(PAYLOAD_MAX) {
                if !first {
                    break;
                }
                return self.send_in_parts(from, bytes, &outer, segment).map(|()| 1);
            }
            let gso = if payload_len > segment { segment as u16 } else { 0 };
            push(&mut self.messages, &bytes[outer.payload..], &outer, gso);
        }
        self.messages.send(&self.outbound[socket.unwrap_or(0)], 0)
    }
}

impl UdpControl {
    /// The counts of dropped frames; `None` once the worker's part is closed.
    #[must_use]
    pub fn drops(&self) -> Option<KernelDrops> {
        Some(self.shared.upgrade()?.drops(0))
    }

    /// True once the worker has noticed that the socket no longer works.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.shared.upgrade().is_none_or(|shared| shared.dead.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_tunnel_packets_are_sent() {
        let mut frame = vec![0; V4_LEN];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        (frame[20], frame[22], frame[23]) = (0x40, 64, PROTO_UDP);
        frame[30..34].copy_from_slice(&[10, 0, 0, 12]);
        frame[36..38].copy_from_slice(&4789_u16.to_be_bytes());
        let outer = outer_of(&frame).expect("it is whole");
        assert_eq!((outer.to, outer.hop_limit), ("10.0.0.12:4789".parse().unwrap(), 64));
        for flags in [[0x20, 0], [0, 1], [0x1f, 0xff]] {
            frame[20..22].copy_from_slice(&flags);
            assert!(outer_of(&frame).is_none(), "a fragment has no ports of its own");
        }
        frame[20..22].fill(0);
        assert!(outer_of(&frame[..V4_LEN - 1]).is_none());
        frame[23] = 6;
        assert!(outer_of(&frame).is_none());
    }
}

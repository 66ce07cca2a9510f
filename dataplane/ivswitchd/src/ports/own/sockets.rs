//! Lists the kernel's sockets as `ss` does (sock_diag(7)): connections that existed before a program noted flows.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};
use rustix::net::sockopt;

use super::table::{LIFE_TCP, LIFE_TCP_CLOSING, LIFE_UDP, OwnFlow};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 1 | 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER_LEN: usize = 16;
/// `struct inet_diag_msg` up to the end of `struct inet_diag_sockid`.
const MESSAGE_LEN: usize = 4 + 48;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// States of TCP (linux/net/tcp_states.h).
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;
const NEW_SYN_RECV: u8 = 12;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Calls `give` with each connection of the kernel's and the time for which it should be remembered.
///
/// # Errors
/// The kernel lacks sock_diag, or did not answer.
pub fn each(mut give: impl FnMut(OwnFlow, u32)) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        for proto in [TCP, UDP] {
            match dump(&socket, family, proto, &mut give) {
                // This kernel lacks IPv6, or the diagnosis of UDP sockets.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EAFNOSUPPORT)) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn dump(socket: &Socket, family: u8, proto: u8, give: &mut impl FnMut(OwnFlow, u32)) -> io::Result<()> {
    let states: u32 = if proto == TCP { !(1 << LISTEN | 1 << NEW_SYN_RECV) } else { 1 << ESTABLISHED };
    // struct nlmsghdr and struct inet_diag_req_v2. All other fields are zero: any address.
    let mut request = [0_u8; HEADER_LEN + 8 + 48];
    let len = request.len() as u32;
    request[..4].copy_from_slice(&len.to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request[HEADER_LEN..HEADER_LEN + 2].copy_from_slice(&[family, proto]);
    request[HEADER_LEN + 4..HEADER_LEN + 8].copy_from_slice(&states.to_ne_bytes());
    socket.send_to(&request, &NetlinkAddr::new(0, 0), 0)?;
    loop {
        let (datagram, from) = socket.recv_from_full()?;
        if from.port_number() == 0 && read(&datagram, proto, give)? {
            return Ok(());
        }
    }
}

/// Reads the messages of a datagram. Returns true after the last one.
fn read(mut bytes: &[u8], proto: u8, give: &mut impl FnMut(OwnFlow, u32)) -> io::Result<bool> {
    while bytes.len() >= HEADER_LEN {
        let len = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        if len < HEADER_LEN || len > bytes.len() {
            break;
        }
        let body = &bytes[HEADER_LEN..len];
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR if body.len() >= 4 => {
                let code = i32::from_ne_bytes([body[0], body[1], body[2], body[3]]);
                return Err(io::Error::from_raw_os_error(-code));
            }
            SOCK_DIAG_BY_FAMILY => {
                if let Some((flow, life)) = parse(body, proto) {
                    give(flow, life);
                }
            }
            _ => {}
        }
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
    }
    Ok(false)
}

/// `struct inet_diag_msg`: family, state, two more bytes; ports, addresses.
fn parse(body: &[u8], proto: u8) -> Option<(OwnFlow, u32)> {
    let body = body.get(..MESSAGE_LEN)?;
    let (family, state) = (body[0], body[1]);
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let address = |at: usize| {
        let bytes: [u8; 16] = body[at..at + 16].try_into().ok()?;
        Some(if i32::from(family) == libc::AF_INET {
            IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
        } else {
            IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
        })
    };
    let local = SocketAddr::new(address(8)?, port(4));
    let remote = SocketAddr::new(address(24)?, port(6));
    if remote.port() == 0 || remote.ip().is_unspecified() {
        return None;
    }
    let life = match (proto, state) {
        (UDP, _) => LIFE_UDP,
        (_, ESTABLISHED) => LIFE_TCP,
        // A connection that begins or ends. A half-closed one may last, and the next listing finds it again.
        _ => LIFE_TCP_CLOSING,
    };
    Some((OwnFlow { remote, local, proto }, life))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    /// Connected sockets are found in both families, including an IPv6 socket with an IPv4-mapped address;
    /// listening sockets are not.
    #[test]
    fn connected_sockets_are_found() {
        let listeners = ["127.0.0.1:0", "[::1]:0"].map(|at| TcpListener::bind(at).unwrap());
        let dressed = TcpListener::bind("[::]:0").unwrap();
        let to_dressed = SocketAddr::new("127.0.0.1".parse().unwrap(), dressed.local_addr().unwrap().port());
        let mut ends: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        ends.push(to_dressed);
        let streams: Vec<TcpStream> = ends.iter().map(|end| TcpStream::connect(end).unwrap()).collect();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let lonely = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.connect(lonely.local_addr().unwrap()).unwrap();
        let mut found = Vec::new();
        each(|flow, life| found.push((flow, life))).unwrap();
        for stream in &streams {
            let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            for (local, remote) in [(local, remote), (remote, local)] {
                let flow = OwnFlow { remote, local, proto: TCP };
                assert!(found.contains(&(flow, LIFE_TCP)), "{flow:?}");
            }
        }
        let (local, remote) = (udp.local_addr().unwrap(), lonely.local_addr().unwrap());
        assert!(found.contains(&(OwnFlow { remote, local, proto: UDP }, LIFE_UDP)));
        let listening: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        let only = |flow: &OwnFlow| listening.contains(&flow.local.port()) && flow.remote.port() == 0;
        assert!(!found.iter().any(|(flow, _)| only(flow) || flow.local == lonely.local_addr().unwrap()));
    }
}

//! A socket that holds the tunnel's UDP port and never reads from it.
//!
//! Without it the kernel would answer a peer's packets with "port unreachable" whenever our XDP program
//! is not attached (yet, or any more), and might give the port to somebody else.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::ports::lane::deafen;

/// Holds one address and port.
pub struct PortHold {
    address: SocketAddr,
    /// Open, so that it is held.
    _socket: UdpSocket,
}

impl PortHold {
    /// Takes the port.
    ///
    /// # Errors
    /// Why it cannot be held, for the log: forwarding works all the same.
    pub fn take(ip: IpAddr, port: u16) -> Result<Self, String> {
        let address = SocketAddr::new(ip, port);
        let hold = || -> io::Result<Self> {
            let socket = UdpSocket::bind(address)?;
            deafen(&socket)?;
            Ok(Self { address, _socket: socket })
        };
        hold().map_err(|error| {
            let cause = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "another program or a kernel vxlan device has it; remove that, or give the uplink another `port`"
                }
                io::ErrorKind::AddrNotAvailable => "the address is not on this rVM; correct `address` of the uplink",
                _ => "the tunnel works all the same, but peers may be told \"port unreachable\" while it starts",
            };
            format!("UDP {address}: cannot be held: {error}; {cause}")
        })
    }

    /// Whether it is this one.
    pub fn is(&self, ip: IpAddr, port: u16) -> bool {
        self.address == SocketAddr::new(ip, port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While held, a sender is not told that the port is closed and nothing queues; afterwards it is free.
    #[test]
    fn a_held_port_is_silent() {
        let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let hold = PortHold::take(free.ip(), free.port()).unwrap();
        assert!(hold.is(free.ip(), free.port()) && !hold.is(free.ip(), free.port() ^ 1));
        probe.connect(free).unwrap();
        for _ in 0..3 {
            // On loopback an unreachable answer would be here before the next send.
            probe.send(b"anyone?").unwrap();
        }
        let mut buffer = [0; 8];
        hold._socket.set_nonblocking(true).unwrap();
        assert_eq!(hold._socket.recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let refused = PortHold::take(free.ip(), free.port()).err().unwrap();
        assert!(refused.contains(&free.to_string()) && refused.contains("vxlan"), "{refused}");
        drop(hold);
        assert!(probe.send(b"anyone?").is_ok());
        assert!(probe.send(b"anyone?").is_err(), "the port is closed again");
    }
}

//! Holds the tunnel's UDP port, by a socket that never reads from it or by a device that receives nothing.
//!
//! Otherwise the kernel would answer a peer's packets with "port unreachable" while our program is not
//! attached, and might give the port to another program.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::links::Merger;
use crate::ports::lane::deafen;

/// Holds one address and port.
#[allow(dead_code, reason = "the holder is there until dropped")]
pub struct PortHold {
    address: SocketAddr,
    merging: bool,
    holder: Holder,
}

#[allow(dead_code, reason = "there until dropped")]
enum Holder {
    Socket(UdpSocket),
    Device(Merger),
}

impl PortHold {
    /// Takes the port. `merging`: also lets the kernel coalesce the packets that arrive there, if it can.
    ///
    /// # Errors
    /// The reason for the log; forwarding works without the port.
    pub fn take(ip: IpAddr, port: u16, merging: bool) -> Result<Self, String> {
        let address = SocketAddr::new(ip, port);
        if merging {
            match Merger::hold(port) {
                Ok(merger) => return Ok(Self { address, merging, holder: Holder::Device(merger) }),
                Err(error) => tracing::info!("UDP {address}: the kernel merges nothing there: {error}"),
            }
        }
        let hold = || -> io::Result<Self> {
            let socket = UdpSocket::bind(address)?;
            deafen(&socket)?;
            Ok(Self { address, merging, holder: Holder::Socket(socket) })
        };
        hold().map_err(|error| {
            let cause = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "a vxlan device of the kernel's may have it, which works beside the switch (`ivctl doctor` names it); \
                     if another program has it, stop that, or give the uplink another `port`"
                }
                io::ErrorKind::AddrNotAvailable => "the address is not on this rVM; correct `address` of the uplink",
                _ => "the tunnel works all the same, but peers may be told \"port unreachable\" while it starts",
            };
            format!("UDP {address}: cannot be held: {error}; {cause}")
        })
    }

    /// Whether this is the hold for these parameters.
    pub fn is(&self, ip: IpAddr, port: u16, merging: bool) -> bool {
        self.address == SocketAddr::new(ip, port) && self.merging == merging
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While held, a sender gets no notice that the port is closed, and no packet queues; afterwards the port is free.
    #[test]
    fn a_held_port_is_silent() {
        let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let hold = PortHold::take(free.ip(), free.port(), false).unwrap();
        assert!(hold.is(free.ip(), free.port(), false) && !hold.is(free.ip(), free.port() ^ 1, false));
        probe.connect(free).unwrap();
        for _ in 0..3 {
            // On loopback an unreachable answer would arrive before the next send.
            probe.send(b"anyone?").unwrap();
        }
        let mut buffer = [0; 8];
        let Holder::Socket(socket) = &hold.holder else { panic!("it was not to merge") };
        socket.set_nonblocking(true).unwrap();
        assert_eq!(socket.recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let refused = PortHold::take(free.ip(), free.port(), false).err().unwrap();
        assert!(refused.contains(&free.to_string()) && refused.contains("vxlan"), "{refused}");
        drop(hold);
        assert!(probe.send(b"anyone?").is_ok());
        assert!(probe.send(b"anyone?").is_err(), "the port is closed again");
    }
}

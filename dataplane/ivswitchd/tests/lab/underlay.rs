//! An rVM's uplink and another host on the same underlay.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use ctl::io::SteerPlan;

use super::traffic::PATIENCE;
use super::{Namespace, ip, wait_until_up};

/// Two namespaces: `ours` with the uplink `eth0` at 10.0.0.11, and another host at 10.0.0.99.
pub struct Underlay {
    pub ours: Namespace,
    pub host: Namespace,
}

pub const OUR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 99);

impl Underlay {
    pub fn new() -> Self {
        let (ours, host) = (Namespace::new("ours"), Namespace::new("host"));
        ip(&format!("link add eth0 netns {} type veth peer name eth0 netns {}", ours.name(), host.name()));
        for (namespace, last) in [(&ours, 11), (&host, 99)] {
            namespace.within(|| {
                ip(&format!("addr add 10.0.0.{last}/24 dev eth0"));
                ip(&format!("addr add fd00::{last}/64 dev eth0 nodad"));
                ip("link set eth0 up");
                ip("link set lo up");
            });
        }
        ours.within(|| wait_until_up("eth0"));
        host.within(|| wait_until_up("eth0"));
        Self { ours, host }
    }

    /// Makes the other host finish its checksums, as on a wire.
    pub fn finish_checksums(&self) {
        self.host.within(|| super::run("ethtool", "-K eth0 tx off"));
    }

    /// Whether one TCP transfer from the other host to a server in our kernel succeeds.
    pub fn tcp_works(&self) -> bool {
        let server =
            self.ours.within(|| TcpListener::bind(SocketAddrV4::new(OUR_ADDRESS, 22)).expect("bind"));
        let answered = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().ok()?;
            let mut request = [0; 5];
            stream.read_exact(&mut request).ok()?;
            stream.write_all(b"world").ok()
        });
        let address = SocketAddrV4::new(OUR_ADDRESS, 22).into();
        let reply = self.host.within(|| {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            stream.write_all(b"hello").ok()?;
            let mut reply = [0; 5];
            stream.read_exact(&mut reply).ok()?;
            Some(reply)
        });
        if reply.is_none() {
            // Connects once more, so that the server's thread ends.
            self.ours.within(|| drop(TcpStream::connect(address)));
        }
        let _ = answered.join();
        reply == Some(*b"world")
    }

    pub fn ping_works(&self) -> bool {
        self.host.within(|| super::succeeds("ping", "-c 1 -W 2 -q 10.0.0.11"))
    }
}

pub fn tunnel_plan() -> SteerPlan {
    SteerPlan { tunnel: Some((OUR_ADDRESS.into(), 4789)), vnis: None, reality: vec![] }
}

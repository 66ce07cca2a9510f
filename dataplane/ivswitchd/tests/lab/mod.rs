//! Namespaces, interfaces and raw sockets for the tests in this folder's parent.
#![allow(dead_code, reason = "each of the test programs uses a part of it")]

pub mod child;
pub mod traffic;
pub mod underlay;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Whether these tests can run at all; prints a message if not.
pub fn root() -> bool {
    // SAFETY: cannot fail and touches no memory.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: needs root (network namespaces, AF_XDP)");
    }
    root
}

/// Runs the test in a thread with its own empty network namespace, which ends with the thread.
pub fn alone(test: impl FnOnce() + Send + 'static) {
    if !root() {
        return;
    }
    let thread = std::thread::spawn(|| {
        // SAFETY: touches no memory; only this thread changes its namespace.
        let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(done, 0, "unshare: {}", io::Error::last_os_error());
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A named namespace, removed when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub fn new(suffix: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ivio-{}-{number}-{suffix}", std::process::id());
        ip(&format!("netns add {name}"));
        Self { name }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` in a thread inside this namespace.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = std::fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
                // SAFETY: touches no memory; only this thread changes its namespace.
                let done = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(done, 0, "setns: {}", io::Error::last_os_error());
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

pub fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs a command that the test assembled, in this thread's namespace.
pub fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {message}");
}

/// Makes a pair of interfaces in this namespace, up and with carrier.
pub fn veth(user: &str, ours: &str, user_options: &str, our_options: &str) {
    ip(&format!("link add {user} {user_options} type veth peer name {ours} {our_options}"));
    ip(&format!("link set {user} up"));
    ip(&format!("link set {ours} up"));
    wait_until_up(user);
    wait_until_up(ours);
}

/// Waits for the carrier: until the kernel has noticed it, an interface that is up silently sends nothing.
pub fn wait_until_up(interface: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !output("ip", &format!("-o link show dev {interface}")).contains("state UP") {
        assert!(Instant::now() < deadline, "{interface} does not come up");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn succeeds(program: &str, arguments: &str) -> bool {
    Command::new(program).args(arguments.split_whitespace()).output().unwrap().status.success()
}

pub fn output(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn index_of(interface: &str) -> u32 {
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: the pointer is to a terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "no interface {interface}");
    index
}

/// The interface's MAC address from `ip`, since /sys shows another namespace.
pub fn mac_of(interface: &str) -> [u8; 6] {
    let text = output("ip", &format!("-o link show dev {interface}"));
    let mac = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("a MAC");
    let mut bytes = [0; 6];
    for (byte, part) in bytes.iter_mut().zip(mac.split(':')) {
        *byte = u8::from_str_radix(part, 16).unwrap();
    }
    bytes
}

/// An AF_PACKET socket for EtherType 88b5 on the user's end of a veth.
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    pub fn on(interface: &str) -> Self {
        let protocol = 0x88b5_u16.to_be();
        // SAFETY: touches no memory.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol))
        };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: the descriptor was just made.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: plain data for which all zeroes is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index_of(interface) as i32;
        let len = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the pointer and length describe `address`.
        let done = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
        assert_eq!(done, 0, "bind: {}", io::Error::last_os_error());
        Self(fd)
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the pointer and length describe `frame`.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "send: {}", io::Error::last_os_error());
    }

    /// The next frame that another station sent.
    pub fn receive(&self, at_most: Duration) -> Option<Vec<u8>> {
        loop {
            let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: the pointer is to one `pollfd`.
            if unsafe { libc::poll(&raw mut poll, 1, at_most.as_millis() as i32) } <= 0 {
                return None;
            }
            let mut bytes = vec![0; 70_000];
            // SAFETY: plain data for which all zeroes is valid.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut from_len = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: the pointers and lengths describe `bytes` and `from`.
            let len = unsafe {
                libc::recvfrom(
                    self.0.as_raw_fd(),
                    bytes.as_mut_ptr().cast(),
                    bytes.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut from_len,
                )
            };
            if len < 0 {
                return None;
            }
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                bytes.truncate(len as usize);
                return Some(bytes);
            }
        }
    }
}

/// Sums 16-bit words, as every Internet checksum does.
pub fn sum(words: u32, bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .fold(words, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
}

/// Folds a sum to 16 bits: for data with its checksum, all ones.
pub fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn udp(pseudo: u32, from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len() as u16;
    let mut udp = Vec::new();
    for word in [from_port, to_port, len, 0] {
        udp.extend(word.to_be_bytes());
    }
    udp.extend(payload);
    let check = !fold(sum(pseudo + 17 + u32::from(len), &udp));
    udp[6..8].copy_from_slice(&check.to_be_bytes());
    udp
}

/// An IPv4 packet with a UDP datagram and correct checksums.
pub fn udp4(from: Ipv4Addr, to: Ipv4Addr, from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let addresses = [from.octets(), to.octets()].concat();
    let datagram = udp(sum(0, &addresses), from_port, to_port, payload);
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&(20 + datagram.len() as u16).to_be_bytes());
    packet.extend(addresses);
    let check = !fold(sum(0, &packet));
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet.extend(datagram);
    packet
}

/// An IPv6 packet with a UDP datagram and correct checksums.
pub fn udp6(from: Ipv6Addr, to: Ipv6Addr, from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let addresses = [from.octets(), to.octets()].concat();
    let datagram = udp(sum(0, &addresses), from_port, to_port, payload);
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, 17, 64];
    packet[4..6].copy_from_slice(&(datagram.len() as u16).to_be_bytes());
    packet.extend(addresses);
    packet.extend(datagram);
    packet
}

//! Machines at the edge: iVMs and Internet hosts, with smoltcp as their network stack. They ping, move
//! TCP streams whose every byte is verified, and echo UDP. Every payload carries the label of its
//! sender's network, so that a byte on the wrong network is recognised (see `checks`).

mod drive;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use engine::command::IpPrefix;
use engine::frame::Offload;
use engine::wire::mac::MacAddr;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, IpEndpoint};

use crate::node::{Ctx, Wire};
use crate::packet;

/// First bytes of every 16-byte record of payload.
pub const MARK: [u8; 4] = *b"IVSM";
/// First bytes of a TCP stream; the lengths that the client asks for follow.
const HELLO: [u8; 4] = *b"IVSH";
/// Bytes a TCP socket holds in each direction.
const TCP_BUFFER_LEN: usize = 48 * 1024;
/// Connections that a TCP server serves simultaneously.
const TCP_BACKLOG: usize = 6;

/// A network's label in payloads and checks: its VNI, or [`INTERNET`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Label(pub u32);

/// The Internet's label.
pub const INTERNET: Label = Label(u32::MAX);

/// The state in which the machine's NIC sends a packet's checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CsumMode {
    /// Finished checksums.
    #[default]
    Full,
    /// Partial checksums, marked as such (virtio-net header).
    PartialMarked,
    /// Partial checksums without a mark, as AF_XDP sees them on a veth.
    PartialUnmarked,
}

/// A description of a machine.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// A name for messages.
    pub name: String,
    /// The MAC address of its NIC.
    pub mac: MacAddr,
    /// The addresses of its NIC.
    pub ips: Vec<IpPrefix>,
    /// Default gateways, at most one per family.
    pub gateways: Vec<IpAddr>,
    /// The network that the machine is on.
    pub label: Label,
    /// The largest IP packet that it sends.
    pub mtu: usize,
    /// Tags that it puts on frames it sends and expects on frames it receives, outermost first: (TPID, VID).
    pub tags: Vec<(u16, u16)>,
    /// How it leaves checksums when it sends.
    pub csum: CsumMode,
}

impl HostSpec {
    /// A machine with one NIC on `label`; `ips` like `192.168.1.2/24`.
    ///
    /// # Panics
    /// When an address cannot be parsed.
    #[must_use]
    pub fn new(name: &str, mac: &str, label: u32, ips: &[&str]) -> Self {
        Self {
            name: name.into(),
            mac: mac.parse().expect("a MAC address"),
            ips: ips.iter().map(|s| prefix(s)).collect(),
            gateways: Vec::new(),
            label: Label(label),
            mtu: 1430,
            tags: Vec::new(),
            csum: CsumMode::Full,
        }
    }

    /// With this default gateway.
    ///
    /// # Panics
    /// When it cannot be parsed.
    #[must_use]
    pub fn via(mut self, gateway: &str) -> Self {
        self.gateways.push(gateway.parse().expect("an IP address"));
        self
    }

    /// With this 802.1Q tag on everything.
    #[must_use]
    pub fn tagged(mut self, tpid: u16, vid: u16) -> Self {
        self.tags.push((tpid, vid));
        self
    }

    /// With checksums left in this state.
    #[must_use]
    pub const fn csum(mut self, mode: CsumMode) -> Self {
        self.csum = mode;
        self
    }

    /// With this MTU.
    #[must_use]
    pub const fn mtu(mut self, mtu: usize) -> Self {
        self.mtu = mtu;
        self
    }
}

/// Parses `address/length`.
///
/// # Panics
/// When `s` has another form.
#[must_use]
pub fn prefix(s: &str) -> IpPrefix {
    let (addr, len) = s.split_once('/').expect("address/length");
    IpPrefix { addr: addr.parse().expect("an IP address"), len: len.parse().expect("a prefix length") }
}

#[derive(Debug)]
struct Nic {
    rx: VecDeque<Vec<u8>>,
    tx: Vec<Vec<u8>>,
    mtu: usize,
}

struct RxToken(Vec<u8>);
struct TxToken<'a>(&'a mut Vec<Vec<u8>>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let r = f(&mut frame);
        self.0.push(frame);
        r
    }
}

impl phy::Device for Nic {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        let frame = self.rx.pop_front()?;
        Some((RxToken(frame), TxToken(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        Some(TxToken(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = self.mtu + 14;
        caps.checksum = ChecksumCapabilities::default();
        caps
    }
}

/// The byte at `pos` of the endless payload of `label`: records of mark, label and record number.
#[must_use]
pub fn content(label: Label, pos: u64) -> u8 {
    let at = (pos % 16) as usize;
    match at {
        0..4 => MARK[at],
        4..8 => label.0.to_be_bytes()[at - 4],
        _ => (pos / 16).to_be_bytes()[at - 8],
    }
}

fn fill(label: Label, pos: u64, len: usize) -> Vec<u8> {
    (pos..pos + len as u64).map(|p| content(label, p)).collect()
}

/// Verifies a stream of [`content`] whose label is read from its first record.
#[derive(Clone, Debug, Default)]
struct Verifier {
    pos: u64,
    label: [u8; 4],
    bad: u64,
}

impl Verifier {
    fn feed(&mut self, data: &[u8]) {
        for &b in data {
            let at = (self.pos % 16) as usize;
            if self.pos < 16 && (4..8).contains(&at) {
                self.label[at - 4] = b;
            } else if b != content(Label(u32::from_be_bytes(self.label)), self.pos) {
                self.bad += 1;
            }
            self.pos += 1;
        }
    }
}

/// Identifies an activity of one machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AppId(pub usize);

/// How an activity went, so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Echo requests or datagrams sent; bytes, for TCP.
    pub sent: u64,
    /// Answers that were verified; bytes, for TCP.
    pub received: u64,
    /// Answers or bytes that were wrong.
    pub bad: u64,
    /// Answers that came twice.
    pub duplicates: u64,
    /// The activity has ended.
    pub done: bool,
    /// The activity ended before its goal (TCP: reset or timed out).
    pub failed: bool,
    /// Sum of round-trip times in nanoseconds.
    pub rtt_sum_ns: u64,
}

#[derive(Debug)]
enum App {
    Ping(Ping),
    Datagrams(Datagrams),
    Echo(SocketHandle),
    Server { port: u16, conns: Vec<Conn> },
    Client(Box<Client>),
}

#[derive(Debug)]
struct Ping {
    socket: SocketHandle,
    dst: IpAddr,
    ident: u16,
    count: u16,
    interval_ns: u64,
    len: usize,
    next_ns: u64,
    deadline_ns: u64,
    sent_at: BTreeMap<u16, u64>,
    answered: BTreeMap<u16, ()>,
    report: Report,
}

#[derive(Debug)]
struct Datagrams {
    socket: SocketHandle,
    dst: IpEndpoint,
    count: u32,
    interval_ns: u64,
    len: usize,
    next_ns: u64,
    deadline_ns: u64,
    answered: BTreeMap<u32, ()>,
    report: Report,
}

#[derive(Debug)]
struct Conn {
    socket: SocketHandle,
    hello: Vec<u8>,
    up_left: u64,
    down: u64,
    down_sent: u64,
    check: Verifier,
}

#[derive(Debug)]
struct Client {
    socket: SocketHandle,
    up: u64,
    down: u64,
    hello: Vec<u8>,
    up_sent: u64,
    check: Verifier,
    deadline_ns: u64,
    report: Report,
}

/// A machine.
pub struct Host {
    /// The description that the machine was made from.
    pub spec: HostSpec,
    nic: Nic,
    iface: Interface,
    sockets: SocketSet<'static>,
    apps: Vec<App>,
    /// Frames that its NIC received, when recording is on: time and bytes (tags still on).
    pub heard: Option<Vec<(u64, Vec<u8>)>>,
    /// Number of frames that its NIC received.
    pub rx_frames: u64,
    /// Bytes of TCP that its servers have verified.
    pub served: u64,
    /// Bytes of TCP that its servers found wrong.
    pub served_bad: u64,
    /// Whether the network stack runs. A machine without it only records.
    pub stack: bool,
    next_port: u16,
    /// SYNs received: source, ports and sequence number.
    syns: BTreeSet<(IpAddr, [u8; 8])>,
}

fn at(now_ns: u64) -> Instant {
    Instant::from_micros((now_ns / 1000) as i64)
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER_LEN]);
    let mut s = tcp::Socket::new(buffer(), buffer());
    s.set_nagle_enabled(false);
    s
}

impl Host {
    /// A machine whose network stack runs.
    ///
    /// # Panics
    /// When it has more addresses than smoltcp holds.
    #[must_use]
    pub fn new(spec: HostSpec, seed: u64, now_ns: u64) -> Self {
        let mut nic = Nic { rx: VecDeque::new(), tx: Vec::new(), mtu: spec.mtu };
        let mut config = Config::new(EthernetAddress(spec.mac.0).into());
        config.random_seed = seed;
        let mut iface = Interface::new(config, &mut nic, at(now_ns));
        iface.update_ip_addrs(|a| {
            for ip in &spec.ips {
                a.push(IpCidr::new(ip.addr.into(), ip.len)).expect("few addresses");
            }
        });
        for gateway in &spec.gateways {
            let _ = match gateway {
                IpAddr::V4(g) => iface.routes_mut().add_default_ipv4_route(*g).expect("one default route"),
                IpAddr::V6(g) => iface.routes_mut().add_default_ipv6_route(*g).expect("one default route"),
            };
        }
        Self {
            spec,
            nic,
            iface,
            sockets: SocketSet::new(Vec::new()),
            apps: Vec::new(),
            heard: None,
            rx_frames: 0,
            served: 0,
            served_bad: 0,
            stack: true,
            syns: BTreeSet::new(),
            next_port: 40_000 + (seed % 10_000) as u16,
        }
    }

    /// Its first address that has the family of `like`.
    #[must_use]
    pub fn address(&self, like: IpAddr) -> Option<IpAddr> {
        self.spec.ips.iter().map(|p| p.addr).find(|a| a.is_ipv4() == like.is_ipv4())
    }

    /// Replaces all its addresses by a new one.
    ///
    /// # Panics
    /// Never: smoltcp holds one address.
    pub fn readdress(&mut self, ip: IpPrefix, gateway: Option<IpAddr>) {
        self.spec.ips = vec![ip];
        self.iface.update_ip_addrs(|a| {
            a.clear();
            a.push(IpCidr::new(ip.addr.into(), ip.len)).expect("one address");
        });
        if let Some(IpAddr::V4(g)) = gateway {
            let _ = self.iface.routes_mut().add_default_ipv4_route(g);
        }
    }

    fn port(&mut self) -> u16 {
        self.next_port = if self.next_port >= 60_000 { 40_000 } else { self.next_port + 1 };
        self.next_port
    }

    fn add(&mut self, app: App) -> AppId {
        self.apps.push(app);
        AppId(self.apps.len() - 1)
    }

    /// Starts pinging `dst`.
    ///
    /// # Panics
    /// Never: the socket is new.
    pub fn ping(&mut self, now_ns: u64, dst: IpAddr, count: u16, len: usize, interval_ns: u64) -> AppId {
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 16], vec![0; 32 * 1024]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        let ident = self.port();
        socket.bind(icmp::Endpoint::Ident(ident)).expect("a new socket");
        let socket = self.sockets.add(socket);
        self.add(App::Ping(Ping {
            socket,
            dst,
            ident,
            count,
            interval_ns,
            len,
            next_ns: now_ns,
            deadline_ns: now_ns + u64::from(count) * interval_ns + 3_000_000_000,
            sent_at: BTreeMap::new(),
            answered: BTreeMap::new(),
            report: Report::default(),
        }))
    }

    /// Starts sending datagrams to an echo server.
    ///
    /// # Panics
    /// Never: the socket is new.
    pub fn datagrams(
        &mut self,
        now_ns: u64,
        dst: (IpAddr, u16),
        count: u32,
        len: usize,
        interval_ns: u64,
    ) -> AppId {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 64 * 1024]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(self.port()).expect("a new socket");
        let socket = self.sockets.add(socket);
        self.add(App::Datagrams(Datagrams {
            socket,
            dst: IpEndpoint::new(dst.0.into(), dst.1),
            count,
            interval_ns,
            len: len.max(20),
            next_ns: now_ns,
            deadline_ns: now_ns + u64::from(count) * interval_ns + 3_000_000_000,
            answered: BTreeMap::new(),
            report: Report::default(),
        }))
    }

    /// Starts a UDP echo server.
    ///
    /// # Panics
    /// Never: the socket is new.
    pub fn echo(&mut self, port: u16) -> AppId {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 64 * 1024]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).expect("a new socket");
        let socket = self.sockets.add(socket);
        self.add(App::Echo(socket))
    }

    /// Starts a TCP server, which receives the bytes that a client announces and sends those that it asks for.
    ///
    /// # Panics
    /// Never: the sockets are new.
    pub fn serve(&mut self, port: u16) -> AppId {
        let conns = (0..TCP_BACKLOG)
            .map(|_| Conn {
                socket: {
                    let mut s = tcp_socket();
                    s.listen(port).expect("a new socket");
                    self.sockets.add(s)
                },
                hello: Vec::new(),
                up_left: 0,
                down: 0,
                down_sent: 0,
                check: Verifier::default(),
            })
            .collect();
        self.add(App::Server { port, conns })
    }

    /// Starts a TCP client that sends `up` bytes and receives `down` bytes, within `limit_ns`.
    pub fn transfer(&mut self, now_ns: u64, dst: (IpAddr, u16), up: u64, down: u64, limit_ns: u64) -> AppId {
        let port = self.port();
        let socket = self.sockets.add(tcp_socket());
        let mut hello = HELLO.to_vec();
        hello.extend((up as u32).to_be_bytes());
        hello.extend((down as u32).to_be_bytes());
        let remote = IpEndpoint::new(dst.0.into(), dst.1);
        let failed = self
            .sockets
            .get_mut::<tcp::Socket<'_>>(socket)
            .connect(self.iface.context(), remote, port)
            .is_err();
        self.add(App::Client(Box::new(Client {
            socket,
            up,
            down,
            hello,
            up_sent: 0,
            check: Verifier::default(),
            deadline_ns: now_ns + limit_ns,
            report: Report { done: failed, failed, ..Report::default() },
        })))
    }

    /// The state of an activity.
    #[must_use]
    pub fn report(&self, id: AppId) -> Report {
        match &self.apps[id.0] {
            App::Ping(p) => p.report,
            App::Datagrams(d) => d.report,
            App::Client(c) => c.report,
            App::Echo(_) => Report::default(),
            App::Server { .. } => Report { received: self.served, bad: self.served_bad, ..Report::default() },
        }
    }

    /// Takes a frame from the wire.
    pub fn receive(&mut self, now_ns: u64, frame: &[u8]) {
        self.rx_frames += 1;
        if let Some(heard) = &mut self.heard {
            heard.push((now_ns, frame.to_vec()));
        }
        if !self.stack || frame.len() < 14 {
            return;
        }
        let mut at = 12;
        for &(tpid, vid) in &self.spec.tags {
            let Some(t) = frame.get(at..at + 4) else { return };
            if t[..2] != tpid.to_be_bytes() || u16::from_be_bytes([t[2], t[3]]) & 0xfff != vid {
                return;
            }
            at += 4;
        }
        let mut plain = frame[..12].to_vec();
        plain.extend(&frame[at..]);
        if !self.first_syn(&plain) {
            return;
        }
        self.nic.rx.push_back(plain);
    }

    /// Returns false for a repeated SYN. With several sockets listening on one port, smoltcp gives a repeated SYN to
    /// the next socket, and two servers then answer one client; a real stack knows the connection. The socket that
    /// took the first SYN repeats its answer by itself.
    fn first_syn(&mut self, frame: &[u8]) -> bool {
        let Some(ip) = packet::parse(frame).and_then(|p| p.ip) else { return true };
        if ip.proto != packet::TCP || ip.end < ip.l4 + 20 || frame[ip.l4 + 13] & 0x12 != 0x02 {
            return true;
        }
        let head: [u8; 8] = frame[ip.l4..ip.l4 + 8].try_into().expect("eight bytes");
        self.syns.insert((ip.src, head))
    }

    /// Runs the stack and the activities, and sends the frames that they made.
    pub fn step(&mut self, ctx: &mut Ctx<'_>) {
        if !self.stack {
            return;
        }
        for _ in 0..16 {
            let before = self.nic.tx.len();
            let _ = self.iface.poll(at(ctx.now_ns), &mut self.nic, &mut self.sockets);
            let busy = self.drive(ctx.now_ns);
            if !busy && self.nic.tx.len() == before && self.nic.rx.is_empty() {
                break;
            }
        }
        for frame in std::mem::take(&mut self.nic.tx) {
            let wire = self.dress(frame);
            ctx.send(0, wire);
        }
        if let Some(t) = self.iface.poll_at(at(ctx.now_ns), &self.sockets) {
            // smoltcp counts in microseconds: the next whole one is never too early.
            let ns = t.total_micros() as u64 * 1000;
            ctx.wake_at(ns.max(ctx.now_ns + 1000));
        }
        for app in &self.apps {
            let wake = match app {
                App::Ping(p) if !p.report.done => Some(if p.report.sent < u64::from(p.count) {
                    p.next_ns.min(p.deadline_ns)
                } else {
                    p.deadline_ns
                }),
                App::Datagrams(d) if !d.report.done => Some(if d.report.sent < u64::from(d.count) {
                    d.next_ns.min(d.deadline_ns)
                } else {
                    d.deadline_ns
                }),
                App::Client(c) if !c.report.done => Some(c.deadline_ns),
                _ => None,
            };
            if let Some(ns) = wake {
                ctx.wake_at(ns.max(ctx.now_ns + 1000));
            }
        }
    }

    /// Adds the tags, and leaves the checksum unfinished as the NIC would send it.
    fn dress(&self, mut frame: Vec<u8>) -> Wire {
        let mut offload = Offload::NONE;
        if self.spec.csum != CsumMode::Full
            && let Some(p) = packet::parse(&frame)
            && let Some(ip) = p.ip
            && !ip.is_fragment()
            && let Some(field) = match ip.proto {
                packet::TCP => Some(16),
                packet::UDP => Some(6),
                _ => None,
            }
        {
            let s = packet::pseudo_sum(ip.src, ip.dst, ip.proto, ip.end - ip.l4) as u16;
            frame[ip.l4 + field..ip.l4 + field + 2].copy_from_slice(&s.to_be_bytes());
            if self.spec.csum == CsumMode::PartialMarked {
                offload.csum_start = (ip.l4 + 4 * self.spec.tags.len()) as u16;
                offload.csum_offset = field as u16;
            }
        }
        for &(tpid, vid) in self.spec.tags.iter().rev() {
            frame = packet::push_tag(&frame, tpid, vid);
        }
        Wire { bytes: frame, offload, hops: 0 }
    }

    fn drive(&mut self, now_ns: u64) -> bool {
        let Self { apps, sockets, iface, spec, served, served_bad, .. } = self;
        let mut busy = false;
        for app in apps {
            busy |= match app {
                App::Ping(p) => p.drive(now_ns, sockets, iface, spec.label),
                App::Datagrams(d) => d.drive(now_ns, sockets, spec.label),
                App::Echo(socket) => {
                    let s = sockets.get_mut::<udp::Socket<'_>>(*socket);
                    let mut busy = false;
                    while s.can_recv() && s.can_send() {
                        let Ok((data, meta)) = s.recv() else { break };
                        let (data, from) = (data.to_vec(), meta.endpoint);
                        busy |= s.send_slice(&data, from).is_ok();
                    }
                    busy
                }
                App::Server { port, conns } => {
                    let mut busy = false;
                    for c in conns {
                        busy |= c.drive(*port, sockets, spec.label, served, served_bad);
                    }
                    busy
                }
                App::Client(c) => c.drive(now_ns, sockets, spec.label),
            };
        }
        busy
    }
}

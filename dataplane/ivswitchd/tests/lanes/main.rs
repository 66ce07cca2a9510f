//! The drivers that keep offloads (`packet`, `tap`, `udp`) on real interfaces: the same proofs as `ports.rs`
//! has for AF_XDP, and that GSO packets, unfinished checksums and VLAN tags pass unchanged. Needs root; see
//! `lab`.

#[path = "../lab/mod.rs"]
mod lab;
mod uplink;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as Clock};

use ctl::io::{IoKind, OpenPort, SteerPlan, SteerReality, XdpMode};
use engine::command::{L4Proto, L4Range, PortId};
use engine::frame::{Batch, Frame, FramePool, GsoKind, Offload};
use engine::limits::BATCH_BYTES;
use engine::port::Port;
use engine::time::Instant;
use engine::wire::mac::MacAddr;
use ivswitchd::ports::umem::UmemPool;
use ivswitchd::ports::{self, PortControl};
use lab::child::{Child, is_child, ready_to_be_killed};
use lab::traffic::{PATIENCE, free_all, is_numbered, numbered, receive_if, sleep_on};
use lab::{Namespace, PacketSocket, alone, fold, index_of, ip, mac_of, root, sum, veth, wait_until_up};

fn pool() -> UmemPool {
    UmemPool::new(8192, 128).unwrap()
}

fn spec(interface: &str, kind: IoKind, shared: bool) -> OpenPort {
    let index = index_of(interface);
    OpenPort {
        interface: interface.into(),
        index,
        shared,
        xdp: XdpMode::Auto,
        kind,
        ours: false,
        tunnel: None,
        queues: 1,
    }
}

/// A port, opened for one worker.
struct Opened {
    port: Box<dyn Port<UmemPool> + Send>,
    fds: Vec<RawFd>,
    pending: Box<dyn Fn() -> bool + Send>,
    control: PortControl,
    facts: ctl::io::PortFacts,
}

fn try_open(spec: &OpenPort, mac: MacAddr, pool: &UmemPool, id: PortId) -> Result<Opened, String> {
    let cache = std::sync::Arc::new(ports::afxdp::SharedMaps::create().map_err(|e| e.to_string())?);
    let mut opened =
        ports::open(spec, mac, &pool.handle(), id, 1, &cache, &mut ports::afxdp::Kept::default())?;
    let (worker, part) = opened.parts.pop().expect("one part");
    assert!(worker == 0 && opened.parts.is_empty());
    let ports::OpenedPart { port, fds, pending, .. } = part;
    Ok(Opened { port, fds, pending, control: opened.control, facts: opened.facts })
}

fn open(interface: &str, kind: IoKind, pool: &UmemPool) -> Opened {
    try_open(&spec(interface, kind, false), MacAddr::default(), pool, PortId(1))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Makes the user's interface `u{n}`, opens the port at its other end, and gives the user a socket.
fn lane(kind: IoKind, n: u32, pool: &UmemPool) -> (Opened, PacketSocket) {
    let user = format!("u{n}");
    let opened = if kind == IoKind::Tap {
        let queue = ports::tap::queue(&user).unwrap();
        ports::tap::persist(&queue).unwrap();
        drop(queue);
        ip(&format!("link set {user} up"));
        let opened = open(&user, kind, pool);
        wait_until_up_or_unknown(&user);
        opened
    } else {
        veth(&user, &format!("p{n}"), "", "");
        open(&format!("p{n}"), kind, pool)
    };
    (opened, PacketSocket::on(&user))
}

/// Takes numbered frames from the port until there are `count`.
fn receive(opened: &mut Opened, pool: &mut UmemPool, count: usize) -> Vec<Frame> {
    receive_if(&mut *opened.port, &opened.fds, pool, count, is_numbered)
}

fn wait_until_up_or_unknown(interface: &str) {
    let deadline = Clock::now() + PATIENCE;
    while !lab::output("ip", &format!("-o link show dev {interface}")).contains("LOWER_UP") {
        assert!(Clock::now() < deadline, "{interface} does not come up");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Frames that go in at one end come out of the other, byte for byte, and back; afterwards no slot is missing.
fn receives_and_transmits(kind: IoKind) {
    let mut pool = pool();
    let (mut opened, user) = lane(kind, 1, &pool);
    assert!(opened.facts.mode.contains("tso"), "{}", opened.facts.mode);
    for (number, len) in [(1, 60), (2, 61), (3, 1514), (4, 18)] {
        user.send(&numbered(number, len));
        let frames = receive(&mut opened, &mut pool, 1);
        assert_eq!(frames.len(), 1, "frame {number} is lost: {:?}", opened.control.drops());
        assert_eq!(pool.bytes(&frames[0]), numbered(number, len));
        assert_eq!(frames[0].offload, Offload::NONE);
        free_all(&mut pool, frames);
    }
    let mut frames: Vec<Frame> =
        (0..500).map(|n| pool.alloc_from(&numbered(n, 60 + n as usize)).unwrap()).collect();
    // As after decapsulation, and as after encapsulation: the frame starts elsewhere in the slot.
    for (number, head) in [(7, 300), (8, 0)] {
        frames[number].head = head;
        pool.bytes_mut(&mut frames[number]).copy_from_slice(&numbered(number as u32, 60 + number));
    }
    for start in (0..500).step_by(100) {
        let mut step: Vec<Frame> = frames.drain(..100).collect();
        opened.port.tx(Instant::ZERO, &mut pool, &mut step);
        assert!(step.is_empty(), "it takes 100 frames");
        for number in start..start + 100 {
            let expected = numbered(number, 60 + number as usize);
            assert_eq!(user.receive(PATIENCE).expect("a frame is lost"), expected, "frame {number}");
        }
    }
    let mut batch = Batch::new();
    opened.port.rx(Instant::ZERO, &mut pool, &mut batch);
    free_all(&mut pool, batch.drain(..).collect());
    assert!(!(opened.pending)() && !opened.control.is_dead());
    assert_eq!(opened.control.drops().unwrap().tx_invalid, 0);
    assert_eq!(pool.usage().used, 0, "between calls a lane holds nothing");
    drop(opened.port);
    assert_eq!(opened.control.drops(), None);
}

#[test]
fn packet_receives_and_transmits() {
    alone(|| receives_and_transmits(IoKind::Packet));
}

#[test]
fn tap_receives_and_transmits() {
    alone(|| receives_and_transmits(IoKind::Tap));
}

/// Ten thousand frames each way between two ports, in order and intact; afterwards no slot is missing.
fn forwards_both_ways(kinds: [IoKind; 2]) {
    const COUNT: u32 = 10_000;
    const BURST: u32 = 50;
    let mut pool = pool();
    let ((first, one), (second, two)) = (lane(kinds[0], 1, &pool), lane(kinds[1], 2, &pool));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (done, pool) = (&done, &mut pool);
        let fds = [&first.fds[..], &second.fds[..]].concat();
        let mut ports = [first.port, second.port];
        let switch = scope.spawn(move || {
            let mut batch = Batch::new();
            let mut frames = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let mut idle = true;
                for from in [0, 1] {
                    ports[from].rx(Instant::ZERO, pool, &mut batch);
                    idle &= batch.is_empty();
                    frames.extend(batch.drain(..));
                    if !frames.is_empty() {
                        ports[1 - from].tx(Instant::ZERO, pool, &mut frames);
                    }
                    free_all(pool, std::mem::take(&mut frames));
                }
                if idle {
                    sleep_on(&fds, Duration::from_millis(20));
                }
            }
        });
        let mut result = Ok(());
        'all: for start in (0..COUNT).step_by(BURST as usize) {
            for number in start..start + BURST {
                one.send(&numbered(number, 60 + number as usize % 1400));
                two.send(&numbered(number ^ 0x8000_0000, 60 + number as usize % 999));
            }
            for number in start..start + BURST {
                let there = two.receive(PATIENCE);
                let back = one.receive(PATIENCE);
                if there != Some(numbered(number, 60 + number as usize % 1400))
                    || back != Some(numbered(number ^ 0x8000_0000, 60 + number as usize % 999))
                {
                    result = Err(number);
                    break 'all;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        switch.join().unwrap();
        let drops = [first.control.drops(), second.control.drops()];
        assert_eq!(result, Ok(()), "frame lost or changed; {drops:?}");
    });
    assert_eq!(pool.usage().used, 0, "every slot is back");
}

#[test]
fn packet_forwards_both_ways() {
    alone(|| forwards_both_ways([IoKind::Packet; 2]));
}

#[test]
fn tap_forwards_both_ways() {
    alone(|| forwards_both_ways([IoKind::Tap; 2]));
}

#[test]
fn afxdp_and_tap_forward_to_each_other() {
    alone(|| forwards_both_ways([IoKind::Afxdp, IoKind::Tap]));
}

/// The interface is removed while frames pass. The port is dead without a panic and its slots are back.
fn goes_away_under_traffic(kind: IoKind) {
    let mut pool = pool();
    let (mut doomed, user) = lane(kind, 1, &pool);
    let (mut other, bystander) = lane(kind, 2, &pool);
    for number in 0..100 {
        user.send(&numbered(number, 500));
    }
    let mut frames = receive(&mut doomed, &mut pool, 50);
    assert!(frames.len() >= 50);
    doomed.port.tx(Instant::ZERO, &mut pool, &mut frames);
    ip("link del u1");
    let deadline = Clock::now() + PATIENCE;
    let mut batch = Batch::new();
    while !doomed.control.is_dead() && Clock::now() < deadline {
        doomed.port.rx(Instant::ZERO, &mut pool, &mut batch);
        free_all(&mut pool, batch.drain(..).collect());
        frames.extend(pool.alloc_from(&numbered(1, 60)));
        doomed.port.tx(Instant::ZERO, &mut pool, &mut frames);
    }
    assert!(doomed.control.is_dead());
    free_all(&mut pool, frames);
    drop(doomed);
    bystander.send(&numbered(7, 70));
    let frames = receive(&mut other, &mut pool, 1);
    assert_eq!(pool.bytes(&frames[0]), numbered(7, 70));
    free_all(&mut pool, frames);
    assert_eq!(pool.usage().used, 0);
    // The interface comes back under its old name, and so does the port.
    let (mut again, user) = lane(kind, 1, &pool);
    user.send(&numbered(9, 90));
    let frames = receive(&mut again, &mut pool, 1);
    assert_eq!(pool.bytes(&frames[0]), numbered(9, 90));
    free_all(&mut pool, frames);
}

#[test]
fn packet_interface_goes_away_under_traffic() {
    alone(|| goes_away_under_traffic(IoKind::Packet));
}

#[test]
fn tap_interface_goes_away_under_traffic() {
    alone(|| goes_away_under_traffic(IoKind::Tap));
}

/// A worker asleep in poll() is woken by a frame.
fn wakes_a_sleeper(kind: IoKind) {
    let mut pool = pool();
    let (mut opened, user) = lane(kind, 1, &pool);
    let mut batch = Batch::new();
    loop {
        opened.port.rx(Instant::ZERO, &mut pool, &mut batch);
        if batch.is_empty() {
            break;
        }
        free_all(&mut pool, batch.drain(..).collect());
    }
    std::thread::scope(|scope| {
        let fds = &opened.fds;
        let sleeper = scope.spawn(move || sleep_on(fds, PATIENCE));
        user.send(&numbered(1, 60));
        assert!(sleeper.join().unwrap(), "it slept through");
    });
    let frames = receive(&mut opened, &mut pool, 1);
    assert_eq!(frames.len(), 1);
    free_all(&mut pool, frames);
}

#[test]
fn a_frame_wakes_a_sleeping_worker() {
    for kind in [IoKind::Packet, IoKind::Tap] {
        alone(move || wakes_a_sleeper(kind));
    }
}

/// Without slots the port receives nothing, asks to be polled again, and loses no waiting frame.
fn waits_for_slots(kind: IoKind) {
    let mut pool = pool();
    let (mut opened, user) = lane(kind, 1, &pool);
    let held: Vec<Frame> = std::iter::from_fn(|| pool.alloc(engine::frame::SlotSize::Small)).collect();
    user.send(&numbered(1, 60));
    let mut batch = Batch::new();
    opened.port.rx(Instant::ZERO, &mut pool, &mut batch);
    assert!(batch.is_empty() && (opened.pending)());
    assert!(opened.control.drops().unwrap().fill_ring_empty > 0);
    free_all(&mut pool, held);
    let frames = receive(&mut opened, &mut pool, 1);
    assert_eq!(pool.bytes(&frames[0]), numbered(1, 60));
    assert!(!(opened.pending)());
    free_all(&mut pool, frames);
}

#[test]
fn without_slots_frames_wait() {
    for kind in [IoKind::Packet, IoKind::Tap] {
        alone(move || waits_for_slots(kind));
    }
}

/// The address of the user's interface, its partner's address, and the partner's MAC.
const USER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const OTHER_MAC: &str = "02:00:00:00:00:99";

fn pseudo(packet: &[u8], proto: u8, l4_len: usize) -> u32 {
    sum(u32::from(proto) + l4_len as u32, &packet[12..20])
}

/// A socket of the user of port 1 that splits the data it sends into datagrams of this length.
fn user_socket(segment: usize) -> UdpSocket {
    ip(&format!("addr add {USER}/24 dev u1"));
    ip(&format!("neigh add {OTHER} lladdr {OTHER_MAC} dev u1"));
    let socket = UdpSocket::bind((USER, 7000)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let segment = segment as i32;
    // SAFETY: the pointer and length describe `segment`.
    let done = unsafe {
        use std::os::fd::AsRawFd;
        libc::setsockopt(socket.as_raw_fd(), 17, 103, (&raw const segment).cast(), 4)
    };
    assert_eq!(done, 0);
    socket
}

/// However many GSO packets wait, a batch holds at most as many as transmit queues hold segments.
fn a_batch_ends_with_its_bytes(kind: IoKind) {
    const LEN: usize = 60_000;
    let mut pool = pool();
    let (mut opened, _user) = lane(kind, 1, &pool);
    let socket = user_socket(1000);
    for _ in 0..3 {
        for _ in 0..20 {
            socket.send_to(&[7; LEN], (OTHER, 7001)).unwrap();
        }
        let mut seen = 0;
        let deadline = Clock::now() + PATIENCE;
        while seen < 20 * LEN && Clock::now() < deadline {
            let mut batch = Batch::new();
            opened.port.rx(Instant::ZERO, &mut pool, &mut batch);
            let bytes: usize = batch.iter().map(|frame| frame.len as usize).sum();
            assert!(bytes < BATCH_BYTES + LEN + 100, "{bytes} bytes in a batch");
            seen += batch.iter().filter(|frame| frame.len as usize > LEN).count() * LEN;
            free_all(&mut pool, batch.drain(..).collect());
        }
        assert_eq!(seen, 20 * LEN, "a super-frame is lost");
    }
    assert_eq!(pool.usage().used, 0);
}

#[test]
fn batches_end_with_their_bytes() {
    alone(|| a_batch_ends_with_its_bytes(IoKind::Packet));
    alone(|| a_batch_ends_with_its_bytes(IoKind::Tap));
}

/// The user's stack sends UDP datagrams by one `UDP_SEGMENT` call: they arrive as one GSO packet with an unfinished
/// checksum. Sent back the same way, they reach a socket as the same number of datagrams, all correct.
fn super_frames_go_through_whole(kind: IoKind) {
    const SEGMENT: usize = 1000;
    const COUNT: usize = 20;
    let mut pool = pool();
    let (mut opened, _user) = lane(kind, 1, &pool);
    let socket = user_socket(SEGMENT);
    let payload: Vec<u8> = (0..SEGMENT * COUNT - 300).map(|n| (n % 251) as u8).collect();
    socket.send_to(&payload, (OTHER, 7001)).unwrap();
    let to_port = |bytes: &[u8]| bytes.len() > 42 && bytes[36..38] == 7001_u16.to_be_bytes();
    let mut frames = receive_if(&mut *opened.port, &opened.fds, &mut pool, 1, to_port);
    assert_eq!(frames.len(), 1);
    let facts = Offload {
        csum_start: 34,
        csum_offset: 6,
        gso_kind: GsoKind::Udp,
        gso_size: SEGMENT as u16,
        ..Offload::NONE
    };
    assert_eq!(frames[0].offload, facts);
    assert_eq!(pool.bytes(&frames[0])[42..], payload);
    // Back, with addresses and ports exchanged: that does not change the sums.
    let bytes = pool.bytes_mut(&mut frames[0]);
    for (a, b, len) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
        for n in 0..len {
            bytes.swap(a + n, b + n);
        }
    }
    opened.port.tx(Instant::ZERO, &mut pool, &mut frames);
    assert!(frames.is_empty());
    assert_eq!(opened.control.drops().unwrap().tx_invalid, 0);
    let mut got: Vec<u8> = Vec::new();
    let mut buffer = [0; 2000];
    while got.len() < payload.len() {
        let (len, from) = socket.recv_from(&mut buffer).expect("a datagram is lost");
        assert_eq!(from, (OTHER, 7001).into());
        assert!(len == SEGMENT || got.len() + len == payload.len(), "{len}");
        got.extend(&buffer[..len]);
    }
    assert_eq!(got, payload);
    assert_eq!(pool.usage().used, 0);
}

#[test]
fn packet_super_frames_go_through_whole() {
    alone(|| super_frames_go_through_whole(IoKind::Packet));
}

#[test]
fn tap_super_frames_go_through_whole() {
    alone(|| super_frames_go_through_whole(IoKind::Tap));
}

/// A TCP connection between two stacks through two ports: data intact, carried in frames larger than any
/// wire's, with every received checksum either marked as unfinished or correct.
fn tcp_keeps_its_super_frames(kinds: [IoKind; 2]) {
    const BYTES: usize = 20_000_000;
    if !root() {
        return;
    }
    let (ours, theirs) = (Namespace::new("a"), Namespace::new("b"));
    let hub = Namespace::new("hub");
    let mut pool = pool();
    let opened: Vec<Opened> = hub.within(|| {
        let open = |n: usize, namespace: &Namespace| {
            let (opened, _) = lane(kinds[n], n as u32 + 1, &pool);
            ip(&format!("link set u{} netns {} name eth0", n + 1, namespace.name()));
            opened
        };
        vec![open(0, &ours), open(1, &theirs)]
    });
    for (namespace, address) in [(&ours, USER), (&theirs, OTHER)] {
        namespace.within(|| {
            ip(&format!("addr add {address}/24 dev eth0"));
            ip("link set eth0 up");
            wait_until_up_or_unknown("eth0");
        });
    }
    let done = AtomicBool::new(false);
    let (frames, super_frames) = std::thread::scope(|scope| {
        let (done, pool) = (&done, &mut pool);
        let fds = [&opened[0].fds[..], &opened[1].fds[..]].concat();
        let mut ports: Vec<_> = opened.into_iter().map(|opened| opened.port).collect();
        let switch = scope.spawn(move || {
            let (mut batch, mut queue) = (Batch::new(), Vec::new());
            let (mut frames, mut super_frames) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let mut idle = true;
                for from in [0, 1] {
                    ports[from].rx(Instant::ZERO, pool, &mut batch);
                    idle &= batch.is_empty();
                    for frame in &batch {
                        frames += 1;
                        super_frames += usize::from(frame.offload.gso_kind == GsoKind::TcpV4);
                        let bytes = pool.bytes(frame);
                        let offload = frame.offload;
                        if bytes.get(23) == Some(&6)
                            && !offload.csum_partial()
                            && offload.gso_kind == GsoKind::None
                        {
                            let len = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
                            let packet = &bytes[14..14 + len];
                            assert_eq!(fold(sum(pseudo(packet, 6, len - 20), &packet[20..])), 0xffff);
                        }
                    }
                    queue.extend(batch.drain(..));
                    if !queue.is_empty() {
                        ports[1 - from].tx(Instant::ZERO, pool, &mut queue);
                    }
                    free_all(pool, std::mem::take(&mut queue));
                }
                if idle {
                    sleep_on(&fds, Duration::from_millis(20));
                }
            }
            (frames, super_frames)
        });
        let server = theirs.within(|| TcpListener::bind((OTHER, 9000)).unwrap());
        let receiver = scope.spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut got: Vec<u8> = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            got
        });
        let sent: Vec<u8> = (0..BYTES as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut stream = ours.within(|| TcpStream::connect((OTHER, 9000)).unwrap());
        stream.write_all(&sent).unwrap();
        drop(stream);
        let intact = receiver.join().unwrap() == sent;
        done.store(true, Ordering::Relaxed);
        let counts = switch.join().unwrap();
        assert!(intact, "the data changed on its way");
        counts
    });
    // 20 MB in wire-sized frames would be 13800 frames, and half as many acknowledgements.
    assert!(super_frames > 100 && frames < 8000, "{super_frames} super-frames of {frames} frames");
    assert_eq!(pool.usage().used, 0);
}

#[test]
fn tcp_keeps_its_super_frames_between_packet_ports() {
    tcp_keeps_its_super_frames([IoKind::Packet; 2]);
}

#[test]
fn tcp_keeps_its_super_frames_between_taps() {
    tcp_keeps_its_super_frames([IoKind::Tap; 2]);
}

#[test]
fn tcp_keeps_its_super_frames_between_packet_and_tap() {
    tcp_keeps_its_super_frames([IoKind::Packet, IoKind::Tap]);
}

/// A tag that the kernel takes out of the frame is back in it when we get it, 802.1Q and 802.1ad.
fn tags_are_put_back(kind: IoKind) {
    let mut pool = pool();
    let (mut opened, user) = lane(kind, 1, &pool);
    for (number, tag) in [(1, [0x81, 0, 0x20, 5]), (2, [0x88, 0xa8, 0, 7])] {
        let plain = numbered(number, 200);
        let tagged = [&plain[..12], &tag, &plain[12..]].concat();
        user.send(&tagged);
        let frames = receive_if(&mut *opened.port, &opened.fds, &mut pool, 1, |bytes| {
            bytes[14..] == plain[10..] || bytes[16..] == plain[12..]
        });
        assert_eq!(pool.bytes(&frames[0]), tagged);
        free_all(&mut pool, frames);
    }
}

#[test]
fn vlan_tags_are_put_back() {
    for kind in [IoKind::Packet, IoKind::Tap] {
        alone(move || tags_are_put_back(kind));
    }
}

/// The rVM's own stack does not answer at a dedicated port, not even after the process was killed; once the
/// port is closed in order it answers again.
#[test]
fn a_packet_port_is_closed_to_the_kernel() {
    alone(|| {
        veth("u1", "p1", "", "");
        ip(&format!("addr add {OTHER}/24 dev p1"));
        let guest = Namespace::new("guest");
        ip(&format!("link set u1 netns {}", guest.name()));
        guest.within(|| {
            ip(&format!("addr add {USER}/24 dev u1"));
            ip("link set u1 up");
            wait_until_up("u1");
        });
        let answers = || guest.within(|| lab::succeeds("ping", &format!("-c 1 -W 1 -q {OTHER}")));
        assert!(answers(), "before");
        let child = Child::start("child_takes_p1");
        assert!(!answers());
        drop(child);
        assert!(!answers(), "it stays closed");
        let pool = pool();
        let opened = open("p1", IoKind::Packet, &pool);
        assert!(!answers());
        drop(opened);
        assert!(answers(), "it is given back");
    });
}

/// Another test runs this in a separate process; otherwise it does nothing.
#[test]
#[ignore = "a_packet_port_is_closed_to_the_kernel runs it"]
fn child_takes_p1() {
    if !is_child() {
        return;
    }
    let pool = pool();
    let _opened = open("p1", IoKind::Packet, &pool);
    ready_to_be_killed();
}

/// Errors name the object, the cause and the remedy.
#[test]
fn what_cannot_be_opened_says_why() {
    alone(|| {
        veth("u1", "p1", "", "");
        ip("link set lo up");
        let pool = pool();
        let open = |spec: OpenPort| {
            let opened = try_open(&spec, MacAddr::default(), &pool, PortId(1));
            opened.err().expect("it does not open")
        };
        let stale = |kind| OpenPort { index: 4711, ..spec("p1", kind, false) };
        for kind in [IoKind::Packet, IoKind::Tap] {
            let error = open(stale(kind));
            assert!(error.contains("\"p1\"") && error.contains("as soon as it appears"), "{error}");
        }
        let error = open(spec("p1", IoKind::Tap, false));
        assert!(error.contains("must be a TAP"), "{error}");
        let error = open(spec("p1", IoKind::Udp, true));
        assert!(error.contains("no VTEP address"), "{error}");
        let _taken = UdpSocket::bind("127.0.0.1:4789").unwrap();
        let tunnel = Some((Ipv4Addr::LOCALHOST.into(), 4789));
        let error = open(OpenPort { tunnel, ..spec("p1", IoKind::Udp, true) });
        assert!(error.contains("vxlan device"), "{error}");
    });
}

/// A TAP whose interface was moved to another namespace continues to work, and reports the move.
#[test]
fn a_tap_is_moved_to_a_namespace() {
    if !root() {
        return;
    }
    let (hub, guest) = (Namespace::new("hub"), Namespace::new("guest"));
    let mut pool = pool();
    let (mut opened, _) = hub.within(|| lane(IoKind::Tap, 1, &pool));
    assert!(opened.control.is_elsewhere());
    hub.within(|| ip(&format!("link set u1 netns {}", guest.name())));
    let user = guest.within(|| {
        ip("link set u1 up");
        wait_until_up_or_unknown("u1");
        PacketSocket::on("u1")
    });
    assert!(matches!(opened.control, PortControl::Tap(_)) && opened.control.is_elsewhere());
    user.send(&numbered(1, 60));
    let mut frames = receive(&mut opened, &mut pool, 1);
    opened.port.tx(Instant::ZERO, &mut pool, &mut frames);
    assert_eq!(user.receive(PATIENCE).unwrap(), numbered(1, 60));
    guest.within(|| ip("link del u1"));
    assert!(!opened.control.is_elsewhere());
}

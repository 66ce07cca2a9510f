//! Port I/O on real interfaces. Needs root; each test has its own network namespaces, most of which have no
//! name and end with the test's thread. Named ones start with `ivio-`.

mod lab;

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as Clock};

use ctl::io::{IoKind, OpenPort, SteerPlan, SteerReality, XdpMode};
use engine::command::{L4Proto, L4Range, PortId};
use engine::frame::{Batch, Frame, FramePool};
use engine::port::Port;
use engine::time::Instant;
use engine::wire::mac::MacAddr;
use ivswitchd::ports::afxdp::{self, AfxdpPort, Opened, PortError};
use ivswitchd::ports::umem::UmemPool;
use lab::child::{Child, is_child, ready_to_be_killed};
use lab::traffic::{PATIENCE, free_all, is_numbered, numbered, receive_if, sleep_on};
use lab::underlay::{OUR_ADDRESS, Underlay, tunnel_plan};
use lab::{PacketSocket, alone, index_of, ip, mac_of, root, veth, wait_until_up};

fn spec(interface: &str, xdp: XdpMode, shared: bool) -> OpenPort {
    OpenPort {
        interface: interface.into(),
        index: index_of(interface),
        shared,
        xdp,
        kind: IoKind::Afxdp,
        ours: false,
        tunnel: None,
        queues: 1,
    }
}

/// The maps of an empty kernel offload.
fn maps() -> std::sync::Arc<afxdp::SharedMaps> {
    std::sync::Arc::new(afxdp::SharedMaps::create().unwrap())
}

/// Takes numbered frames from the port until there are `count`.
fn receive(port: &mut AfxdpPort, pool: &mut UmemPool, count: usize) -> Vec<Frame> {
    let fds: Vec<RawFd> = port.fds().collect();
    receive_if(port, &fds, pool, count, is_numbered)
}

fn open(interface: &str, xdp: XdpMode, pool: &UmemPool) -> Opened {
    afxdp::open(&spec(interface, xdp, false), &pool.handle(), PortId(1), &maps()).expect("the port opens")
}

fn pool() -> UmemPool {
    UmemPool::new(8192, 16).unwrap()
}

/// Frames that go in at one end of a veth come out of the port at the other, byte for byte, and back.
fn receives_and_transmits(xdp: XdpMode, mode: &str) {
    veth("u1", "p1", "", "");
    let mut pool = pool();
    let Opened { mut port, control, facts, .. } = open("p1", xdp, &pool);
    assert_eq!(facts.mode, mode, "{}", facts.reason);
    let user = PacketSocket::on("u1");
    for (number, len) in [(1, 60), (2, 61), (3, 1514), (4, 18)] {
        user.send(&numbered(number, len));
        let frames = receive(&mut port, &mut pool, 1);
        assert_eq!(frames.len(), 1, "frame {number} is lost: {:?}", control.stats());
        assert_eq!(pool.bytes(&frames[0]), numbered(number, len));
        free_all(&mut pool, frames);
    }
    let mut frames: Vec<Frame> =
        (0..500).map(|n| pool.alloc_from(&numbered(n, 60 + n as usize)).unwrap()).collect();
    // As after decapsulation, and as after encapsulation: the frame starts elsewhere in the slot.
    for (number, head) in [(7, 300), (8, 0)] {
        frames[number].head = head;
        pool.bytes_mut(&mut frames[number]).copy_from_slice(&numbered(number as u32, 60 + number));
    }
    let mut sent = 0;
    while !frames.is_empty() {
        let step: Vec<Frame> = frames.drain(..frames.len().min(100)).collect();
        let mut step = step;
        sent += step.len();
        port.tx(Instant::ZERO, &mut pool, &mut step);
        assert!(step.is_empty(), "the ring takes 100 frames");
        for number in sent as u32 - 100..sent as u32 {
            let expected = numbered(number, 60 + number as usize);
            assert_eq!(user.receive(PATIENCE).expect("a frame is lost"), expected, "frame {number}");
        }
    }
    let mut batch = Batch::new();
    port.rx(Instant::ZERO, &mut pool, &mut batch);
    free_all(&mut pool, batch.drain(..).collect());
    assert!(!port.tx_pending()() && !control.is_dead());
    assert_eq!(control.stats().unwrap().tx_invalid, 0);
    assert_eq!(pool.usage().used, port.lent(), "only the fill ring has slots");
    drop(port);
    assert_eq!(control.stats(), None);
    assert_eq!(pool.usage().used, 0, "every slot is back");
}

#[test]
fn receives_and_transmits_native() {
    alone(|| receives_and_transmits(XdpMode::Auto, "native, copy"));
}

#[test]
fn receives_and_transmits_generic() {
    alone(|| receives_and_transmits(XdpMode::Generic, "generic, copy"));
}

/// Ten thousand frames each way between two ports, in order and intact; afterwards no slot is missing.
fn forwards_both_ways(xdp: XdpMode) {
    const COUNT: u32 = 10_000;
    const BURST: u32 = 50;
    veth("u1", "p1", "", "");
    veth("u2", "p2", "", "");
    let mut pool = pool();
    let (first, second) = (open("p1", xdp, &pool), open("p2", xdp, &pool));
    let users = [PacketSocket::on("u1"), PacketSocket::on("u2")];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        let ports = [first.port, second.port];
        let pool_ref = &mut pool;
        let switch = scope.spawn(move || {
            let mut ports = ports;
            let mut batch = Batch::new();
            let mut frames = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let mut idle = true;
                for from in [0, 1] {
                    ports[from].rx(Instant::ZERO, pool_ref, &mut batch);
                    idle &= batch.is_empty();
                    frames.extend(batch.drain(..));
                    if !frames.is_empty() {
                        ports[1 - from].tx(Instant::ZERO, pool_ref, &mut frames);
                    }
                    free_all(pool_ref, std::mem::take(&mut frames));
                }
                if idle {
                    let fds: Vec<RawFd> = ports.iter().flat_map(AfxdpPort::fds).collect();
                    sleep_on(&fds, Duration::from_millis(20));
                }
            }
            ports
        });
        let mut result = Ok(());
        'all: for start in (0..COUNT).step_by(BURST as usize) {
            for number in start..start + BURST {
                users[0].send(&numbered(number, 60 + number as usize % 1400));
                users[1].send(&numbered(number ^ 0x8000_0000, 60 + number as usize % 999));
            }
            for number in start..start + BURST {
                let there = users[1].receive(PATIENCE);
                let back = users[0].receive(PATIENCE);
                if there != Some(numbered(number, 60 + number as usize % 1400))
                    || back != Some(numbered(number ^ 0x8000_0000, 60 + number as usize % 999))
                {
                    result = Err(number);
                    break 'all;
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        let ports = switch.join().unwrap();
        let stats = [first.control.stats(), second.control.stats()];
        assert_eq!(result, Ok(()), "frame lost or changed; {stats:?}");
        drop(ports);
    });
    assert_eq!(pool.usage().used, 0, "every slot is back");
}

#[test]
fn forwards_both_ways_native() {
    alone(|| forwards_both_ways(XdpMode::Auto));
}

#[test]
fn forwards_both_ways_generic() {
    alone(|| forwards_both_ways(XdpMode::Generic));
}

/// The crate `afxdp` cannot do jumbo frames; the error says so.
#[test]
#[cfg(feature = "xsk-afxdp")]
fn jumbo_frames_are_refused() {
    alone(|| {
        veth("u1", "p1", "mtu 9000", "mtu 9000");
        let pool = pool();
        let error =
            afxdp::open(&spec("p1", XdpMode::Auto, false), &pool.handle(), PortId(1), &maps()).unwrap_err();
        assert!(error.to_string().contains("MTU of 9000"), "{error}");
    });
}

/// Frames larger than a chunk arrive whole, and leave whole.
#[test]
#[cfg(not(feature = "xsk-afxdp"))]
fn jumbo_frames_take_several_chunks() {
    alone(|| {
        veth("u1", "p1", "mtu 9000", "mtu 9000");
        let mut pool = pool();
        let Opened { mut port, facts, control: attached, .. } = open("p1", XdpMode::Auto, &pool);
        assert_eq!(facts.mode, "native, copy", "{}", facts.reason);
        let user = PacketSocket::on("u1");
        for (number, len) in [(1, 1700), (2, 1800), (3, 5000), (4, 9014), (5, 60)] {
            user.send(&numbered(number, len));
            let mut frames = receive(&mut port, &mut pool, 1);
            assert_eq!(frames.len(), 1, "{len} bytes are lost: {:?}", attached.stats());
            assert_eq!(pool.bytes(&frames[0]), numbered(number, len));
            port.tx(Instant::ZERO, &mut pool, &mut frames);
            assert_eq!(user.receive(PATIENCE).expect("it comes back"), numbered(number, len));
        }
        // One by one, many times the transmit ring's capacity.
        for number in 6..1500 {
            user.send(&numbered(number, 9014));
            let mut frames = receive(&mut port, &mut pool, 1);
            assert_eq!(frames.len(), 1, "frame {number} is lost: {:?}", attached.stats());
            port.tx(Instant::ZERO, &mut pool, &mut frames);
            assert!(frames.is_empty(), "frame {number} is left");
            assert_eq!(user.receive(PATIENCE).expect("it comes back").len(), 9014);
        }
        drop(port);
        assert_eq!(pool.usage().used, 0);
    });
}

/// The CMS deletes the interface while frames pass. The port becomes dead without a panic, its slots come
/// back, and another port of the same pool is not affected.
#[test]
fn an_interface_goes_away_under_traffic() {
    alone(|| {
        veth("u1", "p1", "", "");
        veth("u2", "p2", "", "");
        let mut pool = pool();
        let mut doomed = open("p1", XdpMode::Auto, &pool);
        let mut other = open("p2", XdpMode::Auto, &pool);
        let (user, bystander) = (PacketSocket::on("u1"), PacketSocket::on("u2"));
        for number in 0..100 {
            user.send(&numbered(number, 500));
        }
        let mut frames = receive(&mut doomed.port, &mut pool, 50);
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
        let mut frames = receive(&mut other.port, &mut pool, 1);
        assert_eq!(pool.bytes(&frames[0]), numbered(7, 70));
        other.port.tx(Instant::ZERO, &mut pool, &mut frames);
        assert_eq!(bystander.receive(PATIENCE).unwrap(), numbered(7, 70));
        assert_eq!(pool.usage().used, other.port.lent());
        drop(other);
        assert_eq!(pool.usage().used, 0);
        // The interface comes back under its old name, and so does the port.
        veth("u1", "p1", "", "");
        let mut again = open("p1", XdpMode::Auto, &pool);
        PacketSocket::on("u1").send(&numbered(9, 90));
        let frames = receive(&mut again.port, &mut pool, 1);
        assert_eq!(pool.bytes(&frames[0]), numbered(9, 90));
        free_all(&mut pool, frames);
    });
}

/// The user's end is down for some time: frames wait or are dropped, and afterwards everything works.
#[test]
fn an_interface_that_is_down_comes_up_again() {
    alone(|| {
        ip("link add u1 type veth peer name p1");
        ip("link set u1 up");
        let mut pool = pool();
        let Opened { mut port, control, .. } = open("p1", XdpMode::Auto, &pool);
        let mut frames: Vec<Frame> = (0..10).map(|n| pool.alloc_from(&numbered(n, 60)).unwrap()).collect();
        port.tx(Instant::ZERO, &mut pool, &mut frames);
        let pending = port.tx_pending();
        assert!(frames.is_empty() && pending() && !control.is_dead());
        ip("link set p1 up");
        wait_until_up("u1");
        wait_until_up("p1");
        let user = PacketSocket::on("u1");
        let mut batch = Batch::new();
        port.rx(Instant::from_millis(50), &mut pool, &mut batch);
        free_all(&mut pool, batch.drain(..).collect());
        assert!(!pending(), "the frames that waited are gone now");
        assert_eq!(user.receive(PATIENCE).unwrap(), numbered(0, 60));
    });
}

/// A worker asleep in poll() is woken by a frame.
#[test]
fn a_frame_wakes_a_sleeping_worker() {
    for xdp in [XdpMode::Auto, XdpMode::Generic] {
        alone(move || {
            veth("u1", "p1", "", "");
            let mut pool = pool();
            let Opened { mut port, control: _attached, .. } = open("p1", xdp, &pool);
            let user = PacketSocket::on("u1");
            let mut batch = Batch::new();
            loop {
                // Takes the frames that the interface sent as it came up.
                port.rx(Instant::ZERO, &mut pool, &mut batch);
                if batch.is_empty() {
                    break;
                }
                free_all(&mut pool, batch.drain(..).collect());
            }
            std::thread::scope(|scope| {
                let fds: Vec<RawFd> = port.fds().collect();
                let sleeper = scope.spawn(move || sleep_on(&fds, PATIENCE));
                user.send(&numbered(1, 60));
                assert!(sleeper.join().unwrap(), "it slept through");
            });
            let frames = receive(&mut port, &mut pool, 1);
            assert_eq!(frames.len(), 1);
            free_all(&mut pool, frames);
        });
    }
}

/// A veth with several queues: the port receives frames from each.
#[test]
fn every_queue_is_read() {
    alone(|| {
        let queues = "numtxqueues 4 numrxqueues 4";
        veth("u1", "p1", queues, queues);
        let mut pool = pool();
        let Opened { mut port, facts, control: attached, .. } = open("p1", XdpMode::Auto, &pool);
        assert_eq!(facts.queues, 4);
        let user = PacketSocket::on("u1");
        for number in 0..200 {
            user.send(&numbered(number, 60));
        }
        let frames = receive(&mut port, &mut pool, 200);
        assert_eq!(frames.len(), 200, "{:?}", attached.stats());
        free_all(&mut pool, frames);
        drop(port);
        assert_eq!(pool.usage().used, 0);
    });
}

/// Errors name the object, the cause and the remedy.
#[test]
fn what_cannot_be_opened_says_why() {
    alone(|| {
        veth("u1", "p1", "", "");
        let pool = pool();
        let handle = pool.handle();
        let missing = OpenPort {
            interface: "p9".into(),
            index: 9,
            shared: false,
            xdp: XdpMode::Auto,
            kind: IoKind::Afxdp,
            ours: false,
            tunnel: None,
            queues: 1,
        };
        let error = afxdp::open(&missing, &handle, PortId(1), &maps()).unwrap_err();
        assert!(matches!(error, PortError::NoInterface { .. }), "{error}");
        let stale = OpenPort { index: 4711, ..spec("p1", XdpMode::Auto, false) };
        let error = afxdp::open(&stale, &handle, PortId(1), &maps()).unwrap_err();
        assert!(matches!(error, PortError::NoInterface { .. }), "{error}");

        let first = open("p1", XdpMode::Auto, &pool);
        let error = afxdp::open(&spec("p1", XdpMode::Auto, false), &handle, PortId(1), &maps()).unwrap_err();
        if cfg!(feature = "xsk-afxdp") {
            // Here the program comes before the sockets, so it is the first obstacle.
            assert!(matches!(error, PortError::ProgramPresent { .. }), "{error}");
        } else {
            assert!(matches!(error, PortError::QueueTaken { queue: 0, .. }), "{error}");
        }
        // The sockets are closed but the program stays: now the program is the obstacle.
        drop(first.port);
        let error = afxdp::open(&spec("p1", XdpMode::Auto, false), &handle, PortId(1), &maps()).unwrap_err();
        // The second name appears on kernels before Linux 6.8.
        let names = ["\"steer_tagged\" (id ", "\"steer_all\" (id "];
        assert!(names.iter().any(|name| error.to_string().contains(name)), "{error}");
        drop(first.control);
        drop(open("p1", XdpMode::Auto, &pool));
        assert_eq!(pool.usage().used, 0);

        ip("link add u2 numtxqueues 4 numrxqueues 1 type veth peer name p2 numrxqueues 1 numtxqueues 1");
        let error =
            afxdp::open(&spec("p2", XdpMode::Native, false), &handle, PortId(1), &maps()).unwrap_err();
        assert!(error.to_string().contains("ethtool -L p2 rx"), "{error}");
        let fallback = open("p2", XdpMode::Auto, &pool);
        assert_eq!(fallback.facts.mode, "generic, copy");
        assert!(fallback.facts.reason.contains("transmit queues"), "{}", fallback.facts.reason);
        drop(fallback);
        if cfg!(not(feature = "xsk-afxdp")) {
            // The crate has its own memory.
            let error = first_error_of_a_small_pool();
            assert!(matches!(error, PortError::NoSlots { .. }), "{error}");
        }
    });
}

/// Forty ports share the frame memory of a small daemon. All open, the first and the last one receive, and one that gets
/// bursts is given more than it began with.
#[test]
fn many_ports_share_little_memory() {
    if cfg!(feature = "xsk-afxdp") {
        return;
    }
    alone(|| {
        const PORTS: u32 = 40;
        let (mut pool, maps) = (UmemPool::new(1024, 4).unwrap(), maps());
        let mut ports: Vec<Opened> = Vec::new();
        for n in 0..PORTS {
            let (user, port) = (format!("u{n}"), format!("p{n}"));
            veth(&user, &port, "", "");
            let spec = spec(&port, XdpMode::Auto, false);
            ports.push(afxdp::open(&spec, &pool.handle(), PortId(1), &maps).expect("the port opens"));
        }
        assert_eq!(ports.last().unwrap().facts.mode, "native, copy");
        for n in [0, PORTS - 1] {
            let user = PacketSocket::on(&format!("u{n}"));
            let port = &mut ports[n as usize].port;
            let before = port.lent();
            for burst in 0..40 {
                for number in 0..before as u32 {
                    user.send(&numbered(burst * 100 + number, 60));
                }
                let frames = receive(port, &mut pool, 1);
                assert!(!frames.is_empty(), "port {n} receives nothing");
                free_all(&mut pool, frames);
            }
            assert!(n == 0 || port.lent() > before, "port {n} has {before}, and then {}", port.lent());
        }
        drop(ports);
        assert_eq!(pool.usage().used, 0, "every slot is back");
    });
}

fn first_error_of_a_small_pool() -> PortError {
    let pool = UmemPool::new(64, 0).unwrap();
    afxdp::open(&spec("p1", XdpMode::Auto, false), &pool.handle(), PortId(1), &maps()).unwrap_err()
}

/// The kernel and the switch share the uplink: tunnel packets go up, all others stay. If a whole address goes
/// up, its exceptions remain with the kernel.
#[test]
fn the_uplink_is_shared_with_the_kernel() {
    if !root() {
        return;
    }
    let underlay = Underlay::new();
    underlay.finish_checksums();
    let mut pool = pool();
    for xdp in [XdpMode::Auto, XdpMode::Generic] {
        let Opened { mut port, mut control, .. } = underlay
            .ours
            .within(|| afxdp::open(&spec("eth0", xdp, true), &pool.handle(), PortId(0), &maps()).unwrap());
        let mac = underlay.ours.within(|| MacAddr(mac_of("eth0")));
        assert!(underlay.ping_works(), "before any plan");
        control.steer(&tunnel_plan(), mac).unwrap();
        assert!(underlay.ping_works() && underlay.tcp_works());
        let sender = underlay.host.within(|| UdpSocket::bind("10.0.0.99:5555").unwrap());
        for (port_number, text) in [(4789, "up"), (4790, "stays")] {
            sender.send_to(text.as_bytes(), (OUR_ADDRESS, port_number)).unwrap();
        }
        let mut batch = Batch::new();
        let deadline = Clock::now() + PATIENCE;
        while batch.is_empty() && Clock::now() < deadline {
            sleep_on(&port.fds().collect::<Vec<_>>(), Duration::from_millis(100));
            port.rx(Instant::ZERO, &mut pool, &mut batch);
        }
        assert_eq!(batch.len(), 1, "{:?}", control.steer_counters());
        assert_eq!(&pool.bytes(&batch[0])[42..44], b"up");
        free_all(&mut pool, batch.drain(..).collect());
        let counters = control.steer_counters().unwrap();
        assert_eq!((counters.tunnel, counters.reality), (1, 0));
        assert!(counters.passed > 5);

        // Now the whole address except port 22: echo requests go up (and get no answer here), SSH stays.
        let except = vec![L4Range { proto: L4Proto::Tcp, first: 22, last: 22 }];
        let address = OUR_ADDRESS.into();
        let mut plan = tunnel_plan();
        plan.reality.push(SteerReality { address, all: true, ports: vec![], except });
        control.steer(&plan, mac).unwrap();
        assert!(!underlay.ping_works() && underlay.tcp_works());
        assert!(control.steer_counters().unwrap().reality >= 1);
        control.steer(&tunnel_plan(), mac).unwrap();
        assert!(underlay.ping_works() && underlay.tcp_works(), "the plan is taken back");
        drop(control);
        assert!(underlay.ping_works() && underlay.tcp_works(), "the program is gone");
        drop(port);
        assert_eq!(pool.usage().used, 0);
    }
}

/// The process is killed. The uplink is clean, and the kernel gets every packet.
#[test]
fn a_killed_process_leaves_nothing_behind() {
    if !root() {
        return;
    }
    let underlay = Underlay::new();
    underlay.finish_checksums();
    let child = underlay.ours.within(|| Child::start("child_takes_everything"));
    let attached = || underlay.ours.within(|| lab::output("ip", "link show dev eth0").contains("xdp"));
    assert!(attached() && !underlay.ping_works(), "the child took the echo requests");
    drop(child);
    assert!(!attached(), "the program is still attached");
    assert!(underlay.ping_works() && underlay.tcp_works());
}

/// `a_killed_process_leaves_nothing_behind` runs this in a separate process.
#[test]
#[ignore = "a_killed_process_leaves_nothing_behind runs it"]
fn child_takes_everything() {
    if !is_child() {
        return;
    }
    let pool = pool();
    let opened = afxdp::open(&spec("eth0", XdpMode::Auto, true), &pool.handle(), PortId(0), &maps()).unwrap();
    let mut control = opened.control;
    let address = OUR_ADDRESS.into();
    let plan = SteerPlan {
        tunnel: None,
        vnis: None,
        reality: vec![SteerReality { address, all: true, ports: vec![], except: vec![] }],
    };
    control.steer(&plan, MacAddr(mac_of("eth0"))).unwrap();
    ready_to_be_killed();
}

/// A punted packet leaves through the kernel, which resolves the next hop's MAC itself.
#[test]
fn the_kernel_sends_what_is_punted() {
    use engine::frame::HeapPool;
    use ivswitchd::ports::host::{HostPort, UplinkIndex};
    use std::net::{Ipv6Addr, SocketAddr};
    if !root() {
        return;
    }
    let underlay = Underlay::new();
    underlay.finish_checksums();
    let servers = underlay
        .host
        .within(|| [UdpSocket::bind("10.0.0.99:7000").unwrap(), UdpSocket::bind("[fd00::99]:7000").unwrap()]);
    let mut host = underlay.ours.within(|| HostPort::open(UplinkIndex::default()).unwrap());
    let counters = host.counters();
    let mut pool = HeapPool::new(16, 0);
    let mut ethernet_v4 = vec![0; 12];
    ethernet_v4.extend([8, 0]);
    let (from, to) = (Ipv4Addr::new(56, 0, 0, 11), Ipv4Addr::new(10, 0, 0, 99));
    ethernet_v4.extend(lab::udp4(from, to, 1234, 7000, b"four"));
    ethernet_v4.extend([0; 9]); // padding, which must not be sent
    let mut ethernet_v6 = vec![0; 12];
    ethernet_v6.extend([0x86, 0xdd]);
    let from: Ipv6Addr = "fd00::11".parse().unwrap();
    ethernet_v6.extend(lab::udp6(from, "fd00::99".parse().unwrap(), 1234, 7000, b"six"));
    let not_ip = numbered(1, 60);
    let mut cut = ethernet_v4[..40].to_vec();
    cut[16..18].copy_from_slice(&500_u16.to_be_bytes());
    let mut frames: Vec<Frame> =
        [&ethernet_v4, &ethernet_v6, &not_ip, &cut].map(|b| pool.alloc_from(b).unwrap()).into();
    host.tx(Instant::ZERO, &mut pool, &mut frames);
    assert!(frames.is_empty());
    assert_eq!(pool.usage().used, 0);
    for (server, text, from) in
        [(&servers[0], "four", "56.0.0.11:1234"), (&servers[1], "six", "[fd00::11]:1234")]
    {
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 64];
        let (len, sender) = server.recv_from(&mut buffer).expect("the packet arrives");
        assert_eq!(&buffer[..len], text.as_bytes());
        assert_eq!(sender, from.parse::<SocketAddr>().unwrap());
    }
    assert_eq!(counters.sent.load(Ordering::Relaxed), 2);
    assert_eq!(counters.not_ip.load(Ordering::Relaxed), 2);
}

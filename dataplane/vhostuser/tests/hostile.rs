//! Violations by a guest or QEMU: each ends in a fault that stops only this device, names the violation, and
//! leaks neither slots nor descriptors.

mod driver;

use std::os::fd::{AsFd, OwnedFd};

use driver::*;
use engine::frame::FramePool;
use proptest::prelude::*;
use rustix::fs::SealFlags;
use rustix::pipe::pipe;
use vhostuser::Fault;

/// Runs `prank` on the ring from the guest; returns the fault's text.
fn from_guest(prank: impl FnOnce(&mut Driver)) -> String {
    let (mut driver, mut ours) = running(USUAL);
    driver.write(&[0; 12], BUFFERS);
    driver.offer(1, &[(BUFFERS, 72)], 0);
    prank(&mut driver);
    ours.receive();
    broken(&ours)
}

/// Runs `prank` on the ring to the guest; returns the fault's text.
fn to_guest(features: u64, prank: impl FnOnce(&mut Driver)) -> String {
    let (mut driver, mut ours) = running(features);
    prank(&mut driver);
    let frames = (0..3).map(|_| ours.frame(&[7; 1000])).collect();
    ours.send(frames);
    broken(&ours)
}

fn broken(ours: &Ours) -> String {
    let fault = ours.device.take_fault().expect("a fault is found");
    assert!(!ours.device.is_running(), "the ring is stopped");
    assert_eq!(ours.pool.usage().used, 0, "no slot is lost");
    assert!(ours.device.take_fault().is_none(), "once");
    fault.to_string()
}

#[test]
fn t9_chains_that_never_end() {
    let looped = |driver: &mut Driver| {
        let table = driver.parts(1)[0];
        driver.descriptor(table, 1, (BUFFERS, 72), NEXT, 1);
        driver.offer_head(1, 1);
    };
    assert_eq!(from_guest(looped), "the guest broke ring 1: a chain loops or leads nowhere");
    let long = |driver: &mut Driver| {
        let table = BUFFERS + 0x1000;
        for n in 0..1000 {
            driver.descriptor(table, n, (BUFFERS, 72), NEXT, n + 1);
        }
        driver.offer(1, &[(table, 16_000)], INDIRECT);
    };
    assert_eq!(from_guest(long), "the guest broke ring 1: a chain is too long");
    let to_itself = |driver: &mut Driver| {
        let table = driver.parts(1)[0];
        driver.offer(1, &[(table + 16, 16)], INDIRECT);
    };
    assert_eq!(from_guest(to_itself), "the guest broke ring 1: a chain loops or leads nowhere");
    let endless = |driver: &mut Driver| {
        driver.descriptor(driver.parts(0)[0], 0, (BUFFERS, 0), WRITE | NEXT, 0);
        driver.offer_head(0, 0);
    };
    assert!(to_guest(USUAL, endless).contains("ring 0"));
    assert!(to_guest(USUAL & !MERGEABLE, endless).contains("ring 0"));
}

#[test]
fn t9_addresses_that_are_no_memory() {
    for at in [MEMORY as u64, MEMORY as u64 - 71, u64::MAX - 71, u64::MAX, 1 << 47] {
        let outside = |driver: &mut Driver| {
            driver.offer(1, &[(at, 72)], 0);
        };
        assert_eq!(from_guest(outside), "the guest broke ring 1: a buffer is outside the guest's memory");
        let outside = |driver: &mut Driver| {
            driver.offer(0, &[(at, 2048)], WRITE);
        };
        assert_eq!(
            to_guest(USUAL, outside),
            "the guest broke ring 0: a buffer is outside the guest's memory"
        );
    }
    let nowhere = |driver: &mut Driver| driver.offer_head(1, RING);
    assert_eq!(from_guest(nowhere), "the guest broke ring 1: a chain loops or leads nowhere");
}

#[test]
fn t9_indices_that_jump() {
    let jump = |ring: usize| {
        move |driver: &mut Driver| {
            let available = driver.parts(ring)[1];
            driver.set_word(available + 2, driver.rings[ring].1.wrapping_add(RING + 1));
        }
    };
    assert_eq!(from_guest(jump(1)), "the guest broke ring 1: its available index jumps");
    assert_eq!(to_guest(USUAL, jump(0)), "the guest broke ring 0: its available index jumps");
    let back = |driver: &mut Driver| {
        let available = driver.parts(1)[1];
        driver.set_word(available + 2, u16::MAX);
    };
    assert_eq!(from_guest(back), "the guest broke ring 1: its available index jumps");
}

#[test]
fn t9_buffers_of_the_wrong_kind() {
    let writable = |driver: &mut Driver| {
        driver.offer(1, &[(BUFFERS, 72)], WRITE);
    };
    assert_eq!(from_guest(writable), "the guest broke ring 1: a buffer to send is write-only");
    let short = |driver: &mut Driver| {
        driver.offer(1, &[(BUFFERS, 11)], 0);
    };
    assert_eq!(from_guest(short), "the guest broke ring 1: a chain is shorter than the virtio-net header");
    let readable = |driver: &mut Driver| {
        driver.offer(0, &[(BUFFERS, 2048)], 0);
    };
    assert_eq!(to_guest(USUAL, readable), "the guest broke ring 0: a buffer to receive is read-only");
    let tiny = |driver: &mut Driver| {
        for _ in 0..RING - 1 {
            driver.offer(0, &[(BUFFERS, 1)], WRITE);
        }
    };
    assert_eq!(to_guest(USUAL, tiny), "the guest broke ring 0: its buffers are too small");
}

/// An invalid packet is dropped by itself; the ring continues.
#[test]
fn t7_impossible_headers_are_dropped_and_counted() {
    let (mut driver, mut ours) = running(USUAL);
    for (at, value) in [(1, 3), (1, 2), (1, 0x85)] {
        let mut header = [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
        header[at] = value;
        driver.write(&header, BUFFERS);
        driver.offer(1, &[(BUFFERS, 112)], 0);
        assert!(ours.receive().is_empty());
    }
    driver.write(&[0; 12], BUFFERS);
    driver.offer(1, &[(BUFFERS, 12), (BUFFERS, 65_000), (BUFFERS, 65_000)], 0);
    assert!(ours.receive().is_empty(), "longer than any packet");
    assert_eq!(ours.device.counts().rx_dropped, 4);
    assert_eq!(driver.used_count(1), 4, "the buffers are the driver's again");
    driver.offer(1, &[(BUFFERS, 72)], 0);
    assert_eq!(ours.receive().len(), 1, "and it goes on");
    assert!(ours.device.take_fault().is_none());
    assert_eq!(ours.pool.usage().used, 0);
}

/// T9: absurd chains of any kind cost one guest's turn a bounded time.
#[test]
fn t9_a_call_looks_at_so_many_descriptors() {
    let (mut driver, mut ours) = running(USUAL);
    driver.write(&[0; 12], BUFFERS);
    let table = BUFFERS + 0x1000;
    for n in 0..256 {
        let len = if n == 0 { 72 } else { 0 };
        driver.descriptor(table, n, (BUFFERS, len), if n < 255 { NEXT } else { 0 }, n + 1);
    }
    for _ in 0..40 {
        driver.offer(1, &[(table, 256 * 16)], INDIRECT);
    }
    assert_eq!(ours.receive().len(), 4096 / 256);
    assert_eq!(ours.receive().len(), 4096 / 256);
    assert_eq!(ours.receive().len(), 8);
}

/// Sends messages in a new connection; returns the fault.
fn from_qemu(say: impl FnOnce(&mut Driver)) -> Fault {
    let (mut driver, mut ours) = pair(1);
    say(&mut driver);
    let fault = ours.listen().expect_err("it is refused");
    assert!(!ours.device.is_running());
    fault
}

#[test]
fn t11_memory_that_could_be_pulled_away() {
    let region = [[0, MEMORY as u64, USER, 0]];
    let unsealed = from_qemu(|driver| {
        let file = memory_file(MEMORY, SealFlags::GROW);
        driver.memory_table(&region, &[file.as_fd()]);
    });
    assert!(unsealed.to_string().contains("memory-backend-memfd"), "{unsealed}");
    let plain = from_qemu(|driver| {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        driver.memory_table(&region, &[file.as_fd()]);
    });
    assert!(matches!(plain, Fault::Memory(_)));
    let short = from_qemu(|driver| {
        let file = memory_file(MEMORY - 1, SealFlags::SHRINK);
        driver.memory_table(&region, &[file.as_fd()]);
    });
    assert!(matches!(short, Fault::Memory(_)));
}

#[test]
fn t10_memory_tables_that_are_none() {
    let len = MEMORY as u64;
    for regions in [
        vec![],
        vec![[0, 0, USER, 0]],
        vec![[0, len, USER, 4096]],
        vec![[0, len, USER, u64::MAX - 10]],
        vec![[u64::MAX - 10, len, USER, 0]],
        vec![[0, len, u64::MAX - 10, 0]],
        vec![[0, u64::MAX, USER, 0]],
        vec![[0, len, USER, 0], [len - 4096, len, USER, 0]],
        vec![[0, len, USER, 0]; 9],
    ] {
        let fault = from_qemu(|driver| {
            let files = vec![driver.file.as_fd(); regions.len()];
            driver.memory_table(&regions, &files);
        });
        assert!(!matches!(fault, Fault::Socket(_)), "{regions:?}: {fault}");
    }
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// More descriptors than a message has: refused, and all are closed.
#[test]
fn t10_a_flood_of_descriptors() {
    let flood = |request: u32, count: usize| {
        from_qemu(|driver| {
            let files = vec![driver.file.as_fd(); count];
            driver.say(request, &0u64.to_ne_bytes(), &files);
        })
    };
    let before = open_files();
    for (request, count) in [(1, 1), (2, 8), (12, 2), (13, 0), (12, 60), (5, 60), (1, 60)] {
        assert!(matches!(flood(request, count), Fault::Descriptors { .. }), "{request} with {count}");
    }
    assert!(matches!(flood(12, 1), Fault::Setup { .. }), "a file is no eventfd");
    // Other tests of this process run at the same time and hold some of their own.
    assert!(open_files() < before + 200, "descriptors stay open");
}

/// A descriptor that could block us is refused as a kick or call descriptor.
#[test]
fn t10_pipes_are_no_eventfds() {
    let (read, write): (OwnedFd, OwnedFd) = pipe().unwrap();
    for (request, file) in [(12, &read), (13, &write)] {
        let fault = from_qemu(|driver| driver.event(request, 0, file));
        assert!(fault.to_string().contains("no eventfd"), "{fault}");
    }
}

#[test]
fn t10_messages_that_are_none() {
    let raw = |header: [u32; 3], payload: &[u8]| from_qemu(|driver| driver.say_raw(header, payload, &[]));
    for (header, len) in [
        ([1, 0, 0], 0),
        ([1, 2, 0], 0),
        ([1, 5, 0], 0),
        ([0, 1, 0], 0),
        ([99, 1, 0], 0),
        ([1, 1, u32::MAX], 0),
        ([2, 1, 4], 4),
        ([5, 1, 4], 4),
        ([9, 1, 8], 8),
        ([28, 1, 0], 0),
        ([37, 1, 40], 40),
    ] {
        assert!(matches!(raw(header, &vec![0; len]), Fault::Message { .. }), "{header:?}");
    }
    for request in [8, 10, 11, 18] {
        assert_eq!(from_qemu(|driver| driver.state(request, 2, 1)), Fault::NoRing(2));
        assert_eq!(from_qemu(|driver| driver.state(request, u32::MAX, 1)), Fault::NoRing(u32::MAX));
    }
}

/// A ring starts only if all its parts lie in guest memory.
#[test]
fn t10_rings_in_the_wrong_place() {
    let start = |change: &dyn Fn(&mut Driver)| {
        let (mut driver, mut ours) = running(USUAL);
        driver.state(11, 1, 0);
        change(&mut driver);
        driver.event(12, 1, &driver.kicks[1]);
        ours.listen().expect_err("it is refused")
    };
    let place = |parts: [u64; 3]| {
        move |driver: &mut Driver| {
            let mut payload = [1u32.to_ne_bytes(), [0; 4]].concat();
            let [descriptors, available, used] = parts;
            payload.extend([descriptors, used, available, 0].into_iter().flat_map(u64::to_ne_bytes));
            driver.say(9, &payload, &[]);
        }
    };
    let end = USER + MEMORY as u64;
    for parts in [
        [USER - 16, USER, USER],
        [end, USER + 4096, USER],
        [end - 16, USER + 4096, USER],
        [USER, end - 2, USER],
        [USER, USER + 4096, end - 4],
        [USER + 8, USER + 4096, USER],
        [USER, USER + 4097, USER],
        [USER, USER + 4096, USER + 2],
        [u64::MAX; 3],
    ] {
        assert!(matches!(start(&place(parts)), Fault::Setup { ring: 1, .. }), "{parts:x?}");
    }
    for len in [0, 3, 8192, 65_536] {
        let fault = start(&|driver: &mut Driver| driver.state(8, 1, len));
        assert!(matches!(fault, Fault::Setup { ring: 1, .. }), "{len}: {fault}");
    }
    let fault = from_qemu(|driver| driver.event(12, 0, &driver.kicks[0]));
    assert!(matches!(fault, Fault::Setup { ring: 0, .. }));
}

/// After a fault the driver may start again (the guest was rebooted), and works.
#[test]
fn a_guest_that_starts_anew_is_forgiven() {
    let (mut driver, mut ours) = running(USUAL);
    driver.offer_head(1, RING);
    ours.receive();
    assert!(ours.device.take_fault().is_some());
    ours.device.stop();
    driver.state(11, 1, 0);
    ours.listen().unwrap();
    driver.answer();
    driver.rings = vec![(0, 0), (0, 0)];
    for ring in 0..2 {
        for part in driver.parts(ring) {
            driver.write(&[0; 4096], part);
        }
    }
    driver.start(&mut ours, USUAL).unwrap();
    assert!(ours.device.is_running());
    driver.write(&[0; 12], BUFFERS);
    driver.offer(1, &[(BUFFERS, 72)], 0);
    assert_eq!(ours.receive().len(), 1);
}

proptest! {
    /// Rings of random bytes: no content of the driver's memory causes a panic or a lost slot, and
    /// taken entries were offered.
    #[test]
    fn t9_any_memory(
        noise in proptest::collection::vec((0u64..0x9000, any::<[u8; 8]>()), 0..200),
        near in proptest::collection::vec((0u16..RING, 0u64..MEMORY as u64, 0u32..4000, 0u16..8, 0u16..RING), 0..64),
        index in 0u16..70,
        features in prop_oneof![Just(USUAL), Just(USUAL & !MERGEABLE), Just(USUAL & !EVENT_IDX)],
    ) {
        let (driver, mut ours) = running(features);
        for (at, bytes) in noise {
            driver.write(&bytes, at);
        }
        for ring in 0..2 {
            let [table, available, _] = driver.parts(ring);
            for &(n, at, len, flags, next) in &near {
                driver.descriptor(table, n, (at, len), flags, next);
                driver.set_word(available + 4 + u64::from(n) * 2, next);
            }
            driver.set_word(available + 2, index);
        }
        for _ in 0..3 {
            ours.receive();
            let frames = (0..8).map(|n| ours.frame(&vec![n; usize::from(n) * 900 + 60])).collect();
            ours.send(frames);
            let _ = ours.device.rest(0);
        }
        prop_assert_eq!(ours.pool.usage().used, 0);
    }

    /// Random sessions: messages in any order never cause a panic, and the end of the connection ends everything.
    #[test]
    fn t10_any_conversation(said in proptest::collection::vec(
        (0u32..46, proptest::collection::vec(prop_oneof![Just(0u64), Just(1), Just(64), Just(USER), Just(USER + 4096), any::<u64>()], 0..6), 0usize..3, any::<bool>()), 0..40)
    ) {
        let (driver, mut ours) = running(USUAL);
        for (request, words, files, event) in said {
            let payload: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
            let file = if event { driver.kicks[0].as_fd() } else { driver.file.as_fd() };
            driver.say(request, &payload, &vec![file; files]);
            if ours.listen().is_err() {
                break;
            }
            ours.receive();
            let frame = ours.frame(&[0; 60]);
            ours.send(vec![frame]);
        }
        let Ours { device, connection, pool } = ours;
        drop(connection);
        prop_assert!(!device.is_running());
        prop_assert_eq!(pool.usage().used, 0);
    }
}

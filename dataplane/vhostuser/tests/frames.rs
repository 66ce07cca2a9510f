//! Frames through the rings, and the guarantees that a well-behaved driver relies on.

mod driver;

use driver::*;
use engine::frame::{FramePool, GsoKind, Offload};
use engine::limits::BATCH_BYTES;
use engine::wire::mac::MacAddr;
use proptest::prelude::*;
use rustix::fs::SealFlags;
use std::os::fd::AsFd;
use vhostuser::wire::Turn;

const HEADER: u32 = 12;

/// A virtio header: TCP GSO packet, segments of 1448 bytes.
const TSO: [u8; 12] = [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

/// Offers `count` buffers of `len` bytes to receive into.
fn buffers(driver: &mut Driver, count: u32, len: u32) {
    for n in 0..count {
        driver.offer(0, &[(BUFFERS + u64::from(n * len), len)], WRITE);
    }
}

#[test]
fn a_frame_each_way_with_its_offload_facts() {
    let (mut driver, mut ours) = running(USUAL);
    let frame = bytes(100);
    driver.write(&TSO, BUFFERS);
    driver.write(&frame, BUFFERS + 12);
    let head = driver.offer(1, &[(BUFFERS, 112)], 0);
    let offload = Offload {
        csum_start: 34,
        csum_offset: 16,
        gso_kind: GsoKind::TcpV4,
        gso_size: 1448,
        ..Offload::NONE
    };
    assert_eq!(ours.receive(), [(frame.clone(), offload)]);
    assert_eq!((driver.used_count(1), driver.used(1, 0)), (1, (head.into(), 0)));

    driver.offer(0, &[(BUFFERS, 2048)], WRITE);
    let mut out = ours.frame(&frame);
    out.offload = offload;
    assert_eq!(ours.send(vec![out]), 0);
    assert_eq!((driver.used_count(0), driver.used(0, 0).1), (1, HEADER + 100));
    let header = driver.read(BUFFERS, 12);
    assert_eq!((header[..2].to_vec(), header[10]), (vec![1, 1], 1), "partial checksum, TCP, one buffer");
    assert_eq!(driver.read(BUFFERS + 12, 100), frame);
    assert!(ours.device.caps().tx_tso && ours.device.caps().tx_csum && !ours.device.caps().tx_uso);
    assert_eq!(ours.pool.usage().used, 0);
}

/// Eight long frames wait. The first call takes as many as a batch holds by its bytes, the next call the others: a guest
/// with long frames gets no larger share of a worker's time.
#[test]
fn a_batch_ends_at_its_bytes() {
    let (mut driver, mut ours) = running(USUAL);
    for _ in 0..8 {
        driver.offer(1, &[(BUFFERS, 60_000 + HEADER)], 0);
    }
    let taken = BATCH_BYTES.div_ceil(60_000);
    assert_eq!(ours.receive().len(), taken);
    assert_eq!(ours.receive().len(), 8 - taken);
    assert_eq!(ours.device.counts().rx_frames, 8);
    assert_eq!(ours.pool.usage().used, 0);
}

/// A GSO packet is spread over as many buffers as it takes; the driver sees all of them together or none.
#[test]
fn a_super_frame_over_mergeable_buffers() {
    let (mut driver, mut ours) = running(USUAL);
    let frame = bytes(20_000);
    buffers(&mut driver, 10, 1526);
    let out = ours.frame(&frame);
    assert_eq!(ours.send(vec![out]), 1, "ten buffers are too few");
    assert_eq!(driver.used_count(0), 0);
    for n in 10..20 {
        driver.offer(0, &[(BUFFERS + n * 1526, 1526)], WRITE);
    }
    let out = ours.frame(&frame);
    assert_eq!(ours.send(vec![out]), 0);
    assert_eq!(driver.used_count(0), 14);
    assert_eq!(driver.read(BUFFERS + 10, 2), [14, 0], "the header says how many");
    let got: Vec<u8> = (0..14u16)
        .flat_map(|n| {
            let (head, len) = driver.used(0, n);
            driver.read(BUFFERS + u64::from(head) * 1526, len as usize)
        })
        .collect();
    assert_eq!(got[12..], frame);
    assert_eq!(ours.pool.usage().used, 0);
}

/// Without mergeable buffers a frame too long for the guest is dropped and counted; the next one gets its buffer.
#[test]
fn a_frame_longer_than_any_buffer() {
    let (mut driver, mut ours) = running(USUAL & !MERGEABLE);
    driver.offer(0, &[(BUFFERS, 12), (BUFFERS + 12, 1514)], WRITE);
    let (long, short) = (ours.frame(&bytes(1515)), ours.frame(&bytes(1514)));
    assert_eq!(ours.send(vec![long, short]), 0);
    assert_eq!((driver.used_count(0), driver.used(0, 0).1), (1, 1526));
    assert_eq!((ours.device.counts().tx_dropped, ours.device.counts().tx_frames), (1, 1));
    assert_eq!(ours.pool.usage().used, 0);
}

/// A call is made only when the driver's index is passed; a kick is requested only before sleeping, and counted.
#[test]
fn calls_and_kicks_by_index() {
    let (mut driver, mut ours) = running(USUAL);
    buffers(&mut driver, 20, 256);
    driver.call_at(0, 3);
    for (sent, called) in [(1, 0), (2, 0), (3, 0), (4, 1), (5, 0)] {
        let frame = ours.frame(&bytes(60));
        ours.send(vec![frame]);
        assert_eq!((driver.used_count(0), driver.called(0)), (sent, called));
    }
    assert_eq!(ours.device.counts().calls, 1);

    driver.write(&[0; 12], BUFFERS);
    driver.offer(1, &[(BUFFERS, 72)], 0);
    assert_eq!((ours.receive().len(), driver.kick_at(1)), (1, 0), "polled: nothing is asked for");
    assert!(!ours.device.rest(0), "nothing waits");
    assert_eq!(driver.kick_at(1), 1, "the next one is to be kicked for");
    driver.offer(1, &[(BUFFERS, 72)], 0);
    driver.kick(1);
    assert!(readable(&ours));
    assert_eq!(ours.receive().len(), 1);
    assert_eq!(ours.device.counts().kicks, 1);
    driver.offer(1, &[(BUFFERS, 72)], 0);
    assert!(ours.device.rest(0), "somebody was faster than we could fall asleep");
}

/// The same with flags instead of indexes.
#[test]
fn calls_and_kicks_by_flag() {
    let (mut driver, mut ours) = running(USUAL & !EVENT_IDX);
    buffers(&mut driver, 4, 256);
    let [_, available, _] = driver.parts(0);
    let frame = ours.frame(&bytes(60));
    ours.send(vec![frame]);
    assert_eq!(driver.called(0), 1);
    driver.set_word(available, 1);
    let frame = ours.frame(&bytes(60));
    ours.send(vec![frame]);
    assert_eq!(driver.called(0), 0, "the driver polls");
    let used = driver.parts(1)[2];
    assert_eq!(driver.word(used), 1, "no kicks, please");
    assert!(!ours.device.rest(0));
    assert_eq!(driver.word(used), 0, "kicks, please");
    driver.write(&[0; 12], BUFFERS);
    driver.offer(1, &[(BUFFERS, 72)], 0);
    driver.kick(1);
    assert_eq!((ours.receive().len(), ours.device.counts().kicks), (1, 1));
    assert_eq!(driver.word(used), 1, "enough, it is polled again");
}

fn readable(ours: &Ours) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let fd = ours.device.fd(0);
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

/// Our process dies and returns: QEMU states where the rings were, and no frame is lost or sent twice.
#[test]
fn a_new_connection_goes_on_where_the_old_one_was() {
    let (mut driver, mut ours) = running(USUAL);
    driver.write(&[0; 12], BUFFERS);
    for _ in 0..5 {
        driver.offer(1, &[(BUFFERS, 72)], 0);
    }
    assert_eq!(ours.receive().len(), 5);
    driver.offer(1, &[(BUFFERS, 72)], 0);
    // QEMU stops the rings in an orderly way, and the answer states their positions.
    driver.state(11, 1, 0);
    ours.listen().unwrap();
    assert_eq!(driver.answer(), (11, [1u32.to_ne_bytes(), 5u32.to_ne_bytes()].concat()));
    assert!(!ours.device.is_running());
    assert!(ours.receive().is_empty());
    let Ours { device, connection, pool } = ours;
    drop((connection, device, pool));

    let (mut next, mut ours) = pair(1);
    (next.memory, next.file) = (driver.memory, driver.file);
    // QEMU uses the used index as the base, since every taken entry was used.
    next.rings = vec![(0, 0), (6, next.used_count(1))];
    next.start(&mut ours, USUAL).unwrap();
    next.rings[1].1 = 6;
    assert_eq!(ours.receive().len(), 1);
    assert_eq!(next.used_count(1), 6);
}

/// QEMU closes the connection: everything stops, and no call hangs.
#[test]
fn hanging_up_stops_the_rings() {
    let (driver, mut ours) = running(USUAL);
    drop(driver);
    assert_eq!(ours.listen(), Ok(Turn::Closed));
    drop(ours.connection);
    assert!(!ours.device.is_running());
    let Ours { device, mut pool, .. } = ours;
    let mut frames = vec![pool.alloc_from(&[0; 60]).unwrap()];
    device.send(0, &mut pool, &mut frames);
    assert_eq!(frames.len(), 1, "left to be counted");
    frames.into_iter().for_each(|frame| pool.free(frame));
}

/// After a migration QEMU asks us to announce the guest's new place on the guest's behalf.
#[test]
fn an_announcement_comes_as_if_from_the_guest() {
    let (driver, mut ours) = running(USUAL);
    let mac = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
    driver.number(19, u64::from_le_bytes([0x52, 0x54, 0, 0, 0, 1, 0, 0]));
    ours.listen().unwrap();
    let got = ours.receive();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].0[..14], [&[0xff; 6], &mac.0[..], &[0x80, 0x35]].concat());
    assert!(ours.receive().is_empty(), "once");
}

/// While the guest migrates, each page that we write is logged: buffers, and the used ring if QEMU requests it.
#[test]
fn what_we_write_is_logged() {
    let (mut driver, mut ours) = running(USUAL);
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let log = memory_file(4096, seals);
    driver.say(6, &[4096u64.to_ne_bytes(), 0u64.to_ne_bytes()].concat(), &[log.as_fd()]);
    driver.number(2, USUAL | LOG_ALL);
    driver.place(0, 1, 0x7000);
    ours.listen().unwrap();
    assert_eq!(driver.answer().0, 6);
    let dirty = || {
        let mut bits = vec![0; 4096];
        rustix::io::pread(&log, &mut bits, 0).unwrap();
        (0..4096 * 8).filter(|&page| bits[page / 8] >> (page % 8) & 1 == 1).collect::<Vec<usize>>()
    };
    assert_eq!(dirty(), [] as [usize; 0]);
    // A frame across two pages of buffer; the second page gets only a few bytes.
    driver.offer(0, &[(BUFFERS + 4000, 2048)], WRITE);
    let frame = ours.frame(&bytes(90));
    ours.send(vec![frame]);
    assert_eq!(dirty(), [7, 0x100, 0x101]);
    driver.number(2, USUAL);
    ours.listen().unwrap();
    driver.offer(0, &[(BUFFERS + 0x5000, 2048)], WRITE);
    let frame = ours.frame(&bytes(90));
    ours.send(vec![frame]);
    assert_eq!(dirty(), [7, 0x100, 0x101], "not any more");
}

/// QEMU changes the memory table while the rings run (memory was plugged in).
#[test]
fn a_new_memory_table_under_way() {
    let (mut driver, mut ours) = running(USUAL);
    driver.write(&[0; 12], BUFFERS);
    driver.offer(1, &[(BUFFERS, 72)], 0);
    assert_eq!(ours.receive().len(), 1);
    let half = MEMORY as u64 / 2;
    let file = driver.file.as_fd();
    driver.memory_table(&[[half, half, USUAL + half, half], [0, half, USER, 0]], &[file, file]);
    ours.listen().unwrap();
    driver.offer(1, &[(BUFFERS, 72)], 0);
    driver.offer(1, &[(half - 30, 72)], 0);
    assert_eq!(ours.receive().len(), 2, "also where two regions meet");
    assert_eq!(driver.used_count(1), 3);
}

proptest! {
    /// However the driver splits a packet into buffers, in its table or an indirect one, its bytes arrive;
    /// and however it splits its buffers, our bytes arrive.
    #[test]
    fn any_cut_of_any_frame(len in 0usize..3000, cuts in proptest::collection::vec(1u32..900, 0..12), indirect: bool) {
        let (mut driver, mut ours) = running(USUAL);
        let frame = bytes(len);
        let mut parts = Vec::new();
        let (mut at, mut rest) = (BUFFERS, HEADER + len as u32);
        for cut in cuts {
            let cut = cut.min(rest);
            parts.push((at, cut));
            (at, rest) = (at + u64::from(cut), rest - cut);
        }
        parts.push((at, rest));
        driver.write(&[0; 12], BUFFERS);
        driver.write(&frame, BUFFERS + 12);
        if indirect {
            let table = BUFFERS + 0x8000;
            for (n, part) in parts.iter().enumerate() {
                let more = if n + 1 < parts.len() { NEXT } else { 0 };
                driver.descriptor(table, n as u16, *part, more, n as u16 + 1);
            }
            driver.offer(1, &[(table, parts.len() as u32 * 16)], INDIRECT);
        } else {
            driver.offer(1, &parts, 0);
        }
        prop_assert_eq!(ours.receive(), [(frame.clone(), Offload::NONE)]);
        for (at, len) in parts {
            if len > 0 {
                driver.offer(0, &[(at, len)], WRITE);
            }
        }
        let out = ours.frame(&frame);
        prop_assert_eq!(ours.send(vec![out]), 0);
        prop_assert_eq!(driver.read(BUFFERS + 12, len), frame);
        let total: u32 = (0..driver.used_count(0)).map(|n| driver.used(0, n).1).sum();
        prop_assert_eq!(total, HEADER + len as u32);
        prop_assert_eq!(ours.pool.usage().used, 0);
    }
}

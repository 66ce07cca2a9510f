use super::*;

fn tag(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn copy(pool: &UmemPool) -> OwnedFd {
    pool.handle().memory().try_clone_to_owned().unwrap()
}

/// A process dies while frames hold slots and two ports have slots on loan; the socket of one port lives
/// on. The next process sees the same bytes; that socket's slots stay lent and come back when its port
/// closes; all others are free.
#[test]
fn memory_is_taken_up_as_a_dead_process_left_it() {
    let mut pool = UmemPool::new(64, 2).unwrap();
    let memfd = copy(&pool);
    let (lives, died) = (pool.handle().lease().unwrap(), pool.handle().lease().unwrap());
    let in_ring: Vec<u32> = (0..10).map(|_| lives.borrow_from_stock().unwrap()).collect();
    let astray: Vec<u32> = (0..3).map(|_| lives.borrow_from_stock().unwrap()).collect();
    (0..5).for_each(|_| assert!(died.borrow_from_stock().is_some()));
    let frame = pool.alloc_from(&[7; 60]).unwrap();
    let (slot, tag) = (frame.slot, lives.tag());
    // The slot was read but not given back yet: in the ring, and recorded for no port.
    assert!(lives.take_back(in_ring[0]));
    std::mem::forget((lives, died, frame));

    let claims = [Claim { tag, slots: in_ring.clone() }];
    let mut pool = UmemPool::resume(64, 2, memfd, &claims).unwrap();
    assert_eq!(pool.usage(), PoolUsage { used: 13, total: 66 });
    let lease = pool.handle().lease_again(tag);
    assert_eq!(lease.count(), 13);
    assert_ne!(pool.handle().lease().unwrap().tag(), tag, "the tag is taken");
    assert!(in_ring.iter().chain(&astray).all(|&slot| lease.take_back(slot)));
    in_ring.iter().chain(&astray).for_each(|&slot| lease.lend(slot));
    let frames: Vec<Frame> = (0..51).map(|_| pool.alloc(SlotSize::Small).unwrap()).collect();
    assert!(frames.iter().any(|frame| frame.slot == slot) && pool.alloc(SlotSize::Small).is_none());
    frames.into_iter().for_each(|frame| pool.free(frame));
    drop(lease);
    assert_eq!(pool.usage().used, 0);
}

#[test]
fn memory_that_does_not_add_up_is_refused() {
    let pool = UmemPool::new(64, 2).unwrap();
    let resume = |small, slots: &[u32]| {
        let claims = [Claim { tag: tag(1), slots: slots.to_vec() }];
        UmemPool::resume(small, 2, copy(&pool), &claims).map(|pool| pool.handle().proven())
    };
    assert!(resume(64, &[1, 2]).is_ok());
    for (small, slots, why) in [(65, &[1, 2][..], "size"), (64, &[64], "no slot"), (64, &[1, 1], "same slot")]
    {
        let refused = resume(small, slots).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
        pool.handle().proven();
    }
    // Nine of 64 slots are lent under the tag and in no ring.
    let lost: Vec<u32> = (10..19).collect();
    lost.iter().for_each(|&slot| pool.umem.0.lent[slot as usize].store(1, Ordering::Relaxed));
    assert!(resume(64, &[]).unwrap_err().to_string().contains("nobody's hands"));
    assert!(resume(64, &lost).is_ok());
}

/// Three processes may end right after the start; the fourth distrusts the memory.
#[test]
fn memory_that_processes_end_of_is_given_up() {
    let pool = UmemPool::new(64, 2).unwrap();
    let resume = || UmemPool::resume(64, 2, copy(&pool), &[]);
    assert!((0..3).all(|_| resume().is_ok()));
    assert!(resume().unwrap_err().to_string().contains("ended right after"));
    pool.handle().proven();
    assert!(resume().is_ok());
}

#[test]
fn a_frame_keeps_its_bytes_and_every_slot_comes_back() {
    let mut pool = UmemPool::new(64, 2).unwrap();
    let mut frames: Vec<Frame> = (0..64_u8).map(|n| pool.alloc_from(&[n; 60]).expect("64 slots")).collect();
    assert!(pool.alloc(SlotSize::Small).is_none(), "the pool is exhausted");
    assert_eq!(pool.usage(), PoolUsage { used: 64, total: 66 });
    for (n, frame) in frames.iter().enumerate() {
        assert_eq!(pool.bytes(frame), [n as u8; 60]);
    }
    let large = pool.alloc_from(&[7; 65_000]).unwrap();
    assert!(!pool.is_small(&large));
    assert_eq!(pool.bytes(&large), [7; 65_000]);
    pool.free(large);
    for frame in frames.drain(..) {
        pool.free(frame);
    }
    assert_eq!(pool.usage().used, 0);
}

#[test]
fn two_frames_are_read_and_written_at_once() {
    let mut pool = UmemPool::new(64, 1).unwrap();
    let from = pool.alloc_from(&[7; 60]).unwrap();
    let mut to = pool.alloc_from(&[0; 60_000]).unwrap();
    let (read, write) = pool.pair(&from, &mut to);
    write[..60].copy_from_slice(read);
    assert_eq!(pool.bytes(&to)[..61], [&[7; 60][..], &[0]].concat());
    assert!(
        std::panic::catch_unwind(move || {
            let mut same = Frame { slot: from.slot, head: 0, len: 1, offload: Offload::NONE };
            let _ = pool.pair(&from, &mut same);
        })
        .is_err()
    );
}

#[test]
fn the_cache_gives_back_what_it_does_not_need() {
    let mut pool = UmemPool::new(4096, 0).unwrap();
    let frames: Vec<Frame> = std::iter::from_fn(|| pool.alloc(SlotSize::Small)).collect();
    assert_eq!(frames.len(), 4096);
    for frame in frames {
        pool.free(frame);
    }
    assert!(pool.handle().stock() >= 4096 - CACHE_LEN, "stock {}", pool.handle().stock());
    assert_eq!(pool.usage().used, 0);
}

#[test]
fn what_a_port_had_comes_back_when_its_lease_ends() {
    let mut pool = UmemPool::new(64, 0).unwrap();
    let lease = pool.handle().lease().unwrap();
    let other = pool.handle().lease().unwrap();
    for _ in 0..10 {
        lease.borrow_from_stock().unwrap();
        other.borrow_from_stock().unwrap();
    }
    let slot = pool.take_slot().unwrap();
    lease.lend(slot);
    assert_eq!(lease.count(), 11);
    assert!(!other.take_back(slot), "it is not the other port's");
    assert!(!lease.take_back(1 << 30), "there is no such slot");
    drop(lease);
    assert_eq!(pool.usage().used, 10);
    drop(other);
    assert_eq!(pool.usage().used, 0);
}

/// One worker's pool packs a frame and another's unpacks it: same bytes, same slot, and the slot returns
/// to the stock.
#[test]
fn a_slot_changes_hands_with_its_frame() {
    let mut ours = UmemPool::new(2048, 1).unwrap();
    let mut theirs = ours.sibling();
    for len in [60, 65_000] {
        let frame = ours.alloc_from(&vec![7; len]).unwrap();
        let (slot, at) = (frame.slot, ours.bytes(&frame).as_ptr());
        let parcel = ours.pack(frame);
        let frame = theirs.unpack(parcel).unwrap();
        assert_eq!((frame.slot, theirs.bytes(&frame).as_ptr()), (slot, at));
        assert_eq!(theirs.bytes(&frame), vec![7; len]);
        theirs.free(frame);
    }
    // One worker only receives, the other only sends: the slots return through the stock.
    for _ in 0..20_000 {
        let frame = ours.alloc_from(&[1; 60]).expect("what the other frees is for both");
        let parcel = ours.pack(frame);
        let frame = theirs.unpack(parcel).unwrap();
        theirs.free(frame);
    }
}

#[test]
#[should_panic(expected = "beyond its slot")]
fn a_frame_cannot_reach_into_the_next_slot() {
    let mut pool = UmemPool::new(64, 0).unwrap();
    let mut frame = pool.alloc(SlotSize::Small).unwrap();
    frame.len = SLOT_SMALL_LEN as u32;
    pool.bytes_mut(&mut frame).fill(0);
}

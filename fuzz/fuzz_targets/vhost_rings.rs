//! Any bytes as a guest's rings: no panic, no slot lost, and a bounded time, even if the driver writes while we read.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../dataplane/vhostuser/tests/driver/mod.rs"]
mod driver;

use driver::{MERGEABLE, RING, USUAL, running};
use engine::frame::FramePool;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[options, index], rest)) = bytes.split_first_chunk() else { return };
    let features = if options & 1 == 0 { USUAL } else { USUAL & !MERGEABLE };
    let (driver, mut ours) = running(features);
    // Descriptors, entries of the available rings, then their indices.
    for (n, entry) in rest.chunks_exact(16).take(4 * usize::from(RING)).enumerate() {
        let ring = n % 2;
        let slot = (n / 2) as u16 % RING;
        let [table, available, _] = driver.parts(ring);
        // Mostly near addresses, so that some are in memory.
        let mut entry: [u8; 16] = entry.try_into().expect("16 bytes");
        if options & 2 == 0 {
            entry[3..8].fill(0);
            entry[10..12].fill(0);
        }
        driver.write(&entry, table + u64::from(slot) * 16);
        driver.set_word(available + 4 + u64::from(slot) * 2, u16::from(entry[14]) % (RING + 1));
    }
    for turn in 1..3u16 {
        for ring in 0..2 {
            let [_, available, _] = driver.parts(ring);
            driver.set_word(available + 2, turn.wrapping_mul(index.into()));
        }
        ours.receive();
        let frames = (0..8).map(|n| ours.frame(&vec![n; usize::from(n) * 1200 + 60])).collect();
        ours.send(frames);
        let _ = ours.device.rest(0);
    }
    assert_eq!(ours.pool.usage().used, 0, "a slot is lost");
});

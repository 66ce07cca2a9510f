//! Any session from QEMU, of well-formed messages and raw bytes: no panic, no open descriptor left, rings stop with it.
#![no_main]

use std::io::Write;
use std::os::fd::AsFd;

use libfuzzer_sys::fuzz_target;

#[path = "../../dataplane/vhostuser/tests/driver/mod.rs"]
mod driver;

use driver::{Ours, USER, USUAL, pair, running};
use engine::frame::FramePool;

fuzz_target!(|bytes: &[u8]| {
    let Some((&options, mut rest)) = bytes.split_first() else { return };
    let (mut driver, mut ours) = if options & 1 == 0 { pair(1) } else { running(USUAL) };
    if options & 2 != 0 {
        // Raw bytes instead of messages.
        let _ = driver.stream.write_all(&rest[..rest.len().min(4096)]);
        let _ = ours.listen();
        return;
    }
    while let Some((&[request, files, words], tail)) = rest.split_first_chunk() {
        let len = (usize::from(words) % 40 * 8).min(tail.len() / 8 * 8);
        let (payload, tail) = tail.split_at(len);
        rest = tail;
        let mut payload = payload.to_vec();
        // Numbers that reach deeper into the code than random ones.
        for word in payload.chunks_exact_mut(8).filter(|word| word[7] & 0xf0 == 0x70) {
            let near = u64::from(word[0]) << 12 | u64::from(word[1] & 0xf0);
            word.copy_from_slice(&(if word[7] & 1 == 0 { near } else { USER + near }).to_ne_bytes());
        }
        let file = if files & 0x80 == 0 { driver.kicks[0].as_fd() } else { driver.file.as_fd() };
        driver.say(u32::from(request) % 46, &payload, &vec![file; usize::from(files) % 12]);
        if ours.listen().is_err() {
            break;
        }
        ours.receive();
        let frame = ours.frame(&[0; 60]);
        ours.send(vec![frame]);
    }
    let Ours { device, connection, pool } = ours;
    drop(connection);
    assert!(!device.is_running() && pool.usage().used == 0);
});

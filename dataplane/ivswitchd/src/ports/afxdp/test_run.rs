//! Running an XDP program on a frame of our own (`BPF_PROG_TEST_RUN`).

use std::io;
use std::os::fd::RawFd;

const BPF_PROG_TEST_RUN: i64 = 10;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

/// The fields of `union bpf_attr` for this command.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    verdict: u32,
    data_in_len: u32,
    data_out_len: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_in_len: u32,
    ctx_out_len: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// Runs the program once, with `out` as the memory for its result.
fn run(program: RawFd, frame: &[u8], out: &mut [u8], flags: u32) -> io::Result<TestRun> {
    let mut attributes = TestRun {
        program: program as u32,
        data_in_len: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out_len: out.len() as u32,
        data_out: if out.is_empty() { 0 } else { out.as_mut_ptr() as u64 },
        repeat: 1,
        flags,
        batch_size: (flags == BPF_F_TEST_XDP_LIVE_FRAMES).into(),
        ..TestRun::default()
    };
    // SAFETY: the pointer and length describe `attributes`, and those in it describe `frame`, which the kernel only
    // reads, and `out`, which it writes.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size_of::<TestRun>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(attributes) }
}

/// Runs the program on a frame and really sends the frame where the program redirects it.
///
/// # Errors
/// Returns the kernel's error.
pub fn live(program: RawFd, frame: &[u8]) -> io::Result<()> {
    run(program, frame, &mut [], BPF_F_TEST_XDP_LIVE_FRAMES).map(drop)
}

/// Nanoseconds that the program takes for a frame: the mean of `repeat` runs.
#[cfg(test)]
pub fn cost(program: RawFd, frame: &[u8], repeat: u32) -> u32 {
    let mut attributes = TestRun {
        program: program as u32,
        data_in_len: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..TestRun::default()
    };
    // SAFETY: as in `run`; the kernel writes only to the attributes.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size_of::<TestRun>()) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
    attributes.duration
}

/// The program's verdict on a frame, and the frame after the program ran.
#[cfg(test)]
pub fn dry(program: RawFd, frame: &[u8]) -> (u32, Vec<u8>) {
    let mut out = vec![0; 4096];
    let done = run(program, frame, &mut out, 0).expect("test run");
    out.truncate(done.data_out_len as usize);
    (done.verdict, out)
}

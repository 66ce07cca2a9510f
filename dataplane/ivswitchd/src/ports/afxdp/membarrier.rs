//! Waits for the end of BPF programs that run now, by membarrier(2).

pub(super) const MEMBARRIER_CMD_QUERY: i32 = 0;
pub(super) const MEMBARRIER_CMD_GLOBAL: i32 = 1;

pub(super) fn membarrier(command: i32) -> i64 {
    // SAFETY: no memory is passed.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
}

/// Returns when every program that runs now has ended, together with the frames that it redirected.
pub fn wait_for_programs() {
    if membarrier(MEMBARRIER_CMD_GLOBAL) != 0 {
        // Every kernel with a working AF_XDP has this call; running programs end within microseconds.
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

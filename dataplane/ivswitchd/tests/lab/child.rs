//! A separate process that a test can kill.

use std::io::Read;
use std::process::{Command, Stdio};

/// Set for a process that a test starts.
const CHILD: &str = "IVS_TEST_CHILD";

/// Another process of this test program, running one ignored test; killed when dropped.
pub struct Child(std::process::Child);

impl Child {
    /// Starts `test` in this thread's namespace and returns when it has called [`ready_to_be_killed`].
    pub fn start(test: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", test, "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let child = Self(child);
        let mut seen = String::new();
        let mut byte = [0];
        while !seen.contains("ready") {
            assert_eq!(output.read(&mut byte).unwrap(), 1, "{test} ended: {seen}");
            seen.push(byte[0] as char);
        }
        child
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a test started this process. A test for children does nothing otherwise: `--include-ignored` runs it too.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

pub fn ready_to_be_killed() {
    println!("ready");
    std::thread::sleep(std::time::Duration::from_secs(60));
}

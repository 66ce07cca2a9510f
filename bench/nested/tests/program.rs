//! The program `ivbench` as its users start it.

use std::process::Command;

/// `--help` succeeds and shows the usage; an unknown option fails.
#[test]
fn it_starts() {
    let run = |argument: &str| {
        Command::new(env!("CARGO_BIN_EXE_ivbench")).arg(argument).output().expect("ivbench starts")
    };
    let help = run("--help");
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("Usage: ivbench"));
    assert!(!run("--no-such-option").status.success());
}

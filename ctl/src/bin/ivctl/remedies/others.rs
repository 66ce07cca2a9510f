//! Commands of other programs in messages. `others.txt` lists every one that a message may name; a system test runs
//! those of the list on a real interface.

use super::{Part, assert_each, is_run_in_prose, parts, placeholder};

const LIST: &str = include_str!("others.txt");
/// Programs, and what follows them in a command. Empty: anything.
const PROGRAMS: [(&str, &[&str]); 15] = [
    ("apt-get", &[]),
    ("cargo", &["build", "install", "xtask"]),
    ("cpupower", &[]),
    ("echo", &[]),
    ("ethtool", &["-"]),
    ("ip", &["link", "route", "rule", "address", "addr", "neigh", "-"]),
    ("ivswitchd", &["--"]),
    ("journalctl", &[]),
    ("modprobe", &[]),
    ("nft", &["flush", "list", "monitor", "add", "delete"]),
    ("ping", &["-"]),
    ("sysctl", &["-"]),
    ("systemctl", &[]),
    ("touch", &[]),
    ("ulimit", &["-"]),
];
/// Its literals are commands that it runs.
const RUNS_THEM: &str = "sysdump.rs";

/// The commands of the list, without what the system test does not run about them.
fn known() -> impl Iterator<Item = &'static str> {
    let lines = LIST.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.strip_prefix("- ").unwrap_or(line))
}

/// Whether a command is one of the list: a word in capitals there is any, and so is a placeholder of the message.
fn is_known(command: &str) -> bool {
    let words: Vec<&str> = command.split_whitespace().collect();
    if let ["sysctl", "-w", keys @ ..] = words.as_slice() {
        return keys.iter().all(|key| known().any(|line| is_key(line, key)));
    }
    known().any(|line| {
        let line: Vec<&str> = line.split_whitespace().collect();
        let same = |(a, b): (&&str, &&str)| a == b || placeholder(a).is_some();
        line.len() == words.len() && line.iter().zip(&words).all(same)
    })
}

/// Whether a line of the list sets this key of `sysctl`.
fn is_key(line: &str, key: &str) -> bool {
    let Some(listed) = line.strip_prefix("sysctl -w ") else { return false };
    let parts = |text: &'_ str| text.split(['.', '=']).map(str::to_owned).collect::<Vec<_>>();
    let (listed, key) = (parts(listed), parts(key));
    let same = |(a, b): (&String, &String)| a == b || placeholder(a).is_some() || placeholder(b).is_some();
    listed.len() == key.len() && listed.iter().zip(&key).all(same)
}

fn faults(text: &str, tried: &mut usize) -> Vec<String> {
    let mut faults = Vec::new();
    for part in parts(text) {
        match part {
            Part::Code(code) => {
                let program = code.split_whitespace().next().unwrap_or_default();
                if code.contains(' ') && PROGRAMS.iter().any(|(name, _)| *name == program) {
                    *tried += 1;
                    // What a placeholder alone stands for is in the messages too, as the next case.
                    if code != "sysctl -w {}" && !is_known(code) {
                        faults.push(format!("not in others.txt: {code}"));
                    }
                }
            }
            Part::Prose(prose) => {
                for (program, next) in PROGRAMS {
                    let follows = |word: &str| {
                        next.is_empty()
                            || next.iter().any(|n| {
                                word == *n
                                    || *n == "-" && word.starts_with('-')
                                    || *n == "--" && word.starts_with("--")
                            })
                    };
                    if program != "echo" && program != "touch" && is_run_in_prose(prose, program, follows) {
                        faults.push(format!("put the command in backticks: {prose}"));
                    }
                }
            }
        }
    }
    // A key of sysctl by itself, which goes into a command.
    if text.starts_with("net.") && text.contains('=') {
        *tried += 1;
        if !known().any(|line| is_key(line, text)) {
            faults.push(format!("not in others.txt: {text}"));
        }
    }
    faults
}

/// Every command of another program in a message is one that was tried, and stands in backticks.
#[test]
fn remedies_of_other_programs_are_known() {
    let mut tried = 0;
    assert_each("commands of other programs", |message| {
        if message.file.ends_with(RUNS_THEM) { Vec::new() } else { faults(&message.text, &mut tried) }
    });
    assert!(tried > 25, "only {tried} commands were found");
}

/// A misspelt subcommand, option or key of `sysctl` is noticed.
#[test]
fn commands_of_other_programs_are_found() {
    let mut tried = 0;
    for (text, fault) in [
        ("lower it: `ip link set {} mtu {carried}`", ""),
        ("`systemctl reload ivswitchd`, and the ip of eth0", ""),
        ("net.ipv4.conf.{name}.rp_filter=2", ""),
        ("`ip link set {} mut {carried}`", "others.txt"),
        ("`sysctl -w net.core.bpf_jit_enabled=1`", "others.txt"),
        ("net.ipv4.{name}.rp_filter=2", "others.txt"),
        ("then systemctl reload ivswitchd", "in backticks"),
        ("by ip link del x", "in backticks"),
    ] {
        let found = faults(text, &mut tried);
        assert_eq!(found.len(), usize::from(!fault.is_empty()), "{text}: {found:?}");
        assert!(found.iter().all(|found| found.contains(fault)), "{text}: {found:?}");
    }
    assert_eq!(tried, 6);
}

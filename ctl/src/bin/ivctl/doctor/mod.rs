//! `ivctl doctor`: the abilities of this machine and its wrong settings, each with a remedy. It only reads.

mod bridges;
mod checks;
mod closed;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ctl::api::Status;
use serde::Serialize;
use serde_json::json;

use crate::client::Client;
use crate::output::{Failure, Paint, Printer, plain};
use crate::{DONE_WITH_WARNINGS, Global};

/// The severity of a finding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Ok,
    /// Good to know.
    Note,
    /// It works, but not as well as it could.
    Warn,
    /// It does not work.
    Fail,
}

/// The result of one check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// The name of the check.
    pub check: &'static str,
    /// The severity.
    pub level: Level,
    /// The result in words.
    pub found: String,
    /// The remedy; empty where nothing needs one.
    pub remedy: String,
}

impl Finding {
    fn new(check: &'static str, level: Level, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level, found: found.into(), remedy: remedy.into() }
    }

    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, found, "")
    }
}

/// The machine, as its files and programs describe it. Tests use another root, where `/said/PROGRAM` contains the
/// output of a program.
pub struct Machine {
    root: PathBuf,
}

/// The output of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Said {
    /// The program succeeded.
    Text(String),
    /// The program refused, mostly because only root may use it.
    Refused,
    /// The program is not installed.
    Missing,
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        Self { root: "/".into() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file, without the newline at its end.
    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim_end().to_owned())
    }

    fn says(&self, program: &str, arguments: &[&str]) -> Said {
        if self.root != Path::new("/") {
            return self.text(&format!("/said/{program}")).map_or(Said::Missing, Said::Text);
        }
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        path.push(":/usr/sbin:/sbin");
        match Command::new(program).args(arguments).env("PATH", path).stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => {
                Said::Text(String::from_utf8_lossy(&output.stdout).into_owned())
            }
            Ok(_) => Said::Refused,
            Err(_) => Said::Missing,
        }
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    fn is_there(&self, path: &str) -> bool {
        self.path(path).exists()
    }
}

/// Runs all checks and prints the findings.
pub fn run(global: &Global, printer: &Printer) -> Result<u8, Failure> {
    let findings = examine(&Machine::here(), global);
    if printer.is_json() {
        printer.json(&json!(findings))?;
    } else {
        printer.text(&render(&findings, printer.paint()))?;
    }
    Ok(exit(&findings))
}

/// Runs all checks, including those that need the daemon if it answers.
pub fn examine(machine: &Machine, global: &Global) -> Vec<Finding> {
    let mut findings = Vec::new();
    let status = daemon(&global.socket, global.timeout, &mut findings);
    checks::machine(machine, &mut findings);
    checks::process(machine, daemon_pid(&global.socket), &mut findings);
    match &status {
        Some(status) => {
            checks::switch(machine, status, &mut findings);
            findings.push(closed::by_daemon(status));
        }
        None => findings.extend(closed::without_daemon(machine)),
    }
    findings
}

fn daemon(socket: &Path, timeout: f64, findings: &mut Vec<Finding>) -> Option<Status> {
    let status = Client::connect(socket, timeout, false)
        .and_then(|mut client| client.call::<Status>("status", json!({})));
    match status {
        Ok(status) => {
            let ours = env!("CARGO_PKG_VERSION");
            let found = format!("{} answers, version {}", status.name, status.version);
            findings.push(if status.version == ours {
                Finding::ok("daemon", found)
            } else {
                let remedy = "install the same version of both and restart the daemon";
                Finding::new("daemon", Level::Warn, format!("{found}; this ivctl is {ours}"), remedy)
            });
            Some(status)
        }
        Err(failure) => {
            let (why, how) = failure.words();
            findings.push(Finding::new("daemon", Level::Fail, why, how));
            None
        }
    }
}

/// The process at the other end of the control socket.
fn daemon_pid(socket: &Path) -> Option<u32> {
    let stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
}

/// 0 when all is well, 8 with warnings, 1 when something does not work.
fn exit(findings: &[Finding]) -> u8 {
    match findings.iter().map(|f| f.level).max() {
        Some(Level::Fail) => 1,
        Some(Level::Warn) => DONE_WITH_WARNINGS,
        _ => 0,
    }
}

/// Renders the findings for people.
pub fn render(findings: &[Finding], paint: Paint) -> String {
    let mut text = String::new();
    for f in findings {
        let mark = match f.level {
            Level::Ok => paint.green("ok  "),
            Level::Note => "note".to_owned(),
            Level::Warn => paint.yellow("warn"),
            Level::Fail => paint.red("FAIL"),
        };
        let _ = writeln!(text, "{mark} {:16} {}", f.check, plain(&f.found));
        if !f.remedy.is_empty() {
            let _ = writeln!(text, "{:22}help: {}", "", plain(&f.remedy));
        }
    }
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let (fails, warns) = (count(Level::Fail), count(Level::Warn));
    let _ = match (fails, warns) {
        (0, 0) => writeln!(text, "all is well"),
        (0, 1) => writeln!(text, "it works; one thing could be better"),
        (0, n) => writeln!(text, "it works; {n} things could be better"),
        (n, m) => writeln!(text, "{n} things do not work, {m} could be better"),
    };
    text
}

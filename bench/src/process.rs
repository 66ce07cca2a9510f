//! Other programs, bounded in time: run to their end, or kept in the background and ended with this one. Each has its
//! own process group, so that Ctrl-C reaches only this program, which then ends those it started, in order.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// When to stop: after a time, or on a signal.
#[derive(Clone, Debug)]
pub struct Limit {
    end: Instant,
    asked: Arc<AtomicBool>,
}

impl Limit {
    /// A limit of `budget`, or less after SIGINT or SIGTERM.
    ///
    /// # Errors
    /// When the signals cannot be caught.
    pub fn new(budget: Duration) -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&asked))?;
        }
        Ok(Self { end: Instant::now() + budget, asked })
    }

    /// Whether a signal has arrived.
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The time left; zero after a signal.
    #[must_use]
    pub fn left(&self) -> Duration {
        if self.interrupted() {
            return Duration::ZERO;
        }
        self.end.saturating_duration_since(Instant::now())
    }

    /// Succeeds if `needed` fits in the time left.
    ///
    /// # Errors
    /// Says why it does not fit.
    pub fn spare(&self, needed: Duration) -> Result<()> {
        if self.interrupted() {
            bail!("interrupted");
        }
        if self.left() < needed {
            bail!("out of time: {} s left of the run's bound", self.left().as_secs());
        }
        Ok(())
    }
}

/// A program in the background, which is ended with all its children when this is dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
    output: Pipe,
    errors: Pipe,
    name: String,
}

impl Background {
    /// Starts `command`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().display().to_string();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let output = Pipe::collect(child.stdout.take());
        let errors = Pipe::collect(child.stderr.take());
        Ok(Self { child, output, errors, name })
    }

    /// The process number, also where `ip netns exec` was replaced by the program.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The program's error output, if it has ended.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten()?;
        let said = self.output.all() + &self.errors.all();
        Some(said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no word").to_owned())
    }

    /// Waits for the end and gives the output.
    ///
    /// # Errors
    /// When the program failed (with its last line of error output), took longer than `bound`, or a signal arrived.
    pub fn finish(mut self, bound: Duration, limit: &Limit) -> Result<String> {
        let end = Instant::now() + bound;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if limit.interrupted() {
                bail!("interrupted");
            }
            if Instant::now() > end {
                bail!("{} took longer than {} s", self.name, bound.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        // Background processes of a script may keep the pipes open: end them before reading to the end.
        self.end();
        let (output, errors) = (self.output.all(), self.errors.all());
        if !status.success() {
            let said = errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no word");
            return Err(anyhow!("{}: {said} ({status})", self.name));
        }
        Ok(output)
    }

    /// Waits until the program has printed `word`.
    ///
    /// # Errors
    /// When it ended before, or `bound` passed.
    pub fn wait_for(&mut self, word: &str, bound: Duration) -> Result<()> {
        let end = Instant::now() + bound;
        while !self.output.so_far().contains(word) {
            if self.child.try_wait()?.is_some() {
                bail!("{} ended early: {}", self.name, self.errors.all().trim());
            }
            if Instant::now() > end {
                bail!("{} did not say {word:?} within {} s", self.name, bound.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn end(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end();
        self.child.wait().ok();
    }
}

/// The output of a program, read as it arrives.
#[derive(Debug)]
struct Pipe {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Pipe {
    fn collect(pipe: Option<impl Read + Send + 'static>) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let reader = pipe.map(|mut pipe| {
            let text = Arc::clone(&text);
            std::thread::spawn(move || {
                let mut chunk = [0u8; 4096];
                while let Ok(n @ 1..) = pipe.read(&mut chunk) {
                    text.lock().expect("no panic holds it").extend_from_slice(&chunk[..n]);
                }
            })
        });
        Self { text, reader }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().expect("no panic holds it")).into_owned()
    }

    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
        self.so_far()
    }
}

/// Runs `command` to its end, for at most `bound`, and gives its output.
///
/// # Errors
/// As [`Background::finish`].
pub fn run(command: &mut Command, bound: Duration, limit: &Limit) -> Result<String> {
    Background::start(command)?.finish(bound, limit)
}

/// Runs a script that leaves daemons running: its output goes to a file, because the daemons would hold a pipe
/// open, and its process group stays alive when it succeeds.
///
/// # Errors
/// When it failed (with its last line of error output), or took longer than `bound`.
pub fn run_leaving(command: &mut Command, log: &std::path::Path, bound: Duration) -> Result<()> {
    let script = std::path::Path::new(command.get_args().next().unwrap_or_default());
    let name = script.file_name().unwrap_or_default().display().to_string();
    let file = File::create(log).with_context(|| format!("writing {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
    let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
    let end = Instant::now() + bound;
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(());
            }
            let said = std::fs::read_to_string(log).unwrap_or_default();
            let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no word");
            bail!("{name}: {last} ({status})");
        }
        if Instant::now() > end {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                kill_process_group(group, Signal::KILL).ok();
            }
            child.wait().ok();
            bail!("{name} took longer than {} s", bound.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Looks for a program in root's search path, or for a file by its path.
#[must_use]
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_bounded() {
        let limit = Limit::new(Duration::from_secs(60)).expect("signals");
        let said =
            run(Command::new("echo").arg("hello"), Duration::from_secs(10), &limit).expect("echo runs");
        assert_eq!(said, "hello\n");
        let start = Instant::now();
        let slow = run(Command::new("sleep").arg("20"), Duration::from_millis(50), &limit);
        assert!(slow.is_err_and(|e| e.to_string().contains("took longer")));
        assert!(start.elapsed() < Duration::from_secs(10), "it was ended, not waited for");
        let failed = run(
            Command::new("sh").args(["-c", "echo first >&2; echo 'the reason' >&2; exit 3"]),
            Duration::from_secs(10),
            &limit,
        );
        assert!(failed.is_err_and(|e| e.to_string().contains("the reason")));
    }

    /// Children of a program end with it, even those in the background.
    #[test]
    fn nothing_is_left_behind() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 300 & echo $! > \"$0\"; wait"]);
        let file = std::env::temp_dir().join(format!("ivs-bench-pid-{}", std::process::id()));
        let background = Background::start(shell.arg(&file)).expect("sh runs");
        let pid = loop {
            match std::fs::read_to_string(&file).unwrap_or_default().trim().parse::<u32>() {
                Ok(pid) => break pid,
                Err(_) => std::thread::yield_now(),
            }
        };
        drop(background);
        std::fs::remove_file(&file).expect("removed");
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") {
                break;
            }
            assert!(Instant::now() < end, "still there: {state}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn time_runs_out() {
        let limit = Limit::new(Duration::from_secs(5)).expect("signals");
        assert!(limit.spare(Duration::from_secs(1)).is_ok());
        let refused = limit.spare(Duration::from_secs(50)).expect_err("five is less than fifty");
        assert!(refused.to_string().contains("out of time"));
    }
}

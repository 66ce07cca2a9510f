//! Keeps the reality addresses of floating IPs closed to the rVM's own kernel, whether or not the daemon runs.
//!
//! While the daemon runs, steering takes a floating IP's packets before the kernel sees them. When the daemon is
//! stopped, killed, or not started yet, those packets would go to the kernel, whose services would answer the Internet
//! under the floating IP's address. An nftables table drops them. Only three things remove that table: the mapping's
//! removal, a purge of the package, or another program, which the daemon notices. At boot `ivswitchd --close` installs
//! it before the network is up. `dataplane/decisions/0023` has the alternatives.
//!
//! [`rules`] writes the script, [`nft`] runs it; without nftables, [`filter`] closes by tc.

mod filter;
mod nft;
mod rules;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ctl::io::{ClosePlan, CloseState};
use ctl::model::Config;
use mio::Waker;

use nft::Changes;
pub use nft::use_program;
use rules::Sockets;

/// How often the thread checks whether another program changed rules.
const LOOK: Duration = Duration::from_secs(1);

/// After a start with nothing to close, the time until filters of an earlier process are looked for.
const SETTLED: Duration = Duration::from_secs(1);

/// When a failed attempt is repeated: the operator may have installed `nft` by then.
const RETRY: Duration = Duration::from_secs(30);

/// The last script that ran, for a boot at which the configuration is refused.
const SAVED: &str = "closed.nft";

/// The thread that maintains the rule. It runs a program for each change, and no other thread should wait for that.
#[derive(Debug)]
pub struct Closer {
    plans: Option<Sender<ClosePlan>>,
    states: Receiver<CloseState>,
    thread: Option<JoinHandle<()>>,
}

impl Closer {
    /// Starts the thread. `dir` stores the script for the next boot; `waker` is woken when there is news.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(dir: PathBuf, waker: Arc<Waker>) -> io::Result<Self> {
        let (plans, orders) = mpsc::channel();
        let (news, states) = mpsc::channel();
        let thread = std::thread::Builder::new().name("closed".to_owned()).spawn(move || {
            let mut rule = Rule { dir, ..Rule::default() };
            rule.look_after(&orders, |state| {
                let _ = news.send(state);
                let _ = waker.wake();
            });
        })?;
        Ok(Self { plans: Some(plans), states, thread: Some(thread) })
    }

    /// Installs the rule of this plan in place of any other.
    pub fn close(&self, plan: ClosePlan) {
        if let Some(plans) = &self.plans {
            let _ = plans.send(plan);
        }
    }

    /// News about the rule's state.
    pub fn news(&self) -> impl Iterator<Item = CloseState> {
        self.states.try_iter()
    }
}

impl Drop for Closer {
    /// Requests that came first are done first: a mapping that was removed just before the end leaves no rule.
    fn drop(&mut self) {
        drop(self.plans.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The rule as desired, and as installed.
#[derive(Debug, Default)]
struct Rule {
    plan: ClosePlan,
    /// The table as `nft` showed it after the installation.
    shown: Option<String>,
    changes: Option<Changes>,
    state: CloseState,
    /// Whether to look for our tc filters: a process before us may have needed them, or we did. `None`: not known yet.
    filters: Option<bool>,
    /// When a failure is tried again.
    retry: Option<Instant>,
    dir: PathBuf,
}

impl Rule {
    fn look_after(&mut self, orders: &Receiver<ClosePlan>, mut tell: impl FnMut(CloseState)) {
        loop {
            // Without closed addresses the thread has nothing to check.
            let order = if self.plan.reality.is_empty() {
                orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                orders.recv_timeout(LOOK)
            };
            match order {
                Ok(plan) => {
                    // Of several plans only the last counts.
                    let mut plan = orders.try_iter().last().unwrap_or(plan);
                    if self.filters.is_none() && plan.reality.is_empty() {
                        // A start with nothing to close. Filters that another process may have left can wait
                        // until ports are open.
                        match orders.recv_timeout(SETTLED) {
                            Ok(other) => plan = other,
                            Err(RecvTimeoutError::Timeout) => {}
                            Err(RecvTimeoutError::Disconnected) => return,
                        }
                    }
                    self.plan = plan;
                    self.apply();
                    tell(self.state.clone());
                }
                Err(RecvTimeoutError::Timeout) => {
                    let before = self.state.clone();
                    self.look();
                    if self.state != before {
                        tell(self.state.clone());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Checks whether another program changed the rule, and restores it.
    fn look(&mut self) {
        if self.changes.as_mut().is_some_and(Changes::any) && self.shown.is_some() {
            match nft::table() {
                Ok(is) if is == self.shown => return,
                Ok(_) => self.state.restored += 1,
                Err(_) => {}
            }
            self.apply();
        } else if self.retry.is_some_and(|at| Instant::now() >= at) {
            self.apply();
        }
    }

    fn apply(&mut self) {
        let nothing = self.plan.reality.is_empty();
        (self.shown, self.retry) = (None, None);
        (self.state.why, self.state.instead) = (String::new(), String::new());
        if nothing {
            self.changes = None;
        } else if self.changes.is_none() {
            self.changes = Changes::listen().map_err(|error| tracing::warn!("nftables: {error}")).ok();
        }
        let shown = carry_out(&self.plan, &self.dir).and_then(|()| {
            // The changes reported so far were our own.
            self.changes.as_mut().map(Changes::any);
            nft::table()
        });
        if (shown.is_ok() || nothing) && self.filters != Some(false) {
            filter::open();
            self.filters = Some(false);
        }
        match shown {
            Ok(shown) => self.shown = shown,
            // Without nft our table cannot exist either.
            Err(why) if nothing => tracing::debug!("nothing is to be closed: {why}"),
            Err(why) => {
                self.filters = Some(true);
                match filter::close(&self.plan) {
                    Ok(()) => self.state.instead = why,
                    Err(other) => self.state.why = format!("{why} (and by tc: {other})"),
                }
                self.retry = Some(Instant::now() + RETRY);
            }
        }
    }
}

/// Installs a plan, and stores its script for the next boot.
fn carry_out(plan: &ClosePlan, dir: &Path) -> Result<(), String> {
    let also: Vec<String> = bridge_of(&plan.interface).into_iter().collect();
    let script = rules::script(plan, &also, Sockets::Known);
    let (script, result) = match nft::carry_out(&script) {
        Err(_) if !plan.reality.is_empty() => {
            let less = rules::script(plan, &also, Sockets::Unknown);
            let result = nft::carry_out(&less);
            (less, result)
        }
        result => (script, result),
    };
    if (result.is_ok() || plan.reality.is_empty())
        && let Err(error) = keep(dir, &script, plan.reality.is_empty())
    {
        tracing::warn!(
            "{}: the closed addresses are not kept for a boot at which the configuration is refused: {error}",
            dir.join(SAVED).display()
        );
    }
    result
}

/// Writes the script where the next boot finds it, or removes it.
fn keep(dir: &Path, script: &str, empty: bool) -> io::Result<()> {
    let path = dir.join(SAVED);
    if empty {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    if fs::read_to_string(&path).is_ok_and(|is| is == script) {
        return Ok(());
    }
    let new = dir.join("closed.nft.new");
    fs::write(&new, script)?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(new, path)
}

/// The bridge that the interface is in: to the kernel's IP stack, arriving packets come from the bridge.
fn bridge_of(interface: &str) -> Option<String> {
    if interface.is_empty() || interface.contains('/') {
        return None;
    }
    let master = fs::read_link(format!("/sys/class/net/{interface}/master")).ok()?;
    Some(master.file_name()?.to_str()?.to_owned())
}

/// Closes the addresses of a configuration, without a daemon: `ivswitchd --close`, at boot. Returns a message
/// for the user.
///
/// # Errors
/// Returns the error of `nft`.
pub fn close_for(config: &Config, name: &str, dir: &Path) -> Result<String, String> {
    let mut plan = ctl::reconcile::close(config, name, None);
    plan.interface = crate::links::name_of(&plan.interface);
    let result = carry_out(&plan, dir);
    if plan.reality.is_empty() {
        // Without nft our table cannot exist either.
        return Ok("no address is to be closed to the kernel".to_owned());
    }
    let by = match result {
        Ok(()) => String::new(),
        Err(why) => {
            filter::close(&plan).map_err(|other| format!("{why} (and by tc: {other})"))?;
            format!(", by tc, since {why}")
        }
    };
    let addresses: Vec<String> = plan.reality.iter().map(|reality| reality.address.to_string()).collect();
    Ok(format!("closed to the kernel: {}{by}", addresses.join(", ")))
}

/// Closes the addresses that were closed last, because the configuration cannot be read. Returns a message
/// for the user.
///
/// # Errors
/// `nft` refused the script, or no script was stored.
pub fn close_as_before(dir: &Path) -> Result<String, String> {
    let path = dir.join(SAVED);
    let script = fs::read_to_string(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "nothing was closed before, and nothing is closed now".to_owned(),
        _ => format!("{}: {error}", path.display()),
    })?;
    nft::carry_out(&script)?;
    Ok(format!("closed to the kernel is what was before ({})", path.display()))
}

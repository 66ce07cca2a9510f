//! The log: to standard error, as text or JSON, by a filter that can be changed at run time, and never faster
//! than a person could read: a sender that makes the daemon complain must not be able to fill the disk.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use tracing::callsite::Identifier;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// The form of the lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

const CHOICES: &str =
    "give error, warn, info, debug, trace or off, or a filter such as ivswitchd::links=debug";

/// Lines from one place in the program in a burst, and per second after that.
const BURST: f64 = 100.0;
const PER_SECOND: f64 = 10.0;

static FILTER: OnceLock<(reload::Handle<EnvFilter, Registry>, Mutex<String>)> = OnceLock::new();
static LIMITS: OnceLock<Mutex<HashMap<Identifier, Bucket>>> = OnceLock::new();

/// Starts logging.
///
/// # Errors
/// The filter is invalid.
pub fn start(level: &str, format: Format) -> anyhow::Result<()> {
    let filter = filter(level).with_context(|| format!("--log-level {level}: {CHOICES}"))?;
    let (filter, handle) = reload::Layer::new(filter);
    // The journal adds its own timestamps.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let text = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).with_target(false);
    let json = || fmt::layer().json().flatten_event(true).with_writer(io::stderr);
    let lines: Box<dyn Layer<_> + Send + Sync> = match (format, journal) {
        (Format::Text, false) => text.with_filter(Limit).boxed(),
        (Format::Text, true) => text.without_time().with_filter(Limit).boxed(),
        (Format::Json, false) => json().with_filter(Limit).boxed(),
        (Format::Json, true) => json().without_time().with_filter(Limit).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    // Logging starts only once, so this cannot fail.
    let _ = FILTER.set((handle, Mutex::new(level.to_owned())));
    Ok(())
}

/// The names of levels.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Parses a filter. A plain level is for this project's crates; other libraries must be named.
fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let is_level = |word: &str| LEVELS.contains(&word.to_ascii_lowercase().as_str());
    if is_level(level) {
        return Ok(EnvFilter::try_new(format!("warn,ivswitchd={level}"))?);
    }
    // A single word would count as a module's name, so a misspelt level would switch everything off.
    let parts: Vec<&str> = level.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    anyhow::ensure!(!parts.is_empty(), "it is empty");
    for part in &parts {
        let (module, level) = part.rsplit_once('=').unwrap_or(("", part));
        anyhow::ensure!(is_level(level), "\"{level}\" is no level");
        // Other libraries have other names.
        let of = module.split([':', '[']).next().unwrap_or_default();
        anyhow::ensure!(
            of == "ivswitchd" || !of.starts_with("iv"),
            "there is no module \"{module}\"; ours begin with ivswitchd"
        );
    }
    Ok(EnvFilter::try_new(parts.join(","))?)
}

/// Logs by this filter from now on, if one is given. Returns the filter in force.
///
/// # Errors
/// Why the filter is invalid; the log then stays as it is.
pub fn set(level: Option<&str>) -> Result<String, String> {
    let (handle, shown) = FILTER.get().ok_or("there is no log")?;
    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(level) = level {
        let filter = filter(level).map_err(|e| e.to_string())?;
        handle.reload(filter).map_err(|e| e.to_string())?;
        level.clone_into(&mut shown);
    }
    Ok(shown.clone())
}

/// Logs how many lines were left out since the last call. The control thread calls it once a second.
pub fn report_left_out() {
    let Some(limits) = LIMITS.get() else { return };
    let left_out: u64 = limits
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .values_mut()
        .map(|b| std::mem::take(&mut b.left_out))
        .sum();
    if left_out > 0 {
        tracing::warn!("{left_out} lines of the log were left out: they came too fast");
    }
}

#[derive(Debug)]
struct Bucket {
    level: f64,
    filled: Instant,
    left_out: u64,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { level: BURST, filled: now, left_out: 0 }
    }

    fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        (self.level, self.filled) = ((self.level + elapsed * PER_SECOND).min(BURST), now);
        if self.level < 1.0 {
            self.left_out += 1;
            return false;
        }
        self.level -= 1.0;
        true
    }
}

/// Limits the lines of each place in the program. There are as many buckets as places: few.
struct Limit;

impl<S> Filter<S> for Limit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let now = Instant::now();
        let limits = LIMITS.get_or_init(Mutex::default);
        let mut limits = limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.entry(event.metadata().callsite()).or_insert_with(|| Bucket::new(now)).take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_flood_of_lines_is_thinned_and_counted() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let passed = (0..10_000u64).filter(|n| bucket.take(start + Duration::from_millis(*n))).count();
        // Ten seconds' worth and the first hundred.
        assert!((195..=205).contains(&passed), "{passed}");
        assert_eq!(bucket.left_out, 10_000 - passed as u64);
    }

    #[test]
    fn levels_and_filters() {
        for good in [
            "info",
            "debug",
            "Debug",
            "off",
            "ivswitchd::links=debug,warn",
            "warn,ivswitchd=trace",
            "error, aya=off",
        ] {
            assert!(filter(good).is_ok(), "{good}: {:?}", filter(good).err());
        }
        for bad in [
            "frob=nicate",
            "debgu",
            "",
            ",",
            "warn,debgu",
            "ivswitchd",
            "ivswitchd::links=debgu",
            "ivswichd=debug",
            "5",
        ] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}

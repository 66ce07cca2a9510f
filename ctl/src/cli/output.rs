//! Output for people and scripts: tables, JSON, and errors in three lines.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

pub use super::paint::{Paint, plain};
pub use super::table::Table;
use crate::model::ConfigError;
use serde::Serialize;

/// When to use colours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// A failed command: exit code, what, why, how.
#[derive(Clone, PartialEq, Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    what: String,
    why: String,
    how: String,
    errors: Vec<ConfigError>,
    /// The reader of our output went away, which is not a failure.
    broken_pipe: bool,
}

impl Failure {
    /// Creates a failure.
    pub fn new(code: u8, what: impl Into<String>, why: impl Into<String>, how: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            why: why.into(),
            how: how.into(),
            errors: Vec::new(),
            broken_pipe: false,
        }
    }

    /// The cause, with the object in front, and the remedy.
    pub fn words(&self) -> (String, String) {
        (format!("{}: {}", self.what, self.why), self.how.clone())
    }

    /// Adds a remark to the failure.
    #[must_use]
    pub fn noting(mut self, more: &str) -> Self {
        self.why = if self.why.is_empty() { more.to_owned() } else { format!("{}; {more}", self.why) };
        self
    }

    /// The three lines; each of several configuration errors has one line.
    fn text(&self, paint: Paint) -> String {
        let mut text = format!("{} {}\n", paint.red("error:"), plain(&self.what));
        if self.errors.len() > 1 {
            for e in &self.errors {
                let _ = writeln!(text, "  {}", plain(&e.to_string()));
            }
            return text;
        }
        if !self.why.is_empty() {
            let _ = writeln!(text, "  why: {}", plain(&self.why));
        }
        if !self.how.is_empty() {
            let _ = writeln!(text, " help: {}", plain(&self.how));
        }
        text
    }
}

/// All on one line, for logs.
impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [&self.what, &self.why, &self.how];
        let parts: Vec<String> = parts.into_iter().filter(|p| !p.is_empty()).map(|p| plain(p)).collect();
        f.write_str(&parts.join("; "))
    }
}

impl From<crate::api::Error> for Failure {
    fn from(e: crate::api::Error) -> Self {
        Self { errors: e.errors, ..Self::new(e.code.exit(), e.what, e.why, e.how) }
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        let broken_pipe = e.kind() == ErrorKind::BrokenPipe;
        Self {
            broken_pipe,
            ..Self::new(1, "the output cannot be written", e.to_string(), "is the disk full?")
        }
    }
}

/// Prints in the form that the flags ask for.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    json: bool,
    pretty: bool,
    quiet: bool,
    /// Colours of standard output and of standard error.
    paint: Paint,
    paint_errors: Paint,
}

impl Printer {
    /// Creates a printer for these flags and this terminal.
    pub fn new(json: bool, pretty: bool, quiet: bool, color: Color) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let on = |terminal: bool| match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && !no_color,
        };
        Self {
            json,
            pretty,
            quiet,
            paint: Paint(on(io::stdout().is_terminal())),
            paint_errors: Paint(on(io::stderr().is_terminal())),
        }
    }

    /// The colours of standard output.
    pub fn paint(&self) -> Paint {
        self.paint
    }

    /// Whether the flags ask for JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Writes bytes unchanged.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }

    /// Writes text for people, unless quiet.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        if self.quiet { Ok(()) } else { self.bytes(text.as_bytes()) }
    }

    /// Writes JSON, on one line or indented.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text =
            if self.pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        let mut text =
            text.map_err(|e| Failure::new(1, "the answer cannot be printed", e.to_string(), ""))?;
        text.push('\n');
        self.bytes(text.as_bytes())
    }

    /// Writes JSON if the flags ask for it, otherwise nothing.
    pub fn json_if_asked(&self, value: &impl Serialize) -> Result<(), Failure> {
        if self.json { self.json(value) } else { Ok(()) }
    }

    /// Writes a list, as JSON or as a table.
    pub fn rows<T: Serialize>(&self, rows: &[T], table: impl FnOnce(&[T]) -> Table) -> Result<(), Failure> {
        if self.json { self.json(&rows) } else { self.text(&table(rows).render(self.paint)) }
    }

    /// Writes warnings to standard error.
    pub fn warnings(&self, warnings: &[String]) {
        if !self.quiet && !self.json {
            for warning in warnings {
                let _ = writeln!(io::stderr(), "{} {}", self.paint_errors.yellow("warning:"), plain(warning));
            }
        }
    }

    /// Writes a remark to standard error.
    pub fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            let _ = writeln!(io::stderr(), "{}", plain(text));
        }
    }

    /// Reports the result of a command, and returns its exit code.
    pub fn end(&self, result: Result<u8, Failure>) -> u8 {
        match result {
            Ok(code) => code,
            Err(failure) if failure.broken_pipe => 0,
            Err(failure) => {
                let Failure { code, what, why, how, errors, .. } = &failure;
                let text = if self.json {
                    let error = serde_json::json!({
                        "error": { "exit": code, "what": what, "why": why, "how": how, "errors": errors }
                    });
                    format!("{error}\n")
                } else {
                    failure.text(self.paint_errors)
                };
                let _ = io::stderr().write_all(text.as_bytes());
                *code
            }
        }
    }
}

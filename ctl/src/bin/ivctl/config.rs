//! `ivctl config`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use ctl::api::{ConfigShown, Error};
use ctl::model;
use serde_json::json;

use crate::client::Client;
use crate::edit;
use crate::output::{Failure, Printer};

/// What can be done with the configuration as a whole.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Check a file without a daemon; everything that is wrong is shown
    Check {
        /// The file, `-` for standard input
        file: PathBuf,
    },
    /// Show the configuration in force
    Show,
    /// Put a file in force, all of it or nothing
    Apply {
        /// The file, `-` for standard input
        file: PathBuf,
    },
}

/// Runs one of them.
pub fn run(
    verb: &Verb,
    client: &mut dyn FnMut() -> Result<Client, Failure>,
    printer: &Printer,
) -> Result<u8, Failure> {
    match verb {
        Verb::Check { file } => {
            let text = read(file)?;
            let config = model::parse(&text)
                .map_err(|errors| Error::of_config(format!("{} is not valid", file.display()), errors))?;
            if printer.is_json() {
                printer.json(&json!({ "ok": true, "errors": [] }))?;
            } else {
                let counts = [
                    (config.network.len(), "networks"),
                    (config.port.len(), "ports"),
                    (config.peer.len(), "peers"),
                    (config.floating.len(), "floating IPs"),
                ];
                let counts = counts.map(|(n, what)| format!("{n} {what}")).join(", ");
                printer.text(&format!("{} is valid: {counts}\n", file.display()))?;
            }
            Ok(0)
        }
        Verb::Show => {
            let shown: ConfigShown = client()?.call("config.show", json!({}))?;
            if printer.is_json() {
                printer.json(&shown)?;
            } else {
                printer.bytes(shown.text.as_bytes())?;
            }
            Ok(0)
        }
        Verb::Apply { file } => {
            let text = read(file)?;
            edit(&mut client()?, printer, "config.apply", json!({ "text": text }))
        }
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let limit = model::TEXT_LEN_MAX as u64 + 1;
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|f| f.take(limit).read_to_end(&mut bytes))
    };
    let what = || format!("{} cannot be read", file.display());
    read.map_err(|e| {
        let code = match e.kind() {
            std::io::ErrorKind::NotFound => 3,
            std::io::ErrorKind::PermissionDenied => 6,
            _ => 1,
        };
        Failure::new(code, what(), e.to_string(), "name a file that you may read, or `-` for standard input")
    })?;
    String::from_utf8(bytes).map_err(|e| Failure::new(1, what(), e.to_string(), "TOML is UTF-8 text"))
}

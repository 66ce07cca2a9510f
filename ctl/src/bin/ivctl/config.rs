//! `ivctl config`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use ctl::api::{ConfigDiffers, ConfigShown, Error};
use ctl::model::{self, Skipped};
use serde_json::{Value, json};

use crate::client::Client;
use crate::edit;
use crate::output::{Failure, Printer};

/// The verbs for the configuration as a whole.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Check a file and its drop-ins (FILE.d/*.toml) without a daemon, and show all errors
    Check {
        /// The file; `-` for standard input
        file: PathBuf,
    },
    /// Show the main file as it is in force, and name the drop-ins that add to it. As JSON: everything in force, and
    /// the file that each part comes from
    Show {
        /// Show everything in force as one file, drop-ins included
        #[arg(long)]
        merged: bool,
    },
    /// Show the changes that applying a file would make; exit code 1 if there are changes
    Diff {
        /// The file; `-` for standard input. Without it, the daemon's own file and drop-ins are compared, as a reload
        /// would read them
        file: Option<PathBuf>,
    },
    /// Put a file in force, as a whole or not at all
    Apply {
        /// The file; `-` for standard input
        file: PathBuf,
        /// Commit-confirmed: roll back after this time unless `ivctl config confirm` comes first, from here or any
        /// other shell
        #[arg(long, value_name = "TIME", value_parser = trial)]
        confirm: Option<u64>,
    },
    /// Confirm a commit-confirmed configuration, and save it
    Confirm,
    /// Roll back a commit-confirmed configuration now
    Rollback,
    /// Print the JSON Schema of the file, for editors and CI
    Schema,
    /// Print every key of the file with its meaning, as Markdown
    Reference {
        /// Print the man page ivswitch.toml(5) instead
        #[arg(long)]
        man: bool,
    },
}

/// Parses a time such as `60s`, `10m`, `1h` or `90`, in seconds.
fn trial(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => text.split_at(at),
        None => (text, "s"),
    };
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|&s| s > 0);
    seconds.ok_or_else(|| "a time looks like 60s, 10m or 1h".to_owned())
}

/// Runs a verb.
pub fn run(
    verb: &Verb,
    client: &mut dyn FnMut() -> Result<Client, Failure>,
    printer: &Printer,
) -> Result<u8, Failure> {
    match verb {
        Verb::Check { file } => {
            let (text, drop_ins) = read_layers(file)?;
            let config = model::parse_layers(&text, &drop_ins, None)
                .map(|read| read.whole)
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
        Verb::Show { merged } => {
            let shown: ConfigShown = client()?.call("config.show", json!({}))?;
            if printer.is_json() {
                printer.json(&as_json(&shown))?;
            } else if *merged {
                let config: model::Config = serde_json::from_value(shown.config).map_err(|e| {
                    Failure::new(1, "the configuration cannot be shown", e.to_string(), "leave out --merged")
                })?;
                printer.bytes(model::print(&config).as_bytes())?;
            } else {
                printer.bytes(shown.text.as_bytes())?;
                if !shown.drop_ins.is_empty() {
                    let names = shown.drop_ins.join(", ");
                    printer.note(&format!("drop-ins add more: {names}; --merged shows everything"));
                }
                for Skipped { file, peer, why, .. } in &shown.skipped {
                    printer.note(&format!("peer \"{peer}\" of {file} is left out: {why}"));
                }
            }
            Ok(0)
        }
        Verb::Diff { file } => {
            let mut client = client()?;
            let compared = match file {
                Some(file) => json!({ "text": read(file)? }),
                None => of_the_daemon(&client.call::<ConfigShown>("config.show", json!({}))?, printer)?,
            };
            let answer: ConfigDiffers = client.call("config.diff", compared)?;
            if printer.is_json() {
                printer.json(&answer.changes)?;
            } else {
                let lines: String = answer.changes.iter().map(|change| format!("{change}\n")).collect();
                printer.text(&lines)?;
            }
            Ok(u8::from(!answer.changes.is_empty()))
        }
        Verb::Apply { file, confirm } => {
            let text = read(file)?;
            let mut params = json!({ "text": text });
            if let Some(seconds) = confirm {
                params["confirm_s"] = json!(seconds);
            }
            let done = edit(&mut client()?, printer, "config.apply", params)?;
            if let (Some(seconds), false) = (confirm, printer.is_json()) {
                printer.text(&format!(
                    "not confirmed: rolled back in {seconds} s unless `ivctl config confirm` comes first\n"
                ))?;
            }
            Ok(done)
        }
        Verb::Confirm => edit(&mut client()?, printer, "config.confirm", json!({})),
        Verb::Rollback => edit(&mut client()?, printer, "config.rollback", json!({})),
        Verb::Schema => {
            printer.bytes(model::schema().as_bytes())?;
            Ok(0)
        }
        Verb::Reference { man } => {
            printer.bytes(if *man { model::man() } else { model::markdown() }.as_bytes())?;
            Ok(0)
        }
    }
}

/// The configuration in force with the keys of the file, and facts about it under keys of their own.
fn as_json(shown: &ConfigShown) -> Value {
    let mut all = shown.config.clone();
    if let (Value::Object(all), Value::Object(mut about)) = (&mut all, json!(shown)) {
        about.remove("config");
        all.extend(about);
    }
    all
}

/// The daemon's files as they are on disk now.
fn of_the_daemon(shown: &ConfigShown, printer: &Printer) -> Result<Value, Failure> {
    let file = Path::new(&shown.file);
    let what = || format!("{} cannot be read", file.display());
    if shown.file.is_empty() {
        let why = "the daemon does not say which files it reads";
        return Err(Failure::new(1, "config diff", why, "name a file: `ivctl config diff FILE`"));
    }
    let (text, drop_ins) = model::read_files(file)
        .map_err(|why| Failure::new(1, what(), why, "name a file that you may read"))?;
    if text.is_none() {
        printer.note(&format!("{} does not exist: compared with an empty file", file.display()));
    }
    Ok(json!({ "text": text.unwrap_or_default(), "drop_ins": drop_ins }))
}

/// Reads a file with its drop-ins; standard input has no drop-ins.
fn read_layers(file: &Path) -> Result<(String, Vec<model::DropIn>), Failure> {
    let text = read(file)?;
    if file == Path::new("-") {
        return Ok((text, Vec::new()));
    }
    let (_, drop_ins) = model::read_files(file).map_err(|why| {
        Failure::new(
            1,
            format!("the drop-ins of {} cannot be read", file.display()),
            why,
            "correct the directory",
        )
    })?;
    Ok((text, drop_ins))
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

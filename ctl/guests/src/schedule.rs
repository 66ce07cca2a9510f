//! `ivctl guest schedule`: what is to be done with a guest at a time (N-08).
//!
//! An entry is a file, written whole and renamed into place, so the list survives restarts of everything. `run`
//! carries out what is due: a service keeps it running. What came due while nothing ran is done
//! at the next start, since that is nearer to what was wanted than never. An entry is removed once it was tried, with
//! its outcome in the log; it is not tried again, since the second `stop` might meet a guest started by hand since.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ctl::cli::{Failure, Table};
use ctl::guest::quantity::{moment, moment_text};
use ctl::guest::verbs::ScheduleVerb;
use serde::{Deserialize, Serialize};

use crate::Here;

/// Where the entries are.
const DIRECTORY: &str = "/var/lib/ivswitch/schedule";
/// Entries at most.
const ENTRIES_MAX: usize = 10_000;
/// How late something may be done.
const INTERVAL: Duration = Duration::from_secs(1);

/// Something to be done.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Seconds since 1970, in UTC.
    at: u64,
    /// A verb of `ivctl guest` and its arguments.
    what: Vec<String>,
    /// The libvirt daemon.
    connect: String,
    /// The switch's.
    socket: PathBuf,
    /// Seconds the verb may take.
    timeout: f64,
}

fn directory() -> PathBuf {
    std::env::var_os("IVS_SCHEDULE").map_or_else(|| DIRECTORY.into(), PathBuf::from)
}

fn at(path: &Path, e: &std::io::Error) -> Failure {
    let code = if e.kind() == std::io::ErrorKind::PermissionDenied { 6 } else { 1 };
    let how = "run ivctl as root, or name another directory in IVS_SCHEDULE";
    Failure::new(code, "the schedule cannot be used", format!("{}: {e}", path.display()), how)
}

/// Runs a verb.
pub fn run(here: &Here<'_>, verb: ScheduleVerb) -> Result<u8, Failure> {
    let directory = directory();
    match verb {
        ScheduleVerb::List => list(here, &directory),
        ScheduleVerb::Add { at, what } => add(here, &directory, &at, what),
        ScheduleVerb::Del { number } => {
            let path = directory.join(format!("{number}.json"));
            fs::remove_file(&path).map(|()| 0).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => {
                    let what = format!("there is no entry {number}");
                    Failure::new(
                        3,
                        what,
                        "it was done or deleted, or never was",
                        "see ivctl guest schedule list",
                    )
                }
                _ => self::at(&path, &e),
            })
        }
        ScheduleVerb::Run { once } => loop {
            for (number, entry) in entries(&directory)? {
                if UNIX_EPOCH + Duration::from_secs(entry.at) <= SystemTime::now() {
                    carry_out(&directory, number, &entry)?;
                }
            }
            if once {
                return Ok(0);
            }
            std::thread::sleep(INTERVAL);
        },
    }
}

/// All entries by their numbers. A file that is none is left alone, and said.
fn entries(directory: &Path) -> Result<Vec<(u64, Entry)>, Failure> {
    let files = match fs::read_dir(directory) {
        Ok(files) => files,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(at(directory, &e)),
    };
    let mut entries = Vec::new();
    for path in files.filter_map(|f| Some(f.ok()?.path())) {
        let number = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".json")?.parse::<u64>().ok());
        let Some(number) = number else { continue };
        match fs::read(&path)
            .map_err(|e| e.to_string())
            .and_then(|b| serde_json::from_slice::<Entry>(&b).map_err(|e| e.to_string()))
        {
            Ok(entry) => entries.push((number, entry)),
            Err(e) => eprintln!("warning: {} is left alone: {e}", path.display()),
        }
    }
    entries.sort_by_key(|(number, entry)| (entry.at, *number));
    Ok(entries)
}

fn list(here: &Here<'_>, directory: &Path) -> Result<u8, Failure> {
    let time = |at: u64| moment_text(UNIX_EPOCH + Duration::from_secs(at));
    let rows: Vec<_> = entries(directory)?
        .into_iter()
        .map(|(number, e)| serde_json::json!({ "number": number, "at": time(e.at), "what": e.what }))
        .collect();
    here.printer.rows(&rows, |rows| {
        let mut table = Table::new(&[">NUMBER", "AT", "WHAT"]);
        for r in rows {
            let what: Vec<_> =
                r["what"].as_array().into_iter().flatten().filter_map(|w| w.as_str()).collect();
            table.row([
                r["number"].to_string(),
                r["at"].as_str().unwrap_or_default().to_owned(),
                what.join(" "),
            ]);
        }
        table
    })?;
    Ok(0)
}

fn add(here: &Here<'_>, directory: &Path, when: &str, what: Vec<String>) -> Result<u8, Failure> {
    let refused = "nothing is scheduled";
    let wrong = |why: String| Failure::new(2, refused, why, "as in: ivctl guest schedule add +2h stop web1");
    let when = moment(when, SystemTime::now()).map_err(wrong)?;
    let verbs = ["start", "stop", "destroy", "reboot", "resize"];
    if !what.first().is_some_and(|verb| verbs.contains(&verb.as_str())) {
        return Err(wrong(format!("what is to be done is one of {}", verbs.join(", "))));
    }
    let line = ["ivctl-guest", "guest"].into_iter().map(str::to_owned).chain(what.iter().cloned());
    if let Err(e) = <crate::Cli as clap::Parser>::try_parse_from(line) {
        return Err(wrong(
            e.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        ));
    }
    let there = entries(directory)?;
    if there.len() >= ENTRIES_MAX {
        return Err(Failure::new(1, refused, format!("{ENTRIES_MAX} entries wait already"), "delete some"));
    }
    let socket = std::path::absolute(&here.global.socket).unwrap_or_else(|_| here.global.socket.clone());
    let seconds = when.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let entry = Entry {
        at: seconds,
        what,
        connect: here.uri.to_owned(),
        socket,
        timeout: here.global.timeout.max(60.0),
    };
    fs::create_dir_all(directory).map_err(|e| at(directory, &e))?;
    let number = there.iter().map(|(number, _)| number + 1).max().unwrap_or(1);
    let number = write(directory, number, &entry)?;
    here.printer.json_if_asked(&serde_json::json!({ "number": number }))?;
    if !here.printer.is_json() {
        here.printer.text(&format!("{number}\n"))?;
    }
    Ok(0)
}

/// Writes an entry under the first free number from this one on, whole or not at all.
fn write(directory: &Path, mut number: u64, entry: &Entry) -> Result<u64, Failure> {
    let bytes = serde_json::to_vec(entry).expect("plain data");
    let fresh = directory.join(format!(".{}.new", std::process::id()));
    let written =
        fs::File::create(&fresh).and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
    written.map_err(|e| at(&fresh, &e))?;
    let placed = loop {
        // A link fails where a rename would replace.
        match fs::hard_link(&fresh, directory.join(format!("{number}.json"))) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            other => break other,
        }
    };
    let _ = fs::remove_file(&fresh);
    placed.map_err(|e| at(directory, &e))?;
    fs::File::open(directory).and_then(|d| d.sync_all()).map_err(|e| at(directory, &e))?;
    Ok(number)
}

/// Does it, by this program itself, and says how it went.
fn carry_out(directory: &Path, number: u64, entry: &Entry) -> Result<(), Failure> {
    let path = directory.join(format!("{number}.json"));
    let program = std::env::current_exe().map_err(|e| at(&path, &e))?;
    let mut command = Command::new(program);
    command.arg("--connect").arg(&entry.connect).arg("--socket").arg(&entry.socket);
    command.arg("--timeout").arg(entry.timeout.min(600.0).to_string()).arg("guest").args(&entry.what);
    let outcome = command.status().map_or_else(|e| e.to_string(), |status| status.to_string());
    eprintln!("{}: guest {}: {outcome}", moment_text(SystemTime::now()), entry.what.join(" "));
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(at(&path, &e)),
        _ => Ok(()),
    }
}

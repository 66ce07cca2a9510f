//! `ivctl guest schedule`: actions on a guest at a given time (N-08).
//!
//! An entry is a file, written completely and then linked into place, so the list survives restarts of everything.
//! `run` carries out entries that are due, and a service keeps it running. Entries that became due while it did not
//! run are carried out at the next start, because late is closer to the user's wish than never.
//!
//! A separate process carries out each entry. It holds a lock on the file, and removes the file as its last step. So
//! each entry is carried out once. If the service is killed halfway, either that process is still alive and its lock
//! keeps the next service away, or the entry remains and the next service repeats it. Repeating is harmless, because
//! the verbs name a state: a guest that is off is not stopped twice. `reboot` does not name a state, so its entry is
//! removed first and never repeated. An entry that failed is removed too, with its outcome in the log. It waits only
//! while libvirt or the switch cannot be reached.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ctl::cli::{Failure, Table};
use ctl::guest::quantity::{moment, moment_text};
use ctl::guest::verbs::ScheduleVerb;
use serde::{Deserialize, Serialize};

use crate::{Here, libvirt};

/// The directory of the entries.
const DIRECTORY: &str = "/var/lib/ivswitch/schedule";
/// The most entries.
const ENTRIES_MAX: usize = 10_000;
/// How often the list is read.
const INTERVAL: Duration = Duration::from_secs(1);
/// The pause before another attempt, when libvirt or the switch could not be reached.
const AGAIN: Duration = Duration::from_secs(5);
/// The exit code when libvirt or the switch could not be reached.
const UNREACHABLE: u8 = 5;

/// A scheduled action.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The time: seconds since 1970, in UTC.
    at: u64,
    /// A verb of `ivctl guest` and its arguments.
    what: Vec<String>,
    /// The URI of the libvirt daemon.
    connect: String,
    /// The switch's control socket.
    socket: PathBuf,
    /// The verb's timeout in seconds.
    timeout: f64,
}

fn directory() -> PathBuf {
    std::env::var_os("IVS_SCHEDULE").map_or_else(|| DIRECTORY.into(), PathBuf::from)
}

fn at(path: &Path, e: &std::io::Error) -> Failure {
    let code = if e.kind() == std::io::ErrorKind::PermissionDenied { 6 } else { 1 };
    let how = "run `ivctl` as root, or name another directory in IVS_SCHEDULE";
    Failure::new(code, "the schedule cannot be used", format!("{}: {e}", path.display()), how)
}

/// Runs a verb.
pub fn run(here: &Here<'_>, verb: ScheduleVerb) -> Result<u8, Failure> {
    let directory = directory();
    match verb {
        ScheduleVerb::List => list(here, &directory),
        ScheduleVerb::Add { at, what } => add(here, &directory, &at, what),
        ScheduleVerb::Del { number } => del(&directory, number),
        ScheduleVerb::Run { once } => serve(&directory, once),
        ScheduleVerb::CarryOut { number } => carry_out(here, &directory, number),
    }
}

fn file_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number}.json"))
}

/// Carries out the entries that are due, one after the other.
fn serve(directory: &Path, once: bool) -> Result<u8, Failure> {
    let mut waits: BTreeMap<u64, Instant> = BTreeMap::new();
    loop {
        for (number, entry) in entries(directory)? {
            let due = UNIX_EPOCH + Duration::from_secs(entry.at) <= SystemTime::now();
            let waits_still = waits.get(&number).is_some_and(|until| Instant::now() < *until);
            if !due || waits_still || is_carried_out(&file_of(directory, number)) {
                continue;
            }
            if spawn(directory, number, &entry)? == Some(UNREACHABLE) {
                waits.insert(number, Instant::now() + AGAIN);
            } else {
                waits.remove(&number);
            }
        }
        if once {
            return Ok(0);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Runs a separate process for an entry, and reports its result.
fn spawn(directory: &Path, number: u64, entry: &Entry) -> Result<Option<u8>, Failure> {
    let program = std::env::current_exe().map_err(|e| at(&file_of(directory, number), &e))?;
    let mut command = Command::new(program);
    let status = command.args(["guest", "schedule", "carry-out", &number.to_string()]).status();
    let code = status.as_ref().ok().and_then(|status| u8::try_from(status.code()?).ok());
    let outcome = match status {
        Ok(_) if code == Some(UNREACHABLE) => {
            format!("it waits, and is tried again every {} s", AGAIN.as_secs())
        }
        Ok(status) => status.to_string(),
        Err(e) => e.to_string(),
    };
    eprintln!("{}: guest {}: {outcome}", moment_text(SystemTime::now()), entry.what.join(" "));
    Ok(code)
}

/// Whether a process is carrying out the entry.
fn is_carried_out(path: &Path) -> bool {
    fs::File::open(path).is_ok_and(|file| matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)))
}

/// Carries out an entry in this process, under the entry's lock.
fn carry_out(here: &Here<'_>, directory: &Path, number: u64) -> Result<u8, Failure> {
    let path = file_of(directory, number);
    let mut file = match fs::File::open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        other => other.map_err(|e| at(&path, &e))?,
    };
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => return Ok(0),
        other => other.map_err(|e| at(&path, &e.into()))?,
    }
    // The process that held the lock a moment ago may have finished the entry. The number may even belong to another
    // entry by now.
    let same = |now: fs::Metadata| file.metadata().is_ok_and(|ours| ours.ino() == now.ino());
    if !fs::metadata(&path).is_ok_and(same) {
        return Ok(0);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|e| at(&path, &e))?;
    let entry: Entry = serde_json::from_slice(&bytes).map_err(|e| at(&path, &e.into()))?;
    let misread = |why| Failure::new(2, format!("entry {number} is not understood"), why, "add it again");
    let words = words(&entry).map_err(misread);
    // Before anything begins, check that libvirt can be reached.
    if let Ok(cli) = &words {
        libvirt::connect(&cli.at.connect)?;
    }
    let repeatable = entry.what.first().is_none_or(|verb| verb != "reboot");
    if !repeatable {
        remove(directory, &path)?;
    }
    let outcome = words.and_then(|cli| crate::carry_out(cli, here.printer));
    if repeatable && !matches!(&outcome, Err(failure) if failure.code == UNREACHABLE) {
        remove(directory, &path)?;
    }
    outcome
}

/// Removes an entry for good. The entry may be gone already: a user may delete it while it is being carried out.
fn remove(directory: &Path, path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(at(path, &e)),
        _ => {}
    }
    fs::File::open(directory).and_then(|d| d.sync_all()).map_err(|e| at(directory, &e))
}

/// Parses an entry. If its arguments name libvirt, the switch or a timeout, they come last and win.
fn words(entry: &Entry) -> Result<crate::Cli, String> {
    let timeout = entry.timeout.min(600.0).to_string();
    let mut line = vec!["ivctl-guest".into(), "--connect".into(), entry.connect.clone().into()];
    line.extend(["--socket".into(), entry.socket.clone().into_os_string()]);
    line.extend(["--timeout".into(), timeout.into(), "guest".into()]);
    line.extend(entry.what.iter().map(Into::into));
    <crate::Cli as clap::Parser>::try_parse_from(line).map_err(|e| {
        e.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

fn del(directory: &Path, number: u64) -> Result<u8, Failure> {
    let path = file_of(directory, number);
    if is_carried_out(&path) {
        let what = format!("entry {number} is not deleted");
        let how = "wait until it is finished: `ivctl guest schedule list`";
        return Err(Failure::new(4, what, "it is being carried out", how));
    }
    fs::remove_file(&path).map(|()| 0).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            let what = format!("there is no entry {number}");
            let how = "see `ivctl guest schedule list`";
            Failure::new(3, what, "it was carried out or deleted, or never existed", how)
        }
        _ => at(&path, &e),
    })
}

/// All entries by their numbers. A file that is not an entry is left alone, with a warning.
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
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let rows: Vec<_> = entries(directory)?
        .into_iter()
        .map(|(number, e)| {
            let state = match is_carried_out(&file_of(directory, number)) {
                true => "being done",
                false if e.at <= now => "due",
                false => "waiting",
            };
            serde_json::json!({ "number": number, "at": time(e.at), "state": state, "what": e.what })
        })
        .collect();
    here.printer.rows(&rows, |rows| {
        let mut table = Table::new(&[">NUMBER", "AT", "STATE", "WHAT"]);
        for r in rows {
            let what: Vec<_> =
                r["what"].as_array().into_iter().flatten().filter_map(|w| w.as_str()).collect();
            table.row([
                r["number"].to_string(),
                r["at"].as_str().unwrap_or_default().to_owned(),
                r["state"].as_str().unwrap_or_default().to_owned(),
                what.join(" "),
            ]);
        }
        table
    })?;
    Ok(0)
}

fn add(here: &Here<'_>, directory: &Path, when: &str, what: Vec<String>) -> Result<u8, Failure> {
    let refused = "nothing is scheduled";
    let wrong = |why: String| Failure::new(2, refused, why, "as in `ivctl guest schedule add +2h stop web1`");
    let when = moment(when, SystemTime::now()).map_err(wrong)?;
    let verbs = ["start", "stop", "destroy", "reboot", "resize"];
    if !what.first().is_some_and(|verb| verbs.contains(&verb.as_str())) {
        return Err(wrong(format!("the action must be one of {}", verbs.join(", "))));
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
    words(&entry).map_err(wrong)?;
    fs::create_dir_all(directory).map_err(|e| at(directory, &e))?;
    let number = there.iter().map(|(number, _)| number + 1).max().unwrap_or(1);
    let number = write(directory, number, &entry)?;
    here.printer.json_if_asked(&serde_json::json!({ "number": number }))?;
    if !here.printer.is_json() {
        here.printer.text(&format!("{number}\n"))?;
    }
    Ok(0)
}

/// Writes an entry under the first free number from this one on, completely or not at all.
fn write(directory: &Path, mut number: u64, entry: &Entry) -> Result<u64, Failure> {
    let bytes = serde_json::to_vec(entry).expect("plain data");
    let fresh = directory.join(format!(".{}.new", std::process::id()));
    let written =
        fs::File::create(&fresh).and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
    written.map_err(|e| at(&fresh, &e))?;
    let placed = loop {
        // A link fails if the name exists; a rename would replace the file.
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

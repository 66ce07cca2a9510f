//! `ivctl guest schedule`: what is to be done with a guest at a time (N-08).
//!
//! An entry is a file, written whole and linked into place, so the list survives restarts of everything. `run`
//! carries out what is due: a service keeps it running. What came due while nothing ran is done at the next start, since
//! that is nearer to what was wanted than never.
//!
//! Each entry is carried out by a process of its own, which holds a lock on the file and removes it as its last step. So it
//! is done once: a service killed in the middle leaves either that process, whose lock keeps the next service away, or the
//! entry, which the next one takes up again. Taking up again is harmless, because the verbs name a state: what is off
//! already is not stopped twice. `reboot` does not, so it goes before it is done and is never repeated. An entry that was
//! tried and failed is gone, with its outcome in the log; only while libvirt or the switch cannot be reached it waits.

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

/// Where the entries are.
const DIRECTORY: &str = "/var/lib/ivswitch/schedule";
/// Entries at most.
const ENTRIES_MAX: usize = 10_000;
/// How often the list is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// When what found nobody to talk to is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Exit code of what found nobody to talk to.
const UNREACHABLE: u8 = 5;

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
        ScheduleVerb::Del { number } => del(&directory, number),
        ScheduleVerb::Run { once } => serve(&directory, once),
        ScheduleVerb::CarryOut { number } => carry_out(here, &directory, number),
    }
}

fn file_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number}.json"))
}

/// Carries out what is due, one after the other.
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

/// Has an entry carried out by a process of its own, and says how it went.
fn spawn(directory: &Path, number: u64, entry: &Entry) -> Result<Option<u8>, Failure> {
    let program = std::env::current_exe().map_err(|e| at(&file_of(directory, number), &e))?;
    let mut command = Command::new(program);
    let status = command.args(["guest", "schedule", "carry-out", &number.to_string()]).status();
    let code = status.as_ref().ok().and_then(|status| u8::try_from(status.code()?).ok());
    let outcome = match status {
        Ok(_) if code == Some(UNREACHABLE) => {
            format!("it waits, and is tried again each {} s", AGAIN.as_secs())
        }
        Ok(status) => status.to_string(),
        Err(e) => e.to_string(),
    };
    eprintln!("{}: guest {}: {outcome}", moment_text(SystemTime::now()), entry.what.join(" "));
    Ok(code)
}

/// Whether somebody is at it.
fn is_carried_out(path: &Path) -> bool {
    fs::File::open(path).is_ok_and(|file| matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)))
}

/// Does it, here and now, under the entry's lock.
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
    // Whoever held the lock a moment ago may have done it; the number may even be another entry's by now.
    let same = |now: fs::Metadata| file.metadata().is_ok_and(|ours| ours.ino() == now.ino());
    if !fs::metadata(&path).is_ok_and(same) {
        return Ok(0);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|e| at(&path, &e))?;
    let entry: Entry = serde_json::from_slice(&bytes).map_err(|e| at(&path, &e.into()))?;
    let misread = |why| Failure::new(2, format!("entry {number} is not understood"), why, "add it anew");
    let words = words(&entry).map_err(misread);
    // Before anything is begun: is libvirt there?
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

/// Removes an entry for good. It may be gone: whoever deletes one that is being carried out wants it gone.
fn remove(directory: &Path, path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(at(path, &e)),
        _ => {}
    }
    fs::File::open(directory).and_then(|d| d.sync_all()).map_err(|e| at(directory, &e))
}

/// What an entry says, understood. What its words say of libvirt, the switch and the time to take comes last and wins.
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
        let how = "wait until it is; ivctl guest schedule list";
        return Err(Failure::new(4, what, "it is being carried out", how));
    }
    fs::remove_file(&path).map(|()| 0).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            let what = format!("there is no entry {number}");
            let how = "see ivctl guest schedule list";
            Failure::new(3, what, "it was done or deleted, or never was", how)
        }
        _ => at(&path, &e),
    })
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
    let wrong = |why: String| Failure::new(2, refused, why, "as in: ivctl guest schedule add +2h stop web1");
    let when = moment(when, SystemTime::now()).map_err(wrong)?;
    let verbs = ["start", "stop", "destroy", "reboot", "resize"];
    if !what.first().is_some_and(|verb| verbs.contains(&verb.as_str())) {
        return Err(wrong(format!("what is to be done is one of {}", verbs.join(", "))));
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

//! `ivctl sysdump`: everything a bug report needs, in one text, without secrets.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::Global;
use crate::client::Client;
use crate::doctor;
use crate::output::{Failure, Paint, Printer};

/// The arguments of `ivctl sysdump`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Write the report to this file; - for standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    write: PathBuf,
}

/// The longest section, in bytes; a report must fit into a mail.
const SECTION_LEN_MAX: usize = 256 << 10;

/// How long a command may take.
const COMMAND_MAX: Duration = Duration::from_secs(5);

/// Collects the report.
pub fn run(args: &Args, global: &Global, printer: &Printer) -> Result<u8, Failure> {
    let text = clean(&gather(global));
    if args.write.as_os_str() == "-" {
        printer.bytes(text.as_bytes())?;
        return Ok(0);
    }
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&args.write);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes())).map_err(|e| {
        Failure::new(
            1,
            args.write.display().to_string(),
            e.to_string(),
            "name a new file in a directory that can be written",
        )
    })?;
    printer.note(&format!("{} written; read it before you send it", args.write.display()));
    Ok(0)
}

fn gather(global: &Global) -> String {
    let mut text = format!("sysdump by ivctl {}\n", env!("CARGO_PKG_VERSION"));
    let findings = doctor::examine(&doctor::Machine::here(), global);
    section(&mut text, "doctor", &doctor::render(&findings, Paint(false)));
    for (title, method, params) in [
        ("status", "status", json!({})),
        ("configuration", "config.show", json!({})),
        ("drops", "drops", json!({})),
        ("fdb (first 200)", "fdb.list", json!({ "limit": 200 })),
        ("neighbours", "neigh.list", json!({})),
        ("routes", "route.list", json!({})),
        ("log filter", "log.level", json!({})),
    ] {
        let answer = Client::connect(&global.socket, global.timeout, false)
            .and_then(|mut client| client.call::<Value>(method, params));
        let body = match answer {
            // The contents of frames belong to the switch's users.
            Ok(mut answer) => {
                without_payload(&mut answer);
                match answer["text"].as_str() {
                    Some(text) => text.to_owned(),
                    None => serde_json::to_string_pretty(&answer).unwrap_or_default(),
                }
            }
            Err(failure) => failure.words().0,
        };
        section(&mut text, title, &body);
    }
    for path in ["/proc/version", "/proc/meminfo", "/proc/loadavg", "/proc/cmdline", "/etc/os-release"] {
        section(&mut text, path, &fs::read_to_string(path).unwrap_or_else(|e| e.to_string()));
    }
    for command in [
        "ip -d -s link",
        "ip addr",
        "ip route show table all",
        "ip rule",
        "ip neigh",
        "bridge link",
        "ethtool -i eth0",
        "systemctl status --no-pager ivswitchd",
        "journalctl --no-pager -n 500 -u ivswitchd",
    ] {
        section(&mut text, command, &output(command));
    }
    text
}

/// Removes everything but the headers from sample frames.
fn without_payload(value: &mut Value) {
    /// The hexadecimal digits of Ethernet, IPv6 and TCP headers.
    const HEADERS: usize = 2 * 74;
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(bytes) if key == "bytes" && bytes.len() > HEADERS => {
                        bytes.truncate(HEADERS);
                        bytes.push_str("...");
                    }
                    value => without_payload(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(without_payload),
        _ => {}
    }
}

fn section(text: &mut String, title: &str, body: &str) {
    let mut end = body.len().min(SECTION_LEN_MAX);
    while !body.is_char_boundary(end) {
        end -= 1;
    }
    let cut = if end < body.len() { "\n... cut" } else { "" };
    let _ = write!(text, "\n=== {title}\n{}{cut}\n", body[..end].trim_end());
}

fn output(line: &str) -> String {
    let mut words = line.split(' ');
    let Some(program) = words.next() else { return String::new() };
    let limit = COMMAND_MAX.as_secs().to_string();
    let mut command = Command::new("timeout");
    command.arg(limit).arg(program).args(words).stdin(Stdio::null());
    match command.output() {
        Ok(output) => {
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
        }
        Err(e) => e.to_string(),
    }
}

/// A value whose name contains one of these words is removed.
const SECRET: [&str; 9] =
    ["password", "passwd", "secret", "token", "private", "credential", "psk", "apikey", "authorization"];

/// Removes everything that looks like a secret: values whose name says so, credentials in URLs, and key blocks. It
/// removes too much rather than too little: the value goes from each line `name = value`, `name: value` or `"name":
/// value`.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.lines() {
        let is_begin = line.contains("-----BEGIN") && !line.contains("CERTIFICATE");
        if is_begin || in_key {
            in_key = !line.contains("-----END") && (is_begin || in_key);
            if is_begin {
                out.push_str("[removed: a key]\n");
            }
            continue;
        }
        out.push_str(&clean_line(line));
        out.push('\n');
    }
    out
}

fn clean_line(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let names_secret = SECRET.iter().any(|word| lower.contains(word)) || names_key(&lower);
    // The paper's network is called private; that is not a secret.
    let harmless = !names_key(&lower)
        && SECRET.iter().filter(|word| lower.contains(*word)).all(|word| *word == "private")
        && !lower.contains("private_")
        && !lower.contains("private-")
        && !lower.contains("privatekey");
    if names_secret && !harmless {
        let at = line.find(['=', ':']).map_or(0, |at| at + 1);
        return format!("{} [removed]", &line[..at]);
    }
    let mut text = line.to_owned();
    // scheme://user:password@host
    let mut from = 0;
    while let Some(start) = text[from..].find("://").map(|at| from + at + 3) {
        let end = text[start..].find(['/', ' ', '"', '\'']).map_or(text.len(), |at| start + at);
        if let Some(at) = text[start..end].rfind('@') {
            text.replace_range(start..start + at, "[removed]");
        }
        from = start;
    }
    text
}

/// Whether the line sets a value whose name is or ends in key: `key = ...`, `tls_key: ...`, but not `monkey` or a
/// table `[key]`.
fn names_key(lower: &str) -> bool {
    let name = lower.split(['=', ':']).next().unwrap_or_default();
    let name = name.trim().trim_matches(['"', '\'', '{', ' ', '-']);
    (lower.contains('=') || lower.contains(':'))
        && (name == "key" || name.ends_with("_key") || name.ends_with("-key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No secret is in the report, under any name and in any place; harmless text stays.
    #[test]
    fn secrets_are_removed_and_the_rest_is_not() {
        const SECRET: &str = "hunter2hunter2";
        for line in [
            format!("password = \"{SECRET}\""),
            format!("etcd_password: {SECRET}"),
            format!("  \"token\": \"{SECRET}\","),
            format!("api_key = '{SECRET}'"),
            format!("private_key = \"{SECRET}\""),
            format!("Nov 21 12:00:00 rvm1 ivswitchd: Authorization: Bearer {SECRET}"),
            format!("endpoints = [\"https://root:{SECRET}@10.0.0.1:2379\", \"https://u:{SECRET}@h\"]"),
            format!("psk={SECRET}"),
            format!("key = \"{SECRET}\""),
            format!("a\n-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\nb"),
            format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}"),
        ] {
            let cleaned = clean(&line);
            assert!(!cleaned.contains(SECRET), "{line} became {cleaned}");
        }
        for line in [
            "name = \"rvm1\"",
            "[[network]]",
            "name = \"private\"",
            "network = \"private\"",
            "eth1  door  private  live",
            "    inet 10.0.0.11/16 scope global eth0",
            "endpoints = [\"https://10.0.0.1:2379\"]",
            "monkey = 5",
        ] {
            assert_eq!(clean(line), format!("{line}\n"));
        }
        let kept = clean("a\n-----BEGIN RSA PRIVATE KEY-----\nx\n-----END RSA PRIVATE KEY-----\nb");
        assert_eq!(kept, "a\n[removed: a key]\nb\n");
    }

    #[test]
    fn payload_of_samples_is_removed() {
        let mut value = json!({ "rows": [{ "sample": { "len": 128, "bytes": "ab".repeat(128) } }] });
        without_payload(&mut value);
        assert_eq!(value["rows"][0]["sample"]["bytes"].as_str().unwrap().len(), 148 + 3);
    }
}

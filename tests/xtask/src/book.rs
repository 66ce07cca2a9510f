//! The book. Its transcripts come from a run of the demo and its reference from `ivctl`'s help, so each run of
//! `cargo xtask book` brings both up to date. Where mdbook is installed, it makes pages of the book.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{FOR_THE_DEMO, as_root, find, install, run, workspace};

/// Transcripts of the running demo: the file, the switch to ask (or the demo itself), and the command.
const TRANSCRIPTS: [(&str, &str, &str); 3] = [
    ("trace.txt", "demo", "trace rvm1 --from uplink --src 203.0.113.9 --to 10.0.0.11 icmp"),
    ("top.txt", "rvm1", "top --once"),
    ("drops.txt", "rvm1", "drops --samples"),
];

/// Above the options that `ctl::cli::Global` has.
const GLOBAL_OPTIONS: &str = "Global options:";

pub fn build() -> Result<()> {
    install(&[FOR_THE_DEMO])?;
    let binaries = crate::build(false)?;
    let ivctl = binaries.join("ivctl");
    let source = workspace().join("packaging/book/src");
    let reference =
        [("configuration", &["config", "reference"][..]), ("drop-reasons", &["drops", "--reasons"])];
    for (name, arguments) in reference {
        fs::write(source.join(format!("reference/{name}.md")), said(Command::new(&ivctl).args(arguments))?)?;
    }
    let mut text = String::from("# Every command\n");
    commands(&ivctl, &mut vec![], &mut text)?;
    fs::write(source.join("reference/commands.md"), text)?;
    fs::write(source.join("reference/metrics.md"), metrics(&binaries.join("ivswitchd"))?)?;
    let shown = transcripts(&ivctl, &source.join("transcripts"));
    run(as_root(&ivctl)?.args(["demo", "down"]))?;
    shown?;
    if find("mdbook").is_none() {
        println!("the sources are current; `cargo install mdbook --locked` for pages");
        return Ok(());
    }
    let pages = workspace().join("target/book");
    run(Command::new("mdbook").args(["build", "packaging/book", "--dest-dir"]).arg(&pages))?;
    let mut dead = Vec::new();
    links(&pages, &mut dead)?;
    ensure!(dead.is_empty(), "links to nothing: {}", dead.join(", "));
    println!("{}: every link within it leads somewhere", pages.join("index.html").display());
    Ok(())
}

/// Adds a command's help, and that of each command below it.
fn commands(ivctl: &Path, path: &mut Vec<String>, text: &mut String) -> Result<()> {
    let help = said(Command::new(ivctl).args(&*path).arg("--help").env("NO_COLOR", "1"))?;
    // Options that every command has are shown once, at the top.
    let own = if path.is_empty() { help.trim_end().to_owned() } else { own_help(&help) };
    let title = ["ivctl"].into_iter().chain(path.iter().map(String::as_str)).collect::<Vec<_>>().join(" ");
    *text += &format!("\n## {title}\n\n```text\n{own}\n```\n");
    let below = help.split("\nCommands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap_or("");
    let names = below.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    for name in names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        path.push(name.to_owned());
        commands(ivctl, path, text)?;
        path.pop();
    }
    Ok(())
}

/// A command's help without the options that every command has: a section ends where a line begins at the margin, an
/// option where the next one begins or a line is empty.
fn own_help(help: &str) -> String {
    let mut own = String::new();
    let (mut global, mut asking) = (false, false);
    for line in help.lines() {
        if !line.is_empty() && !line.starts_with(' ') {
            global = line == GLOBAL_OPTIONS;
        }
        asking = line.starts_with("  -h, --help") || asking && line.starts_with("        ");
        if !global && !asking {
            own += line.trim_end();
            own.push('\n');
        }
    }
    while own.contains("\n\n\n") {
        own = own.replace("\n\n\n", "\n\n");
    }
    own.replace("\nOptions:\n\n", "\n").trim_end().trim_end_matches("\nOptions:").trim_end().to_owned()
}

/// The metric families that an idle daemon serves.
fn metrics(ivswitchd: &Path) -> Result<String> {
    let place = std::env::temp_dir().join(format!("ivswitch-book-{}", std::process::id()));
    fs::create_dir_all(&place)?;
    let mut daemon = as_root(Path::new("unshare"))?;
    fs::write(place.join("empty.toml"), "")?;
    daemon.arg("--net").arg(ivswitchd).arg("--config").arg(place.join("empty.toml"));
    daemon.arg("--socket").arg(place.join("control")).arg("--metrics");
    daemon.arg(format!("unix:{}", place.join("metrics").display()));
    let mut daemon = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let until = Instant::now() + Duration::from_secs(10);
    let answer = loop {
        if let Ok(mut stream) = UnixStream::connect(place.join("metrics")) {
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            break Ok(answer);
        }
        if Instant::now() > until {
            break Err(anyhow::anyhow!("the daemon serves no metrics"));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    run(as_root(Path::new("kill"))?.arg(daemon.id().to_string()))?;
    daemon.wait()?;
    fs::remove_dir_all(&place)?;
    let answer = answer?;
    let told = |what: &str| -> Vec<(String, String)> {
        let lines = answer.lines().filter_map(|line| line.strip_prefix(what)?.split_once(' '));
        lines.map(|(name, rest)| (name.to_owned(), rest.trim_end_matches('.').to_owned())).collect()
    };
    let types: std::collections::BTreeMap<_, _> = told("# TYPE ").into_iter().collect();
    let mut text = "# Every metric\n\n| Metric | Type | Meaning |\n|---|---|---|\n".to_owned();
    for (name, help) in told("# HELP ") {
        let kind = types.get(&name).map_or("", String::as_str);
        text += &format!("| `{name}` | {kind} | {help} |\n");
    }
    ensure!(text.contains("ivs_drops_total"), "no families in {answer}");
    Ok(text)
}

/// Links of rendered pages to files, or to anchors in them, that do not exist.
fn links(directory: &Path, dead: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            links(&path, dead)?;
        } else if path.extension().is_some_and(|extension| extension == "html") {
            let page = fs::read_to_string(&path)?;
            let ends = ["href=\"", "src=\""].iter().flat_map(|start| page.split(start).skip(1));
            for link in ends.filter_map(|rest| rest.split('"').next()) {
                if link.contains(':') || path.ends_with("404.html") {
                    continue;
                }
                let (file, place) = link.split_once('#').unwrap_or((link, ""));
                let file = file.split('?').next().unwrap_or("");
                let there = if file.is_empty() { path.clone() } else { directory.join(file) };
                let named =
                    || fs::read_to_string(&there).is_ok_and(|to| to.contains(&format!("id=\"{place}\"")));
                if !there.exists() || !place.is_empty() && !named() {
                    dead.push(format!("{}: {link}", path.display()));
                }
            }
        }
    }
    Ok(())
}

fn transcripts(ivctl: &Path, place: &Path) -> Result<()> {
    let up = said(as_root(ivctl)?.args(["demo", "up"]))?;
    // Its output names the sockets.
    let sockets = up.split_whitespace().find_map(|word| word.strip_suffix("/rvm1.sock"));
    let sockets = sockets.context("the demo names no socket")?.to_owned();
    let clean = |text: String| text.replace(&format!("{}", ivctl.display()), "ivctl");
    fs::write(place.join("demo.txt"), clean(up))?;
    // Something to see: packets that the guard refuses, and others in flight.
    let shell = |arguments: &str| -> Result<Command> {
        let mut shell = as_root(ivctl)?;
        shell.args(["demo", "shell"]).args(arguments.split(' '));
        Ok(shell)
    };
    let _ = shell("ivm2 ping -c2 -W1 169.254.169.254")?.output()?;
    let mut pings = shell("inet ping -c 30 -i 0.05 56.0.0.11")?;
    let mut pings = pings.stdout(std::process::Stdio::null()).spawn()?;
    for (file, whom, what) in TRANSCRIPTS {
        let mut asked = as_root(ivctl)?;
        match whom {
            "demo" => asked.arg("demo"),
            rvm => asked.arg("--socket").arg(format!("{sockets}/{rvm}.sock")),
        };
        fs::write(place.join(file), clean(said(asked.args(what.split(' ')))?))?;
    }
    pings.wait()?;
    Ok(())
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::own_help;

    /// The book's page of commands has every option of a command and its examples, and no option that all commands
    /// have.
    #[test]
    fn a_command_shows_what_is_its_own() {
        let help = "Does it\n\nUsage: x [OPTIONS]\n\nOptions:\n      --from <PORT>\n          Where\n\n  -h, --help\n          \
            Print help\n\nGlobal options:\n  -j, --json\n          Print JSON\n\n      --socket <PATH>\n          \n          \
            [default: y]\n\nExamples:\n  x --from a\n";
        let own = "Does it\n\nUsage: x [OPTIONS]\n\nOptions:\n      --from <PORT>\n          Where";
        assert!(own_help(help).starts_with(own), "{}", own_help(help));
        assert!(own_help(help).ends_with("\n\nExamples:\n  x --from a"), "{}", own_help(help));
        assert!(!own_help(help).contains("json") && !own_help(help).contains("default"));
        let bare =
            "Shows\n\nUsage: x\n\nOptions:\n  -h, --help\n          Print help\n\nGlobal options:\n  -q\n";
        assert_eq!(own_help(bare), "Shows\n\nUsage: x");
    }
}

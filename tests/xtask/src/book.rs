//! The book: its transcripts are made by running the demo, its reference by asking `ivctl`, so neither can be out of
//! date for longer than until this runs again. mdbook makes pages of it where it is installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{FOR_THE_DEMO, as_root, find, install, run, workspace};

/// Transcripts of the standing demo: the file, which switch is asked (or the demo itself), and what.
const TRANSCRIPTS: [(&str, &str, &str); 3] = [
    ("trace.txt", "demo", "trace rvm1 --from uplink --src 203.0.113.9 --to 10.0.0.11 icmp"),
    ("top.txt", "rvm1", "top --once"),
    ("drops.txt", "rvm1", "drops --samples"),
];

pub fn build() -> Result<()> {
    install(&[FOR_THE_DEMO])?;
    let ivctl = crate::build(true)?.join("ivctl");
    let source = workspace().join("packaging/book/src");
    let reference =
        [("configuration", &["config", "reference"][..]), ("drop-reasons", &["drops", "--reasons"])];
    for (name, arguments) in reference {
        fs::write(source.join(format!("reference/{name}.md")), said(Command::new(&ivctl).args(arguments))?)?;
    }
    let shown = transcripts(&ivctl, &source.join("transcripts"));
    run(as_root(&ivctl)?.args(["demo", "down"]))?;
    shown?;
    if find("mdbook").is_none() {
        println!("the sources are current; `cargo install mdbook --locked` for pages");
        return Ok(());
    }
    run(Command::new("mdbook")
        .args(["build", "packaging/book", "--dest-dir"])
        .arg(workspace().join("target/book")))
}

fn transcripts(ivctl: &Path, place: &Path) -> Result<()> {
    let up = said(as_root(ivctl)?.args(["demo", "up"]))?;
    // Its sockets are where it says.
    let sockets = up.split_whitespace().find_map(|word| word.strip_suffix("/rvm1.sock"));
    let sockets = sockets.context("the demo names no socket")?.to_owned();
    let clean = |text: String| text.replace(&format!("{}", ivctl.display()), "ivctl");
    fs::write(place.join("demo.txt"), clean(up))?;
    // Something to see: a packet that the guard refuses, and others under way.
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

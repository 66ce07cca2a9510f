//! Mutations of the crates that decide: cargo-mutants changes one operator, constant or result at a time, and the crate's
//! unprivileged tests must notice. `tests/MUTANTS.md` has the last run.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::suite::PROPTEST_SEED;
use crate::{cargo, find, run, target_dir, workspace};

/// The crates whose tests need no root, those most exposed to strangers first.
const CRATES: [&str; 3] = ["engine", "vhostuser", "ctl"];
/// The part of the report that a run replaces, from the first heading to the second.
const PARTS: [&str; 2] = ["## Last run", "## Equivalent mutants"];

/// A part of a run, for the report.
struct Outcome {
    package: &'static str,
    tested: u64,
    caught: u64,
    timeout: u64,
    unviable: u64,
    missed: Vec<String>,
}

/// Tests the mutants of a shard, such as 3/60, or all, in files whose path has one of these words, or all.
pub fn test(shard: Option<&str>, packages: &[String], files: &[String]) -> Result<()> {
    if let Some(unknown) = packages.iter().find(|p| !CRATES.contains(&p.as_str())) {
        bail!("no mutants of {unknown}: there are those of {}", CRATES.join(", "));
    }
    if find("cargo-mutants").is_none()
        && cargo().args(["mutants", "--version"]).output()?.status.code() != Some(0)
    {
        run(cargo().args(["install", "cargo-mutants", "--locked"]))?;
    }
    let mut outcomes = Vec::new();
    for package in CRATES.into_iter().filter(|c| packages.is_empty() || packages.iter().any(|p| p == c)) {
        println!("== mutants of {package}");
        let out = target_dir()?.join("mutants").join(package);
        fs::create_dir_all(&out)?;
        let mut mutants = cargo();
        mutants.args(["mutants", "--package", package, "--no-shuffle", "--sharding", "round-robin"]);
        // A test that hangs is ended; a slow machine is none.
        mutants.args([
            "--minimum-test-timeout",
            "120",
            "--timeout-multiplier",
            "4",
            "--build-timeout",
            "900",
        ]);
        mutants.arg("--output").arg(&out);
        mutants.args(files.iter().flat_map(|file| ["--file", file]));
        mutants.args(shard.iter().flat_map(|shard| ["--shard", shard]));
        // A copy of the tree is built for each mutant: small, and with the same generated cases each time.
        mutants.envs([("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_PROFILE_TEST_DEBUG", "0")]);
        mutants.envs([("CARGO_INCREMENTAL", "1"), (PROPTEST_SEED, "1")]);
        let status = mutants.status().context("running cargo mutants")?;
        // 2: some were missed; 3: some ran into the time limit.
        if !matches!(status.code(), Some(0 | 2 | 3)) {
            bail!("cargo mutants --package {package}: {status}");
        }
        let text = fs::read_to_string(out.join("mutants.out/outcomes.json"))?;
        outcomes.push(read(package, &serde_json::from_str(&text)?));
    }
    let path = workspace().join("tests/MUTANTS.md");
    let report = fs::read_to_string(&path).context("tests/MUTANTS.md")?;
    let version =
        Command::new("git").args(["-C", &workspace().to_string_lossy(), "describe", "--always"]).output()?;
    let date = Command::new("date").args(["-u", "+%F"]).output()?;
    let [version, date] = [version, date].map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    let whole = if files.is_empty() { "all files".to_owned() } else { files.join(", ") };
    let what = format!("{date}, version {version}, shard {}, {whole}.", shard.unwrap_or("1/1"));
    fs::write(&path, renew(&report, &what, &outcomes)?)?;
    println!("== the report is in {}", path.display());
    Ok(())
}

/// Reads what cargo-mutants wrote.
fn read(package: &'static str, outcomes: &Value) -> Outcome {
    let count = |key: &str| outcomes[key].as_u64().unwrap_or(0);
    let all = outcomes["outcomes"].as_array().into_iter().flatten();
    let missed = all.filter(|o| o["summary"] == "MissedMutant");
    Outcome {
        package,
        tested: count("total_mutants"),
        caught: count("caught"),
        timeout: count("timeout"),
        unviable: count("unviable"),
        missed: missed.filter_map(|o| o["scenario"]["Mutant"]["name"].as_str()).map(str::to_owned).collect(),
    }
}

/// A mutant's name without its line and column, which move.
fn lasting(name: &str) -> String {
    let mut parts = name.splitn(4, ':');
    let (file, what) = (parts.next().unwrap_or_default(), parts.nth(2).unwrap_or_default());
    format!("{file}:{what}")
}

/// Puts a run into the report. Equivalent mutants are named there by hand, and are no survivors.
fn renew(report: &str, what: &str, outcomes: &[Outcome]) -> Result<String> {
    let [from, to] = PARTS.map(|part| report.find(part));
    let (Some(from), Some(to)) = (from, to) else {
        bail!("tests/MUTANTS.md has no {:?} and {:?}: restore them", PARTS[0], PARTS[1]);
    };
    let known = &report[to..];
    let mut text = format!("{}\n\n{what}\n\n", PARTS[0]);
    text += "| Crate | Tested | Caught | Survived | Equivalent | Timed out | Do not build |\n|---|---|---|---|---|---|---|\n";
    let mut survivors = String::new();
    for o in outcomes {
        let is_known = |name: &&String| known.contains(&format!("`{}`", lasting(name)));
        let (equivalent, survived): (Vec<_>, Vec<_>) = o.missed.iter().partition(is_known);
        let (n, m) = (survived.len(), equivalent.len());
        writeln!(
            text,
            "| {} | {} | {} | {n} | {m} | {} | {} |",
            o.package, o.tested, o.caught, o.timeout, o.unviable
        )?;
        survived.iter().try_for_each(|name| writeln!(survivors, "- `{name}`"))?;
    }
    let survivors = if survivors.is_empty() { "None.\n" } else { &survivors };
    Ok(format!("{}{text}\nSurvivors:\n\n{survivors}\n{known}", &report[..from]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run replaces the one before; a mutant that is listed as equivalent is counted as such, wherever its line went.
    #[test]
    fn a_run_is_reported() {
        let report = "# M\n\n## Last run\n\nold\n\n## Equivalent mutants\n\n- `a.rs: replace | with ^ in f`: no bit is in both.\n";
        let mutant = |name: &str, summary: &str| serde_json::json!({ "scenario": { "Mutant": { "name": name } }, "summary": summary });
        let outcomes = serde_json::json!({ "total_mutants": 3, "caught": 1, "timeout": 0, "unviable": 0, "outcomes": [
            { "scenario": "Baseline", "summary": "Success" },
            mutant("a.rs:7:9: replace | with ^ in f", "MissedMutant"),
            mutant("b.rs:1:2: delete ! in g", "MissedMutant"),
            mutant("c.rs:1:2: delete ! in h", "CaughtMutant"),
        ] });
        let text = renew(report, "today", &[read("engine", &outcomes)]).unwrap();
        assert!(text.contains("| engine | 3 | 1 | 1 | 1 | 0 | 0 |"), "{text}");
        assert!(text.contains("Survivors:\n\n- `b.rs:1:2: delete ! in g`\n\n## Equivalent"), "{text}");
        assert!(!text.contains("old") && text.ends_with("no bit is in both.\n"), "{text}");
        assert_eq!(renew(&text, "today", &[read("engine", &outcomes)]).unwrap(), text);
    }
}

//! The test command: every test of the tree, in three parts.
//!
//! All packages are built by one command, because cargo chooses the features of shared dependencies by the packages
//! that a command names, and would build a hundred of them again for each other choice. The test programs then run one
//! after another.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    FOR_NESTED, FOR_THE_BACKENDS, FOR_THE_DEMO, FOR_THE_GUESTS, FOR_THE_TESTS, cargo, check_bpf, find,
    install, is_root, target_dir, tidy, workspace,
};

/// The variable that sets the seed of proptest's random cases.
pub const PROPTEST_SEED: &str = "PROPTEST_RNG_SEED";

/// Packages whose tests make network namespaces, in the order in which they run, and how many of their tests run at a
/// time. System tests mostly wait; those of `ivswitchd` count what happens on the machine.
const PRIVILEGED: [(&str, &str); 2] = [("ivswitchd", "--test-threads=1"), ("system", "--test-threads=2")];

/// A program that contains tests.
struct TestProgram {
    path: PathBuf,
    /// The source that the program was built from.
    source: String,
    /// The directory of its package, in which cargo would run it.
    directory: PathBuf,
}

/// Runs every test: the unprivileged ones, then those that need root, then those of the second AF_XDP backend.
///
/// # Errors
/// A test failed, or the tests could not be built or run.
pub fn test() -> Result<()> {
    tidy::check()?;
    install(&[FOR_THE_DEMO, FOR_THE_TESTS, FOR_THE_GUESTS, FOR_NESTED, FOR_THE_BACKENDS])?;
    println!("== the committed XDP program is what its source makes");
    check_bpf()?;
    let mut totals = Totals { green: true, ..Totals::default() };
    println!("== building");
    let mut programs = build(&[])?;
    let privileged: Vec<_> =
        PRIVILEGED.map(|(package, at_once)| (programs.remove(package).unwrap_or_default(), at_once)).into();
    println!("== unprivileged part");
    // The same cases each time, so that a change is judged by its own effect. Plain `cargo test` draws new ones.
    let seed = std::env::var(PROPTEST_SEED).unwrap_or_else(|_| "1".to_owned());
    for program in programs.values().flatten() {
        totals.run(Command::new(&program.path).env(PROPTEST_SEED, &seed), program)?;
    }
    totals.add(cargo().args(["test", "--workspace", "--doc", "--no-fail-fast"]))?;
    println!("== system part, as root");
    for (programs, at_once) in &privileged {
        ensure!(!programs.is_empty(), "a package of the system part has no tests");
        for program in programs {
            totals.run_as_root(program, at_once)?;
        }
    }
    println!("== the second AF_XDP backend, under the same tests");
    let second = build(&["--test", "ports", "--features", "ivswitchd/xsk-afxdp"])?;
    for program in second.values().flatten() {
        totals.run_as_root(program, "--test-threads=1")?;
    }
    println!("\ntotal: {} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped);
    if totals.failed > 0 || !totals.green {
        bail!("not everything passed");
    }
    Ok(())
}

/// Repeats system tests for this number of minutes each.
///
/// # Errors
/// The tests could not be built or run.
pub fn repeat(tests: &[&str], minutes: u32) -> Result<Totals> {
    let mut totals = Totals { green: true, ..Totals::default() };
    for program in build(&[])?.remove("system").iter().flatten().filter(|p| p.source.ends_with("main.rs")) {
        let mut command = as_root_with_the_environment(&program.path)?;
        command.args(["--include-ignored", "--nocapture", "--test-threads=1", "--exact"]).args(tests);
        command.env("IVS_SOAK_SECONDS", (minutes * 60).to_string());
        totals.run(&mut command, program)?;
    }
    Ok(totals)
}

/// Builds test programs, and the programs that they run; gives the test programs by package.
fn build(arguments: &[&str]) -> Result<BTreeMap<String, Vec<TestProgram>>> {
    let mut build = cargo();
    build
        .args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"])
        .args(arguments);
    let mut child = build.stdout(Stdio::piped()).spawn().context("running cargo test --no-run")?;
    let mut programs = BTreeMap::<String, Vec<TestProgram>>::new();
    for line in BufReader::new(child.stdout.take().context("no pipe")?).lines() {
        let message: Value = serde_json::from_str(&line?).context("a message of cargo")?;
        if message["profile"]["test"] != true {
            continue;
        }
        let Some(path) = message["executable"].as_str() else { continue };
        let manifest = PathBuf::from(message["manifest_path"].as_str().context("no manifest_path")?);
        let directory = manifest.parent().context("a manifest without a directory")?.to_owned();
        let source = message["target"]["src_path"].as_str().context("no src_path")?;
        let source = source.strip_prefix(&format!("{}/", workspace().display())).unwrap_or(source).to_owned();
        let package = package_of(message["package_id"].as_str().context("no package_id")?);
        programs.entry(package).or_default().push(TestProgram { path: path.into(), source, directory });
    }
    if !child.wait()?.success() {
        bail!("cargo test --no-run failed");
    }
    programs.values_mut().for_each(|of_one| of_one.sort_by(|a, b| a.source.cmp(&b.source)));
    Ok(programs)
}

/// The name of a package by its ID, as `cargo help pkgid` describes it: `path+file:///tree/ctl#0.1.0` where the
/// directory has the package's name, or `path+file:///tree/bench/nested#ivbench@0.1.0`.
fn package_of(id: &str) -> String {
    let (place, rest) = id.split_once('#').unwrap_or((id, ""));
    let name = match rest.split_once('@') {
        Some((name, _)) => name,
        None => place.rsplit('/').next().unwrap_or(place),
    };
    name.to_owned()
}

/// The sum of the results that test programs print.
#[derive(Default)]
pub struct Totals {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    pub green: bool,
}

impl Totals {
    /// Runs a test program as root, with the tests that need root.
    fn run_as_root(&mut self, program: &TestProgram, at_once: &str) -> Result<()> {
        let mut command = as_root_with_the_environment(&program.path)?;
        self.run(command.args(["--include-ignored", at_once]), program)
    }

    /// Runs a test program where cargo would run it.
    fn run(&mut self, command: &mut Command, program: &TestProgram) -> Result<()> {
        println!("     Running {}", program.source);
        self.add(command.current_dir(&program.directory))
    }

    /// Runs tests and passes their output on.
    fn add(&mut self, command: &mut Command) -> Result<()> {
        let mut child =
            command.stdout(Stdio::piped()).spawn().with_context(|| format!("running {command:?}"))?;
        let mut results = 0;
        for line in BufReader::new(child.stdout.take().context("no pipe")?).lines() {
            let line = line?;
            println!("{line}");
            if let Some(counts) = line.strip_prefix("test result: ") {
                let number = |word: &str| -> u64 {
                    let part = counts.split([';', '.']).find(|part| part.trim_end().ends_with(word));
                    part.and_then(|part| part.split_whitespace().next()?.parse().ok()).unwrap_or(0)
                };
                self.passed += number(" passed");
                self.failed += number(" failed");
                self.skipped += number(" ignored");
                results += 1;
            }
        }
        self.green &= child.wait()?.success();
        if results == 0 {
            println!("no result came from {command:?}");
            self.green = false;
        }
        Ok(())
    }
}

/// A test program that runs as root, and finds the programs that it needs.
fn as_root_with_the_environment(program: &Path) -> Result<Command> {
    let mut command = match is_root() {
        true => Command::new(program),
        false => {
            let sudo =
                find("sudo").context("the system part needs root, and there is no sudo: run this as root")?;
            let mut command = Command::new(sudo);
            command.arg("-E").arg(program);
            command
        }
    };
    command.env("IVS_BIN_DIR", target_dir()?.join("debug")).env("IVS_MUST_RUN", "1");
    Ok(command)
}

#[cfg(test)]
mod tests {
    /// Both forms of a package's ID give its name.
    #[test]
    fn packages_by_their_ids() {
        assert_eq!(super::package_of("path+file:///a/tree/ctl#0.1.0"), "ctl");
        assert_eq!(super::package_of("path+file:///a/tree/bench/nested#ivbench@0.1.0"), "ivbench");
    }
}

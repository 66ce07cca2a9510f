//! `cargo xtask tidy`: the structure of the tree, as rules that a program checks. The rules:
//!
//! - no circle between the modules of a crate (`circles.rs`);
//! - no dependency between crates that `ARCHITECTURE.md` does not allow (`crates.rs`);
//! - no source file over [`LINES`] lines;
//! - no `unsafe` outside the files that `lists.rs` names.
//!
//! The known exceptions are in `lists.rs`. An entry there that is no longer needed is an error too, so the lists only
//! shrink.

mod circles;
mod crates;
mod lists;
mod modules;
mod resolve;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use proc_macro2::{TokenStream, TokenTree};

use lists::Lists;

/// The most lines that a source file may have.
const LINES: usize = 700;

/// Extensions of the files that [`LINES`] applies to.
const SOURCES: &[&str] = &["rs", "c", "h", "sh", "py"];

/// The sources of a tree by their path from its root.
type Files = BTreeMap<String, String>;

/// Checks the tree, and prints each fault with its remedy.
pub fn check() -> Result<()> {
    let faults = faults(crate::workspace())?;
    for fault in &faults {
        eprintln!("error: {fault}\n");
    }
    if !faults.is_empty() {
        bail!("{} faults in the structure of the tree", faults.len());
    }
    println!("== the structure of the tree is in order");
    Ok(())
}

/// The faults of the tree below `root`.
fn faults(root: &Path) -> Result<Vec<String>> {
    let mut files = Files::new();
    collect(root, root, &mut files)?;
    let packages = crates::packages(root)?;
    let picture = fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let lists = Lists::of_the_tree();
    let mut faults = crates::faults(&packages, &picture);
    faults.extend(circles::faults(&files, &packages, &lists)?);
    faults.extend(long_files(&files, &lists));
    faults.extend(unsafe_files(&files, &lists)?);
    Ok(faults)
}

fn collect(root: &Path, directory: &Path, files: &mut Files) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            // Build products, and the inputs that a fuzzer found.
            if !["target", ".git", "corpus", "artifacts"].iter().any(|skipped| path.ends_with(skipped)) {
                collect(root, &path, files)?;
            }
        } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| SOURCES.contains(&e)) {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            files.insert(path.strip_prefix(root)?.to_string_lossy().into_owned(), text);
        }
    }
    Ok(())
}

fn long_files(files: &Files, lists: &Lists) -> Vec<String> {
    let (mut faults, long) = (Vec::new(), lists.long());
    for (path, text) in files {
        let lines = text.lines().count();
        let listed = long.iter().any(|(file, _)| file == path);
        if lines > LINES && !listed {
            faults.push(format!(
                "{path} has {lines} lines, more than {LINES}: move one concern into a file of its own"
            ));
        } else if lines <= LINES && listed {
            faults.push(stale(path, &format!("it has {lines} lines")));
        }
    }
    faults.extend(missing(&long, files));
    faults
}

fn unsafe_files(files: &Files, lists: &Lists) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let line = first_unsafe(tokens(path, text)?);
        let listed = lists.with_unsafe.iter().any(|(file, _)| file == path);
        match line {
            Some(line) if !listed => faults.push(format!(
                "{path}:{line} has `unsafe`, and UNSAFE in {LISTS} does not name this file: use a safe library, or \
                 move the code to a file that is listed"
            )),
            None if listed => faults.push(stale(path, "it has no `unsafe`")),
            _ => {}
        }
    }
    faults.extend(missing(&lists.with_unsafe, files));
    Ok(faults)
}

/// The file with the lists of exceptions.
const LISTS: &str = "tests/xtask/src/tidy/lists.rs";

fn stale(entry: &str, why: &str) -> String {
    format!("{LISTS} lists {entry}, but {why}: remove the entry")
}

fn missing(list: &[(&str, &str)], files: &Files) -> Vec<String> {
    let gone = list.iter().filter(|(file, _)| !files.contains_key(*file));
    gone.map(|(file, _)| stale(file, "there is no such file")).collect()
}

/// The tokens of a Rust file: without comments, and with each string as one token.
fn tokens(path: &str, text: &str) -> Result<TokenStream> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.parse().map_err(|error| anyhow::anyhow!("{path}: {error}"))
}

/// The line of the first `unsafe` among these tokens.
fn first_unsafe(tokens: TokenStream) -> Option<usize> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Ident(word) if word == "unsafe" => Some(word.span().start().line),
        TokenTree::Group(group) => first_unsafe(group.stream()),
        _ => None,
    })
}

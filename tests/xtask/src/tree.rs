//! The texts of the tree, for the tests that read them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One file of the tree: its path from the root, and its text.
pub struct Text {
    pub path: PathBuf,
    pub text: String,
}

/// Every file of the tree with one of these extensions, without build products and git's own files.
pub fn texts(extensions: &[&str]) -> Vec<Text> {
    let mut found = Vec::new();
    collect(crate::workspace(), extensions, &mut found);
    found
}

fn collect(directory: &Path, extensions: &[&str], found: &mut Vec<Text>) {
    for entry in fs::read_dir(directory).expect("a readable directory").flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if !["target", ".git"].iter().any(|skipped| path.ends_with(skipped)) {
                collect(&path, extensions, found);
            }
        } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e)) {
            let text = fs::read_to_string(&path).expect("a readable text");
            let path = path.strip_prefix(crate::workspace()).expect("below the root").to_path_buf();
            found.push(Text { path, text });
        }
    }
}

/// Names of all functions in these sources.
pub fn functions(sources: &[Text]) -> BTreeSet<&str> {
    let rest = sources.iter().flat_map(|source| source.text.split("fn ").skip(1));
    rest.filter_map(|rest| rest.split_once(['(', '<'])).map(|(name, _)| name).collect()
}

/// Test names in the last column of a table's row: each is in backquotes.
pub fn last_column(row: &str) -> impl Iterator<Item = &str> {
    let column = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
    column.split('`').skip(1).step_by(2)
}

//! `SPECIFICATION.md` names a test for each promise: they are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The tests a specification names: what stands in backquotes in the last column of its tables.
fn named(text: &str) -> Vec<&str> {
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Promise"));
    let columns = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    columns.flat_map(|column| column.split('`').skip(1).step_by(2)).collect()
}

/// Names of functions in all sources below a directory.
fn functions(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).expect("a readable directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !["target", ".git"].iter().any(|skipped| path.ends_with(skipped)) {
                functions(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a readable source");
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split_once('('));
            found.extend(names.map(|(name, _)| name.to_owned()));
        }
    }
}

#[test]
fn every_promise_names_a_test_that_is_there() {
    let text = fs::read_to_string(crate::workspace().join("SPECIFICATION.md")).expect("the specification");
    let names = named(&text);
    assert!(names.len() > 40, "{names:?}");
    let mut found = BTreeSet::new();
    functions(crate::workspace(), &mut found);
    let missing: Vec<_> = names.into_iter().filter(|name| !found.contains(*name)).collect();
    assert!(missing.is_empty(), "promised, but no such test: {missing:?}");
}

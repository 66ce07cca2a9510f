//! `SPECIFICATION.md` names a test for each promise, and each of these tests exists.

use std::fs;

use crate::tree;

#[test]
fn every_promise_names_a_test_that_is_there() {
    let text = fs::read_to_string(crate::workspace().join("SPECIFICATION.md")).expect("the specification");
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Promise"));
    let names: Vec<_> = rows.flat_map(tree::last_column).collect();
    assert!(names.len() > 40, "{names:?}");
    let sources = tree::texts(&["rs"]);
    let found = tree::functions(&sources);
    let missing: Vec<_> = names.into_iter().filter(|name| !found.contains(name)).collect();
    assert!(missing.is_empty(), "promised, but no such test: {missing:?}");
}

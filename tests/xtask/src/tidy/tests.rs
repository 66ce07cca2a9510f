//! The rules on small trees, and on this one.

use super::crates::{self, Package};
use super::lists::Lists;
use super::{Files, circles, long_files, unsafe_files};

fn files(of: &[(&str, &str)]) -> Files {
    of.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

fn package(name: &str, roots: &[&str], needs: &[&str]) -> Package {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    Package { name: name.to_owned(), roots: owned(roots), needs: owned(needs).into_iter().collect() }
}

/// The circles of a crate with these files; its root is `src/lib.rs`.
fn found(of: &[(&str, &str)], lists: &Lists) -> Vec<String> {
    circles::faults(&files(of), &[package("small", &["src/lib.rs"], &[])], lists).unwrap()
}

/// A developer lets two modules import each other, and reads both imports in one message.
#[test]
fn two_modules_that_import_each_other_are_a_circle() {
    let tree = [
        ("src/lib.rs", "mod a; mod b;"),
        ("src/a.rs", "use crate::b::B;\npub struct A;"),
        ("src/b.rs", "\npub struct B;\nfn b() { let _ = super::a::A; }"),
    ];
    let faults = found(&tree, &Lists::default());
    assert_eq!(faults.len(), 1, "{faults:#?}");
    for part in [
        "in src: a b\n",
        "a -> b: src/a.rs:1 has crate::b::B",
        "b -> a: src/b.rs:3 has super::a::A",
        "lower module",
    ] {
        assert!(faults[0].contains(part), "{part:?} in {}", faults[0]);
    }
}

/// The ways in which code names another module all count: a group of imports, a re-export, a renamed module, every
/// name of a module, a macro's arguments, a module without a file.
#[test]
fn every_way_to_name_a_module_counts() {
    let b = "pub struct B; use crate::a::A;";
    for (root, a) in [
        ("mod a; mod b;", "pub struct A; use crate::{b::{self, B as Other}};"),
        ("mod a; mod b; pub use b::B;", "pub struct A; use crate::B;"),
        ("mod a; mod b; pub use b::*;", "pub struct A; use super::B;"),
        ("mod a; mod b;", "pub struct A; use crate::b as other; type T = other::B;"),
        ("mod a; mod b;", "pub struct A; use super::b::*;"),
        ("mod a; mod b;", "pub struct A; fn a() { assert_eq!(1, crate::b::ONE); }"),
        ("mod a; mod b;", "pub struct A; mod inner { use super::super::b::B; }"),
    ] {
        let tree = [("src/lib.rs", root), ("src/a.rs", a), ("src/b/mod.rs", b)];
        assert_eq!(found(&tree, &Lists::default()).len(), 1, "{root} {a}");
    }
}

/// These do not make a circle: imports one way, tests, comments, texts, a module and the one around it, another crate.
#[test]
fn what_tests_comments_and_texts_name_does_not_count() {
    let b = "pub struct B; use crate::a::A;";
    for a in [
        "pub struct A; // use crate::b::B;",
        "/// See [`crate::b::B`].\npub struct A; const TEXT: &str = \"crate::b::B\";",
        "pub struct A; #[cfg(test)] mod tests { use crate::b::B; }",
        "pub struct A; #[cfg(test)] use crate::b::{B, C}; #[cfg(test)] fn f() -> crate::b::B { crate::b::B }",
        "pub struct A; use super::Root; use b::Another;",
    ] {
        let tree =
            [("src/lib.rs", "mod a; mod b; pub struct Root; use a::A;"), ("src/a.rs", a), ("src/b.rs", b)];
        assert_eq!(found(&tree, &Lists::default()), Vec::<String>::new(), "{a}");
    }
}

/// A circle of three directories is found at their level, through files deep below them.
#[test]
fn a_circle_of_directories_is_found_through_their_files() {
    let tree = [
        ("src/lib.rs", "mod a; mod b; mod c;"),
        ("src/a/mod.rs", "mod deep;"),
        ("src/a/deep.rs", "use crate::b::deep::B;"),
        ("src/b/mod.rs", "pub mod deep;"),
        ("src/b/deep.rs", "use crate::c::C; pub struct B;"),
        ("src/c.rs", "use crate::a; pub struct C;"),
    ];
    let faults = found(&tree, &Lists::default());
    assert!(faults.len() == 1 && faults[0].contains("in src: a b c\n"), "{faults:#?}");
}

/// A listed circle is accepted, and a listed circle that is mended must leave the list.
#[test]
fn an_exception_is_accepted_while_it_is_needed() {
    let lists = Lists { exceptions: vec![("src: a b more", "known")], ..Lists::default() };
    let (root, b) = (("src/lib.rs", "mod a; mod b;"), ("src/b.rs", "use crate::a::A; pub struct B;"));
    assert!(found(&[root, ("src/a.rs", "use crate::b::B; pub struct A;"), b], &lists).is_empty());
    let other = Lists { exceptions: vec![("src: a more", "known")], ..Lists::default() };
    assert_eq!(found(&[root, ("src/a.rs", "use crate::b::B; pub struct A;"), b], &other).len(), 2);
    let faults = found(&[root, ("src/a.rs", "pub struct A;"), b], &lists);
    assert!(faults.len() == 1 && faults[0].contains("remove the entry"), "{faults:#?}");
}

/// The table in ARCHITECTURE.md and the manifests agree in both directions.
#[test]
fn a_dependency_against_the_picture_is_a_fault() {
    let picture = "| Crate | imports |\n|---|---|\n| `low` | |\n| `high` | `low` |\n";
    let check = |low: &[&str], high: &[&str]| {
        crates::faults(&[package("low", &[], low), package("high", &[], high)], picture)
    };
    assert_eq!(check(&[], &["low"]), Vec::<String>::new());
    let faults = check(&["high"], &["low"]);
    assert!(faults.len() == 1 && faults[0].contains("low -> high"), "{faults:#?}");
    let faults = check(&[], &[]);
    assert!(faults.len() == 1 && faults[0].contains("remove it from the table"), "{faults:#?}");
    let faults = crates::faults(&[package("new", &[], &[])], picture);
    assert_eq!(faults.len(), 3, "a new crate, and two rows without one: {faults:#?}");
    assert_eq!(crates::faults(&[], "no table").len(), 1);
}

/// A file of 700 lines passes, and one more line is a fault, unless the file is a known exception.
#[test]
fn a_file_of_over_700_lines_is_a_fault() {
    let long = |lines| files(&[("a.rs", &"\n".repeat(lines))]);
    assert_eq!(long_files(&long(700), &Lists::default()), Vec::<String>::new());
    let faults = long_files(&long(701), &Lists::default());
    assert!(faults.len() == 1 && faults[0].contains("a.rs has 701 lines"), "{faults:#?}");
    let lists = Lists { exceptions: vec![("a.rs", "known")], ..Lists::default() };
    assert!(long_files(&long(701), &lists).is_empty());
    assert!(long_files(&long(700), &lists)[0].contains("remove the entry"));
    assert!(long_files(&files(&[]), &lists)[0].contains("no such file"));
}

/// `unsafe` counts as a word of the code: in a macro and in a test too, but not in a comment, a text, or as a name.
#[test]
fn unsafe_outside_of_the_named_files_is_a_fault() {
    let check = |text: &str, lists: &Lists| unsafe_files(&files(&[("a.rs", text)]), lists).unwrap();
    let (none, listed) = (Lists::default(), Lists { with_unsafe: vec![("a.rs", "why")], ..Lists::default() });
    for text in
        ["\nfn a() { unsafe { b() } }", "\nmacro!(unsafe { b() });", "\n#[cfg(test)] unsafe impl A for B {}"]
    {
        let faults = check(text, &none);
        assert!(faults.len() == 1 && faults[0].contains("a.rs:2 has `unsafe`"), "{text} {faults:#?}");
        assert!(check(text, &listed).is_empty(), "{text}");
    }
    for text in
        ["// unsafe", "/// unsafe\nfn a() {}", "const A: &str = \"unsafe\";", "struct A { r#unsafe: bool }"]
    {
        assert_eq!(check(text, &none), Vec::<String>::new(), "{text}");
        assert!(check(text, &listed)[0].contains("remove the entry"), "{text}");
    }
}

/// This tree keeps the rules.
#[test]
fn this_tree_is_tidy() {
    let faults = super::faults(crate::workspace()).unwrap();
    assert!(faults.is_empty(), "\n{}", faults.join("\n\n"));
}

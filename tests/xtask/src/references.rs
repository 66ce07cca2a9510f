//! References in the tree lead somewhere: the numbers in test names and comments are requirements of
//! `tests/REQUIREMENTS.md`, the tests named there exist, decisions are pages of `dataplane/decisions`, and nothing
//! points at a document that is not in the tree.

use std::collections::BTreeSet;
use std::fs;

use crate::tree::{self, Text};

/// Extensions of the files that engineers write.
const WRITTEN: &[&str] = &["rs", "md", "toml", "sh", "c", "h", "py", "service", "yml"];

/// The letters that begin a requirement's number.
const LETTERS: &str = "INRTG";

/// The numbers at the front of a test's name: `i41_r11_a_guest_moves` has I-41 and R-11.
fn numbers_of_a_name(mut name: &str) -> Vec<String> {
    let mut found = Vec::new();
    while let Some((first, rest)) = name.split_once('_')
        && let Some(letter) = first.chars().next().map(|c| c.to_ascii_uppercase())
        && LETTERS.contains(letter)
        && let Ok(number) = first[1..].parse::<u8>()
    {
        found.push(format!("{letter}-{number:02}"));
        name = rest;
    }
    found
}

/// The numbers that a text writes as I-41, each a word of its own.
fn numbers_of_a_text(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words.filter(|word| {
        let (letter, number) = word.split_once('-').unwrap_or_default();
        letter.len() == 1 && LETTERS.contains(letter) && number.len() == 2 && number.parse::<u8>().is_ok()
    })
}

/// The decisions that a text mentions: the number, and the rest of the file's name if the text has it.
fn decisions_of(text: &str) -> impl Iterator<Item = &str> {
    let rest = text.split("decisions/").skip(1).chain(text.split("decision ").skip(1));
    rest.filter(|rest| rest.len() >= 4 && rest.bytes().take(4).all(|b| b.is_ascii_digit())).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
        rest[..end].trim_end_matches('-')
    })
}

/// The mentions in these texts that break a rule, each with its file.
fn broken<'a, I: Iterator<Item = S>, S: AsRef<str>>(
    texts: &'a [Text],
    mentions: impl Fn(&'a str) -> I,
    holds: impl Fn(&str) -> bool,
) -> Vec<String> {
    let each = texts.iter().flat_map(|text| mentions(&text.text).map(move |mention| (text, mention)));
    let bad = each.filter(|(_, mention)| !holds(mention.as_ref()));
    bad.map(|(text, mention)| format!("{}: {}", text.path.display(), mention.as_ref())).collect()
}

/// A newcomer reads `i31_...` in a test's name, finds I-31 in the list, and from there every test that holds it.
#[test]
fn every_number_is_a_requirement_and_its_tests_exist() {
    let list =
        fs::read_to_string(crate::workspace().join("tests/REQUIREMENTS.md")).expect("the requirements");
    let rows: Vec<_> = list
        .lines()
        .filter_map(|row| Some((row.strip_prefix("| ")?.split_once(" | ")?.0, row)))
        .filter(|(id, _)| numbers_of_a_text(id).next() == Some(id))
        .collect();
    let known: BTreeSet<_> = rows.iter().map(|(id, _)| *id).collect();
    assert!(known.len() > 60, "{known:?}");
    assert_eq!(known.len(), rows.len(), "tests/REQUIREMENTS.md has a number twice");

    let sources = tree::texts(&["rs"]);
    let tests = tree::functions(&sources);
    let unknown: Vec<_> = tests
        .iter()
        .filter(|name| numbers_of_a_name(name).iter().any(|number| !known.contains(&**number)))
        .collect();
    assert!(unknown.is_empty(), "add the numbers of these tests to tests/REQUIREMENTS.md: {unknown:?}");
    let unknown = broken(&sources, numbers_of_a_text, |number| known.contains(number));
    assert!(unknown.is_empty(), "not in tests/REQUIREMENTS.md: {unknown:#?}");

    for (id, row) in rows {
        let names: Vec<_> = tree::last_column(row).collect();
        assert!(!names.is_empty(), "{id} has no test");
        let missing: Vec<_> = names.into_iter().filter(|name| !tests.contains(name)).collect();
        assert!(missing.is_empty(), "{id} names tests that do not exist: {missing:?}");
    }
}

#[test]
fn every_decision_is_a_page() {
    let pages: Vec<String> = fs::read_dir(crate::workspace().join("dataplane/decisions"))
        .expect("the decisions")
        .flatten()
        .filter_map(|page| Some(page.file_name().to_str()?.strip_suffix(".md")?.to_owned()))
        .collect();
    assert!(pages.len() > 20, "{pages:?}");
    let exists = |mention: &str| {
        let number = format!("{}-", &mention[..4]);
        pages.iter().any(|page| page == mention || mention.len() == 4 && page.starts_with(&number))
    };
    let missing = broken(&tree::texts(WRITTEN), decisions_of, exists);
    assert!(missing.is_empty(), "no such page in dataplane/decisions: {missing:#?}");
}

#[test]
fn nothing_refers_to_a_section_of_a_design_outside_the_tree() {
    let phrase = concat!("design", " section");
    let lower = |text: &Text| text.text.to_lowercase().contains(phrase);
    let found: Vec<_> = tree::texts(WRITTEN).into_iter().filter(lower).map(|text| text.path).collect();
    assert!(found.is_empty(), "say it there, or name a page of dataplane/decisions: {found:?}");
}

#[test]
fn numbers_are_found() {
    assert_eq!(numbers_of_a_name("t22_g12_a_storm_and_a_loop"), ["T-22", "G-12"]);
    assert_eq!(numbers_of_a_name("t1_mac_flood"), ["T-01"]);
    assert_eq!(numbers_of_a_name("tcp_is_held"), Vec::<String>::new());
    assert_eq!(numbers_of_a_name("u32_at"), Vec::<String>::new());
    let text = "I-25, (T-14), R-35-1, RVI-12, N-7: x";
    assert_eq!(numbers_of_a_text(text).collect::<Vec<_>>(), ["I-25", "T-14"]);
    let text =
        "`decisions/0013`, decisions/0024-own-connections-stay-own.md, decision 0007; decisions/README";
    assert_eq!(decisions_of(text).collect::<Vec<_>>(), ["0013", "0024-own-connections-stay-own", "0007"]);
}

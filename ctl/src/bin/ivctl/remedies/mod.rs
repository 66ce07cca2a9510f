//! Remedies that errors and warnings name are tried: commands of `ivctl` on the command line's parser, commands of
//! other programs against the list that a system test runs, configuration keys against the schema.
//!
//! The convention that makes this possible: a command, a key or a value to type stands in backticks in its message.

mod keys;
mod literals;
mod others;
mod tried;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use crate::Cli;
use literals::{Message, messages};

/// What a placeholder may stand for.
const SAMPLES: [&str; 6] = ["10.0.0.9", "100", "x1", "02:00:00:00:00:01", "56.0.0.0/24", "port"];
/// The longest command that may leave out what it needs: it only names the verb.
const MENTION_LEN_MAX: usize = 3;

/// A part of a message.
enum Part<'a> {
    /// In backticks, or a line of its own in a text of several lines: to be typed as it is.
    Code(&'a str),
    Prose(&'a str),
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    for (at, span) in text.split('`').enumerate() {
        if at % 2 == 1 {
            parts.push(Part::Code(span));
            continue;
        }
        for (n, line) in span.split('\n').enumerate() {
            let own_line =
                text.contains('\n') && (n > 0 || at == 0) && line.trim_start().starts_with("ivctl ");
            parts.push(if own_line { Part::Code(line.trim_start()) } else { Part::Prose(line) });
        }
    }
    parts
}

/// Whether a program is named in prose with what follows it in a command, by `follows`.
fn is_run_in_prose(prose: &str, program: &str, follows: impl Fn(&str) -> bool) -> bool {
    let ends = |c: char| !c.is_ascii_alphanumeric() && !"-_./{".contains(c);
    prose.match_indices(program).any(|(at, _)| {
        let rest = &prose[at + program.len()..];
        let word = rest.strip_prefix(' ').and_then(|rest| rest.split([' ', ',', ';', ':', ')']).next());
        prose[..at].chars().next_back().is_none_or(ends) && word.is_some_and(&follows)
    })
}

/// Whether a word, or a part of it, stands for something.
fn placeholder(word: &str) -> Option<(&str, &str)> {
    if let Some((before, rest)) = word.split_once('{') {
        return rest.split_once('}').map(|(_, after)| (before, after));
    }
    let is_name = word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase() || c == '/');
    (is_name || word == "...").then_some(("", ""))
}

/// Whether `ivctl` takes these words, with any of the samples in their placeholders.
fn is_taken(words: &[String]) -> bool {
    if let Some(at) = words.iter().position(|word| placeholder(word).is_some()) {
        return SAMPLES.iter().any(|sample| {
            let mut words = words.to_vec();
            let (before, after) = placeholder(&words[at]).unwrap_or_default();
            words[at] = format!("{before}{sample}{after}");
            is_taken(&words)
        });
    }
    match Cli::try_parse_from(words) {
        Ok(_) => true,
        Err(error) => match error.kind() {
            ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => words.len() <= MENTION_LEN_MAX,
            // A request for help is no error.
            _ => !error.use_stderr(),
        },
    }
}

/// What is wrong with the commands of `ivctl` in a message; adds up those that were tried.
fn faults(text: &str, tried: &mut usize) -> Vec<String> {
    let command = Cli::command();
    let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    let mut faults = Vec::new();
    for part in parts(text) {
        match part {
            Part::Code(code) => {
                let code = code.split('|').next().unwrap_or_default();
                let words: Vec<String> = code
                    .split_whitespace()
                    .skip_while(|word| *word == "sudo")
                    .map(|word| word.replace(",...", ""))
                    .collect();
                if words.len() > 1 && words[0] == "ivctl" {
                    *tried += 1;
                    if !is_taken(&words) {
                        faults.push(format!("no such command: {code}"));
                    }
                }
            }
            Part::Prose(prose) => {
                if is_run_in_prose(prose, "ivctl", |word| names.contains(&word) || word.starts_with("--")) {
                    faults.push(format!("put the command in backticks: {prose}"));
                }
            }
        }
    }
    faults
}

/// Looks at every message of the daemon, the agent, `ivctl` and `ivctl-guest`.
fn assert_each(what: &str, mut faults: impl FnMut(&Message) -> Vec<String>) {
    let mut wrong = Vec::new();
    for message in messages() {
        wrong.extend(faults(&message).into_iter().map(|fault| format!("{}: {fault}", message.file)));
    }
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

/// Every command of `ivctl` in a message is one that `ivctl` takes, and stands in backticks.
#[test]
fn remedies_that_are_commands_exist() {
    let mut tried = 0;
    assert_each("commands of ivctl", |message| faults(&message.text, &mut tried));
    assert!(tried > 60, "only {tried} commands were found");
}

/// A command that `ivctl` does not take is noticed, and one without backticks; prose that has the word `ivctl` is not.
#[test]
fn commands_are_found_in_messages() {
    let mut tried = 0;
    for (text, fault) in [
        (
            "run `ivctl port set {} --mtu {carried}`, or `ivctl peer set NAME --networks NAME,...`; ivctl is here",
            "",
        ),
        ("Examples:\n  ivctl capture all -w - | wireshark -k -i -\n", ""),
        ("`ivctl {} set` changes it", ""),
        ("`ivctl port set NAME --bogus 1`", "no such command"),
        ("`ivctl prot list`", "no such command"),
        ("`ivctl fip set 56.0.0.1 --network`", "no such command"),
        ("see ivctl port list", "in backticks"),
        ("see it (ivctl status)", "in backticks"),
    ] {
        let found = faults(text, &mut tried);
        assert_eq!(found.len(), usize::from(!fault.is_empty()), "{text}: {found:?}");
        assert!(found.iter().all(|found| found.contains(fault)), "{text}: {found:?}");
    }
    assert_eq!(tried, 7);
}

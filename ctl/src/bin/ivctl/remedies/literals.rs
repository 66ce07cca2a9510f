//! The messages: string literals of the sources, without those of tests and comments.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Where messages come from, from this package on.
const ROOMS: [&str; 4] = ["src", "guests/src", "../dataplane/ivswitchd/src", "../dataplane/vhostuser/src"];

/// A string literal.
pub struct Message {
    /// Its source, from this package on.
    pub file: String,
    /// The text, with the placeholders of `format!`.
    pub text: String,
}

/// Every message of the daemon, the agent, `ivctl` and `ivctl-guest`.
pub fn messages() -> Vec<Message> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for room in ROOMS {
        sources(&package.join(room), &mut files);
    }
    let mut messages = Vec::new();
    for path in files {
        let file = path.strip_prefix(package).unwrap_or(&path).display().to_string();
        let source = fs::read_to_string(&path).expect("a readable source");
        let tokens: TokenStream = source.parse().unwrap_or_else(|e| panic!("{file}: {e}"));
        let mut texts = Vec::new();
        literals(tokens, &mut texts);
        messages.extend(texts.into_iter().map(|text| Message { file: file.clone(), text }));
    }
    assert!(messages.len() > 2000, "only {} literals were found", messages.len());
    messages
}

/// Rust sources below a directory, without those of tests.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display())) {
        let path = entry.expect("an entry of the directory").path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name == "tests" || name == "remedies" {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn literals(tokens: TokenStream, found: &mut Vec<String>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(mark) if mark.as_char() == '#' => {
                // Comments are attributes here, those of a file with another mark. An item of tests ends with its block,
                // or with a semicolon.
                tokens.next_if(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == '!'));
                let Some(TokenTree::Group(attribute)) = tokens.peek() else { continue };
                let text = attribute.stream().to_string();
                if text.starts_with("doc ") {
                    tokens.next();
                } else if text.replace(' ', "") == "cfg(test)" {
                    tokens.find(|token| match token {
                        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                        TokenTree::Punct(mark) => mark.as_char() == ';',
                        _ => false,
                    });
                }
            }
            TokenTree::Group(group) => literals(group.stream(), found),
            TokenTree::Literal(literal) => found.extend(text_of(&literal.to_string())),
            _ => {}
        }
    }
}

/// The text of a string literal.
fn text_of(literal: &str) -> Option<String> {
    if let Some(raw) = literal.strip_prefix('r') {
        return raw.trim_matches('#').strip_prefix('"')?.strip_suffix('"').map(str::to_owned);
    }
    let mut escaped = literal.strip_prefix('"')?.strip_suffix('"')?.chars().peekable();
    let mut text = String::new();
    while let Some(c) = escaped.next() {
        match (c, escaped.peek()) {
            ('\\', Some('\n')) => while escaped.next_if(|c| c.is_whitespace()).is_some() {},
            ('\\', Some('n')) => {
                escaped.next();
                text.push('\n');
            }
            ('\\', _) => text.extend(escaped.next()),
            _ => text.push(c),
        }
    }
    Some(text)
}

/// Literals of code are found, as they are when the program runs; those of tests and comments are not.
#[test]
fn literals_are_the_codes_own() {
    let source = "//! \"of a file\"\n/// \"of a comment\"\n#[error(\"an \\\"error\\\"\")]\nfn f() { say(\"goes \\\n     on\\n\", r#\"raw \"text\"\"#, 'c', 7); }\n\
                  #[cfg(test)]\nmod tests { const A: &str = \"of a test\"; }\nconst B: &str = \"after\";";
    let mut found = Vec::new();
    literals(source.parse().unwrap(), &mut found);
    assert_eq!(found, ["an \"error\"", "goes on\n", "raw \"text\"", "after"]);
}

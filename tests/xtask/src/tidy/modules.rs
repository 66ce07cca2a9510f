//! The modules of one crate as its files declare them: which names each module has, and which paths its code mentions.
//! Code that only tests compile is left out.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

use super::Files;

/// A path as the code writes it: `crate::table::Fdb` is three words.
pub type Words = Vec<String>;

/// The place of a module in [`Crate::modules`].
pub type Id = usize;

/// The meaning of a name in a module.
pub enum Name {
    /// A type, function or constant that the module defines itself.
    Item,
    /// Another name for this path.
    Import(Words),
    Module(Id),
}

/// A path that the code of a module mentions.
pub struct Mention {
    pub words: Words,
    pub line: usize,
}

pub struct Module {
    /// The names of the modules around it, from the crate's root, and its own.
    pub path: Words,
    pub file: String,
    pub parent: Option<Id>,
    pub names: BTreeMap<String, Name>,
    /// Paths of which it imports every name.
    pub globs: Vec<Words>,
    pub mentions: Vec<Mention>,
}

/// One library, program or test: a root file and the modules below it.
#[derive(Default)]
pub struct Crate {
    pub modules: Vec<Module>,
}

impl Crate {
    /// Reads the modules from the root file on.
    pub fn read(files: &Files, root: &str) -> Result<Self> {
        let mut read = Self::default();
        let (directory, _) = root.rsplit_once('/').unwrap_or(("", root));
        let place = Place { file: root, directory };
        let text = files.get(root).with_context(|| format!("no file {root}"))?;
        read.module(files, &place, Vec::new(), None, super::tokens(root, text)?)?;
        Ok(read)
    }

    fn module(
        &mut self,
        files: &Files,
        place: &Place,
        path: Words,
        parent: Option<Id>,
        tokens: TokenStream,
    ) -> Result<Id> {
        let id = self.modules.len();
        let file = place.file.to_owned();
        let (names, globs, mentions) = Default::default();
        self.modules.push(Module { path, file, parent, names, globs, mentions });
        self.scan(files, place, id, tokens, true)?;
        Ok(id)
    }

    /// Reads tokens of a module. `top` is false inside of functions and types, whose names are not the module's.
    fn scan(&mut self, files: &Files, place: &Place, id: Id, tokens: TokenStream, top: bool) -> Result<()> {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        let mut moved = None;
        while at < tokens.len() {
            if let Some(attribute) = attribute(&tokens, at) {
                if only_for_tests(attribute) {
                    at = end_of_item(&tokens, at);
                } else {
                    moved = path_attribute(attribute).or(moved);
                    at += 2;
                }
                continue;
            }
            let TokenTree::Ident(word) = &tokens[at] else {
                if let TokenTree::Group(group) = &tokens[at] {
                    self.scan(files, place, id, group.stream(), false)?;
                }
                at += 1;
                continue;
            };
            let (word, line) = (word.to_string(), word.span().start().line);
            let next = tokens.get(at + 1);
            match (word.as_str(), next) {
                ("use", Some(_)) => {
                    let end = (at..tokens.len()).find(|&i| is(&tokens[i], ';')).unwrap_or(tokens.len());
                    self.import(id, Vec::new(), &tokens[at + 1..end], line);
                    at = end + 1;
                }
                ("mod", Some(TokenTree::Ident(name))) => {
                    let name = name.to_string();
                    let body = match tokens.get(at + 2) {
                        Some(TokenTree::Group(body)) => Some(body.clone()),
                        _ => None,
                    };
                    let child = self.child(files, place, id, &name, moved.take(), body)?;
                    self.modules[id].names.insert(name, Name::Module(child));
                    at += 3;
                }
                (
                    "struct" | "enum" | "union" | "fn" | "trait" | "type" | "const" | "static",
                    Some(TokenTree::Ident(name)),
                ) if top => {
                    self.modules[id].names.insert(name.to_string(), Name::Item);
                    at += 2;
                }
                _ => {
                    let (words, end) = path(&tokens, at);
                    if words.len() > 1 {
                        self.modules[id].mentions.push(Mention { words, line });
                    }
                    at = end;
                }
            }
            moved = None;
        }
        Ok(())
    }

    fn child(
        &mut self,
        files: &Files,
        place: &Place,
        parent: Id,
        name: &str,
        moved: Option<String>,
        body: Option<Group>,
    ) -> Result<Id> {
        let mut path = self.modules[parent].path.clone();
        path.push(name.to_owned());
        let directory = join(place.directory, name);
        if let Some(body) = body {
            let place = Place { file: place.file, directory: &directory };
            return self.module(files, &place, path, Some(parent), body.stream());
        }
        let candidates = match moved {
            Some(moved) => vec![join(place.file.rsplit_once('/').map_or("", |(d, _)| d), &moved)],
            None => vec![format!("{directory}.rs"), format!("{directory}/mod.rs")],
        };
        let file = candidates.iter().map(|c| plain(c)).find(|candidate| files.contains_key(candidate));
        let file = file.with_context(|| format!("{}: no file for `mod {name}`", place.file))?;
        let tokens = super::tokens(&file, &files[&file])?;
        let directory = match file.strip_suffix("/mod.rs") {
            Some(directory) => directory.to_owned(),
            None => file.trim_end_matches(".rs").to_owned(),
        };
        self.module(files, &Place { file: &file, directory: &directory }, path, Some(parent), tokens)
    }

    /// Reads the tree of a `use`.
    fn import(&mut self, id: Id, before: Words, tree: &[TokenTree], line: usize) {
        let (mut words, mut at) = (before, 0);
        while let Some(token) = tree.get(at) {
            match token {
                TokenTree::Ident(word) if word == "as" => break,
                TokenTree::Ident(word) => words.push(word.to_string()),
                TokenTree::Group(group) => {
                    let inside: Vec<TokenTree> = group.stream().into_iter().collect();
                    for part in inside.split(|token| is(token, ',')).filter(|part| !part.is_empty()) {
                        self.import(id, words.clone(), part, line);
                    }
                    return;
                }
                token if is(token, '*') => {
                    self.modules[id].globs.push(words.clone());
                    self.modules[id].mentions.push(Mention { words, line });
                    return;
                }
                _ => {}
            }
            at += 1;
        }
        if words.len() > 1 && words.last().is_some_and(|last| last == "self") {
            words.pop();
        }
        let name = match tree.get(at + 1) {
            Some(alias) if at < tree.len() => alias.to_string(),
            _ => words.last().cloned().unwrap_or_default(),
        };
        if name != "_" && words != [name.as_str()] {
            self.modules[id].names.entry(name).or_insert_with(|| Name::Import(words.clone()));
        }
        self.modules[id].mentions.push(Mention { words, line });
    }
}

/// The file that is read, and the directory in which the files of its child modules are.
struct Place<'a> {
    file: &'a str,
    directory: &'a str,
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

/// A path without `..`.
fn plain(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

fn is(token: &TokenTree, mark: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == mark)
}

/// The words of the path that begins here, and the place behind it.
fn path(tokens: &[TokenTree], mut at: usize) -> (Words, usize) {
    let mut words = Vec::new();
    while let Some(TokenTree::Ident(word)) = tokens.get(at) {
        words.push(word.to_string());
        at += 1;
        if !(at + 1 < tokens.len() && is(&tokens[at], ':') && is(&tokens[at + 1], ':')) {
            break;
        }
        at += 2;
    }
    (words, at)
}

/// The inside of the attribute that begins here: `cfg(test)` of `#[cfg(test)]`.
fn attribute(tokens: &[TokenTree], at: usize) -> Option<&Group> {
    match (&tokens[at], tokens.get(at + 1)) {
        (mark, Some(TokenTree::Group(group))) if is(mark, '#') && group.delimiter() == Delimiter::Bracket => {
            Some(group)
        }
        _ => None,
    }
}

/// Whether this attribute is `cfg(test)`, alone or within `all`.
fn only_for_tests(attribute: &Group) -> bool {
    let text: String = attribute.stream().to_string().split_whitespace().collect();
    text == "cfg(test)" || text.starts_with("cfg(all(test,")
}

/// The file that `#[path = "…"]` names.
fn path_attribute(attribute: &Group) -> Option<String> {
    let tokens: Vec<TokenTree> = attribute.stream().into_iter().collect();
    match &tokens[..] {
        [TokenTree::Ident(word), _, TokenTree::Literal(text)] if word == "path" => {
            Some(text.to_string().trim_matches('"').to_owned())
        }
        _ => None,
    }
}

/// The place behind the item whose attributes begin here.
fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while at < tokens.len() && attribute(tokens, at).is_some() {
        at += 2;
    }
    // These end with a semicolon, even behind braces.
    let plain = tokens[at..]
        .iter()
        .take(8)
        .take_while(|token| !matches!(token, TokenTree::Group(g) if g.delimiter() == Delimiter::Brace));
    let semicolon = plain
        .filter_map(|token| if let TokenTree::Ident(word) = token { Some(word.to_string()) } else { None })
        .find(|word| !["pub", "crate", "super", "in"].contains(&word.as_str()))
        .is_some_and(|word| ["use", "const", "static", "type", "let"].contains(&word.as_str()));
    while let Some(token) = tokens.get(at) {
        at += 1;
        let braces = matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
        if is(token, ';') || (braces && !semicolon) {
            break;
        }
    }
    at
}

//! Parses text to a [`Config`]. Every object is read on its own, so that one error does not hide the next.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::{DeserializeOwned, IntoDeserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::validate::{ERRORS_MAX, Finding, check};
use super::wording::{clean, explain, suggest};
use super::{
    Config, ConfigError, DropIn, Fault, Layered, Origins, Peer, Place, Section, Skipped, TEXT_LEN_MAX,
};

/// Parses and checks a configuration. Never panics, on any text.
///
/// If the text has no `name`, a `gateway` that is not a peer counts as this rVM; see [`parse_as`].
///
/// # Errors
/// All errors, in the order of the file.
pub fn parse(text: &str) -> Result<Config, Vec<ConfigError>> {
    parse_as(text, None)
}

/// Does the same as [`parse`], on the host with this name.
///
/// # Errors
/// All errors, in the order of the file.
pub fn parse_as(text: &str, hostname: Option<&str>) -> Result<Config, Vec<ConfigError>> {
    parse_layers(text, &[], hostname).map(|read| read.whole)
}

/// Does the same as [`parse_as`], with drop-ins.
///
/// # Errors
/// All errors, in the order of the files; an object in a drop-in has the file's name in front.
pub fn parse_layers(
    text: &str,
    drop_ins: &[DropIn],
    hostname: Option<&str>,
) -> Result<Layered, Vec<ConfigError>> {
    let len = text.len() + drop_ins.iter().map(|d| d.text.len()).sum::<usize>();
    if len > TEXT_LEN_MAX {
        return Err(vec![ConfigError {
            fault: Fault::Syntax,
            object: "configuration".to_owned(),
            cause: format!("it has {len} bytes, more than {TEXT_LEN_MAX}"),
            remedy: "split the work over several rVMs".to_owned(),
            position: None,
        }]);
    }
    let files = std::iter::once((String::new(), text))
        .chain(drop_ins.iter().map(|d| (format!("{}: ", clean(&d.name)), d.text.as_str())));
    let files: Vec<_> = files.map(|(prefix, text)| (prefix, Lines::new(text))).collect();
    let mut tables = Vec::new();
    let mut errors = Vec::new();
    for (prefix, lines) in &files {
        let (table, syntax) = DeTable::parse_recoverable(lines.text);
        tables.push(table.into_inner());
        errors.extend(syntax.iter().take(ERRORS_MAX).map(|e| ConfigError {
            fault: Fault::Syntax,
            object: format!("{prefix}configuration"),
            cause: clean(e.message()),
            remedy:
                "correct the TOML (strings in quotes, [section] once, [[section]] for each entry)".to_owned(),
            position: e.span().map(|s| lines.position(s.start)),
        }));
    }
    if !errors.is_empty() {
        errors.truncate(ERRORS_MAX);
        return Err(errors);
    }
    let mut reader = Reader {
        files,
        file: 0,
        errors: Vec::new(),
        places: Vec::new(),
        sections: BTreeMap::new(),
        broken: BTreeSet::new(),
    };
    let mut whole = Config::default();
    let mut main = None;
    for (file, table) in tables.into_iter().enumerate() {
        reader.file = file;
        reader.config(table, &mut whole);
        // Only drop-ins make a difference between the two.
        main.get_or_insert_with(|| whole.clone());
    }
    let main = main.unwrap_or_default();
    let skipped = reader.skip_ourselves(main.peer.len(), &mut whole, hostname);
    reader.places.sort_unstable();
    let origins = Origins { skipped, ..reader.origins() };
    for Finding { place, missing_in, mut error } in check(&whole, hostname) {
        // The name of an object that could not be parsed is unknown, so the reference may well be valid.
        if error.fault == Fault::NotFound && reader.broken.contains(missing_in) {
            continue;
        }
        let found = reader.places.binary_search_by_key(&place, |&(p, ..)| p).ok();
        let (file, position) = match found.map(|i| reader.places[i]) {
            Some((_, file, at)) => (file, Some(reader.files[file].1.position(at))),
            None => (0, None),
        };
        error.position = position;
        reader.file = file;
        reader.complain(error);
    }
    if reader.errors.is_empty() {
        return Ok(Layered { whole, main, origins });
    }
    reader.errors.sort_by_key(|(file, e)| (*file, e.position));
    reader.errors.truncate(ERRORS_MAX);
    Err(reader.errors.into_iter().map(|(_, e)| e).collect())
}

/// The keys and sections of the file that are not lists.
const SECTIONS: [&str; 4] = ["name", "cache", "uplink", "workers"];

struct Reader<'t> {
    /// Each file: the prefix for its objects in errors, and its text.
    files: Vec<(String, Lines<'t>)>,
    /// The file that is being read.
    file: usize,
    errors: Vec<(usize, ConfigError)>,
    /// The place of each object: file and byte.
    places: Vec<(Place, usize, usize)>,
    /// The last file that sets each key or section outside the lists.
    sections: BTreeMap<&'static str, usize>,
    /// The sections with objects that could not be parsed.
    broken: BTreeSet<&'static str>,
}

impl Reader<'_> {
    /// Adds the content of a file to `config`.
    fn config(&mut self, table: DeTable<'_>, config: &mut Config) {
        for (key, value) in table {
            let start = key.span().start;
            if let Some(section) = SECTIONS.into_iter().find(|s| *s == key.get_ref().as_ref()) {
                self.sections.insert(section, self.file);
            }
            match key.get_ref().as_ref() {
                "name" => config.name = self.read("name", "configuration", value),
                "cache" => config.cache = self.read("cache", "configuration", value).unwrap_or_default(),
                "uplink" => {
                    self.place(Place::Uplink, start);
                    config.uplink = self.read("uplink", "uplink", value);
                }
                "workers" => {
                    self.place(Place::Workers, start);
                    config.workers = self.read("workers", "workers", value).unwrap_or_default();
                }
                "network" => self.list(Section::Network, value, &mut config.network),
                "port" => self.list(Section::Port, value, &mut config.port),
                "peer" => self.list(Section::Peer, value, &mut config.peer),
                "floating" => self.list(Section::Floating, value, &mut config.floating),
                "route" => self.list(Section::Route, value, &mut config.route),
                "fdb" => self.list(Section::Fdb, value, &mut config.fdb),
                other => {
                    let known: Vec<_> = SECTIONS.into_iter().chain(Section::ALL.map(Section::key)).collect();
                    self.complain(ConfigError {
                        fault: Fault::Syntax,
                        object: "configuration".to_owned(),
                        cause: clean(&format!("there is no section or key `{other}`")),
                        remedy: suggest(other, &known),
                        position: Some(self.lines().position(start)),
                    });
                }
            }
        }
    }

    /// The drop-in of each entry, once all files are read and the places are sorted.
    fn origins(&self) -> Origins {
        let name = |file: usize| self.files[file].0.trim_end_matches(": ").to_owned();
        let mut origins = Origins::default();
        for &(place, file, _) in self.places.iter().filter(|(_, file, _)| *file > 0) {
            if let Place::Entry(section, _) = place {
                origins.entries.entry(section).or_default().push(name(file));
            }
        }
        let sections = self.sections.iter().filter(|(_, file)| **file > 0);
        origins.sections = sections.map(|(&section, &file)| (section, name(file))).collect();
        origins
    }

    /// Leaves out the peers in drop-ins that are this rVM.
    fn skip_ourselves(
        &mut self,
        of_main: usize,
        config: &mut Config,
        hostname: Option<&str>,
    ) -> Vec<Skipped> {
        let own = config.name.clone().or_else(|| hostname.map(str::to_owned));
        let vtep = config.uplink.as_ref().and_then(|u| u.address);
        let mut skipped = Vec::new();
        for at in (of_main..config.peer.len()).rev() {
            let p = &config.peer[at];
            let why = if own.as_ref() == Some(&p.name) {
                format!("\"{}\" is this rVM", p.name)
            } else if vtep == Some(p.address) && !is_referred_to(config, p) {
                format!("{} is this rVM's own address", p.address)
            } else {
                continue;
            };
            let is = |place: Place| place == Place::Entry(Section::Peer, at);
            let file = self.places.iter().find(|&&(place, ..)| is(place)).map_or(0, |&(_, file, _)| file);
            self.places.retain(|&(place, ..)| !is(place));
            for (place, ..) in &mut self.places {
                if let Place::Entry(Section::Peer, index) = place
                    && *index > at
                {
                    *index -= 1;
                }
            }
            let Peer { name, address, .. } = config.peer.remove(at);
            let file = self.files[file].0.trim_end_matches(": ").to_owned();
            skipped.push(Skipped { file, peer: name, address: address.to_string(), why });
        }
        skipped.reverse();
        skipped
    }

    fn lines(&self) -> &Lines<'_> {
        &self.files[self.file].1
    }

    /// Reports an error in the file that is being read.
    fn complain(&mut self, mut error: ConfigError) {
        error.object.insert_str(0, &self.files[self.file].0);
        self.errors.push((self.file, error));
    }

    /// Records the place of a section. A later file that repeats the section takes it over.
    fn place(&mut self, place: Place, at: usize) {
        self.places.retain(|&(there, ..)| there != place);
        self.places.push((place, self.file, at));
    }

    fn list<T: DeserializeOwned>(
        &mut self,
        section: Section,
        value: Spanned<DeValue<'_>>,
        list: &mut Vec<T>,
    ) {
        let at = value.span().start;
        let DeValue::Array(entries) = value.into_inner() else {
            let key = section.key();
            self.broken.insert(key);
            self.complain(ConfigError {
                fault: Fault::Syntax,
                object: key.to_owned(),
                cause: "it is not a list of entries".to_owned(),
                remedy: format!("write [[{key}]] with two brackets, once for each"),
                position: Some(self.lines().position(at)),
            });
            return;
        };
        for entry in entries {
            let at = entry.span().start;
            let object = object_of(section, entry.get_ref());
            if let Some(entry) = self.read(section.key(), &object, entry) {
                self.places.push((Place::Entry(section, list.len()), self.file, at));
                list.push(entry);
            }
        }
    }

    fn read<T: for<'a> Deserialize<'a>>(
        &mut self,
        section: &'static str,
        object: &str,
        value: Spanned<DeValue<'_>>,
    ) -> Option<T> {
        let at = value.span();
        match T::deserialize(value.into_deserializer()) {
            Ok(t) => Some(t),
            Err(e) => {
                self.broken.insert(section);
                let span = e.span().unwrap_or(at);
                let text = self.lines().text;
                let written = text.get(span.clone()).filter(|w| !w.contains('\n') && !w.is_empty());
                let (cause, remedy) = explain(e.message(), written);
                let position = Some(self.lines().position(span.start));
                self.complain(ConfigError {
                    fault: Fault::Syntax,
                    object: object.to_owned(),
                    cause,
                    remedy,
                    position,
                });
                None
            }
        }
    }
}

/// Whether another object of the configuration names this peer.
fn is_referred_to(config: &Config, peer: &Peer) -> bool {
    let name = &peer.name;
    config.peer.iter().any(|p| p.via.as_ref() == Some(name))
        || config.floating.iter().any(|f| f.gateway == *name)
        || config.route.iter().any(|r| r.via == *name)
        || config.fdb.iter().any(|e| e.peer.as_ref() == Some(name))
}

/// The name that people use for an entry, even if the entry cannot be parsed completely.
fn object_of(section: Section, value: &DeValue<'_>) -> String {
    let text = |key: &str| value.as_table().and_then(|t| t.get(key)).and_then(|v| v.get_ref().as_str());
    let label = match section {
        Section::Network | Section::Port | Section::Peer => text("name").map(|n| format!("\"{n}\"")),
        Section::Floating => text("ip").map(str::to_owned),
        Section::Route => text("from").map(str::to_owned),
        Section::Fdb => text("mac").map(str::to_owned),
    };
    match label {
        Some(label) => clean(&format!("{} {label}", section.key())),
        None => section.key().to_owned(),
    }
}

/// Converts byte offsets to lines and columns.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    fn position(&self, at: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|&s| s <= at).max(1);
        let start = self.starts[line - 1];
        let column = self.text.get(start..at).map_or(1, |s| s.chars().take(9999).count() + 1);
        (line, column)
    }
}

//! Handles the methods on the configuration as a whole: show, compare, check, apply, confirm, roll back and reload.
//!
//! A commit-confirmed configuration (`apply --confirm`) is in force but not in the file. If the time runs out, an
//! operator rolls it back or the daemon dies before the confirmation, the previous configuration comes back.

use std::collections::BTreeMap;

use engine::time::{Duration, Instant};
use serde_json::{Value, json};

use super::Agent;
use super::request::{Done, params};
use crate::api::{self, Code, Edited, Error};
use crate::io::Output;
use crate::model::{self, Config, ConfigError, DropIn, Layered, Section, Skipped};

/// The longest time that a commit-confirmed configuration waits for its confirmation: a working day.
const TRIAL_S_MAX: u64 = 8 * 3600;

/// The previous configuration, which comes back if the new one is not confirmed in time.
#[derive(Debug)]
pub(super) struct Trial {
    layers: Layered,
    text: String,
    until: Instant,
}

impl Trial {
    /// The time at which the previous configuration comes back.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// The text of the file, which still holds the previous configuration.
    pub(super) fn text_before(&self) -> &str {
        &self.text
    }
}

impl Agent {
    /// Carries out `config.VERB`.
    pub(super) fn configure(&mut self, method: &str, p: Value) -> Result<Done, Error> {
        match method {
            "config.show" => {
                let _: api::Nothing = params(method, p)?;
                let shown = api::ConfigShown {
                    text: self.current_text().to_owned(),
                    saved: self.is_saved(),
                    drop_ins: self.drop_ins.iter().map(|d| d.name.clone()).collect(),
                    file: self.options.config_path.display().to_string(),
                    config: json!(self.config),
                    origins: self.origins_shown(),
                    skipped: self.skipped_shown(),
                    trial_s: self.trial.as_ref().map(|t| t.until.since(self.now).as_secs()),
                };
                Ok(Done::Now(json!(shown)))
            }
            "config.check" => {
                let p: api::ConfigText = params(method, p)?;
                let errors = self.read(&p.text).err().unwrap_or_default();
                Ok(Done::Now(json!(api::ConfigChecked { ok: errors.is_empty(), errors })))
            }
            "config.diff" => {
                let p: api::ConfigCompared = params(method, p)?;
                let drop_ins = p.drop_ins.as_ref().unwrap_or(&self.drop_ins);
                let read = model::parse_layers(&p.text, drop_ins, Some(&self.options.hostname))
                    .map_err(|errors| Error::of_config("the configuration is not valid", errors))?;
                let changes = model::diff(&self.config, &read.whole);
                Ok(Done::Now(json!(api::ConfigDiffers { changes })))
            }
            "config.apply" => self.apply(params(method, p)?),
            "config.confirm" => {
                let p: api::Nothing = params(method, p)?;
                self.end_trial("config confirm")?;
                self.edited();
                Ok(Done::Edit(Edited { changed: true, warnings: Vec::new() }, Vec::new(), p.timeout_ms))
            }
            "config.rollback" => {
                let p: api::Nothing = params(method, p)?;
                let trial = self.end_trial("config rollback")?;
                self.take_back(trial, "it was rolled back by hand");
                let ports = self.attachments.keys().copied().collect();
                Ok(Done::Edit(Edited { changed: true, warnings: Vec::new() }, ports, p.timeout_ms))
            }
            _ => Err(super::request::no_such_method(method)),
        }
    }

    /// The file that each part in force comes from, in the shape of the configuration: a list has one file name for
    /// each entry.
    fn origins_shown(&self) -> BTreeMap<String, Value> {
        let whole = json!(self.config);
        let keys = whole.as_object().into_iter().flat_map(|whole| whole.keys());
        let shown = keys.map(|key| {
            let file = match Section::ALL.into_iter().find(|s| s.key() == key) {
                Some(section) => {
                    let count = whole[key].as_array().map_or(0, Vec::len);
                    json!((0..count).map(|at| self.file_of(section, at)).collect::<Vec<_>>())
                }
                None => json!(self.file_of_section(key)),
            };
            (key.clone(), file)
        });
        shown.collect()
    }

    /// The name of the file that holds an entry of a list.
    pub(super) fn file_of(&self, section: Section, at: usize) -> &str {
        let of_drop_ins = self.origins.entries.get(&section).map_or(&[][..], Vec::as_slice);
        let of_main = section.len(&self.config).saturating_sub(of_drop_ins.len());
        at.checked_sub(of_main)
            .and_then(|at| of_drop_ins.get(at))
            .map_or_else(|| self.main_file(), String::as_str)
    }

    /// The name of the file that sets a key or section outside the lists.
    pub(super) fn file_of_section(&self, key: &str) -> &str {
        self.origins.sections.get(key).map_or_else(|| self.main_file(), String::as_str)
    }

    fn main_file(&self) -> &str {
        self.options.config_path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// The peers in drop-ins that are this rVM, including those that only its current address reveals.
    fn skipped_shown(&self) -> Vec<Skipped> {
        let mut skipped = self.origins.skipped.clone();
        for (at, p) in self.config.peer.iter().enumerate().filter(|(_, p)| self.is_ourselves(p)) {
            skipped.push(Skipped {
                file: self.file_of(Section::Peer, at).to_owned(),
                peer: p.name.clone(),
                address: p.address.to_string(),
                why: format!("{} is this rVM's own address", p.address),
            });
        }
        skipped
    }

    /// Whether the file holds the configuration that is in force.
    fn is_saved(&self) -> bool {
        self.options.persist
            && self.trial.is_none()
            && self.persist.failure.is_none()
            && self.persist.tried == self.persist.edit
    }

    fn read(&self, text: &str) -> Result<Layered, Vec<ConfigError>> {
        self.read_with(text, &self.drop_ins)
    }

    fn read_with(&self, text: &str, drop_ins: &[DropIn]) -> Result<Layered, Vec<ConfigError>> {
        let read = model::parse_layers(text, drop_ins, Some(&self.options.hostname))?;
        self.refuse_twice(&read.whole)?;
        Ok(read)
    }

    /// Refuses a configuration in which two entries mean one interface, by the present names of interfaces, unless
    /// the configuration in force already has such a pair.
    pub(super) fn refuse_twice(&self, config: &Config) -> Result<(), Vec<ConfigError>> {
        match self.links.named_twice(config) {
            Some(error) if self.links.named_twice(&self.config).is_none() => Err(vec![error]),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, p: api::ConfigApply) -> Result<Done, Error> {
        self.refuse_during_trial("the configuration is not applied")?;
        if p.confirm_s.is_some_and(|s| s == 0 || s > TRIAL_S_MAX) {
            let why = format!("the time for the confirmation must be 1 to {TRIAL_S_MAX} seconds");
            return Err(Error::new(Code::Params, "the configuration is not applied", why, "try 60"));
        }
        let read = self.read(&p.text).map_err(|errors| {
            Error::of_config("the configuration is refused, and the previous one stays in force", errors)
        })?;
        if read.whole == self.config
            && read.main == self.main
            && p.text == self.current_text()
            && self.refused.is_none()
        {
            return Ok(Done::Edit(Edited::default(), Vec::new(), p.timeout_ms));
        }
        let before = p.confirm_s.map(|s| Trial {
            layers: self.layers(),
            text: self.current_text().to_owned(),
            until: self.now + Duration::from_secs(s),
        });
        self.install(read, p.text);
        match before {
            Some(trial) => {
                let until_s = trial.until.since(self.now).as_secs();
                self.trial = Some(trial);
                self.log("info", format!("a configuration waits for its confirmation for {until_s} s"));
                self.tell_of_config(json!({ "trial_s": until_s }));
            }
            None => self.edited(),
        }
        let ports = self.attachments.keys().copied().collect();
        Ok(Done::Edit(Edited { changed: true, warnings: Vec::new() }, ports, p.timeout_ms))
    }

    /// Refuses other edits while a configuration waits for its confirmation. A rollback would otherwise undo edits
    /// that the operator meant to keep.
    pub(super) fn refuse_during_trial(&self, what: &str) -> Result<(), Error> {
        let Some(trial) = &self.trial else { return Ok(()) };
        let why = format!(
            "a configuration waits for its confirmation for {} s more",
            trial.until.since(self.now).as_secs()
        );
        let how = "`ivctl config confirm` keeps it, `ivctl config rollback` restores the previous one";
        Err(Error::new(Code::Conflict, what, why, how))
    }

    fn end_trial(&mut self, what: &str) -> Result<Trial, Error> {
        self.trial.take().ok_or_else(|| {
            let why = "no configuration waits for its confirmation";
            Error::new(
                Code::NotFound,
                what,
                why,
                "`ivctl config apply --confirm 60s FILE` applies one that does",
            )
        })
    }

    /// Rolls back a configuration that was not confirmed in time.
    pub(super) fn check_trial(&mut self) {
        if let Some(trial) = self.trial.take_if(|trial| trial.until <= self.now) {
            self.take_back(trial, "it was not confirmed in time");
        }
    }

    fn take_back(&mut self, trial: Trial, why: &str) {
        self.install(trial.layers, trial.text);
        self.log("warn", format!("the configuration is rolled back: {why}"));
        self.tell_of_config(json!({ "rolled_back": true, "why": why }));
    }

    /// Takes the files that the daemon has read again, or refuses them all.
    pub(super) fn reload(&mut self, text: String, drop_ins: Vec<DropIn>) {
        match self.read_with(&text, &drop_ins) {
            Ok(read) => {
                self.trial = None;
                self.refused = None;
                self.drop_ins = drop_ins;
                let changed = read != self.layers();
                if changed || text != self.current_text() {
                    self.install(read, text);
                }
                // The file holds this configuration by definition, even if earlier writes failed.
                self.persist.tried = self.persist.edit;
                self.persist.failure = None;
                self.persist.retry = None;
                if changed {
                    self.tell_of_config(json!({ "reloaded": true }));
                }
                self.outputs.push_back(Output::Reloaded(Ok(changed)));
            }
            Err(errors) => {
                let more = errors.len().saturating_sub(1);
                let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
                self.refused = errors.first().map(|first| format!("{first}{more}"));
                self.outputs.push_back(Output::Reloaded(Err(errors)));
            }
        }
    }

    fn layers(&self) -> Layered {
        Layered { whole: self.config.clone(), main: self.main.clone(), origins: self.origins.clone() }
    }

    /// The layers after the edit: the whole configuration and the main file's part.
    pub(super) fn layers_of(&self, what: &str, edited: Config) -> Result<Layered, Error> {
        if self.drop_ins.is_empty() {
            return Ok(Layered::of_main(edited));
        }
        self.layers().edit(edited).map_err(|error| Error::of_config(what, vec![error]))
    }
}

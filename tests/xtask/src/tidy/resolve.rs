//! Which module a path leads to: re-exports are followed to the module that defines the name.

use super::modules::{Crate, Id, Name};

/// The most re-exports that one path may lead through.
const STEPS: usize = 16;

/// The result of a step along a path.
enum Step {
    /// The name is defined here, or by a macro of this module.
    Here,
    Module(Id),
    /// The name is another crate's.
    Outside,
}

impl Crate {
    /// The module that defines what the path names, seen from the module `from`. None for a path to another crate.
    pub fn target(&self, from: Id, words: &[String]) -> Option<Id> {
        self.follow(from, words, STEPS)
    }

    fn follow(&self, from: Id, words: &[String], steps: usize) -> Option<Id> {
        let steps = steps.checked_sub(1)?;
        let (first, rest) = words.split_first()?;
        let (mut at, rest) = match first.as_str() {
            "crate" => (0, rest),
            "self" => (from, rest),
            "super" => (self.modules[from].parent?, rest),
            name => match self.step(from, name, steps)? {
                Step::Module(next) => (next, rest),
                // An item without a further module: `Fdb::new` behind `use crate::table::Fdb`.
                Step::Here => return self.modules[from].names.contains_key(name).then_some(from),
                Step::Outside => return None,
            },
        };
        for word in rest {
            if word == "super" {
                at = self.modules[at].parent?;
                continue;
            }
            match self.step(at, word, steps)? {
                Step::Module(next) => at = next,
                Step::Here => break,
                Step::Outside => return None,
            }
        }
        Some(at)
    }

    /// Looks for a name in one module, through its imports.
    fn step(&self, at: Id, word: &str, steps: usize) -> Option<Step> {
        let steps = steps.checked_sub(1)?;
        match self.modules[at].names.get(word) {
            Some(Name::Module(child)) => return Some(Step::Module(*child)),
            Some(Name::Item) => return Some(Step::Here),
            Some(Name::Import(words)) => {
                return Some(self.follow(at, words, steps).map_or(Step::Outside, Step::Module));
            }
            None => {}
        }
        for words in &self.modules[at].globs {
            if let Some(module) = self.follow(at, words, steps).filter(|module| *module != at)
                && self.modules[module].names.contains_key(word)
            {
                return match self.step(module, word, steps)? {
                    Step::Here => Some(Step::Module(module)),
                    found => Some(found),
                };
            }
        }
        Some(Step::Here)
    }
}

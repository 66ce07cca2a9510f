//! The errors of a configuration.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of an error; it determines the exit code of `ivctl`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The text is not TOML, or a value has the wrong type or form.
    Syntax,
    /// A value is out of its range, missing, or contradicts another of the same object.
    Invalid,
    /// It refers to an object that does not exist.
    NotFound,
    /// It takes something that another object has.
    Conflict,
}

/// One error in a configuration: object, cause, remedy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigError {
    /// The kind of the error.
    pub fault: Fault,
    /// The object: `port "eth1"`, `uplink`, `floating 56.0.0.11`.
    pub object: String,
    /// The cause.
    pub cause: String,
    /// The remedy.
    pub remedy: String,
    /// Line and column of the object or value in the text, from 1, when it came from text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<(usize, usize)>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.position {
            write!(f, "line {line}, column {column}: ")?;
        }
        write!(f, "{}: {}; {}", self.object, self.cause, self.remedy)
    }
}

impl std::error::Error for ConfigError {}

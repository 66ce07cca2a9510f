//! Why a request failed: a number for programs, three texts for people.

use std::fmt;

use serde_json::{Value, json};

use crate::model::{ConfigError, Fault};

/// Why a request failed, as a stable number. It determines the exit code of `ivctl`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// The line is not JSON.
    Parse,
    /// The line is not a JSON-RPC request.
    Request,
    /// The method does not exist.
    Method,
    /// The parameters do not fit the method.
    Params,
    /// The request could not be carried out, because a value is not possible.
    Failed,
    /// The object that the request names does not exist.
    NotFound,
    /// The request takes something that another object has, or removes something that another object needs.
    Conflict,
    /// Too many requests are waiting.
    Busy,
    /// The client lacks the permission.
    Permission,
    /// The change was made but did not take effect in time.
    Timeout,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 10] = [
        Self::Parse,
        Self::Request,
        Self::Method,
        Self::Params,
        Self::Failed,
        Self::NotFound,
        Self::Conflict,
        Self::Busy,
        Self::Permission,
        Self::Timeout,
    ];

    /// The number in the message (JSON-RPC 2.0 §5.1; -32000 to -32099 are ours).
    #[must_use]
    pub const fn number(self) -> i64 {
        match self {
            Self::Parse => -32700,
            Self::Request => -32600,
            Self::Method => -32601,
            Self::Params => -32602,
            Self::Failed => -32001,
            Self::NotFound => -32003,
            Self::Conflict => -32004,
            Self::Busy => -32005,
            Self::Permission => -32006,
            Self::Timeout => -32007,
        }
    }

    /// The code with this number.
    #[must_use]
    pub fn of(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.number() == number)
    }

    /// The exit code of `ivctl`.
    #[must_use]
    pub const fn exit(self) -> u8 {
        match self {
            Self::Failed | Self::Busy => 1,
            Self::Parse | Self::Request | Self::Method | Self::Params => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Permission => 6,
            Self::Timeout => 7,
        }
    }
}

/// A failed request in three parts, as all our errors: what, why, how.
#[derive(Clone, PartialEq, Debug)]
pub struct Error {
    /// The kind of failure.
    pub code: Code,
    /// The operation that failed.
    pub what: String,
    /// The cause.
    pub why: String,
    /// The remedy.
    pub how: String,
    /// All errors of a refused configuration.
    pub errors: Vec<ConfigError>,
}

impl Error {
    /// Creates an error.
    #[must_use]
    pub fn new(code: Code, what: impl Into<String>, why: impl Into<String>, how: impl Into<String>) -> Self {
        Self { code, what: what.into(), why: why.into(), how: how.into(), errors: Vec::new() }
    }

    /// Creates the error for `what`, which was refused because of these errors of the configuration.
    #[must_use]
    pub fn of_config(what: impl Into<String>, errors: Vec<ConfigError>) -> Self {
        let code = match errors.first().map(|e| e.fault) {
            Some(Fault::NotFound) => Code::NotFound,
            Some(Fault::Conflict) => Code::Conflict,
            _ => Code::Failed,
        };
        let (why, how) = match errors.as_slice() {
            [] => (String::new(), String::new()),
            [one, rest @ ..] => {
                let more =
                    if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
                let line = one.position.map(|(l, c)| format!("line {l}, column {c}: ")).unwrap_or_default();
                (format!("{line}{}: {}{more}", one.object, one.cause), one.remedy.clone())
            }
        };
        Self { code, what: what.into(), why, how, errors }
    }

    /// Converts the error to the `error` object of a response.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut data = json!({ "what": self.what, "why": self.why, "how": self.how });
        if !self.errors.is_empty() {
            data["errors"] = json!(self.errors);
        }
        json!({ "code": self.code.number(), "message": format!("{}: {}", self.what, self.why), "data": data })
    }

    /// Reads the `error` object of a response.
    #[must_use]
    pub fn from_json(v: &Value) -> Self {
        let text = |key: &str| v["data"][key].as_str().unwrap_or_default().to_owned();
        let code = v["code"].as_i64().and_then(Code::of).unwrap_or(Code::Failed);
        let errors = serde_json::from_value(v["data"]["errors"].clone()).unwrap_or_default();
        let mut e = Self { code, what: text("what"), why: text("why"), how: text("how"), errors };
        if e.what.is_empty() {
            e.what = v["message"].as_str().unwrap_or("the request failed").to_owned();
        }
        e
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.why, self.how)
    }
}

impl std::error::Error for Error {}

//! Colours, and text that is safe for a terminal.

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint(pub bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// For errors and failures.
    pub fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    /// For success.
    pub fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    /// For things that wait.
    pub fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    /// For headings.
    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// The colour of a state's name.
    pub fn state(self, text: &str) -> String {
        match text.trim_end() {
            "live" | "yes" | "up" => self.green(text),
            "failed" | "no" | "silent" | "unreachable" | "one-way" | "refuses" | "unresolved" => {
                self.red(text)
            }
            "waiting" | "opening" | "unknown" => self.yellow(text),
            _ => text.to_owned(),
        }
    }
}

/// The text without control characters, so that a daemon's text cannot move the cursor.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

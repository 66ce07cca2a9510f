//! The warnings of `status`, each with its kind for alerts and scripts.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! problem_kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// The subject of a warning.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub enum ProblemKind { $($(#[doc = $doc])+ #[serde(rename = $text)] $name,)+ }

        impl ProblemKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The kind's name in JSON and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

problem_kinds! {
    /// A port that is not live.
    Port = "port",
    /// Frames of a port that their sender left unfinished and the switch cannot finish.
    Offload = "offload",
    /// The uplink, or an address that it should have.
    Uplink = "uplink",
    /// A peer that does not answer.
    Peer = "peer",
    /// A network that a peer and this rVM disagree about.
    PeerNetwork = "peer-network",
    /// An unknown address that sends tunnel packets.
    UnknownPeer = "unknown-peer",
    /// A floating IP that rVMs disagree about.
    Floating = "floating",
    /// Reality addresses, which the switch shares with the rVM's own kernel.
    Reality = "reality",
    /// MTUs that do not fit together.
    Mtu = "mtu",
    /// The configuration: commit-confirmed, refused, or not saved.
    Configuration = "configuration",
    /// The daemon itself: it needs a restart, or a bug report.
    Daemon = "daemon",
}

/// A problem that needs attention.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// The kind of the problem's subject.
    pub kind: ProblemKind,
    /// The name or address of the object; empty if there are several or none.
    #[serde(default)]
    pub object: String,
    /// The problem, in a sentence that names the object.
    pub what: String,
    /// The remedy; empty if `what` already names it.
    #[serde(default)]
    pub how: String,
}

impl Problem {
    /// Creates a problem.
    #[must_use]
    pub fn new(
        kind: ProblemKind,
        object: impl Into<String>,
        what: impl Into<String>,
        how: impl Into<String>,
    ) -> Self {
        Self { kind, object: object.into(), what: what.into(), how: how.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if self.how.is_empty() { Ok(()) } else { write!(f, "; {}", self.how) }
    }
}

//! The interface between `ivctl` and `ivswitchd`: JSON-RPC 2.0, one message per line, over a unix socket.
//!
//! Where iproute2 prints the same data as JSON (`bridge -j fdb`, `ip -j -s link`, `ip -j neigh`), the keys are
//! iproute2's. `socat - UNIX-CONNECT:/run/ivswitch/control.sock` also works as a client.

mod error;
mod mtu;
mod problem;
mod rows;
mod status;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{CacheMode, Change, ConfigError, DropIn, Ports, Skipped};

pub use error::{Code, Error};
pub use mtu::{MtuNetwork, MtuPaste, MtuPeer, MtuPort, MtuProblem, MtuReport, MtuUplink};
pub use problem::{Problem, ProblemKind};
pub use rows::*;
pub use status::*;

/// The version of this interface. An incompatible change raises it.
pub const API: u32 = 1;

/// The daemon's default control socket.
pub const SOCKET: &str = "/run/ivswitch/control.sock";

/// The default configuration file.
pub const CONFIG: &str = "/etc/ivswitch/ivswitch.toml";

/// The longest request, in bytes. The largest is a whole configuration; operators install larger files directly and
/// reload.
pub const REQUEST_LEN_MAX: usize = 1 << 20;

/// The most rows in one answer. An answer that leaves rows out has a warning.
pub const ROWS_MAX: usize = 200_000;

/// How long a request waits for its effect by default.
pub const TIMEOUT_MS_DEFAULT: u64 = 5_000;
/// The longest that a request may wait.
pub const TIMEOUT_MS_MAX: u64 = 600_000;

/// Whether a method changes nothing, so that read-only clients may call it. Returns false for unknown methods.
#[must_use]
pub fn only_reads(method: &str) -> bool {
    matches!(
        method,
        "version"
            | "status"
            | "subscribe"
            | "drops"
            | "mtu"
            | "trace"
            | "config.show"
            | "config.check"
            | "config.diff"
    ) || method.ends_with(".list")
}

macro_rules! params {
    ($($(#[$doc:meta])+ $name:ident [ $($(#[$rdoc:meta])+ $required:ident: $rty:ty,)* ]
        { $($(#[$fdoc:meta])+ $field:ident: $ty:ty,)* })+) => { $(
        $(#[$doc])+
        #[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$rdoc])+ pub $required: $rty,)*
            $($(#[$fdoc])+ #[serde(default, skip_serializing_if = "is_default")] pub $field: $ty,)*
            /// How long to wait for the effect or the answer, in milliseconds; 0: do not wait.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub timeout_ms: Option<u64>,
        }
    )+ };
}

/// The module needs the macro [`params!`], so it must follow the definition.
mod watch;
pub use watch::*;

fn is_default<T: Default + PartialEq>(t: &T) -> bool {
    *t == T::default()
}

params! {
    /// For methods without parameters: `version`, `status`, `config.show`, `config.confirm`, `config.rollback`.
    Nothing [] {}

    /// For `cache.set`.
    CacheSet [
        /// The new mode.
        mode: CacheMode,
    ] {}

    /// For `network.list`, `port.list`, `peer.list`.
    ListNamed [] {
        /// Select the object with this name.
        name: Option<String>,
    }

    /// For `network.add`, `port.add`, `peer.add`, `floating.add`, `route.add`, `fdb.add`.
    Add [
        /// The object, with the keys that it has in the configuration file.
        object: Value,
    ] {
        /// Succeed if the same object exists already.
        may_exist: bool,
    }

    /// For `network.set`, `port.set`, `peer.set`.
    SetNamed [
        /// The object's name.
        name: String,
        /// New values; `null` restores the default.
        set: Value,
    ] {}

    /// For `network.del`, `port.del`, `peer.del`.
    DelNamed [
        /// The object's name.
        name: String,
    ] {
        /// Succeed if the object does not exist.
        if_exists: bool,
    }

    /// For `port.enable`.
    EnablePort [
        /// The port's name.
        name: String,
    ] {}

    /// For `floating.list`, `floating.set`, `floating.del`: selects a mapping.
    WhichFloating [] {
        /// The public address.
        ip: Option<IpAddr>,
        /// The public network, in case two networks have this address.
        network: Option<String>,
        /// The ports, in case several mappings share the address.
        only: Option<Vec<Ports>>,
        /// For `set`: new values; `null` restores the default.
        set: Value,
        /// For `del`: succeed if the mapping does not exist.
        if_exists: bool,
    }

    /// For `route.list`, `route.set`, `route.del`: selects a route.
    WhichRoute [] {
        /// The network.
        network: Option<String>,
        /// The source prefix.
        from: Option<String>,
        /// For `set`: new values.
        set: Value,
        /// For `del`: succeed if the route does not exist.
        if_exists: bool,
    }

    /// For `fdb.list`, `fdb.set`, `fdb.del`, `fdb.flush`: selects entries.
    WhichFdb [] {
        /// Select entries of this network.
        network: Option<String>,
        /// Select entries behind this port.
        port: Option<String>,
        /// Select entries behind this peer.
        peer: Option<String>,
        /// Select this MAC address.
        mac: Option<String>,
        /// Select this VLAN; `del` assumes 0, untagged.
        vlan: Option<u16>,
        /// For `del`: succeed if the entry does not exist.
        if_exists: bool,
        /// For `set`: new values; `null` restores the default.
        set: Value,
        /// For `list`: the most rows.
        limit: Option<usize>,
    }

    /// For `neigh.list`, `neigh.flush`.
    WhichNeigh [] {
        /// Select this network.
        network: Option<String>,
    }

    /// For `drops`.
    WhichDrops [] {
        /// Select this port.
        port: Option<String>,
    }

    /// For `config.diff`.
    ConfigCompared [
        /// The whole configuration, as TOML.
        text: String,
    ] {
        /// The drop-ins to add; without them, the daemon adds the drop-ins that it read last.
        drop_ins: Option<Vec<DropIn>>,
    }

    /// For `config.check`.
    ConfigText [
        /// The whole configuration, as TOML; the daemon adds its drop-ins.
        text: String,
    ] {}

    /// For `config.apply`.
    ConfigApply [
        /// The whole configuration, as TOML; the daemon adds its drop-ins.
        text: String,
    ] {
        /// Commit-confirmed: roll the configuration back unless `config.confirm` comes within this many seconds.
        confirm_s: Option<u64>,
    }
}

/// The answer to `version`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Version {
    /// See [`API`].
    pub api: u32,
    /// The name of the rVM.
    pub name: String,
    /// The daemon's version.
    pub version: String,
}

/// The answer to every method that changes something.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Edited {
    /// Whether anything had to be changed.
    pub changed: bool,
    /// Problems that came up, although the change is in force.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The answer to `config.show`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigShown {
    /// The main file's part of the configuration in force, as TOML.
    pub text: String,
    /// Whether the file holds it.
    pub saved: bool,
    /// The drop-ins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop_ins: Vec<String>,
    /// The main file's path. Its drop-ins are in the directory with the same name and `.d` appended.
    #[serde(default)]
    pub file: String,
    /// The whole configuration in force, drop-ins included, with the keys of the file.
    #[serde(default)]
    pub config: Value,
    /// The name of the file that each part of `config` comes from; a list has one name for each entry.
    #[serde(default)]
    pub origins: BTreeMap<String, Value>,
    /// The peers in drop-ins that are left out because they are this rVM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// The seconds until a commit-confirmed configuration is rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_s: Option<u64>,
}

/// The answer to `config.diff`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ConfigDiffers {
    /// The changes that applying the file would make; empty if nothing would change.
    pub changes: Vec<Change>,
}

/// The answer to `config.check`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigChecked {
    /// Whether the daemon would accept the configuration.
    pub ok: bool,
    /// All errors in it.
    pub errors: Vec<ConfigError>,
}

/// The answer to a list.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rows<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Which rows are missing, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

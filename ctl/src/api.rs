//! The interface between `ivctl` and `ivswitchd`: JSON-RPC 2.0, one message per line, over a unix socket.
//!
//! Where iproute2 prints the same data as JSON (`bridge -j fdb`, `ip -j -s link`, `ip -j neigh`), the keys are
//! iproute2's. `socat - UNIX-CONNECT:/run/ivswitch/control.sock` also works as a client.

mod mtu;
mod problem;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::io::{CacheMode, GuestIo};
use crate::model::{Change, ConfigError, DropIn, Fault, Inside, Ports, Skipped};

pub use problem::{Problem, ProblemKind};

pub use mtu::{MtuNetwork, MtuPaste, MtuPeer, MtuPort, MtuProblem, MtuReport, MtuUplink};

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

/// Packets and bytes in one direction, with iproute2's keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes.
    pub bytes: u64,
    /// Frames.
    pub packets: u64,
    /// Frames with errors.
    pub errors: u64,
    /// Frames dropped.
    pub dropped: u64,
}

/// Counters of both directions, with iproute2's keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stats64 {
    /// Received.
    pub rx: Stats,
    /// Sent.
    pub tx: Stats,
}

/// The configuration of one object, in the answers of lists.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Configured {
    /// Every key that the object can have, with the value in force; `null` where nothing is set and the default is
    /// not a value.
    pub values: serde_json::Map<String, Value>,
    /// The keys that are at their default.
    pub defaults: Vec<String>,
    /// The name of the file that defines the object.
    pub file: String,
}

/// A port, with the keys of `ip -j -s link` where they exist.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PortRow {
    /// The name of the port.
    pub ifname: String,
    /// The interface that the port is attached to.
    pub link: String,
    /// The index of that interface, if it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// The MAC address of that interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The MAC address of the CMS's end of a door that we create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub door_address: Option<String>,
    /// `uplink`, `door` or `guest`.
    pub role: String,
    /// The port's network; the uplink has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The largest IP packet that the port carries.
    pub mtu: u16,
    /// `UP` when the port forwards and has carrier, otherwise `DOWN`.
    pub operstate: String,
    /// `live`, `ready` (open, but the other end is missing), `waiting`, `opening`, `failed`, `disabled`,
    /// `quarantined` or `err-disabled`.
    pub state: String,
    /// Why the port is not live.
    #[serde(default)]
    pub why: String,
    /// The driver: `afxdp`, `packet`, `tap`, `udp`, `vhostuser`.
    #[serde(default)]
    pub kind: String,
    /// How the port is opened: `native, zero-copy`, `native, copy` or `generic, copy`; for other drivers the offloads
    /// in use: `checksum tso uso`.
    #[serde(default)]
    pub mode: String,
    /// Why the port could not be opened in a better mode.
    #[serde(default)]
    pub reason: String,
    /// The number of queues in use.
    #[serde(default)]
    pub queues: u32,
    /// Whether the owner has cut the port off, which overrides every other state.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quarantine: bool,
    /// The port that receives copies of this port's frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// The ports whose frames are copied to this port, which does nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// The limit on frames that the switch receives from the port.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ingress: RateRow,
    /// The limit on frames that the switch sends to the port.
    #[serde(default, skip_serializing_if = "is_default")]
    pub egress: RateRow,
    /// The frames exchanged with the guest, for the `vhostuser` driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestIo>,
    /// Why the port uses this driver.
    #[serde(default)]
    pub chosen: String,
    /// Whether the interface is administratively up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// Whether the interface has carrier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<bool>,
    /// The MTU of the interface itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_mtu: Option<u32>,
    /// Seconds until a port that a guard has disabled is enabled again automatically.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovers: Option<u64>,
    /// Counters.
    pub stats64: Stats64,
    /// The port's drops by reason; absent in `status`, which has them for all ports.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drops: BTreeMap<String, u64>,
    /// The port's configuration; absent in `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Configured>,
}

/// A limit on frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RateRow {
    /// Bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bps: Option<u64>,
    /// Frames per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pps: Option<u32>,
    /// The burst in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// A network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkRow {
    /// The network's name.
    pub name: String,
    /// The network's identifier on the wire.
    pub vni: u32,
    /// The virtual gateway addresses.
    pub gateway: Vec<IpAddr>,
    /// The MAC address of the virtual gateway.
    pub router_mac: String,
    /// The most MAC addresses that the network learns.
    pub fdb_max: u32,
    /// How many seconds a learned MAC address stays without traffic.
    pub fdb_age: u64,
    /// The network's ports on this rVM.
    pub ports: Vec<String>,
    /// The peers that take part in the network.
    pub peers: Vec<String>,
    /// The number of MAC addresses known on the network, if the workers were queried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fdb: Option<u32>,
    /// The largest IP packet that reaches every peer of the network.
    #[serde(default)]
    pub mtu: u16,
    /// The network's configuration; absent in `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Configured>,
}

/// The state of a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// The peer has never answered.
    #[default]
    Unknown,
    /// The peer answers.
    Up,
    /// The peer has answered before, but no longer does.
    Silent,
    /// The peer does not answer, but its packets arrive.
    OneWay,
    /// The peer does not answer, and ICMP errors name the cause.
    Unreachable,
    /// The peer answers, but refuses the packets of every network that we share with it.
    Refuses,
    /// The peer is behind a relay that answers; the peer itself gets no questions.
    Relayed,
    /// The peer is this rVM.
    ThisRvm,
}

impl PeerState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Up,
        Self::Silent,
        Self::OneWay,
        Self::Unreachable,
        Self::Refuses,
        Self::Relayed,
        Self::ThisRvm,
    ];

    /// The state's name in JSON, metrics and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Silent => "silent",
            Self::OneWay => "one-way",
            Self::Unreachable => "unreachable",
            Self::Refuses => "refuses",
            Self::Relayed => "relayed",
            Self::ThisRvm => "this-rvm",
        }
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerRow {
    /// The peer's name.
    pub name: String,
    /// The peer's VTEP.
    pub address: IpAddr,
    /// The relay through which we reach the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Whether we relay for the peer.
    pub relay: bool,
    /// The networks that the peer takes part in.
    pub networks: Vec<String>,
    /// The largest underlay IP packet that reaches the peer.
    pub mtu: u16,
    /// The origin of that MTU: `configured`, `measured` or `assumed`.
    #[serde(default)]
    pub mtu_origin: String,
    /// The peer's state. Only `up` is healthy.
    #[serde(default)]
    pub state: PeerState,
    /// The cause of the state; empty when the peer is up.
    #[serde(default)]
    pub why: String,
    /// Seconds since the last change of the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Seconds since the peer's last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<u64>,
    /// Seconds since the peer's last packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<u64>,
    /// The networks whose packets from us the peer refuses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refuses: Vec<String>,
    /// Whether the MAC address of the underlay's next hop to the peer is known.
    pub resolved: bool,
    /// Whether the kernel has no route to the peer from our VTEP address through the uplink.
    #[serde(default)]
    pub no_route: bool,
    /// The MAC address of that next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lladdr: Option<String>,
    /// Frames sent to the peer.
    pub tx: u64,
    /// Bytes of these frames, without the tunnel's headers.
    #[serde(default)]
    pub tx_bytes: u64,
    /// Frames received from the peer.
    pub rx: u64,
    /// Bytes of these frames, without the tunnel's headers.
    #[serde(default)]
    pub rx_bytes: u64,
    /// The peer's configuration; absent in `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Configured>,
}

/// A floating-IP mapping.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FloatingRow {
    /// The public address.
    pub ip: IpAddr,
    /// The public network.
    pub network: String,
    /// The rVM to which the provider maps the public address.
    pub gateway: String,
    /// Whether the gateway is this rVM.
    pub here: bool,
    /// The gateway's address that the provider maps to the public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reality: Option<IpAddr>,
    /// The owner, if the switch translates for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
    /// The ports that the mapping is limited to.
    pub only: Vec<Ports>,
    /// The ports that the mapping leaves out.
    pub except: Vec<Ports>,
    /// Whether the next hop of inbound packets is known.
    pub resolved: bool,
    /// The MAC address of that next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lladdr: Option<String>,
    /// The port or peer that the next hop is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Packets translated inbound.
    pub packets_in: u64,
    /// Bytes of these packets, with their Ethernet headers.
    #[serde(default)]
    pub bytes_in: u64,
    /// Packets translated outbound.
    pub packets_out: u64,
    /// Bytes of these packets, with their Ethernet headers.
    #[serde(default)]
    pub bytes_out: u64,
    /// The mapping's configuration; absent in `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Configured>,
}

/// A source route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteRow {
    /// The network.
    pub network: String,
    /// Source prefix.
    pub from: String,
    /// The next hop: a peer or a router.
    pub via: String,
    /// Whether the next hop is a peer; otherwise it is a router on the network.
    #[serde(default)]
    pub to_peer: bool,
    /// The route's configuration; absent in `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Configured>,
}

/// An FDB entry, with the keys of `bridge -j fdb`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FdbRow {
    /// The MAC address.
    pub mac: String,
    /// The port that the address is behind; the uplink if the address is behind a peer.
    pub ifname: String,
    /// The VLAN, unless untagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The VTEP of the peer that the address is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<IpAddr>,
    /// The network's identifier.
    pub vni: u32,
    /// The network's name.
    pub network: String,
    /// The name of the peer that the address is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// As iproute2 has it; always empty.
    pub flags: Vec<String>,
    /// `static`, or empty for a learned entry.
    pub state: String,
    /// Seconds since the last frame from the address.
    pub used: u64,
}

/// A neighbour, with the keys of `ip -j neigh`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NeighRow {
    /// The IP address.
    pub dst: IpAddr,
    /// The neighbour's network.
    pub dev: String,
    /// The neighbour's MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lladdr: Option<String>,
    /// `REACHABLE`, `STALE` or `INCOMPLETE`.
    pub state: Vec<String>,
    /// Seconds since the neighbour's last packet.
    pub used: u64,
}

/// Frames dropped on a port for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DropRow {
    /// The port.
    pub port: String,
    /// The reason's name.
    pub reason: String,
    /// The number of frames.
    pub count: u64,
    /// The meaning of the reason.
    pub help: String,
    /// The last frame that was dropped for the reason, if one was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<SampleRow>,
}

/// A dropped frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SampleRow {
    /// The frame's full length.
    pub len: u32,
    /// The frame's first bytes, in hexadecimal.
    pub bytes: String,
}

/// A worker.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WorkerRow {
    /// The share of the last second that the worker spent moving frames, 0 to 1.
    pub busy: f64,
    /// How often the worker went to sleep since the start.
    pub sleeps: u64,
    /// Frames that the worker received since the start, from ports and from other workers.
    #[serde(default)]
    pub frames: u64,
}

/// The answer to `status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The name of the rVM.
    pub name: String,
    /// The daemon's version.
    pub version: String,
    /// See [`API`].
    pub api: u32,
    /// Seconds since the daemon started.
    pub uptime: u64,
    /// The address of our VTEP, once known.
    pub vtep: Option<IpAddr>,
    /// The UDP port of the tunnel.
    pub tunnel_port: u16,
    /// The largest inner IP packet that the tunnel carries.
    pub overlay_mtu: u16,
    /// The kernel's vxlan devices on the same UDP port: they get the tunnel packets of all VNIs except our networks'.
    #[serde(default)]
    pub port_sharers: Vec<SharerRow>,
    /// Ports, the uplink first.
    pub ports: Vec<PortRow>,
    /// Networks.
    pub networks: Vec<NetworkRow>,
    /// Peers.
    pub peers: Vec<PeerRow>,
    /// Floating IPs.
    pub floating: Vec<FloatingRow>,
    /// Workers.
    pub workers: Vec<WorkerRow>,
    /// The kernel offload.
    #[serde(default)]
    pub cache: CacheRow,
    /// The counters of the uplink's steering; absent where nothing is steered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steered: Option<SteeredRow>,
    /// The addresses that are closed to the rVM's own kernel.
    #[serde(default)]
    pub closed: ClosedRow,
    /// The frame counters of the whole switch.
    pub frames: Frames,
    /// The ICMP errors (and TCP resets) that the switch sent to senders of packets, by kind.
    #[serde(default)]
    pub icmp_errors: BTreeMap<String, u64>,
    /// The errors that the switch did not send because the rate limit was reached.
    #[serde(default)]
    pub icmp_errors_limited: u64,
    /// Drops by port and reason, most first.
    pub drops: Vec<DropRow>,
    /// The problems as sentences.
    pub warnings: Vec<String>,
    /// The same problems with their kinds, in the same order.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// A vxlan device of the kernel on the tunnel's UDP port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SharerRow {
    /// The interface.
    pub link: String,
    /// The device's VNI; `None` if it accepts any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
}

/// The kernel offload: the kernel itself forwards hot flows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CacheRow {
    /// The configured mode.
    pub mode: CacheMode,
    /// Whether the offload works.
    pub on: bool,
    /// Why the offload does not work; empty if it does.
    pub reason: String,
    /// The number of flows that are installed.
    pub flows: u32,
    /// Frames that the kernel has forwarded since the start.
    pub hits: u64,
    /// The interfaces that the kernel does not redirect frames to, and why.
    pub left_out: Vec<LeftOut>,
}

/// Counters of the uplink's steering, which handles frames before the switch sees them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SteeredRow {
    /// Tunnel packets that the switch took.
    pub tunnel: u64,
    /// Packets to reality addresses that the switch took.
    pub reality: u64,
    /// Packets to reality addresses that stayed with the kernel, because they answer packets that the kernel itself
    /// sent.
    pub own: u64,
    /// All other packets; they stay with the kernel.
    pub passed: u64,
    /// The number of known flows of the kernel itself on reality addresses.
    pub own_flows: u32,
    /// Why these flows cannot be known, with a remedy; empty where they can.
    pub own_unknown: String,
}

/// The reality addresses of floating IPs. The rVM's own kernel must not answer for them while the daemon is away, so
/// a rule that outlives the daemon closes them to the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClosedRow {
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether the rule is in place.
    pub in_place: bool,
    /// Why the rule is not in place, with a remedy; empty if it is.
    pub why: String,
    /// Why tc filters replace the nftables rule; empty where they do not.
    #[serde(default)]
    pub instead: String,
    /// How often the daemon restored the rule since its start, because another program had removed or changed it.
    pub restored: u64,
}

/// An interface that the kernel offload leaves out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// The interface's name.
    pub link: String,
    /// The reason.
    pub reason: String,
}

/// Frames of the whole switch: `rx + replicated + originated + segmented = tx + dropped + punted + consumed +
/// coalesced + queued`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Frames {
    /// Received from ports.
    pub rx: u64,
    /// Copies made for flooding.
    pub replicated: u64,
    /// Made by the switch itself.
    pub originated: u64,
    /// Segments of GSO packets, beyond the first of each.
    #[serde(default)]
    pub segmented: u64,
    /// Sent to ports.
    pub tx: u64,
    /// Dropped.
    pub dropped: u64,
    /// Handed to the kernel.
    pub punted: u64,
    /// Meant for the switch itself: answers to its own ARP and ND questions.
    pub consumed: u64,
    /// Coalesced into another frame, beyond the first of each.
    #[serde(default)]
    pub coalesced: u64,
    /// Waiting in transmit queues.
    pub queued: u64,
    /// Passed from one worker to another, which sends them.
    #[serde(default)]
    pub handed_off: u64,
    /// Received by one worker from another. The difference to `handed_off` is on its way.
    #[serde(default)]
    pub taken_over: u64,
}

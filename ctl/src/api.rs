//! What `ivctl` and `ivswitchd` say to each other: JSON-RPC 2.0, one message per line, over a unix socket.
//!
//! Where iproute2 prints the same thing as JSON (`bridge -j fdb`, `ip -j -s link`, `ip -j neigh`), the keys are
//! iproute2's. `socat - UNIX-CONNECT:/run/ivswitch/control.sock` speaks it too.

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

/// Version of this interface. Raised when something old stops working.
pub const API: u32 = 1;

/// Where the daemon listens by default.
pub const SOCKET: &str = "/run/ivswitch/control.sock";

/// Where the configuration is by default.
pub const CONFIG: &str = "/etc/ivswitch/ivswitch.toml";

/// Bytes of a request. The largest is a whole configuration; a larger file is put in place, not sent.
pub const REQUEST_LEN_MAX: usize = 1 << 20;

/// Rows in one answer; a longer table is cut, and says so.
pub const ROWS_MAX: usize = 200_000;

/// How long a request may wait for its effect when it does not say.
pub const TIMEOUT_MS_DEFAULT: u64 = 5_000;
/// The longest a request may wait.
pub const TIMEOUT_MS_MAX: u64 = 600_000;

/// Whether a method changes nothing: what a client that may only read may ask. A method that is not known here is none
/// of these.
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

/// Why a request failed, as a number that stays. What `ivctl` exits with follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// The line is no JSON.
    Parse,
    /// It is no request.
    Request,
    /// There is no such method.
    Method,
    /// The parameters do not fit the method.
    Params,
    /// It could not be done: a value is not possible.
    Failed,
    /// What it names is not there.
    NotFound,
    /// It takes what another object has, or removes what another needs.
    Conflict,
    /// Too much is waiting already.
    Busy,
    /// The client may not do that.
    Permission,
    /// It is done but did not take effect in time.
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

    /// What `ivctl` exits with.
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

/// What went wrong, in the three lines of the house: what, why, how.
#[derive(Clone, PartialEq, Debug)]
pub struct Error {
    /// Why, as a number.
    pub code: Code,
    /// What could not be done.
    pub what: String,
    /// Why not.
    pub why: String,
    /// What helps.
    pub how: String,
    /// For configurations: everything that is wrong.
    pub errors: Vec<ConfigError>,
}

impl Error {
    /// An error.
    #[must_use]
    pub fn new(code: Code, what: impl Into<String>, why: impl Into<String>, how: impl Into<String>) -> Self {
        Self { code, what: what.into(), why: why.into(), how: how.into(), errors: Vec::new() }
    }

    /// `what` was refused because of these errors.
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

    /// As the `error` object of a response.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut data = json!({ "what": self.what, "why": self.why, "how": self.how });
        if !self.errors.is_empty() {
            data["errors"] = json!(self.errors);
        }
        json!({ "code": self.code.number(), "message": format!("{}: {}", self.what, self.why), "data": data })
    }

    /// From the `error` object of a response.
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

/// [`params!`] is known from here on.
mod watch;
pub use watch::*;

fn is_default<T: Default + PartialEq>(t: &T) -> bool {
    *t == T::default()
}

params! {
    /// Of methods without parameters: `version`, `status`, `config.show`, `config.confirm`, `config.rollback`.
    Nothing [] {}

    /// Of `cache.set`.
    CacheSet [
        /// Whether it works.
        mode: CacheMode,
    ] {}

    /// Of `network.list`, `port.list`, `peer.list`.
    ListNamed [] {
        /// Only the one of this name.
        name: Option<String>,
    }

    /// Of `network.add`, `port.add`, `peer.add`, `floating.add`, `route.add`, `fdb.add`.
    Add [
        /// The object, with the keys it has in the configuration file.
        object: Value,
    ] {
        /// Fine when just this is there already.
        may_exist: bool,
    }

    /// Of `network.set`, `port.set`, `peer.set`.
    SetNamed [
        /// Which one.
        name: String,
        /// New values; `null` sets the default.
        set: Value,
    ] {}

    /// Of `network.del`, `port.del`, `peer.del`.
    DelNamed [
        /// Which one.
        name: String,
    ] {
        /// Fine when it is not there.
        if_exists: bool,
    }

    /// Of `port.enable`.
    EnablePort [
        /// Which one.
        name: String,
    ] {}

    /// Of `floating.list`, `floating.set`, `floating.del`: which mapping.
    WhichFloating [] {
        /// The public address.
        ip: Option<IpAddr>,
        /// Its network, where two have this address.
        network: Option<String>,
        /// Its ports, where several mappings share the address.
        only: Option<Vec<Ports>>,
        /// For `set`: new values; `null` sets the default.
        set: Value,
        /// For `del`: fine when it is not there.
        if_exists: bool,
    }

    /// Of `route.list`, `route.set`, `route.del`: which route.
    WhichRoute [] {
        /// The network.
        network: Option<String>,
        /// The source prefix.
        from: Option<String>,
        /// For `set`: new values.
        set: Value,
        /// For `del`: fine when it is not there.
        if_exists: bool,
    }

    /// Of `fdb.list`, `fdb.set`, `fdb.del`, `fdb.flush`: which entries.
    WhichFdb [] {
        /// Only of this network.
        network: Option<String>,
        /// Only behind this port.
        port: Option<String>,
        /// Only behind this peer.
        peer: Option<String>,
        /// Only this MAC address.
        mac: Option<String>,
        /// Only in this VLAN; `del` takes 0, untagged, by default.
        vlan: Option<u16>,
        /// For `del`: fine when it is not there.
        if_exists: bool,
        /// For `set`: new values; `null` sets the default.
        set: Value,
        /// For `list`: rows at most.
        limit: Option<usize>,
    }

    /// Of `neigh.list`, `neigh.flush`.
    WhichNeigh [] {
        /// Only of this network.
        network: Option<String>,
    }

    /// Of `drops`.
    WhichDrops [] {
        /// Only of this port.
        port: Option<String>,
    }

    /// Of `config.diff`.
    ConfigCompared [
        /// The whole configuration, as TOML.
        text: String,
    ] {
        /// The drop-ins to add; without them, those that the daemon read last.
        drop_ins: Option<Vec<DropIn>>,
    }

    /// Of `config.check`.
    ConfigText [
        /// The whole configuration, as TOML; the daemon's drop-ins are added.
        text: String,
    ] {}

    /// Of `config.apply`.
    ConfigApply [
        /// The whole configuration, as TOML; the daemon's drop-ins are added.
        text: String,
    ] {
        /// On trial: taken back unless `config.confirm` comes within so many seconds.
        confirm_s: Option<u64>,
    }
}

/// Answer to `version`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Version {
    /// [`API`].
    pub api: u32,
    /// Name of the rVM.
    pub name: String,
    /// Version of the daemon.
    pub version: String,
}

/// Answer to every method that changes something.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Edited {
    /// Whether anything had to be changed.
    pub changed: bool,
    /// What did not go as it should, though the change is in force.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Answer to `config.show`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigShown {
    /// The configuration in force but for its drop-ins, as TOML.
    pub text: String,
    /// Whether the file holds it.
    pub saved: bool,
    /// Files that add to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop_ins: Vec<String>,
    /// The main file. Its drop-ins are in the directory of this name with `.d` behind it.
    #[serde(default)]
    pub file: String,
    /// The configuration in force, drop-ins and all, with the keys of the file.
    #[serde(default)]
    pub config: Value,
    /// The name of the file that each part of `config` is from: of a list, one for each entry.
    #[serde(default)]
    pub origins: BTreeMap<String, Value>,
    /// Peers in drop-ins that are left out, since they are this rVM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// It is on trial, for so many seconds more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_s: Option<u64>,
}

/// Answer to `config.diff`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ConfigDiffers {
    /// What would change; nothing when it says the same.
    pub changes: Vec<Change>,
}

/// Answer to `config.check`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigChecked {
    /// Whether it would be taken.
    pub ok: bool,
    /// What is wrong with it.
    pub errors: Vec<ConfigError>,
}

/// Answer to a list.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rows<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// What is missing from them, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Packets and bytes of one direction, with iproute2's keys.
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

/// Both directions, with iproute2's keys.
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
    /// Every key that it can have, with the value in force; `null` where nothing is set and the default is not a value.
    pub values: serde_json::Map<String, Value>,
    /// Keys that are at their default.
    pub defaults: Vec<String>,
    /// The name of the file that it is from.
    pub file: String,
}

/// A port, with the keys of `ip -j -s link` where it has them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PortRow {
    /// Name of the port.
    pub ifname: String,
    /// The interface it is attached to.
    pub link: String,
    /// Index of that interface, when it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// MAC of that interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// `uplink`, `door` or `guest`.
    pub role: String,
    /// Its network; none for the uplink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Largest IP packet it carries.
    pub mtu: u16,
    /// `UP` when it forwards and has carrier, else `DOWN`.
    pub operstate: String,
    /// `live`, `ready` (open, with nobody at the other end), `waiting`, `opening`, `failed`, `disabled`, `quarantined`
    /// or `err-disabled`.
    pub state: String,
    /// Why it is not live.
    #[serde(default)]
    pub why: String,
    /// By which means frames come and go: `afxdp`, `packet`, `tap`, `udp`, `vhostuser`.
    #[serde(default)]
    pub kind: String,
    /// How it is opened: `native, zero-copy`, `native, copy`, `generic, copy`, or what may be left unfinished in
    /// frames: `checksum tso uso`.
    #[serde(default)]
    pub mode: String,
    /// Why not better.
    #[serde(default)]
    pub reason: String,
    /// Queues in use.
    #[serde(default)]
    pub queues: u32,
    /// Cut off by its owner, whatever its state would be.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quarantine: bool,
    /// Copies of its frames go to this port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// It has copies of these ports' frames, and nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// Limit on what is taken from it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ingress: RateRow,
    /// Limit on what is sent to it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub egress: RateRow,
    /// What passed between us and the guest, for kind `vhostuser`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestIo>,
    /// Why it is of this kind.
    #[serde(default)]
    pub chosen: String,
    /// Whether the interface is administratively up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// Whether the interface has carrier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<bool>,
    /// The interface's own MTU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_mtu: Option<u32>,
    /// Seconds until it is enabled again by itself, when a guard has disabled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovers: Option<u64>,
    /// Counters.
    pub stats64: Stats64,
    /// Its drops by reason; absent in `status`, which has them for all ports.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drops: BTreeMap<String, u64>,
    /// Its configuration; absent in `status`.
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
    /// Bytes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// A network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkRow {
    /// Its name.
    pub name: String,
    /// Its identifier on the wire.
    pub vni: u32,
    /// Virtual gateway addresses.
    pub gateway: Vec<IpAddr>,
    /// MAC of the virtual gateway.
    pub router_mac: String,
    /// Most MAC addresses learned.
    pub fdb_max: u32,
    /// Seconds a learned MAC stays.
    pub fdb_age: u64,
    /// Its ports on this rVM.
    pub ports: Vec<String>,
    /// Peers that take part in it.
    pub peers: Vec<String>,
    /// MAC addresses known on it, once asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fdb: Option<u32>,
    /// Largest IP packet that every peer of it can be sent.
    #[serde(default)]
    pub mtu: u16,
    /// Its configuration; absent in `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Configured>,
}

/// How a peer is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// It has never answered.
    #[default]
    Unknown,
    /// It answers.
    Up,
    /// It answered once, and does not any more.
    Silent,
    /// It does not answer, but its packets arrive.
    OneWay,
    /// It does not answer, and ICMP errors say why.
    Unreachable,
    /// It answers, but takes packets of no network that we share with it.
    Refuses,
    /// It is reached through a peer that answers; itself it is not asked.
    Relayed,
    /// It is this rVM.
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

    /// Its name in JSON, metrics and tables.
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
    /// Its name.
    pub name: String,
    /// Its VTEP.
    pub address: IpAddr,
    /// Reached through this peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// We relay for it.
    pub relay: bool,
    /// Networks it takes part in.
    pub networks: Vec<String>,
    /// Largest underlay IP packet that reaches it.
    pub mtu: u16,
    /// Where that is from: `configured`, `measured` or `assumed`.
    #[serde(default)]
    pub mtu_origin: String,
    /// How it is. Only `up` is health.
    #[serde(default)]
    pub state: PeerState,
    /// The cause of the state; empty when the peer is up.
    #[serde(default)]
    pub why: String,
    /// Seconds since the last change of the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Seconds since it answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<u64>,
    /// Seconds since its last packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<u64>,
    /// Networks of which it refuses our packets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refuses: Vec<String>,
    /// Whether its underlay next hop is known.
    pub resolved: bool,
    /// The kernel has no route to it from our VTEP address out of the uplink.
    #[serde(default)]
    pub no_route: bool,
    /// MAC of that next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lladdr: Option<String>,
    /// Frames sent to it.
    pub tx: u64,
    /// Bytes of these frames, without the tunnel's headers.
    #[serde(default)]
    pub tx_bytes: u64,
    /// Frames received from it.
    pub rx: u64,
    /// Bytes of these frames, without the tunnel's headers.
    #[serde(default)]
    pub rx_bytes: u64,
    /// Its configuration; absent in `status`.
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
    /// The rVM that holds the provider's end.
    pub gateway: String,
    /// Whether that is this one.
    pub here: bool,
    /// The address that the provider knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reality: Option<IpAddr>,
    /// The owner, where the switch translates for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
    /// Only these ports.
    pub only: Vec<Ports>,
    /// Never these ports.
    pub except: Vec<Ports>,
    /// Whether it is known where inbound packets go.
    pub resolved: bool,
    /// MAC they go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lladdr: Option<String>,
    /// Port or peer behind which that is.
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
    /// Its configuration; absent in `status`.
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
    /// Next hop: peer or router.
    pub via: String,
    /// Whether that is a peer, or else a router on the network.
    #[serde(default)]
    pub to_peer: bool,
    /// Its configuration; absent in `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Configured>,
}

/// An FDB entry, with the keys of `bridge -j fdb`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FdbRow {
    /// The address.
    pub mac: String,
    /// The port it is behind; the uplink for an address behind a peer.
    pub ifname: String,
    /// VLAN, unless untagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// VTEP of the peer it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<IpAddr>,
    /// The network's identifier.
    pub vni: u32,
    /// The network's name.
    pub network: String,
    /// Name of the peer it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// As iproute2 has it; empty here.
    pub flags: Vec<String>,
    /// `static`, or empty for a learned one.
    pub state: String,
    /// Seconds since it was heard.
    pub used: u64,
}

/// A neighbour, with the keys of `ip -j neigh`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NeighRow {
    /// The address.
    pub dst: IpAddr,
    /// The network it is on.
    pub dev: String,
    /// Its MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lladdr: Option<String>,
    /// `REACHABLE`, `STALE` or `INCOMPLETE`.
    pub state: Vec<String>,
    /// Seconds since it was heard.
    pub used: u64,
}

/// Frames dropped on a port for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DropRow {
    /// The port.
    pub port: String,
    /// The reason's name.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// What the reason means.
    pub help: String,
    /// The last such frame, where one was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<SampleRow>,
}

/// A dropped frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SampleRow {
    /// Its whole length.
    pub len: u32,
    /// Its first bytes, in hexadecimal.
    pub bytes: String,
}

/// A worker.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Share of the last second spent moving frames, 0 to 1.
    pub busy: f64,
    /// Times it went to sleep since start.
    pub sleeps: u64,
    /// Frames it received since start, from ports and from other workers.
    #[serde(default)]
    pub frames: u64,
}

/// Answer to `status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Name of the rVM.
    pub name: String,
    /// Version of the daemon.
    pub version: String,
    /// [`API`].
    pub api: u32,
    /// Seconds since it started.
    pub uptime: u64,
    /// Our VTEP, once known.
    pub vtep: Option<IpAddr>,
    /// UDP port of the tunnel.
    pub tunnel_port: u16,
    /// Largest inner IP packet the tunnel carries.
    pub overlay_mtu: u16,
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
    /// The verdict cache.
    #[serde(default)]
    pub cache: CacheRow,
    /// What the uplink's steering did; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steered: Option<SteeredRow>,
    /// Addresses that are closed to the rVM's own kernel.
    #[serde(default)]
    pub closed: ClosedRow,
    /// Frames of the switch as a whole.
    pub frames: Frames,
    /// ICMP errors (and TCP resets) that senders of packets were sent, by kind.
    #[serde(default)]
    pub icmp_errors: BTreeMap<String, u64>,
    /// Errors that were not sent, for there were too many.
    #[serde(default)]
    pub icmp_errors_limited: u64,
    /// Drops by port and reason, most first.
    pub drops: Vec<DropRow>,
    /// The problems as sentences.
    pub warnings: Vec<String>,
    /// The same with its kind, in the same order.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// The verdict cache: the kernel follows the verdicts of hot flows by itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CacheRow {
    /// As configured.
    pub mode: CacheMode,
    /// It works.
    pub on: bool,
    /// Why not; empty when it does.
    pub reason: String,
    /// Flows installed.
    pub flows: u32,
    /// Frames that followed a verdict in the kernel since the start.
    pub hits: u64,
    /// Interfaces that frames are not redirected to, and why not.
    pub left_out: Vec<LeftOut>,
}

/// What became of frames that came in by the uplink, before the switch decided about any.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SteeredRow {
    /// Tunnel packets that the switch took.
    pub tunnel: u64,
    /// Packets to reality addresses that it took.
    pub reality: u64,
    /// Packets to reality addresses that it left to the kernel, as answers to what the kernel sent itself.
    pub own: u64,
    /// Everything else, which is the kernel's.
    pub passed: u64,
    /// Flows of the kernel's own on reality addresses that are known.
    pub own_flows: u32,
    /// Why they cannot be known, with a remedy; empty where they can.
    pub own_unknown: String,
}

/// Reality addresses of floating IPs, which the rVM's own kernel must not answer for in their place while the daemon is
/// away: a rule that outlives the daemon sees to it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClosedRow {
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// The rule is in place.
    pub in_place: bool,
    /// Why not, with a remedy; empty when it is.
    pub why: String,
    /// Why filters of tc stand in for nftables; empty where they do not.
    #[serde(default)]
    pub instead: String,
    /// Times that another program removed or changed the rule, and it was put back, since the daemon started.
    pub restored: u64,
}

/// An interface without the verdict cache.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub link: String,
    /// Why.
    pub reason: String,
}

/// Frames of the switch as a whole:
/// `rx + replicated + originated + segmented = tx + dropped + punted + consumed + coalesced + queued`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Frames {
    /// Taken from ports.
    pub rx: u64,
    /// Copies made for flooding.
    pub replicated: u64,
    /// Made by the switch itself.
    pub originated: u64,
    /// Made by cutting super-frames, beyond the first of each.
    #[serde(default)]
    pub segmented: u64,
    /// Given to ports.
    pub tx: u64,
    /// Dropped.
    pub dropped: u64,
    /// Handed to the kernel.
    pub punted: u64,
    /// For the switch itself: answers to its own ARP and ND questions.
    pub consumed: u64,
    /// Merged into another, beyond the first of each.
    #[serde(default)]
    pub coalesced: u64,
    /// Waiting in transmit queues.
    pub queued: u64,
    /// Given by one worker to another, which sends them.
    #[serde(default)]
    pub handed_off: u64,
    /// Taken by one worker from another; those between the two are on their way.
    #[serde(default)]
    pub taken_over: u64,
}

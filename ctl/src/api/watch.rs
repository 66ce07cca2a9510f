//! Observation: the walk of a frame in words, captures, logs.

use serde::{Deserialize, Serialize};

use super::is_default;

params! {
    /// Of `trace`.
    TraceFrame [
        /// The port where it would come in.
        port: String,
        /// The frame, in hexadecimal.
        frame: String,
    ] {}

    /// Of `capture.start`.
    StartCapture [] {
        /// This port only.
        port: Option<String>,
        /// Only frames that fit this (see [`crate::filter`]).
        filter: String,
        /// Bytes of each frame.
        snap_len: Option<u32>,
        /// Ends after so many frames per worker; 0: never.
        count: u32,
        /// Not the frames that leave.
        incoming: bool,
        /// The whole walk of each frame.
        walk: bool,
    }

    /// Of `capture.read` and `capture.stop`.
    WhichCapture [
        /// Its number.
        capture: u32,
    ] {}

    /// Of `subscribe`.
    Subscribe [] {
        /// Drops per second for one reason at one port from which on they are told of.
        drops_per_second: Option<u64>,
    }

    /// Of `log.level`.
    LogLevel [] {
        /// The new level or filter; without one, the present is told.
        filter: Option<String>,
    }
}

/// Answer to `capture.start`. The capture ends with the connection, at the latest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CaptureStarted {
    /// Its number.
    pub capture: u32,
    /// The ports it is about.
    pub ports: Vec<String>,
}

/// Answer to `capture.read`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Captured {
    /// The daemon's clock, which frames are stamped with, in nanoseconds.
    pub now: u64,
    /// What was seen, in order.
    pub frames: Vec<SeenRow>,
    /// Frames that were seen and could not be kept, since this was asked last.
    pub lost: u64,
}

/// A frame that was seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeenRow {
    /// When, by the daemon's clock.
    pub at: u64,
    /// Where.
    pub port: String,
    /// It left by this port, else it came in.
    pub leaving: bool,
    /// Its whole length.
    pub len: u32,
    /// Its first bytes, in hexadecimal.
    pub bytes: String,
    /// What became of it, in one line.
    pub verdict: String,
    /// All of its walk, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub walk: Option<WalkRow>,
}

/// The walk of a frame.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WalkRow {
    /// What happened, in order.
    pub steps: Vec<StepRow>,
    /// The end of it, in one line.
    pub verdict: String,
    /// Whether anything was sent, punted, merged or consumed, and nothing dropped.
    pub delivered: bool,
    /// Frames that leave because of it.
    pub sent: Vec<SentRow>,
    /// Why something was dropped.
    pub drops: Vec<WalkDrop>,
}

/// A step of a walk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepRow {
    /// `steer`, `admit`, `classify`, `act` or `output`.
    pub stage: String,
    /// The table that decided, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// What, for people.
    pub text: String,
}

/// A frame that leaves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SentRow {
    /// By this port.
    pub port: String,
    /// To this peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Its length.
    pub len: u32,
    /// Its bytes, in hexadecimal.
    pub bytes: String,
}

/// Why something was dropped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WalkDrop {
    /// The port where it is counted.
    pub port: String,
    /// The reason's name.
    pub reason: String,
    /// What the reason means.
    pub help: String,
}

/// Answer to `log.level`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogShown {
    /// What is logged now.
    pub filter: String,
}

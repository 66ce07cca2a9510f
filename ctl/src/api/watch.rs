//! Observation: the dry run of a frame in words, captures, and the log.

use serde::{Deserialize, Serialize};

use super::is_default;

params! {
    /// For `trace`.
    TraceFrame [
        /// The port that the frame would arrive at.
        port: String,
        /// The frame, in hexadecimal.
        frame: String,
    ] {}

    /// For `capture.start`.
    StartCapture [] {
        /// Capture at this port.
        port: Option<String>,
        /// Capture frames that match this filter (see [`crate::filter`]).
        filter: String,
        /// How many bytes of each frame to keep.
        snap_len: Option<u32>,
        /// Stop after this many frames per worker; 0: never.
        count: u32,
        /// Leave out frames that the switch sends.
        incoming: bool,
        /// Record each frame's way through the pipeline.
        walk: bool,
    }

    /// For `capture.read` and `capture.stop`.
    WhichCapture [
        /// The capture's number.
        capture: u32,
    ] {}

    /// For `subscribe`.
    Subscribe [] {
        /// The drop rate, per second, of one reason at one port from which the client wants an event.
        drops_per_second: Option<u64>,
    }

    /// For `log.level`.
    LogLevel [] {
        /// The new level or filter; without one, the answer shows the present filter.
        filter: Option<String>,
    }
}

/// The answer to `capture.start`. The capture ends with the connection, at the latest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CaptureStarted {
    /// The capture's number.
    pub capture: u32,
    /// The captured ports.
    pub ports: Vec<String>,
}

/// The answer to `capture.read`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Captured {
    /// The time of the daemon's clock, which also stamps frames, in nanoseconds.
    pub now: u64,
    /// The captured frames, in order.
    pub frames: Vec<SeenRow>,
    /// Frames since the last read that matched but could not be kept.
    pub lost: u64,
}

/// A captured frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeenRow {
    /// The time, by the daemon's clock.
    pub at: u64,
    /// The port.
    pub port: String,
    /// Whether the frame leaves by the port; otherwise it comes in.
    pub leaving: bool,
    /// The frame's full length.
    pub len: u32,
    /// The frame's first bytes, in hexadecimal.
    pub bytes: String,
    /// The result for the frame, in one line.
    pub verdict: String,
    /// The frame's way through the pipeline, if the client asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub walk: Option<WalkRow>,
}

/// A frame's way through the pipeline.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WalkRow {
    /// The steps, in order.
    pub steps: Vec<StepRow>,
    /// The result, in one line.
    pub verdict: String,
    /// Whether anything was sent, punted, coalesced or consumed, and nothing was dropped.
    pub delivered: bool,
    /// The frames that leave as a result.
    pub sent: Vec<SentRow>,
    /// The reasons for drops.
    pub drops: Vec<WalkDrop>,
}

/// A step in the pipeline.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepRow {
    /// `steer`, `admit`, `classify`, `act` or `output`.
    pub stage: String,
    /// The table that decided, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The step in words, for people.
    pub text: String,
}

/// A frame that leaves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SentRow {
    /// The port that sends the frame.
    pub port: String,
    /// The peer that receives the frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The frame's length.
    pub len: u32,
    /// The frame's bytes, in hexadecimal.
    pub bytes: String,
}

/// The reason for a drop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WalkDrop {
    /// The port where the drop is counted.
    pub port: String,
    /// The reason's name.
    pub reason: String,
    /// The meaning of the reason.
    pub help: String,
}

/// The answer to `log.level`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogShown {
    /// The filter in force.
    pub filter: String,
}

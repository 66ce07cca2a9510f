//! Captures as plain data: the specification of a watch, and the frames that it has seen. The code that
//! observes the pipeline is in `forward/watched.rs`.
//!
//! A [`WatchSpec`] is a capture, or the wait for one frame to explain. Its cost is limited to the frames that
//! it sees: a worker without watches tests one length per batch, and only frames that come in at a watched
//! port take the slow path.

pub mod filter;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::command::PortId;
use crate::counters::DropReason;
use crate::forward::trail::Step;
use crate::forward::verdict::Verdict;
use crate::limits::{WATCH_BYTES, WATCH_FRAMES};
use crate::time::Instant;

use filter::Filter;

/// Identifies a watch. Chosen by the agent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WatchId(pub u32);

/// The specification of a watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchSpec {
    /// Only this port; `None`: all ports.
    pub port: Option<PortId>,
    /// Only frames that match this filter.
    pub filter: Filter,
    /// Number of bytes kept of each frame.
    pub snap_len: u32,
    /// Ends the watch after this many frames at each worker; 0: never.
    pub count: u32,
    /// Also watches frames that leave.
    pub leaving: bool,
    /// Also keeps the results of incoming frames: the bytes that were sent.
    pub results: bool,
}

/// A frame that a watch has seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Time of the frame's batch.
    pub at: Instant,
    /// The frame's port.
    pub port: PortId,
    /// Length of the whole frame.
    pub len: u32,
    /// The first bytes of the frame.
    pub bytes: Vec<u8>,
    /// The outcome.
    pub fate: Fate,
}

/// The outcome of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The frame came in.
    Walked(Walk),
    /// The frame was sent.
    Sent,
    /// The frame was to be sent, but was dropped.
    NotSent(DropReason),
}

/// The path of an incoming frame through the pipeline.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Walk {
    /// The steps of `classify`.
    pub steps: Vec<Step>,
    /// The verdict; `None` when the frame was not admitted.
    pub verdict: Option<Verdict>,
    /// The frames that it put on ports' queues.
    pub sent: Vec<Sent>,
    /// The drops that it caused: the port that counts each, and the reason.
    pub drops: Vec<(PortId, DropReason)>,
    /// The frame went to the kernel.
    pub punted: bool,
    /// The frame was for the switch itself.
    pub consumed: bool,
    /// The frame was coalesced into a queued one.
    pub coalesced: bool,
}

/// A frame put on a port's queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// The port.
    pub port: PortId,
    /// Length of the frame.
    pub len: u32,
    /// The bytes of the frame, if the watch wants results.
    pub bytes: Vec<u8>,
}

/// The watches of one worker. Each keeps at most [`WATCH_FRAMES`] frames and [`WATCH_BYTES`] bytes until they
/// are fetched. Further frames are counted as lost; forwarding never waits.
#[derive(Debug, Default)]
pub struct Watches(Vec<Watch>);

#[derive(Debug)]
struct Watch {
    id: WatchId,
    spec: WatchSpec,
    /// Number of frames that the watch still wants.
    left: Option<u32>,
    frames: VecDeque<Seen>,
    bytes: usize,
    lost: u64,
}

impl Watches {
    /// Starts a watch. Replaces another one with the same number.
    pub fn add(&mut self, id: WatchId, spec: WatchSpec) {
        self.remove(id);
        let left = (spec.count > 0).then_some(spec.count);
        self.0.push(Watch { id, spec, left, frames: VecDeque::new(), bytes: 0, lost: 0 });
    }

    /// Ends a watch.
    pub fn remove(&mut self, id: WatchId) {
        self.0.retain(|watch| watch.id != id);
    }

    /// Whether no watch is active.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a watch covers this port.
    #[must_use]
    pub fn covers(&self, port: PortId) -> bool {
        self.0.iter().any(|watch| watch.covers(port))
    }

    /// Whether a watch wants this frame.
    #[must_use]
    pub fn wants(&self, port: PortId, bytes: &[u8], leaving: bool) -> bool {
        self.0.iter().any(|watch| watch.wants(port, bytes, leaving))
    }

    /// Whether a watch also wants the results of this frame.
    #[must_use]
    pub fn wants_results(&self, port: PortId) -> bool {
        self.0.iter().any(|watch| watch.spec.results && watch.covers(port))
    }

    /// Passes a frame to every watch that wants it.
    pub fn show(&mut self, at: Instant, port: PortId, len: u32, bytes: &[u8], fate: &Fate) {
        let leaving = !matches!(fate, Fate::Walked(_));
        for watch in self.0.iter_mut().filter(|watch| watch.wants(port, bytes, leaving)) {
            let kept = &bytes[..bytes.len().min(watch.spec.snap_len as usize)];
            watch.keep(Seen { at, port, len, bytes: kept.to_vec(), fate: fate.clone() });
        }
    }

    /// Takes the frames seen, as far as they fit `frames` and `bytes` (but always at least one), and the
    /// number of frames lost since the last call.
    pub fn take(&mut self, id: WatchId, frames: usize, bytes: usize) -> (Vec<Seen>, u64) {
        let Some(watch) = self.0.iter_mut().find(|watch| watch.id == id) else { return (Vec::new(), 0) };
        let (mut taken, mut weight) = (Vec::new(), 0);
        while taken.len() < frames
            && let Some(seen) = watch.frames.front()
        {
            weight += seen.weight();
            if weight > bytes && !taken.is_empty() {
                break;
            }
            watch.bytes -= seen.weight();
            taken.extend(watch.frames.pop_front());
        }
        (taken, core::mem::take(&mut watch.lost))
    }
}

impl Watch {
    fn covers(&self, port: PortId) -> bool {
        self.left != Some(0) && self.spec.port.is_none_or(|p| p == port)
    }

    fn wants(&self, port: PortId, bytes: &[u8], leaving: bool) -> bool {
        self.covers(port) && (self.spec.leaving || !leaving) && self.spec.filter.matches(bytes)
    }

    fn keep(&mut self, seen: Seen) {
        if self.frames.len() >= WATCH_FRAMES || self.bytes + seen.weight() > WATCH_BYTES {
            self.lost += 1;
            return;
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        self.bytes += seen.weight();
        self.frames.push_back(seen);
    }
}

impl Seen {
    /// Approximate memory of a kept frame, in bytes.
    fn weight(&self) -> usize {
        const FIXED: usize = 128;
        let walk = match &self.fate {
            Fate::Walked(walk) => {
                let sent: usize = walk.sent.iter().map(|sent| FIXED + sent.bytes.len()).sum();
                sent + walk.steps.len() * size_of::<Step>()
            }
            Fate::Sent | Fate::NotSent(_) => 0,
        };
        FIXED + self.bytes.len() + walk
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const DOOR: PortId = PortId(1);

    fn spec(port: Option<PortId>) -> WatchSpec {
        WatchSpec { port, filter: Filter::default(), snap_len: 64, count: 0, leaving: true, results: false }
    }

    fn frame() -> Vec<u8> {
        vec![2; 100]
    }

    /// The number of unfetched frames is bounded, and further frames are counted. After a fetch there is room
    /// again.
    #[test]
    fn a_slow_reader_loses_frames_and_is_told_how_many() {
        let mut watches = Watches::default();
        watches.add(WatchId(1), WatchSpec { snap_len: 1 << 20, ..spec(None) });
        for _ in 0..WATCH_FRAMES + 5 {
            watches.show(Instant::ZERO, DOOR, 100, &frame(), &Fate::Sent);
        }
        let (seen, lost) = watches.take(WatchId(1), 10, usize::MAX);
        assert_eq!((seen.len(), lost), (10, 5));
        watches.show(Instant::ZERO, DOOR, 100, &frame(), &Fate::Sent);
        let (seen, lost) = watches.take(WatchId(1), usize::MAX, usize::MAX);
        assert_eq!((seen.len(), lost), (WATCH_FRAMES - 9, 0));
        let huge = vec![2; 60_000];
        for _ in 0..200 {
            watches.show(Instant::ZERO, DOOR, 60_000, &huge, &Fate::Sent);
        }
        let (seen, lost) = watches.take(WatchId(1), usize::MAX, usize::MAX);
        assert!(seen.iter().map(|seen| seen.bytes.len()).sum::<usize>() <= WATCH_BYTES);
        assert_eq!(seen.len() as u64 + lost, 200);
    }

    #[test]
    fn a_watch_sees_its_port_as_often_and_as_much_as_it_asked() {
        let mut watches = Watches::default();
        assert!(watches.is_empty());
        watches.add(WatchId(1), WatchSpec { count: 2, leaving: false, ..spec(Some(DOOR)) });
        let walked = Fate::Walked(Walk::default());
        for (port, fate) in [(PortId(2), &walked), (DOOR, &Fate::Sent), (DOOR, &walked), (DOOR, &walked)] {
            watches.show(Instant::ZERO, port, 100, &frame(), fate);
        }
        assert!(!watches.covers(DOOR), "it has what it wanted");
        let (seen, lost) = watches.take(WatchId(1), usize::MAX, 1);
        assert_eq!((seen.len(), seen[0].bytes.len(), seen[0].len, lost), (1, 64, 100, 0), "one at least");
        assert_eq!(watches.take(WatchId(1), usize::MAX, 1).0.len(), 1);
        watches.remove(WatchId(1));
        assert!(watches.is_empty());
    }
}

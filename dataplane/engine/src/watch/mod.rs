//! Observation, in plain data: what a watch asks for, and what it saw. The walk itself is in `forward/watched.rs`.
//!
//! A [`WatchSpec`] is a capture, or the wait for one frame to explain. It costs what it sees: a worker without
//! watches tests one length per batch, and of a watched port only the frames that come in take the long way.

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

/// What to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchSpec {
    /// This port; `None`: all of them.
    pub port: Option<PortId>,
    /// Only these frames.
    pub filter: Filter,
    /// Bytes kept of each.
    pub snap_len: u32,
    /// Ends after so many frames at each worker; 0: never.
    pub count: u32,
    /// Also frames that leave.
    pub leaving: bool,
    /// Also what frames that came in became: the bytes that were sent.
    pub results: bool,
}

/// A frame that was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// When its batch came or went.
    pub at: Instant,
    /// Where.
    pub port: PortId,
    /// Its whole length.
    pub len: u32,
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a frame that was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It came in.
    Walked(Walk),
    /// It went out.
    Sent,
    /// It should have gone out.
    NotSent(DropReason),
}

/// The walk of a frame that came in, as it was.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Walk {
    /// What `classify` did.
    pub steps: Vec<Step>,
    /// What it decided; `None` when the frame was refused before.
    pub verdict: Option<Verdict>,
    /// What was put on ports' queues because of it.
    pub sent: Vec<Sent>,
    /// What was dropped because of it: where that is counted, and why.
    pub drops: Vec<(PortId, DropReason)>,
    /// It went to the kernel.
    pub punted: bool,
    /// It was for the switch itself.
    pub consumed: bool,
    /// It was merged into one that waits to be sent.
    pub coalesced: bool,
}

/// A frame put on a port's queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    /// The port.
    pub port: PortId,
    /// Its length.
    pub len: u32,
    /// Its bytes, where they were asked for.
    pub bytes: Vec<u8>,
}

/// The watches of one worker. Each keeps at most [`WATCH_FRAMES`] frames and [`WATCH_BYTES`] bytes until they are
/// fetched; what comes on top is counted as lost, never waited for.
#[derive(Debug, Default)]
pub struct Watches(Vec<Watch>);

#[derive(Debug)]
struct Watch {
    id: WatchId,
    spec: WatchSpec,
    /// How many more it wants.
    left: Option<u32>,
    frames: VecDeque<Seen>,
    bytes: usize,
    lost: u64,
}

impl Watches {
    /// Begins one. Another of the same number ends.
    pub fn add(&mut self, id: WatchId, spec: WatchSpec) {
        self.remove(id);
        let left = (spec.count > 0).then_some(spec.count);
        self.0.push(Watch { id, spec, left, frames: VecDeque::new(), bytes: 0, lost: 0 });
    }

    /// Ends one.
    pub fn remove(&mut self, id: WatchId) {
        self.0.retain(|watch| watch.id != id);
    }

    /// Whether nobody watches.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether somebody watches this port.
    #[must_use]
    pub fn covers(&self, port: PortId) -> bool {
        self.0.iter().any(|watch| watch.covers(port))
    }

    /// Whether somebody wants this frame.
    #[must_use]
    pub fn wants(&self, port: PortId, bytes: &[u8], leaving: bool) -> bool {
        self.0.iter().any(|watch| watch.wants(port, bytes, leaving))
    }

    /// Whether somebody wants what became of this frame, too.
    #[must_use]
    pub fn wants_results(&self, port: PortId) -> bool {
        self.0.iter().any(|watch| watch.spec.results && watch.covers(port))
    }

    /// Gives a frame to whoever wants it.
    pub fn show(&mut self, at: Instant, port: PortId, len: u32, bytes: &[u8], fate: &Fate) {
        let leaving = !matches!(fate, Fate::Walked(_));
        for watch in self.0.iter_mut().filter(|watch| watch.wants(port, bytes, leaving)) {
            let kept = &bytes[..bytes.len().min(watch.spec.snap_len as usize)];
            watch.keep(Seen { at, port, len, bytes: kept.to_vec(), fate: fate.clone() });
        }
    }

    /// Takes what was seen, as far as it fits `frames` and `bytes` (but one frame always does), and how many were
    /// lost since the last time.
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
    /// What it takes to keep it, about.
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

    /// What is not fetched is bounded and what does not fit is counted; once it is fetched there is room again.
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

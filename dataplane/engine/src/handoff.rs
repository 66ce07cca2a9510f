//! The rings between workers, for news and for frames to ports that another worker owns.
//!
//! Workers share no state. Each pair has two single-producer single-consumer rings in each direction: one
//! for [`News`], and one for finished frames that only have to leave through a port of the other worker. A
//! full ring refuses, so no worker waits for another. The sender then drops the frame as on a full transmit
//! queue, and the scan in `forward/share.rs` repeats the news.

use alloc::vec::Vec;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::command::{PortId, Rate};
use crate::forward::share::News;
use crate::frame::Parcel;
use crate::limits::{HANDOFF_FRAMES, HANDOFF_NEWS};

/// One worker's ends of the rings to and from another.
#[derive(Debug)]
pub struct Link {
    pub(crate) news_out: Producer<News>,
    pub(crate) news_in: Consumer<News>,
    pub(crate) frames_out: Producer<(PortId, Parcel)>,
    pub(crate) frames_in: Consumer<(PortId, Parcel)>,
}

impl Link {
    fn pair() -> (Self, Self) {
        let (news_ab, news_from_a) = RingBuffer::new(HANDOFF_NEWS);
        let (news_ba, news_from_b) = RingBuffer::new(HANDOFF_NEWS);
        let (frames_ab, frames_from_a) = RingBuffer::new(HANDOFF_FRAMES);
        let (frames_ba, frames_from_b) = RingBuffer::new(HANDOFF_FRAMES);
        (
            Self { news_out: news_ab, news_in: news_from_b, frames_out: frames_ab, frames_in: frames_from_b },
            Self { news_out: news_ba, news_in: news_from_a, frames_out: frames_ba, frames_in: frames_from_a },
        )
    }

    /// Whether the other worker has sent something that this one has not taken yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.news_in.is_empty() || !self.frames_in.is_empty()
    }
}

/// How a port's queues are spread over the workers.
///
/// If a port has a queue for every worker, each worker receives and sends through its own. If it has fewer,
/// some workers have one each and the others send through theirs. The port's number determines which workers
/// have one, so that ports with a single queue are also spread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spread {
    /// The port.
    pub port: PortId,
    /// Number of the port's queues.
    pub queues: u32,
    /// Number of workers.
    pub workers: usize,
}

/// The share of a port that one worker receives: some of all queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Number of queues of this worker.
    pub queues: u32,
    /// Number of queues of all workers.
    pub of: u32,
}

impl Spread {
    /// The worker that a queue belongs to.
    #[must_use]
    pub fn worker_of(&self, queue: u32) -> usize {
        let first = if (self.queues as usize) < self.workers { usize::from(self.port.0) } else { 0 };
        (first + queue as usize) % self.workers.max(1)
    }

    /// The queues of one worker.
    pub fn queues_of(&self, worker: usize) -> impl Iterator<Item = u32> + use<> {
        let spread = *self;
        (0..spread.queues).filter(move |&queue| spread.worker_of(queue) == worker)
    }

    /// The worker that sends for one without a queue.
    #[must_use]
    pub fn sender_for(&self, worker: usize) -> usize {
        self.worker_of((worker % self.queues.max(1) as usize) as u32)
    }

    /// The share that one worker receives.
    #[must_use]
    pub fn share_of(&self, worker: usize) -> Share {
        Share { queues: self.queues_of(worker).count() as u32, of: self.queues }
    }
}

impl Share {
    /// The whole port.
    pub const WHOLE: Self = Self { queues: 1, of: 1 };

    /// This share of a limit on received frames or bytes, at least one.
    #[must_use]
    pub fn of_limit(self, limit: u32) -> u32 {
        u32::try_from(self.of_u64(limit.into())).unwrap_or(limit)
    }

    fn of_u64(self, limit: u64) -> u64 {
        let share = u128::from(limit) * u128::from(self.queues) / u128::from(self.of.max(1));
        u64::try_from(share).unwrap_or(limit).clamp(1, limit.max(1))
    }

    /// This share of a rate, with its burst.
    #[must_use]
    pub fn of_rate(self, Rate { bps, pps, burst }: Rate) -> Rate {
        Rate {
            bps: bps.map(|bps| self.of_u64(bps)),
            pps: pps.map(|pps| self.of_limit(pps)),
            burst: burst.map(|bytes| self.of_limit(bytes)),
        }
    }
}

/// Creates the links of `count` workers: element `i` is for worker `i`, and has no link to itself.
#[must_use]
pub fn mesh(count: usize) -> Vec<Vec<Option<Link>>> {
    let mut all: Vec<Vec<Option<Link>>> = Vec::with_capacity(count);
    for b in 0..count {
        let mut links: Vec<Option<Link>> = Vec::with_capacity(count);
        for others in &mut all {
            let (from_a, from_b) = Link::pair();
            debug_assert_eq!(others.len(), b, "its links to those before b are there");
            others.push(Some(from_a));
            links.push(Some(from_b));
        }
        links.push(None);
        all.push(links);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_has_a_worker_and_every_worker_a_way_out() {
        for workers in 1..=5 {
            for queues in 1..=8 {
                for port in 0..6 {
                    let spread = Spread { port: PortId(port), queues, workers };
                    let owned: usize = (0..workers).map(|w| spread.queues_of(w).count()).sum();
                    assert_eq!(owned, queues as usize);
                    for worker in 0..workers {
                        let has = spread.queues_of(worker).count();
                        let sender = if has > 0 { worker } else { spread.sender_for(worker) };
                        assert!(spread.queues_of(sender).next().is_some(), "{spread:?} {worker}");
                        assert_eq!(has == 0, (queues as usize) < workers && sender != worker);
                    }
                }
            }
        }
        let one = |port| Spread { port: PortId(port), queues: 1, workers: 2 }.worker_of(0);
        assert_ne!(one(1), one(2), "ports of one queue are spread");
    }

    #[test]
    fn a_limit_is_shared_and_never_nothing() {
        assert_eq!(Share { queues: 1, of: 2 }.of_limit(10_000), 5000);
        assert_eq!(Share { queues: 2, of: 3 }.of_limit(9), 6);
        assert_eq!(Share { queues: 1, of: 64 }.of_limit(1), 1);
        assert_eq!(Share::WHOLE.of_limit(u32::MAX), u32::MAX);
    }
}

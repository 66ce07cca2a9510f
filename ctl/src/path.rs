//! The path MTU to one peer, found by probing (RFC 8899, DPLPMTUD). It is sans-I/O: [`Path::handle`] takes events,
//! [`Path::poll_output`] gives the probes to send, [`Path::next_deadline`] gives the time of the next call.
//!
//! ```text
//!             max answers                     confirmation fails three times
//!           ┌─────────────► settled ◄───────────────────────┐
//!  knocking ┤                  ▲  └────► confirming ────────┴─► knocking
//!   ▲   │   └─ min answers ─► searching
//!   │   └──── no answer ──────► silent ── later, or when the peer asks us ──┐
//!   └───────────────────────────────────────────────────────────────────────┘
//! ```
//! A *round* sends several sizes at the same time, each up to three times; it ends when all are answered or the last
//! wait is over. Knocking tries the largest and the smallest size that make sense. Searching narrows the range from
//! the sizes that real links have down to the byte, in three or four rounds. The published value changes only when a
//! search is over, so it never flaps on the way; the search for a larger value runs only every ten minutes.
//!
//! For a peer that never answers (a kernel's VXLAN device, for example), the value stays at the uplink's MTU,
//! *assumed*. ICMP is not used: anyone can send it, and the kernel ties it to sockets that the tunnel does not have.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher as _};

use engine::time::{Duration, Instant};

/// How long an answer may take: longer than any path on Earth.
const WAIT: Duration = Duration::from_millis(500);
/// How many probes of one size go unanswered before the size counts as too large (RFC 8899 §5.1.2: MAX_PROBES).
const TRIES: u32 = 3;
/// The interval for confirming a settled value. A black hole lasts little longer than this.
const CONFIRM: Duration = Duration::from_secs(15);
/// The interval for trying larger sizes (RFC 8899 §5.1.1: PMTU_RAISE_TIMER).
const RAISE: Duration = Duration::from_secs(600);
/// The pause after the first unanswered knock; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// See [`PAUSE_MIN`].
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The number of sizes in one round of narrowing.
const FAN: u16 = 8;
/// The MTUs of common links and tunnels; they are tried first.
const COMMON: [u16; 22] = [
    1280, 1300, 1350, 1376, 1400, 1410, 1420, 1436, 1450, 1454, 1460, 1472, 1480, 1492, 1500, 1600, 2000,
    4352, 8500, 8896, 9000, 9001,
];

/// An event that concerns the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// A probe of this size arrived.
    Answered {
        /// Bytes of the underlay packet.
        size: u16,
        /// The nonce in the probe.
        nonce: u64,
    },
    /// The peer probed us: it is there.
    Asked,
    /// The uplink's MTU changed.
    Max(u16),
    /// Probes may have been lost because of a change: start over.
    Restart,
    /// Only time passed.
    Time,
}

/// An action for the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send a probe of this size.
    Probe {
        /// Bytes of the underlay packet.
        size: u16,
        /// The nonce that the answer must contain.
        nonce: u64,
    },
    /// [`Path::mtu`], [`Path::origin`] or [`Path::decided`] changed.
    Changed,
}

/// The origin of the value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The peer does not answer probes, so the uplink's MTU is the best guess.
    Assumed,
    /// Probes of this size arrived, larger ones did not.
    Measured,
}

/// The path to one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path {
    /// The uplink's MTU: nothing larger can leave.
    max: u16,
    /// The smallest value that is believed (RFC 8200 §5; for IPv4 the size that every host accepts).
    min: u16,
    measured: Option<u16>,
    decided: bool,
    /// The time when the value was last determined.
    since: Instant,
    phase: Phase,
    pause: Duration,
    secret: u64,
    count: u64,
    outputs: VecDeque<Output>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    Knocking(Round),
    Searching { low: u16, high: u16, round: Round },
    Settled { confirm: Instant, raise: Instant },
    Confirming { raise: Instant, round: Round },
    Silent { retry: Instant },
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Round {
    asked: Vec<Asked>,
    tries: u32,
    deadline: Instant,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Asked {
    size: u16,
    nonce: u64,
    answered: bool,
}

impl Path {
    /// Creates a path without any measurement. `secret` keeps others from guessing the nonces.
    #[must_use]
    pub fn new(now: Instant, max: u16, min: u16, secret: u64) -> Self {
        let mut path = Self {
            max: max.max(min),
            min,
            measured: None,
            decided: false,
            since: now,
            phase: Phase::Silent { retry: now },
            pause: PAUSE_MIN,
            secret,
            count: 0,
            outputs: VecDeque::new(),
        };
        path.knock(now);
        path
    }

    /// The largest underlay packet that reaches the peer.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.measured.map_or(self.max, |m| m.min(self.max))
    }

    /// The origin of that value.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        if self.measured.is_some() { Origin::Measured } else { Origin::Assumed }
    }

    /// Whether the first search is over; until then the value is a guess that may change at any moment.
    #[must_use]
    pub const fn decided(&self) -> bool {
        self.decided
    }

    /// The time when the value was determined.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// The state of probing, for people.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match self.phase {
            Phase::Knocking(_) => "asking",
            Phase::Searching { .. } => "searching",
            Phase::Settled { .. } | Phase::Confirming { .. } => "settled",
            Phase::Silent { .. } => "silent",
        }
    }

    /// The next output, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The latest time for the next call of [`Path::handle`] with [`Input::Time`].
    #[must_use]
    pub const fn next_deadline(&self) -> Instant {
        match &self.phase {
            Phase::Knocking(round) | Phase::Searching { round, .. } | Phase::Confirming { round, .. } => {
                round.deadline
            }
            Phase::Settled { confirm, .. } => *confirm,
            Phase::Silent { retry } => *retry,
        }
    }

    /// Whether a probe of this size and nonce is open.
    #[must_use]
    pub fn is_asked(&self, size: u16, nonce: u64) -> bool {
        let round = match &self.phase {
            Phase::Knocking(round) | Phase::Searching { round, .. } | Phase::Confirming { round, .. } => {
                round
            }
            Phase::Settled { .. } | Phase::Silent { .. } => return false,
        };
        round.asked.iter().any(|a| a.size == size && a.nonce == nonce && !a.answered)
    }

    /// Takes one event.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Answered { size, nonce } => self.answered(now, size, nonce),
            Input::Asked => {
                if matches!(self.phase, Phase::Silent { .. }) {
                    self.pause = PAUSE_MIN;
                    self.knock(now);
                }
            }
            Input::Max(max) if max.max(self.min) == self.max => {}
            Input::Max(max) => {
                let (before, grows) = (self.mtu(), max > self.max);
                self.max = max.max(self.min);
                self.decided &= !grows;
                if self.mtu() != before {
                    self.since = now;
                }
                self.outputs.push_back(Output::Changed);
                self.restart(now);
            }
            Input::Restart => self.restart(now),
            Input::Time => self.time(now),
        }
    }

    fn restart(&mut self, now: Instant) {
        self.pause = PAUSE_MIN;
        self.knock(now);
    }

    fn time(&mut self, now: Instant) {
        if now < self.next_deadline() {
            return;
        }
        match &self.phase {
            Phase::Silent { .. } => self.knock(now),
            &Phase::Settled { raise, .. } => {
                let round = self.round(now, &[self.mtu()]);
                self.phase = Phase::Confirming { raise, round };
            }
            _ => self.wait_is_over(now),
        }
    }

    fn round_mut(&mut self) -> Option<&mut Round> {
        match &mut self.phase {
            Phase::Knocking(round) | Phase::Searching { round, .. } | Phase::Confirming { round, .. } => {
                Some(round)
            }
            Phase::Settled { .. } | Phase::Silent { .. } => None,
        }
    }

    /// Repeats the unanswered probes, or ends the round.
    fn wait_is_over(&mut self, now: Instant) {
        let Some(round) = self.round_mut() else { return };
        if round.tries >= TRIES {
            return self.end_round(now);
        }
        round.tries += 1;
        round.deadline = now + WAIT;
        let again: Vec<_> = round.asked.iter().filter(|a| !a.answered).map(|a| (a.size, a.nonce)).collect();
        self.outputs.extend(again.into_iter().map(|(size, nonce)| Output::Probe { size, nonce }));
    }

    fn answered(&mut self, now: Instant, size: u16, nonce: u64) {
        let max = self.max;
        let knocking = matches!(self.phase, Phase::Knocking(_));
        let Some(round) = self.round_mut() else { return };
        // Ignore late answers to an earlier round, and answers without a probe.
        let Some(asked) = round.asked.iter_mut().find(|a| a.size == size && a.nonce == nonce) else { return };
        asked.answered = true;
        if round.asked.iter().all(|a| a.answered) || knocking && size == max {
            self.end_round(now);
        }
    }

    fn end_round(&mut self, now: Instant) {
        let phase = std::mem::replace(&mut self.phase, Phase::Silent { retry: now });
        match phase {
            Phase::Knocking(round) => match round.best() {
                Some(best) if best == self.max => self.settle(now, best),
                Some(low) => self.search(now, low, self.max),
                None => self.silent(now),
            },
            Phase::Searching { low, high, round } => {
                let low = round.best().unwrap_or(low).max(low);
                let failed = round.asked.iter().filter(|a| !a.answered && a.size > low).map(|a| a.size).min();
                self.search(now, low, failed.unwrap_or(high).min(high));
            }
            Phase::Confirming { raise, round } => match round.best() {
                None => self.knock(now),
                Some(mtu) if now >= raise && mtu < self.max => {
                    self.search(now, mtu, self.max.saturating_add(1))
                }
                Some(_) => self.phase = Phase::Settled { confirm: now + CONFIRM, raise },
            },
            other => self.phase = other,
        }
    }

    /// Probes the largest size, the smallest, and the last measured value.
    fn knock(&mut self, now: Instant) {
        let mut sizes = vec![self.max, self.min];
        sizes.extend(self.measured.filter(|m| (self.min..self.max).contains(m)));
        let round = self.round(now, &sizes);
        self.phase = Phase::Knocking(round);
    }

    /// Narrows the range: `low` arrives, `high` does not.
    fn search(&mut self, now: Instant, low: u16, high: u16) {
        if high <= low + 1 {
            return self.settle(now, low);
        }
        let inside = |size: &u16| low < *size && *size < high;
        let mut sizes: Vec<u16> = COMMON.into_iter().chain([self.max]).filter(inside).collect();
        if sizes.is_empty() {
            let step = ((high - low) / (FAN + 1)).max(1);
            sizes = (0..FAN).map(|n| low + 1 + n * step).filter(inside).collect();
        }
        sizes.sort_unstable();
        sizes.dedup();
        let round = self.round(now, &sizes);
        self.phase = Phase::Searching { low, high, round };
    }

    fn settle(&mut self, now: Instant, mtu: u16) {
        if self.measured != Some(mtu) || !self.decided {
            self.since = now;
            self.outputs.push_back(Output::Changed);
        }
        self.measured = Some(mtu);
        self.decided = true;
        self.pause = PAUSE_MIN;
        self.phase = Phase::Settled { confirm: now + CONFIRM, raise: now + RAISE };
    }

    /// Handles a peer that does not answer. An earlier measurement stays, because the peer may only be away. Both
    /// rVMs may have just started, so only the second silence decides.
    fn silent(&mut self, now: Instant) {
        if !self.decided && self.pause > PAUSE_MIN {
            self.decided = true;
            self.outputs.push_back(Output::Changed);
        }
        self.phase = Phase::Silent { retry: now + self.pause };
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn round(&mut self, now: Instant, sizes: &[u16]) -> Round {
        let mut asked: Vec<Asked> = Vec::with_capacity(sizes.len());
        for &size in sizes {
            if asked.iter().all(|a| a.size != size) {
                asked.push(Asked { size, nonce: self.nonce(), answered: false });
            }
        }
        self.outputs.extend(asked.iter().map(|a| Output::Probe { size: a.size, nonce: a.nonce }));
        Round { asked, tries: 1, deadline: now + WAIT }
    }

    /// SipHash of a counter under the secret: different every time, and hard for others to guess.
    fn nonce(&mut self) -> u64 {
        self.count += 1;
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.secret);
        hasher.write_u64(self.count);
        hasher.write_u64(self.secret.rotate_left(32));
        hasher.finish()
    }
}

impl Round {
    fn best(&self) -> Option<u16> {
        self.asked.iter().filter(|a| a.answered).map(|a| a.size).max()
    }
}

#[cfg(test)]
mod tests;

//! The health of one peer, judged by its answers, its silence, ICMP errors and its own packets. Like the path MTU
//! ([`crate::path`]), whose answered probes count here too, it is sans-I/O: [`Liveness::handle`] takes events,
//! [`Liveness::poll_output`] gives the questions to send, [`Liveness::next_deadline`] gives the time of the next
//! call.
//!
//! A question is a probe of the smallest size. It also names one network, because a healthy peer may still refuse
//! that network's packets. A peer gets a question when its last answer is old: after [`BUSY`] while we send it
//! frames, after [`IDLE`] otherwise, and immediately after a sign of trouble. It gets questions about its networks
//! every [`RECHECK`]. Its silence means something only after three questions.
//!
//! Only an answer proves that a peer is healthy, because only an answer needs both directions. Nothing else makes it
//! `Up`. Any host that can forge the peer's address can forge ICMP errors and refusals. They therefore name the cause
//! of a silence, or a network that is refused, but never take down a peer that answers.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hasher as _};

use engine::command::Vni;
use engine::time::{Duration, Instant};

/// How long an answer may take: longer than any path on Earth.
const WAIT: Duration = Duration::from_millis(500);
/// How many questions stay unanswered before the peer counts as silent.
const TRIES: u32 = 3;
/// How old the peer's last answer may become while we send it frames.
const BUSY: Duration = Duration::from_secs(2);
/// How old the last answer may become otherwise. This is longer than the interval of path MTU confirmations, whose
/// answers usually suffice.
const IDLE: Duration = Duration::from_secs(16);
/// The time between questions about a network, however often the path answers; the shorter one applies while the peer
/// refuses a network.
const RECHECK: Duration = Duration::from_secs(60);
const RECHECK_REFUSED: Duration = Duration::from_secs(5);
/// The pause before the next question to a silent peer while we send it frames.
const AGAIN_BUSY: Duration = Duration::from_secs(3);
/// The same pause while we send it none.
const AGAIN: Duration = Duration::from_secs(30);
/// How long a peer counts as in use after we sent it frames.
const IN_USE: Duration = Duration::from_secs(10);
/// How long a packet from a silent peer counts. The peer's own questions may be as far apart as [`AGAIN`].
const HEARD: Duration = Duration::from_secs(70);
/// How long an ICMP error explains a silence; each question provokes another error.
const ICMP: Duration = Duration::from_secs(90);
/// How long a refusal counts; while we send frames, each provokes another refusal.
const REFUSAL: Duration = Duration::from_secs(120);
/// The most networks that questions ask about in one round, after a start.
const VNIS_AT_ONCE: usize = 16;
/// The most refused networks that are remembered.
const REFUSALS_MAX: usize = 64;

/// The cause that an ICMP error names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreachable {
    /// No program listens at the tunnel's UDP port.
    Port,
    /// The host or its network cannot be reached.
    Host,
    /// A filter forbids the packet.
    Prohibited,
}

/// An event that concerns the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// The peer answered the question with this nonce.
    Answered {
        /// The nonce of the question.
        nonce: u64,
    },
    /// The peer refuses packets of a network: as an answer, or (nonce 0) because it received one.
    Refused {
        /// The network.
        vni: Vni,
        /// The nonce of the question.
        nonce: u64,
    },
    /// The peer answered a probe of the path MTU.
    PathAnswered,
    /// The peer asked us a question: it runs, and has us as a peer.
    AskedUs,
    /// Tunnel packets came from the peer after this time.
    Heard {
        /// The time of the previous look at the counters.
        since: Instant,
    },
    /// We sent frames to the peer.
    InUse,
    /// An ICMP error came back about a packet to the peer.
    Unreachable(Unreachable),
    /// Questions may have been lost because of a change: ask now.
    Restart,
    /// There are too many questions now: ask later.
    Postpone(Duration),
    /// Only time passed.
    Time,
}

/// An action for the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Ask the peer whether it is there and accepts packets of this network.
    Ask {
        /// The network; `None`: ask only whether the peer is there.
        vni: Option<Vni>,
        /// The nonce that the answer must contain.
        nonce: u64,
    },
    /// [`Liveness::state`] or [`Liveness::refused`] changed.
    Changed,
}

/// The state of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The peer has never answered. It may not run `ivswitchd`, may not have us as a peer, or may not exist.
    Unknown,
    /// The peer answers.
    Up,
    /// The peer has answered before, but no longer does.
    Silent,
    /// The peer does not answer, but its packets arrive.
    OneWay,
    /// The peer does not answer, and ICMP errors name the cause.
    Unreachable(Unreachable),
    /// The peer answers, but refuses packets of every network that we share with it.
    Refuses,
}

/// The state machine for one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Liveness {
    /// The networks whose packets we send to the peer.
    vnis: Vec<Vni>,
    /// The index of the network for the next question.
    turn: usize,
    /// The time of the last question.
    asked: Instant,
    /// The time of the last answer.
    answered: Option<Instant>,
    /// The time of the last tunnel packets from the peer.
    heard: Option<Instant>,
    asked_us: Option<Instant>,
    in_use: Option<Instant>,
    icmp: Option<(Instant, Unreachable)>,
    refused: BTreeMap<Vni, Instant>,
    /// The last time that an ICMP error caused a question.
    icmp_asked: Option<Instant>,
    /// The start of the silence: the time of the first unanswered question. It is set when three are unanswered.
    failing: Option<Instant>,
    /// The time of the latest questions that stayed unanswered.
    in_vain: Option<Instant>,
    /// The time of the first packet from the peer since the silence began.
    sign: Option<Instant>,
    phase: Phase,
    told: State,
    told_refused: usize,
    since: Instant,
    secret: u64,
    count: u64,
    outputs: VecDeque<Output>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// The peer rests until the next question.
    Resting { due: Instant },
    /// Questions are open.
    Asking(Round),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Round {
    /// The nonces and networks of the questions that are still open.
    open: Vec<(u64, Option<Vni>)>,
    began: Instant,
    answered: bool,
    tries: u32,
    deadline: Instant,
}

impl Liveness {
    /// Creates the state machine for a peer whose state is unknown. `secret` keeps others from guessing the nonces.
    #[must_use]
    pub fn new(now: Instant, secret: u64) -> Self {
        Self {
            vnis: Vec::new(),
            turn: 0,
            asked: now,
            answered: None,
            heard: None,
            asked_us: None,
            in_use: None,
            icmp: None,
            refused: BTreeMap::new(),
            icmp_asked: None,
            failing: None,
            in_vain: None,
            sign: None,
            phase: Phase::Resting { due: now },
            told: State::Unknown,
            told_refused: 0,
            since: now,
            secret,
            count: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Sets the networks whose packets we send to the peer. New networks get their questions now.
    pub fn set_vnis(&mut self, now: Instant, vnis: Vec<Vni>) {
        if vnis == self.vnis {
            return;
        }
        self.refused.retain(|vni, _| vnis.contains(vni));
        self.vnis = vnis;
        self.turn = 0;
        self.handle(now, Input::Restart);
    }

    /// The peer's state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.told
    }

    /// The time of the last change of the state. For a silent peer, the time of the first question without an answer.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Whether the peer got enough questions for its silence to mean something.
    #[must_use]
    pub const fn was_tried(&self) -> bool {
        self.failing.is_some() || self.answered.is_some()
    }

    /// The time of the last answer.
    #[must_use]
    pub const fn answered(&self) -> Option<Instant> {
        self.answered
    }

    /// The time of the last packet of any kind from the peer: answer, question, tunnel packet.
    #[must_use]
    pub fn heard(&self) -> Option<Instant> {
        self.heard.into_iter().chain(self.answered).chain(self.asked_us).max()
    }

    /// The networks whose packets the peer refuses.
    pub fn refused(&self) -> impl Iterator<Item = Vni> + '_ {
        self.refused.keys().copied()
    }

    /// Whether a question is due now.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Resting { due } if due <= now)
    }

    /// The next output, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The latest time for the next call of [`Liveness::handle`] with [`Input::Time`].
    #[must_use]
    pub const fn next_deadline(&self) -> Instant {
        match &self.phase {
            Phase::Resting { due } => *due,
            Phase::Asking(round) => round.deadline,
        }
    }

    /// Takes one event.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Answered { nonce } => {
                if let Some(about) = self.close(now, nonce) {
                    if let Some(vni) = about {
                        self.refused.remove(&vni);
                    }
                    self.alive(now);
                }
            }
            Input::Refused { vni, nonce } => {
                let solicited = nonce != 0;
                if solicited && self.close(now, nonce).is_none() {
                    return;
                }
                if self.vnis.contains(&vni)
                    && (self.refused.len() < REFUSALS_MAX || self.refused.contains_key(&vni))
                {
                    self.refused.insert(vni, now);
                }
                if solicited {
                    self.alive(now);
                }
            }
            Input::PathAnswered => self.alive(now),
            Input::AskedUs => {
                self.asked_us = Some(now);
                self.see_sign(now, now);
            }
            Input::Heard { since } => {
                self.heard = Some(now);
                self.see_sign(now, since);
            }
            Input::InUse => {
                self.in_use = Some(now);
                let due = self.due(now);
                self.ask_at(due);
            }
            Input::Unreachable(why) => {
                // While the peer answers, an ICMP error only causes a question.
                self.icmp = Some((now, why));
                if self.failing.is_none() && self.icmp_asked.is_none_or(|at| now.since(at) >= BUSY) {
                    self.icmp_asked = Some(now);
                    self.ask_at(now);
                }
            }
            Input::Restart => {
                if let Phase::Asking(_) = self.phase {
                    self.phase = Phase::Resting { due: now };
                }
                self.ask_at(now);
            }
            Input::Postpone(pause) => {
                if let Phase::Resting { due } = &mut self.phase {
                    *due = now + pause;
                }
            }
            Input::Time => self.time(now),
        }
        self.tell(now);
    }

    /// The time of the next question to a resting peer.
    fn due(&self, now: Instant) -> Instant {
        let busy = self.in_use.is_some_and(|at| now.since(at) < IN_USE);
        match (self.failing, self.answered) {
            (None, Some(at)) => {
                let recheck = if self.refused.is_empty() { RECHECK } else { RECHECK_REFUSED };
                (at + if busy { BUSY } else { IDLE }).min(self.asked + recheck)
            }
            (None, None) => now,
            (Some(_), _) => now + if busy { AGAIN_BUSY } else { AGAIN },
        }
    }

    /// Notes a packet from a silent peer that arrived after `since`. The peer may be back, so the next question is
    /// due now.
    fn see_sign(&mut self, now: Instant, since: Instant) {
        if self.sign.is_none() && self.failing.is_some_and(|failing| since >= failing) {
            self.sign = Some(now);
            self.ask_at(now);
        }
    }

    /// Brings the next question forward to this time.
    fn ask_at(&mut self, at: Instant) {
        if let Phase::Resting { due } = &mut self.phase {
            *due = (*due).min(at);
        }
    }

    /// Closes an open question, and returns its network. `None` means that no such question is open.
    fn close(&mut self, now: Instant, nonce: u64) -> Option<Option<Vni>> {
        let Phase::Asking(round) = &mut self.phase else { return None };
        let at = round.open.iter().position(|(n, _)| *n == nonce)?;
        let (_, about) = round.open.swap_remove(at);
        round.answered = true;
        let over = round.open.is_empty();
        if over {
            self.phase = Phase::Resting { due: now + WAIT };
        }
        Some(about)
    }

    fn alive(&mut self, now: Instant) {
        self.answered = Some(now);
        (self.failing, self.in_vain, self.sign, self.icmp) = (None, None, None, None);
        let next = self.due(now);
        if let Phase::Resting { due } = &mut self.phase {
            *due = next;
        }
    }

    fn time(&mut self, now: Instant) {
        self.refused.retain(|_, at| now.since(*at) < REFUSAL);
        if self.heard.max(self.asked_us).is_none_or(|at| now.since(at) >= HEARD) {
            self.sign = None;
        }
        match &mut self.phase {
            Phase::Resting { due } if *due <= now => self.ask(now),
            Phase::Asking(round) if round.deadline <= now => {
                if round.tries < TRIES {
                    round.tries += 1;
                    round.deadline = now + WAIT;
                    let again = round.open.iter().map(|&(nonce, vni)| Output::Ask { vni, nonce });
                    self.outputs.extend(again);
                } else {
                    let (began, answered) = (round.began, round.answered);
                    if !answered {
                        self.failing.get_or_insert(began);
                        self.in_vain = Some(began);
                    }
                    self.phase = Phase::Resting { due: now };
                    let due = self.due(now).max(now + WAIT);
                    self.phase = Phase::Resting { due };
                }
            }
            _ => {}
        }
    }

    /// Asks about the next network. After a start it asks about as many networks as possible, later also about a
    /// refused network.
    fn ask(&mut self, now: Instant) {
        let count = self.vnis.len().min(if self.turn == 0 { VNIS_AT_ONCE } else { 1 });
        let mut about: Vec<Option<Vni>> =
            (0..count).map(|n| Some(self.vnis[(self.turn + n) % self.vnis.len()])).collect();
        self.turn = self.turn.wrapping_add(count);
        self.asked = now;
        let oldest = self.refused.iter().min_by_key(|(_, at)| **at).map(|(vni, _)| Some(*vni));
        about.extend(oldest.filter(|vni| !about.contains(vni)));
        if about.is_empty() {
            about.push(None);
        }
        let open: Vec<_> = about.into_iter().map(|vni| (self.nonce(), vni)).collect();
        self.outputs.extend(open.iter().map(|&(nonce, vni)| Output::Ask { vni, nonce }));
        let round = Round { open, began: now, answered: false, tries: 1, deadline: now + WAIT };
        self.phase = Phase::Asking(round);
    }

    fn judge(&self, now: Instant) -> State {
        let Some(failing) = self.failing else {
            let all = !self.vnis.is_empty() && self.vnis.iter().all(|vni| self.refused.contains_key(vni));
            return match self.answered {
                None => State::Unknown,
                Some(_) if all => State::Refuses,
                Some(_) => State::Up,
            };
        };
        let fresh = |at: Option<Instant>| at.is_some_and(|at| at >= failing && now.since(at) < HEARD);
        let (heard, asked_us) = (fresh(self.heard), fresh(self.asked_us));
        // A packet from before the silence proves nothing. A later one counts when more questions stayed unanswered
        // after it.
        let despite = self.sign.is_some() && self.in_vain >= self.sign;
        match self.icmp.filter(|(at, _)| now.since(*at) < ICMP) {
            Some((_, why)) => State::Unreachable(why),
            None if despite && (asked_us || heard && self.answered.is_some()) => State::OneWay,
            None if self.answered.is_some() => State::Silent,
            None => State::Unknown,
        }
    }

    fn tell(&mut self, now: Instant) {
        let state = self.judge(now);
        if state != self.told {
            self.since = self.failing.unwrap_or(now);
            self.told = state;
            self.outputs.push_back(Output::Changed);
        } else if self.told_refused != self.refused.len() {
            self.outputs.push_back(Output::Changed);
        }
        self.told_refused = self.refused.len();
    }

    /// SipHash of a counter under the secret: different every time, and hard for others to guess. It is never 0,
    /// which marks refusals that do not answer a question.
    fn nonce(&mut self) -> u64 {
        self.count += 1;
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.secret);
        hasher.write_u64(self.count);
        hasher.write_u64(self.secret.rotate_left(32));
        hasher.finish().max(1)
    }
}

#[cfg(test)]
mod tests;

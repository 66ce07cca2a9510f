//! Whether one peer is there, from its answers, its silence, ICMP errors and its own packets. Sans-I/O, like the
//! path MTU ([`crate::path`]), whose answered probes count here too: [`Liveness::handle`] takes what happened,
//! [`Liveness::poll_output`] gives the questions to send, [`Liveness::next_deadline`] says when to look again.
//!
//! A question is the smallest probe, and also about one network: a peer that is there may still refuse that network's
//! packets. A peer gets a question when its last answer is old: after [`BUSY`] while frames are sent to it, after [`IDLE`]
//! when not, and right after a sign of trouble; and about its networks every [`RECHECK`]. It gets three questions
//! before its silence means anything.
//!
//! Only an answer proves a peer to be there, because only an answer needs both directions. Nothing else makes it `Up`.
//! ICMP errors and refusals can be forged by anyone who can forge the peer's address, so they name the cause of a
//! silence, or a network that is refused; they never end a peer that answers.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hasher as _};

use engine::command::Vni;
use engine::time::{Duration, Instant};

/// How long an answer may take: more than any path on Earth needs.
const WAIT: Duration = Duration::from_millis(500);
/// Questions to a peer before its silence counts.
const TRIES: u32 = 3;
/// How old the last answer of a peer may be while frames are sent to it.
const BUSY: Duration = Duration::from_secs(2);
/// How old it may be otherwise: longer than the path MTU takes to be confirmed, whose answers usually suffice.
const IDLE: Duration = Duration::from_secs(16);
/// The time between questions about a network, however often the path answers, and while the peer refuses one.
const RECHECK: Duration = Duration::from_secs(60);
const RECHECK_REFUSED: Duration = Duration::from_secs(5);
/// The pause before the next question to a silent peer while frames are sent to it.
const AGAIN_BUSY: Duration = Duration::from_secs(3);
/// The same while none are.
const AGAIN: Duration = Duration::from_secs(30);
/// How long a peer counts as in use after frames were sent to it.
const IN_USE: Duration = Duration::from_secs(10);
/// How long it counts that something came from a silent peer. Its own questions may be as far apart as [`AGAIN`].
const HEARD: Duration = Duration::from_secs(70);
/// How long an ICMP error explains a silence: each question provokes another.
const ICMP: Duration = Duration::from_secs(90);
/// How long a refusal counts that is not repeated: while frames are sent, each provokes another.
const REFUSAL: Duration = Duration::from_secs(120);
/// The most questions about networks in one go, after a start.
const VNIS_AT_ONCE: usize = 16;
/// Refused networks that are remembered.
const REFUSALS_MAX: usize = 64;

/// The cause that an ICMP error names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreachable {
    /// Nobody listens at the tunnel's UDP port.
    Port,
    /// The host or its network cannot be reached.
    Host,
    /// A filter forbids it.
    Prohibited,
}

/// An event in the life of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// The question of this nonce was answered.
    Answered {
        /// The nonce of the question.
        nonce: u64,
    },
    /// The peer refuses packets of a network: as an answer, or (nonce 0) because one has come.
    Refused {
        /// The network.
        vni: Vni,
        /// The nonce of the question.
        nonce: u64,
    },
    /// A probe of the path MTU was answered.
    PathAnswered,
    /// The peer asked us: it is there, and has us as a peer.
    AskedUs,
    /// Tunnel packets came from the peer after this time.
    Heard {
        /// When it was looked last before.
        since: Instant,
    },
    /// Frames were sent to the peer.
    InUse,
    /// An ICMP error came back about a packet to the peer.
    Unreachable(Unreachable),
    /// A change may have lost questions: ask now.
    Restart,
    /// There are too many questions now: ask later.
    Postpone(Duration),
    /// Only time passed.
    Time,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Ask the peer whether it is there and takes packets of this network.
    Ask {
        /// The network; `None`: only whether it is there.
        vni: Option<Vni>,
        /// To be brought back by the answer.
        nonce: u64,
    },
    /// [`Liveness::state`] or [`Liveness::refused`] changed.
    Changed,
}

/// How a peer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It has never answered. It may be no `ivswitchd`, not have us as a peer, or not be there.
    Unknown,
    /// It answers.
    Up,
    /// It answered once, and does not any more.
    Silent,
    /// It does not answer, but its packets arrive.
    OneWay,
    /// It does not answer, and ICMP errors say why.
    Unreachable(Unreachable),
    /// It answers, but refuses packets of every network that we share with it.
    Refuses,
}

/// One peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Liveness {
    /// The networks that we send it packets of.
    vnis: Vec<Vni>,
    /// The index of the network of the next question.
    turn: usize,
    /// The time of the last question.
    asked: Instant,
    /// When it answered last.
    answered: Option<Instant>,
    /// When packets came from it last.
    heard: Option<Instant>,
    asked_us: Option<Instant>,
    in_use: Option<Instant>,
    icmp: Option<(Instant, Unreachable)>,
    refused: BTreeMap<Vni, Instant>,
    /// When an ICMP error was a reason to ask.
    icmp_asked: Option<Instant>,
    /// When the first question was sent that started its silence, once three were in vain.
    failing: Option<Instant>,
    /// When the last questions were sent that were in vain.
    in_vain: Option<Instant>,
    /// When something came from it first since then.
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
    /// The next question is due then.
    Resting { due: Instant },
    /// Questions are under way.
    Asking(Round),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Round {
    /// Nonces and networks of the questions that are not answered.
    open: Vec<(u64, Option<Vni>)>,
    began: Instant,
    answered: bool,
    tries: u32,
    deadline: Instant,
}

impl Liveness {
    /// A peer of which nothing is known. `secret` keeps others from guessing what answers must contain.
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

    /// Sets the networks that we send it packets of. New ones get their questions now.
    pub fn set_vnis(&mut self, now: Instant, vnis: Vec<Vni>) {
        if vnis == self.vnis {
            return;
        }
        self.refused.retain(|vni, _| vnis.contains(vni));
        self.vnis = vnis;
        self.turn = 0;
        self.handle(now, Input::Restart);
    }

    /// How it is.
    #[must_use]
    pub const fn state(&self) -> State {
        self.told
    }

    /// Since when it is so. Of a silent peer: since the first question that it did not answer.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Whether it got enough questions for its silence to mean something.
    #[must_use]
    pub const fn was_tried(&self) -> bool {
        self.failing.is_some() || self.answered.is_some()
    }

    /// When it answered last.
    #[must_use]
    pub const fn answered(&self) -> Option<Instant> {
        self.answered
    }

    /// When anything came from it last: answers, questions, tunnel packets.
    #[must_use]
    pub fn heard(&self) -> Option<Instant> {
        self.heard.into_iter().chain(self.answered).chain(self.asked_us).max()
    }

    /// The networks that it refuses packets of.
    pub fn refused(&self) -> impl Iterator<Item = Vni> + '_ {
        self.refused.keys().copied()
    }

    /// Whether a question is due now.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Resting { due } if due <= now)
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Liveness::handle`] with [`Input::Time`] at the latest.
    #[must_use]
    pub const fn next_deadline(&self) -> Instant {
        match &self.phase {
            Phase::Resting { due } => *due,
            Phase::Asking(round) => round.deadline,
        }
    }

    /// Takes what happened.
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
                // Without doubts about the peer it is no more than a reason to ask.
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

    /// When the next question to a resting peer is due.
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

    /// A packet came from a silent peer, after `since`: the next question is due now, since it may be back.
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

    /// Takes a question off those under way, and gives the network that it was about. `None`: no such question.
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

    /// Asks about the next network; after a start about as many as possible, else also about one that is refused.
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
        // A packet from before the silence began proves nothing; after a later one, more questions stayed unanswered.
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

    /// SipHash of a counter under the secret: different every time, and hard to guess for others. Never 0, which is what
    /// refusals have that answer no question.
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

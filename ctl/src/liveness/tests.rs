//! A simulated peer: it answers or not, refuses networks, loses packets, and may change.

use proptest::prelude::*;

use super::*;

const SEC: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

struct World {
    peer: Liveness,
    now: Instant,
    answers: bool,
    refuses: Vec<Vni>,
    /// Frames go to the peer all the time; the agent reports this once a second.
    in_use: bool,
    next_look: Instant,
    asked: u32,
    changes: Vec<State>,
}

fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

impl World {
    fn new(vnis: &[u32]) -> Self {
        let now = Instant::from_millis(1000);
        let mut peer = Liveness::new(now, 7);
        peer.set_vnis(now, vnis.iter().map(|&n| vni(n)).collect());
        let (refuses, changes) = (Vec::new(), Vec::new());
        Self { peer, now, answers: true, refuses, in_use: false, next_look: now, asked: 0, changes }
    }

    fn tell(&mut self, input: Input) {
        self.peer.handle(self.now, input);
        while let Some(output) = self.peer.poll_output() {
            match output {
                Output::Changed => self.changes.push(self.peer.state()),
                Output::Ask { vni, nonce } => {
                    self.asked += 1;
                    match vni.filter(|vni| self.refuses.contains(vni)) {
                        _ if !self.answers => {}
                        Some(vni) => self.tell(Input::Refused { vni, nonce }),
                        None => self.tell(Input::Answered { nonce }),
                    }
                }
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.peer.next_deadline().min(self.next_look);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if self.next_look <= self.now {
                self.next_look = self.now + SEC;
                if self.in_use {
                    self.tell(Input::InUse);
                }
            }
            self.tell(Input::Time);
        }
    }

    fn refused(&self) -> Vec<Vni> {
        self.peer.refused().collect()
    }
}

/// A peer that answers is up, and gets few questions: few while nothing is sent to it, none while its path MTU is
/// being confirmed, one every two or three seconds while it is in use.
#[test]
fn a_peer_that_answers_is_up() {
    let mut w = World::new(&[100]);
    assert_eq!((w.peer.state(), w.peer.was_tried()), (State::Unknown, false), "nobody knows yet");
    w.run(10 * MS);
    assert_eq!((w.peer.state(), w.asked), (State::Up, 1));
    w.run(160 * SEC);
    assert_eq!(w.asked, 11, "every sixteen seconds");
    for _ in 0..10 {
        w.run(15 * SEC);
        w.tell(Input::PathAnswered);
    }
    assert!(w.asked <= 14, "the path's answers are as good: {} questions", w.asked);
    let before = w.asked;
    w.in_use = true;
    w.run(60 * SEC);
    assert!((20..=30).contains(&(w.asked - before)), "{} questions", w.asked - before);
    assert_eq!(w.changes, [State::Up]);
}

/// A peer dies: this is known within five seconds if we send it frames, within twenty otherwise, and the time of its
/// last answer is known. When it returns, its next answer or question reveals that.
#[test]
fn a_peer_that_dies_is_silent() {
    for (in_use, patience) in [(true, 5 * SEC), (false, 20 * SEC)] {
        let mut w = World::new(&[100]);
        w.in_use = in_use;
        w.run(30 * SEC);
        w.answers = false;
        let died = w.now;
        w.run(patience);
        assert_eq!(w.peer.state(), State::Silent);
        assert!(w.peer.answered().unwrap() <= died && w.peer.since() >= w.peer.answered().unwrap());
        w.run(600 * SEC);
        assert_eq!(w.peer.state(), State::Silent, "however long it takes");
        let before = w.asked;
        w.run(60 * SEC);
        assert!(w.asked - before <= if in_use { 45 } else { 9 }, "{} questions a minute", w.asked - before);
        w.answers = true;
        if !in_use {
            w.tell(Input::AskedUs);
        }
        w.run(if in_use { 5 * SEC } else { MS });
        assert_eq!(w.changes, [State::Up, State::Silent, State::Up]);
    }
}

/// Silence is not health: a peer that never answered stays unknown forever. Packets from it prove one direction only.
/// A question from it proves that it runs our protocol, so one direction must be broken.
#[test]
fn a_peer_that_never_answered_is_unknown() {
    let mut w = World::new(&[100]);
    w.answers = false;
    w.run(2 * SEC);
    assert_eq!((w.peer.state(), w.peer.was_tried(), w.asked), (State::Unknown, true, 3));
    w.run(600 * SEC);
    w.tell(Input::Heard { since: w.now });
    assert_eq!((w.peer.state(), w.peer.heard()), (State::Unknown, Some(w.now)));
    w.tell(Input::AskedUs);
    assert_eq!(w.peer.state(), State::Unknown, "it may be about to answer");
    w.run(2 * SEC);
    assert_eq!(w.changes, [State::OneWay]);
    w.run(90 * SEC);
    assert_eq!(w.peer.state(), State::Unknown, "it asks no longer");
}

/// For a peer that answered before, later packets show that one direction is broken; packets from before the silence
/// show nothing.
#[test]
fn one_direction_breaks() {
    let mut w = World::new(&[100]);
    w.run(SEC);
    w.answers = false;
    let before = w.now;
    w.run(20 * SEC);
    w.tell(Input::Heard { since: before });
    assert_eq!(w.peer.state(), State::Silent);
    w.tell(Input::Heard { since: w.now });
    w.run(2 * SEC);
    assert_eq!(w.peer.state(), State::OneWay);
    w.run(100 * SEC);
    assert_eq!(w.peer.state(), State::Silent, "now nothing comes");
}

/// An ICMP error never takes down a peer that answers, since anyone can forge it. It causes a question, and explains
/// a silence.
#[test]
fn icmp_errors_explain_a_silence() {
    let mut w = World::new(&[100]);
    w.run(SEC);
    let before = w.asked;
    for _ in 0..100 {
        w.tell(Input::Unreachable(Unreachable::Port));
        w.run(10 * MS);
    }
    assert_eq!(w.peer.state(), State::Up);
    assert!(w.asked - before <= 2, "{} questions", w.asked - before);
    w.answers = false;
    w.run(3 * SEC);
    w.tell(Input::Unreachable(Unreachable::Port));
    w.run(2 * SEC);
    assert_eq!(
        w.peer.state(),
        State::Unreachable(Unreachable::Port),
        "at once, though nothing is sent to it"
    );
    w.answers = true;
    w.run(31 * SEC);
    assert_eq!(w.changes, [State::Up, State::Unreachable(Unreachable::Port), State::Up]);
}

/// A peer answers but refuses the packets of one network: this is known before we send any. If it refuses every
/// network, nothing works. Questions about each network go on, so the peer is up again once the fault is repaired.
#[test]
fn networks_are_refused_and_mended() {
    let mut w = World::new(&[100, 200, 300]);
    w.refuses = vec![vni(200)];
    w.run(SEC);
    assert_eq!((w.peer.state(), w.refused()), (State::Up, vec![vni(200)]));
    w.refuses = vec![vni(100), vni(200), vni(300)];
    w.run(60 * SEC);
    assert_eq!(w.peer.state(), State::Refuses);
    w.refuses = vec![];
    w.run(60 * SEC);
    assert_eq!((w.peer.state(), w.refused()), (State::Up, vec![]));
    // A network that we do not send to this peer cannot be refused, and a refusal that answers no question is still
    // valid.
    w.tell(Input::Refused { vni: vni(999), nonce: 0 });
    w.tell(Input::Refused { vni: vni(100), nonce: 12_345 });
    assert_eq!(w.refused(), vec![]);
    w.tell(Input::Refused { vni: vni(100), nonce: 0 });
    assert_eq!(w.refused(), vec![vni(100)]);
    w.peer.set_vnis(w.now, vec![vni(200)]);
    assert_eq!(w.refused(), vec![]);
}

/// Answers without a question change nothing.
#[test]
fn answers_nobody_asked_for() {
    let mut w = World::new(&[100]);
    w.answers = false;
    w.run(5 * SEC);
    for nonce in 0..1000 {
        w.tell(Input::Answered { nonce });
    }
    assert_eq!((w.peer.state(), w.peer.answered()), (State::Unknown, None));
}

proptest! {
    /// Any inputs in any order: no panic, a bounded number of questions, a deadline that does not stay in the past,
    /// and never up without an answer.
    #[test]
    fn anything(steps in proptest::collection::vec((0u8..12, any::<u8>(), 0u64..3000), 0..200)) {
        let mut w = World::new(&[1, 2, 3]);
        let began = w.now;
        let mut extra = 8;
        for (what, n, ms) in steps {
            match what {
                0 => w.tell(Input::AskedUs),
                1 => w.tell(Input::Heard { since: w.now }),
                2 => w.tell(Input::Unreachable(Unreachable::Host)),
                3 => w.tell(Input::Refused { vni: vni(n.into()), nonce: 0 }),
                4 => { w.tell(Input::Restart); extra += 8; }
                5 => w.tell(Input::PathAnswered),
                6 => w.answers = n % 2 == 0,
                7 => w.in_use = n % 2 == 0,
                8 => w.refuses = (0..u32::from(n % 4)).map(vni).collect(),
                9 => { w.peer.set_vnis(w.now, (1..u32::from(n % 40)).map(vni).collect()); extra += 60; }
                10 => w.tell(Input::Answered { nonce: n.into() }),
                _ => w.run(Duration::from_millis(ms)),
            }
            extra += 1;
            let most = 12 * (w.now.since(began).as_secs() as u32 + 2) + 4 * extra;
            prop_assert!(w.asked <= most, "{} questions in {:?}", w.asked, w.now.since(began));
            if w.peer.state() == State::Up {
                prop_assert!(w.peer.answered().is_some());
            }
        }
        w.run(Duration::from_secs(1));
        prop_assert!(w.peer.next_deadline() >= w.now);
    }
}

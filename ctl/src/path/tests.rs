//! A simulated path: a network that carries packets up to a size, loses some, and may change.

use proptest::prelude::*;

use super::*;

struct Net {
    path: Path,
    now: Instant,
    /// Carries packets up to this size; carries none when the peer is away or does not answer.
    carries: Option<u16>,
    rtt: Duration,
    /// Loses every n-th probe.
    lose: u32,
    sent: u32,
    changes: Vec<(u16, Origin)>,
    answers: VecDeque<(Instant, Input)>,
}

impl Net {
    fn new(max: u16, carries: Option<u16>) -> Self {
        let now = Instant::from_millis(1000);
        Self {
            path: Path::new(now, max, 576, 7),
            now,
            carries,
            rtt: Duration::from_millis(2),
            lose: 0,
            sent: 0,
            changes: Vec::new(),
            answers: VecDeque::new(),
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            while let Some(output) = self.path.poll_output() {
                match output {
                    Output::Changed => self.changes.push((self.path.mtu(), self.path.origin())),
                    Output::Probe { size, nonce } => {
                        self.sent += 1;
                        let lost = self.lose != 0 && self.sent.is_multiple_of(self.lose);
                        if self.carries.is_some_and(|c| size <= c) && !lost {
                            self.answers.push_back((self.now + self.rtt, Input::Answered { size, nonce }));
                        }
                    }
                }
            }
            let answer = self.answers.front().map(|a| a.0);
            let deadline = self.path.next_deadline();
            let next = answer.map_or(deadline, |at| at.min(deadline));
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if answer.is_some_and(|at| at <= self.now)
                && let Some((_, input)) = self.answers.pop_front()
            {
                self.path.handle(self.now, input);
            }
            self.path.handle(self.now, Input::Time);
        }
    }
}

const SEC: Duration = Duration::from_secs(1);

#[test]
fn a_clean_path_takes_one_round_trip() {
    let mut net = Net::new(1500, Some(9000));
    net.run(Duration::from_millis(10));
    assert_eq!((net.path.mtu(), net.path.origin()), (1500, Origin::Measured));
    assert_eq!(net.sent, 2);
    net.run(60 * SEC);
    assert_eq!(net.sent, 6, "idle, one probe every fifteen seconds");
    assert_eq!(net.changes.len(), 1);
}

/// RFC 8899 §4.4: a value below the floor is never believed, and the search finds the path's own MTU to the byte.
#[test]
fn a_smaller_path_is_found_to_the_byte() {
    for carries in [1500, 1460, 1400, 1431, 1280, 1279, 577, 576, 1999, 8999] {
        let mut net = Net::new(9000, Some(carries));
        net.run(20 * SEC);
        assert_eq!((net.path.mtu(), net.path.origin()), (carries, Origin::Measured));
        assert_eq!(net.changes, [(carries, Origin::Measured)], "told once, when it is known");
        assert!(net.sent < 250, "{} probes", net.sent);
    }
    let mut net = Net::new(1500, Some(500));
    net.run(20 * SEC);
    assert_eq!((net.path.mtu(), net.path.origin()), (1500, Origin::Assumed), "not even the floor arrives");
}

#[test]
fn a_silent_peer_is_assumed_and_asked_ever_less() {
    let mut net = Net::new(1500, None);
    net.run(5 * SEC);
    assert_eq!(net.changes, [(1500, Origin::Assumed)]);
    assert!(net.path.decided());
    net.run(600 * SEC);
    let sent = net.sent;
    net.run(600 * SEC);
    assert!(net.sent - sent <= 66, "{} probes in ten minutes", net.sent - sent);
    // It comes back, and asks us first.
    net.carries = Some(1400);
    net.path.handle(net.now, Input::Asked);
    net.run(6 * SEC);
    assert_eq!(net.changes[1..], [(1400, Origin::Measured)]);
    // It goes away again: the measured value stays.
    net.carries = None;
    net.run(300 * SEC);
    assert_eq!((net.path.mtu(), net.path.origin(), net.path.state()), (1400, Origin::Measured, "silent"));
    assert_eq!(net.changes.len(), 2);
}

/// The path shrinks silently (a black hole), and later grows again.
#[test]
fn black_hole() {
    let mut net = Net::new(1500, Some(1500));
    net.run(5 * SEC);
    net.carries = Some(1400);
    net.run(24 * SEC);
    assert_eq!(net.changes[1..], [(1400, Origin::Measured)], "within a confirmation and a search");
    net.carries = Some(1500);
    net.run(570 * SEC);
    assert_eq!(net.path.mtu(), 1400, "a larger one is not looked for at once");
    net.run(60 * SEC);
    assert_eq!(net.changes[2..], [(1500, Origin::Measured)]);
}

#[test]
fn the_uplink_changes() {
    let mut net = Net::new(1500, Some(9000));
    net.run(SEC);
    net.path.handle(net.now, Input::Max(9000));
    assert_eq!(net.path.mtu(), 1500, "not before it is known to arrive");
    assert!(!net.path.decided());
    net.run(SEC);
    assert_eq!((net.path.mtu(), net.path.decided()), (9000, true));
    net.path.handle(net.now, Input::Max(1400));
    assert_eq!(net.path.mtu(), 1400, "at once");
    net.run(SEC);
    assert_eq!((net.path.mtu(), net.path.origin()), (1400, Origin::Measured));
}

#[test]
fn answers_nobody_asked_for() {
    let mut net = Net::new(1500, None);
    for nonce in 0..1000 {
        net.path.handle(net.now, Input::Answered { size: 1500, nonce });
    }
    net.run(5 * SEC);
    assert_eq!(net.path.origin(), Origin::Assumed);
}

proptest! {
    /// For any path MTU and any loss, the value never exceeds the path's MTU, and settles.
    #[test]
    fn converges(max in 576u16..9217, carries in 576u16..9300, lose in prop_oneof![Just(0u32), 7u32..50], rtt in 0u64..400) {
        let mut net = Net::new(max, Some(carries));
        net.lose = lose;
        net.rtt = Duration::from_millis(rtt);
        net.run(60 * SEC);
        prop_assert!(net.path.decided());
        prop_assert_eq!(net.path.origin(), Origin::Measured);
        prop_assert!(net.path.mtu() <= carries.min(max));
        if lose == 0 {
            prop_assert_eq!(net.path.mtu(), carries.min(max));
        }
        prop_assert!(net.sent < 400);
    }

    /// Any inputs in any order: no panic, no endless output, a deadline that does not lie in the past for ever.
    #[test]
    fn anything(steps in proptest::collection::vec((0u8..6, any::<u16>(), 0u64..5000), 0..200)) {
        let mut net = Net::new(1500, Some(1400));
        for (what, n, ms) in steps {
            net.now = net.now + Duration::from_millis(ms);
            match what {
                0 => net.path.handle(net.now, Input::Max(n)),
                1 => net.path.handle(net.now, Input::Asked),
                2 => net.path.handle(net.now, Input::Restart),
                3 => net.carries = Some(n),
                4 => net.carries = None,
                _ => net.run(Duration::from_millis(ms)),
            }
            prop_assert!(net.path.outputs.len() < 100_000);
            let mtu = net.path.mtu();
            prop_assert!(mtu >= 576 && mtu <= net.path.max);
        }
    }
}

//! Several workers are one switch. Each may receive any frames, and news may be delayed. Once news has
//! arrived, all know the same stations at the same locations; and entries live and expire together.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use engine::command::{
    Answer, Command, FdbRow, Input, Location, NetworkConfig, PortConfig, PortId, Query, Role, VlanPolicy, Vni,
};
use engine::forward::Switch;
use engine::forward::share::News;
use engine::frame::{Batch, Frame, FramePool, HeapPool};
use engine::handoff::mesh;
use engine::mailbox::mailbox;
use engine::port::{Port, PortCaps};
use engine::time::{Duration, Instant};
use engine::wire::mac::MacAddr;
use engine::worker::Worker;
use proptest::prelude::*;

const PORTS: u16 = 3;
const AGE: Duration = Duration::from_secs(30);

/// Workers, and news in transit from one (first index) to another (second), oldest first.
struct Workers {
    switches: Vec<Switch>,
    pool: HeapPool,
    news: Vec<Vec<VecDeque<News>>>,
    now: Instant,
}

fn vni() -> Vni {
    Vni::new(7).unwrap()
}

fn mac(n: u16) -> MacAddr {
    MacAddr([2, 0, 0, 0, (n >> 8) as u8, n as u8])
}

impl Workers {
    fn new(count: usize) -> Self {
        let switches = (0..count)
            .map(|me| {
                let mut switch = Switch::new(me as u64);
                switch.share(me as u8);
                switch
            })
            .collect();
        let news = vec![vec![VecDeque::new(); count]; count];
        let mut all =
            Self { switches, pool: HeapPool::new(256, 0), news, now: Instant::from_millis(1_000_000) };
        all.command(&Command::SetNetwork(NetworkConfig {
            vni: vni(),
            gateways: vec![],
            router_mac: MacAddr([2, 0x69, 0x76, 0, 0, 7]),
            fdb_max: 8192,
            fdb_age: AGE,
            mss_clamp: true,
            dhcp: None,
        }));
        for port in 0..PORTS {
            all.command(&Command::SetPort(PortId(port), config()));
        }
        all
    }

    fn command(&mut self, command: &Command) {
        for switch in &mut self.switches {
            switch.apply(self.now, command.clone(), &mut self.pool);
        }
    }

    /// Worker `at` receives a frame of station `who` on a port.
    fn speak(&mut self, at: usize, port: u16, who: u16) {
        let mut bytes = [0xff; 60];
        bytes[6..12].copy_from_slice(&mac(who).0);
        bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
        let mut batch = Batch::new();
        batch.push(self.pool.alloc_from(&bytes).unwrap());
        self.switches[at].forward(self.now, PortId(port), &mut batch, &mut self.pool);
        for port in 0..PORTS {
            self.switches[at].flush(PortId(port), &mut self.pool, |pool, queue| {
                queue.drain(..).for_each(|frame| pool.free(frame));
                Ok(())
            });
        }
        self.post(at);
    }

    /// Puts a worker's news in transit.
    fn post(&mut self, from: usize) {
        let news: Vec<News> = self.switches[from].take_news().drain(..).collect();
        for to in (0..self.switches.len()).filter(|&to| to != from) {
            self.news[from][to].extend(&news);
        }
    }

    /// Delivers the oldest news from one worker to another.
    fn deliver(&mut self, from: usize, to: usize) {
        let Some(news) = self.news[from][to].pop_front() else { return };
        assert!(self.switches[to].hear(self.now, from as u8, &news), "all have taken the same commands");
        self.post(to);
    }

    fn deliver_all(&mut self) {
        for _ in 0..100_000 {
            let count = self.switches.len();
            let waiting = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
            let Some((a, b)) = waiting.into_iter().find(|&(a, b)| !self.news[a][b].is_empty()) else {
                return;
            };
            self.deliver(a, b);
        }
        panic!("workers never stop telling each other");
    }

    fn tick(&mut self, by: Duration) {
        self.now = self.now + by;
        for at in 0..self.switches.len() {
            self.switches[at].tick(self.now, &mut self.pool);
            self.post(at);
        }
    }

    fn rows(&mut self, at: usize) -> Vec<FdbRow> {
        match self.switches[at].answer_query(self.now, &Query::Fdb(0), &mut self.pool) {
            Answer::Fdb(rows, None) => rows,
            _ => panic!("not one page"),
        }
    }

    /// Number of stations that a worker knows.
    fn entries(&mut self, at: usize) -> u32 {
        match self.switches[at].answer_query(self.now, &Query::Counters, &mut self.pool) {
            Answer::Counters { fdb_entries, .. } => fdb_entries,
            _ => panic!("not the counters"),
        }
    }

    /// The location of each station according to a worker.
    fn places(&mut self, at: usize) -> Vec<(MacAddr, Location)> {
        let mut places: Vec<_> = self.rows(at).iter().map(|row| (row.mac, row.location)).collect();
        places.sort_unstable();
        places
    }
}

fn config() -> PortConfig {
    PortConfig {
        vni: Some(vni()),
        role: Role::Door,
        live: true,
        mtu: 1500,
        vlan: VlanPolicy::Transparent,
        binding: Box::default(),
        bum_pps: None,
        policy: Box::default(),
        fdb_max: 1024,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Speak(usize, u16, u16),
    Deliver(usize, usize),
    Wait(u64),
    Tick,
    Flush,
}

fn step(count: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..count, 0..PORTS, 0..3u16).prop_map(|(at, port, who)| Step::Speak(at, port, who)),
        5 => (0..count, 0..count).prop_map(|(from, to)| Step::Deliver(from, to)),
        2 => (0..400_000_000u64).prop_map(Step::Wait),
        2 => Just(Step::Tick),
        1 => Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Stations move at random, any worker receives their frames, and news is delayed at random. In the end
    /// all workers agree; and a station is where it last sent a frame, unless it sent from another location
    /// within about the same coarse tick.
    #[test]
    fn all_agree_in_the_end((count, steps) in (2..4usize).prop_flat_map(|n| (Just(n), prop::collection::vec(step(n), 1..60)))) {
        let mut w = Workers::new(count);
        // By station: time and location of its last frame, and the time of its last frame from anywhere else.
        let mut spoke: [Option<(Instant, u16, Instant)>; 3] = [None; 3];
        for step in steps {
            match step {
                Step::Speak(at, port, who) => {
                    w.speak(at, port, who);
                    let last = &mut spoke[usize::from(who)];
                    *last = Some(match *last {
                        Some((_, before, elsewhere)) if before == port => (w.now, port, elsewhere),
                        Some((then, ..)) => (w.now, port, then),
                        None => (w.now, port, Instant::ZERO),
                    });
                }
                Step::Tick => w.tick(Duration::ZERO),
                Step::Deliver(from, to) if from != to => w.deliver(from, to),
                Step::Deliver(..) => {}
                Step::Wait(ns) => w.now = w.now + Duration::from_nanos(ns),
                Step::Flush => w.command(&Command::FlushFdb(Some(vni()), None)),
            }
        }
        w.deliver_all();
        w.speak(0, 1, 2);
        w.deliver_all();
        for at in 1..count {
            // The scan repeats an entry that one worker lost in a flush while another received the station's
            // frame.
            let known = w.places(at);
            for place in w.places(0) {
                let other = known.iter().find(|p| p.0 == place.0);
                prop_assert!(other.is_none_or(|other| *other == place), "{:?} {:?}", place, other);
            }
            prop_assert!(known.contains(&(mac(2), Location::Port(PortId(1)))));
        }
        for _ in 0..200 {
            w.tick(Duration::from_millis(50));
            w.deliver_all();
        }
        for at in 0..count {
            let places = w.places(at);
            prop_assert_eq!(&places, &w.places(0));
            for (who, spoke) in spoke.iter().enumerate().take(2) {
                let Some((then, port, elsewhere)) = spoke else { continue };
                if then.since(*elsewhere) > Duration::from_millis(300)
                    && let Some(place) = places.iter().find(|place| place.0 == mac(who as u16))
                {
                    prop_assert_eq!(place.1, Location::Port(PortId(*port)), "station {} for worker {}", who, at);
                }
            }
        }
    }
}

/// A station that sends to one worker alone stays known to all while it sends. It expires everywhere one
/// ageing time after its last frame: workers cannot keep an entry alive by telling each other.
#[test]
fn stations_live_and_die_together() {
    let mut w = Workers::new(3);
    w.speak(0, 0, 1);
    for second in 0..200 {
        for _ in 0..4 {
            w.tick(Duration::from_millis(250));
            w.deliver_all();
        }
        if second % 20 == 0 {
            w.speak(1, 0, 1);
            w.deliver_all();
        }
        assert!((0..3).all(|at| w.places(at) == [(mac(1), Location::Port(PortId(0)))]), "second {second}");
    }
    // The last frame was 19 s ago.
    for second in 20..45 {
        for _ in 0..4 {
            w.tick(Duration::from_millis(250));
            w.deliver_all();
        }
        let known = (0..3).filter(|&at| !w.places(at).is_empty()).count();
        assert!(if second < 29 { known == 3 } else { second < 40 || known == 0 }, "{second}: {known}");
    }
}

/// News about a removed port is discarded; news about a port that is still to come waits.
#[test]
fn news_keeps_its_place_among_commands() {
    let mut w = Workers::new(2);
    w.speak(0, 2, 5);
    w.switches[1].apply(w.now, Command::RemovePort(PortId(2)), &mut w.pool);
    w.deliver(0, 1);
    assert!(w.places(1).is_empty(), "it was told before the port was removed");
    w.switches[0].apply(w.now, Command::RemovePort(PortId(2)), &mut w.pool);
    assert!(w.places(0).is_empty());

    let back = Command::SetPort(PortId(2), config());
    w.switches[0].apply(w.now, back.clone(), &mut w.pool);
    w.speak(0, 2, 5);
    let news = w.news[0][1][0];
    assert!(!w.switches[1].hear(w.now, 0, &news), "it waits for the port");
    w.switches[1].apply(w.now, back, &mut w.pool);
    w.deliver(0, 1);
    assert_eq!(w.places(1), w.places(0));
}

/// A flood of addresses at one worker costs the others no more than their bounds. The scan repeats stations
/// that were not reported immediately.
#[test]
fn a_flood_is_told_within_bounds() {
    let mut w = Workers::new(2);
    w.command(&Command::SetPort(PortId(0), PortConfig { fdb_max: 8192, ..config() }));
    for n in 0..6000 {
        w.speak(0, 0, n);
    }
    assert_eq!(w.news[0][1].len(), engine::limits::CLAIMS_PER_TICK as usize);
    w.deliver_all();
    assert_eq!(w.entries(1), engine::limits::CLAIMS_PER_TICK);
    for _ in 0..40 {
        w.tick(Duration::from_millis(250));
        assert!(w.news[0][1].len() <= engine::limits::SIGHTINGS_PER_TICK as usize);
        w.deliver_all();
    }
    assert_eq!((w.entries(0), w.entries(1)), (6000, 6000));
}

/// A port that receives one frame, just after another event, and counts the frames that it sends.
struct Script {
    first: Box<dyn FnMut(Instant) + Send>,
    frame: Option<Vec<u8>>,
    sent: Arc<AtomicUsize>,
}

impl Port<HeapPool> for Script {
    fn rx(&mut self, now: Instant, pool: &mut HeapPool, batch: &mut Batch) {
        if let Some(bytes) = self.frame.take() {
            (self.first)(now);
            batch.push(pool.alloc_from(&bytes).unwrap());
        }
    }

    fn tx(&mut self, _: Instant, pool: &mut HeapPool, frames: &mut Vec<Frame>) {
        self.sent.fetch_add(frames.len(), Ordering::Relaxed);
        frames.drain(..).for_each(|frame| pool.free(frame));
    }

    fn caps(&self) -> PortCaps {
        PortCaps::default()
    }
}

fn frame(to: u16, from: u16) -> Vec<u8> {
    [&mac(to).0[..], &mac(from).0, &[0x88, 0xb5], &[0; 46]].concat()
}

/// In the middle of one worker's turn, after it has taken all news, another worker learns a station and sends
/// its frame. The answer is the next frame that the first worker receives, and it knows the station's
/// location.
#[test]
fn who_answers_finds_every_worker_informed() {
    let now = Instant::from_millis(1_000_000);
    let sent: [Arc<AtomicUsize>; 3] = Default::default();
    let mut workers = Vec::new();
    for (me, links) in mesh(2).into_iter().enumerate() {
        let (end, handle) = mailbox();
        let mut worker = Worker::new(HeapPool::new(64, 0), end, 1);
        worker.join(me, links);
        let network = NetworkConfig {
            vni: vni(),
            gateways: vec![],
            router_mac: MacAddr([2, 0x69, 0x76, 0, 0, 7]),
            fdb_max: 100,
            fdb_age: AGE,
            mss_clamp: true,
            dhcp: None,
        };
        handle.send(Input::Command(Command::SetNetwork(network))).unwrap();
        handle.send(Input::Command(Command::AddFdb(vni(), 0, mac(2), Location::Port(PortId(1))))).unwrap();
        for port in 0..PORTS {
            handle.send(Input::Command(Command::SetPort(PortId(port), config()))).unwrap();
        }
        worker.poll(now);
        workers.push(worker);
    }
    let (mut second, mut first) = (workers.pop().unwrap(), workers.pop().unwrap());
    let port = |worker: &mut Worker<HeapPool>, id: u16, frame, first: Box<dyn FnMut(Instant) + Send>| {
        worker.attach(PortId(id), Box::new(Script { first, frame, sent: sent[usize::from(id)].clone() }));
    };
    // The second worker receives the question of station 1, still unknown everywhere, to station 2.
    port(&mut second, 0, Some(frame(2, 1)), Box::new(|_| {}));
    port(&mut second, 1, None, Box::new(|_| {}));
    let second = Arc::new(Mutex::new(second));
    port(&mut first, 0, None, Box::new(|_| {}));
    let question = second.clone();
    port(
        &mut first,
        1,
        Some(frame(1, 2)),
        Box::new(move |now| {
            question.lock().unwrap().poll(now);
        }),
    );
    port(&mut first, 2, None, Box::new(|_| {}));
    first.poll(now);
    let sent = sent.map(|count| count.load(Ordering::Relaxed));
    assert_eq!(sent, [1, 1, 0], "the answer at its port, the question at its, and nothing at any other");
    assert!(first.counters().conserved() && second.lock().unwrap().counters().conserved());
}

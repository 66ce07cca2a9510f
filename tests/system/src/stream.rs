//! A steady stream of numbered UDP packets, which measures how many are lost and for how long none arrives.
//!
//! Every disturbance is measured by one figure, the time blocked: packets lost, divided by the rate at which they
//! were sent.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Namespace;

/// How long the receiver waits for packets after the last one was sent.
const TAIL: Duration = Duration::from_millis(200);

/// A running stream.
pub struct Stream {
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    sender: JoinHandle<(u64, Duration)>,
    receiver: JoinHandle<Received>,
}

#[derive(Default)]
struct Received {
    count: u64,
    twice: u64,
    reordered: u64,
    longest_gap: Duration,
}

/// The result of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Packets sent.
    pub sent: u64,
    /// Packets that arrived, each once.
    pub received: u64,
    /// Packets that arrived again, after a first time.
    pub twice: u64,
    /// Packets that arrived after a later one.
    pub reordered: u64,
    /// The longest time without a packet.
    pub longest_gap: Duration,
    /// For how long the stream was sent.
    pub time: Duration,
}

impl Report {
    /// Packets lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// The time blocked: lost packets divided by the rate at which they were sent.
    #[must_use]
    pub fn blocked(&self) -> Duration {
        self.time.mul_f64(self.lost() as f64 / self.sent.max(1) as f64)
    }

    /// The share of packets that arrived.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.received as f64 / self.sent.max(1) as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.sent as f64 / self.time.as_secs_f64().max(1e-9);
        write!(
            f,
            "{} sent at {rate:.0}/s, {} lost, {} twice, {} reordered: blocked for {:.1} ms, longest gap {:.1} ms",
            self.sent,
            self.lost(),
            self.twice,
            self.reordered,
            self.blocked().as_secs_f64() * 1e3,
            self.longest_gap.as_secs_f64() * 1e3
        )
    }
}

impl Stream {
    /// Sends `pps` packets a second from one namespace to `listen` in another; no other socket may listen there.
    #[must_use]
    #[track_caller]
    pub fn start(from: &Namespace, to: &Namespace, listen: SocketAddr, pps: u32) -> Self {
        let receiver = to.run(move || {
            let socket = UdpSocket::bind(listen)?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            Ok::<_, io::Error>(socket)
        });
        let receiver_socket = receiver.expect("a free port in a namespace of ours");
        let (stop, arrived) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let stopped = Arc::clone(&stop);
        let sender = from.spawn(move || {
            let any = if listen.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).expect("a socket");
            let (start, mut sent) = (Instant::now(), 0_u64);
            while !stopped.load(Ordering::Relaxed) {
                let due = (start.elapsed().as_secs_f64() * f64::from(pps)) as u64;
                while sent < due {
                    // A full local queue, or a route that is missing for a moment, is a loss like any other.
                    let _ = socket.send_to(&sent.to_be_bytes(), listen);
                    sent += 1;
                }
                std::thread::sleep(Duration::from_micros(500));
            }
            (sent, start.elapsed())
        });
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&arrived));
        let receiver = std::thread::spawn(move || {
            let mut seen = vec![false; 1 << 20];
            let (mut report, mut buffer) = (Received::default(), [0; 64]);
            let (mut next, mut last, mut over) = (0, None::<Instant>, None::<Instant>);
            loop {
                match receiver_socket.recv(&mut buffer) {
                    Ok(8) => {
                        let number = u64::from_be_bytes(buffer[..8].try_into().expect("eight bytes"));
                        let now = Instant::now();
                        if let Some(last) = last.replace(now) {
                            report.longest_gap = report.longest_gap.max(now - last);
                        }
                        let index = number as usize;
                        if index >= seen.len() {
                            seen.resize(index + (1 << 20), false);
                        }
                        if std::mem::replace(&mut seen[index], true) {
                            report.twice += 1;
                            continue;
                        }
                        report.reordered += u64::from(number < next);
                        next = next.max(number + 1);
                        report.count += 1;
                        counted.store(report.count, Ordering::Relaxed);
                    }
                    Ok(_) => {}
                    Err(_) if stopped.load(Ordering::Relaxed) => {
                        if over.get_or_insert_with(Instant::now).elapsed() > TAIL {
                            return report;
                        }
                    }
                    Err(_) => {}
                }
            }
        });
        Self { stop, arrived, sender, receiver }
    }

    /// Waits until `count` more packets have arrived.
    #[track_caller]
    pub fn wait_more(&self, count: u64, when: &str) {
        let before = self.arrived.load(Ordering::Relaxed);
        crate::wait_for(&format!("{count} more packets {when}"), || {
            self.arrived.load(Ordering::Relaxed) >= before + count
        });
    }

    /// Ends the stream.
    #[must_use]
    pub fn finish(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, time) = self.sender.join().expect("the sender");
        let Received { count, twice, reordered, longest_gap } = self.receiver.join().expect("the receiver");
        Report { sent, received: count, twice, reordered, longest_gap, time }
    }
}

//! TCP transfers whose every byte is checked.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Namespace;

/// A transfer that makes no progress for this long has failed.
const STALLED: Duration = Duration::from_secs(20);

/// Moves `bytes` from a client to a server over TCP, then `bytes` back, checking every byte.
/// The server listens on `listen`, the client connects to `connect` (they differ where there is NAT).
/// Gives the address that the server saw.
#[track_caller]
pub fn transfer(
    client: &Namespace,
    server: &Namespace,
    connect: SocketAddr,
    listen: SocketAddr,
    bytes: u64,
) -> IpAddr {
    match try_transfer(client, server, connect, listen, bytes, STALLED) {
        Ok(from) => from,
        Err(e) => panic!("TCP to {connect}, {bytes} bytes each way: {e}"),
    }
}

/// As [`transfer`], but reports a failure instead of panicking: no progress for `patience`, or a wrong byte.
///
/// # Errors
/// Says which side failed, and how.
#[track_caller]
pub fn try_transfer(
    client: &Namespace,
    server: &Namespace,
    connect: SocketAddr,
    listen: SocketAddr,
    bytes: u64,
    patience: Duration,
) -> Result<IpAddr, String> {
    let listener =
        server.run(move || TcpListener::bind(listen)).unwrap_or_else(|e| panic!("listen on {listen}: {e}"));
    let accepting = server.spawn(move || -> io::Result<IpAddr> {
        let (mut stream, from) = accept(&listener, patience)?;
        expect(&mut stream, 1, bytes)?;
        produce(&mut stream, 2, bytes)?;
        Ok(from.ip())
    });
    let asked = client.run(move || -> io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&connect, patience)?;
        timeouts(&stream, patience)?;
        produce(&mut stream, 1, bytes)?;
        expect(&mut stream, 2, bytes)
    });
    let accepted = accepting.join().expect("the server thread");
    asked.map_err(|e| format!("client: {e}"))?;
    accepted.map_err(|e| format!("server: {e}"))
}

/// Accepts one connection, or fails when no client connects.
fn accept(listener: &TcpListener, patience: Duration) -> io::Result<(TcpStream, SocketAddr)> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + patience;
    loop {
        match listener.accept() {
            Ok((stream, from)) => {
                stream.set_nonblocking(false)?;
                timeouts(&stream, patience)?;
                return Ok((stream, from));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(e) => return Err(e),
        }
    }
}

fn timeouts(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))
}

/// Fills a chunk of the stream with this seed: a cheap mix without a short period.
fn pattern(seed: u64, chunk: u64, buffer: &mut [u8]) {
    let mut x = (seed << 32 | chunk).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in buffer.chunks_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        word.copy_from_slice(&x.to_le_bytes()[..word.len()]);
    }
}

const CHUNK: u64 = 16 * 1024;

fn produce(stream: &mut TcpStream, seed: u64, bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK as usize];
    for (chunk, start) in (0..bytes).step_by(CHUNK as usize).enumerate() {
        let part = &mut buffer[..CHUNK.min(bytes - start) as usize];
        pattern(seed, chunk as u64, part);
        stream.write_all(part)?;
    }
    Ok(())
}

fn expect(stream: &mut TcpStream, seed: u64, bytes: u64) -> io::Result<()> {
    let (mut buffer, mut right) = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
    for (chunk, start) in (0..bytes).step_by(CHUNK as usize).enumerate() {
        let len = CHUNK.min(bytes - start) as usize;
        stream.read_exact(&mut buffer[..len])?;
        pattern(seed, chunk as u64, &mut right[..len]);
        if buffer[..len] != right[..len] {
            return Err(io::Error::other(format!("damaged between byte {start} and {}", start + len as u64)));
        }
    }
    Ok(())
}

/// One TCP connection that talks all the time (a question of 256 bytes, its echo, the next), like an
/// SSH session in which a user types.
pub struct Session {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    client: JoinHandle<io::Result<Duration>>,
}

impl Session {
    /// Connects and starts to talk.
    #[must_use]
    #[track_caller]
    pub fn start(client: &Namespace, server: &Namespace, connect: SocketAddr, listen: SocketAddr) -> Self {
        let listener =
            server.run(move || TcpListener::bind(listen)).expect("a free port in a namespace of ours");
        server.spawn(move || -> io::Result<()> {
            let (mut stream, _) = accept(&listener, STALLED)?;
            drop(listener);
            let mut block = [0; 256];
            loop {
                stream.read_exact(&mut block)?;
                stream.write_all(&block)?;
            }
        });
        Self::with(client, connect)
    }

    /// As [`start`](Self::start), with an echo server that is already running.
    #[must_use]
    #[track_caller]
    pub fn with(client: &Namespace, connect: SocketAddr) -> Self {
        Self::paced(client, connect, Duration::ZERO)
    }

    /// As [`with`](Self::with), with a pause after every answer, so that the server has time for other things.
    #[must_use]
    #[track_caller]
    pub fn paced(client: &Namespace, connect: SocketAddr, pause: Duration) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&answers));
        let client = client.spawn(move || {
            let mut stream = TcpStream::connect_timeout(&connect, STALLED)?;
            timeouts(&stream, STALLED)?;
            stream.set_nodelay(true)?;
            let (mut question, mut echo) = ([0; 256], [0; 256]);
            let mut longest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                pattern(3, counted.load(Ordering::Relaxed), &mut question);
                stream.write_all(&question)?;
                stream.read_exact(&mut echo)?;
                if echo != question {
                    return Err(io::Error::other("a damaged echo"));
                }
                counted.fetch_add(1, Ordering::Relaxed);
                longest = longest.max(asked.elapsed());
                std::thread::sleep(pause);
            }
            Ok(longest)
        });
        let session = Self { stop, answers, client };
        session.assert_alive("at its start");
        session
    }

    /// Fails the test unless at least twenty more questions are answered soon.
    #[track_caller]
    pub fn assert_alive(&self, when: &str) {
        let before = self.answers.load(Ordering::Relaxed);
        let alive = crate::wait_until(STALLED, || {
            self.client.is_finished() || self.answers.load(Ordering::Relaxed) >= before + 20
        });
        assert!(alive && !self.client.is_finished(), "the TCP session stopped {when}");
    }

    /// Ends the session. Gives the longest time that an answer took.
    #[track_caller]
    pub fn finish(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.client
            .join()
            .expect("the client thread")
            .unwrap_or_else(|e| panic!("the TCP session broke: {e}"))
    }
}

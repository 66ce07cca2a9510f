//! Round trips, goodput and small messages.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

const PORT_TCP: u16 = 7001;
const PORT_ECHO: u16 = 7002;
const PORT_COUNT: u16 = 7003;

/// The message length that Iris used: "the message length is set to 32 KB".
const MESSAGE: usize = 32 << 10;
/// The payload of a 60-byte Ethernet frame.
const SMALL: [u8; 18] = [0; 18];
/// The question for the number of messages that the counting end has received since the last question.
const ASK: &[u8] = b"how many";
/// A transfer of fewer bytes is timed by the sender.
const FEW: u64 = 4 << 20;
/// Samples of a distribution that are kept for the plot.
const KEPT: usize = 200;
/// How long the first answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers all three probes, until killed.
pub fn serve() -> Result<()> {
    let tcp = TcpListener::bind(("0.0.0.0", PORT_TCP))?;
    let echo = UdpSocket::bind(("0.0.0.0", PORT_ECHO))?;
    let count = UdpSocket::bind(("0.0.0.0", PORT_COUNT))?;
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            if let Ok((len, from)) = echo.recv_from(&mut buffer) {
                echo.send_to(&buffer[..len], from).ok();
            }
        }
    });
    std::thread::spawn(move || counting(&count));
    for stream in tcp.incoming() {
        std::thread::spawn(move || stream.and_then(sink));
    }
    Ok(())
}

fn counting(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    let (mut count, mut first, mut last) = (0u64, None, Instant::now());
    // A repetition of a question whose answer was slow counts as the same question.
    let (mut question, mut answer) = (Vec::new(), String::new());
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) if buffer[..len].starts_with(ASK) => {
                if question != buffer[..len] {
                    let ns = first.map_or(0, |first| last.duration_since(first).as_nanos());
                    question = buffer[..len].to_vec();
                    answer = format!("{} {count} {ns}", String::from_utf8_lossy(&question[ASK.len()..]));
                    (count, first) = (0, None);
                }
                socket.send_to(answer.as_bytes(), from).ok();
            }
            Ok(_) => {
                last = Instant::now();
                first.get_or_insert(last);
                count += 1;
            }
            Err(_) => {}
        }
    }
}

/// Receives everything, and reports the number of bytes and the time.
fn sink(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let (mut bytes, mut first, mut last) = (0u64, None, Instant::now());
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        last = Instant::now();
        first.get_or_insert(last);
        bytes += count as u64;
    }
    let ns = first.map_or(0, |first| last.duration_since(first).as_nanos());
    stream.write_all(format!("{bytes} {ns}").as_bytes())
}

fn udp(address: &str, port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((address, port)).with_context(|| format!("{address}:{port}"))?;
    Ok(socket)
}

fn two(text: &str) -> Option<(u64, u64)> {
    let (a, b) = text.trim().split_once(' ')?;
    Some((a.parse().ok()?, b.parse().ok()?))
}

/// Measures round trips, in microseconds.
pub fn rtt(address: &str, seconds: f64) -> Result<()> {
    let socket = udp(address, PORT_ECHO)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut message = [0; 64];
    let (mut samples, mut lost, mut number) = (Vec::new(), 0u64, 0u64);
    // The first ones resolve addresses and fill tables; with two levels of emulation that takes seconds.
    let patience = Instant::now() + PATIENCE;
    let mut since = None;
    let (warm, length) = (Duration::from_secs_f64(seconds / 10.0), Duration::from_secs_f64(seconds * 1.1));
    while since.map_or(Instant::now() < patience, |since: Instant| since.elapsed() < length) {
        number += 1;
        message[..8].copy_from_slice(&number.to_be_bytes());
        let start = Instant::now();
        // The server may not listen yet, or no longer: that is a loss like any other.
        socket.send(&message).ok();
        let mut answer = [0; 64];
        let came = loop {
            match socket.recv(&mut answer) {
                // A late answer to an earlier message.
                Ok(_) if answer[..8] != message[..8] => {}
                Ok(_) => break true,
                Err(_) => break false,
            }
        };
        let Some(since) = since else {
            since = came.then(Instant::now);
            continue;
        };
        if start < since + warm {
            continue;
        }
        if came { samples.push(start.elapsed().as_secs_f64() * 1e6) } else { lost += 1 }
    }
    ensure!(!samples.is_empty(), "no answer from {address}");
    samples.sort_by(f64::total_cmp);
    let at = |p| bench::stats::percentile(&samples, p);
    let kept: Vec<f64> = match samples.len() {
        n if n <= KEPT => samples.clone(),
        n => (0..KEPT).map(|i| samples[i * (n - 1) / (KEPT - 1)]).collect(),
    };
    println!(
        "{}",
        json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "count": samples.len(), "lost": lost, "kept": kept })
    );
    Ok(())
}

/// Measures goodput.
pub fn tcp(address: &str, seconds: f64) -> Result<()> {
    let to: SocketAddr = format!("{address}:{PORT_TCP}").parse()?;
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(20))?;
    let message = vec![0; MESSAGE];
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        stream.write_all(&message)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let (bytes, ns) = two(&said).context("no count from the other end")?;
    ensure!(bytes > 0, "nothing arrived");
    // If the data arrived in few pieces, the time from the first to the last leaves out most of the transfer.
    let took = if bytes < FEW { start.elapsed().as_secs_f64() } else { ns as f64 / 1e9 };
    println!("{}", json!({ "bytes": bytes, "seconds": took }));
    Ok(())
}

/// Measures small messages.
pub fn small(address: &str, seconds: f64) -> Result<()> {
    let socket = udp(address, PORT_COUNT)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let ask = |word: &str| -> Result<(u64, u64)> {
        let mut answer = [0; 128];
        let word = format!("{}{word}", std::process::id());
        let patience = Instant::now() + PATIENCE;
        while Instant::now() < patience {
            // If the queue is full, the question may be lost too.
            socket.send(&[ASK, word.as_bytes()].concat()).ok();
            if let Ok(len) = socket.recv(&mut answer)
                && let Some((about, counts)) = String::from_utf8_lossy(&answer[..len]).split_once(' ')
                && about == word
                && let Some(counts) = two(counts)
            {
                return Ok(counts);
            }
        }
        anyhow::bail!("no count from {address}")
    };
    ask("before")?;
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds);
    let mut sent = 0u64;
    while Instant::now() < end {
        for _ in 0..16 {
            sent += u64::from(socket.send(&SMALL).is_ok());
        }
    }
    let took = start.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_millis(200));
    let (arrived, ns) = ask("after")?;
    println!("{}", json!({ "sent": sent, "took": took, "arrived": arrived, "seconds": ns as f64 / 1e9 }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repeated question, whose answer was slow, gets the same answer; the next question gets another.
    #[test]
    fn a_count_is_told_to_each_question_once() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let to = server.local_addr().expect("an address");
        std::thread::spawn(move || counting(&server));
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.connect(to).expect("connected");
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        let ask = |word: &str| {
            client.send(&[ASK, word.as_bytes()].concat()).expect("sent");
            let mut answer = [0; 64];
            let len = client.recv(&mut answer).expect("an answer");
            String::from_utf8_lossy(&answer[..len]).into_owned()
        };
        for _ in 0..3 {
            client.send(&SMALL).expect("sent");
        }
        let first = ask("1a");
        assert!(first.starts_with("1a 3 "), "{first}");
        client.send(&SMALL).expect("sent");
        assert_eq!(ask("1a"), first);
        assert!(ask("1b").starts_with("1b 1 "));
    }
}

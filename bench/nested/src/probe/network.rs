//! Round trips, goodput and small messages.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

const PORT_TCP: u16 = 7001;
const PORT_ECHO: u16 = 7002;
const PORT_COUNT: u16 = 7003;

/// What Iris sent with: "the message length is set to 32 KB".
const MESSAGE: usize = 32 << 10;
/// Fills a 60-byte Ethernet frame.
const SMALL: [u8; 18] = [0; 18];
/// Asks the counting end for its count since the last time.
const ASK: &[u8] = b"how many";
/// Samples of a distribution that are kept for the plot.
const KEPT: usize = 200;

/// Answers all three, until killed.
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
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) if &buffer[..len] == ASK => {
                let ns = first.map_or(0, |first| last.duration_since(first).as_nanos());
                socket.send_to(format!("{count} {ns}").as_bytes(), from).ok();
                (count, first) = (0, None);
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

/// Takes everything, and says how much came in how long.
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

/// Round trips, in microseconds.
pub fn rtt(address: &str, seconds: f64) -> Result<()> {
    let socket = udp(address, PORT_ECHO)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut message = [0; 64];
    let (mut samples, mut lost, mut number) = (Vec::new(), 0u64, 0u64);
    // The first ones resolve addresses and fill tables.
    let warm = Instant::now() + Duration::from_secs_f64(seconds / 10.0);
    let end = warm + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        number += 1;
        message[..8].copy_from_slice(&number.to_be_bytes());
        let start = Instant::now();
        // Nobody listens yet, or no more: that is a loss like any.
        socket.send(&message).ok();
        let mut answer = [0; 64];
        let came = loop {
            match socket.recv(&mut answer) {
                // An answer that was given up on is not this one's.
                Ok(_) if answer[..8] != message[..8] => {}
                Ok(_) => break true,
                Err(_) => break false,
            }
        };
        if start < warm {
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

/// Goodput.
pub fn tcp(address: &str, seconds: f64) -> Result<()> {
    let to: SocketAddr = format!("{address}:{PORT_TCP}").parse()?;
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(20))?;
    let message = vec![0; MESSAGE];
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        stream.write_all(&message)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let (bytes, ns) = two(&said).context("no count from the other end")?;
    ensure!(ns > 0, "nothing arrived");
    println!("{}", json!({ "bytes": bytes, "seconds": ns as f64 / 1e9 }));
    Ok(())
}

/// Small messages.
pub fn small(address: &str, seconds: f64) -> Result<()> {
    let socket = udp(address, PORT_COUNT)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let ask = || -> Result<(u64, u64)> {
        let mut answer = [0; 64];
        for _ in 0..40 {
            // Behind a full queue the question may be lost, too.
            socket.send(ASK).ok();
            if let Ok(len) = socket.recv(&mut answer)
                && let Some(counts) = two(&String::from_utf8_lossy(&answer[..len]))
            {
                return Ok(counts);
            }
        }
        anyhow::bail!("no count from {address}")
    };
    ask()?;
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
    let (arrived, ns) = ask()?;
    println!("{}", json!({ "sent": sent, "took": took, "arrived": arrived, "seconds": ns as f64 / 1e9 }));
    Ok(())
}

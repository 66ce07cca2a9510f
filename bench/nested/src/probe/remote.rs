//! A shell at the other end of a link, like `ssh`: one connection per command, and the answer on the way back.
//! Only for namespaces and guests of a run.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

const PORT_SHELL: u16 = 7004;
/// The port at which a guest's first packet is expected.
const PORT_HELLO: u16 = 7005;
const PORT_ECHO: u16 = 7002;

/// Runs the commands that arrive, until killed.
pub fn serve() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT_SHELL))?;
    println!("ready");
    for stream in listener.incoming() {
        std::thread::spawn(move || stream.and_then(one));
    }
    Ok(())
}

fn one(mut stream: TcpStream) -> std::io::Result<()> {
    let mut command = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut command)?;
    let output = Command::new("sh").args(["-c", &command]).stdin(Stdio::null()).output()?;
    stream.write_all(&output.stdout)?;
    stream.write_all(&output.stderr)?;
    stream.write_all(format!("\x01{}\n", output.status.code().unwrap_or(-1)).as_bytes())
}

/// Runs a command in the shell there.
pub fn ask(address: &str, command: &str) -> Result<()> {
    let mut stream = TcpStream::connect((address, PORT_SHELL))?;
    stream.write_all(format!("{command}\n").as_bytes())?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let (text, code) = said.split_once('\x01').unwrap_or((&said, "-1"));
    ensure!(code.trim() == "0", "{command}: {}", text.trim());
    print!("{text}");
    Ok(())
}

/// Waits for the first packet of a guest.
pub fn first() -> Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", PORT_HELLO))?;
    println!("ready");
    let mut buffer = [0; 64];
    let (_, from) = socket.recv_from(&mut buffer)?;
    socket.send_to(b"here", from).ok();
    println!("came");
    Ok(())
}

/// The guest's side of `first`: sends its packet until it is answered.
pub fn hello(address: &str) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((address, PORT_HELLO))?;
    socket.set_read_timeout(Some(Duration::from_millis(10)))?;
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        socket.send(b"hello").ok();
        let start = Instant::now();
        if socket.recv(&mut [0; 64]).is_ok() {
            break;
        }
        // A refusal arrives immediately, so wait.
        std::thread::sleep(Duration::from_millis(10).saturating_sub(start.elapsed()));
    }
    Ok(())
}

/// Sends numbered messages to an echo server; gives the longest time without an answer, and how many got none.
pub fn outage(address: &str, seconds: f64, interval_ms: f64) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect((address, PORT_ECHO))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let receiver = socket.try_clone()?;
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let answers = std::thread::spawn(move || {
        let (mut count, mut longest, mut last) = (0u64, Duration::ZERO, None::<Instant>);
        let mut buffer = [0; 64];
        while Instant::now() < end + Duration::from_millis(400) {
            if receiver.recv(&mut buffer).is_ok() {
                let now = Instant::now();
                longest = longest.max(last.map_or(Duration::ZERO, |last| now - last));
                last = Some(now);
                count += 1;
            }
        }
        (count, longest)
    });
    let mut sent = 0u64;
    println!("ready");
    while Instant::now() < end {
        sent += u64::from(socket.send(&sent.to_be_bytes()).is_ok());
        std::thread::sleep(Duration::from_secs_f64(interval_ms / 1e3));
    }
    let (count, longest) = answers.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?;
    ensure!(count > 1, "no answer from {address}");
    println!("{}", json!({ "sent": sent, "answered": count, "longest_s": longest.as_secs_f64() }));
    Ok(())
}

//! The web server of the demo, and its client.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::{Outcome, PATIENCE};

/// A page of 60 kB that a browser can show and `fetch` can check.
fn page() -> Vec<u8> {
    let mut page =
        String::from("Hello from inside the inception cloud. The rest serves to check the transfer.\n");
    for line in 0.. {
        if page.len() >= 60_000 {
            break;
        }
        let _ = writeln!(page, "{line:>5} {:08x}", u32::wrapping_mul(line, 2_654_435_761));
    }
    page.truncate(60_000);
    page.into_bytes()
}

/// Serves the page to everyone who connects.
pub(super) fn serve(address: SocketAddr) -> Outcome {
    let listener = TcpListener::bind(address).map_err(|e| format!("listening on {address}: {e}"))?;
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || answer(stream));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let (mut request, mut chunk) = (Vec::new(), [0; 1024]);
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            n => request.extend_from_slice(&chunk[..n]),
        }
        if request.len() > 8192 {
            return Ok(());
        }
    }
    let page = page();
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nX-Client: {}\r\n\r\n",
        page.len(),
        stream.peer_addr()?.ip()
    )?;
    stream.write_all(&page)
}

/// Fetches the page and checks it.
pub(super) fn fetch(address: SocketAddr, seen_as: Option<IpAddr>) -> Outcome {
    let what = |stage: &'static str| move |e: std::io::Error| format!("{stage} http://{address}/: {e}");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(what("connecting to"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(what("asking"))?;
    let mut answer = Vec::new();
    stream.take(1 << 20).read_to_end(&mut answer).map_err(what("reading"))?;
    let split = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .ok_or_else(|| format!("http://{address}/: no HTTP header came"))?;
    let header = String::from_utf8_lossy(&answer[..split]).to_string();
    let body = &answer[split + 4..];
    if body != page() {
        return Err(format!("http://{address}/: the page arrived damaged ({} bytes)", body.len()).into());
    }
    let client = header.lines().find_map(|line| line.strip_prefix("X-Client: ")).unwrap_or("nobody");
    if seen_as.is_some_and(|expected| client != expected.to_string()) {
        return Err(format!("http://{address}/ saw {client} instead of {}", seen_as.expect("checked")).into());
    }
    say!("{} bytes intact from http://{address}/, which saw us as {client}", body.len());
    Ok(())
}

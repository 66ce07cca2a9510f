//! Serves the metrics on a Unix socket or on loopback, to one scraper at a time. The thread is an ordinary
//! client of the control socket: the daemon's work does not wait for it.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ctl::api::Status;
use ctl::metrics;

/// The time limit for a scraper, and for the daemon's answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest request.
const REQUEST_LEN_MAX: u64 = 8 << 10;

/// The daemon's longest answer.
const ANSWER_LEN_MAX: u64 = 64 << 20;

/// The address at which to serve metrics.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A Unix socket.
    Unix(PathBuf),
    /// A loopback address of this machine.
    Loopback(SocketAddr),
}

impl FromStr for Place {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Loopback(address)),
            Ok(address) => {
                Err(format!("{} is not a loopback address: metrics are not for others to see", address.ip()))
            }
            Err(_) => Err("write it as unix:/run/ivswitch/metrics.sock or 127.0.0.1:9477".to_owned()),
        }
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Serves the metrics from a separate thread until the process ends. `control` is the daemon's control socket.
///
/// # Errors
/// The address cannot be used.
pub fn serve(place: &Place, control: &Path) -> anyhow::Result<()> {
    let listener = match place {
        Place::Unix(path) => {
            match std::fs::symlink_metadata(path) {
                Ok(there) if there.file_type().is_socket() => std::fs::remove_file(path)?,
                Ok(_) => {
                    bail!("--metrics {}: there is a file that is not a socket; remove it", path.display())
                }
                Err(_) => {}
            }
            let listener = UnixListener::bind(path)
                .with_context(|| format!("--metrics: cannot bind {}", path.display()))?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
            Listener::Unix(listener)
        }
        Place::Loopback(address) => Listener::Tcp(
            TcpListener::bind(address).with_context(|| format!("--metrics: cannot listen on {address}"))?,
        ),
    };
    let control = control.to_owned();
    std::thread::Builder::new().name("ivs-metrics".to_owned()).spawn(move || {
        loop {
            let result = match &listener {
                Listener::Unix(listener) => listener.accept().and_then(|(stream, _)| {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    answer(&stream, &stream, &control)
                }),
                Listener::Tcp(listener) => listener.accept().and_then(|(stream, _)| {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    answer(&stream, &stream, &control)
                }),
            };
            if let Err(error) = result {
                tracing::debug!("metrics: {error}");
                // Without a pause, a listener that has no descriptors left would spin.
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    })?;
    Ok(())
}

/// Handles one request (HTTP/1.0: the connection ends with the answer).
fn answer(from: impl Read, mut to: impl Write, control: &Path) -> io::Result<()> {
    let mut lines = BufReader::new(from.take(REQUEST_LEN_MAX));
    let mut request = String::new();
    lines.read_line(&mut request)?;
    let (mut header, mut open_metrics) = (String::new(), false);
    while lines.read_line(&mut header)? > 2 {
        header.make_ascii_lowercase();
        open_metrics |= header.starts_with("accept:") && header.contains("application/openmetrics-text");
        header.clear();
    }
    let mut words = request.split_whitespace();
    let (status, kind, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics" | "/")) => match status_of(control) {
            Ok(status) if open_metrics => ("200 OK", metrics::CONTENT_TYPE, metrics::render(&status)),
            Ok(status) => ("200 OK", metrics::PLAIN, metrics::render_plain(&status)),
            Err(error) => ("503 Service Unavailable", "text/plain", format!("{error}\n")),
        },
        (Some("GET"), Some(_)) => ("404 Not Found", "text/plain", "ask for /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "ask with GET\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.0 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    to.write_all(head.as_bytes())?;
    to.write_all(body.as_bytes())?;
    to.flush()
}

/// Asks the daemon for its status.
fn status_of(control: &Path) -> io::Result<Status> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let params = serde_json::json!({ "timeout_ms": 2000 });
    let request = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "status", "params": params });
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_LEN_MAX)).read_line(&mut line)?;
    let mut answer: serde_json::Value = serde_json::from_str(&line)?;
    Ok(serde_json::from_value(answer["result"].take())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!("unix:/run/x".parse(), Ok(Place::Unix("/run/x".into())));
        assert!("127.0.0.1:9477".parse::<Place>().is_ok() && "[::1]:9477".parse::<Place>().is_ok());
        for bad in ["0.0.0.0:9477", "10.0.0.1:1", "localhost:1", "9477", ""] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn odd_requests_are_answered() {
        for (request, status) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "503"),
            ("GET /x HTTP/1.1\r\n\r\n", "404"),
            ("POST / HTTP/1.1\r\n\r\n", "405"),
            ("", "405"),
        ] {
            let mut out = Vec::new();
            answer(request.as_bytes(), &mut out, Path::new("/nonexistent")).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(text.starts_with(&format!("HTTP/1.0 {status} ")), "{request:?}: {text}");
        }
    }
}

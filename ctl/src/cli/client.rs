//! A client of the daemon: one request and one answer at a time, each within a deadline.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::output::Failure;

/// How long the daemon may take beyond the request's own timeout.
const GRACE: Duration = Duration::from_secs(2);

/// The longest answer, in bytes: a whole FDB.
const ANSWER_LEN_MAX: usize = 256 << 20;

/// A connection to the daemon.
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    timeout: Duration,
    no_wait: bool,
    received: Vec<u8>,
    next_id: u64,
}

impl Client {
    /// Connects.
    pub fn connect(path: &Path, timeout_s: f64, no_wait: bool) -> Result<Self, Failure> {
        let timeout = Duration::from_secs_f64(timeout_s);
        let stream = open(path, Instant::now() + timeout.max(Duration::from_millis(100)))
            .map_err(|e| unreachable(path, e))?;
        Ok(Self { stream, path: path.to_owned(), timeout, no_wait, received: Vec::new(), next_id: 1 })
    }

    /// Sends one request and waits for its answer.
    pub fn call<T: DeserializeOwned>(&mut self, method: &str, mut params: Value) -> Result<T, Failure> {
        let is_question = matches!(
            method.rsplit('.').next(),
            Some("list" | "status" | "drops" | "show" | "check" | "diff" | "trace")
        ) || method.starts_with("capture.");
        if !matches!(method, "version" | "subscribe") {
            let ms = if self.no_wait && !is_question { 0 } else { self.timeout.as_millis() as u64 };
            params["timeout_ms"] = json!(ms);
        }
        let id = self.next_id;
        self.next_id += 1;
        let request =
            json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string() + "\n";
        if request.len() > crate::api::REQUEST_LEN_MAX {
            let why = format!("it has {} bytes, more than {}", request.len(), crate::api::REQUEST_LEN_MAX);
            let how = format!("put the file at {} and restart ivswitchd", crate::api::CONFIG);
            return Err(Failure::new(1, "the request is not sent", why, how));
        }
        let deadline = Instant::now() + self.timeout + GRACE;
        let sent = self
            .stream
            .set_write_timeout(Some(self.timeout + GRACE))
            .and_then(|()| self.stream.write_all(request.as_bytes()));
        sent.map_err(|e| self.lost(&e))?;
        loop {
            let line = self.line(Some(deadline))?;
            let Ok(answer) = serde_json::from_slice::<Value>(&line) else {
                return Err(self.odd("the answer is not JSON"));
            };
            if answer.get("id").is_none() {
                // This is an event, which no caller waits for here.
                continue;
            }
            if answer.get("error").is_some_and(|e| !e.is_null()) {
                return Err(Failure::from(crate::api::Error::from_json(&answer["error"])));
            }
            if answer["id"] != json!(id) {
                return Err(self.odd("the answer is to another request"));
            }
            return serde_json::from_value(answer["result"].clone()).map_err(|e| self.odd(&e.to_string()));
        }
    }

    /// Passes each event to `show`, until interrupted.
    pub fn monitor(
        mut self,
        drops_per_second: u64,
        show: impl Fn(&Value) -> Result<(), Failure>,
    ) -> Result<u8, Failure> {
        let _: Value = self.call("subscribe", json!({ "drops_per_second": drops_per_second }))?;
        loop {
            let line = self.line(None)?;
            if let Ok(event) = serde_json::from_slice::<Value>(&line)
                && event["method"] == "event"
            {
                show(&event["params"])?;
            }
        }
    }

    /// The next line, without its line end.
    fn line(&mut self, deadline: Option<Instant>) -> Result<Vec<u8>, Failure> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.received[searched..].iter().position(|&b| b == b'\n') {
                let rest = self.received.split_off(searched + end + 1);
                let mut line = std::mem::replace(&mut self.received, rest);
                line.pop();
                return Ok(line);
            }
            searched = self.received.len();
            if searched > ANSWER_LEN_MAX {
                return Err(self.odd("the answer does not end"));
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(self.lost(&ErrorKind::TimedOut.into()));
            }
            let mut chunk = vec![0; 64 << 10];
            match self.stream.set_read_timeout(left).and_then(|()| self.stream.read(&mut chunk)) {
                Ok(0) => return Err(self.lost(&ErrorKind::UnexpectedEof.into())),
                Ok(n) => self.received.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.lost(&e)),
            }
        }
    }

    fn lost(&self, e: &std::io::Error) -> Failure {
        let what = format!("ivswitchd on {} did not answer", self.path.display());
        match e.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => {
                let why = format!("{:.1} seconds passed", (self.timeout + GRACE).as_secs_f64());
                Failure::new(
                    7,
                    what,
                    why,
                    "try again with a longer --timeout; look at the daemon's log: `journalctl -u ivswitchd`",
                )
            }
            _ => {
                let why = format!("it closed the connection ({e})");
                Failure::new(5, what, why, "look at its log: `journalctl -u ivswitchd`")
            }
        }
    }

    fn odd(&self, why: &str) -> Failure {
        let what = format!("the answer on {} is not understood", self.path.display());
        Failure::new(1, what, why, "ivctl and ivswitchd should be of the same version")
    }
}

/// Connects within `deadline`, even if the listener's queue is full.
fn open(path: &Path, deadline: Instant) -> Result<UnixStream, Errno> {
    let address = SocketAddrUnix::new(path)?;
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match connect(&fd, &address) {
            Ok(()) => {
                let stream = UnixStream::from(fd);
                return stream.set_nonblocking(false).map(|()| stream).map_err(|_| Errno::IO);
            }
            Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Err(e) => return Err(e),
        }
    }
}

fn unreachable(path: &Path, e: Errno) -> Failure {
    let what = format!("ivswitchd cannot be reached on {}", path.display());
    match e {
        Errno::ACCESS | Errno::PERM => Failure::new(
            6,
            what,
            "you may not use its socket",
            "run `ivctl` as root, or join the socket's group",
        ),
        Errno::NOENT => {
            let how = "start it (`systemctl start ivswitchd`), or name its socket with --socket";
            Failure::new(5, what, "there is no such socket", how)
        }
        Errno::CONNREFUSED => Failure::new(
            5,
            what,
            "no program listens there any more",
            "start it: `systemctl start ivswitchd`",
        ),
        Errno::AGAIN => Failure::new(
            7,
            what,
            "it does not accept connections",
            "look at its log (`journalctl -u ivswitchd`); it may be overloaded",
        ),
        e => Failure::new(5, what, e.to_string(), "name its socket with --socket"),
    }
}

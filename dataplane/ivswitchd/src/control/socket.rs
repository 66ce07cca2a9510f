//! The control socket: checks which clients may speak, bounds their lines, and sets the pace.
//!
//! One request is one line. A client that sends a line that is too long, or does not read the answers, is
//! disconnected; no client can make the daemon wait or grow.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ctl::api::{self, Code};
use ctl::io::{ClientId, Input};
use engine::time::Instant;
use mio::event::Event;
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::socket_peercred;
use thiserror::Error;

use crate::clock;

/// Longest request.
const LINE_LEN_MAX: usize = api::REQUEST_LEN_MAX;

/// The maximum number of clients: a person and some scripts. Each may cost us two lines of memory.
const CLIENTS_MAX: usize = 64;

/// Places reserved for clients that may change things: clients that may only read cannot lock them out.
const ADMIN_PLACES: usize = 16;

/// How long a client may take for a request: from its first byte, or from connecting, to the end of its line.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// Bytes of answers that a client may leave unread; the next answer beyond this disconnects it.
const UNREAD_LEN_MAX: usize = 1 << 20;

/// Bytes taken from one client before others have their turn.
const READ_LEN_PER_TURN: usize = 256 << 10;

/// Token of the listener; clients have the tokens from here up.
const LISTENER: usize = ControlSocket::TOKENS;

/// The socket could not be opened.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another daemon answers there.
    #[error("control socket {}: another ivswitchd answers there; stop it, or choose another place with --socket", .0.display())]
    InUse(PathBuf),
    /// A file that is not a socket has the name.
    #[error("control socket {}: there is a file that is not a socket; remove it, or choose another place with --socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused a step.
    #[error("control socket {}: cannot {step}: {source}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The attempted step.
        step: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// The listener and its clients.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    /// Whether we made the directory, and so remove it.
    made_directory: bool,
    clients: BTreeMap<ClientId, Client>,
    /// Members of this group may also change things.
    admins: Option<u32>,
    /// Clients from which more can be read without waiting.
    unfinished: BTreeSet<ClientId>,
    next: u64,
}

struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    /// Bytes of `received` already searched for a line's end.
    searched: usize,
    /// No more requests will come, but answers may still be read.
    half_closed: bool,
    unread: VecDeque<u8>,
    /// To be closed as soon as `unread` has been sent.
    last_words: bool,
    may_change: bool,
    /// Since when the rest of a request is missing.
    owing: Option<Instant>,
}

impl ControlSocket {
    /// The socket uses the tokens from here on.
    pub const TOKENS: usize = 1 << 16;

    /// Listens at `path`, mode 0660. A socket that a dead daemon left is replaced.
    ///
    /// # Errors
    /// A running daemon has it, or the system refuses.
    pub fn bind(path: &Path, admins: Option<u32>, registry: &Registry) -> Result<Self, SocketError> {
        let fail = |step| move |source| SocketError::Io { path: path.into(), step, source };
        let directory = match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        let made_directory = !directory.exists();
        fs::create_dir_all(directory).map_err(fail("make its directory"))?;
        // Stops two daemons that start together from both finding the socket stale and removing each other's.
        let lock = fs::File::open(directory).map_err(fail("open its directory"))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| fail("lock its directory")(e.into()))?;
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => return Err(SocketError::NotASocket(path.into())),
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => return Err(SocketError::InUse(path.into())),
                // A full backlog also means a running daemon.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(SocketError::InUse(path.into()));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    tracing::info!("control socket {}: removing what a dead daemon left", path.display());
                    fs::remove_file(path).map_err(fail("remove the stale one"))?;
                }
                Err(error) => return Err(fail("see whether it is in use")(error)),
            },
            Err(_) => {}
        }
        let mut listener = UnixListener::bind(path).map_err(fail("bind"))?;
        fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(fail("set its mode"))?;
        let inode = fs::metadata(path).map_err(fail("look at it"))?.ino();
        registry.register(&mut listener, Token(LISTENER), Interest::READABLE).map_err(fail("watch"))?;
        Ok(Self {
            listener,
            path: path.into(),
            inode,
            made_directory,
            clients: BTreeMap::new(),
            admins,
            unfinished: BTreeSet::new(),
            next: 1,
        })
    }

    /// Whether `event` is about this socket or its clients.
    pub fn owns(event: &Event) -> bool {
        event.token().0 >= LISTENER
    }

    /// Whether a client has more to read without waiting for an event.
    pub fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Handles an event. Requests and disconnections are appended to `out`.
    pub fn ready(&mut self, event: &Event, registry: &Registry, out: &mut Vec<Input>) {
        if event.token() == Token(LISTENER) {
            self.accept(registry, out);
            return;
        }
        let id = ClientId((event.token().0 - LISTENER) as u64);
        if event.is_writable() {
            self.write(id, registry, out);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(id, registry, out);
        }
        // Closed in both directions: the client cannot read an answer.
        if event.is_write_closed() {
            self.cut(id, registry, out);
        }
    }

    /// Continues to read where a turn ended before the client's bytes did.
    pub fn resume(&mut self, registry: &Registry, out: &mut Vec<Input>) {
        for id in std::mem::take(&mut self.unfinished) {
            self.read(id, registry, out);
        }
    }

    /// Sends one line to a client. A client that does not read is disconnected.
    pub fn reply(&mut self, id: ClientId, line: &str, registry: &Registry, out: &mut Vec<Input>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.unread.len() > UNREAD_LEN_MAX {
            tracing::warn!("control socket: client {} does not read its answers and is cut", id.0);
            self.cut(id, registry, out);
            return;
        }
        client.unread.extend(line.as_bytes());
        client.unread.push_back(b'\n');
        self.write(id, registry, out);
    }

    /// Removes the socket (and the directory, if we made it and it is empty).
    pub fn remove(self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
        if self.made_directory
            && let Some(directory) = self.path.parent()
        {
            let _ = fs::remove_dir(directory);
        }
    }

    /// Disconnects clients that have been sending one request for too long.
    pub fn tick(&mut self, now: Instant, registry: &Registry, out: &mut Vec<Input>) {
        let late = |client: &Client| client.owing.is_some_and(|since| now.since(since) > REQUEST_MAX);
        let late: Vec<ClientId> = self.clients.iter().filter(|(_, c)| late(c)).map(|(id, _)| *id).collect();
        for id in late {
            if let Some(client) = self.clients.get_mut(&id) {
                client.owing = None;
                client.last_words = true;
            }
            let line = refusal_line(Code::Timeout, "no whole request came within 10 s", "send one line");
            self.reply(id, &line, registry, out);
        }
    }

    fn accept(&mut self, registry: &Registry, out: &mut Vec<Input>) {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // For instance, the process has no descriptors left. The next client's arrival tries again.
                    tracing::warn!("control socket: cannot accept a client: {error}");
                    return;
                }
            };
            let rights = rights(&stream, &self.path, self.admins);
            let readers = self.clients.values().filter(|client| !client.may_change).count();
            let full = self.clients.len() >= CLIENTS_MAX
                || (rights == Some(Rights::Read) && readers >= CLIENTS_MAX - ADMIN_PLACES);
            let refusal = if rights.is_none() {
                Some((
                    Code::Permission,
                    "permission denied",
                    "be root, or of the group that owns the control socket",
                ))
            } else if full {
                Some((Code::Busy, "there are 64 connections already", "close one and try again"))
            } else {
                None
            };
            if let Some((code, why, how)) = refusal {
                // The line fits any socket's buffer; if the client is gone already, the failure does not matter.
                let _ = stream.write(format!("{}\n", refusal_line(code, why, how)).as_bytes());
                continue;
            }
            let id = ClientId(self.next);
            self.next += 1;
            let token = Token(LISTENER + id.0 as usize);
            if let Err(error) = registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)
            {
                tracing::warn!("control socket: cannot watch a client: {error}");
                continue;
            }
            let client = Client {
                stream,
                received: Vec::new(),
                searched: 0,
                half_closed: false,
                unread: VecDeque::new(),
                last_words: false,
                may_change: rights == Some(Rights::Change),
                owing: Some(clock::now()),
            };
            if !client.may_change {
                out.push(Input::ReadOnly(id));
            }
            self.clients.insert(id, client);
        }
    }

    fn read(&mut self, id: ClientId, registry: &Registry, out: &mut Vec<Input>) {
        let mut chunk = [0; 16 << 10];
        let mut taken = 0;
        loop {
            let Some(client) = self.clients.get_mut(&id) else { return };
            if client.half_closed || client.last_words {
                return;
            }
            if taken >= READ_LEN_PER_TURN {
                self.unfinished.insert(id);
                return;
            }
            match client.stream.read(&mut chunk) {
                Ok(0) => {
                    client.half_closed = true;
                    return;
                }
                Ok(n) => {
                    taken += n;
                    client.received.extend_from_slice(&chunk[..n]);
                    self.take_lines(id, registry, out);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.cut(id, registry, out);
                    return;
                }
            }
        }
    }

    fn take_lines(&mut self, id: ClientId, registry: &Registry, out: &mut Vec<Input>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let mut complaint = None;
        while let Some(at) = client.received[client.searched..].iter().position(|&byte| byte == b'\n') {
            let end = client.searched + at;
            let rest = client.received.split_off(end + 1);
            let mut line = std::mem::replace(&mut client.received, rest);
            client.searched = 0;
            line.pop();
            if line.len() > LINE_LEN_MAX {
                complaint = Some("the request is longer than 1 MiB");
                break;
            }
            match String::from_utf8(line) {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => out.push(Input::Request(id, line)),
                Err(_) => {
                    complaint = Some("the request is not UTF-8");
                    break;
                }
            }
        }
        client.searched = client.received.len();
        if client.received.is_empty() {
            client.owing = None;
        } else {
            client.owing.get_or_insert_with(clock::now);
        }
        if client.received.len() > LINE_LEN_MAX {
            complaint = Some("the request is longer than 1 MiB");
        }
        if let Some(why) = complaint {
            client.received = Vec::new();
            client.searched = 0;
            client.last_words = true;
            let line = refusal_line(Code::Request, why, "send one JSON-RPC request per line");
            self.reply(id, &line, registry, out);
        }
    }

    fn write(&mut self, id: ClientId, registry: &Registry, out: &mut Vec<Input>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        while !client.unread.is_empty() {
            match client.stream.write(client.unread.as_slices().0) {
                Ok(n) => {
                    client.unread.drain(..n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.cut(id, registry, out);
                    return;
                }
            }
        }
        if client.last_words {
            self.cut(id, registry, out);
        }
    }

    fn cut(&mut self, id: ClientId, registry: &Registry, out: &mut Vec<Input>) {
        self.unfinished.remove(&id);
        if let Some(mut client) = self.clients.remove(&id) {
            let _ = registry.deregister(&mut client.stream);
            out.push(Input::Hangup(id));
        }
    }
}

/// An answer without a request.
fn refusal_line(code: Code, why: &str, how: &str) -> String {
    let error = api::Error::new(code, "the daemon does not listen to this connection", why, how);
    serde_json::json!({ "jsonrpc": "2.0", "id": null, "error": error.to_json() }).to_string()
}

/// A client's rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rights {
    Read,
    Change,
}

/// The kernel has already checked the socket's mode; this is a second check, in case an administrator widened
/// the mode. Root, our own user and members of the admin group may change things; members of the group that
/// owns the socket may read; everyone else is refused.
fn rights(stream: &UnixStream, path: &Path, admins: Option<u32>) -> Option<Rights> {
    let peer = socket_peercred(stream.as_fd()).ok()?;
    if peer.uid.is_root() || peer.uid == rustix::process::geteuid() {
        return Some(Rights::Change);
    }
    let mut groups = peer_groups(stream);
    groups.push(peer.gid.as_raw());
    if admins.is_some_and(|admins| groups.contains(&admins)) {
        return Some(Rights::Change);
    }
    let socket = fs::metadata(path).ok()?;
    groups.contains(&socket.gid()).then_some(Rights::Read)
}

/// The number of a group, given as a name or a number.
pub fn group_number(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let groups = fs::read_to_string("/etc/group").ok()?;
    let fields = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    groups.lines().find_map(fields)
}

/// Supplementary groups of the client, as they were when it connected.
fn peer_groups(stream: &UnixStream) -> Vec<u32> {
    const GROUPS_MAX: usize = 1024;
    let mut groups = vec![0_u32; GROUPS_MAX];
    let mut len = (groups.len() * size_of::<u32>()) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes of group numbers into the buffer, and their length to
    // `len`.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    groups.truncate(if done == 0 { len as usize / size_of::<u32>() } else { 0 });
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixStream as Stream;
    use std::time::Duration;

    struct World {
        directory: tempfile::TempDir,
        poll: Poll,
        socket: ControlSocket,
    }

    fn world() -> World {
        let directory = tempfile::tempdir().unwrap();
        let poll = Poll::new().unwrap();
        let socket =
            ControlSocket::bind(&directory.path().join("run/control.sock"), None, poll.registry()).unwrap();
        World { directory, poll, socket }
    }

    impl World {
        fn path(&self) -> PathBuf {
            self.directory.path().join("run/control.sock")
        }

        fn connect(&self) -> Stream {
            let stream = Stream::connect(self.path()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream
        }

        /// Runs turns until `enough` accepts.
        fn turn(&mut self, mut enough: impl FnMut(&ControlSocket, &[Input]) -> bool) -> Vec<Input> {
            let mut out = Vec::new();
            let mut events = Events::with_capacity(64);
            while !enough(&self.socket, &out) {
                let wait = if self.socket.has_unfinished() { Duration::ZERO } else { Duration::from_secs(5) };
                self.poll.poll(&mut events, Some(wait)).unwrap();
                assert!(!events.is_empty() || wait.is_zero(), "nothing happened; heard {out:?}");
                for event in &events {
                    self.socket.ready(event, self.poll.registry(), &mut out);
                }
                self.socket.resume(self.poll.registry(), &mut out);
            }
            out
        }
    }

    fn lines(inputs: &[Input]) -> Vec<&str> {
        inputs
            .iter()
            .filter_map(|input| match input {
                Input::Request(_, line) => Some(line.as_str()),
                _ => None,
            })
            .collect()
    }

    fn hung_up(inputs: &[Input]) -> bool {
        inputs.iter().any(|input| matches!(input, Input::Hangup(_)))
    }

    /// Lines arrive as lines in whatever pieces the bytes come, blank ones do not count, and a client that
    /// has closed its sending side still gets its answer.
    #[test]
    fn lines_arrive_whole_and_a_half_closed_client_is_answered() {
        let mut world = world();
        let mut client = world.connect();
        client.write_all(b"one\n\ntw").unwrap();
        let out = world.turn(|_, out| !out.is_empty());
        assert_eq!(lines(&out), ["one"]);
        client.write_all(b"o\nthree\nrest").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let out = world.turn(|socket, _| socket.clients.values().all(|client| client.half_closed));
        assert_eq!(lines(&out), ["two", "three"]);
        let id = *world.socket.clients.keys().next().unwrap();
        world.socket.reply(id, "answer", world.poll.registry(), &mut Vec::new());
        let mut answer = String::new();
        BufReader::new(&client).read_line(&mut answer).unwrap();
        assert_eq!(answer, "answer\n");
        drop(client);
        assert!(hung_up(&world.turn(|_, out| !out.is_empty())));
    }

    /// A line of exactly the limit passes; one byte more is refused with a message, and the client is disconnected.
    #[test]
    fn an_oversize_line_is_refused() {
        for (len, passes) in [(LINE_LEN_MAX, true), (LINE_LEN_MAX + 1, false), (3 * LINE_LEN_MAX, false)] {
            let mut world = world();
            let client = world.connect();
            let mut writer = client.try_clone().unwrap();
            let sender = std::thread::spawn(move || {
                let mut line = vec![b'x'; len];
                line.push(b'\n');
                let _ = writer.write_all(&line);
            });
            let out = world.turn(|_, out| !out.is_empty());
            if passes {
                assert_eq!(lines(&out)[0].len(), len);
            } else {
                assert!(hung_up(&out) && lines(&out).is_empty());
                let mut answer = String::new();
                let _ = BufReader::new(&client).read_line(&mut answer);
                assert!(answer.contains("longer than 1 MiB"), "{answer}");
            }
            drop(client);
            sender.join().unwrap();
        }
    }

    /// A line that is not UTF-8 is refused with a message, and the lines behind it are not executed.
    #[test]
    fn a_line_that_is_no_text_is_refused() {
        let mut world = world();
        let mut client = world.connect();
        client.write_all(b"fine\n\xff\xfe\nlater\n").unwrap();
        let out = world.turn(|_, out| hung_up(out));
        assert_eq!(lines(&out), ["fine"]);
        let mut answer = String::new();
        BufReader::new(&client).read_line(&mut answer).unwrap();
        assert!(answer.contains("not UTF-8"), "{answer}");
    }

    /// A client that does not read is disconnected, with a bounded amount of answers kept; others are served.
    #[test]
    fn a_slow_reader_is_cut() {
        let mut world = world();
        let slow = world.connect();
        let other = world.connect();
        world.turn(|socket, _| socket.clients.len() == 2);
        let ids: Vec<ClientId> = world.socket.clients.keys().copied().collect();
        let line = "y".repeat(100_000);
        let mut out = Vec::new();
        let mut sent = 0;
        while !hung_up(&out) {
            world.socket.reply(ids[0], &line, world.poll.registry(), &mut out);
            sent += line.len();
            assert!(sent < 4 * UNREAD_LEN_MAX, "it was never cut");
        }
        world.socket.reply(ids[1], "hello", world.poll.registry(), &mut Vec::new());
        let mut answer = String::new();
        BufReader::new(&other).read_line(&mut answer).unwrap();
        assert_eq!(answer, "hello\n");
        drop(slow);
    }

    /// A client over the limit gets a message; when one leaves, the next is accepted.
    #[test]
    fn too_many_clients_are_told_so() {
        let mut world = world();
        let mut clients: Vec<Stream> = (0..CLIENTS_MAX).map(|_| world.connect()).collect();
        world.turn(|socket, _| socket.clients.len() == CLIENTS_MAX);
        let extra = world.connect();
        extra.set_nonblocking(true).unwrap();
        let mut answer = String::new();
        let mut reader = BufReader::new(&extra);
        world.turn(|_, _| reader.read_line(&mut answer).is_ok());
        assert!(answer.contains("64 connections"), "{answer}");
        clients.pop();
        world.turn(|socket, _| socket.clients.len() == CLIENTS_MAX - 1);
        let _welcome = world.connect();
        world.turn(|socket, _| socket.clients.len() == CLIENTS_MAX);
    }

    /// A client that writes without end cannot keep the others waiting.
    #[test]
    fn a_flood_leaves_others_their_turn() {
        let mut world = world();
        let mut flood = world.connect();
        let mut quiet = world.connect();
        world.turn(|socket, _| socket.clients.len() == 2);
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let sender = std::thread::spawn(move || {
            let lines = "flood\n".repeat(1000);
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                if flood.write_all(lines.as_bytes()).is_err() {
                    break;
                }
            }
        });
        world.turn(|_, out| !out.is_empty());
        quiet.write_all(b"me\n").unwrap();
        world.turn(|_, out| lines(out).contains(&"me"));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        world.turn(|_, out| hung_up(out));
        sender.join().unwrap();
    }

    /// A running daemon's socket is not taken; a dead one's is; other files are not touched; a clean end
    /// leaves no file.
    #[test]
    fn the_socket_belongs_to_one_daemon() {
        let world = world();
        let path = world.path();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        let poll = Poll::new().unwrap();
        let second = ControlSocket::bind(&path, None, poll.registry());
        assert!(matches!(second, Err(SocketError::InUse(_))));
        world.socket.remove();
        assert!(!path.parent().unwrap().exists());

        fs::create_dir(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let third = ControlSocket::bind(&path, None, poll.registry()).unwrap();
        third.remove();
        assert!(!path.exists() && path.parent().unwrap().exists());

        fs::write(&path, "precious").unwrap();
        assert!(matches!(ControlSocket::bind(&path, None, poll.registry()), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}

//! Captures of the frames on the wire, by `tcpdump`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};

use crate::{Lab, Namespace, wait_for};

/// A running capture of the frames that come in on one interface. Outgoing frames are left out, because a
/// local sender's checksums are rightly unfinished there.
pub struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Starts capturing; the capture runs when this returns.
    #[must_use]
    #[track_caller]
    pub fn start(lab: &Lab, namespace: &Namespace, interface: &str, filter: &str) -> Self {
        let file = lab.dir().join(format!("{}-{interface}.pcap", namespace.name()));
        let mut child = namespace
            .command("tcpdump")
            .args([
                "-Z",
                "root",
                "-Q",
                "in",
                "-U",
                "--immediate-mode",
                "-s0",
                "-B",
                "65536",
                "-i",
                interface,
                "-w",
            ])
            .arg(&file)
            .arg(filter)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("running tcpdump");
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        while !said.contains("listening on") {
            let before = said.len();
            stderr.read_line(&mut said).expect("reading from tcpdump");
            assert_ne!(said.len(), before, "tcpdump ended: {said}");
        }
        // A pipe that is not read would block tcpdump when it prints its figures at the end.
        std::thread::spawn(move || stderr.lines().for_each(drop));
        Self { child, file }
    }

    /// Stops, and gives each packet as `tcpdump -vvv` prints it.
    #[must_use]
    pub fn stop(self) -> Packets {
        let file = self.end();
        let output = Command::new("tcpdump")
            .args(["-n", "-e", "-vvv", "-r"])
            .arg(&file)
            .output()
            .expect("running tcpdump");
        Packets(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Stops, and gives the bytes of every frame.
    #[must_use]
    pub fn frames(self) -> Vec<Vec<u8>> {
        // pcap: a header of 24 bytes, then for each frame the time, the captured length, and the original length.
        let bytes = std::fs::read(self.end()).expect("what tcpdump wrote");
        let (mut rest, mut frames) = (&bytes[24..], Vec::new());
        while let Some((head, tail)) = rest.split_first_chunk::<16>() {
            let len = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]) as usize;
            frames.push(tail[..len].to_vec());
            rest = &tail[len..];
        }
        frames
    }

    /// Stops once everything is written, and gives the file.
    fn end(mut self) -> PathBuf {
        // tcpdump drops frames that it has not read yet: wait until it has nothing new to write.
        let (mut size, mut quiet) = (0, 0);
        wait_for("tcpdump to have written everything", || {
            let now = std::fs::metadata(&self.file).map_or(0, |file| file.len());
            quiet = if now == size { quiet + 1 } else { 0 };
            size = now;
            quiet == 10
        });
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process");
        rustix::process::kill_process(pid, Signal::INT).expect("stopping tcpdump");
        self.child.wait().expect("tcpdump ends");
        self.file.clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Captured packets, as `tcpdump` prints them.
pub struct Packets(String);

impl Packets {
    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// How many lines contain `word`.
    #[must_use]
    pub fn count(&self, word: &str) -> usize {
        self.0.lines().filter(|line| line.contains(word)).count()
    }

    /// Lines with a checksum that `tcpdump` finds wrong, at any layer, inside tunnels too. Not a zero
    /// checksum of a tunnel over IPv6, which `tcpdump` calls wrong and RFC 6935 allows.
    #[must_use]
    pub fn bad_checksums(&self) -> Vec<&str> {
        let bad =
            ["(incorrect", "bad cksum", "bad udp cksum", "bad icmp6 cksum", "wrong icmp cksum", "(wrong"];
        let none = "[bad udp cksum 0x0000 -> ";
        let tunnel = |line: &&str| !(line.contains("VXLAN") && line.contains(none));
        self.0.lines().filter(tunnel).filter(|line| bad.iter().any(|word| line.contains(word))).collect()
    }

    /// Fails the test unless there are at least `least` packets with a verified checksum and no wrong one.
    #[track_caller]
    pub fn assert_checksums_right(&self, least: usize) {
        let bad = self.bad_checksums();
        assert!(bad.is_empty(), "{} bad checksums, the first: {}", bad.len(), bad[0]);
        let good = self.count("(correct)") + self.count("sum ok");
        assert!(good >= least, "only {good} packets with a checksum to verify; expected {least}");
    }
}

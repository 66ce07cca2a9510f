//! The agent of a guest: it reads a shell command a line, and writes the output, `\x01`, the exit code and a newline.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Runs a command through the agent at this socket; gives the output if it succeeded.
///
/// # Errors
/// When the command failed, or took longer than `bound`.
pub fn ask(socket: &Path, command: &str, bound: Duration) -> Result<String> {
    let end = Instant::now() + bound;
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("the agent at {}", socket.display()))?;
    // An earlier client may have left without its answer, which is still coming: ours begins with a word of its own.
    let word = format!("{}.{:?}", std::process::id(), std::time::UNIX_EPOCH.elapsed().unwrap_or_default());
    writeln!(stream, "printf '\\002{word}\\n'; {command}")?;
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "the guest took longer than {} s for: {}", bound.as_secs(), brief(command));
        stream.set_read_timeout(Some(left))?;
        let count = match stream.read(&mut chunk) {
            Ok(0) => bail!("the guest ended during: {}", brief(command)),
            Ok(count) => count,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e.into()),
        };
        answer.extend_from_slice(&chunk[..count]);
        if let Some((text, code)) = whole(&answer, &word) {
            ensure!(code == 0, "in the guest: {}: exit code {code}: {}", brief(command), text.trim());
            return Ok(text);
        }
    }
}

/// The beginning of a command, to recognise it by: some are long or packed.
fn brief(command: &str) -> String {
    const MOST: usize = 80;
    match command.char_indices().nth(MOST) {
        Some((at, _)) => format!("{} ...", &command[..at]),
        None => command.into(),
    }
}

/// The answer that begins with this word, and its exit code, once it is complete.
fn whole(said: &[u8], word: &str) -> Option<(String, i32)> {
    let start = format!("\x02{word}");
    let answer = said.windows(start.len()).position(|part| part == start.as_bytes())?;
    let answer = &said[answer + start.len()..];
    let text = answer.iter().position(|&b| b == b'\n')? + 1;
    let mark = answer.iter().position(|&b| b == 1)?;
    let end = answer[mark..].iter().position(|&b| b == b'\n')?;
    let code = String::from_utf8_lossy(&answer[mark + 1..mark + end]).trim().parse().unwrap_or(-1);
    Some((String::from_utf8_lossy(answer.get(text..mark)?).replace('\r', ""), code))
}

/// As [`ask`], from a level above: the command comes in hexadecimal, which passes every shell in between unchanged.
///
/// # Errors
/// As [`ask`].
pub fn relay(socket: &str, command: &str, seconds: f64) -> Result<()> {
    let bytes: Option<Vec<u8>> = command
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let command = String::from_utf8(bytes.context("no hexadecimal")?)?;
    print!("{}", ask(Path::new(socket), &command, Duration::from_secs_f64(seconds))?);
    Ok(())
}

/// Packs a command for [`relay`].
#[must_use]
pub fn packed(command: &str) -> String {
    command.bytes().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_code() {
        assert_eq!(whole(b"\x02w\r\ntext\r\n\x013\n", "w"), Some(("text\n".into(), 3)));
        assert_eq!(whole(b"\x02w\ntext\n", "w"), None);
        assert_eq!(whole(b"\x02w\ntext\n\x01", "w"), None);
    }

    #[test]
    fn what_another_asked_is_not_our_answer() {
        let said = b"\x02v\nearlier\n\x011\n\x02w\nours\n\x010\n";
        assert_eq!(whole(&said[..16], "w"), None);
        assert_eq!(whole(said, "w"), Some(("ours\n".into(), 0)));
    }

    #[test]
    fn a_long_command_is_cut() {
        assert_eq!(brief("ip link"), "ip link");
        assert_eq!(brief(&"ä".repeat(100)), format!("{} ...", "ä".repeat(80)));
    }

    #[test]
    fn commands_pass_any_shell() {
        assert_eq!(packed("a 'b'"), "6120276227");
        assert!(relay("/nowhere", "xy", 1.0).is_err());
    }
}

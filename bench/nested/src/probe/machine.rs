//! Disks and processors: block I/O of a file or device, and the operations of the UNIX benchmark's programs, in
//! loops.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

/// How much of the disk is used: writing more would take long where everything is emulated.
const SPAN: u64 = 64 << 20;

/// A buffer that begins at a page boundary, as direct I/O requires.
struct Aligned(Vec<u8>, usize, usize);

impl Aligned {
    fn new(len: usize) -> Self {
        let bytes = vec![0x5a; len + 4096];
        let start = bytes.as_ptr().align_offset(4096);
        Self(bytes, start, len)
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.0[self.1..self.1 + self.2]
    }
}

/// Reads and writes `path` (which is made if it does not exist), 4 KiB at random and 128 KiB in sequence, through the
/// page cache and past it.
///
/// # Errors
/// When it cannot be opened.
pub fn disk(path: &str, seconds: f64) -> Result<()> {
    let span = prepare(path).with_context(|| path.to_owned())?;
    let mut rates = serde_json::Map::new();
    for (cache, flags) in [("direct", rustix::fs::OFlags::DIRECT.bits().cast_signed()), ("cached", 0)] {
        let open = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
        let Ok(file) = open else { continue };
        for (what, len, random, write) in [
            ("4 KiB random read", 4096, true, false),
            ("4 KiB random write", 4096, true, true),
            ("128 KiB sequential read", 128 << 10, false, false),
            ("128 KiB sequential write", 128 << 10, false, true),
        ] {
            let rate = requests(&file, span, len, random, write, seconds)?;
            rates.insert(format!("{what}, {cache}"), json!(rate));
        }
    }
    println!("{}", json!({ "requests_per_s": rates }));
    Ok(())
}

fn prepare(path: &str) -> Result<u64> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let len = file.seek(SeekFrom::End(0))?;
    if len >= SPAN || path.starts_with("/dev/") {
        ensure!(len >= 1 << 20, "{path} is too small");
        return Ok(len.min(SPAN));
    }
    let chunk = vec![0xa5; 1 << 20];
    file.seek(SeekFrom::Start(0))?;
    for _ in 0..SPAN >> 20 {
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    Ok(SPAN)
}

/// Requests per second, one after another; data is on the disk before the time is taken.
fn requests(file: &File, span: u64, len: usize, random: bool, write: bool, seconds: f64) -> Result<f64> {
    let mut buffer = Aligned::new(len);
    let places = span / len as u64;
    let (mut count, mut seed, mut at) = (0u64, 0x2545_f491_4f6c_dd1d_u64, 0);
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        at = if random { seed % places } else { (at + 1) % places };
        let offset = at * len as u64;
        if write {
            file.write_all_at(buffer.get(), offset)?;
        } else {
            file.read_exact_at(buffer.get(), offset)?;
        }
        count += 1;
    }
    if write {
        file.sync_data()?;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Operations per second of `work`, which does one operation at a time.
fn rate(seconds: f64, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds);
    let mut count = 0u64;
    while Instant::now() < end {
        work()?;
        count += 1;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Runs the operations of the UNIX benchmark's programs.
///
/// # Errors
/// When a program or a pipe is not available.
pub fn processor(seconds: f64) -> Result<()> {
    let mut rates = serde_json::Map::new();
    let mut add = |name: &str, rate: f64| rates.insert(name.to_owned(), json!(rate));
    let mut state = 1u64;
    let integer = rate(seconds, || {
        for n in 0..1000u64 {
            state = std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).rotate_left(7) ^ n);
        }
        Ok(())
    })?;
    add("dhrystone", integer);
    let mut x = 0.5f64;
    let float = rate(seconds, || {
        for _ in 0..100 {
            x = std::hint::black_box((x.sin() + x.cos()).abs().sqrt().ln().abs() + 0.1);
        }
        Ok(())
    })?;
    add("whetstone", float);
    let run = |program: &str, arguments: &[&str]| -> Result<()> {
        let mut command = Command::new(program);
        let status = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "{program}: {status}");
        Ok(())
    };
    add("execl", rate(seconds, || run("true", &[]))?);
    for size in [256, 1024, 4096] {
        add(&format!("file copy {size}"), copy(seconds, size)?);
    }
    let (mut reader, mut writer) = std::io::pipe()?;
    let mut block = [0; 512];
    let pipe = rate(seconds, || {
        writer.write_all(&[0; 512])?;
        Ok(reader.read_exact(&mut block)?)
    })?;
    add("pipe", pipe);
    add("context switch", switches(seconds)?);
    add("spawn", rate(seconds, || std::thread::spawn(|| ()).join().map_err(|_| anyhow::anyhow!("a panic")))?);
    let script = "for n in 1 2 3 4; do echo $n | sort | grep -c . ; done";
    add("shell", rate(seconds, || run("sh", &["-c", script]))?);
    let syscall = rate(seconds, || {
        for _ in 0..100 {
            std::hint::black_box(rustix::process::getppid());
        }
        Ok(())
    })?;
    add("syscall", syscall);
    println!("{}", json!({ "per_s": rates }));
    Ok(())
}

/// Copies a file of 256 KiB in steps of `size`; gives steps per second.
fn copy(seconds: f64, size: usize) -> Result<f64> {
    let dir = std::env::temp_dir();
    let name = |end: &str| dir.join(format!("ivbench-{}-{end}", std::process::id()));
    std::fs::write(name("from"), vec![7; 256 << 10])?;
    let (mut from, mut to) = (File::open(name("from"))?, File::create(name("to"))?);
    let mut buffer = vec![0; size];
    let copied = rate(seconds, || {
        if from.read(&mut buffer)? < size {
            from.rewind()?;
            to.rewind()?;
            return Ok(());
        }
        Ok(to.write_all(&buffer)?)
    });
    for end in ["from", "to"] {
        std::fs::remove_file(name(end)).ok();
    }
    copied
}

/// Two threads that wake each other through pipes; gives switches per second.
fn switches(seconds: f64) -> Result<f64> {
    let ((mut here_in, mut there_out), (mut there_in, mut here_out)) = (std::io::pipe()?, std::io::pipe()?);
    let other = std::thread::spawn(move || {
        let mut byte = [0];
        while there_in.read_exact(&mut byte).is_ok() && there_out.write_all(&byte).is_ok() {}
    });
    let mut byte = [0];
    let rounds = rate(seconds, || {
        here_out.write_all(&[1])?;
        Ok(here_in.read_exact(&mut byte)?)
    });
    drop(here_out);
    other.join().ok();
    Ok(rounds? * 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_at_a_page_and_files_have_their_span() {
        assert_eq!(Aligned::new(4096).get().as_ptr().align_offset(4096), 0);
        assert_eq!(Aligned::new(128 << 10).get().len(), 128 << 10);
    }

    #[test]
    fn every_kind_of_request_is_counted() {
        let path = std::env::temp_dir().join(format!("ivbench-disk-{}", std::process::id()));
        let span = prepare(path.to_str().expect("a plain name")).expect("made");
        assert_eq!(span, SPAN);
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("there");
        for write in [false, true] {
            assert!(requests(&file, span, 4096, true, write, 0.01).expect("works") > 0.0);
        }
        assert!(switches(0.01).expect("works") > 0.0 && copy(0.01, 256).expect("works") > 0.0);
        std::fs::remove_file(path).expect("removed");
    }
}

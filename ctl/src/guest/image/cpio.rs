//! Writes an initramfs: the "new ASCII" cpio format (cpio(5)), which the kernel unpacks. The archive is built in
//! memory, so device nodes and owners need no root.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// An archive to which entries are added.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    count: u32,
    names: BTreeSet<String>,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, data: &[u8], (major, minor): (u32, u32)) {
        let name = name.trim_matches('/');
        if !self.names.insert(name.to_owned()) {
            return;
        }
        self.count += 1;
        let name_len = name.len() as u32 + 1;
        let len = u32::try_from(data.len()).expect("a file in an initramfs is under 4 GiB");
        let fields = [self.count, mode, 0, 0, 1, 0, len, 0, 0, major, minor, name_len, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(data);
        self.pad(4);
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.trim_matches('/').rsplit_once('/') {
            self.directory(parent);
        }
    }

    /// Adds a directory and its parents.
    pub fn directory(&mut self, path: &str) {
        self.parents(path);
        self.add(path, DIRECTORY | 0o755, &[], (0, 0));
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, data: &[u8], mode: u32) {
        self.parents(path);
        self.add(path, REGULAR | mode, data, (0, 0));
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, to: &str) {
        self.parents(path);
        self.add(path, SYMLINK | 0o777, to.as_bytes(), (0, 0));
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.parents(path);
        self.add(path, CHARACTER | 0o600, &[], (major, minor));
    }

    /// Returns the whole archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[], (0, 0));
        self.pad(512);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Following the headers finds every entry exactly once.
    #[test]
    fn headers_lead_from_entry_to_entry() {
        let mut archive = Archive::default();
        archive.file("a/b/c", b"hello", 0o644);
        archive.file("a/b/d", b"", 0o755);
        archive.link("a/l", "b/c");
        archive.device("dev/null", 1, 3);
        archive.directory("a");
        let bytes = archive.finish();
        let (mut at, mut seen) = (0, Vec::new());
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + n * 8..at + 14 + n * 8]).expect("digits");
                usize::from_str_radix(text, 16).expect("hexadecimal")
            };
            let (len, name_len) = (field(6), field(11));
            let name = String::from_utf8_lossy(&bytes[at + 110..at + 109 + name_len]).into_owned();
            at = (at + 110 + name_len).next_multiple_of(4);
            if name == "a/b/c" {
                assert_eq!(&bytes[at..at + len], b"hello");
            }
            at = (at + len).next_multiple_of(4);
            if name == "TRAILER!!!" {
                break;
            }
            seen.push(name);
        }
        assert_eq!(seen, ["a", "a/b", "a/b/c", "a/b/d", "a/l", "dev", "dev/null"]);
        assert_eq!(bytes.len() % 512, 0);
    }
}

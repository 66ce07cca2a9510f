//! Ten thousand crashes during the replacement of a configuration: afterwards the file is the old one or the
//! new one, whole, and certainly the new one if the daemon has reported it saved.
//!
//! This disk keeps exactly the promises of POSIX. Data that was written but not synced may be present in
//! part, or as zeros, or missing. Names created, moved or removed since the last sync of the directory may
//! each be as before or as after, in any mixture that keeps their order.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{Disk, Owned, replace_on};

const OURS: Owned = Owned { mode: 0o644, uid: 0, gid: 0 };

#[derive(Clone, Default)]
struct Inode {
    /// The content as programs see it now.
    now: Vec<u8>,
    /// The content that is certainly on the medium.
    durable: Vec<u8>,
    mode: u32,
}

/// A change of a directory.
#[derive(Clone)]
enum Change {
    Put(PathBuf, usize),
    Remove(PathBuf),
    Move(PathBuf, PathBuf),
}

/// A disk that loses power after `left` more operations, or is full.
struct Crashing {
    inodes: Vec<Inode>,
    /// Names that are certainly on the medium; `since` has the later changes.
    names: BTreeMap<PathBuf, usize>,
    since: Vec<Change>,
    left: u32,
    full: bool,
    /// Chooses what the medium kept.
    seed: u64,
}

impl Crashing {
    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below
    }

    fn step(&mut self) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::other("no power"))?;
        Ok(())
    }

    fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &Change) {
        match change {
            Change::Put(path, inode) => drop(names.insert(path.clone(), *inode)),
            Change::Remove(path) => drop(names.remove(path)),
            Change::Move(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }

    fn names_now(&self) -> BTreeMap<PathBuf, usize> {
        let mut names = self.names.clone();
        self.since.iter().for_each(|change| Self::apply(&mut names, change));
        names
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        self.step()?;
        self.since.push(change);
        Ok(())
    }

    /// The content of the file at `path` after the power returns. `None`: the file is missing.
    fn after_power_loss(&mut self, path: &Path) -> Option<Vec<u8>> {
        // A journal keeps the order of changes: some of the first ones reached the medium.
        let kept = self.random(self.since.len() as u64 + 1) as usize;
        let mut names = self.names.clone();
        self.since[..kept].iter().for_each(|change| Self::apply(&mut names, change));
        let inode = self.inodes[*names.get(path)?].clone();
        if inode.now == inode.durable {
            return Some(inode.durable);
        }
        let len = self.random(inode.now.len() as u64 + 1) as usize;
        Some(match self.random(3) {
            0 => inode.durable,
            1 => inode.now[..len].to_vec(),
            _ => vec![0; len],
        })
    }
}

impl Disk for Crashing {
    type File = usize;

    fn resolve(&self, path: &Path) -> PathBuf {
        path.into()
    }

    fn make_directories(&mut self, _: &Path) -> io::Result<()> {
        self.step()
    }

    fn owned(&self, path: &Path) -> io::Result<Owned> {
        let names = self.names_now();
        let inode = names.get(path).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Owned { mode: self.inodes[*inode].mode, ..OURS })
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.change(Change::Remove(path.into()))
    }

    fn create(&mut self, path: &Path) -> io::Result<usize> {
        assert!(!self.names_now().contains_key(path), "it has to be a name that nothing has");
        self.inodes.push(Inode { mode: 0o600, ..Inode::default() });
        let inode = self.inodes.len() - 1;
        self.change(Change::Put(path.into(), inode))?;
        Ok(inode)
    }

    fn write(&mut self, file: &mut usize, text: &[u8]) -> io::Result<()> {
        // A crash, or a full disk, may interrupt a write in the middle.
        let part = self.random(text.len() as u64 + 1) as usize;
        self.inodes[*file].now.extend_from_slice(&text[..part]);
        self.step()?;
        if self.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inodes[*file].now.extend_from_slice(&text[part..]);
        Ok(())
    }

    fn give(&mut self, file: &mut usize, to: Owned) -> io::Result<()> {
        self.step()?;
        self.inodes[*file].mode = to.mode;
        Ok(())
    }

    fn sync(&mut self, file: &mut usize) -> io::Result<()> {
        self.step()?;
        self.inodes[*file].durable = self.inodes[*file].now.clone();
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(Change::Move(from.into(), to.into()))
    }

    fn sync_directory(&mut self, _: &Path) -> io::Result<()> {
        self.step()?;
        self.names = self.names_now();
        self.since.clear();
        Ok(())
    }
}

fn disk(old: Option<&str>, left: u32, seed: u64) -> Crashing {
    let mut disk = Crashing {
        inodes: Vec::new(),
        names: BTreeMap::new(),
        since: Vec::new(),
        left,
        full: false,
        seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
    };
    if let Some(old) = old {
        let bytes = old.as_bytes().to_vec();
        disk.inodes.push(Inode { now: bytes.clone(), durable: bytes, mode: 0o640 });
        disk.names.insert(PathBuf::from("/etc/a.toml"), 0);
    }
    disk
}

/// Every step is interrupted, with every mixture of kept data, over an existing file and a missing one, and
/// over an earlier crash's leftovers.
#[test]
fn ten_thousand_crashes_leave_the_old_or_the_new() {
    let path = Path::new("/etc/a.toml");
    let (old, new) = ("name = \"old\"\n".repeat(3), "name = \"new\"\nvni = 100\n".repeat(3));
    let (mut found_old, mut found_new, mut acknowledged) = (0, 0, 0);
    for seed in 0..10_000_u64 {
        let there = (seed % 4 != 0).then_some(old.as_str());
        let mut disk = disk(there, (seed % 11) as u32, seed);
        if seed % 3 == 0 {
            disk.inodes.push(Inode { now: b"left".to_vec(), durable: Vec::new(), mode: 0o600 });
            disk.names.insert("/etc/a.toml.new".into(), disk.inodes.len() - 1);
        }
        let saved = replace_on(&mut disk, path, &new);
        let found = disk.after_power_loss(path);
        let found = found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if saved.is_ok() {
            acknowledged += 1;
            assert_eq!(found.as_deref(), Some(new.as_str()), "said to be saved, seed {seed}");
        }
        if found.as_deref() == there {
            found_old += 1;
        } else {
            assert_eq!(found.as_deref(), Some(new.as_str()), "seed {seed}");
            found_new += 1;
        }
    }
    println!("10000 crashes: {found_old} times the old, {found_new} the new, {acknowledged} acknowledged");
    assert!(found_old > 1000 && found_new > 1000 && acknowledged > 1000, "every end was reached");
}

/// A full disk is an error that names the remedy; the old file is unchanged, and no other file remains.
#[test]
fn a_full_disk_leaves_the_old() {
    let path = Path::new("/etc/a.toml");
    let mut disk = disk(Some("old"), u32::MAX, 1);
    disk.full = true;
    let error = replace_on(&mut disk, path, "new").unwrap_err();
    assert!(error.contains("make room"), "{error}");
    let names = disk.names_now();
    assert_eq!(names.keys().collect::<Vec<_>>(), [path]);
    assert_eq!(disk.inodes[names[path]].now, b"old");
}

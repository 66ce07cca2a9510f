//! The identity of this rVM: a random number from which the MAC addresses of its doors are made.
//!
//! Machines made from one image share their host name, and many share even `/etc/machine-id`. So the daemon draws the
//! number at its first start and keeps it in the state directory. The file also records the machine (its UUID from the
//! hypervisor, else the machine-id) and the uplink's MAC address. A restart, another name or another NIC changes
//! nothing. On a copy of the disk in another machine, the daemon sees that the file belongs to the original and draws
//! a new number.
//!
//! Several daemons on one host, each in its own namespace, have one file each. Each daemon locks its file while it
//! runs and finds it again by the uplink's MAC address.

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use ctl::reconcile::stable_hash;
use engine::wire::mac::MacAddr;

/// Maximum number of daemons on one host that have their own identities.
const FILES_MAX: usize = 64;

/// The first line of a file.
const HEADER: &str = "ivswitch identity 1";

/// Maximum length of an identity file, in bytes. A longer file is ignored.
const FILE_LEN_MAX: u64 = 1024;

/// The identity, and the file that keeps it, which stays locked as long as this lives.
#[derive(Debug)]
pub struct Identity {
    value: u64,
    file: Option<(PathBuf, File)>,
}

/// The content of an identity file.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Kept {
    value: u64,
    machine: String,
    uplink: Option<MacAddr>,
}

impl Identity {
    /// The identity that is kept in a directory, or a new one. `uplink` is the MAC address of the uplink's interface.
    #[must_use]
    pub fn take(directory: &Path, uplink: Option<MacAddr>) -> Self {
        let machine = machine(Path::new("/"));
        match Self::find(directory, &machine, uplink) {
            Ok(identity) => identity,
            Err(error) => {
                tracing::warn!(
                    "{}: MAC addresses cannot be kept there: {error}; they are made from the uplink's until they can",
                    directory.display()
                );
                let uplink = uplink.map(|mac| mac.to_string()).unwrap_or_default();
                Self { value: stable_hash(&[&machine, &uplink]), file: None }
            }
        }
    }

    fn find(directory: &Path, machine: &str, uplink: Option<MacAddr>) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        // Of this machine, made with another NIC; of another machine, or damaged.
        let (mut free, mut foreign) = (None, None);
        for path in
            (1..=FILES_MAX).map(|number| directory.join(name(number))).take_while(|path| path.exists())
        {
            let Some(mut file) = open(&path)? else { continue };
            match read(&mut file).filter(|kept| kept.machine == machine) {
                Some(kept) if kept.uplink == uplink => return Ok(Self::kept(path, file, &kept)),
                Some(kept) => drop(free.get_or_insert((path, file, kept))),
                None => drop(foreign.get_or_insert((path, file))),
            }
        }
        if let Some((path, mut file, kept)) = free {
            let kept = Kept { uplink, ..kept };
            write(&mut file, &kept)?;
            return Ok(Self::kept(path, file, &kept));
        }
        let (path, mut file) = match foreign {
            Some(place) => place,
            None => made(directory)?,
        };
        let value = RandomState::new().build_hasher().finish();
        let kept = Kept { value, machine: machine.to_owned(), uplink };
        write(&mut file, &kept)?;
        tracing::info!("{}: the MAC addresses of this rVM are made from it from now on", path.display());
        Ok(Self::kept(path, file, &kept))
    }

    fn kept(path: PathBuf, file: File, kept: &Kept) -> Self {
        Self { value: kept.value, file: Some((path, file)) }
    }

    /// The number.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.value
    }

    /// Where it is kept; `None` when it could not be.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }
}

fn name(number: usize) -> String {
    if number == 1 { "identity".to_owned() } else { format!("identity.{number}") }
}

/// A new file.
fn made(directory: &Path) -> io::Result<(PathBuf, File)> {
    for path in (1..=FILES_MAX).map(|number| directory.join(name(number))) {
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        match file {
            Ok(file) if locked(&file)? => return Ok((path, file)),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Err(io::Error::other(format!("{FILES_MAX} daemons have one each")))
}

/// Opens a file for this process alone. `None`: another daemon has it.
fn open(path: &Path) -> io::Result<Option<File>> {
    let file = File::options().read(true).write(true).open(path)?;
    Ok(locked(&file)?.then_some(file))
}

fn locked(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn read(file: &mut File) -> Option<Kept> {
    let mut text = String::new();
    file.take(FILE_LEN_MAX).read_to_string(&mut text).ok()?;
    let mut lines = text.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let mut line = |key: &str| Some(lines.next()?.strip_prefix(key)?.trim().to_owned());
    let value = u64::from_str_radix(&line("identity")?, 16).ok()?;
    let machine = line("machine")?;
    let uplink = line("uplink")?;
    Some(Kept { value, machine, uplink: uplink.parse::<ctl::model::Mac>().ok().map(|mac| mac.0) })
}

fn write(file: &mut File, kept: &Kept) -> io::Result<()> {
    let uplink = kept.uplink.map(|mac| mac.to_string()).unwrap_or_default();
    let text = format!("{HEADER}\nidentity {:016x}\nmachine {}\nuplink {uplink}\n", kept.value, kept.machine);
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// An identifier of the machine that does not depend on its disk. A container sees the UUID of its host, so its own
/// machine-id counts.
fn machine(root: &Path) -> String {
    let text = |path: &str| {
        let text = fs::read_to_string(root.join(path)).unwrap_or_default();
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let is_container = root.join("run/systemd/container").exists();
    let uuid = || text("sys/class/dmi/id/product_uuid").filter(|_| !is_container);
    uuid().or_else(|| text("etc/machine-id")).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u8) -> Option<MacAddr> {
        Some(MacAddr([2, 0, 0, 0, 0, n]))
    }

    fn find(directory: &Path, machine: &str, uplink: Option<MacAddr>) -> Identity {
        Identity::find(directory, machine, uplink).unwrap()
    }

    /// A restart, a NIC that was replaced, an uplink that comes later: the identity stays.
    #[test]
    fn it_stays() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("made");
        let first = find(&state, "m", None);
        assert_eq!(first.file(), Some(&*state.join("identity")));
        let value = first.value();
        drop(first);
        for uplink in [mac(1), mac(1), mac(2), None] {
            assert_eq!(find(&state, "m", uplink).value(), value);
        }
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "no file too many");
    }

    /// A copy of the disk in another machine draws its own; so does a file that is damaged.
    #[test]
    fn a_clone_draws_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let original = find(directory.path(), "m1", mac(1)).value();
        let clone = find(directory.path(), "m2", mac(2)).value();
        assert_ne!(clone, original);
        assert_eq!(find(directory.path(), "m2", mac(2)).value(), clone);
        fs::write(directory.path().join("identity"), "rubbish").unwrap();
        assert_ne!(find(directory.path(), "m2", mac(2)).value(), clone);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    /// Two daemons of one host, in two namespaces, have different identities, and each finds its own again in either
    /// order of starting.
    #[test]
    fn daemons_of_one_host_have_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (find(directory.path(), "m", mac(1)), find(directory.path(), "m", mac(2)));
        let values = (a.value(), b.value());
        assert_ne!(values.0, values.1);
        drop((a, b));
        let (b, a) = (find(directory.path(), "m", mac(2)), find(directory.path(), "m", mac(1)));
        assert_eq!((a.value(), b.value()), values);
    }

    /// If no file can be written, the identity follows from the machine and the uplink and is the same at every start.
    #[test]
    fn without_a_place_to_keep_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let take = |n| Identity::take(&file.path().join("below"), mac(n));
        assert_eq!(take(1).value(), take(1).value());
        assert_ne!(take(1).value(), take(2).value());
        assert_eq!(take(1).file(), None);
    }

    /// The hypervisor's UUID tells machines apart, in a container the machine-id.
    #[test]
    fn machines() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(machine(root.path()), "unknown");
        put("etc/machine-id", "abc\n");
        assert_eq!(machine(root.path()), "abc");
        put("sys/class/dmi/id/product_uuid", "UUID-1\n");
        assert_eq!(machine(root.path()), "UUID-1");
        put("run/systemd/container", "systemd-nspawn");
        assert_eq!(machine(root.path()), "abc");
    }
}

//! Replaces a file so that a crash at any moment leaves the old one or the new one, whole.
//!
//! The steps are written once, over the few file operations they need ([`Disk`]): the machine carries them
//! out, and a test carries them out on a disk that loses power after any of them (`crash.rs`).

#[cfg(test)]
mod crash;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Mode and owner of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Owned {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// The operations that replace a file. Only synced data is durable.
trait Disk {
    /// A file being written.
    type File;
    /// The target of a path, with links followed.
    fn resolve(&self, path: &Path) -> PathBuf;
    fn make_directories(&mut self, path: &Path) -> io::Result<()>;
    fn owned(&self, path: &Path) -> io::Result<Owned>;
    /// Removes a name; succeeds if it is missing.
    fn remove(&mut self, path: &Path) -> io::Result<()>;
    /// Creates a file that other users cannot read, under an unused name.
    fn create(&mut self, path: &Path) -> io::Result<Self::File>;
    fn write(&mut self, file: &mut Self::File, text: &[u8]) -> io::Result<()>;
    fn give(&mut self, file: &mut Self::File, to: Owned) -> io::Result<()>;
    fn sync(&mut self, file: &mut Self::File) -> io::Result<()>;
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    fn sync_directory(&mut self, path: &Path) -> io::Result<()>;
}

/// A file that both the daemon and people edit.
#[derive(Debug)]
pub struct Saved {
    path: PathBuf,
    /// The content when the daemon last read or wrote it.
    known: Option<Vec<u8>>,
}

impl Saved {
    /// The file at `path`, whose content is in force.
    pub fn new(path: PathBuf) -> Self {
        let mut saved = Self { path, known: None };
        saved.taken_up();
        saved
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that the file's present content is in force.
    pub fn taken_up(&mut self) {
        self.known = fs::read(&self.path).ok();
    }

    /// Replaces the file, unless another program changed it since.
    ///
    /// # Errors
    /// The errors of [`replace`], or the file was changed.
    pub fn replace(&mut self, text: &str) -> Result<(), String> {
        if let Ok(now) = fs::read(&self.path)
            && now != text.as_bytes()
            && self.known.as_ref().is_some_and(|known| now != *known)
        {
            let path = self.path.display();
            return Err(format!(
                "{path} was changed by hand and not taken up; `ivctl config diff {path}` shows what it would change, \
                 `systemctl reload ivswitchd` (SIGHUP) takes it up instead of what is in force"
            ));
        }
        let result = replace(&self.path, text);
        self.taken_up();
        result
    }
}

/// Replaces the file at `path`, or makes it (mode 0644). Mode and owner stay; a symbolic link stays and its
/// target is replaced.
///
/// # Errors
/// The failed step and its file. The old file is then unchanged.
fn replace(path: &Path, text: &str) -> Result<(), String> {
    replace_on(&mut Machine, path, text)
}

fn replace_on<D: Disk>(disk: &mut D, path: &Path, text: &str) -> Result<(), String> {
    let target = disk.resolve(path);
    let directory = match target.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let fail = |step: &str, error: &io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => "; give ivswitchd the right to write there",
            io::ErrorKind::ReadOnlyFilesystem => "; choose a place that can be written with --config",
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room on that file system",
            _ => "",
        };
        format!("{}: cannot {step}: {error}{remedy}", target.display())
    };
    disk.make_directories(&directory).map_err(|e| fail("make its directory", &e))?;
    let mut name =
        target.file_name().ok_or_else(|| format!("{}: is no file", target.display()))?.to_os_string();
    name.push(".new");
    let temporary = directory.join(name);
    if let Err(error) = write_beside(disk, &target, &temporary, text) {
        let _ = disk.remove(&temporary);
        return Err(fail("replace it", &error));
    }
    // The new name is durable only once the directory is synced.
    disk.sync_directory(&directory).map_err(|e| fail("make it durable", &e))
}

/// Writes the text durably under another name, then gives it the target's name.
fn write_beside<D: Disk>(disk: &mut D, target: &Path, temporary: &Path, text: &str) -> io::Result<()> {
    // An earlier crash's leftover is useless; and a new file cannot be another user's symbolic link.
    disk.remove(temporary)?;
    let mut file = disk.create(temporary)?;
    disk.write(&mut file, text.as_bytes())?;
    let to = match disk.owned(target) {
        Ok(old) => Owned { mode: old.mode & 0o7777, ..old },
        Err(_) => Owned { mode: 0o644, ..disk.owned(temporary)? },
    };
    disk.give(&mut file, to)?;
    disk.sync(&mut file)?;
    disk.rename(temporary, target)
}

/// The machine's own file systems.
struct Machine;

impl Disk for Machine {
    type File = File;

    fn resolve(&self, path: &Path) -> PathBuf {
        fs::canonicalize(path).unwrap_or_else(|_| path.into())
    }

    fn make_directories(&mut self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn owned(&self, path: &Path) -> io::Result<Owned> {
        fs::metadata(path).map(|file| Owned { mode: file.mode(), uid: file.uid(), gid: file.gid() })
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn create(&mut self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
    }

    fn write(&mut self, file: &mut File, text: &[u8]) -> io::Result<()> {
        file.write_all(text)
    }

    fn give(&mut self, file: &mut File, to: Owned) -> io::Result<()> {
        let ours = file.metadata()?;
        if (to.uid, to.gid) != (ours.uid(), ours.gid()) {
            fchown(&*file, Some(to.uid), Some(to.gid))?;
        }
        file.set_permissions(Permissions::from_mode(to.mode))
    }

    fn sync(&mut self, file: &mut File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&mut self, path: &Path) -> io::Result<()> {
        File::open(path).and_then(|directory| directory.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text is replaced, mode and link stay, and no other file remains.
    #[test]
    fn a_file_is_replaced_in_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etc/ivswitch.toml");
        replace(&path, "one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let link = directory.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        replace(&link, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    /// A manual edit is not overwritten until the daemon has read it, or the file is gone.
    #[test]
    fn what_was_written_by_hand_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        let mut saved = Saved::new(path.clone());
        saved.replace("one").unwrap();
        fs::write(&path, "by hand").unwrap();
        let why = saved.replace("two").unwrap_err();
        assert!(why.contains("a.toml was changed by hand"), "{why}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "by hand");
        saved.replace("by hand").unwrap();
        fs::write(&path, "again").unwrap();
        saved.taken_up();
        saved.replace("three").unwrap();
        fs::remove_file(&path).unwrap();
        saved.replace("four").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "four");
    }

    /// An earlier crash's leftover does not get in the way, even if it is a link to another place.
    #[test]
    fn leftovers_are_replaced_and_links_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        let victim = directory.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join("a.toml.new")).unwrap();
        replace(&path, "text").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    }

    /// A refusal names the file and leaves the old one.
    #[test]
    fn a_refusal_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        fs::create_dir(&path).unwrap();
        let error = replace(&path, "text").unwrap_err();
        assert!(error.contains("a.toml"), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

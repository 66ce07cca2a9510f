//! Replacing a file so that a crash at any moment leaves the old one or the new one, whole.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Replaces the file at `path`, or makes it (mode 0644). Mode and owner stay; a symbolic link stays
/// and what it points to is replaced.
///
/// # Errors
/// What could not be done, and to which file. The old file is then as it was.
pub fn replace(path: &Path, text: &str) -> Result<(), String> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let directory = match target.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let fail = |step: &str, error: &io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => "; give ivswitchd the right to write there",
            io::ErrorKind::ReadOnlyFilesystem => "; choose a place that can be written with --config",
            io::ErrorKind::StorageFull => "; make room on that file system",
            _ => "",
        };
        format!("{}: cannot {step}: {error}{remedy}", target.display())
    };
    fs::create_dir_all(&directory).map_err(|e| fail("make its directory", &e))?;
    let mut name =
        target.file_name().ok_or_else(|| format!("{}: is no file", target.display()))?.to_os_string();
    name.push(".new");
    let temporary = directory.join(name);
    let write = || -> io::Result<()> {
        // What an earlier crash left is of no use; a fresh file also cannot be somebody's symbolic link.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        let mode = match fs::metadata(&target) {
            Ok(old) => {
                let ours = file.metadata()?;
                if (old.uid(), old.gid()) != (ours.uid(), ours.gid()) {
                    fchown(&file, Some(old.uid()), Some(old.gid()))?;
                }
                old.mode() & 0o7777
            }
            Err(_) => 0o644,
        };
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temporary, &target)
    };
    if let Err(error) = write() {
        let _ = fs::remove_file(&temporary);
        return Err(fail("replace it", &error));
    }
    // The new name is durable only once the directory is.
    File::open(&directory).and_then(|directory| directory.sync_all()).map_err(|e| fail("make it durable", &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text is replaced, mode and link stay, and nothing is left beside it.
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

    /// What an earlier crash left does not stand in the way, even as a link to elsewhere.
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

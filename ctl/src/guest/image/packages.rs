//! The kernel and busybox from Debian's packages: the host's apt fetches the packages, and they are unpacked but
//! never installed.
//!
//! A suite that the host does not use (for a newer kernel) has package lists of our own in the image's directory.
//! They come from the host's mirror and are checked with Debian's keys. The host's apt does not know them and is not
//! changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{KERNEL, at, list, piped, run};
use crate::cli::Failure;

/// The files of the keys in Debian's package `debian-archive-keyring`.
const KEYS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// apt, on the host's suites or on another suite.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(work: &Path, suite: Option<&str>) -> Result<Self, Failure> {
        let Some(suite) = suite else { return Ok(Self { options: Vec::new() }) };
        if !is_name(suite) {
            return Err(Failure::new(
                2,
                "the image is not built",
                format!("{suite:?} is not the name of a suite"),
                "",
            ));
        }
        let mut targets = Command::new("apt-get");
        targets.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
        let mirrors = run(&mut targets, b"", "apt")?;
        let mirrors = String::from_utf8_lossy(&mirrors).into_owned();
        let mirror = mirrors.lines().find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
        let mirror = mirror.unwrap_or("http://deb.debian.org/debian/");
        let keys = KEYS.iter().find(|path| Path::new(path).exists()).ok_or_else(|| {
            let how = "install it, on Debian with `apt-get install debian-archive-keyring`";
            Failure::new(3, "the image is not built", format!("{} is not there", KEYS[0]), how)
        })?;
        let apt = work.join("apt");
        for sub in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(apt.join(sub)).map_err(|e| at(&apt, &e))?;
        }
        let sources = apt.join("suite.sources");
        let text =
            format!("Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {keys}\n");
        fs::write(&sources, text).map_err(|e| at(&sources, &e))?;
        let of = |name: &str, sub: &str| format!("{name}={}", apt.join(sub).display());
        let settings = [
            of("Dir::Etc::SourceParts", "parts"),
            of("Dir::Etc::SourceList", "suite.sources"),
            of("Dir::State::Lists", "lists"),
            of("Dir::Cache", "cache"),
            // apt would drop its privileges to a user who cannot read our directory.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let apt = Self { options: settings.into_iter().flat_map(|s| ["-o".to_owned(), s]).collect() };
        run(apt.command("apt-get").args(["update", "-qq"]), b"", "apt")?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// The dependencies of a package, alternatives among them.
    fn depends(&self, package: &str) -> Result<Vec<String>, Failure> {
        let show = run(self.command("apt-cache").args(["show", "--no-all-versions", package]), b"", "apt")?;
        let show = String::from_utf8_lossy(&show).into_owned();
        let depends = show.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default();
        Ok(depends.split([',', '|']).filter_map(|d| d.split_whitespace().next()).map(str::to_owned).collect())
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// Fetches the packages and unpacks the needed files.
pub fn fetch(dir: &Path, kernel: &str, suite: Option<&str>) -> Result<(), Failure> {
    for (name, what) in [(Some(kernel), "package"), (suite, "suite")] {
        if name.is_some_and(|name| !is_name(name)) {
            let why = format!("{:?} is not the name of a {what}", name.unwrap_or_default());
            return Err(Failure::new(2, "the image is not built", why, ""));
        }
    }
    let work = dir.join("work");
    let _ = fs::remove_dir_all(&work);
    let unpacked = work.join("root");
    fs::create_dir_all(&unpacked).map_err(|e| at(&work, &e))?;
    // busybox comes from the host's release, because a suite with newer packages may lack it.
    let mut download = Command::new("apt-get");
    run(download.args(["download", "-qq", "busybox-static"]).current_dir(&work), b"", "apt")?;
    let apt = Apt::new(&work, suite)?;
    // A package such as linux-image-6.12-cloud-amd64 only depends on the package with the current kernel. Since Linux
    // 7, that package depends on two packages with the kernel's parts.
    let holds = |name: &String| {
        name.strip_prefix("linux-image-").is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()))
    };
    let image = apt.depends(kernel)?.into_iter().find(holds).unwrap_or_else(|| kernel.to_owned());
    let is_part = |name: &String| name.starts_with("linux-binary-") || name.starts_with("linux-modules-");
    let parts = apt.depends(&image)?.into_iter().filter(is_part);
    let packages: Vec<String> = std::iter::once(image.clone()).chain(parts).collect();
    let mut download = apt.command("apt-get");
    run(download.args(["download", "-qq"]).args(&packages).current_dir(&work), b"", "apt")?;
    for deb in list(&work)?.iter().filter(|p| p.extension().is_some_and(|e| e == "deb")) {
        run(Command::new("dpkg").arg("-x").arg(deb).arg(&unpacked), b"", "dpkg")?;
    }
    let find = |name: &str, under: &[&str]| -> Result<PathBuf, Failure> {
        let found = under.iter().filter_map(|u| list(&unpacked.join(u)).ok()).flatten();
        found
            .into_iter()
            .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(name)))
            .ok_or_else(|| {
                Failure::new(
                    1,
                    "the image is not built",
                    format!("there is no {name} in {packages:?}"),
                    "name another --kernel",
                )
            })
    };
    let modules = find("", &["lib/modules", "usr/lib/modules"])?;
    // Since Linux 7 the kernel is in the same directory as its modules.
    let image = find("vmlinuz", &["boot"]).or_else(|why| match modules.join("vmlinuz") {
        path if path.is_file() => Ok(path),
        _ => Err(why),
    })?;
    let bytes = fs::read(&image).map_err(|e| at(&image, &e))?;
    let path = dir.join(KERNEL);
    fs::write(&path, uncompressed(&bytes)?).map_err(|e| at(&path, &e))?;
    let busybox = find("busybox", &["bin", "usr/bin"])?;
    fs::copy(&busybox, dir.join("busybox")).map_err(|e| at(&busybox, &e))?;
    let kept = dir.join("modules");
    let _ = fs::remove_dir_all(&kept);
    fs::rename(&modules, &kept).map_err(|e| at(&kept, &e))?;
    fs::remove_dir_all(&work).map_err(|e| at(&work, &e))
}

/// Extracts the kernel's ELF file from its self-extracting image: tries every position where a known format begins,
/// until an ELF comes out.
fn uncompressed(image: &[u8]) -> Result<Vec<u8>, Failure> {
    const ELF: &[u8] = b"\x7fELF";
    const FORMATS: [(&[u8], &[&str]); 4] = [
        (b"\x28\xb5\x2f\xfd", &["zstd", "-dcq"]),
        (b"\xfd7zXZ\0", &["xz", "-dc", "--single-stream"]),
        (b"\x1f\x8b\x08", &["gzip", "-dc"]),
        (b"\x02\x21\x4c\x18", &["lz4", "-dc"]),
    ];
    for (magic, command) in FORMATS {
        let starts = image.windows(magic.len()).enumerate().filter(|(_, w)| *w == magic).map(|(i, _)| i);
        for start in starts.take(64) {
            // The program complains about bytes after the packed kernel; that is not an error.
            let (out, _) = piped(Command::new(command[0]).args(&command[1..]), &image[start..], command[0])?;
            if out.starts_with(ELF) && out.len() > 1 << 20 {
                return Ok(out);
            }
        }
    }
    Err(Failure::new(
        1,
        "the image is not built",
        "the kernel is compressed in an unknown format",
        "name another --kernel",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of packages and suites end up on apt's command line and in its files, so only real names are accepted.
    #[test]
    fn names_of_packages_and_suites_are_names() {
        assert!(is_name("linux-image-6.12-cloud-amd64") && is_name("trixie-backports"));
        for bad in ["", "a b", "stable\nTrusted: yes", "../x", "$(id)"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(fetch(Path::new("/nowhere"), "linux", Some("a b")).is_err());
    }
}

//! `ivctl image build`: builds a small guest from this Debian's packages, in seconds, without installing a kernel.
//!
//! The kernel is Debian's cloud kernel, uncompressed: QEMU then starts its PVH entry, which saves a second under
//! emulation. The rest is busybox and the virtio modules in an initramfs. `apt-get download` fetches the packages, so
//! the trust is that of the host's own apt.

pub mod cpio;
mod packages;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cpio::Archive;

use super::verbs::Build;
use crate::cli::Failure;

/// The kernel's file name, which `ivctl guest create --image DIR` looks for.
pub const KERNEL: &str = "vmlinux";
/// The initramfs's file name.
pub const INITRAMFS: &str = "initramfs";
/// Kernel arguments that suit a guest under emulation.
pub const APPEND: &str = "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check tsc=reliable \
random.trust_cpu=on init_on_alloc=0 net.ifnames=0";

/// The modules of every guest.
const MODULES: [&str; 9] = [
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "virtio_balloon",
    "virtio_console",
    "virtio_rng",
    "button",
    "evdev",
    "e1000",
];
/// How deep module dependencies are followed.
const DEPTH_MAX: usize = 16;

/// Builds an image.
///
/// # Errors
/// When a package, a program or the disk is missing.
pub fn build(wish: &Build) -> Result<PathBuf, Failure> {
    fs::create_dir_all(&wish.dir).map_err(|e| at(&wish.dir, &e))?;
    let dir = wish.dir.canonicalize().map_err(|e| at(&wish.dir, &e))?;
    let parts = [KERNEL, "busybox", "modules"].map(|name| dir.join(name));
    if wish.offline {
        if let Some(missing) = parts.iter().find(|part| !part.exists()) {
            let how = "run it once without --offline";
            return Err(Failure::new(
                3,
                "the image is not built",
                format!("{} is not there", missing.display()),
                how,
            ));
        }
    } else {
        packages::fetch(&dir, &wish.kernel, wish.suite.as_deref())?;
    }
    let initramfs = initramfs(&dir, wish)?;
    let path = dir.join(INITRAMFS);
    fs::write(&path, initramfs).map_err(|e| at(&path, &e))?;
    Ok(dir)
}

fn at(path: &Path, e: &std::io::Error) -> Failure {
    Failure::new(
        1,
        "the image is not built",
        format!("{}: {e}", path.display()),
        "is the disk full, or the path wrong?",
    )
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(dir).map_err(|e| at(dir, &e))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    Ok(paths)
}

/// Runs a program to its end, and returns its output.
fn run(command: &mut Command, input: &[u8], package: &str) -> Result<Vec<u8>, Failure> {
    let (out, failed) = piped(command, input, package)?;
    match failed {
        None => Ok(out),
        Some(why) => {
            let how = "run `apt-get update`, or name another package";
            Err(Failure::new(1, format!("{} failed", command.get_program().display()), why, how))
        }
    }
}

/// The output of a program, and the cause of its failure if it failed.
fn piped(command: &mut Command, input: &[u8], package: &str) -> Result<(Vec<u8>, Option<String>), Failure> {
    let program = command.get_program().to_owned();
    let missing = |e: std::io::Error| {
        let how = format!("install it, on Debian with `apt-get install {package}`");
        Failure::new(1, format!("{} cannot be run", program.display()), e.to_string(), how)
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(missing)?;
    let mut stdin = child.stdin.take().expect("piped");
    let done = std::thread::scope(|scope| {
        // The program may stop reading before the end; that is not an error.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output()
    });
    let output = done.map_err(missing)?;
    let failed =
        (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).trim().to_owned());
    Ok((output.stdout, failed))
}

/// Builds the initramfs.
fn initramfs(dir: &Path, wish: &Build) -> Result<Vec<u8>, Failure> {
    let mut archive = Archive::default();
    for directory in ["proc", "sys", "tmp", "run", "root", "mnt", "usr/bin", "usr/sbin", "sbin", "etc"] {
        archive.directory(directory);
    }
    archive.device("dev/console", 5, 1);
    archive.device("dev/null", 1, 3);
    let busybox = dir.join("busybox");
    let bytes = fs::read(&busybox).map_err(|e| at(&busybox, &e))?;
    archive.file("bin/busybox", &bytes, 0o755);
    let applets = run(Command::new(&busybox).arg("--list"), b"", "busybox-static")?;
    for applet in String::from_utf8_lossy(&applets).split_whitespace().filter(|a| *a != "busybox") {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    archive.file("init", include_bytes!("init.sh"), 0o755);
    archive.file("bin/dhcp-script", include_bytes!("dhcp.sh"), 0o755);
    archive.file("etc/passwd", b"root::0:0:root:/root:/bin/sh\n", 0o644);
    let names = MODULES.iter().map(|m| (*m).to_owned()).chain(wish.module.iter().cloned());
    let modules = modules(&dir.join("modules"), names.collect())?;
    let order: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
    archive.file("lib/modules/order", (order.join("\n") + "\n").as_bytes(), 0o644);
    for (name, bytes) in &modules {
        archive.file(&format!("lib/modules/{name}.ko"), bytes, 0o644);
    }
    for program in &wish.program {
        add_program(&mut archive, program)?;
    }
    for file in &wish.file {
        let (source, path) = file.split_once(':').unwrap_or((file, file));
        let about = fs::metadata(source).map_err(|e| at(Path::new(source), &e))?;
        let bytes = fs::read(source).map_err(|e| at(Path::new(source), &e))?;
        archive.file(path, &bytes, about.permissions().mode() & 0o777);
    }
    Ok(archive.finish())
}

/// Adds a program of the host and the libraries that it names.
fn add_program(archive: &mut Archive, program: &Path) -> Result<(), Failure> {
    let path = match program.is_absolute() {
        true => program.to_owned(),
        false => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let found = std::env::split_paths(&path).map(|d| d.join(program)).find(|p| p.is_file());
            let missing = || {
                Failure::new(
                    3,
                    "the image is not built",
                    format!("there is no program {}", program.display()),
                    "install it",
                )
            };
            found.ok_or_else(missing)?
        }
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    archive.file(&format!("usr/bin/{name}"), &fs::read(&path).map_err(|e| at(&path, &e))?, 0o755);
    let (libraries, _) = piped(Command::new("ldd").arg(&path), b"", "libc-bin")?;
    for line in String::from_utf8_lossy(&libraries).lines() {
        let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) else { continue };
        let bytes = fs::read(library).map_err(|e| at(Path::new(library), &e))?;
        let name = Path::new(library).file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The loader is found by its full path, the other libraries through LD_LIBRARY_PATH.
        let to = if name.starts_with("ld-linux") { library.to_owned() } else { format!("lib/{name}") };
        archive.file(&to, &bytes, 0o755);
    }
    Ok(())
}

/// These modules and their dependencies, in the order of loading. Modules that are built into the kernel are left
/// out.
fn modules(root: &Path, names: Vec<String>) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut index = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for path in list(&dir)? {
            if path.is_dir() {
                open.push(path);
            } else if let Some((name, _)) =
                path.file_name().and_then(|n| n.to_str()).and_then(|n| n.split_once(".ko"))
            {
                index.insert(name.replace('-', "_"), path);
            }
        }
    }
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for name in names {
        want(&name.replace('-', "_"), &index, &mut seen, &mut found, 0)?;
    }
    Ok(found)
}

fn want(
    name: &str,
    index: &BTreeMap<String, PathBuf>,
    seen: &mut BTreeSet<String>,
    found: &mut Vec<(String, Vec<u8>)>,
    depth: usize,
) -> Result<(), Failure> {
    let Some(path) = index.get(name) else { return Ok(()) };
    if depth > DEPTH_MAX || !seen.insert(name.to_owned()) {
        return Ok(());
    }
    let packed = fs::read(path).map_err(|e| at(path, &e))?;
    let bytes = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => run(Command::new("xz").arg("-dc"), &packed, "xz-utils")?,
        Some("zst") => run(Command::new("zstd").arg("-dcq"), &packed, "zstd")?,
        Some("gz") => run(Command::new("gzip").arg("-dc"), &packed, "gzip")?,
        _ => packed,
    };
    for dependency in depends_of(&bytes) {
        want(&dependency, index, seen, found, depth + 1)?;
    }
    found.push((name.to_owned(), bytes));
    Ok(())
}

/// The dependencies that a module names (modinfo's `depends`).
fn depends_of(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|w| w == KEY) else { return Vec::new() };
    let value = module[start + KEY.len()..].split(|&b| b == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(value);
    text.split(',').filter(|d| !d.is_empty()).map(|d| d.replace('-', "_")).collect()
}

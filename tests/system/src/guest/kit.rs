//! The files that guests boot: the distribution's cloud kernel, and an initramfs of busybox with the modules that a
//! NIC needs.
//!
//! They are made once, from packages that are downloaded but not installed, and kept in the target directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A package that depends on the kernel that Debian's stable release has for clouds now.
const KERNEL: &str = "linux-image-6.12-cloud-amd64";

const MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];

/// The guest's first program, which configures the NIC, reports that, and obeys the second serial port.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin HOME=/
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in $(cat /order); do insmod /$module.ko; done
for word in $(cat /proc/cmdline); do case $word in ivs.ip=*) address=${word#*=};; esac; done
ip link set lo up
ip link set eth0 mtu 1450 up
ip addr add $address dev eth0
exec < /dev/ttyS1 > /dev/ttyS1 2> /dev/console
stty raw -echo
echo IVS-UP > /dev/console
while read -r line; do
  sh -c "$line" < /dev/null > /out 2>&1
  code=$?
  cat /out
  printf '\001%d\n' $code
done
"#;

/// The files to boot.
pub struct Kit {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

/// The kit, which is made if it does not exist yet.
pub fn get() -> &'static Kit {
    static KIT: OnceLock<Kit> = OnceLock::new();
    KIT.get_or_init(|| {
        let test = std::env::current_exe().expect("the path of this test");
        let dir = test.ancestors().nth(3).expect("TARGET/PROFILE/deps/TEST").join("guest-kit");
        let kit = Kit { kernel: dir.join("vmlinuz"), initrd: dir.join("initrd") };
        // Written last: it marks the kit as complete, and names the version of this file that made it.
        let mark = dir.join("made");
        let version = format!("{KERNEL} {MODULES:?} {INIT}");
        if fs::read_to_string(&mark).is_ok_and(|made| made == version) {
            return kit;
        }
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory for what guests boot");
        let work = tempfile::tempdir().expect("a directory");
        let root = unpack(work.path());
        fs::copy(find(&root, "vmlinuz-"), &kit.kernel).expect("the kernel");
        fs::write(&kit.initrd, initrd(&root)).expect("the initramfs");
        fs::write(mark, version).expect("a file");
        kit
    })
}

/// Downloads and unpacks the packages; gives the directory.
fn unpack(work: &Path) -> PathBuf {
    let root = work.join("root");
    let text = run(Command::new("apt-cache").args(["depends", KERNEL]));
    let image = text.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).unwrap_or(KERNEL);
    run(Command::new("apt-get").current_dir(work).args(["download", "-q", image, "busybox-static"]));
    for entry in fs::read_dir(work).expect("our own directory").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(&root));
        }
    }
    root
}

fn initrd(root: &Path) -> Vec<u8> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "proc", "sys", "tmp"] {
        archive.entry(dir, 0o040_755, 0, &[]);
    }
    // Without this device, messages of the kernel and of the first program would be lost.
    archive.entry("dev/console", 0o020_600, 5 << 8 | 1, &[]);
    archive.entry("dev/null", 0o020_666, 1 << 8 | 3, &[]);
    let busybox = find(root, "busybox");
    archive.entry("bin/busybox", 0o100_755, 0, &fs::read(&busybox).expect("busybox"));
    for applet in run(Command::new(&busybox).arg("--list")).lines().filter(|applet| *applet != "busybox") {
        archive.entry(&format!("bin/{applet}"), 0o120_777, 0, b"busybox");
    }
    archive.entry("init", 0o100_755, 0, INIT.as_bytes());
    let (mut order, mut seen) = (String::new(), BTreeSet::new());
    for module in MODULES {
        add_module(root, module, &mut archive, &mut order, &mut seen);
    }
    archive.entry("order", 0o100_644, 0, order.as_bytes());
    archive.entry("TRAILER!!!", 0, 0, &[]);
    archive.bytes
}

/// Adds a module after the modules that it needs. A module that is built into the kernel is left out.
fn add_module(
    root: &Path,
    name: &str,
    archive: &mut Archive,
    order: &mut String,
    seen: &mut BTreeSet<String>,
) {
    if !seen.insert(name.to_owned()) {
        return;
    }
    let Some(packed) = look_for(root, &format!("{name}.ko.xz")) else { return };
    let module = Command::new("xz").arg("-dc").arg(packed).output().expect("running xz").stdout;
    let said = module.windows(8).position(|part| part == b"depends=").map(|at| &module[at + 8..]);
    let needs = said.and_then(|said| said.split(|byte| *byte == 0).next()).unwrap_or_default();
    for need in String::from_utf8_lossy(needs).split(',').filter(|need| !need.is_empty()) {
        add_module(root, &need.replace('-', "_"), archive, order, seen);
    }
    archive.entry(&format!("{name}.ko"), 0o100_644, 0, &module);
    *order += &format!("{name}\n");
}

/// A cpio archive as the kernel unpacks it (`newc`).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, device: u32, data: &[u8]) {
        self.inode += 1;
        let (major, minor) = (device >> 8, device & 0xff);
        let fields =
            [self.inode, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, major, minor, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        self.bytes.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn find(root: &Path, name: &str) -> PathBuf {
    look_for(root, name).unwrap_or_else(|| panic!("no {name} in the packages"))
}

/// The file whose name starts with `name`. (Module names contain `-` or `_`, and both count as the same.)
fn look_for(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries.into_iter().filter(|path| !path.is_symlink()).find_map(|path| {
        if path.is_dir() {
            return look_for(&path, name);
        }
        let own = path.file_name()?.to_string_lossy().replace('-', "_");
        own.starts_with(&name.replace('-', "_")).then_some(path)
    })
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("running {command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

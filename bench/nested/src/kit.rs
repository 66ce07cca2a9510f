//! The files that guests boot, made by `ivctl image build` with this program inside, and, for guests that have
//! guests, with QEMU, the switch and the inner guest's own image.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::process::{Limit, find, run};

use crate::lab::OVS_SCHEMA;

/// The images, and the directory of our programs.
#[derive(Clone, Debug)]
pub struct Kit {
    /// The image of a guest without guests.
    pub small: PathBuf,
    /// The image of a guest that has guests, or the reason why it could not be made.
    pub large: Result<PathBuf, String>,
    /// The directory of `ivswitchd` and `ivctl`.
    pub binaries: PathBuf,
    /// This program, without debugging information.
    pub probe: PathBuf,
}

/// The files that QEMU loads, and their directories on Debian.
const QEMU_FILES: [(&str, &str); 5] = [
    ("/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin"),
    ("/usr/share/qemu/pvh.bin", "/usr/share/qemu/pvh.bin"),
    ("/usr/share/qemu/kvmvapic.bin", "/usr/share/qemu/kvmvapic.bin"),
    ("/usr/share/qemu/linuxboot_dma.bin", "/usr/share/qemu/linuxboot_dma.bin"),
    (
        "/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so",
        "/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so",
    ),
];

impl Kit {
    /// Makes the images in `dir`. The kernel is downloaded once, or taken from an existing image.
    ///
    /// # Errors
    /// When a program is missing, or the packages cannot be downloaded.
    pub fn make(dir: &Path, image: Option<&Path>, small_only: bool, limit: &Limit) -> Result<Self> {
        let needed = [
            ("qemu-system-x86_64", "qemu-system-x86"),
            ("ip", "iproute2"),
            ("ethtool", "ethtool"),
            ("apt-get", "apt"),
            ("xz", "xz-utils"),
        ];
        let missing: Vec<_> = needed.iter().filter(|(p, _)| find(p).is_none()).map(|(_, p)| *p).collect();
        ensure!(missing.is_empty(), "missing on this machine: {}", missing.join(" "));
        let binaries = match std::env::var_os("IVS_BIN_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => find("ivctl").and_then(|p| Some(p.parent()?.to_owned())).context("no ivctl in PATH")?,
        };
        let daemon = match binaries.join("ivswitchd") {
            path if path.is_file() => path,
            _ => find("ivswitchd").context("no ivswitchd in PATH")?,
        };
        std::fs::create_dir_all(dir.join("bin"))?;
        let own = std::env::current_exe()?;
        let probe = stripped(&own, &dir.join("bin/ivbench"), limit)?;
        let daemon = stripped(&daemon, &dir.join("bin/ivswitchd"), limit)?;
        let ethtool = find("ethtool").context("no ethtool")?;
        let small = dir.join("small");
        if let Some(image) = image {
            parts(&std::path::absolute(image)?, &small)?;
        }
        build(&binaries, &small, &["virtio_net"], &[&probe, &ethtool], &[], limit)?;
        if small_only {
            let large = Err("a quick run has no guests in guests".into());
            return Ok(Self { small, large, binaries, probe });
        }
        let qemu = find("qemu-system-x86_64").context("no QEMU")?;
        let ip = find("ip").context("no ip")?;
        let large = dir.join("large");
        let mut files: Vec<(String, String)> =
            QEMU_FILES.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        for name in ["vmlinux", "initramfs"] {
            files.push((small.join(name).display().to_string(), format!("/inner/{name}")));
        }
        // Both have the same kernel and modules.
        parts(&small, &large)?;
        // The last two let our switch keep frames of a port of kind `packet` from the kernel, up to version 6.1.
        let modules = ["virtio_net", "tun", "veth", "bridge", "vxlan", "sch_ingress", "cls_bpf"];
        let ivctl = stripped(&binaries.join("ivctl"), &dir.join("bin/ivctl"), limit)?;
        let mut programs = vec![probe.as_path(), &ethtool, &qemu, &daemon, &ivctl, &ip];
        // Without Open vSwitch, its rows say that it is missing.
        let ovs = ["ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl"].map(find);
        if ovs.iter().all(Option::is_some) {
            programs.extend(ovs.iter().flatten().map(PathBuf::as_path));
            files.push((OVS_SCHEMA.into(), OVS_SCHEMA.into()));
        }
        let large = build(&binaries, &large, &modules, &programs, &files, limit)
            .map(|()| large)
            .map_err(|why| format!("{why:#}"));
        Ok(Self { small, large, binaries, probe })
    }
}

/// Copies the parts of an image from one that has them.
fn parts(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for name in ["vmlinux", "busybox", "modules"] {
        if !to.join(name).exists() {
            std::os::unix::fs::symlink(from.join(name), to.join(name))?;
        }
    }
    Ok(())
}

/// A copy without debugging information, if `strip` is installed: guests hold the file in memory.
fn stripped(from: &Path, to: &Path, limit: &Limit) -> Result<PathBuf> {
    let mut strip = Command::new("strip");
    if run(strip.arg("-o").arg(to).arg(from), Duration::from_secs(30), limit).is_err() {
        std::fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    }
    Ok(to.to_owned())
}

fn build(
    binaries: &Path,
    dir: &Path,
    modules: &[&str],
    programs: &[&Path],
    files: &[(String, String)],
    limit: &Limit,
) -> Result<()> {
    let mut image = Command::new(binaries.join("ivctl"));
    image.args(["image", "build"]).arg(dir);
    if dir.join("modules").exists() {
        image.arg("--offline");
    }
    for module in modules {
        image.args(["--module", module]);
    }
    for program in programs {
        image.arg("--program").arg(program);
    }
    for (from, to) in files {
        image.arg("--file").arg(format!("{from}:{to}"));
    }
    run(&mut image, Duration::from_secs(180), limit).map(drop).context("ivctl image build")
}

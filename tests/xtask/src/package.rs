//! The Debian packages, and a test that installs and purges them in a minimal Debian.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{as_root, cargo, find, install, run, target_dir, workspace};

/// The packages, and the crates that describe them.
const PACKAGES: [(&str, &str); 3] =
    [("ivswitch", "ivswitchd"), ("ivswitch-guests", "guests"), ("ivswitch-ovs-compat", "ctl")];

/// A limit for users with a slow connection. The daemon is half of the package.
const PACKAGE_LEN_MAX: u64 = 8 << 20;

/// Builds `target/package/*.deb`; gives their paths, in the order to install them.
pub fn build(debug: bool) -> Result<Vec<PathBuf>> {
    if find("cargo-deb").is_none() {
        run(cargo().args(["install", "cargo-deb", "--locked", "--version", "^2"]))?;
    }
    // For the program that links libvirt.
    install(&[&crate::FOR_THE_GUESTS[..2], &[("strip", "binutils")]])?;
    let binaries = crate::build(!debug)?;
    let mut others = cargo();
    others.args(["build", "--quiet", "--package", "guests", "--package", "ivbench"]);
    run(if debug { &mut others } else { others.arg("--release") })?;
    // The name in the package's list of assets, independent of the directory that cargo builds into.
    let out = workspace().join("target/package");
    let _ = fs::remove_dir_all(&out);
    for page in ["man1", "man5", "man8"] {
        fs::create_dir_all(out.join(page))?;
    }
    let pages = out.join("pages");
    run(Command::new(binaries.join("ivctl")).arg("man").arg(&pages))?;
    for page in fs::read_dir(&pages)? {
        let page = page?.path();
        let section =
            page.extension().and_then(|section| section.to_str()).context("a page without a section")?;
        fs::rename(&page, out.join(format!("man{section}")).join(page.file_name().context("a page")?))?;
    }
    let page = said(Command::new(binaries.join("ivbench")).arg("--man"))?;
    fs::write(out.join("man8/ivbench.8"), page)?;
    for (shell, file) in [("bash", "ivctl.bash"), ("zsh", "_ivctl"), ("fish", "ivctl.fish")] {
        let script = said(Command::new(binaries.join("ivctl")).args(["completion", shell]))?;
        fs::write(out.join(file), script)?;
    }
    PACKAGES.iter().map(|(name, described)| deb(name, described, &out, debug)).collect()
}

/// Builds one package.
fn deb(name: &str, described: &str, out: &Path, debug: bool) -> Result<PathBuf> {
    let mut deb = cargo();
    // cargo-deb itself does not strip where the profile keeps symbols for profilers.
    deb.args(["deb", "--no-build", "--strip", "--package", described, "--output"]).arg(out);
    if debug {
        deb.args(["--profile", "dev"]);
    }
    run(&mut deb)?;
    let is = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        file.starts_with(&format!("{name}_")) && file.ends_with(".deb")
    };
    let package = fs::read_dir(out)?.flatten().map(|entry| entry.path()).find(is);
    let package = package.with_context(|| format!("cargo deb made no package {name}"))?;
    let len = fs::metadata(&package)?.len();
    println!("{}: {} KiB", package.display(), len / 1024);
    ensure!(debug || len <= PACKAGE_LEN_MAX, "{}: more than {PACKAGE_LEN_MAX} bytes", package.display());
    Ok(package)
}

/// Files and other traces that must exist after installing and be gone after purging.
const FILES: &[&str] = &[
    "usr/sbin/ivswitchd",
    "usr/bin/ivctl",
    "usr/bin/ivbench",
    "usr/lib/systemd/system/ivswitchd.service",
    "usr/lib/systemd/system/ivswitch-closed.service",
    "usr/lib/systemd/system/nftables.service.d/ivswitch.conf",
    "usr/lib/sysusers.d/ivswitch.conf",
    "usr/share/man/man8/ivswitchd.8.gz",
    "usr/share/man/man8/ivbench.8.gz",
    "usr/share/man/man1/ivctl.1.gz",
    "usr/share/man/man5/ivswitch.toml.5.gz",
    "usr/share/bash-completion/completions/ivctl",
    "etc/ivswitch/ivswitch.toml.d",
    "usr/lib/ivswitch/ivctl-guest",
    "usr/lib/systemd/system/ivswitch-guests.service",
    "usr/lib/tmpfiles.d/ivswitch-guests.conf",
    "usr/bin/ovs-vsctl",
    "usr/share/man/man8/ovs-vsctl.8.gz",
];

/// Installs the packages in a fresh Debian, uses them, and purges them: nothing may stay behind.
pub fn test(debug: bool) -> Result<()> {
    install(&[&[("debootstrap", "debootstrap")]])?;
    if let Err(why) = install(&[&[("systemd-nspawn", "systemd-container")]]) {
        eprintln!("warning: {why:#}");
    }
    let packages = build(debug)?;
    let root = target_dir()?.join("package-root");
    let remove = || run(as_root(Path::new("rm"))?.args(["-rf", "--one-file-system"]).arg(&root));
    for (release, examples) in RELEASES {
        println!("== Debian {release}");
        remove()?;
        let outcome = in_root(&root, &packages, release, examples)
            .and_then(|()| crate::boot::test(&root, &packages[0], !examples.is_empty()));
        remove()?;
        outcome?;
    }
    Ok(())
}

/// The Debians for the test, and the packages that the examples of a deployment need there. The systemd of the first
/// (252) treats the unit as `Type=notify`, that of the second (257) as `notify-reload`.
const RELEASES: [(&str, &str); 2] =
    [("bookworm", ""), ("trixie", "ansible-core python3-apt cloud-init curl xz-utils")];

fn in_root(root: &Path, packages: &[PathBuf], release: &str, examples: &str) -> Result<()> {
    let mut debootstrap = as_root(Path::new("debootstrap"))?;
    debootstrap
        .args(["--variant=minbase", "--include=systemd,systemd-sysv,iproute2,nftables", release])
        .arg(root);
    run(debootstrap.stdout(Stdio::null()))?;
    let inside = |command: &str| -> Result<Output> {
        let mut chroot = as_root(Path::new("chroot"))?;
        chroot.arg(root).args(["sh", "-c", command]).output().with_context(|| format!("running {command}"))
    };
    // Packages of others that the guests' package depends on.
    let libvirt = "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends libvirt0";
    let output = inside(libvirt)?;
    ensure!(output.status.success(), "{libvirt}: {}", String::from_utf8_lossy(&output.stderr));
    if !examples.is_empty() {
        let wanted = format!(
            "DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends {examples} && apt-get clean"
        );
        let output = inside(&wanted)?;
        if !output.status.success() {
            println!("warning: {wanted}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let listing = "find /etc /usr /run /var/lib/dpkg/info /var/lib/ivswitch -xdev 2>/dev/null | sort; getent group | sort";
    let before = inside(listing)?.stdout;
    let files: Vec<String> = PACKAGES.iter().map(|(name, _)| format!("/{name}.deb")).collect();
    for (package, file) in packages.iter().zip(&files) {
        run(as_root(Path::new("cp"))?.arg(package).arg(root.join(&file[1..])))?;
    }
    let files = files.join(" ");
    let done = |command: &str| -> Result<String> {
        let output = inside(command)?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "{command}: {text}");
        Ok(text)
    };
    done(&format!("dpkg -i {files}"))?;
    for file in FILES {
        ensure!(root.join(file).exists(), "not installed: {file}");
    }
    let groups = done("getent group ivswitch ivswitch-admin")?;
    ensure!(groups.lines().count() == 2, "groups: {groups}");
    done("ivctl --version && ivctl config schema | grep -q '\"uplink\"'")?;
    done("ivbench --list | grep -q vhost-user")?;
    done("printf '[[network]]\\nname = \"a\"\\nvni = 1\\n' > /etc/ivswitch/ivswitch.toml")?;
    done("ivswitchd --check /etc/ivswitch/ivswitch.toml")?;
    // Neither libvirt nor a switch runs here: both programs are installed, and report that.
    let said = done("ivctl guest list 2>&1; test $? = 5")?;
    ensure!(said.contains("libvirt cannot be reached"), "{said}");
    let said = done("ovs-vsctl add-br private 2>&1; test $? = 1")?;
    ensure!(said.contains("ivswitchd"), "{said}");
    // Installing the same again is an upgrade: the operator's file stays.
    done(&format!("dpkg -i {files} && test -s /etc/ivswitch/ivswitch.toml"))?;
    done(
        "dpkg --remove ivswitch-ovs-compat ivswitch-guests ivswitch && test -s /etc/ivswitch/ivswitch.toml",
    )?;
    done("dpkg --purge ivswitch-ovs-compat ivswitch-guests ivswitch")?;
    let after = inside(listing)?.stdout;
    let (before, after) = (String::from_utf8_lossy(&before), String::from_utf8_lossy(&after));
    // Caches and the package manager's own records of groups (`group-`) are not ours.
    let before: std::collections::BTreeSet<_> = before.lines().collect();
    let ours = |line: &&str| !before.contains(line) && !line.ends_with('-');
    let left: Vec<&str> = after.lines().filter(ours).collect();
    if !left.is_empty() {
        bail!("left after a purge: {}", left.join(", "));
    }
    println!(
        "ok  without systemd running: installed, used, installed again, removed, purged; nothing is left"
    );
    Ok(())
}

fn said(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

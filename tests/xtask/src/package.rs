//! The Debian package, and what installing and purging it does to a Debian that has nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};

use crate::{as_root, cargo, find, install, run, target_dir, workspace};

/// Builds `target/package/ivswitch_*.deb`; gives its path.
pub fn build(debug: bool) -> Result<PathBuf> {
    if find("cargo-deb").is_none() {
        run(cargo().args(["install", "cargo-deb", "--locked", "--version", "^2"]))?;
    }
    let binaries = crate::build(!debug)?;
    let mut ivbench = cargo();
    ivbench.args(["build", "--quiet", "--package", "ivbench"]);
    run(if debug { &mut ivbench } else { ivbench.arg("--release") })?;
    // The name in the package's list of assets, wherever cargo builds.
    let out = workspace().join("target/package");
    let _ = fs::remove_dir_all(&out);
    for page in ["man1", "man5", "man8"] {
        fs::create_dir_all(out.join(page))?;
    }
    run(Command::new(binaries.join("ivctl")).arg("man").arg(out.join("man1")))?;
    let page = said(Command::new(binaries.join("ivctl")).args(["config", "reference", "--man"]))?;
    fs::write(out.join("man5/ivswitch.toml.5"), page)?;
    let page = said(Command::new(binaries.join("ivswitchd")).arg("--man"))?;
    fs::write(out.join("man8/ivswitchd.8"), page)?;
    for (shell, file) in [("bash", "ivctl.bash"), ("zsh", "_ivctl"), ("fish", "ivctl.fish")] {
        let script = said(Command::new(binaries.join("ivctl")).args(["completion", shell]))?;
        fs::write(out.join(file), script)?;
    }
    let mut deb = cargo();
    deb.args(["deb", "--no-build", "--package", "ivswitchd", "--output"]).arg(&out);
    if debug {
        deb.args(["--profile", "dev"]);
    }
    run(&mut deb)?;
    let built = fs::read_dir(&out)?.flatten().map(|entry| entry.path());
    let package = built.into_iter().find(|path| path.extension().is_some_and(|e| e == "deb"));
    let package = package.context("cargo deb made no package")?;
    println!("{}: {} KiB", package.display(), fs::metadata(&package)?.len() / 1024);
    Ok(package)
}

/// What is looked for after installing, and has to be gone after purging.
const FILES: &[&str] = &[
    "usr/sbin/ivswitchd",
    "usr/bin/ivctl",
    "usr/bin/ivbench",
    "usr/lib/systemd/system/ivswitchd.service",
    "usr/lib/sysusers.d/ivswitch.conf",
    "usr/share/man/man8/ivswitchd.8.gz",
    "usr/share/man/man1/ivctl.1.gz",
    "usr/share/man/man5/ivswitch.toml.5.gz",
    "usr/share/bash-completion/completions/ivctl",
    "etc/ivswitch/ivswitch.toml.d",
];

/// Installs the package in a fresh Debian, uses it, purges it: nothing is left.
pub fn test(debug: bool) -> Result<()> {
    install(&[&[("debootstrap", "debootstrap")]])?;
    let package = build(debug)?;
    let root = target_dir()?.join("package-root");
    let remove = || run(as_root(Path::new("rm"))?.args(["-rf", "--one-file-system"]).arg(&root));
    remove()?;
    let outcome = in_root(&root, &package);
    remove()?;
    outcome
}

fn in_root(root: &Path, package: &Path) -> Result<()> {
    let mut debootstrap = as_root(Path::new("debootstrap"))?;
    run(debootstrap.args(["--variant=minbase", "bookworm"]).arg(root))?;
    let inside = |command: &str| -> Result<Output> {
        let mut chroot = as_root(Path::new("chroot"))?;
        chroot.arg(root).args(["sh", "-c", command]).output().with_context(|| format!("running {command}"))
    };
    let listing = "find /etc /usr /run /var/lib/dpkg/info -xdev | sort; getent group | sort";
    let before = inside(listing)?.stdout;
    run(as_root(Path::new("cp"))?.arg(package).arg(root.join("ivswitch.deb")))?;
    let done = |command: &str| -> Result<String> {
        let output = inside(command)?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "{command}: {text}");
        Ok(text)
    };
    done("dpkg -i /ivswitch.deb")?;
    for file in FILES {
        ensure!(root.join(file).exists(), "not installed: {file}");
    }
    let groups = done("getent group ivswitch ivswitch-admin")?;
    ensure!(groups.lines().count() == 2, "groups: {groups}");
    done("ivctl --version && ivctl config schema | grep -q '\"uplink\"'")?;
    done("ivbench --list | grep -q vhost-user")?;
    done("printf '[[network]]\\nname = \"a\"\\nvni = 1\\n' > /etc/ivswitch/ivswitch.toml")?;
    done("ivswitchd --check /etc/ivswitch/ivswitch.toml")?;
    // The same again is an upgrade: the operator's file stays.
    done("dpkg -i /ivswitch.deb && test -s /etc/ivswitch/ivswitch.toml")?;
    done("dpkg --remove ivswitch && test -s /etc/ivswitch/ivswitch.toml")?;
    done("dpkg --purge ivswitch")?;
    let after = inside(listing)?.stdout;
    let (before, after) = (String::from_utf8_lossy(&before), String::from_utf8_lossy(&after));
    // The package manager's own records of groups (`group-`) and caches are not ours.
    let before: std::collections::BTreeSet<_> = before.lines().collect();
    let ours = |line: &&str| !before.contains(line) && !line.ends_with('-');
    let left: Vec<&str> = after.lines().filter(ours).collect();
    if !left.is_empty() {
        bail!("left after a purge: {}", left.join(", "));
    }
    println!("installed, used, installed again, removed, purged: nothing is left");
    Ok(())
}

fn said(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

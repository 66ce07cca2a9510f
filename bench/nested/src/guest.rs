//! Guests under QEMU: started in a namespace, controlled through their agent, ended when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::level::Accel;
use crate::probe::agent;

/// How a guest's NIC is attached.
#[derive(Clone, Debug)]
pub enum Nic {
    /// A TAP of the namespace, which already exists.
    Tap(String),
    /// A TAP for a switch that accepts only finished frames of at most the MTU.
    PlainTap(String),
    /// Shared memory: QEMU listens here.
    VhostUser(PathBuf),
}

/// The MAC address of a guest with this name, such as `g1`, or `i2` in a guest.
#[must_use]
pub fn mac(name: &str) -> String {
    let number: u8 = name.trim_start_matches(char::is_alphabetic).parse().unwrap_or(0);
    format!("52:54:00:{:02x}:00:{number:02x}", name.bytes().next().unwrap_or(0))
}

/// A description of a guest.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The guest's name.
    pub name: String,
    /// The namespace that QEMU runs in.
    pub namespace: String,
    /// How QEMU runs it.
    pub accel: Accel,
    /// How its NIC is attached.
    pub nic: Nic,
    /// The NIC's MAC address.
    pub mac: String,
    /// The NIC's address with its prefix length.
    pub address: String,
    /// Additional kernel arguments.
    pub words: String,
    /// MiB of memory.
    pub memory: u32,
    /// Processors.
    pub cpus: u32,
    /// Kernel and initramfs.
    pub image: PathBuf,
    /// Additional options of QEMU.
    pub options: Vec<String>,
}

/// Kernel arguments, as for images of `ivctl image build`.
const APPEND: &str = "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check tsc=reliable random.trust_cpu=on \
                      init_on_alloc=0 net.ifnames=0";

/// QEMU's arguments for a guest with its files in `dir`. They are the same at every level.
#[must_use]
pub fn arguments(spec: &Spec, dir: &Path) -> Vec<String> {
    let file = |extension: &str| dir.join(format!("{}.{extension}", spec.name)).display().to_string();
    let memory = spec.memory;
    let mut all: Vec<String> = Vec::new();
    let mut add = |text: &str| all.extend(text.split(' ').map(str::to_owned));
    add(&format!("-name {} -M q35,memory-backend=mem0 -accel {}", spec.name, spec.accel.qemu()));
    add(&format!("-cpu {} -smp {} -m {memory}", spec.accel.cpu(), spec.cpus));
    add(&format!("-object memory-backend-memfd,id=mem0,size={memory}M,share=on"));
    add("-nodefaults -no-user-config -display none -no-reboot");
    add(&format!("-kernel {0}/vmlinux -initrd {0}/initramfs", spec.image.display()));
    add(&format!("-serial file:{}", file("console")));
    // Slots are given, so that the NIC does not share its interrupt line.
    add("-device virtio-serial-pci,addr=4");
    add(&format!("-chardev socket,id=agent,path={},server=on,wait=off", file("agent")));
    add("-device virtserialport,chardev=agent,name=ivswitch.agent");
    add(&format!("-qmp unix:{},server=on,wait=off", file("qmp")));
    let nic = format!("virtio-net-pci,netdev=n0,mac={},addr=5,romfile=", spec.mac);
    match &spec.nic {
        Nic::Tap(tap) | Nic::PlainTap(tap) => {
            add(&format!("-netdev tap,id=n0,ifname={tap},script=no,downscript=no,vhost=off"));
            let plain = if matches!(spec.nic, Nic::PlainTap(_)) {
                ",csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,host_tso4=off,host_tso6=off"
            } else {
                ""
            };
            add(&format!("-device {nic}{plain}"));
        }
        Nic::VhostUser(socket) => {
            add(&format!("-chardev socket,id=c0,path={},server=on,wait=off", socket.display()));
            add("-netdev vhost-user,id=n0,chardev=c0");
            // QEMU 7.2 without KVM crashes in vhost_net_start with MSI-X.
            let vectors = if spec.accel == Accel::Tcg { ",vectors=0" } else { "" };
            add(&format!("-device {nic},status=off{vectors}"));
        }
    }
    all.extend(spec.options.iter().cloned());
    all.push("-append".into());
    all.push(format!("{APPEND} iv.name={} iv.ip={} {}", spec.name, spec.address, spec.words));
    all
}

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    name: String,
    child: Option<Child>,
    dir: PathBuf,
}

impl Guest {
    /// Starts the guest, and returns while it boots.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(spec: &Spec, dir: &Path) -> Result<Self> {
        for extension in ["console", "agent", "qmp"] {
            std::fs::remove_file(dir.join(format!("{}.{extension}", spec.name))).ok();
        }
        let log = std::fs::File::create(dir.join(format!("{}.qemu", spec.name)))?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &spec.namespace, "qemu-system-x86_64"]).args(arguments(spec, dir));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("starting QEMU")?;
        Ok(Self { name: spec.name.clone(), child: Some(child), dir: dir.into() })
    }

    /// A guest that another process has started from the same files, and will end.
    #[must_use]
    pub fn elsewhere(spec: &Spec, dir: &Path) -> Self {
        Self { name: spec.name.clone(), child: None, dir: dir.into() }
    }

    /// The last line of output of the guest or of its QEMU.
    #[must_use]
    pub fn last_word(&self) -> String {
        let said = self.text("qemu") + &self.text("console");
        said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("no word").trim().to_owned()
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.name))
    }

    fn text(&self, extension: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.file(extension)).unwrap_or_default()).into_owned()
    }

    /// The process number of QEMU, for its CPU time.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Waits until the guest has booted; gives the time since `since`.
    ///
    /// # Errors
    /// When it ended, or took longer than `bound`.
    pub fn wait_up(&mut self, since: Instant, bound: Duration) -> Result<Duration> {
        loop {
            let console = self.text("console");
            if console.contains("IV-UP") {
                return Ok(since.elapsed());
            }
            if let Some(status) = self.child.as_mut().map_or(Ok(None), Child::try_wait)? {
                bail!("guest {} ended ({status}): {}", self.name, self.last_word());
            }
            ensure!(
                since.elapsed() < bound,
                "guest {} did not boot in {} s: {}",
                self.name,
                bound.as_secs(),
                self.last_word()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs a shell command in the guest.
    ///
    /// # Errors
    /// When the command failed, or took longer than `bound`.
    pub fn run(&self, command: &str, bound: Duration) -> Result<String> {
        agent::ask(&self.file("agent"), command, bound).with_context(|| format!("guest {}", self.name))
    }

    /// Sends a command to QEMU's monitor.
    ///
    /// # Errors
    /// When QEMU refuses the command.
    pub fn qmp(&self, command: &str, arguments: &Value) -> Result<Value> {
        use std::io::{BufRead, BufReader, Write};
        let stream = std::os::unix::net::UnixStream::connect(self.file("qmp"))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut lines = BufReader::new(stream);
        for request in
            [json!({ "execute": "qmp_capabilities" }), json!({ "execute": command, "arguments": arguments })]
        {
            writeln!(lines.get_mut(), "{request}")?;
            loop {
                let mut line = String::new();
                ensure!(lines.read_line(&mut line)? > 0, "the monitor closed");
                let said: Value = serde_json::from_str(&line)?;
                ensure!(said.get("error").is_none(), "{command}: {said}");
                if let Some(answer) = said.get("return") {
                    if request["execute"] == command {
                        return Ok(answer.clone());
                    }
                    break;
                }
            }
        }
        bail!("{command}: no answer")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(nic: Nic, accel: Accel) -> Spec {
        Spec {
            name: "g".into(),
            namespace: "n".into(),
            accel,
            nic,
            mac: "52:54:00:00:00:01".into(),
            address: "10.1.0.1/24".into(),
            words: String::new(),
            memory: 192,
            cpus: 1,
            image: "/image".into(),
            options: Vec::new(),
        }
    }

    /// Each kind of NIC gets the options with which it works and is measured correctly.
    #[test]
    fn nics_are_attached_as_they_have_to_be() {
        let text = |nic, accel| arguments(&spec(nic, accel), Path::new("/d")).join(" ");
        let shared = text(Nic::VhostUser("/s".into()), Accel::Tcg);
        assert!(shared.contains("share=on") && shared.contains("vectors=0"), "{shared}");
        assert!(!text(Nic::VhostUser("/s".into()), Accel::Kvm).contains("vectors"));
        assert!(!text(Nic::Tap("t".into()), Accel::Tcg).contains("csum=off"));
        assert!(text(Nic::PlainTap("t".into()), Accel::Tcg).contains("guest_tso4=off"));
    }
}

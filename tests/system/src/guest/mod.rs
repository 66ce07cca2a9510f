//! Real guests: QEMU without hardware virtualisation, a distribution's kernel, and an initramfs that obeys commands.
//!
//! Booting takes four seconds on an idle machine. The guest's NIC is a vhost-user one, for which QEMU listens at
//! a socket and the switch connects, or a TAP in a namespace.

mod kit;
mod rvm;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::{Lab, Namespace, wait_until};

pub use rvm::{RvmKernel, RvmSpec, rvm_image};

/// How long a guest may take to boot on a busy machine, or a command in it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a guest's NIC is attached.
#[derive(Clone, Copy)]
pub enum Nic<'a> {
    /// vhost-user: the switch connects to this socket. The number is the count of queue pairs.
    VhostUser(&'a Path, u32),
    /// A TAP of the namespace, which is made with this name.
    Tap(&'a str),
}

/// A description of a guest.
#[derive(Clone, Copy)]
pub struct GuestSpec<'a> {
    /// The guest's name.
    pub name: &'a str,
    /// How its NIC is attached.
    pub nic: Nic<'a>,
    /// The NIC's MAC address.
    pub mac: &'a str,
    /// The NIC's IP address and prefix length.
    pub address: &'a str,
    /// Wait for a guest of this name to migrate here, instead of booting.
    pub incoming: bool,
}

/// A running guest, which ends when this is dropped.
pub struct Guest {
    name: String,
    child: Child,
    console: PathBuf,
    agent: PathBuf,
    qmp: PathBuf,
    lines: Option<BufReader<UnixStream>>,
}

impl Guest {
    /// Starts the guest in a namespace, and returns while it boots ([`Guest::wait_up`]).
    #[must_use]
    #[track_caller]
    pub fn start(lab: &Lab, namespace: &Namespace, spec: GuestSpec<'_>) -> Self {
        let kit = kit::get();
        let place = if spec.incoming { "-in" } else { "" };
        let file = |extension: &str| lab.dir().join(format!("{}{place}.{extension}", spec.name));
        let (console, agent, qmp) = (file("console"), file("agent"), file("qmp"));
        let mut command = namespace.command("qemu-system-x86_64");
        command.args([
            "-M",
            "q35,memory-backend=mem0",
            "-accel",
            "tcg,thread=multi",
            // QEMU 7.2 leaves garbage in the flags after cmpxchg16b: with an interrupt there, the guest's kernel
            // panics.
            "-cpu",
            "max,-cx16",
            "-m",
            "192",
        ]);
        command.args(["-object", "memory-backend-memfd,id=mem0,size=192M,share=on"]);
        command.args("-nodefaults -no-user-config -display none -no-reboot".split(' '));
        command.arg("-kernel").arg(&kit.kernel).arg("-initrd").arg(&kit.initrd);
        command.arg("-append").arg(format!(
            "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check tsc=reliable random.trust_cpu=on \
             init_on_alloc=0 net.ifnames=0 ivs.ip={}",
            spec.address
        ));
        command.arg("-serial").arg(format!("file:{}", console.display()));
        for (option, id, path) in [("-serial", "agent", &agent), ("-mon", "qmp", &qmp)] {
            command.arg("-chardev").arg(format!("socket,id={id},path={},server=on,wait=off", path.display()));
            command.arg(option).arg(if id == "qmp" {
                "chardev=qmp,mode=control".into()
            } else {
                format!("chardev:{id}")
            });
        }
        // QEMU 7.2 without KVM crashes in vhost_net_start with MSI-X. Without `status`, the guest does not notice
        // that the switch is away for a moment.
        let mut device = format!("virtio-net-pci,netdev=n0,mac={},status=off", spec.mac);
        match spec.nic {
            Nic::VhostUser(socket, queues) => {
                let path = socket.display();
                command.arg("-chardev").arg(format!("socket,id=c0,path={path},server=on,wait=off"));
                command.arg("-netdev").arg(format!("vhost-user,id=n0,chardev=c0,queues={queues}"));
                device += if queues > 1 { ",vectors=0,mq=on" } else { ",vectors=0" };
            }
            Nic::Tap(tap) => {
                namespace.ip(&format!("tuntap add dev {tap} mode tap vnet_hdr"));
                namespace.ip(&format!("link set {tap} up"));
                command
                    .arg("-netdev")
                    .arg(format!("tap,id=n0,ifname={tap},script=no,downscript=no,vhost=off"));
            }
        }
        command.arg("-device").arg(device);
        if spec.incoming {
            command.arg("-incoming").arg(format!("unix:{}", file("migrate").display()));
        }
        let log = fs::File::create(file("qemu")).expect("a file in our own directory");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        let child = command.spawn().expect("running QEMU");
        Self { name: spec.name.to_owned(), child, console, agent, qmp, lines: None }
    }

    /// Waits until the guest has booted.
    #[track_caller]
    pub fn wait_up(&mut self) {
        let up = wait_until(PATIENCE, || {
            let ended = self.child.try_wait().expect("its state");
            assert!(ended.is_none(), "guest {} ended: {ended:?}\n{}", self.name, self.console());
            ["IVS-UP", "IV-UP"].iter().any(|word| self.console().contains(word))
        });
        assert!(up, "guest {} did not boot:\n{}", self.name, self.console());
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Runs a shell command in the guest and gives its output. Fails the test if the command fails.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        match self.try_run(command) {
            (0, text) => text,
            (code, text) => panic!("guest {}: {command}: exit code {code}\n{text}", self.name),
        }
    }

    /// Runs a shell command in the guest; gives the exit code and the output.
    #[track_caller]
    pub fn try_run(&mut self, command: &str) -> (i32, String) {
        if self.lines.is_none() {
            let stream = UnixStream::connect(&self.agent).expect("the guest's agent");
            stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
            self.lines = Some(BufReader::new(stream));
        }
        let lines = self.lines.as_mut().expect("connected");
        writeln!(lines.get_mut(), "{command}").expect("writing to the guest's agent");
        let mut text = Vec::new();
        let read = lines.read_until(1, &mut text).and_then(|_| {
            let mut code = String::new();
            lines.read_line(&mut code).map(|_| code)
        });
        let code = read.unwrap_or_else(|e| {
            panic!("guest {}: {command}: {e}: {}", self.name, String::from_utf8_lossy(&text))
        });
        text.pop();
        let code = code.trim().parse().expect("an exit code");
        (code, String::from_utf8_lossy(&text).replace('\r', ""))
    }

    /// Pings from the guest; gives the number of answers.
    #[track_caller]
    pub fn ping(&mut self, arguments: &str) -> u32 {
        let (_, text) = self.try_run(&format!("ping {arguments}"));
        let head = text.split(" packets received").next().expect("some text");
        head.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("ping: {text}"))
    }

    /// Waits until the guest reaches an address.
    #[track_caller]
    pub fn reaches(&mut self, address: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.ping(&format!("-c 1 -W 1 {address}")) == 0 {
            assert!(Instant::now() < deadline, "guest {} does not reach {address}", self.name);
        }
        assert!(self.ping(&format!("-c 5 -i 0.1 -W 2 {address}")) >= 4, "{} to {address}", self.name);
    }

    /// Sends a command to QEMU's monitor and gives the answer.
    #[track_caller]
    fn qmp(&self, command: &str, arguments: &Value) -> Value {
        let mut stream = BufReader::new(UnixStream::connect(&self.qmp).expect("QEMU's monitor"));
        stream.get_ref().set_read_timeout(Some(PATIENCE)).expect("a time limit");
        for request in
            [json!({ "execute": "qmp_capabilities" }), json!({ "execute": command, "arguments": arguments })]
        {
            writeln!(stream.get_mut(), "{request}").expect("writing to QEMU's monitor");
        }
        let mut answers = 0;
        loop {
            let mut line = String::new();
            assert!(stream.read_line(&mut line).expect("QEMU's answer") > 0, "QEMU closed its monitor");
            let answer: Value = serde_json::from_str(&line).expect("JSON");
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if let Some(result) = answer.get("return") {
                answers += 1;
                if answers == 2 {
                    return result.clone();
                }
            }
        }
    }

    /// Migrates the running guest to `to`, which waits for it; gives the time for which QEMU stopped the guest.
    #[track_caller]
    pub fn migrate(&mut self, to: &Self) -> Duration {
        let path = to.console.with_extension("migrate");
        let listening = wait_until(PATIENCE, || path.exists());
        assert!(listening, "nobody waits for guest {}", self.name);
        self.qmp("migrate", &json!({ "uri": format!("unix:{}", path.display()) }));
        let mut state = Value::Null;
        let done = wait_until(PATIENCE, || {
            state = self.qmp("query-migrate", &json!({}));
            !["setup", "active", "device"].contains(&state["status"].as_str().unwrap_or("setup"))
        });
        assert!(done && state["status"] == "completed", "guest {} did not migrate: {state}", self.name);
        Duration::from_millis(state["downtime"].as_u64().expect("a time"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let mut said = String::new();
            let log = self.console.with_extension("qemu");
            let _ = fs::File::open(log).and_then(|mut log| log.read_to_string(&mut said));
            eprintln!("--- console of guest {}:\n{}\n{said}", self.name, self.console());
        }
    }
}

//! A test's own libvirt daemon, with real QEMU guests that are emulated in software.
//!
//! The daemon runs in a namespace of the lab, with every directory of libvirt's bound to the lab's own, so it neither
//! sees nor touches the machine's libvirt. `ivctl image build` makes the image of the guests; it is built once and
//! kept in the target directory.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::lab::{Lab, Namespace, wait_until};
use crate::switch::binaries;

/// Programs that have to be installed, and the Debian package of each.
const NEEDED: [(&str, &str); 4] = [
    ("/usr/sbin/libvirtd", "libvirt-daemon-system"),
    ("/usr/bin/virsh", "libvirt-clients"),
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/qemu-img", "qemu-utils"),
];

/// How long a guest may take to boot in software on a busy machine.
pub const BOOT: Duration = Duration::from_secs(60);

/// A running libvirtd.
pub struct Libvirt {
    child: Child,
    dir: PathBuf,
    // The arguments that are needed to start it again.
    namespace: Namespace,
    script: String,
    environment: Vec<(String, String)>,
}

impl Libvirt {
    /// Whether real guests can run here; if not, says why. Setting `IVS_MUST_RUN` makes that a failure.
    #[must_use]
    pub fn possible() -> bool {
        let missing: Vec<_> = NEEDED.iter().filter(|(path, _)| !Path::new(path).exists()).collect();
        if missing.is_empty() {
            return true;
        }
        assert!(std::env::var_os("IVS_MUST_RUN").is_none(), "guests cannot run, missing: {missing:?}");
        eprintln!("skipped: guests cannot run, missing: {missing:?}");
        false
    }

    /// Starts a daemon in a namespace, under a name of its own.
    #[must_use]
    #[track_caller]
    pub fn start(lab: &Lab, namespace: &Namespace, name: &str) -> Self {
        Self::start_with(lab, namespace, name, &[])
    }

    /// As [`start`](Self::start), with the second path of each pair in `binds` mounted in place of the first: the
    /// hosts of a test share one filesystem, and a guest that moves keeps its paths.
    #[must_use]
    #[track_caller]
    pub fn start_apart(lab: &Lab, namespace: &Namespace, name: &str, binds: &[(&Path, &Path)]) -> Self {
        Self::start_with(lab, namespace, name, &[("IVS_BINDS", &bind_script(binds))])
    }

    /// As [`start`](Self::start), with more environment variables.
    #[must_use]
    #[track_caller]
    pub fn start_with(lab: &Lab, namespace: &Namespace, name: &str, environment: &[(&str, &str)]) -> Self {
        let dir = lab.dir().join(format!("lv-{name}"));
        for sub in ["etc/qemu/networks", "etc/storage", "etc/nwfilter", "etc/secrets", "run", "lib", "log"] {
            std::fs::create_dir_all(dir.join(sub)).expect("a directory of ours");
        }
        let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a UUID");
        let write = |file: &str, text: String| std::fs::write(dir.join(file), text).expect("a file of ours");
        // Migration refuses two hosts with the same UUID.
        write(
            "etc/libvirtd.conf",
            format!(
                "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nlisten_tls = 0\nhost_uuid = \"{}\"\n\
                 log_outputs = \"2:file:{}/log/libvirtd.log\"\n",
                uuid.trim(),
                dir.display()
            ),
        );
        let qemu = "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nremember_owner = 0\n\
            security_driver = \"none\"\nsecurity_default_confined = 0\ncgroup_controllers = []\nnamespaces = []\n\
            stdio_handler = \"file\"\n";
        write("etc/qemu.conf", qemu.to_owned());
        // Probing QEMU's capabilities takes eight seconds, so the result is kept next to the guests' image.
        let cache = guest_image().with_extension("cache");
        std::fs::create_dir_all(&cache).expect("a directory of ours");
        let script = format!(
            "set -e; d={}; mount --make-rprivate /; hostname {name}\n\
             mkdir -p /etc/libvirt /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt\n\
             mount --bind $d/etc /etc/libvirt; mount --bind $d/run /run/libvirt; mount --bind $d/lib /var/lib/libvirt\n\
             mount --bind {} /var/cache/libvirt; mount --bind $d/log /var/log/libvirt\n\
             mount -t tmpfs none /sys/fs/cgroup 2>/dev/null || true\n\
             eval \"$IVS_BINDS\"\n\
             exec libvirtd --pid-file $d/run/pid --config $d/etc/libvirtd.conf\n",
            dir.display(),
            cache.display()
        );
        let environment: Vec<_> =
            environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let child = spawn(namespace, &dir, &script, &environment);
        let mut libvirt = Self { child, dir, namespace: namespace.clone(), script, environment };
        libvirt.wait_answering();
        libvirt
    }

    #[track_caller]
    fn wait_answering(&mut self) {
        let up = wait_until(Duration::from_secs(30), || {
            self.child.try_wait().expect("its state").is_some() || self.virsh("version").0 == 0
        });
        assert!(up && self.child.try_wait().expect("its state").is_none(), "libvirtd: {}", self.log());
    }

    /// Sends SIGKILL to the daemon. Its guests keep running.
    pub fn kill(&mut self) {
        self.child.kill().expect("killing a child of ours");
        self.child.wait().expect("it ends");
    }

    /// Starts the daemon again after [`Libvirt::kill`]; it finds its guests.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.child = spawn(&self.namespace, &self.dir, &self.script, &self.environment);
        self.wait_answering();
    }

    /// The daemon's log of a guest: when its QEMU started, and when and why it ended.
    #[must_use]
    pub fn log_of(&self, guest: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("log/qemu/{guest}.log"))).unwrap_or_default()
    }

    /// The daemon's URI, which also works from outside of its namespace.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("qemu:///system?socket={}", self.dir.join("run/libvirt-sock").display())
    }

    /// Runs `virsh` with arguments separated by blanks; gives the exit code and the output.
    pub fn virsh(&self, arguments: &str) -> (i32, String) {
        let mut virsh = Command::new("virsh");
        virsh.args(["-q", "-c", &self.uri()]).args(arguments.split_whitespace()).stdin(Stdio::null());
        let output = virsh.output().expect("running virsh");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap_or(-1), said)
    }

    /// The daemon's log.
    #[must_use]
    pub fn log(&self) -> String {
        let read = |file: &str| std::fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        read("log/stdout") + &read("log/libvirtd.log")
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of libvirtd:\n{}", self.log());
        }
        // The guests are in the lab's namespace, and end with everything else there.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(namespace: &Namespace, dir: &Path, script: &str, environment: &[(String, String)]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log/stdout"));
    let log = log.expect("a log file");
    let mut command = namespace.command("unshare");
    command.args(["-m", "-u", "sh", "-c", script]);
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
    command.spawn().expect("running libvirtd")
}

/// Shell commands that mount the second path of each pair in place of the first, in a mount namespace of their own.
#[must_use]
pub fn bind_script(binds: &[(&Path, &Path)]) -> String {
    let one = |(place, there): &(&Path, &Path)| {
        let (place, there) = (place.display(), there.display());
        format!("mkdir -p {place} {there} && mount --bind {there} {place}; ")
    };
    binds.iter().map(one).collect()
}

/// The image that guests boot, which is built once and kept.
#[track_caller]
pub fn guest_image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let dir = std::env::var_os("IVS_GUEST_IMAGE")
            .map_or_else(|| binaries().parent().expect("TARGET/PROFILE").join("guest-image"), PathBuf::from);
        let mut build = Command::new(binaries().join("ivctl"));
        build.args(["image", "build"]).arg(&dir);
        // The kernel is downloaded once; the initramfs is rebuilt from the sources.
        if dir.join("modules").exists() {
            build.arg("--offline");
        }
        let output = build.output().expect("running ivctl");
        assert!(output.status.success(), "ivctl image build: {}", String::from_utf8_lossy(&output.stderr));
        dir
    })
}

/// The agent in a guest of that image, reached through the socket of its virtio-serial port.
pub struct GuestShell(PathBuf);

impl GuestShell {
    /// The agent at this socket.
    #[must_use]
    pub fn at(socket: &Path) -> Self {
        Self(socket.to_owned())
    }

    /// Runs a command in the guest, which may still be booting: exit code and output.
    #[track_caller]
    pub fn run(&self, command: &str) -> (i32, String) {
        let deadline = Instant::now() + BOOT;
        loop {
            match self.try_run(command) {
                Ok(answer) => return answer,
                Err(e) if Instant::now() > deadline => panic!("{command:?} in the guest: {e}"),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn try_run(&self, command: &str) -> std::io::Result<(i32, String)> {
        let mut stream = UnixStream::connect(&self.0)?;
        stream.set_read_timeout(Some(BOOT))?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let count = stream.read(&mut chunk)?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend_from_slice(&chunk[..count]);
            if let Some(mark) = answer.iter().position(|&b| b == 1)
                && let Some(end) = answer[mark..].iter().position(|&b| b == b'\n')
            {
                let code =
                    String::from_utf8_lossy(&answer[mark + 1..mark + end]).trim().parse().unwrap_or(-1);
                return Ok((code, String::from_utf8_lossy(&answer[..mark]).into_owned()));
            }
        }
    }
}

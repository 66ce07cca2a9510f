//! An rVM that is itself a guest, as rented machines are: the switch runs in it, on its virtio NIC.
//!
//! `ivctl image build` makes the image with the switch inside; it is kept in the target directory. The rVM has one
//! processor: QEMU 7.2 emulates several in threads that do not always see each other's changes of the kernel's
//! code (`Oops: int3` at boot).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::Guest;
use crate::lab::{Lab, Namespace};
use crate::switch::binaries;

/// The Linux kernel that an rVM boots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RvmKernel {
    /// The kernel of Debian's stable release: its virtio driver has native XDP, but no zero-copy.
    Stable,
    /// The kernel of the backports for the next release: its virtio driver has zero-copy where the guest's memory is
    /// behind an IOMMU (`iommu_platform=on`).
    Newest,
}

/// A description of an rVM.
#[derive(Clone, Copy, Debug)]
pub struct RvmSpec<'a> {
    /// The kernel to boot.
    pub kernel: RvmKernel,
    /// The TAP in the namespace that is the other end of the NIC; it is made here.
    pub tap: &'a str,
    /// The NIC's address with its prefix length.
    pub address: &'a str,
    /// Queue pairs of the NIC.
    pub queues: u32,
    /// The TAP in the namespace that is the other end of the second NIC; it is made here.
    pub lan: &'a str,
    /// More options of the device.
    pub options: &'a str,
}

/// The image of such an rVM: vmlinux, initramfs, busybox.
pub fn rvm_image(kernel: RvmKernel) -> &'static Path {
    static IMAGES: [OnceLock<PathBuf>; 2] = [const { OnceLock::new() }; 2];
    IMAGES[kernel as usize].get_or_init(|| {
        let name = if kernel == RvmKernel::Stable { "rvm-image" } else { "rvm-image-newest" };
        let dir = binaries().parent().expect("TARGET/PROFILE").join(name);
        std::fs::create_dir_all(&dir).expect("a directory of ours");
        let mut build = Command::new(binaries().join("ivctl"));
        build.args(["image", "build"]).arg(&dir);
        // The kernel is downloaded once; the initramfs is rebuilt from the sources.
        if dir.join("modules").exists() {
            build.arg("--offline");
        } else if kernel == RvmKernel::Newest {
            build.args(["--kernel", "linux-image-cloud-amd64", "--suite", "trixie-backports"]);
        }
        build.args(["--module", "veth", "--program", "ip", "--program", "ethtool"]);
        for program in ["ivswitchd", "ivctl"] {
            // Debugging information would fill the guest's memory.
            let stripped = dir.join(program);
            let mut strip = Command::new("strip");
            let status = strip.arg("-o").arg(&stripped).arg(binaries().join(program)).status();
            assert!(status.expect("running strip").success(), "strip {program}");
            build.arg("--program").arg(stripped);
        }
        let output = build.output().expect("running ivctl");
        assert!(output.status.success(), "ivctl image build: {}", String::from_utf8_lossy(&output.stderr));
        dir
    })
}

impl Guest {
    /// Starts an rVM whose NICs end in this namespace.
    #[must_use]
    #[track_caller]
    pub fn start_rvm(lab: &Lab, namespace: &Namespace, spec: RvmSpec<'_>) -> Self {
        let image = rvm_image(spec.kernel);
        let file = |extension: &str| lab.dir().join(format!("rvm.{extension}"));
        let (console, agent, qmp) = (file("console"), file("agent"), file("qmp"));
        let RvmSpec { tap, lan, address, queues, options, .. } = spec;
        let many = if queues > 1 { "multi_queue" } else { "" };
        namespace.ip(&format!("tuntap add dev {tap} mode tap vnet_hdr {many}"));
        namespace.ip(&format!("link set {tap} up"));
        namespace.ip(&format!("tuntap add dev {lan} mode tap vnet_hdr"));
        namespace.ip(&format!("link set {lan} up"));
        let mut command = namespace.command("qemu-system-x86_64");
        let mut add = |text: String| {
            command.args(text.split(' '));
        };
        add("-M q35 -accel tcg,thread=multi -cpu max,-cx16 -smp 1 -m 512".into());
        add("-nodefaults -no-user-config -display none -no-reboot".into());
        add(format!("-kernel {0}/vmlinux -initrd {0}/initramfs", image.display()));
        add(format!("-serial file:{}", console.display()));
        add("-device virtio-serial-pci".into());
        add(format!("-chardev socket,id=agent,path={},server=on,wait=off", agent.display()));
        add("-device virtserialport,chardev=agent,name=ivswitch.agent".into());
        add(format!("-qmp unix:{},server=on,wait=off", qmp.display()));
        add(format!("-netdev tap,id=n0,ifname={tap},script=no,downscript=no,vhost=off,queues={queues}"));
        let many = if queues > 1 { format!(",mq=on,vectors={}", 2 * queues + 2) } else { String::new() };
        add(format!(
            "-device virtio-net-pci,netdev=n0,mac=52:54:00:00:00:11,disable-legacy=on{many}{options}"
        ));
        add(format!("-netdev tap,id=n1,ifname={lan},script=no,downscript=no,vhost=off"));
        add("-device virtio-net-pci,netdev=n1,mac=52:54:00:00:00:12,disable-legacy=on".into());
        command.arg("-append").arg(format!(
            "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check tsc=reliable random.trust_cpu=on \
             init_on_alloc=0 net.ifnames=0 iv.name=rvm iv.ip={address}"
        ));
        let log = std::fs::File::create(file("qemu")).expect("a file in our own directory");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        let child = command.spawn().expect("running QEMU");
        Self { name: "rvm".into(), child, console, agent, qmp, lines: None }
    }
}

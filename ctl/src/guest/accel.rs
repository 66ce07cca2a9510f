//! Whether guests can run on this machine's processor. `ivctl host`, `ivctl guest create` and `ivctl doctor` share
//! this check.

use std::path::Path;

use super::Accel;

/// The facts of a machine that the check needs.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Whether guests can use a KVM: `/dev/kvm` exists, or libvirt offers the domain type.
    pub kvm: bool,
    /// Whether the kernel has the module `kvm_pvm`.
    pub pvm: bool,
    /// `/proc/cpuinfo`.
    pub cpuinfo: &'a str,
    /// The architecture, as Rust calls it.
    pub arch: &'a str,
}

/// The directory that exists if the kernel has PVM, a KVM that does without the processor's help.
pub const PVM: &str = "/sys/module/kvm_pvm";

/// Whether this kernel has PVM.
#[must_use]
pub fn has_pvm() -> bool {
    Path::new(PVM).exists()
}

/// How guests run, why, and the remedy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// The kind of processor.
    pub accel: Accel,
    /// The reason.
    pub why: &'static str,
    /// The remedy; empty where nothing needs one.
    pub remedy: &'static str,
}

/// Judges a machine. A KVM without the processor's help (PVM) does not count, because it boots only kernels that were
/// built for it.
#[must_use]
pub fn judge(m: Machine<'_>) -> Judgement {
    let has = |flag: &str| {
        let flags = m.cpuinfo.lines().filter(|line| line.starts_with("flags"));
        flags.take(1).any(|line| line.split_whitespace().any(|word| word == flag))
    };
    let hardware = m.arch != "x86_64" || has("vmx") || has("svm");
    let software = |why, remedy| Judgement { accel: Accel::Tcg, why, remedy };
    let rent = "rent a machine type with nested virtualisation; until then guests run under QEMU's emulation";
    match (m.kvm, m.pvm, hardware) {
        (true, false, true) => Judgement { accel: Accel::Kvm, why: "KVM: nesting is on", remedy: "" },
        (true, true, _) => software(
            "the KVM here is PVM (kvm_pvm), which does without the processor's help and boots only kernels \
             built for it",
            rent,
        ),
        (true, false, false) => software(
            "there is a KVM, but the processor shows neither VT-x nor AMD-V: ordinary kernels do not run on it",
            rent,
        ),
        (false, _, true) => software(
            "the processor has VT-x or AMD-V, but there is no KVM to use",
            "`modprobe kvm_intel` or `modprobe kvm_amd`, and give libvirt's user access to /dev/kvm",
        ),
        (false, _, false) => software("the provider passes neither VT-x nor AMD-V", rent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// N-02: the check finds out whether the provider passes virtualisation through, and names the remedy. PVM does
    /// not count, even if the processor shows the flags.
    #[test]
    fn n02_nesting_is_detected() {
        let with = |flag: &str| format!("processor: 0\nflags\t\t: fpu {flag} sse\n");
        let judge = |kvm, pvm, cpuinfo: &str, arch| judge(Machine { kvm, pvm, cpuinfo, arch });
        assert_eq!(judge(true, false, &with("vmx"), "x86_64").accel, Accel::Kvm);
        assert_eq!(judge(true, false, &with("svm"), "x86_64").accel, Accel::Kvm);
        assert_eq!(judge(true, false, "", "aarch64").accel, Accel::Kvm);
        for flag in ["", "vmx", "svm"] {
            let pvm = judge(true, true, &with(flag), "x86_64");
            assert!(pvm.accel == Accel::Tcg && pvm.why.contains("PVM") && !pvm.remedy.is_empty(), "{pvm:?}");
        }
        let odd = judge(true, false, &with("vmxnet"), "x86_64");
        assert!(odd.accel == Accel::Tcg && odd.why.contains("neither VT-x nor AMD-V"), "{odd:?}");
        assert!(judge(false, false, &with("vmx"), "x86_64").remedy.contains("modprobe"));
        assert!(judge(false, false, &with(""), "x86_64").remedy.contains("rent"));
    }
}

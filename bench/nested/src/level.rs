//! How guests run at a level of nesting, found out and reported honestly.
//!
//! `/dev/kvm` alone proves nothing: a module that virtualises without the processor's help (PVM) offers it too, and
//! boots no ordinary kernel. Without the processor's own virtualisation, guests are emulated here and labelled so.

use std::path::Path;

/// How guests of this machine run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accel {
    /// The processor virtualises.
    Kvm,
    /// QEMU emulates every instruction.
    Tcg,
}

/// The result for this machine, with the reason.
#[derive(Clone, Debug)]
pub struct Found {
    /// How guests run.
    pub accel: Accel,
    /// The reason, for the report.
    pub why: String,
}

impl Accel {
    /// The value for QEMU's command line.
    #[must_use]
    pub const fn qemu(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }

    /// The processor that guests see. Without `cmpxchg16b` where it is emulated: after that instruction QEMU 7.2
    /// leaves half of a pointer in the flags, and a kernel that is interrupted there, in its memory allocator,
    /// panics. That happens once in hours at one level, but within a minute at two, where there are many interrupts
    /// to few instructions.
    #[must_use]
    pub const fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max,-cx16",
        }
    }

    /// The name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        }
    }
}

/// Finds out how guests run on this machine.
#[must_use]
pub fn find() -> Found {
    judge(Path::new("/dev/kvm").exists(), |module| Path::new("/sys/module").join(module).exists())
}

fn judge(device: bool, has_module: impl Fn(&str) -> bool) -> Found {
    let found = |accel, why: &str| Found { accel, why: why.into() };
    if !device {
        return found(Accel::Tcg, "there is no /dev/kvm");
    }
    if has_module("kvm_pvm") {
        return found(
            Accel::Tcg,
            "/dev/kvm is PVM (kvm_pvm), which boots no kernel that was not made for it",
        );
    }
    if has_module("kvm_intel") || has_module("kvm_amd") {
        return found(Accel::Kvm, "/dev/kvm with the processor's virtualisation");
    }
    found(Accel::Tcg, "/dev/kvm is of no module that is known here")
}

/// The levels and how each runs, in words for the report.
#[must_use]
pub fn labels(found: &Found, hypervisor: bool, inner: Option<Accel>) -> Vec<(&'static str, String)> {
    let host = if hypervisor { "itself a virtual machine" } else { "no hypervisor seen" };
    let accel = found.accel.name();
    let inner = match inner {
        Some(inner) => format!("QEMU guest of an L1 guest, {} in {accel}: nested", inner.name()),
        None => "not reached in this run".to_owned(),
    };
    vec![
        ("L0", format!("network namespaces of this machine ({host}), not nested")),
        ("L1", format!("QEMU guest of this machine, {accel}: {}", found.why)),
        ("L2", inner),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_processors_own_virtualisation_is_kvm() {
        assert_eq!(judge(false, |_| true).accel, Accel::Tcg);
        assert_eq!(judge(true, |m| m == "kvm_pvm").accel, Accel::Tcg);
        assert!(judge(true, |m| m == "kvm_pvm").why.contains("PVM"));
        assert_eq!(judge(true, |m| m == "kvm_amd").accel, Accel::Kvm);
        assert_eq!(judge(true, |_| false).accel, Accel::Tcg);
        assert!(judge(true, |m| m != "kvm_amd").why.contains("PVM"), "PVM beside kvm_intel is PVM");
    }

    #[test]
    fn a_level_that_was_not_reached_is_said() {
        let found = judge(false, |_| false);
        assert!(labels(&found, true, None)[2].1.contains("not reached"));
        assert!(labels(&found, true, Some(Accel::Tcg))[2].1.contains("TCG in TCG"));
    }
}

//! `ivctl host`: what this host can carry, and what its guests take of it (N-02, N-10).

use std::fs;

use ctl::cli::{Failure, Table};
use ctl::guest::Accel;
use ctl::guest::quantity::size_text;
use ctl::guest::xml::Element;
use serde_json::json;
use virt::connect::Connect;

use crate::{Here, libvirt};

/// What guests' processors are made by here, and why.
pub fn accel(connection: &Connect) -> Result<(Accel, String), Failure> {
    let what = "the host cannot be looked at";
    let text = connection.get_capabilities().map_err(libvirt::failed(what))?;
    let xml = Element::read(&text).map_err(|e| Failure::new(1, what, e, "please report it"))?;
    let kvm = xml.all("guest/arch/domain").iter().any(|d| d.get("type") == Some("kvm"));
    Ok(judge(kvm, &fs::read_to_string("/proc/cpuinfo").unwrap_or_default(), std::env::consts::ARCH))
}

/// Whether KVM is there to be used. A KVM without the processor's help (PVM) is not: it runs kernels made for it
/// alone.
fn judge(kvm: bool, cpuinfo: &str, arch: &str) -> (Accel, String) {
    let has = |flag: &str| {
        let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
        flags.take(1).any(|line| line.split_whitespace().any(|word| word == flag))
    };
    let hardware = arch != "x86_64" || has("vmx") || has("svm");
    match (kvm, hardware) {
        (true, true) => (Accel::Kvm, "KVM: nesting is on".to_owned()),
        (true, false) => {
            let why = "there is a KVM, but the processor shows neither VT-x nor AMD-V: ordinary kernels do not run on it; \
                       guests run in software";
            (Accel::Tcg, why.to_owned())
        }
        (false, true) => {
            let why = "the processor has VT-x or AMD-V, but libvirt sees no KVM: modprobe kvm_intel or kvm_amd, and \
                       give libvirt's user access to /dev/kvm";
            (Accel::Tcg, why.to_owned())
        }
        (false, false) => {
            let why = "the provider passes neither VT-x nor AMD-V: rent a type with nested virtualisation; guests run \
                       in software until then";
            (Accel::Tcg, why.to_owned())
        }
    }
}

/// Shows it.
pub fn run(here: &Here<'_>) -> Result<u8, Failure> {
    let what = "the host cannot be looked at";
    let connection = libvirt::connect(here.uri)?;
    let node = connection.get_node_info().map_err(libvirt::failed(what))?;
    let free = connection.get_free_memory().unwrap_or(0);
    let (accel, why) = accel(&connection)?;
    let nesting = accel == Accel::Kvm;
    let (mut running, mut defined, mut vcpus, mut memory) = (0, 0, 0, 0);
    for domain in connection.list_all_domains(0).map_err(libvirt::failed(what))? {
        let Ok(info) = domain.get_info() else { continue };
        defined += 1;
        if domain.is_active().unwrap_or(false) {
            running += 1;
            vcpus += info.nr_virt_cpu;
            memory += info.memory * 1024;
        }
    }
    let name = connection.get_hostname().unwrap_or_default();
    let version = |v: u32| format!("{}.{}.{}", v / 1_000_000, v / 1_000 % 1_000, v % 1_000);
    let libvirt_version = connection.get_lib_version().map(version).unwrap_or_default();
    let hypervisor = connection.get_hyp_version().map(version).unwrap_or_default();
    let total = node.memory * 1024;
    if here.printer.is_json() {
        here.printer.json(&json!({
            "name": name, "nesting": nesting, "accel": if nesting { "kvm" } else { "tcg" }, "why": why,
            "libvirt": libvirt_version, "hypervisor": hypervisor, "model": node.model, "cpus": node.cpus,
            "memory": total, "memory_free": free,
            "guests": { "defined": defined, "running": running, "vcpus": vcpus, "memory": memory },
        }))?;
        return Ok(0);
    }
    let mut table = Table::new(&["HOST", ""]);
    let mut line = |key: &str, value: String| table.row([key.to_owned(), value]);
    line("name", name);
    line("nesting", format!("{} ({why})", if nesting { "yes" } else { "no" }));
    line("libvirt", format!("{libvirt_version}, QEMU {hypervisor}"));
    line("processors", format!("{} {}, {vcpus} vCPUs in use", node.cpus, node.model));
    line(
        "memory",
        format!("{}, {} free, {} in use by guests", size_text(total), size_text(free), size_text(memory)),
    );
    line("guests", format!("{running} of {defined} run"));
    here.printer.text(&table.render(here.printer.paint()))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// N-02: whether the provider passes virtualisation through is found out, and said with its remedy.
    #[test]
    fn n02_nesting_is_detected() {
        let with = |flag: &str| format!("processor: 0\nflags\t\t: fpu {flag} sse\n");
        assert_eq!(judge(true, &with("vmx"), "x86_64").0, Accel::Kvm);
        assert_eq!(judge(true, &with("svm"), "x86_64").0, Accel::Kvm);
        assert_eq!(judge(true, "", "aarch64").0, Accel::Kvm);
        let (accel, why) = judge(true, &with("vmxnet"), "x86_64");
        assert!(accel == Accel::Tcg && why.contains("neither VT-x nor AMD-V"), "{why}");
        assert!(judge(false, &with("vmx"), "x86_64").1.contains("modprobe"));
        assert!(judge(false, &with(""), "x86_64").1.contains("rent"));
    }
}

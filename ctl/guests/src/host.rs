//! `ivctl host`: the host's capacity, and the guests' share of it (N-02, N-10).

use std::fs;

use ctl::cli::{Failure, Table};
use ctl::guest::Accel;
use ctl::guest::accel::{self, Judgement};
use ctl::guest::quantity::size_text;
use ctl::guest::xml::Element;
use serde_json::json;
use virt::connect::Connect;

use crate::{Here, libvirt};

/// The kind of processor for guests on this host, and why.
pub fn accel(connection: &Connect) -> Result<(Accel, String), Failure> {
    let what = "the host's state cannot be read";
    let text = connection.get_capabilities().map_err(libvirt::failed(what))?;
    let xml = Element::read(&text).map_err(|e| Failure::new(1, what, e, "please report it"))?;
    let kvm = xml.all("guest/arch/domain").iter().any(|d| d.get("type") == Some("kvm"));
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let machine =
        accel::Machine { kvm, pvm: accel::has_pvm(), cpuinfo: &cpuinfo, arch: std::env::consts::ARCH };
    let Judgement { accel, why, remedy } = accel::judge(machine);
    Ok((accel, if remedy.is_empty() { why.to_owned() } else { format!("{why}; {remedy}") }))
}

/// Shows the host.
pub fn run(here: &Here<'_>) -> Result<u8, Failure> {
    let what = "the host's state cannot be read";
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

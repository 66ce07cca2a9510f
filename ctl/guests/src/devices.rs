//! `ivctl guest resize`, `attach`, `detach`: change a guest that may be running.

use std::time::{Duration, Instant};

use ctl::cli::{DONE_WITH_WARNINGS, Failure};
use ctl::guest::domain::{disk as disk_xml, disks_of, interface as interface_xml, shares_memory};
use ctl::guest::verbs::{DiskWish, NicWish, Resize};
use ctl::guest::xml::Element;
use ctl::guest::{
    Claims, DISKS_MAX, MEMORY_MAX, MEMORY_MIN, NICS_MAX, VCPUS_MAX, check_path, interface_name,
};
use ctl::model::PortKind;
use virt::connect::Connect;
use virt::domain::Domain;
use virt_sys as sys;

use crate::create::{add_ports, disk as plan_disk, nic_and_port, refused, with_mtu};
use crate::switch::{Switch, Undo};
use crate::{Here, libvirt, sockets};

/// How long a guest may take to release a device.
const LET_GO: Duration = Duration::from_secs(20);

/// `ivctl guest resize`. A change that is not possible while the guest runs applies at its next start, with a
/// warning.
pub fn resize(here: &Here<'_>, wish: &Resize) -> Result<u8, Failure> {
    let connection = libvirt::connect(here.uri)?;
    let domain = libvirt::find(&connection, &wish.name)?;
    libvirt::our_claims(&domain, &wish.name)?;
    let what = format!("guest {} is not resized", wish.name);
    let active = libvirt::is_active(&domain)?;
    let mut later = Vec::new();
    let wrong = |why: &str, how: &str| Failure::new(2, &what, why, how);
    if let Some(vcpus) = wish.vcpus {
        if vcpus == 0 || vcpus > VCPUS_MAX {
            return Err(wrong("that many vCPUs are not possible", "write 1 to 255"));
        }
        let config = sys::VIR_DOMAIN_AFFECT_CONFIG;
        let most =
            domain.get_vcpus_flags(config | sys::VIR_DOMAIN_VCPU_MAXIMUM).map_err(libvirt::failed(&what))?;
        if vcpus > most {
            domain
                .set_vcpus_flags(vcpus, config | sys::VIR_DOMAIN_VCPU_MAXIMUM)
                .map_err(libvirt::failed(&what))?;
        }
        domain.set_vcpus_flags(vcpus, config).map_err(libvirt::failed(&what))?;
        if active && let Err(e) = domain.set_vcpus_flags(vcpus, sys::VIR_DOMAIN_AFFECT_LIVE) {
            later.push(format!("{vcpus} vCPUs from its next start on: {}", e.message()));
        }
    }
    if let Some(memory) = wish.memory {
        if !(MEMORY_MIN..=MEMORY_MAX).contains(&memory) {
            return Err(wrong("that much memory is not possible", "write 16M to 4T"));
        }
        let kib = memory / 1024;
        let config = sys::VIR_DOMAIN_AFFECT_CONFIG;
        let xml = libvirt::xml(&domain, true)?;
        let most: u64 = xml.text_of("memory").parse().unwrap_or(0);
        if kib > most {
            domain
                .set_memory_flags(kib, config | sys::VIR_DOMAIN_MEM_MAXIMUM)
                .map_err(libvirt::failed(&what))?;
        }
        domain.set_memory_flags(kib, config).map_err(libvirt::failed(&what))?;
        if active && let Err(e) = domain.set_memory_flags(kib, sys::VIR_DOMAIN_AFFECT_LIVE) {
            later.push(format!("that memory from its next start on: {}", e.message()));
        }
    }
    if let Some(shares) = wish.shares {
        if !(2..=262_144).contains(&shares) {
            return Err(wrong("CPU shares are 2 to 262144", "1024 is the usual weight"));
        }
        define_shares(&connection, &domain, shares, &what)?;
        if active && let Err(e) = set_shares(&domain, shares) {
            later.push(format!("those CPU shares from its next start on: {}", e.message()));
        }
    }
    here.printer.json_if_asked(&serde_json::json!({ "later": later }))?;
    here.printer.warnings(&later);
    Ok(if later.is_empty() { 0 } else { DONE_WITH_WARNINGS })
}

/// Changes the definition itself, because libvirt's own call needs a cgroup, which a definition does not have.
fn define_shares(connection: &Connect, domain: &Domain, shares: u32, what: &str) -> Result<(), Failure> {
    let flags = sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE;
    let text = domain.get_xml_desc(flags).map_err(libvirt::failed(what))?;
    let mut xml = Element::read(&text).map_err(|e| Failure::new(1, what, e, "please report it"))?;
    let at = xml.children.iter().position(|c| c.name == "cputune").unwrap_or_else(|| {
        xml.children.push(Element::new("cputune"));
        xml.children.len() - 1
    });
    let tune = &mut xml.children[at].children;
    tune.retain(|c| c.name != "shares");
    tune.push(Element::new("shares").holding(shares));
    Domain::define_xml(connection, &xml.write()).map(|_| ()).map_err(libvirt::failed(what))
}

/// Changes the running guest.
fn set_shares(domain: &Domain, shares: u32) -> Result<(), virt::error::Error> {
    let mut info = domain.get_scheduler_parameters()?;
    // Send only the values that are set.
    for bandwidth in [&mut info.vcpu_bw, &mut info.emulator_bw, &mut info.global_bw, &mut info.iothread_bw] {
        (bandwidth.period, bandwidth.quota) = (None, None);
    }
    info.cpu_shares = Some(u64::from(shares));
    domain.set_scheduler_parameters_flags(&info, sys::VIR_DOMAIN_AFFECT_LIVE).map(|_| ())
}

/// `ivctl guest attach`.
pub fn attach(
    here: &Here<'_>,
    name: &str,
    nic: Option<&NicWish>,
    disk: Option<&DiskWish>,
) -> Result<u8, Failure> {
    let connection = libvirt::connect(here.uri)?;
    let domain = libvirt::find(&connection, name)?;
    let claims = libvirt::our_claims(&domain, name)?;
    if let Some(wish) = disk {
        attach_disk(&connection, &domain, name, wish)?;
    }
    let Some(wish) = nic else { return Ok(0) };
    let switch = Switch::connect(here.global)?;
    let mut undo = Undo::default();
    match attach_nic(here.uri, &switch, &domain, name, claims, wish, here.global.no_wait, &mut undo) {
        Ok(()) => undo.keep(),
        Err(failure) => return Err(undo.all(failure)),
    }
    Ok(0)
}

/// Uses the same order as the creation: first records the port in the guest's metadata, then creates it.
#[allow(clippy::too_many_arguments, reason = "the two sides, and what is wanted of them")]
fn attach_nic<'a>(
    uri: &str,
    switch: &'a Switch,
    domain: &'a Domain,
    name: &str,
    claims: Claims,
    wish: &NicWish,
    no_wait: bool,
    undo: &mut Undo<'a>,
) -> Result<(), Failure> {
    let what = format!("the NIC is not added to guest {name}");
    if claims.ports.len() >= NICS_MAX {
        return Err(Failure::new(1, what, format!("it has {NICS_MAX} already"), "detach one first"));
    }
    let uuid = domain.get_uuid_string().map_err(libvirt::failed(&what))?;
    let shared_memory = shares_memory(&libvirt::xml(domain, true)?);
    if wish.kind(shared_memory) == PortKind::Vhostuser && !shared_memory {
        let why = "its memory is not shared: it was created without a NIC of that kind";
        return Err(Failure::new(4, what, why, "use kind=packet or kind=afxdp, or create the guest again"));
    }
    let free = |&index: &usize| claims.ports.iter().all(|p| p.name != interface_name(name, &uuid, index));
    let index = (0..=NICS_MAX).find(free).unwrap_or(NICS_MAX);
    let socket = sockets::of(uri, &interface_name(name, &uuid, index));
    let (nic, port) = nic_and_port(name, &uuid, index, wish, shared_memory, socket);
    sockets::prepare([&port]);
    let nic = with_mtu(nic, switch.overlay_mtu()?);
    let mut more = claims.clone();
    more.ports.push(port.clone());
    libvirt::set_claims(domain, &more)?;
    undo.push("a note of the port in its metadata", move || libvirt::set_claims(domain, &claims));
    add_ports(switch, std::slice::from_ref(&port), undo)?;
    let (xml, flags) = (interface_xml(&nic).write(), libvirt::impact(domain)?);
    domain.attach_device_flags(&xml, flags).map_err(libvirt::failed(what))?;
    if flags & sys::VIR_DOMAIN_AFFECT_LIVE != 0 && !no_wait {
        undo.push("the NIC", move || {
            domain.detach_device_flags(&xml, flags).map(|_| ()).map_err(libvirt::failed(""))
        });
        switch.wait_live(&[port.name])?;
    }
    Ok(())
}

/// Attaches a disk to a guest.
pub fn attach_disk(
    connection: &Connect,
    domain: &Domain,
    name: &str,
    wish: &DiskWish,
) -> Result<(), Failure> {
    let what = format!("the disk is not added to guest {name}");
    let there = disks_of(&libvirt::xml(domain, true)?);
    let taken: Vec<String> = there.iter().map(|(target, ..)| target.clone()).collect();
    if taken.len() >= DISKS_MAX {
        return Err(Failure::new(1, what, format!("it has {DISKS_MAX} already"), "detach one first"));
    }
    let disk = plan_disk(connection, wish, &taken)?;
    check_path(&disk.path).map_err(refused(&what))?;
    if there.iter().any(|(_, path, _)| std::path::Path::new(path) == disk.path) {
        return Err(Failure::new(4, what, "it has that disk already", "see `ivctl guest show`"));
    }
    let flags = libvirt::impact(domain)?;
    domain.attach_device_flags(&disk_xml(&disk).write(), flags).map(|_| ()).map_err(libvirt::failed(what))
}

/// `ivctl guest detach`.
pub fn detach(here: &Here<'_>, name: &str, nic: Option<&str>, disk: Option<&str>) -> Result<u8, Failure> {
    let connection = libvirt::connect(here.uri)?;
    let domain = libvirt::find(&connection, name)?;
    let mut claims = libvirt::our_claims(&domain, name)?;
    if let Some(target) = disk {
        detach_disk(&domain, name, &|t, _| t == target, target)?;
    }
    let Some(which) = nic else { return Ok(0) };
    let what = format!("the NIC is not detached from guest {name}");
    let is = |p: &&ctl::model::Port| p.name == which || p.mac.iter().any(|mac| mac.to_string() == which);
    let Some(port) = claims.ports.iter().find(is).cloned() else {
        return Err(Failure::new(3, what, format!("it has no {which}"), "see `ivctl guest show`"));
    };
    let inside = claims.floating.iter().find(|claim| {
        let inside = claim.mapping.inside.as_ref();
        inside.is_some_and(|i| i.network == port.network && port.ip.iter().any(|ip| ip.0.addr == i.address))
    });
    if let Some(claim) = inside {
        let why = format!("floating IP {} is translated to its address", claim.mapping.ip);
        return Err(Failure::new(4, what, why, "delete that first: `ivctl fip del`"));
    }
    let switch = Switch::connect(here.global)?;
    let element = libvirt::xml(&domain, true)?;
    let interfaces = element.all("devices/interface");
    // The interface may be gone already, if an earlier attempt stopped halfway.
    if let Some(interface) = interfaces.iter().find(|e| is_of(&port)(e)) {
        let flags = libvirt::impact(&domain)?;
        domain.detach_device_flags(&interface.write(), flags).map_err(libvirt::failed(&what))?;
    }
    wait_gone(&domain, &what, |xml| xml.all("devices/interface").iter().any(|e| is_of(&port)(e)))?;
    switch.del_port(&port.name)?;
    claims.ports.retain(|p| p.name != port.name);
    libvirt::set_claims(&domain, &claims)?;
    Ok(0)
}

/// Whether an interface belongs to this port. It compares the MAC address, which NICs without a TAP interface have
/// too.
fn is_of(port: &ctl::model::Port) -> impl Fn(&Element) -> bool {
    let macs: Vec<String> = port.mac.iter().map(ToString::to_string).collect();
    move |e| {
        e.first("mac").and_then(|m| m.get("address")).is_some_and(|mac| macs.iter().any(|own| own == mac))
    }
}

/// Detaches a disk from a guest; `is` selects the disk by its name in the guest and its file.
pub fn detach_disk(
    domain: &Domain,
    name: &str,
    is: &dyn Fn(&str, &str) -> bool,
    which: &str,
) -> Result<(), Failure> {
    let what = format!("the disk is not detached from guest {name}");
    let of = |e: &Element| {
        let get =
            |path: &str, key: &str| e.first(path).and_then(|e| e.get(key)).unwrap_or_default().to_owned();
        is(&get("target", "dev"), &get("source", "file"))
    };
    let xml = libvirt::xml(domain, true)?;
    let Some(disk) = xml.all("devices/disk").into_iter().find(|e| of(e)) else {
        return Err(Failure::new(3, what, format!("it has no {which}"), "see `ivctl guest show`"));
    };
    let flags = libvirt::impact(domain)?;
    domain.detach_device_flags(&disk.write(), flags).map_err(libvirt::failed(&what))?;
    wait_gone(domain, &what, |xml| xml.all("devices/disk").into_iter().any(of))
}

/// Waits until the guest has released a device; only then is the device gone.
fn wait_gone(domain: &Domain, what: &str, there: impl Fn(&Element) -> bool) -> Result<(), Failure> {
    let started = Instant::now();
    while libvirt::is_active(domain)? && there(&libvirt::xml(domain, false)?) {
        if started.elapsed() > LET_GO {
            let why = "the guest does not release it";
            return Err(Failure::new(7, what, why, "is its system up? Try again, or stop the guest first"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

//! Creates and deletes guests together with their ports and floating IPs on the switch.
//!
//! The order is the guarantee. Creation starts with the definition, whose metadata lists everything that the guest
//! will have; then come the ports, the floating IPs, and the start of the guest. Deletion ends with the definition.
//! So a command that is stopped halfway, even by SIGKILL or a power cut, leaves a definition that names everything
//! that belongs to it, and `ivctl guest delete` removes everything. A step that fails undoes the steps before it.

use ctl::cli::Failure;
use ctl::guest::domain::{domain, free_target};
use ctl::guest::verbs::{AccelWish, Create, DiskSource, DiskWish, NicWish};
use ctl::guest::{
    Accel, Boot, Claim, Claims, Disk, Format, Guest, Nic, Shared, Wrong, image, interface_name, mac_of,
    with_inside,
};
use ctl::model::{Port, PortKind, PortRole};
use virt::connect::Connect;
use virt::domain::Domain;
use virt_sys as sys;

use crate::switch::{Switch, Undo};
use crate::{Here, host, libvirt, sockets, storage};

/// Turns an error in a request into a failure.
pub fn refused(what: impl Into<String>) -> impl FnOnce(Wrong) -> Failure {
    move |wrong| Failure::new(2, what, wrong.cause, wrong.remedy)
}

/// `ivctl guest create`.
pub fn create(here: &Here<'_>, wish: Create) -> Result<u8, Failure> {
    let connection = libvirt::connect(here.uri)?;
    let mut guest = plan(&connection, here.uri, &wish)?;
    if wish.dry_run {
        here.printer.bytes(format!("{}\n", domain(&guest).write()).as_bytes())?;
        return Ok(0);
    }
    let switch = Switch::connect(here.global)?;
    let mtu = switch.overlay_mtu()?;
    guest.nics = guest.nics.into_iter().map(|nic| with_mtu(nic, mtu)).collect();
    let (guest, xml) = (&guest, domain(&guest).write());
    if Domain::lookup_by_name(&connection, &guest.name).is_ok() {
        let what = format!("guest {} is not created", guest.name);
        return Err(Failure::new(
            4,
            what,
            "there is a guest of that name",
            "use another name, or delete that one first",
        ));
    }
    let mut undo = Undo::default();
    match make(&connection, &switch, guest, &xml, &wish, here.global.no_wait, &mut undo) {
        Ok(()) => undo.keep(),
        Err(failure) => return Err(undo.all(failure)),
    }
    here.printer.json_if_asked(&serde_json::json!({ "name": guest.name, "uuid": guest.uuid }))?;
    Ok(0)
}

/// Carries out the steps, and records each one in `undo`.
fn make<'a>(
    connection: &'a Connect,
    switch: &'a Switch,
    guest: &'a Guest,
    xml: &str,
    wish: &Create,
    no_wait: bool,
    undo: &mut Undo<'a>,
) -> Result<(), Failure> {
    let what = format!("guest {} is not created", guest.name);
    let flags = sys::VIR_DOMAIN_DEFINE_VALIDATE;
    let domain = Domain::define_xml_flags(connection, xml, flags).map_err(libvirt::failed(&what))?;
    {
        let domain = domain.clone();
        undo.push("its definition", move || domain.undefine().map_err(libvirt::failed("")));
    }
    add_ports(switch, &guest.claims.ports, undo)?;
    let mut claims = guest.claims.clone();
    for claim in &mut claims.floating {
        *claim = switch.claim(&claim.mapping)?;
        let taken = claim.clone();
        undo.push(format!("floating IP {}", claim.mapping.ip), move || switch.release(&taken));
    }
    if claims != guest.claims {
        libvirt::set_claims(&domain, &claims)?;
    }
    if wish.autostart {
        domain.set_autostart(true).map_err(libvirt::failed(&what))?;
    }
    if !wish.no_start {
        sockets::prepare(&guest.claims.ports);
        domain.create().map_err(libvirt::failed(format!("guest {} does not start", guest.name)))?;
        {
            let domain = domain.clone();
            undo.push("the running guest", move || domain.destroy().map_err(libvirt::failed("")));
        }
        if !no_wait {
            let names: Vec<String> = guest.claims.ports.iter().map(|p| p.name.clone()).collect();
            switch.wait_live(&names)?;
        }
    }
    Ok(())
}

/// Adds ports, and records in `undo` how to remove them.
pub fn add_ports<'a>(switch: &'a Switch, ports: &[Port], undo: &mut Undo<'a>) -> Result<(), Failure> {
    for port in ports {
        switch.add_port(port)?;
        let name = port.name.clone();
        undo.push(format!("port {name}"), move || switch.del_port(&name));
    }
    Ok(())
}

/// The requested guest, checked.
fn plan(connection: &Connect, uri: &str, wish: &Create) -> Result<Guest, Failure> {
    let what = format!("guest {} is not created", wish.name);
    let uuid = match &wish.uuid {
        Some(uuid) => uuid.to_ascii_lowercase(),
        None => std::fs::read_to_string("/proc/sys/kernel/random/uuid")
            .map(|uuid| uuid.trim().to_owned())
            .map_err(|e| Failure::new(1, &what, format!("no random UUID: {e}"), "give one with --uuid"))?,
    };
    let accel = match wish.accel {
        AccelWish::Kvm => Accel::Kvm,
        AccelWish::Tcg => Accel::Tcg,
        AccelWish::Auto => host::accel(connection)?.0,
    };
    let boot = match (&wish.image, &wish.kernel) {
        (Some(dir), _) => Boot::Kernel {
            kernel: dir.join(image::KERNEL),
            initrd: Some(dir.join(image::INITRAMFS)),
            append: format!("{} {}", image::APPEND, own_words(wish)),
        },
        (None, Some(kernel)) => {
            Boot::Kernel { kernel: kernel.clone(), initrd: wish.initrd.clone(), append: wish.append.clone() }
        }
        (None, None) => Boot::Disk,
    };
    let (mut nics, mut ports) = (Vec::new(), Vec::new());
    for (index, nic) in wish.nic.iter().enumerate() {
        let socket = sockets::of(uri, &interface_name(&wish.name, &uuid, index));
        let (nic, port) = nic_and_port(&wish.name, &uuid, index, nic, true, socket);
        nics.push(nic);
        ports.push(port);
    }
    let mut floating = Vec::new();
    for mapping in &wish.floating {
        let mapping = with_inside(mapping.clone(), &ports).map_err(refused(&what))?;
        floating.push(Claim { mapping, borrowed: false });
    }
    let mut disks: Vec<Disk> = Vec::new();
    for wish in &wish.disk {
        let taken: Vec<String> = disks.iter().map(|d| d.target.clone()).collect();
        disks.push(disk(connection, wish, &taken)?);
    }
    let guest = Guest {
        name: wish.name.clone(),
        uuid,
        vcpus: wish.vcpus.0,
        vcpus_max: wish.vcpus.1,
        shares: wish.shares,
        memory: wish.memory.0,
        memory_max: wish.memory.1,
        accel,
        boot,
        disks,
        shared_memory: nics.iter().any(|nic| nic.shared.is_some()),
        nics,
        claims: Claims { ports, floating },
        channels: wish.channel.clone(),
    };
    guest.check().map_err(refused(&what))?;
    Ok(guest)
}

/// Kernel arguments that tell a guest from `ivctl image build` about itself. The arguments of --append come last and
/// win.
fn own_words(wish: &Create) -> String {
    let mut words = vec![format!("iv.name={}", wish.name)];
    if wish.append != "console=ttyS0" {
        words.push(wish.append.clone());
    }
    words.join(" ")
}

/// Builds NIC number `index` of a guest, and its port with its binding. `socket` is given for a NIC in shared memory
/// whose socket is not in the switch's default place.
pub fn nic_and_port(
    guest: &str,
    uuid: &str,
    index: usize,
    wish: &NicWish,
    shared_memory: bool,
    socket: Option<String>,
) -> (Nic, Port) {
    let interface = interface_name(guest, uuid, index);
    let mac = wish.mac.unwrap_or_else(|| mac_of(uuid, index));
    let kind = wish.kind(shared_memory);
    let mut port = Port::new(&interface, &wish.network);
    port.role = PortRole::Guest;
    port.mac = vec![mac];
    port.ip = wish.ip.clone();
    port.kind = kind;
    let mut shared = None;
    if kind == PortKind::Vhostuser {
        port.socket = socket;
        port.queues = wish.queues.unwrap_or(1);
        shared = Some(Shared { socket: port.attached_to(), queues: port.queues });
    } else {
        port.interface = Some(interface.clone());
    }
    let offloads = kind != PortKind::Afxdp;
    (Nic { interface, mac, model: wish.model.clone(), mtu: wish.mtu, offloads, shared }, port)
}

/// Sets the NIC's MTU to the tunnel's capacity, unless one was given. Only virtio can tell the guest.
pub fn with_mtu(mut nic: Nic, overlay: Option<u16>) -> Nic {
    if nic.model == "virtio" {
        nic.mtu = nic.mtu.or(overlay);
    }
    nic
}

/// Builds the requested disk, under the first free name.
pub fn disk(connection: &Connect, wish: &DiskWish, taken: &[String]) -> Result<Disk, Failure> {
    let (path, known) = match &wish.source {
        DiskSource::Path(path) => (path.clone(), Format::of(path)),
        DiskSource::Volume(pool, name) => storage::path_and_format(connection, pool, name)?,
    };
    let Some(target) = free_target(taken) else {
        return Err(Failure::new(
            1,
            "the disk is not added",
            "the guest has no free disk name",
            "detach another first",
        ));
    };
    Ok(Disk { path, format: wish.format.unwrap_or(known), target, readonly: wish.readonly })
}

/// `ivctl guest delete`.
pub fn delete(here: &Here<'_>, name: &str, force: bool, if_exists: bool) -> Result<u8, Failure> {
    let connection = libvirt::connect(here.uri)?;
    let domain = match libvirt::find(&connection, name) {
        Err(e) if e.code == 3 && if_exists => return Ok(0),
        other => other?,
    };
    let claims = libvirt::our_claims(&domain, name)?;
    let what = format!("guest {name} is not deleted");
    if libvirt::is_active(&domain)? && !force {
        return Err(Failure::new(4, what, "it runs", "stop it first, or delete it with --force"));
    }
    // Before anything changes, check that the switch can be reached.
    let switch = Switch::connect(here.global)?;
    if libvirt::is_active(&domain)? {
        domain.destroy().map_err(libvirt::failed(&what))?;
    }
    for claim in &claims.floating {
        switch.release(claim)?;
    }
    for port in &claims.ports {
        switch.del_port(&port.name)?;
    }
    let flags = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
    domain.undefine_flags(flags).map_err(libvirt::failed(what))?;
    Ok(0)
}

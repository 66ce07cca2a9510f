//! `ivctl guest`: the verbs that need no file of their own.

use std::time::{Duration, Instant};

use ctl::cli::{DONE_WITH_WARNINGS, Failure, Table};
use ctl::guest::domain::disks_of;
use ctl::guest::quantity::size_text;
use ctl::guest::verbs::GuestVerb;
use serde::Serialize;
use virt::domain::Domain;
use virt_sys as sys;

use crate::switch::{Switch, addresses, floating_text};
use crate::{Here, console, create, demo, devices, libvirt, migrate, policy, schedule, snapshot, sockets};

/// How often a guest that shuts down is polled.
const INTERVAL: Duration = Duration::from_millis(100);

/// Runs a verb.
pub fn run(here: &Here<'_>, verb: GuestVerb) -> Result<u8, Failure> {
    match verb {
        GuestVerb::List => list(here, None),
        GuestVerb::Show { name, xml: false } => list(here, Some(&name)),
        GuestVerb::Show { name, xml: true } => {
            let connection = libvirt::connect(here.uri)?;
            let xml = libvirt::xml(&libvirt::find(&connection, &name)?, false)?.write();
            here.printer.bytes(format!("{xml}\n").as_bytes())?;
            Ok(0)
        }
        GuestVerb::Create(wish) => create::create(here, wish),
        GuestVerb::Start { name } => start(here, &name),
        GuestVerb::Stop { name } => stop(here, &name),
        GuestVerb::Reboot { name, force } => {
            let connection = libvirt::connect(here.uri)?;
            let domain = libvirt::find(&connection, &name)?;
            let what = format!("guest {name} is not rebooted");
            let done = if force {
                domain.reset().map(|_| ())
            } else {
                domain.reboot(sys::VIR_DOMAIN_REBOOT_DEFAULT)
            };
            done.map(|()| 0).map_err(libvirt::failed(what))
        }
        GuestVerb::Destroy { name } => {
            let connection = libvirt::connect(here.uri)?;
            let domain = libvirt::find(&connection, &name)?;
            if libvirt::is_active(&domain)? {
                domain.destroy().map_err(libvirt::failed(format!("guest {name} is not switched off")))?;
            }
            Ok(0)
        }
        GuestVerb::Delete { name, force, if_exists } => create::delete(here, &name, force, if_exists),
        GuestVerb::Demo(wish) => demo::run(here, &wish),
        GuestVerb::Console { name } => console::run(here, &name),
        GuestVerb::Resize(wish) => devices::resize(here, &wish),
        GuestVerb::Attach { name, nic, disk } => devices::attach(here, &name, nic.as_ref(), disk.as_ref()),
        GuestVerb::Detach { name, nic, disk } => {
            devices::detach(here, &name, nic.as_deref(), disk.as_deref())
        }
        GuestVerb::Snapshot { name, snapshot: None, .. } => snapshot::list(here, &name),
        GuestVerb::Snapshot { name, snapshot: Some(snapshot), delete } => {
            snapshot::take(here, &name, &snapshot, delete)
        }
        GuestVerb::Revert { name, snapshot } => snapshot::revert(here, &name, &snapshot),
        GuestVerb::Quarantine { name } => policy::quarantine(here, &name, true),
        GuestVerb::Release { name } => policy::quarantine(here, &name, false),
        // Without `to`, mirroring ends.
        GuestVerb::Mirror { name, to, off: _ } => policy::mirror(here, &name, to.as_deref()),
        GuestVerb::Migrate(wish) => migrate::run(here, &wish),
        GuestVerb::Schedule { verb } => schedule::run(here, verb),
    }
}

/// A guest, as `ivctl -j guest list` shows it.
#[derive(Serialize)]
struct GuestRow {
    name: String,
    uuid: String,
    state: &'static str,
    vcpus: u32,
    memory: u64,
    memory_max: u64,
    cpu_time_ns: u64,
    autostart: bool,
    /// Whether ivctl created the guest.
    ours: bool,
    ports: Vec<PortOfGuest>,
    floating: Vec<String>,
    disks: Vec<DiskOfGuest>,
    snapshots: Vec<String>,
}

#[derive(Serialize)]
struct PortOfGuest {
    name: String,
    network: String,
    mac: String,
    ip: Vec<String>,
    /// The port's state on the switch; empty if the switch cannot be reached.
    state: String,
}

#[derive(Serialize)]
struct DiskOfGuest {
    target: String,
    path: String,
    format: String,
}

fn list(here: &Here<'_>, only: Option<&str>) -> Result<u8, Failure> {
    let connection = libvirt::connect(here.uri)?;
    let domains = match only {
        Some(name) => vec![libvirt::find(&connection, name)?],
        None => connection.list_all_domains(0).map_err(libvirt::failed("guests cannot be listed"))?,
    };
    let mut warnings = Vec::new();
    let ports = match Switch::connect(here.global).and_then(|switch| switch.ports()) {
        Ok(ports) => ports,
        Err(_) => {
            warnings.push("the switch cannot be reached, so the state of ports is not shown".to_owned());
            Vec::new()
        }
    };
    let state_of =
        |name: &str| ports.iter().find(|p| p.ifname == name).map_or("", |p| p.state.as_str()).to_owned();
    let mut rows = Vec::new();
    for domain in &domains {
        match row(domain, &state_of) {
            Ok(row) => rows.push(row),
            // The guest may have gone since the list was read.
            Err(e) if e.code == 3 && only.is_none() => {}
            Err(e) => return Err(e),
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    here.printer.rows(&rows, table)?;
    here.printer.warnings(&warnings);
    Ok(if warnings.is_empty() { 0 } else { DONE_WITH_WARNINGS })
}

fn row(domain: &Domain, state_of: &dyn Fn(&str) -> String) -> Result<GuestRow, Failure> {
    let what = "a guest's state cannot be read";
    let info = domain.get_info().map_err(libvirt::failed(what))?;
    let xml = libvirt::xml(domain, true)?;
    let claims = ctl::guest::domain::claims(&xml).unwrap_or_default();
    let snapshots = domain.list_all_snapshots(0).unwrap_or_default();
    Ok(GuestRow {
        name: domain.get_name().map_err(libvirt::failed(what))?,
        uuid: domain.get_uuid_string().map_err(libvirt::failed(what))?,
        state: state(info.state),
        vcpus: info.nr_virt_cpu,
        memory: info.memory * 1024,
        memory_max: info.max_mem * 1024,
        cpu_time_ns: info.cpu_time,
        autostart: domain.get_autostart().unwrap_or_default(),
        ours: claims.is_some(),
        ports: claims.iter().flat_map(|c| &c.ports).map(|p| port_row(p, state_of)).collect(),
        floating: claims.iter().flat_map(|c| &c.floating).map(floating_text).collect(),
        disks: disks_of(&xml)
            .into_iter()
            .map(|(target, path, format)| DiskOfGuest { target, path, format })
            .collect(),
        snapshots: snapshots.iter().filter_map(|s| s.get_name().ok()).collect(),
    })
}

fn port_row(port: &ctl::model::Port, state_of: &dyn Fn(&str) -> String) -> PortOfGuest {
    PortOfGuest {
        name: port.name.clone(),
        network: port.network.clone(),
        mac: port.mac.first().map(ToString::to_string).unwrap_or_default(),
        ip: addresses(port),
        state: state_of(&port.name),
    }
}

fn table(rows: &[GuestRow]) -> Table {
    let heads = ["GUEST", "STATE", ">VCPUS", ">MEMORY", "PORTS", "FLOATING", "DISKS", "SNAPSHOTS"];
    let mut table = Table::new(&heads);
    for r in rows {
        let ports = r.ports.iter().map(|p| {
            let mut words = vec![p.name.clone(), p.network.clone()];
            words.extend(p.ip.iter().cloned());
            words.push(p.state.clone());
            words.retain(|w| !w.is_empty());
            words.join(" ")
        });
        table.row([
            r.name.clone(),
            r.state.to_owned(),
            r.vcpus.to_string(),
            size_text(r.memory),
            ports.collect::<Vec<_>>().join(", "),
            r.floating.join(", "),
            r.disks.iter().map(|d| format!("{} {}", d.target, d.path)).collect::<Vec<_>>().join(", "),
            r.snapshots.join(", "),
        ]);
    }
    table
}

/// The name of a guest's state.
pub fn state(state: sys::virDomainState) -> &'static str {
    match state {
        sys::VIR_DOMAIN_RUNNING => "running",
        sys::VIR_DOMAIN_BLOCKED => "blocked",
        sys::VIR_DOMAIN_PAUSED => "paused",
        sys::VIR_DOMAIN_SHUTDOWN => "stopping",
        sys::VIR_DOMAIN_SHUTOFF => "off",
        sys::VIR_DOMAIN_CRASHED => "crashed",
        sys::VIR_DOMAIN_PMSUSPENDED => "suspended",
        _ => "unknown",
    }
}

/// Starts a guest, and waits for its ports. The guest keeps running if its ports do not come up: they may only be
/// waiting for the switch.
fn start(here: &Here<'_>, name: &str) -> Result<u8, Failure> {
    let connection = libvirt::connect(here.uri)?;
    let domain = libvirt::find(&connection, name)?;
    let ports = libvirt::claims_of(&domain)?.unwrap_or_default().ports;
    if !libvirt::is_active(&domain)? {
        sockets::prepare(&ports);
        domain.create().map_err(libvirt::failed(format!("guest {name} does not start")))?;
    }
    let ports: Vec<String> = ports.into_iter().map(|p| p.name).collect();
    if !ports.is_empty() && !here.global.no_wait {
        Switch::connect(here.global)?.wait_live(&ports)?;
    }
    Ok(0)
}

/// The shortest wait for a guest that shuts down: longer than one call of a daemon may take.
const SHUTDOWN_S: f64 = 60.0;

/// Asks a guest to stop, and repeats that each second, because a guest that is still booting misses the first
/// request.
fn stop(here: &Here<'_>, name: &str) -> Result<u8, Failure> {
    let connection = libvirt::connect(here.uri)?;
    let domain = libvirt::find(&connection, name)?;
    let what = format!("guest {name} is not stopped");
    let started = Instant::now();
    let mut asked = None;
    while libvirt::is_active(&domain)? {
        if asked.is_none_or(|at: Instant| at.elapsed() > Duration::from_secs(1)) {
            // The guest may have stopped since its state was read.
            if let Err(e) = domain.shutdown()
                && libvirt::is_active(&domain)?
            {
                return Err(libvirt::failed(what)(e));
            }
            asked = Some(Instant::now());
        }
        if here.global.no_wait {
            return Ok(0);
        }
        if started.elapsed().as_secs_f64() > here.global.timeout.max(SHUTDOWN_S) {
            let how = "wait longer with --timeout, or switch it off: `ivctl guest destroy`";
            return Err(Failure::new(7, what, "it was asked to shut down and still runs", how));
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(0)
}

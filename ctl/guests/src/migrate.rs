//! `ivctl guest migrate`: a guest moves together with its ports, bindings and floating IPs.
//!
//! The ports are created on the other host before QEMU starts there: they wait for their interfaces, and are live
//! before the guest runs. The guest's first frame (QEMU's RARP) tells every switch its new place. The floating IPs
//! move after the guest. If the other host can have them earlier, it gets them before the move; a failure then leaves
//! everything in its old place.

use std::time::Instant;

use ctl::cli::{DONE_WITH_WARNINGS, Failure};
use ctl::guest::verbs::Migrate;
use ctl::guest::{Claim, Claims};
use ctl::model::Floating;
use serde_json::json;
use virt::domain::MigrateParameters;
use virt_sys as sys;

use crate::create::add_ports;
use crate::switch::{Switch, Undo};
use crate::{Here, libvirt};

/// Moves a guest.
pub fn run(here: &Here<'_>, wish: &Migrate) -> Result<u8, Failure> {
    let name = &wish.name;
    let what = format!("guest {name} is not moved");
    let source = libvirt::connect(here.uri)?;
    let domain = libvirt::find(&source, name)?;
    let claims = libvirt::our_claims(&domain, name)?;
    if !libvirt::is_active(&domain)? {
        return Err(Failure::new(
            4,
            what,
            "it does not run",
            "start it first; only running guests are moved",
        ));
    }
    let target = libvirt::connect(&wish.to)?;
    let (here_switch, there_switch) =
        (Switch::connect(here.global)?, Switch::at(&wish.to_socket, here.global.timeout)?);
    let (name_here, name_there) = (here_switch.name()?, there_switch.name()?);
    if name_here == name_there {
        let how = "give --to-socket the other host's switch";
        return Err(Failure::new(2, what, "both sockets belong to the same switch", how));
    }
    // A guest in quarantine stays in quarantine. A mirror target is a port of this host, and does not move.
    let (mut ports, rows) = (claims.ports.clone(), here_switch.ports()?);
    let mut unmirrored = Vec::new();
    for port in &mut ports {
        if let Some(row) = rows.iter().find(|row| row.ifname == port.name) {
            port.quarantine = row.quarantine;
            unmirrored.extend(
                row.mirror.iter().map(|to| format!("port {} is no longer mirrored to {to}", port.name)),
            );
        }
    }
    let mut undo = Undo::default();
    if let Err(failure) = add_ports(&there_switch, &ports, &mut undo) {
        return Err(undo.all(failure));
    }
    // If one of the two hosts is the gateway, the other host may have the floating IP before it has the guest:
    // incoming packets are forwarded to the guest's present place, and the guest's own packets go out directly from
    // its new place.
    let mut early = Vec::new();
    for claim in &claims.floating {
        let gateway = &claim.mapping.gateway;
        if *gateway != name_here && *gateway != name_there {
            continue;
        }
        match there_switch.claim(&as_seen_from(&name_there, claim)) {
            Ok(taken) => {
                early.push(taken.clone());
                let there_switch = &there_switch;
                undo.push(format!("floating IP {} there", claim.mapping.ip), move || {
                    there_switch.release(&taken)
                });
            }
            Err(failure) => return Err(undo.all(failure)),
        }
    }
    let mut flags = sys::VIR_MIGRATE_LIVE | sys::VIR_MIGRATE_PERSIST_DEST | sys::VIR_MIGRATE_UNDEFINE_SOURCE;
    for (asked, flag) in [
        (wish.storage, sys::VIR_MIGRATE_NON_SHARED_DISK),
        (wish.r#unsafe, sys::VIR_MIGRATE_UNSAFE),
        (wish.postcopy, sys::VIR_MIGRATE_POSTCOPY),
    ] {
        flags |= if asked { flag } else { 0 };
    }
    let parameters = MigrateParameters {
        uri: wish.migrate_uri.clone(),
        disks_uri: wish.disks_uri.clone(),
        ..parameters()
    };
    let started = Instant::now();
    let moved = match domain.migrate3(&target, parameters, flags) {
        Ok(moved) => moved,
        Err(e) => {
            let storage = e.message().contains("shared storage") || e.message().contains("cache=none");
            let failure = libvirt::failed(&what)(e);
            let hint = "add --storage if the hosts share no storage for its disks, or --unsafe if libvirt \
                        just cannot tell";
            return Err(undo.all(if storage { failure.noting(hint) } else { failure }));
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    // The guest now runs on the other host. From here on there is no way back, so attempt every remaining step.
    undo.keep();
    let mut left = Vec::new();
    let mut keep = Claims { ports: claims.ports.clone(), floating: Vec::new() };
    for claim in &claims.floating {
        // The gateway keeps the mapping, without an owner; on other rVMs the mapping goes with the guest.
        let borrowed = claim.borrowed || claim.mapping.gateway == name_here;
        if here_switch.release(&Claim { mapping: claim.mapping.clone(), borrowed }).is_err() {
            left.push(format!("floating IP {} here", claim.mapping.ip));
        }
        let taken = early.iter().find(|taken| same(taken, claim)).cloned();
        match taken.map_or_else(|| there_switch.claim(&as_seen_from(&name_there, claim)), Ok) {
            Ok(claim) => keep.floating.push(claim),
            Err(e) => left.push(format!("floating IP {} there ({})", claim.mapping.ip, e.code)),
        }
    }
    for port in &claims.ports {
        if here_switch.del_port(&port.name).is_err() {
            left.push(format!("port {} here", port.name));
        }
    }
    if keep != claims && libvirt::set_claims(&moved, &keep).is_err() {
        left.push("its metadata".to_owned());
    }
    let ports: Vec<String> = claims.ports.iter().map(|p| p.name.clone()).collect();
    there_switch.wait_live(&ports)?;
    if !left.is_empty() {
        let how = "finish it with `ivctl fip` and `ivctl port` on both hosts";
        return Err(Failure::new(
            1,
            format!("guest {name} is moved, but not completely"),
            left.join(", "),
            how,
        ));
    }
    here.printer.json_if_asked(&json!({ "name": name, "to": wish.to, "seconds": seconds }))?;
    here.printer.warnings(&unmirrored);
    Ok(if unmirrored.is_empty() { 0 } else { DONE_WITH_WARNINGS })
}

/// A floating IP's mapping as the switch with this name needs it. Only the gateway knows the provider's address.
fn as_seen_from(switch: &str, claim: &Claim) -> Floating {
    let mut mapping = claim.mapping.clone();
    if mapping.gateway != switch {
        mapping.reality = None;
    }
    mapping
}

/// Whether both claims are for the same floating IP. Several claims may share one by port.
fn same(one: &Claim, other: &Claim) -> bool {
    let key = |claim: &Claim| (claim.mapping.ip, claim.mapping.network.clone(), claim.mapping.only.clone());
    key(one) == key(other)
}

fn parameters() -> MigrateParameters {
    MigrateParameters {
        auto_converge_increment: None,
        auto_converge_initial: None,
        bandwidth: None,
        bandwidth_postcopy: None,
        compression: None,
        compression_mt_dthreads: None,
        compression_mt_level: None,
        compression_mt_threads: None,
        compression_xbzrle_cache: None,
        compression_zlib_level: None,
        compression_zstd_level: None,
        dest_name: None,
        dest_xml: None,
        disks_port: None,
        disks_uri: None,
        graphics_uri: None,
        listen_address: None,
        migrate_disks: Vec::new(),
        parallel_connections: None,
        persist_xml: None,
        tls_destination: None,
        uri: None,
    }
}

//! `ivctl guest quarantine`, `release` and `mirror`: do for a whole guest what `ivctl port` does for one port.
//!
//! Either all ports of the guest change or none: if one cannot be changed, the previous ones are restored. A missing
//! port cannot be cut off, but then the guest is not cut off as a whole either, so the command fails.

use ctl::api::PortRow;
use ctl::cli::Failure;
use serde_json::{Value, json};

use crate::switch::{Switch, Undo};
use crate::{Here, libvirt};

/// Puts a guest in quarantine, or releases it.
pub fn quarantine(here: &Here<'_>, name: &str, cut: bool) -> Result<u8, Failure> {
    let value = |cut: bool| if cut { json!(true) } else { Value::Null };
    let done = if cut { "in quarantine" } else { "released" };
    change(here, name, done, "quarantine", value(cut), |row| value(row.quarantine))
}

/// Mirrors a guest's frames to a port, or ends that.
pub fn mirror(here: &Here<'_>, name: &str, to: Option<&str>) -> Result<u8, Failure> {
    let done = if to.is_some() { "mirrored" } else { "left unmirrored" };
    change(here, name, done, "mirror", json!(to), |row| json!(row.mirror))
}

/// Sets a key of every port of a guest.
fn change(
    here: &Here<'_>,
    name: &str,
    done: &str,
    key: &str,
    value: Value,
    was: impl Fn(&PortRow) -> Value,
) -> Result<u8, Failure> {
    let connection = libvirt::connect(here.uri)?;
    let claims = libvirt::our_claims(&libvirt::find(&connection, name)?, name)?;
    let what = format!("guest {name} is not {done}");
    if claims.ports.is_empty() {
        return Err(Failure::new(4, what, "it has no NIC on the switch", "see `ivctl guest show`"));
    }
    let switch = Switch::connect(here.global)?;
    let rows = switch.ports()?;
    let mut undo = Undo::default();
    for port in &claims.ports {
        let Some(row) = rows.iter().find(|row| row.ifname == port.name) else {
            let why = format!("its port {} is not on this switch", port.name);
            let how = "is --socket that of the guest's host? see `ivctl port list`";
            return Err(undo.all(Failure::new(3, what, why, how)));
        };
        let (before, switch) = (was(row), &switch);
        undo.push(format!("{key} of port {}", port.name), move || switch.set_port(&port.name, key, before));
        if let Err(failure) = switch.set_port(&port.name, key, value.clone()) {
            return Err(undo.all(failure));
        }
    }
    undo.keep();
    let ports: Vec<&str> = claims.ports.iter().map(|port| port.name.as_str()).collect();
    here.printer.json_if_asked(&json!({ "name": name, "ports": ports }))?;
    Ok(0)
}

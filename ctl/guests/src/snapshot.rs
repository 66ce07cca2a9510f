//! `ivctl guest snapshot`, `revert`: libvirt's internal snapshots, in the guest's qcow2 disks.

use ctl::cli::{Failure, Table};
use ctl::guest::check_name;
use ctl::guest::domain::disks_of;
use ctl::guest::xml::Element;
use virt::domain_snapshot::DomainSnapshot;

use crate::create::refused;
use crate::{Here, libvirt};

/// Lists the snapshots of a guest.
pub fn list(here: &Here<'_>, name: &str) -> Result<u8, Failure> {
    let connection = libvirt::connect(here.uri)?;
    let domain = libvirt::find(&connection, name)?;
    let what = format!("the snapshots of guest {name} cannot be listed");
    let mut rows = Vec::new();
    for snapshot in domain.list_all_snapshots(0).map_err(libvirt::failed(&what))? {
        let text = snapshot.get_xml_desc(0).map_err(libvirt::failed(&what))?;
        let xml = Element::read(&text).map_err(|e| Failure::new(1, &what, e, "please report it"))?;
        let made: u64 = xml.text_of("creationTime").parse().unwrap_or(0);
        let made = std::time::UNIX_EPOCH + std::time::Duration::from_secs(made);
        rows.push(serde_json::json!({
            "name": xml.text_of("name"),
            "made": ctl::guest::quantity::moment_text(made),
            "state": xml.text_of("state"),
        }));
    }
    here.printer.rows(&rows, |rows| {
        let mut table = Table::new(&["SNAPSHOT", "MADE", "STATE"]);
        let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        for r in rows {
            table.row([text(r, "name"), text(r, "made"), text(r, "state")]);
        }
        table
    })?;
    Ok(0)
}

/// Creates or deletes a snapshot.
pub fn take(here: &Here<'_>, name: &str, snapshot: &str, delete: bool) -> Result<u8, Failure> {
    let connection = libvirt::connect(here.uri)?;
    let domain = libvirt::find(&connection, name)?;
    libvirt::our_claims(&domain, name)?;
    let doing = if delete { "deleted" } else { "made" };
    let what = format!("snapshot {snapshot} of guest {name} is not {doing}");
    check_name(snapshot).map_err(refused(&what))?;
    if delete {
        let found = DomainSnapshot::lookup_by_name(&domain, snapshot, 0).map_err(libvirt::failed(&what))?;
        return found.delete(0).map(|()| 0).map_err(libvirt::failed(what));
    }
    if DomainSnapshot::lookup_by_name(&domain, snapshot, 0).is_ok() {
        return Err(Failure::new(
            4,
            what,
            "there is a snapshot of that name",
            "use another name, or add --delete first",
        ));
    }
    let disks = disks_of(&libvirt::xml(&domain, true)?);
    if !disks.iter().any(|(_, _, format)| format == "qcow2") {
        let how = "give it one: `ivctl volume create`, then `ivctl volume attach`";
        return Err(Failure::new(1, what, "it has no qcow2 disk that could hold its memory", how));
    }
    let xml = Element::new("domainsnapshot").child(Element::new("name").holding(snapshot)).write();
    DomainSnapshot::create_xml(&domain, &xml, 0).map(|_| 0).map_err(libvirt::failed(what))
}

/// Reverts a guest to a snapshot. The guest keeps its present ports and floating IPs on the switch: they are not part
/// of a snapshot.
pub fn revert(here: &Here<'_>, name: &str, snapshot: &str) -> Result<u8, Failure> {
    let connection = libvirt::connect(here.uri)?;
    let domain = libvirt::find(&connection, name)?;
    let claims = libvirt::our_claims(&domain, name)?;
    let what = format!("guest {name} is not reverted to {snapshot}");
    let found = DomainSnapshot::lookup_by_name(&domain, snapshot, 0).map_err(libvirt::failed(&what))?;
    // The snapshot's metadata is as old as the snapshot. Restoring it would lose ports that were added or removed
    // since.
    let then = found.get_xml_desc(0).map_err(libvirt::failed(&what))?;
    let then = Element::read(&then).map_err(|e| Failure::new(1, &what, e, "please report it"))?;
    let domain_then = then.first("domain").cloned().unwrap_or_default();
    if ctl::guest::domain::claims(&domain_then).ok().flatten().is_some_and(|c| c.ports != claims.ports) {
        let why = "its NICs have changed since then, so the switch's ports would no longer fit";
        return Err(Failure::new(4, what, why, "attach or detach NICs until they are as they were then"));
    }
    found.revert(0).map_err(libvirt::failed(what))?;
    libvirt::set_claims(&domain, &claims)?;
    Ok(0)
}

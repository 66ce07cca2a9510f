//! Closes an uplink where nftables is missing: tc filters, which stay when the daemon is gone.
//!
//! They follow the same rules as steering, including the kernel's own flows, which a filter at the egress
//! continues to note. They are attached to one interface, and cannot exist before it: at boot there is a
//! moment without them, as when the interface is made again while the daemon is away. The kernel's tables of
//! both live as long as the filters.

use std::fs;

use ctl::io::{ClosePlan, SteerPlan, SteerReality};
use engine::wire::mac::MacAddr;

use super::rules::SSH;
use crate::ports::afxdp::{SteerTable, load_closed};
use crate::ports::own;

/// Closes the uplink's interface.
///
/// # Errors
/// The interface does not exist, or the kernel refuses.
pub fn close(plan: &ClosePlan) -> Result<(), String> {
    let interface = &plan.interface;
    let mac = mac_of(interface).ok_or_else(|| format!("there is no interface {interface} yet"))?;
    let (program, mut maps) = load_closed().map_err(|error| error.to_string())?;
    let mut table = SteerTable::lasting();
    table
        .replace(&mut maps, &steering(plan), mac, interface)
        .map_err(|error| format!("{error}; name fewer ports in `only` and `except`"))?;
    let (_, unknown) = table.own().state();
    if !unknown.is_empty() {
        // If we closed it anyway, the rVM's own connections would break.
        return Err(unknown.to_owned());
    }
    own::close(own::CLOSED, interface, &program)
        .map_err(|error| format!("no filter on {interface}: {error}; the kernel needs CONFIG_NET_CLS_BPF"))
}

/// Opens every interface again.
pub fn open() {
    match own::interfaces() {
        Ok(names) => names.iter().for_each(|name| own::remove_closed(name)),
        Err(error) => tracing::warn!("filters of a process before are not found: {error}"),
    }
}

/// The plan in the terms of steering: SSH stays with the kernel, even if `except` does not name it.
fn steering(plan: &ClosePlan) -> SteerPlan {
    let (vtep, port) = plan.tunnel;
    let with_ssh = |reality: &SteerReality| SteerReality {
        except: reality.except.iter().copied().chain([SSH]).collect(),
        ..reality.clone()
    };
    SteerPlan {
        tunnel: vtep.map(|vtep| (vtep, port)),
        vnis: None,
        reality: plan.reality.iter().map(with_ssh).collect(),
    }
}

fn mac_of(interface: &str) -> Option<MacAddr> {
    if interface.is_empty() || interface.contains('/') {
        return None;
    }
    let text = fs::read_to_string(format!("/sys/class/net/{interface}/address")).ok()?;
    let mut mac = [0; 6];
    for (byte, part) in mac.iter_mut().zip(text.trim().split(':')) {
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    Some(MacAddr(mac))
}

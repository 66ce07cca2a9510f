//! The client of the switch: gives ports and floating IPs to a guest, and takes them back.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use ctl::api::{Edited, FloatingRow, PortRow, Rows};
use ctl::cli::{Client, Failure, Global};
use ctl::guest::Claim;
use ctl::model::{Floating, Port};
use serde_json::{Value, json};

/// How often the state of a port is polled.
const INTERVAL: Duration = Duration::from_millis(50);

/// A switch's daemon.
pub struct Switch {
    client: RefCell<Client>,
    timeout: f64,
}

impl Switch {
    /// Connects to the daemon of this host.
    pub fn connect(global: &Global) -> Result<Self, Failure> {
        Self::at(&global.socket, global.timeout)
    }

    /// Connects to the daemon at this socket.
    pub fn at(socket: &Path, timeout: f64) -> Result<Self, Failure> {
        // A guest's port cannot be live before the guest runs, so edits do not wait; this program waits later.
        Ok(Self { client: RefCell::new(Client::connect(socket, timeout, true)?), timeout })
    }

    fn edit(&self, method: &str, params: Value) -> Result<(), Failure> {
        self.client.borrow_mut().call::<Edited>(method, params).map(|_| ())
    }

    /// The name of this rVM.
    pub fn name(&self) -> Result<String, Failure> {
        let version: ctl::api::Version = self.client.borrow_mut().call("version", json!({}))?;
        Ok(version.name)
    }

    /// The largest packet that the tunnel carries, if there is a tunnel.
    pub fn overlay_mtu(&self) -> Result<Option<u16>, Failure> {
        let status: ctl::api::Status = self.client.borrow_mut().call("status", json!({}))?;
        Ok(status.vtep.map(|_| status.overlay_mtu))
    }

    /// The switch's ports.
    pub fn ports(&self) -> Result<Vec<PortRow>, Failure> {
        Ok(self.client.borrow_mut().call::<Rows<PortRow>>("port.list", json!({}))?.rows)
    }

    /// The switch's floating IPs.
    pub fn floating(&self) -> Result<Vec<FloatingRow>, Failure> {
        Ok(self.client.borrow_mut().call::<Rows<FloatingRow>>("floating.list", json!({}))?.rows)
    }

    /// Adds a port with its binding. The port then waits for its interface.
    pub fn add_port(&self, port: &Port) -> Result<(), Failure> {
        self.edit("port.add", json!({ "object": port }))
    }

    /// Sets a key of a port; null restores the default.
    pub fn set_port(&self, name: &str, key: &str, value: Value) -> Result<(), Failure> {
        self.edit("port.set", json!({ "name": name, "set": { key: value } }))
    }

    /// Adds a network whose gateway is the switch, with addresses by DHCP.
    pub fn add_network(&self, name: &str, vni: u32, prefix: &str, gateway: &str) -> Result<(), Failure> {
        let object = json!({ "name": name, "vni": vni, "gateway": [gateway], "dhcp": [prefix] });
        self.edit("network.add", json!({ "object": object }))
    }

    /// Removes a network.
    pub fn del_network(&self, name: &str) -> Result<(), Failure> {
        self.edit("network.del", json!({ "name": name, "if_exists": true }))
    }

    /// Removes a port. The port may be gone already.
    pub fn del_port(&self, name: &str) -> Result<(), Failure> {
        self.edit("port.del", json!({ "name": name, "if_exists": true }))
    }

    /// Gives a floating IP to an owner: adds a mapping, or uses an existing mapping without an owner. Returns the
    /// claim that `release` takes back.
    pub fn claim(&self, mapping: &Floating) -> Result<Claim, Failure> {
        let rows = self.floating()?;
        let ports = sorted(&mapping.only);
        let there = rows
            .iter()
            .find(|r| r.ip == mapping.ip && r.network == mapping.network && sorted(&r.only) == ports);
        match there {
            None => {
                self.edit("floating.add", json!({ "object": mapping }))?;
                Ok(Claim { mapping: mapping.clone(), borrowed: false })
            }
            Some(row) if row.inside.is_none() && row.gateway == mapping.gateway => {
                let mut which = which(mapping);
                which["set"] = json!({ "inside": mapping.inside });
                self.edit("floating.set", which)?;
                Ok(Claim { mapping: mapping.clone(), borrowed: true })
            }
            Some(row) => {
                let what = format!("floating IP {} on {} is taken", mapping.ip, mapping.network);
                let why = match &row.inside {
                    Some(inside) => format!("it belongs to {} on {}", inside.address, inside.network),
                    None => format!("its gateway is {}, not {}", row.gateway, mapping.gateway),
                };
                Err(Failure::new(4, what, why, "release it first with `ivctl fip set` or `ivctl fip del`"))
            }
        }
    }

    /// Takes a floating IP from its owner. The mapping may be gone already.
    pub fn release(&self, claim: &Claim) -> Result<(), Failure> {
        let mut which = which(&claim.mapping);
        if claim.borrowed {
            which["set"] = json!({ "inside": null });
            return match self.edit("floating.set", which) {
                Err(e) if e.code == 3 => Ok(()),
                other => other,
            };
        }
        which["if_exists"] = json!(true);
        self.edit("floating.del", which)
    }

    /// Waits until these ports forward, or will forward with their guest's first frame.
    pub fn wait_live(&self, names: &[String]) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs_f64(self.timeout);
        loop {
            let rows = self.ports()?;
            let mut wanted = names.iter().map(|name| (name, rows.iter().find(|row| row.ifname == *name)));
            let Some((name, row)) = wanted.find(|(_, row)| !row.is_some_and(is_up)) else {
                return Ok(());
            };
            let (state, why) = row.map_or(("gone", ""), |row| (row.state.as_str(), row.why.as_str()));
            if matches!(state, "disabled" | "gone") || Instant::now() > deadline {
                let code = if state == "failed" { 1 } else { 7 };
                let what = format!("port {name} does not forward");
                let how = "`ivctl port list` and the switch's log say more; is libvirt in the switch's network namespace?";
                return Err(Failure::new(code, what, format!("it is {state}: {why}"), how));
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

/// Whether a port forwards, or will. A port in shared memory that is connected to its QEMU forwards when the guest's
/// driver is ready; the time that a guest takes to boot does not matter here.
fn is_up(row: &PortRow) -> bool {
    // A port in quarantine is so on purpose.
    matches!(row.state.as_str(), "live" | "quarantined")
        || (row.state == "ready" && !row.why.starts_with("waiting for QEMU"))
}

fn which(mapping: &Floating) -> Value {
    let mut which = json!({ "ip": mapping.ip, "network": mapping.network });
    if !mapping.only.is_empty() {
        which["only"] = json!(mapping.only);
    }
    which
}

fn sorted(ports: &[ctl::model::Ports]) -> Vec<ctl::model::Ports> {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports
}

/// The addresses that a guest is bound to, for people.
pub fn addresses(port: &Port) -> Vec<String> {
    port.ip.iter().map(ToString::to_string).collect()
}

/// A floating IP for people.
pub fn floating_text(claim: &Claim) -> String {
    let inside: Option<IpAddr> = claim.mapping.inside.as_ref().map(|i| i.address);
    inside.map_or(claim.mapping.ip.to_string(), |inside| format!("{} -> {inside}", claim.mapping.ip))
}

/// The steps so far, and how to undo them.
///
/// Every step that changes libvirt or the switch first records its opposite here. If a later step fails,
/// [`Undo::all`] undoes all steps; [`Undo::keep`] drops the record when everything went well.
#[derive(Default)]
pub struct Undo<'a> {
    steps: Vec<(String, Step<'a>)>,
}

type Step<'a> = Box<dyn FnOnce() -> Result<(), Failure> + 'a>;

impl<'a> Undo<'a> {
    /// Records the opposite of the next step. It must also work if the step was not carried out.
    pub fn push(&mut self, what: impl Into<String>, step: impl FnOnce() -> Result<(), Failure> + 'a) {
        self.steps.push((what.into(), Box::new(step)));
    }

    /// Keeps all changes.
    pub fn keep(mut self) {
        self.steps.clear();
    }

    /// Undoes everything, last step first; the failure names the steps that could not be undone.
    pub fn all(self, mut failure: Failure) -> Failure {
        for (what, step) in self.steps.into_iter().rev() {
            if step().is_err() {
                failure = failure.noting(&format!("and {what} is left behind: it could not be removed"));
            }
        }
        failure
    }
}

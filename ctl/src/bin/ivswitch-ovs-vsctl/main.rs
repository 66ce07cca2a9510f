//! `ivswitch-ovs-vsctl`: answers libvirt's calls of `ovs-vsctl` on behalf of the Inception Switch.
//!
//! libvirt runs `ovs-vsctl` for `<virtualport type='openvswitch'/>`, and for the statistics of vhost-user NICs. If
//! this program is in libvirtd's `PATH` under that name (never together with a real Open vSwitch), such guests work
//! unchanged: a bridge is the network with its name, and the guest's interface becomes a guest port with the MAC
//! address that libvirt names. The program supports the calls of libvirt and os-vif: ports, VLANs, MTU requests,
//! policing and `linux-htb` limits become settings of the port. Everything else is refused with an error that names
//! it; no setting is accepted without effect.
//!
//! Data that the switch has no place for (external IDs, migration data, QoS rows) is kept in small files next to the
//! control socket; a port works without its file.

mod columns;
mod commands;
mod parse;
mod ports;
mod rates;
mod rows;
mod store;

use std::path::PathBuf;
use std::process::ExitCode;

use ctl::cli::Client;

fn main() -> ExitCode {
    let words: Vec<String> = match std::env::args_os().skip(1).map(std::ffi::OsString::into_string).collect()
    {
        Ok(words) => words,
        Err(_) => return fail("an argument is not UTF-8"),
    };
    let request = match parse::request(&words) {
        Ok(parse::Asked::Commands(request)) => request,
        Ok(parse::Asked::Version) => return say(VERSION),
        Ok(parse::Asked::Help) => return say(HELP),
        Err(why) => return fail(&why),
    };
    let socket =
        std::env::var_os("IVS_SOCKET").map_or_else(|| PathBuf::from(ctl::api::SOCKET), PathBuf::from);
    let store = store::Store::beside(&socket);
    let run = || -> Result<String, String> {
        // The interface comes up only after libvirt has our answer, so do not wait for it.
        let mut client = Client::connect(&socket, request.timeout, true).map_err(|e| e.to_string())?;
        commands::run(&request, &mut client, &store)
    };
    match run() {
        Ok(text) => say(&text),
        // OVS also answers this by the exit code alone.
        Err(why) if why == commands::NO_SUCH_BRIDGE => ExitCode::from(2),
        Err(why) => fail(&why),
    }
}

fn say(text: &str) -> ExitCode {
    use std::io::Write as _;
    // A reader that went away is not an error of this program.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

const VERSION: &str = concat!("ovs-vsctl (Inception Switch) ", env!("CARGO_PKG_VERSION"), "\n");

const HELP: &str = "\
ovs-vsctl: the calls of libvirt and os-vif to Open vSwitch, carried out by the Inception Switch
usage: ovs-vsctl [OPTIONS] COMMAND [ARG...] [-- [OPTIONS] COMMAND [ARG...]]...

A bridge is the network with its name: `ivctl network add BRIDGE --vni VNI`
  add-br BRIDGE, del-br BRIDGE, br-exists BRIDGE, list-br, br-to-vlan BRIDGE, br-to-parent BRIDGE
  br-get-external-id BRIDGE [KEY], br-set-external-id BRIDGE KEY [VALUE]
  add-port BRIDGE PORT [COLUMN=VALUE]..., del-port [BRIDGE] PORT, list-ports BRIDGE, list-ifaces BRIDGE
  port-to-br PORT, iface-to-br PORT, show, init
  set, get, clear, remove, list, find, create, destroy: tables Bridge, Port, Interface, QoS, Queue
Columns with an effect:
  Port: tag, trunks, vlan_mode, qos (linux-htb: other_config:max-rate, burst)
  Interface: mtu_request, ingress_policing_rate, ingress_policing_burst, ingress_policing_kpkts_rate,
             type (system, internal, dpdkvhostuserclient), options:vhost-server-path
  all: external_ids, which are stored
Options: --timeout=SECONDS --may-exist --if-exists --id=@NAME --columns=COLUMN,... --format=list|json
         --data=bare|json|string --no-headings --oneline --version --help
";

/// Prints an error in the style of ovs-vsctl.
fn fail(why: &str) -> ExitCode {
    eprintln!("ovs-vsctl: {why}");
    ExitCode::FAILURE
}

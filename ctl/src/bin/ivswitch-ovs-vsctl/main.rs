//! `ivswitch-ovs-vsctl`: answers what libvirt asks `ovs-vsctl`, from the Inception Switch.
//!
//! libvirt runs `ovs-vsctl` for `<virtualport type='openvswitch'/>`, and for the statistics of vhost-user NICs. Put
//! this program into libvirtd's `PATH` under that name (never beside a real Open vSwitch) and such guests work
//! unchanged: a bridge is the network of its name, and the guest's interface becomes a guest port with
//! the MAC that libvirt says is attached to it. It knows what libvirt says and no more; anything else is an error.
//!
//! What the switch has no place for (external IDs, migration data, QoS rows) is kept in small files beside the control
//! socket; a port without a file is still a port.

mod commands;
mod parse;
mod store;

use std::path::PathBuf;
use std::process::ExitCode;

use ctl::cli::Client;

fn main() -> ExitCode {
    let words: Vec<String> = match std::env::args_os().skip(1).map(std::ffi::OsString::into_string).collect()
    {
        Ok(words) => words,
        Err(_) => return fail("an argument is no UTF-8"),
    };
    let request = match parse::request(&words) {
        Ok(request) => request,
        Err(why) => return fail(&why),
    };
    let socket =
        std::env::var_os("IVS_SOCKET").map_or_else(|| PathBuf::from(ctl::api::SOCKET), PathBuf::from);
    let store = store::Store::beside(&socket);
    let run = || -> Result<String, String> {
        // The interface is up only after libvirt has our answer, so nothing is waited for.
        let mut client = Client::connect(&socket, request.timeout, true).map_err(|e| e.to_string())?;
        commands::run(&request, &mut client, &store)
    };
    match run() {
        Ok(text) => {
            use std::io::Write as _;
            // A reader that went away is no failure of ours.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(why) => fail(&why),
    }
}

/// As ovs-vsctl says it.
fn fail(why: &str) -> ExitCode {
    eprintln!("ovs-vsctl: {why}");
    ExitCode::FAILURE
}

//! Shell completion. The shell's script runs this program, which asks the daemon for the names of networks, ports,
//! peers and floating IPs. Without a daemon, only the program's own words are completed.

use std::path::PathBuf;

use clap::{Arg, Command};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::Shells;
use ctl::api::{self, Status};
use ctl::model;
use serde_json::json;

use crate::client::Client;
use crate::output::Failure;

/// The environment variable in which the script names its shell.
const VAR: &str = "IVCTL_COMPLETE";

/// How many seconds the shell waits for the daemon.
const PATIENCE: f64 = 1.0;

/// The source of the words for an argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Names {
    Networks,
    Ports,
    Peers,
    /// The possible sources of a frame: ports and peers.
    Sources,
    /// Peers and this rVM itself.
    Gateways,
    Floating,
    /// The keys of an object that `--unset` accepts.
    Keys(&'static str),
}

/// The words for argument `id` of `ivctl NOUN VERB`; `verb` is empty for a noun without verbs.
fn names(noun: &str, verb: &str, id: &str) -> Option<Names> {
    Some(match (noun, verb, id) {
        // The name of a new object cannot be completed.
        (_, "add", "name" | "ip") => return None,
        ("network", _, "name") | (_, _, "network" | "networks") => Names::Networks,
        ("port", _, "name") | ("port", "mirror", "to") | ("fdb" | "drops", _, "port") => Names::Ports,
        ("capture", _, "port") => Names::Ports,
        ("trace", _, "from") => Names::Sources,
        ("peer", _, "name") | (_, _, "peer" | "via") => Names::Peers,
        ("fip", _, "gateway") => Names::Gateways,
        ("fip", _, "ip") => Names::Floating,
        ("network", _, "unset") => Names::Keys("network"),
        ("port", _, "unset") => Names::Keys("port"),
        ("peer", _, "unset") => Names::Keys("peer"),
        ("fip", _, "unset") => Names::Keys("floating"),
        _ => return None,
    })
}

impl Names {
    fn of(self, s: &Status) -> Vec<String> {
        let ports = || s.ports.iter().map(|p| p.ifname.clone());
        let peers = || s.peers.iter().map(|p| p.name.clone());
        match self {
            Self::Networks => s.networks.iter().map(|n| n.name.clone()).collect(),
            Self::Ports => ports().collect(),
            Self::Sources => ports().chain(peers()).collect(),
            Self::Peers => peers().collect(),
            Self::Gateways => peers().chain([s.name.clone()]).collect(),
            Self::Floating => {
                let mut all: Vec<String> = s.floating.iter().map(|f| f.ip.to_string()).collect();
                all.dedup();
                all
            }
            Self::Keys(noun) => model::key_names(noun).map(str::to_owned).collect(),
        }
    }

    fn candidates(self) -> Vec<CompletionCandidate> {
        let socket = std::env::var_os("IVS_SOCKET").map_or_else(|| PathBuf::from(api::SOCKET), PathBuf::from);
        let asked = Client::connect(&socket, PATIENCE, false)
            .and_then(|mut client| client.call::<Status>("status", json!({})));
        asked
            .map(|status| self.of(&status))
            .unwrap_or_default()
            .into_iter()
            .map(CompletionCandidate::new)
            .collect()
    }
}

/// Adds completion of names to the arguments of the command line.
pub fn with_names(command: Command) -> Command {
    command.mut_subcommands(|noun| {
        let name = noun.get_name().to_owned();
        let known = |arg: Arg, verb: &str| match names(&name, verb, arg.get_id().as_str()) {
            Some(names) => arg.add(ArgValueCandidates::new(move || names.candidates())),
            None => arg,
        };
        noun.mut_args(|arg| known(arg, "")).mut_subcommands(|verb| {
            let called = verb.get_name().to_owned();
            verb.mut_args(|arg| known(arg, &called))
        })
    })
}

/// If a shell's script asks, answers it and ends the program.
pub fn answer(command: fn() -> Command) {
    CompleteEnv::with_factory(move || with_names(command())).var(VAR).complete();
}

/// Generates the script for a shell.
///
/// # Errors
/// The script cannot be generated.
pub fn script(shell: clap_complete::Shell) -> Result<Vec<u8>, Failure> {
    let shells = Shells::builtins();
    let name = shell.to_string();
    let mut script = Vec::new();
    if let Some(shell) = shells.completer(&name) {
        shell.write_registration(VAR, "ivctl", "ivctl", "ivctl", &mut script)?;
    }
    if shell == clap_complete::Shell::Zsh {
        // The shell loads the script at the first completion, and expects an answer to that one too.
        script.extend_from_slice(
            b"if [[ $funcstack[1] = _ivctl ]]; then _clap_dynamic_completer_ivctl \"$@\"; fi\n",
        );
    }
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cli;
    use clap::CommandFactory as _;

    /// Every argument that names an object of the configuration is completed, in every command.
    #[test]
    fn arguments_that_name_something_are_completed() {
        let command = with_names(Cli::command());
        let of = |noun: &str, verb: Option<&str>, id: &str| {
            let noun = command.find_subcommand(noun).unwrap();
            let command = verb.map_or(noun, |verb| noun.find_subcommand(verb).unwrap());
            let arg =
                command.get_arguments().find(|a| a.get_id() == id).unwrap_or_else(|| panic!("{noun} {id}"));
            arg.get::<ArgValueCandidates>().is_some()
        };
        for (noun, verb, id) in [
            ("network", Some("show"), "name"),
            ("network", Some("set"), "unset"),
            ("port", Some("show"), "name"),
            ("port", Some("add"), "network"),
            ("port", Some("set"), "name"),
            ("port", Some("quarantine"), "name"),
            ("port", Some("mirror"), "to"),
            ("peer", Some("del"), "name"),
            ("peer", Some("set"), "via"),
            ("peer", Some("add"), "networks"),
            ("fip", Some("show"), "ip"),
            ("fip", Some("set"), "gateway"),
            ("route", Some("add"), "via"),
            ("fdb", Some("flush"), "peer"),
            ("fdb", Some("list"), "port"),
            ("neigh", Some("list"), "network"),
            ("drops", None, "port"),
            ("trace", None, "from"),
            ("capture", None, "port"),
        ] {
            assert!(of(noun, verb, id), "{noun} {verb:?} {id}");
        }
        for (noun, verb, id) in
            [("port", Some("add"), "name"), ("fip", Some("add"), "ip"), ("network", Some("add"), "gateway")]
        {
            assert!(!of(noun, verb, id), "{noun} {verb:?} {id}");
        }
    }

    #[test]
    fn the_words_are_the_daemons() {
        let status = crate::tests::status();
        assert_eq!(Names::Networks.of(&status), ["private", "public"]);
        assert_eq!(Names::Ports.of(&status), ["uplink", "eth1", "g1"]);
        assert_eq!(Names::Gateways.of(&status), ["rvm2", "rvm1"]);
        assert_eq!(Names::Floating.of(&status), ["56.0.0.11"]);
        assert!(Names::Keys("port").of(&status).contains(&"ingress_bps".to_owned()));
    }
}

//! `ivctl guest`, `volume` and `host` are provided by the program `ivctl-guest`, which links libvirt. It replaces
//! this process.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use crate::output::Failure;

/// The program's name.
const PROGRAM: &str = "ivctl-guest";
/// The program's path in our packages.
const PACKAGED: &str = "/usr/lib/ivswitch/ivctl-guest";

/// Executes `ivctl-guest` with the same arguments. Returns only if that fails.
pub fn hand_over() -> Failure {
    let what = "guests cannot be managed here";
    let Some(program) = find() else {
        let how = "build it: `apt-get install libvirt-dev`, `cargo build --release -p guests`";
        return Failure::new(
            1,
            what,
            format!("{PROGRAM} is neither in the directory of ivctl nor at {PACKAGED}"),
            how,
        );
    };
    let e = Command::new(&program).args(std::env::args_os().skip(1)).exec();
    let how = "its library is libvirt's: `apt-get install libvirt0`";
    Failure::new(1, what, format!("{} does not run: {e}", program.display()), how)
}

fn find() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name(PROGRAM));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(PROGRAM));
    beside.into_iter().chain([PathBuf::from(PACKAGED)]).chain(found).find(|path| path.is_file())
}

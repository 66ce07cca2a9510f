//! `ivctl man`: the pages of this program, of the configuration file, and of the daemon, which prints its own page.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use clap::CommandFactory as _;
use ctl::model;

use crate::Cli;
use crate::output::{Failure, Printer};

/// Writes all pages. If the daemon's program is not found, prints a remark and leaves its page out.
pub fn write(dir: &Path, printer: &Printer) -> Result<u8, Failure> {
    let pages = || -> io::Result<()> {
        fs::create_dir_all(dir)?;
        clap_mangen::generate_to(Cli::command(), dir)?;
        fs::write(dir.join("ivswitch.toml.5"), model::man())?;
        match daemons_page() {
            Some(page) => fs::write(dir.join("ivswitchd.8"), page)?,
            None => printer.note("ivswitchd is not installed here: its page is left out"),
        }
        Ok(())
    };
    pages().map_err(|e| {
        let what = format!("no man pages in {}", dir.display());
        Failure::new(1, what, e.to_string(), "name another directory")
    })?;
    Ok(0)
}

/// The output of `ivswitchd --man`, from the program in the same directory, otherwise from the installed one.
fn daemons_page() -> Option<Vec<u8>> {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("ivswitchd")));
    let places =
        beside.into_iter().chain(["/usr/sbin/ivswitchd", "/usr/local/sbin/ivswitchd"].map(PathBuf::from));
    let output = places
        .filter_map(|place| Command::new(place).arg("--man").output().ok())
        .find(|o| o.status.success())?;
    Some(output.stdout)
}

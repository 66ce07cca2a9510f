//! `ivctl guest demo`: a small guest with a console, for newcomers.
//!
//! The guest gets a network of its own. The switch is its gateway and gives the address by DHCP, so there is always
//! something to ping, even without any other configuration. When the user leaves the console, guest and network are
//! removed, unless they are to be kept.

use std::path::Path;
use std::process::Command;

use clap::Parser;
use ctl::cli::Failure;
use ctl::guest::image;
use ctl::guest::verbs::{Build, Create, Demo};

use crate::switch::Switch;
use crate::{Here, create};

/// The name of the guest and of its network.
const NAME: &str = "demo";
const NETWORK: &str = "guest-demo";
/// The network's identifier: the last but one, which is unlikely to be in use.
const VNI: u32 = 0xff_fffe;
/// An address range for documentation (RFC 5737), which is not in use anywhere.
const PREFIX: &str = "192.0.2.0/24";
const GATEWAY: &str = "192.0.2.1";
const ADDRESS: &str = "192.0.2.2";

/// Parses the arguments of `guest create` and of `image build`.
#[derive(Parser)]
struct Words<T: clap::Args> {
    #[command(flatten)]
    words: T,
}

/// Parses arguments that this program itself provides.
fn parsed<T: clap::Args>(words: &[&str]) -> T {
    Words::parse_from([""].iter().chain(words)).words
}

/// Boots the guest, joins its console, and removes it.
pub fn run(here: &Here<'_>, wish: &Demo) -> Result<u8, Failure> {
    // Before anything is downloaded, check that the switch can be reached.
    let switch = Switch::connect(here.global)?;
    let image = image(&wish.image, here)?;
    switch.add_network(NETWORK, VNI, PREFIX, GATEWAY)?;
    let made = {
        let nic = format!("{NETWORK},ip={ADDRESS}");
        let create: Create =
            parsed(&[NAME, "--image", &image, "--memory", "160M", "--nic", &nic, "--append", "iv.ip=dhcp"]);
        create::create(here, create)
    };
    if let Err(failure) = made {
        let _ = switch.del_network(NETWORK);
        return Err(failure);
    }
    here.printer.text(&format!(
        "Guest {NAME} boots on network {NETWORK}. It is {ADDRESS}; ping {GATEWAY} is answered by the switch.\n"
    ))?;
    let left = console(here);
    if wish.keep {
        let text = format!(
            "\nThe guest keeps running: `ivctl guest console {NAME}`; `ivctl guest delete {NAME} --force`; `ivctl \
             network del {NETWORK}`\n"
        );
        here.printer.text(&text)?;
        return left;
    }
    create::delete(here, NAME, true, true)?;
    switch.del_network(NETWORK)?;
    left
}

/// The image in that directory; builds it if it does not exist.
fn image(dir: &Path, here: &Here<'_>) -> Result<String, Failure> {
    let text = dir.display().to_string();
    if !dir.join(image::KERNEL).exists() || !dir.join(image::INITRAMFS).exists() {
        here.printer.text(&format!("Building a small guest in {text} from this Debian's packages...\n"))?;
        image::build(&parsed::<Build>(&[&text]))?;
    }
    Ok(text)
}

/// Runs the console as a program of its own, because it ends when the guest does and this program must go on.
fn console(here: &Here<'_>) -> Result<u8, Failure> {
    let failed = |e: std::io::Error| Failure::new(1, "the console cannot be joined", e.to_string(), "");
    let program = std::env::current_exe().map_err(failed)?;
    let mut console = Command::new(program);
    console.args(["guest", "console", NAME, "--connect", here.uri, "--socket"]).arg(&here.global.socket);
    let status = console.status().map_err(failed)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

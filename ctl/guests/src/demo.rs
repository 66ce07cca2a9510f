//! `ivctl guest demo`: one small guest for the newcomer, with a console.
//!
//! It gets a network of its own, whose gateway the switch answers for and which gives its address by DHCP, so there is
//! something to ping whatever else is configured. All of it goes when the console is left, unless it is to be kept.

use std::path::Path;
use std::process::Command;

use clap::Parser;
use ctl::cli::Failure;
use ctl::guest::image;
use ctl::guest::verbs::{Build, Create, Demo};

use crate::switch::Switch;
use crate::{Here, create};

/// The guest, and its network.
const NAME: &str = "demo";
const NETWORK: &str = "guest-demo";
/// Its identifier: the last but one, which nobody takes first.
const VNI: u32 = 0xff_fffe;
/// Documentation's addresses (RFC 5737): nobody's own.
const PREFIX: &str = "192.0.2.0/24";
const GATEWAY: &str = "192.0.2.1";
const ADDRESS: &str = "192.0.2.2";

/// The words of `guest create`, and of `image build`.
#[derive(Parser)]
struct Words<T: clap::Args> {
    #[command(flatten)]
    words: T,
}

/// What these words ask for. They are our own.
fn parsed<T: clap::Args>(words: &[&str]) -> T {
    Words::parse_from([""].iter().chain(words)).words
}

/// Boots it, joins its console, and removes it.
pub fn run(here: &Here<'_>, wish: &Demo) -> Result<u8, Failure> {
    // Before anything is fetched: is the switch there?
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
            "\nIt stays: ivctl guest console {NAME}; ivctl guest delete {NAME} --force; ivctl network del {NETWORK}\n"
        );
        here.printer.text(&text)?;
        return left;
    }
    create::delete(here, NAME, true, true)?;
    switch.del_network(NETWORK)?;
    left
}

/// The image in that directory, built if it is not there.
fn image(dir: &Path, here: &Here<'_>) -> Result<String, Failure> {
    let text = dir.display().to_string();
    if !dir.join(image::KERNEL).exists() || !dir.join(image::INITRAMFS).exists() {
        here.printer.text(&format!("Building a small guest in {text} from this Debian's packages...\n"))?;
        image::build(&parsed::<Build>(&[&text]))?;
    }
    Ok(text)
}

/// The console as a program of its own: it ends when the guest does, and we go on.
fn console(here: &Here<'_>) -> Result<u8, Failure> {
    let failed = |e: std::io::Error| Failure::new(1, "the console cannot be joined", e.to_string(), "");
    let program = std::env::current_exe().map_err(failed)?;
    let mut console = Command::new(program);
    console.args(["guest", "console", NAME, "--connect", here.uri, "--socket"]).arg(&here.global.socket);
    let status = console.status().map_err(failed)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

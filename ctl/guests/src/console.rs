//! `ivctl guest console`: the guest's serial line on this terminal. It uses libvirt's stream, so it also works
//! remotely.

use std::io::{Read as _, Write as _};

use ctl::cli::Failure;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use virt::stream::Stream;
use virt_sys as sys;

use crate::{Here, libvirt};

/// Ctrl-], as in telnet and virsh.
const LEAVE: u8 = 0x1d;

/// Restores the terminal when dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn new() -> Self {
        let stdin = rustix::stdio::stdin();
        let before = isatty(stdin).then(|| tcgetattr(stdin).ok()).flatten();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            let _ = tcsetattr(stdin, OptionalActions::Now, &raw);
        }
        Self(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Joins the console until Ctrl-], the end of the input, or the end of the guest.
pub fn run(here: &Here<'_>, name: &str) -> Result<u8, Failure> {
    let connection = libvirt::connect(here.uri)?;
    let domain = libvirt::find(&connection, name)?;
    let what = format!("the console of guest {name} cannot be joined");
    if !libvirt::is_active(&domain)? {
        return Err(Failure::new(
            4,
            what,
            "it does not run",
            format!("start it: `ivctl guest start {name}`"),
        ));
    }
    let stream = Stream::new(&connection, 0).map_err(libvirt::failed(&what))?;
    domain.open_console(None, &stream, sys::VIR_DOMAIN_CONSOLE_FORCE).map_err(libvirt::failed(&what))?;
    here.printer.text("Ctrl-] leaves\r\n")?;
    let raw = Raw::new();
    let output = stream.clone();
    // This thread ends with the process, because a blocking read of a stream cannot be cancelled.
    std::thread::spawn(move || {
        let mut bytes = vec![0; 4096];
        let mut out = std::io::stdout();
        while let Ok(count @ 1..) = output.recv(&mut bytes) {
            if out.write_all(&bytes[..count]).and_then(|()| out.flush()).is_err() {
                break;
            }
        }
        // The guest has ended, so the console ends too. Whichever thread ends first restores the terminal.
        std::process::exit(finish(0));
    });
    *TERMINAL.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(raw);
    let mut bytes = [0; 1024];
    while let Ok(count @ 1..) = std::io::stdin().read(&mut bytes) {
        let end = bytes[..count].iter().position(|&b| b == LEAVE);
        let mut rest = &bytes[..end.unwrap_or(count)];
        while !rest.is_empty() {
            match stream.send(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(_) => return Ok(finish(0) as u8),
            }
        }
        if end.is_some() {
            break;
        }
    }
    Ok(finish(0) as u8)
}

/// The terminal state to restore; the thread that ends first takes it.
static TERMINAL: std::sync::Mutex<Option<Raw>> = std::sync::Mutex::new(None);

fn finish(code: i32) -> i32 {
    drop(TERMINAL.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
    code
}

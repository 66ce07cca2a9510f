//! Attaches the program that notes flows at an interface's egress: with tcx, whose link goes with the
//! process, or on older kernels as a filter of the qdisc clsact, which the next start takes over.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use aya::programs::tc::{self, TcAttachType};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

use crate::netlink::Requester;

const BPF_LINK_CREATE: i64 = 28;
const BPF_TCX_EGRESS: u32 = 47;

/// The name of one of our filters, and its place among others. Numbers spell "iv".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    name: &'static str,
    way: TcAttachType,
    priority: u16,
}

/// The filter that notes flows for the running switch.
const TRACK: Place = Place { name: "ivs_track", way: TcAttachType::Egress, priority: 0x6976 };

/// The filter that closes an uplink while the switch is away, and for that purpose the one that notes flows.
/// `packaging/debian/postrm` has the priorities, too.
pub const CLOSED: Place = Place { name: "ivs_closed", way: TcAttachType::Ingress, priority: 0x6977 };
const CLOSED_TRACK: Place = Place { name: "ivs_closed_own", way: TcAttachType::Egress, priority: 0x6978 };

const HANDLE: TcHandle = TcHandle { major: 0, minor: 0x6976 };
const ALL_PROTOCOLS: u32 = (libc::ETH_P_ALL as u16).to_be() as u32;

/// Our program at an interface's egress.
#[derive(Debug)]
pub enum Hook {
    /// A link, which ends with the process.
    Link(OwnedFd),
    /// A filter on this interface.
    Filter(String),
    /// A filter that stays after this process has ended.
    Lasting(String),
}

impl Hook {
    /// Attaches a program.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn attach(interface: &str, program: &OwnedFd) -> io::Result<Self> {
        let index = crate::ports::interface_index(interface).ok_or(io::ErrorKind::NotFound)?;
        if crate::ports::kernel_at_least(6, 6) {
            link(index, program).map(Self::Link)
        } else {
            set_filter(TRACK, interface, index, program)?;
            Ok(Self::Filter(interface.to_owned()))
        }
    }

    /// Attaches a program that stays after this process has ended.
    ///
    /// # Errors
    /// Returns the kernel's error.
    pub fn attach_lasting(interface: &str, program: &OwnedFd) -> io::Result<Self> {
        close(CLOSED_TRACK, interface, program).map(|()| Self::Lasting(interface.to_owned()))
    }

    /// Whether the program is still attached. A link is queried; a filter is simply set again.
    #[must_use]
    pub fn is_attached(&self, program: &OwnedFd) -> bool {
        match self {
            Self::Link(link) => !crate::ports::afxdp::is_link_detached(link),
            Self::Filter(interface) => close(TRACK, interface, program).is_ok(),
            Self::Lasting(interface) => close(CLOSED_TRACK, interface, program).is_ok(),
        }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        if let Self::Filter(interface) = self {
            remove_left(interface);
        }
    }
}

/// Interfaces that may have filters of ours, by one query: those with the qdisc that holds them.
///
/// # Errors
/// The kernel did not answer.
pub fn interfaces() -> io::Result<Vec<String>> {
    let question = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let qdiscs = Requester::open()?.dump(&question)?;
    let name = |message: RouteNetlinkMessage| {
        let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = message else { return None };
        let clsact =
            |a: &TcAttribute| matches!(a, TcAttribute::Kind(kind) if kind == "clsact" || kind == "ingress");
        let index = u32::try_from(qdisc.header.index).ok()?;
        qdisc.attributes.iter().any(clsact).then(|| crate::ports::interface_name(index)).flatten()
    };
    Ok(qdiscs.into_iter().filter_map(name).collect())
}

/// Removes the filter for noting flows that an earlier process left on an interface, if it has one.
pub fn remove_left(interface: &str) {
    remove(TRACK, interface);
}

/// Removes the filters that closed an interface.
pub fn remove_closed(interface: &str) {
    remove(CLOSED, interface);
    remove(CLOSED_TRACK, interface);
}

fn remove(place: Place, interface: &str) {
    let _ = tc::qdisc_detach_program(interface, place.way, place.name);
}

/// Puts a program in its place, and replaces one that is there.
///
/// # Errors
/// Returns the kernel's error.
pub fn close(place: Place, interface: &str, program: &OwnedFd) -> io::Result<()> {
    let index = crate::ports::interface_index(interface).ok_or(io::ErrorKind::NotFound)?;
    set_filter(place, interface, index, program)
}

fn link(index: u32, program: &OwnedFd) -> io::Result<OwnedFd> {
    // The first fields of `union bpf_attr` for this command, the rest zero.
    let mut attributes = [0_u32; 16];
    attributes[..3].copy_from_slice(&[program.as_raw_fd() as u32, index, BPF_TCX_EGRESS]);
    // SAFETY: the pointer and length describe `attributes`; this command reads no other memory.
    let link =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, attributes.as_ptr(), size_of::<[u32; 16]>()) };
    if link < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and this is its only owner.
    Ok(unsafe { OwnedFd::from_raw_fd(link as RawFd) })
}

/// Sets our filter, replacing an earlier one of ours without a gap.
fn set_filter(place: Place, interface: &str, index: u32, program: &OwnedFd) -> io::Result<()> {
    // An existing qdisc is as good as a new one.
    let _ = tc::qdisc_add_clsact(interface);
    let options = [
        TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32),
        TcFilterBpfOption::ProgName(place.name.to_owned()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    let mut message = TcMessage::with_index(index as i32);
    let minor = match place.way {
        TcAttachType::Ingress => TcHandle::MIN_INGRESS,
        _ => TcHandle::MIN_EGRESS,
    };
    message.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor };
    message.header.handle = HANDLE;
    message.header.info = u32::from(place.priority) << 16 | ALL_PROTOCOLS;
    message.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
        TcAttribute::Options(options.map(TcOption::Bpf).to_vec()),
    ];
    let request = RouteNetlinkMessage::NewTrafficFilter(message);
    Requester::open()?.change(request, NLM_F_CREATE | NLM_F_REPLACE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::afxdp::{SharedMaps, trial_of_track};

    /// The filter on kernels without tcx: it exists once however often it is set, is set again after another
    /// tool has removed the qdisc, and goes with the hook.
    #[test]
    fn a_filter_where_there_is_no_tcx() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: needs root (BPF)");
        }
        // The test runs in its own network namespace, which has no filters of other programs.
        let thread = std::thread::spawn(|| {
            // SAFETY: this thread ends with the closure, and holds nothing of the old namespace.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            let maps = std::sync::Arc::new(SharedMaps::create().unwrap());
            let (_steering, program) = trial_of_track(&maps);
            let tc = |arguments: &str| {
                let tc = std::process::Command::new("tc").args(arguments.split(' ')).output().unwrap();
                String::from_utf8_lossy(&tc.stdout).matches(TRACK.name).count()
            };
            let count = || tc("filter show dev lo egress").min(1) + tc("filter show dev lo ingress");
            for _ in 0..3 {
                close(TRACK, "lo", &program).unwrap();
            }
            let hook = Hook::Filter("lo".to_owned());
            assert_eq!((count(), tc("filter show dev lo egress")), (1, 1));
            tc("qdisc del dev lo clsact");
            assert_eq!(interfaces().unwrap(), [""; 0]);
            assert_eq!(count(), 0);
            assert!(hook.is_attached(&program));
            assert_eq!(count(), 1);
            assert_eq!(interfaces().unwrap(), ["lo"]);
            drop(hook);
            assert_eq!(count(), 0);
        });
        thread.join().unwrap();
    }
}

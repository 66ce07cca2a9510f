//! The place at an interface's way out where flows are noted: tcx, whose link goes with the process, or on older kernels
//! a filter of the qdisc clsact, which the next start takes over.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use aya::programs::tc::{self, TcAttachType};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

use crate::links::Requester;

const BPF_LINK_CREATE: i64 = 28;
const BPF_TCX_EGRESS: u32 = 47;

/// What our filter is called, and its place among others. Its number spells "iv".
const NAME: &str = "ivs_track";
const PRIORITY: u32 = 0x6976;
const HANDLE: TcHandle = TcHandle { major: 0, minor: 0x6976 };
const ALL_PROTOCOLS: u32 = (libc::ETH_P_ALL as u16).to_be() as u32;

/// Our program at an interface's way out.
#[derive(Debug)]
pub enum Hook {
    /// A link, which goes with us.
    Link(OwnedFd),
    /// A filter on this interface.
    Filter(String),
}

impl Hook {
    /// Attaches a program.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn attach(interface: &str, program: &OwnedFd) -> io::Result<Self> {
        let index = crate::ports::interface_index(interface).ok_or(io::ErrorKind::NotFound)?;
        if crate::ports::kernel_at_least(6, 6) {
            link(index, program).map(Self::Link)
        } else {
            filter(interface, index, program)
        }
    }

    /// Whether it still is, as far as that can be told: a link says so itself.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        match self {
            Self::Link(link) => !crate::ports::afxdp::is_link_detached(link),
            Self::Filter(_) => true,
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

/// Takes such a filter off an interface, if there is one.
pub fn remove_left(interface: &str) {
    let _ = tc::qdisc_detach_program(interface, TcAttachType::Egress, NAME);
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
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(link as RawFd) })
}

/// One filter takes the place of another of ours without a moment between them.
fn filter(interface: &str, index: u32, program: &OwnedFd) -> io::Result<Hook> {
    // One that is there already is as good as a new one.
    let _ = tc::qdisc_add_clsact(interface);
    let options = [
        TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32),
        TcFilterBpfOption::ProgName(NAME.to_owned()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor: TcHandle::MIN_EGRESS };
    message.header.handle = HANDLE;
    message.header.info = PRIORITY << 16 | ALL_PROTOCOLS;
    message.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
        TcAttribute::Options(options.map(TcOption::Bpf).to_vec()),
    ];
    let request = RouteNetlinkMessage::NewTrafficFilter(message);
    Requester::open()?.change(request, NLM_F_CREATE | NLM_F_REPLACE)?;
    Ok(Hook::Filter(interface.to_owned()))
}

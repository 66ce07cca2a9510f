//! Warnings about frames that the far end of a port leaves unfinished and that the switch cannot finish. A warning
//! stays while the port is open, because the far end will send more such frames.

use engine::counters::DropReason;

use super::Agent;
use super::machine::Attachment;
use super::pending::Found;
use super::problems::OF_A_KIND_MAX;
use crate::api::{Problem, ProblemKind};
use crate::io::{IoKind, KernelDrops};

impl Agent {
    /// The warnings about the ports that `shown` selects, one per kind of frame.
    pub(super) fn shape_problems(&self, found: &Found, shown: impl Fn(&str) -> bool) -> Vec<Problem> {
        let ports = self.attachments.iter().filter(|(_, a)| shown(&a.name));
        let of_port = |(id, a): (_, &Attachment)| {
            shapes(a, found.ports.get(id).map_or(0, |p| p.drops[DropReason::OffloadUnknown as usize]))
        };
        ports.flat_map(of_port).take(OF_A_KIND_MAX).collect()
    }
}

fn shapes(a: &Attachment, unknown: u64) -> Vec<Problem> {
    let KernelDrops { rx_unsaid, rx_too_long, rx_other, fill_ring_empty, .. } = a.kernel_drops;
    // This AF_XDP counter includes the frames that were lost because no slots were free.
    let whole = if a.means.kind == IoKind::Afxdp { rx_other.saturating_sub(fill_ring_empty) } else { 0 };
    let dev = far_end(a);
    let all = [
        (
            unknown,
            "offload-unknown",
            "they need segmentation or a checksum, in headers that the switch cannot read (a tunnel of an unknown kind)",
            format!("`ethtool -K {dev} tx off` makes the far end finish them"),
        ),
        (
            rx_unsaid,
            "kernel-rx-unsaid",
            "they need segmentation of a kind that the kernel cannot express to a packet socket (SCTP, ESP, UDP \
             fragments)",
            format!(
                "`ethtool -K {dev} tx-sctp-segmentation off tx-esp-segmentation off tx-gso-list off` makes the far end finish them"
            ),
        ),
        (
            whole,
            "kernel-rx-other",
            "they are longer than AF_XDP accepts (GSO packets of the far end, with XDP in generic mode)",
            format!(
                "`ethtool -K {dev} tx off` makes the far end segment them, and `kind = \"packet\"` takes them whole"
            ),
        ),
        (
            rx_too_long,
            "kernel-rx-too-long",
            "they are too long to be segmented (BIG TCP in a tunnel)",
            format!("`ip link set {dev} gso_max_size 65536` makes them shorter"),
        ),
    ];
    let met = all.into_iter().filter(|(count, ..)| *count > 0);
    met.map(|(count, reason, what, remedy)| {
        let what = format!("port \"{}\": {count} frames were dropped ({reason}): {what}", a.name);
        Problem::new(ProblemKind::Offload, &a.name, what, remedy)
    })
    .collect()
}

/// The interface that sends the frames, as a command names it.
fn far_end(a: &Attachment) -> String {
    match a.means.kind {
        IoKind::Vhostuser => "DEV (the guest's)".to_owned(),
        _ if a.makes_door => a.name.clone(),
        _ => format!("DEV (the other end of {})", a.interface),
    }
}

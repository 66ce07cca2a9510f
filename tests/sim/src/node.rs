//! What nodes of a world share: frames on the wire and the way out.

use engine::frame::Offload;

use crate::prng::Prng;

/// A frame between two nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wire {
    /// Its bytes, Ethernet header first.
    pub bytes: Vec<u8>,
    /// What is unfinished about it (only between a guest and its own switch port).
    pub offload: Offload,
    /// Nodes that handed it on since a host made it. Loops show here.
    pub hops: u16,
}

impl Wire {
    /// A finished frame fresh from its maker.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, offload: Offload::NONE, hops: 0 }
    }
}

/// What a node may touch while it works.
pub struct Ctx<'a> {
    /// The time.
    pub now_ns: u64,
    /// The world's chance.
    pub rng: &'a mut Prng,
    /// Frames to send: interface, extra delay in nanoseconds, frame.
    pub out: Vec<(usize, u64, Wire)>,
    /// When the node wants to be woken, at the latest.
    pub wake_ns: Option<u64>,
    /// Broken invariants; any of them fails the world.
    pub problems: &'a mut Vec<String>,
}

impl Ctx<'_> {
    /// Sends a frame now.
    pub fn send(&mut self, interface: usize, frame: Wire) {
        self.out.push((interface, 0, frame));
    }

    /// Asks to be woken at `at_ns` or before.
    pub fn wake_at(&mut self, at_ns: u64) {
        let at_ns = at_ns.max(self.now_ns);
        self.wake_ns = Some(self.wake_ns.map_or(at_ns, |w| w.min(at_ns)));
    }
}

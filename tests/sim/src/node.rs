//! Types that all nodes of a world share: a frame on the wire, and the context in which a node works.

use engine::frame::Offload;

use crate::prng::Prng;

/// A frame between two nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wire {
    /// The bytes, Ethernet header first.
    pub bytes: Vec<u8>,
    /// Which checksums and segments are unfinished (only between a guest and its own switch port).
    pub offload: Offload,
    /// Nodes that have forwarded it since a host made it. Loops show here.
    pub hops: u16,
}

impl Wire {
    /// A finished frame, as its sender made it.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, offload: Offload::NONE, hops: 0 }
    }
}

/// The context in which a node handles an event.
pub struct Ctx<'a> {
    /// The time.
    pub now_ns: u64,
    /// The world's random numbers.
    pub rng: &'a mut Prng,
    /// Frames to send: interface, extra delay in nanoseconds, frame.
    pub out: Vec<(usize, u64, Wire)>,
    /// The latest time at which the node wants to be woken.
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

//! How many slots of the frame memory a queue may have to receive into.
//!
//! Slots in a fill ring come back only as frames arrive in them, so an idle port keeps what it was given. A queue therefore
//! begins with few slots, is given more while its bursts need them, and gives some back, as frames arrive, when others need
//! them. What is given in this way never touches two parts of the memory: the least that ports which are still to come need,
//! and what frames on their way need. So all [`PORTS_MAX`] ports open at defaults, in any order and under any traffic.
//!
//! Several workers decide at the same time, so together they may give one step too much. Frames on their way have that much
//! less.

use engine::limits::{BATCH_LEN, PORTS_MAX};

use super::socket::RING_LEN;

/// Slots that a queue has at least. Half as many are refilled at once.
pub const LEAST: u32 = 4;

/// Queues that are there already when the first one is given its part of what many queues begin with.
const BESIDE: u32 = 12;

/// A queue that has no more than this keeps it.
const KEPT: u32 = BATCH_LEN as u32 / 4;

/// The frame memory at one moment, in small slots.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All there are.
    pub total: u32,
    /// Those that queues may have to receive into, in their rings or not.
    pub promised: u32,
    /// The queues that have them.
    pub queues: u32,
}

impl Memory {
    /// What frames on their way need, in transmit rings and queues.
    fn on_their_way(self) -> u32 {
        (self.total / 8).max(BATCH_LEN as u32)
    }

    /// What may still be promised to queues, those of ports to come included.
    fn left(self) -> u32 {
        self.total.saturating_sub(self.promised + self.on_their_way())
    }

    /// What may be given to a queue that could do with more.
    fn spare(self) -> u32 {
        let to_come = LEAST * (PORTS_MAX as u32).saturating_sub(self.queues);
        self.left().saturating_sub(to_come.min(self.total / 4))
    }

    /// What each of a new port's queues is given at first. `None`: there is not even [`LEAST`].
    ///
    /// The uplink carries the traffic of all other ports, so it gets a full ring immediately. The queues of each of the
    /// first ports share half of what is left above a quarter of the memory, since bursts come before a ring can grow,
    /// and frames wait in the rings while the daemon restarts. The rest is for ports that grow.
    pub fn first(self, queues: u32, uplink: bool) -> Option<u32> {
        let part = self.total / 32 * 3 / (BESIDE + self.queues);
        let plenty = self.spare().saturating_sub(self.total / 4) / 2 / queues.max(1);
        let wanted = if uplink { RING_LEN } else { plenty.max(part).min(RING_LEN) };
        let share = wanted.min(self.spare() / 2 / queues.max(1)).max(LEAST);
        (self.left() >= LEAST * queues).then_some(share)
    }

    /// What a queue of `target` slots is to have from now on, when half of them or more were used at once.
    pub fn of_busy(self, target: u32) -> u32 {
        let wanted = (target * 2).min(RING_LEN);
        // Half of what is there: the next queue finds something, too.
        if wanted - target <= self.spare() / 2 { wanted } else { target }
    }

    /// What a queue of `target` slots is to have from now on, of which `burst` were used at once.
    pub fn of_any(self, target: u32, burst: u32) -> u32 {
        let scarce = self.spare() < self.total / 16;
        if scarce && target > KEPT && burst < target / 4 { target / 2 } else { target }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::umem::UmemPool;

    const ALL: Memory = Memory { total: UmemPool::SMALL_DEFAULT, promised: 0, queues: 0 };

    fn open_one(memory: &mut Memory, uplink: bool) -> Option<u32> {
        let share = memory.first(1, uplink)?;
        memory.promised += share;
        memory.queues += 1;
        Some(share)
    }

    /// Opens ports of one queue until there is no memory, `most` at most. What each has.
    fn open(memory: &mut Memory, most: usize) -> Vec<u32> {
        (0..most).map_while(|_| open_one(memory, false)).collect()
    }

    /// Lets one queue after the other find that it had too little, or more than it used.
    fn change(memory: &mut Memory, targets: &mut [u32], of: impl Fn(Memory, u32) -> u32) {
        for target in targets {
            let now = of(*memory, *target);
            memory.promised = memory.promised + now - *target;
            *target = now;
        }
    }

    /// All ports that there may be have memory, the first dozen enough for a batch, and the last can still grow.
    #[test]
    fn every_port_has_memory() {
        let mut memory = ALL;
        assert_eq!(open_one(&mut memory, true), Some(RING_LEN));
        let mut ports = open(&mut memory, PORTS_MAX - 1);
        assert_eq!(ports.len(), PORTS_MAX - 1);
        assert!(ports[0] >= 512 && ports[11] >= BATCH_LEN as u32);
        assert!(ports.is_sorted_by(|a, b| a >= b), "{:?}", &ports[..40]);
        assert!(memory.left() > 0);
        let last = ports.last_mut().expect("there are some");
        for _ in 0..9 {
            change(&mut memory, std::slice::from_mut(last), Memory::of_busy);
        }
        assert!(*last >= 128, "{last}");
        assert_eq!(Memory { total: 64, ..ALL }.first(1, false), None);
    }

    /// Whatever ports that are open have grown to before they fell silent, all others still open.
    #[test]
    fn busy_ports_leave_room_for_others() {
        for before in [1, 3, 20, 150, 500, 900] {
            let mut memory = ALL;
            let mut busy = open(&mut memory, before);
            for _ in 0..12 {
                change(&mut memory, &mut busy, Memory::of_busy);
            }
            let least = (RING_LEN * before as u32).min(ALL.total / 4);
            assert!(busy.iter().sum::<u32>() >= least, "{before}: {busy:?}");
            assert_eq!(open(&mut memory, PORTS_MAX - before).len(), PORTS_MAX - before, "{before}");
        }
    }

    /// Ports that use little of what they grew to give it back while it is scarce; then others grow.
    #[test]
    fn what_is_not_used_goes_to_others() {
        let mut memory = ALL;
        let mut once_busy = open(&mut memory, 20);
        for _ in 0..12 {
            change(&mut memory, &mut once_busy, Memory::of_busy);
        }
        let grown = once_busy.clone();
        let mut others = open(&mut memory, 20);
        for _ in 0..12 {
            change(&mut memory, &mut once_busy, |memory, target| memory.of_any(target, 1));
            change(&mut memory, &mut others, Memory::of_busy);
        }
        assert!(once_busy.iter().sum::<u32>() < grown.iter().sum::<u32>() / 2, "{grown:?} {once_busy:?}");
        assert!(others.iter().sum::<u32>() > ALL.total / 4, "{others:?}");
        assert!(once_busy.iter().all(|&target| target >= KEPT / 2), "{once_busy:?}");
        // With enough for all nothing is taken from a port.
        assert_eq!(ALL.of_any(RING_LEN, 1), RING_LEN);
        assert_eq!(ALL.of_busy(RING_LEN), RING_LEN);
    }
}

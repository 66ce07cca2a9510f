//! The ports of a simulated rVM: queues in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use engine::frame::{Batch, Frame, FramePool, HeapPool, Offload};
use engine::port::{Port, PortCaps};
use engine::time::Instant;

use crate::node::Wire;

#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) rx: VecDeque<Wire>,
    pub(super) tx: Vec<(Vec<u8>, Offload)>,
    /// Frames that `tx` accepts before it refuses, to simulate a slow consumer.
    pub(super) room: Option<usize>,
}

pub(super) type Shared = Arc<Mutex<Queues>>;

pub(super) fn lock(q: &Shared) -> MutexGuard<'_, Queues> {
    q.lock().expect("one thread")
}

/// A port whose far end is the simulator.
pub(super) struct MemoryPort {
    pub(super) queues: Shared,
    pub(super) caps: PortCaps,
}

impl Port<HeapPool> for MemoryPort {
    fn rx(&mut self, _: Instant, pool: &mut HeapPool, batch: &mut Batch) {
        let mut q = lock(&self.queues);
        while !batch.is_full() {
            let Some(wire) = q.rx.pop_front() else { break };
            match pool.alloc_from(&wire.bytes) {
                Some(mut frame) => {
                    frame.offload = wire.offload;
                    batch.push(frame);
                }
                None => {
                    q.rx.push_front(wire);
                    break;
                }
            }
        }
    }

    fn tx(&mut self, _: Instant, pool: &mut HeapPool, frames: &mut Vec<Frame>) {
        let mut q = lock(&self.queues);
        let take = q.room.map_or(frames.len(), |room| frames.len().min(room.saturating_sub(q.tx.len())));
        for frame in frames.drain(..take) {
            q.tx.push((pool.bytes(&frame).to_vec(), frame.offload));
            pool.free(frame);
        }
    }

    fn caps(&self) -> PortCaps {
        self.caps
    }
}

/// Several queues of an interface.
pub(super) struct MultiPort(pub(super) Vec<MemoryPort>);

impl Port<HeapPool> for MultiPort {
    fn rx(&mut self, now: Instant, pool: &mut HeapPool, batch: &mut Batch) {
        self.0.iter_mut().for_each(|port| port.rx(now, pool, batch));
    }

    fn tx(&mut self, now: Instant, pool: &mut HeapPool, frames: &mut Vec<Frame>) {
        self.0[0].tx(now, pool, frames);
    }

    fn caps(&self) -> PortCaps {
        self.0[0].caps()
    }
}

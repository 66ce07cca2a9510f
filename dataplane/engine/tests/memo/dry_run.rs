//! A dry run shows what would happen to a frame, and nothing of that happens.

use super::*;
use engine::forward::cache::{FlowCache, Hits};
use engine::forward::flow::Flow;
use engine::limits::FLOW_HOT_FRAMES;
use std::sync::{Arc, Mutex};

/// A kernel offload that notes what it gets.
#[derive(Clone, Default)]
struct Offload(Arc<Mutex<Vec<Flow>>>);

impl FlowCache for Offload {
    fn capacity(&self) -> u32 {
        64
    }
    fn is_on(&self) -> bool {
        true
    }
    fn is_alone(&self) -> bool {
        true
    }
    fn revoke_all(&mut self) {}
    fn install(&mut self, flow: &Flow) -> Option<u32> {
        let mut flows = self.0.lock().unwrap();
        flows.push(*flow);
        Some(flows.len() as u32 % 64)
    }
    fn revoke(&mut self, _slot: u32) {}
    fn reclaim(&mut self) -> Option<u32> {
        None
    }
    fn take_hits(&mut self, _slot: u32) -> Hits {
        Hits::default()
    }
    fn take_lost(&mut self) -> Option<(PortId, u64)> {
        None
    }
    fn give_back_lost(&mut self, _id: PortId, _frames: u64) {}
}

impl Rvm {
    /// A switch with a kernel offload, which takes flows from the next tick on.
    fn with_offload() -> (Self, Offload) {
        let (mut rvm, offload) = (Self::new(true), Offload::default());
        rvm.switch.attach_cache(Box::new(offload.clone()));
        rvm.run(&Step::Time(1), &[]);
        (rvm, offload)
    }
}

/// An operator traces the same frame over and over: its flow must not seem hot, and must not be installed in the
/// kernel. The same frames, really received, are.
#[test]
fn a_traced_flow_is_not_offloaded() {
    let (mut rvm, offload) = Rvm::with_offload();
    rvm.apply(Command::AddFdb(vni(PRIVATE), 0, mac(1), Location::Port(DOOR3)));
    rvm.apply(Command::AddFdb(vni(PRIVATE), 0, mac(2), Location::Port(DOOR1)));
    let bytes = frame(&Packet { at: 1, ..Packet::plain() }).1;
    for _ in 0..2 * FLOW_HOT_FRAMES {
        let walk = rvm.switch.trace(rvm.now, DOOR1, &bytes, &rvm.pool);
        assert_eq!(walk.sent.len(), 1, "{walk:?}");
    }
    assert_eq!(*offload.0.lock().unwrap(), []);
    for _ in 0..64 * FLOW_HOT_FRAMES {
        rvm.batch(DOOR1, core::slice::from_ref(&bytes));
        rvm.account();
    }
    assert_ne!(*offload.0.lock().unwrap(), [], "this flow can be offloaded");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 40 } else { 1000 }))]
    /// After any history, the dry run of any frames at any port leaves the whole switch as it was: tables, counters,
    /// queues, limits, flow cache, offload and events; and so the pool.
    #[test]
    fn a_dry_run_changes_nothing(
        steps in prop::collection::vec(step(), 1..20),
        packets in prop::collection::vec((packet(), any::<bool>()), 1..20),
    ) {
        let (mut rvm, offload) = Rvm::with_offload();
        let mut last = Vec::new();
        for step in &steps {
            if let Step::Batch(packets) = step {
                last.clone_from(packets);
            }
            rvm.run(step, &last);
            rvm.account();
        }
        let state = |rvm: &Rvm| (format!("{:?}", rvm.switch), format!("{:?}", rvm.pool), offload.0.lock().unwrap().len());
        let before = state(&rvm);
        for (packet, elsewhere) in &packets {
            let (at, bytes) = frame(packet);
            let at = if *elsewhere { PORTS[usize::from(packet.dst) % PORTS.len()] } else { at };
            let _ = rvm.switch.trace(rvm.now, at, &bytes, &rvm.pool);
        }
        prop_assert!(state(&rvm) == before, "a dry run has changed the switch");
    }
}

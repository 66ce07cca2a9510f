//! The guards outside the pipeline: which flows the kernel may repeat, and which events the agent gets.

use std::sync::{Arc, Mutex};

use engine::command::*;
use engine::counters::DropReason;
use engine::forward::cache::{FlowCache, Hits};
use engine::forward::flow::Flow;
use engine::limits::FLOW_HOT_FRAMES;
use engine::wire::mac::MacAddr;
use etherparse::PacketBuilder;

use crate::build::OWN;
use crate::{DOOR, GUEST, World};

/// Records the destination ports of the installed flows.
struct Recorder(Arc<Mutex<Vec<u16>>>);

impl FlowCache for Recorder {
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
        let mut ports = self.0.lock().unwrap();
        let slot = ports.iter().position(|port| *port == flow.key.dport).unwrap_or(ports.len());
        if slot == ports.len() {
            ports.push(flow.key.dport);
        }
        Some(slot as u32)
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

/// The kernel repeats a verdict without reading payloads, so the switch does not install flows whose payload
/// a guard reads. It does install them from a door, which has no guards.
#[test]
fn the_kernel_is_given_no_flow_whose_payload_is_judged() {
    for (role, judged) in [(Role::Guest, true), (Role::Door, false)] {
        let (mut w, ports) = (World::new(), Arc::new(Mutex::new(Vec::new())));
        w.switch.attach_cache(Box::new(Recorder(ports.clone())));
        if role == Role::Door {
            w.port(GUEST, Role::Door, Binding::default());
        }
        w.apply(Command::AddFdb(crate::VNI, 0, MacAddr([2, 0, 0, 0, 0, 1]), Location::Port(DOOR)));
        let mut question = vec![0; 240];
        question[..3].copy_from_slice(&[1, 1, 6]);
        question[28..34].copy_from_slice(&OWN.0);
        for dport in [67, 4011, 53] {
            let mut bytes = Vec::new();
            let packet =
                PacketBuilder::ethernet2(OWN.0, [2, 0, 0, 0, 0, 1]).ipv4([10, 1, 0, 9], [10, 1, 0, 8], 64);
            packet.udp(68, dport).write(&mut bytes, &question).unwrap();
            w.wait(300);
            w.switch.publish();
            for _ in 0..64 * FLOW_HOT_FRAMES {
                assert!(w.passes(GUEST, &bytes), "{dport}");
            }
        }
        let mut installed = ports.lock().unwrap().clone();
        installed.sort_unstable();
        assert_eq!(installed, if judged { vec![53] } else { vec![53, 67, 4011] });
    }
}

/// A port with a BPDU guard also reports Cisco's BPDUs, which other bridges forward like any group.
#[test]
fn the_bpdu_guard_knows_pvst() {
    let mut bpdu = vec![1, 0, 0x0c, 0xcc, 0xcc, 0xcd];
    bpdu.extend(OWN.0);
    bpdu.extend([0, 50, 0xaa, 0xaa, 3, 0, 0, 0x0c, 1, 0x0b]);
    bpdu.resize(64, 0);
    for (role, guarded, passes) in [
        (Role::Guest, true, false),
        (Role::Guest, false, false),
        (Role::Door, true, false),
        (Role::Door, false, true),
    ] {
        let mut w = World::new();
        let config = w.switch.tables().ports.get(GUEST).unwrap().config.clone();
        let policy = Box::new(PortPolicy { bpdu_guard: guarded, ..PortPolicy::default() });
        w.apply(Command::SetPort(GUEST, PortConfig { role, policy, ..config }));
        assert_eq!(w.passes(GUEST, &bpdu), passes, "{role:?} {guarded}");
        let told = w.switch.take_events().filter(|event| *event == Event::Bpdu(GUEST)).count();
        assert_eq!(told, usize::from(guarded));
        assert_eq!(w.drops(GUEST).get(&DropReason::LinkLocalGroup), (!passes).then_some(&1));
    }
}

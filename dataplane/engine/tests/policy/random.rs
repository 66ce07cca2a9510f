//! Any rules on ports, with any frames, in any order.

use std::time::Duration;

use engine::command::*;
use engine::frame::Offload;
use engine::port::PortCaps;
use proptest::prelude::*;

use super::{PORTS, Rvm, Sent, bpdu, hello, super_frame, udp};

#[derive(Clone, Debug)]
enum Step {
    Frame(u8, u8, usize),
    Hello(u8),
    Segments(u8, u8, usize),
    Bpdu(u8),
    Rate(u8, bool, Option<u16>, Option<u8>),
    Mirror(u8, Option<u8>),
    Cut(u8, Option<bool>),
    Live(u8, bool),
    Caps(u8, bool),
    Remove(u8),
    Time(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let port = || 0u8..4;
    prop_oneof![
        10 => (port(), port(), 60usize..1500).prop_map(|(a, b, len)| Step::Frame(a, b, len)),
        4 => port().prop_map(Step::Hello),
        3 => (port(), port(), 1usize..5000).prop_map(|(a, b, len)| Step::Segments(a, b, len)),
        1 => port().prop_map(Step::Bpdu),
        2 => (port(), any::<bool>(), prop::option::of(any::<u16>()), prop::option::of(any::<u8>()))
            .prop_map(|(p, out, kbps, pps)| Step::Rate(p, out, kbps, pps)),
        2 => (port(), prop::option::of(port())).prop_map(|(p, to)| Step::Mirror(p, to)),
        2 => (port(), prop::option::of(any::<bool>())).prop_map(|(p, cut)| Step::Cut(p, cut)),
        1 => (port(), any::<bool>()).prop_map(|(p, live)| Step::Live(p, live)),
        1 => (port(), any::<bool>()).prop_map(|(p, tso)| Step::Caps(p, tso)),
        1 => port().prop_map(Step::Remove),
        3 => any::<u16>().prop_map(Step::Time),
    ]
}

proptest! {
    /// With any rules on ports, frames are conserved (checked at every step), a port in quarantine sends
    /// nothing, and a mirror target sends only copies. A twin without mirrors sends exactly the same frames
    /// by all other ports.
    #[test]
    fn policies_and_frames_in_any_order(steps in prop::collection::vec(step(), 1..120)) {
        let (mut rvm, mut twin) = (Rvm::new(), Rvm::new());
        let mut policies: [(bool, PortPolicy); 4] = Default::default();
        policies.iter_mut().for_each(|p| p.0 = true);
        for step in steps {
            let mut changed = None;
            match step {
                Step::Frame(a, b, len) => {
                    let frame = [(udp(PORTS[a as usize], PORTS[b as usize], len), Offload::NONE)];
                    same(&mut rvm, &mut twin, PORTS[a as usize], &frame, &policies)?;
                }
                Step::Hello(a) => {
                    let frame = [(hello(PORTS[a as usize]), Offload::NONE)];
                    same(&mut rvm, &mut twin, PORTS[a as usize], &frame, &policies)?;
                }
                Step::Segments(a, b, len) => {
                    let frame = [super_frame(PORTS[a as usize], PORTS[b as usize], len)];
                    same(&mut rvm, &mut twin, PORTS[a as usize], &frame, &policies)?;
                }
                Step::Bpdu(a) => {
                    let frame = [(bpdu(PORTS[a as usize], 0), Offload::NONE)];
                    same(&mut rvm, &mut twin, PORTS[a as usize], &frame, &policies)?;
                }
                Step::Rate(p, out, kbps, pps) => {
                    let rate = Rate { bps: kbps.map(|k| 1000 * u64::from(k)), pps: pps.map(u32::from), burst: None };
                    let policy = &mut policies[p as usize].1;
                    *(if out { &mut policy.egress } else { &mut policy.ingress }) = rate;
                    changed = Some(p);
                }
                Step::Mirror(p, to) => {
                    policies[p as usize].1.mirror = to.map(|to| PORTS[to as usize]);
                    if let Some(to) = to {
                        policies[to as usize].1.tap = true;
                        changed = Some(to);
                        configure(&mut rvm, p, &policies[p as usize], false);
                        configure(&mut twin, p, &policies[p as usize], true);
                    } else {
                        policies[p as usize].1.tap = false;
                        changed = Some(p);
                    }
                }
                Step::Cut(p, cut) => {
                    let why = |quarantine| if quarantine { Cut::Quarantine } else { Cut::ErrDisabled };
                    policies[p as usize].1.cut = cut.map(why);
                    changed = Some(p);
                }
                Step::Live(p, live) => {
                    policies[p as usize].0 = live;
                    changed = Some(p);
                }
                Step::Caps(p, tso) => {
                    let caps = PortCaps { tx_csum: tso, tx_tso: tso, ..PortCaps::default() };
                    rvm.switch.set_caps(PORTS[p as usize], caps);
                    twin.switch.set_caps(PORTS[p as usize], caps);
                }
                Step::Remove(p) => {
                    rvm.apply(Command::RemovePort(PORTS[p as usize]));
                    twin.apply(Command::RemovePort(PORTS[p as usize]));
                    changed = Some(p);
                }
                Step::Time(ms) => {
                    rvm.now = rvm.now + Duration::from_millis(u64::from(ms) % 500);
                    twin.now = rvm.now;
                }
            }
            if let Some(p) = changed {
                configure(&mut rvm, p, &policies[p as usize], false);
                configure(&mut twin, p, &policies[p as usize], true);
            }
        }
    }
}

fn configure(rvm: &mut Rvm, p: u8, (live, policy): &(bool, PortPolicy), without_mirror: bool) {
    rvm.set(PORTS[p as usize], |config| {
        config.live = *live && policy.cut.is_none();
        *config.policy = policy.clone();
        if without_mirror {
            config.policy.mirror = None;
        }
    });
}

fn same(
    rvm: &mut Rvm,
    twin: &mut Rvm,
    at: PortId,
    frames: &[(Vec<u8>, Offload)],
    policies: &[(bool, PortPolicy); 4],
) -> Result<(), TestCaseError> {
    let (sent, mut plain) = (rvm.put(at, frames), twin.put(at, frames));
    let policy = |port: PortId| &policies[usize::from(port.0) - 1];
    for (port, _) in &sent {
        let (live, policy) = policy(*port);
        prop_assert!(*live && policy.cut.is_none(), "{:?} is closed and sends", port);
    }
    let taps = |port: PortId| policy(port).1.tap;
    prop_assert!(plain.iter().all(|(port, _)| !taps(*port)), "a tap sends what is no copy");
    // The order of ports does not matter.
    let mut others: Sent = sent.into_iter().filter(|(port, _)| !taps(*port)).collect();
    others.sort();
    plain.sort();
    prop_assert_eq!(others, plain);
    Ok(())
}

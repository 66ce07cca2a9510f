//! Forwarding allocates nothing. An allocator that counts is the whole program's, so this test is alone in it.

use bench::{Kind, Walk};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// Every walk, warm: not one allocation in 64 000 packets, drops and flooding included.
#[test]
fn no_walk_allocates() {
    for kind in Kind::ALL {
        let mut walk = Walk::new(kind, 1000, 64);
        walk.run(100);
        let before = INSTRUMENTED_SYSTEM.stats();
        walk.run(1000);
        walk.run_loop(1000);
        let after = INSTRUMENTED_SYSTEM.stats();
        let made = after.allocations + after.reallocations - before.allocations - before.reallocations;
        assert_eq!(made, 0, "{}: allocations in 128 000 packets", kind.name());
    }
    // The counter counts: otherwise the above proves nothing.
    let before = INSTRUMENTED_SYSTEM.stats().allocations;
    let boxed = Box::new(std::hint::black_box(1u64));
    assert!(INSTRUMENTED_SYSTEM.stats().allocations > before, "{boxed}");
}

//! ns per packet of every walk, by number of flows and frame size: `cargo bench -p bench`.

use bench::{Kind, Walk};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hugepages::HugePages;

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: HugePages<std::alloc::System> = HugePages(std::alloc::System);

fn walks(c: &mut Criterion) {
    for kind in Kind::ALL {
        let mut group = c.benchmark_group(kind.name());
        group.throughput(Throughput::Elements(64));
        for len in [64, 1500] {
            for flows in [1, 1_000, 100_000, 1_000_000] {
                let mut walk = Walk::new(kind, flows, len);
                group.bench_function(BenchmarkId::new(format!("{len}B"), flows), |b| {
                    b.iter_custom(|n| walk.run(n))
                });
            }
        }
    }
}

criterion_group!(benches, walks);
criterion_main!(benches);

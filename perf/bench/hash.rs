//! SipHash-1-3 of a burst of clients: the scalar specification beside the vector levels, by burst size.
//!
//! `cargo bench --bench hash`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use oneip::hash::vector::{Level, Row};
use oneip::hash::{self, Key, siphash};
use oneip::limits::BURST;
use std::hint::black_box;

fn sizes() -> impl Iterator<Item = usize> {
    [1, 8, 32, BURST].into_iter()
}

/// Inputs of `B` blocks, hashed by every level; the answers are compared before anything is timed.
fn shape<const B: usize>(c: &mut Criterion, name: &str, input: impl Fn(u32) -> [u64; B]) {
    let key = Key::new(1, 2);
    let inputs: Vec<[u64; B]> = (0..BURST as u32).map(input).collect();
    let mut rows: [Row; B] = [[0; BURST]; B];
    for (at, blocks) in inputs.iter().enumerate() {
        (0..B).for_each(|b| rows[b][at] = blocks[b]);
    }
    let expected: Vec<u64> = inputs.iter().map(|blocks| siphash::blocks(key, *blocks)).collect();
    let mut group = c.benchmark_group(format!("hash/{name}"));
    for n in sizes() {
        group.throughput(Throughput::Elements(n as u64));
        group.bench_with_input(BenchmarkId::new("scalar", n), &n, |b, n| {
            b.iter(|| inputs[..*n].iter().fold(0, |sum, blocks| sum ^ siphash::blocks(key, black_box(*blocks))));
        });
        for level in Level::available() {
            let mut out = [0; BURST];
            level.siphash(key, &rows, n, &mut out);
            assert_eq!(out[..n], expected[..n], "{}", level.name());
            group.bench_with_input(BenchmarkId::new(level.name(), n), &n, |b, n| {
                b.iter(|| level.siphash(key, black_box(&rows), *n, black_box(&mut out)));
            });
        }
    }
}

fn hashes(c: &mut Criterion) {
    shape(c, "source IPv4", |i| hash::source_v4(i.to_be_bytes()));
    shape(c, "source IPv6", |i| hash::source_v6([i.to_be_bytes(); 4].concat().try_into().expect("16 bytes")));
    shape(c, "flow IPv4", |i| hash::flow_v4(i.to_be_bytes(), [203, 0, 113, 80], (40_000, 80), 6));
}

criterion_group!(benches, hashes);
criterion_main!(benches);

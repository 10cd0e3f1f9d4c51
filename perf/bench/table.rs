//! Building a service's table, with all servers up and with some down, and what a worker pays to read the newest.
//!
//! `cargo bench --bench table`

#[path = "common/plans.rs"]
mod plans;

use arc_swap::ArcSwap;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use crossbeam::epoch::{self, Atomic};
use oneip::table::build::Cluster;
use oneip::table::{Table, publish};
use plans::plan;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The slots that a service's servers own, as a check that the table is what it should be.
fn assert_shares(cluster: &Cluster, up: usize) {
    let shares = cluster.shares(0);
    assert_eq!(shares.iter().sum::<u32>(), 65_537);
    assert_eq!(shares.iter().filter(|share| **share > 0).count(), up);
}

/// From a plan to a table that can be published, one service of 65,537 slots.
fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("table/build");
    for servers in [3, 64, 1000] {
        let plan = plan(1, servers, false);
        assert_shares(&Cluster::new(&plan), servers);
        group.bench_with_input(BenchmarkId::from_parameter(servers), &plan, |b, plan| {
            b.iter(|| Cluster::new(plan).compile());
        });
    }
}

/// One server goes down and comes back, of a service with others down already: two elections and two tables.
fn fail(c: &mut Criterion) {
    let mut group = c.benchmark_group("table/fail and return");
    for (servers, down) in [(3, 0), (64, 0), (1000, 0), (1000, 100), (1000, 500)] {
        let plan = plan(1, servers, false);
        let mut cluster = Cluster::new(&plan);
        (0..down).for_each(|i| assert_eq!(cluster.set_up(&format!("server0-{i}"), false), Some(1)));
        assert_shares(&cluster, servers - down);
        let last = format!("server0-{}", servers - 1);
        group.bench_function(BenchmarkId::new(format!("{servers} servers"), format!("{down} down")), |b| {
            b.iter(|| {
                cluster.set_up(&last, false);
                black_box(cluster.compile());
                cluster.set_up(&last, true);
                black_box(cluster.compile())
            });
        });
        assert_shares(&cluster, servers - down);
    }
}

/// A reload of 16 services of 1,000 servers each, of which every service has lost one, or is weighed anew throughout; connections
/// are kept through it.
fn reload(c: &mut Criterion) {
    let mut group = c.benchmark_group("table/reload");
    let full = plan(16, 1000, false);
    let (mut fewer, mut weighed) = (full.clone(), full.clone());
    fewer.services.iter_mut().for_each(|service| _ = service.servers.pop());
    for service in &mut weighed.services {
        service.servers.iter_mut().enumerate().for_each(|(at, server)| server.weight = 1 + at as u32 % 3);
    }
    for (name, other) in [("a server less", &fewer), ("other weights", &weighed)] {
        let (mut cluster, mut now) = (Cluster::new(&full), 0);
        assert_eq!(cluster.compile().destinations(), 16_000);
        let mut plans = [other, &full].into_iter().cycle();
        group.sample_size(10).bench_function(name, |b| {
            b.iter(|| {
                now += 3_600_000_000_000;
                cluster.renew(plans.next().expect("a cycle"), now);
                black_box(cluster.compile())
            });
        });
    }
}

/// What a worker pays once a burst to see the newest table.
fn read(c: &mut Criterion) {
    let table = || Cluster::new(&plan(1, 3, false)).compile();
    let mut group = c.benchmark_group("table/read");
    let (_publisher, mut readers) = publish::channel(table(), vec![()]);
    group.bench_function("mailbox", |b| {
        b.iter(|| {
            readers[0].renew();
            black_box(readers[0].table().generation)
        });
    });
    let atomic: Atomic<Table> = Atomic::new(table());
    group.bench_function("epoch pin", |b| {
        b.iter(|| {
            let guard = epoch::pin();
            // The comparison needs no unsafe code: the address stands for the table.
            black_box(atomic.load(Ordering::Acquire, &guard).as_raw())
        });
    });
    let swap = Arc::new(ArcSwap::from_pointee(table()));
    let mut cache = arc_swap::Cache::new(Arc::clone(&swap));
    group.bench_function("arc-swap cache", |b| b.iter(|| black_box(cache.load().generation)));
}

criterion_group!(benches, build, fail, reload, read);
criterion_main!(benches);

//! Every client is one server's, and the same that a worker sends it to.

use super::model::Random;
use super::model::plans::{One, query};
use super::model::turn::{Bench, cluster};
use super::{OWN, filter};
use oneip::engine::filter::Filter;
use oneip::model::{HashInput, Selection};
use oneip::verdict::Verdict;
use oneip::xdp::program::Action;
use std::net::IpAddr;

/// Half of the clients have IPv4, half IPv6.
fn every_client_has_one_server(one: &One, down: &[String], clients: usize) {
    let plan = one.both();
    let cluster = cluster(&plan, down);
    let mut filters: Vec<Filter> = Vec::new();
    for (name, _) in &one.servers {
        let Some(filter) = filter(OWN, &cluster, name) else { return };
        filters.push(filter);
    }
    let mut worker = Bench::without_model(&plan, down);
    let mut random = Random(filters.len() as u64);
    for _ in 0..clients / 2000 {
        let frames: Vec<Vec<u8>> = (0..2000)
            .map(|at| {
                let (high, low) = (random.word(), random.word());
                let client = match at % 2 {
                    0 => IpAddr::from((low as u32).to_be_bytes()),
                    _ => IpAddr::from(((high as u128) << 64 | low as u128).to_be_bytes()),
                };
                query(client, 1024 + high as u16 % 60_000)
            })
            .collect();
        for (frame, verdict) in frames.iter().zip(worker.run(&frames)) {
            let Verdict::Forward { server, .. } = verdict else { panic!("{verdict:?}") };
            for (at, filter) in filters.iter().enumerate() {
                let expected = if at == server as usize { Action::Pass } else { Action::Drop };
                let (action, _) = filter.measure(frame, 1).unwrap();
                assert_eq!(action, expected, "filter {at}, the worker says {server}: {frame:02x?}");
            }
        }
    }
    let kept: Vec<u64> = filters.iter().map(|filter| filter.counts().unwrap().kept).collect();
    assert_eq!(kept.iter().sum::<u64>(), clients as u64, "{kept:?}");
}

#[test]
fn two_servers() {
    every_client_has_one_server(&One::weights(&[1, 1], 65_537), &[], 100_000);
}

#[test]
fn three_servers_by_flow_with_weights() {
    let one = One { hash: HashInput::Flow, ..One::weights(&[1, 2, 3], 65_537) };
    every_client_has_one_server(&one, &[], 100_000);
}

#[test]
fn eight_servers_by_remainder_with_two_down() {
    let one = One::weights(&[1; 8], 65_537).selecting(Selection::Modulo);
    every_client_has_one_server(&one, &["s3".into(), "s5".into()], 100_000);
}

#[test]
fn sixteen_servers_with_one_down() {
    every_client_has_one_server(&One::weights(&[1; 16], 65_537), &["s7".into()], 100_000);
}

#[test]
fn sixty_four_servers() {
    // Each client is asked of 64 filters.
    every_client_has_one_server(&One::weights(&[1; 64], 65_537), &[], 20_000);
}

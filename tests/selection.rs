//! The laws of selection: who owns a slot, and who moves when a server fails, returns or joins.

mod model;

use model::plans::{KEY, One, mac, query};
use model::turn::Bench;
use model::{Random, owners, turn};
use oneip::hash;
use oneip::hash::Key;
use oneip::limits::DEFAULT_SLOTS;
use oneip::model::{HashInput, HashKey, NextHop, Selection};
use oneip::table::build::Cluster;
use oneip::table::build::maglev::{self, Candidate, NOBODY};
use oneip::table::{ServiceId, Table};
use oneip::verdict::{Reason, Verdict};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const PRIMES: [u32; 4] = [1009, 2003, 4099, 8209];

/// The owner of every slot, `NOBODY` included.
fn owners_of(table: &Table, service: ServiceId, slots: u32) -> Vec<u16> {
    // The least hash of a slot.
    let hash = |slot: u32| ((slot as u64) << 32).div_ceil(slots as u64) << 32;
    (0..slots).map(|slot| table.place(service, hash(slot)).owner).collect()
}

fn owners_with(one: &One, down: &[usize]) -> Vec<u16> {
    let mut cluster = Cluster::new(&one.plan());
    down.iter().for_each(|i| assert_eq!(cluster.set_up(&one.servers[*i].0, false), Some(1)));
    owners_of(&cluster.compile(), 0, one.slots)
}

/// Which server each client gets.
fn clients_of(table: &Table, service: ServiceId, clients: &[IpAddr]) -> Vec<Option<u16>> {
    let of = |client: &IpAddr| table.service(service).select(hash::source(table.key, *client), number(*client)).1;
    clients.iter().map(of).collect()
}

fn number(client: IpAddr) -> u128 {
    match client {
        IpAddr::V4(client) => client.to_bits().into(),
        IpAddr::V6(client) => client.to_bits(),
    }
}

fn clients(seed: u64, count: usize) -> Vec<IpAddr> {
    let mut random = Random(seed);
    let mut client = |i: usize| match i % 2 {
        0 => IpAddr::V4(Ipv4Addr::from_bits(random.word() as u32)),
        _ => IpAddr::V6(Ipv6Addr::from_bits((random.word() as u128) << 64 | random.word() as u128)),
    };
    (0..count).map(&mut client).collect()
}

/// One to eight servers of any weight, some of them 0.
fn any_service() -> impl Strategy<Value = One> {
    let weight = prop_oneof![1 => Just(0u32), 4 => 1u32..6, 1 => 1u32..=65_535];
    (prop::collection::vec(weight, 1..9), select(&PRIMES[..]), any::<[u8; 16]>())
        .prop_map(|(weights, slots, key)| One::weights(&weights, slots).keyed(key))
}

fn any_selection() -> impl Strategy<Value = Selection> {
    prop_oneof![Just(Selection::Maglev), Just(Selection::Modulo)]
}

/// A service, and some of its servers that are down.
fn service_and_down() -> impl Strategy<Value = (One, Vec<usize>)> {
    any_service().prop_flat_map(|one| {
        let servers: Vec<usize> = (0..one.servers.len()).collect();
        let down = subsequence(servers.clone(), 0..=servers.len());
        (Just(one), down)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn shares_are_exact(weights in prop::collection::vec(0u32..=65_535, 1..12), slots in select(&PRIMES[..]), key: [u8; 16]) {
        let one = One::weights(&weights, slots).keyed(key);
        let shares = Cluster::new(&one.plan()).shares(0);
        let total: u64 = weights.iter().map(|w| *w as u64).sum();
        prop_assert_eq!(shares.iter().sum::<u32>(), if total == 0 { 0 } else { slots });
        for (share, weight) in shares.iter().zip(&weights) {
            let off = (*share as i128 * total as i128 - slots as i128 * *weight as i128).abs();
            prop_assert!(off < total.max(1) as i128, "{} of {} for {} of {}", share, slots, weight, total);
        }
    }

    #[test]
    fn the_order_of_servers_has_no_influence(
        (one, down) in service_and_down(), shuffle in any::<prop::sample::Index>(), turns in 0usize..8
    ) {
        let mut other = one.clone();
        other.servers.rotate_left(turns % one.servers.len());
        let at = shuffle.index(one.servers.len());
        other.servers.swap(0, at);
        let names = |one: &One, owners: Vec<u16>| -> Vec<Option<String>> {
            owners.into_iter().map(|i| (i != NOBODY).then(|| one.servers[i as usize].0.clone())).collect()
        };
        let down_there: Vec<usize> = down
            .iter()
            .map(|i| other.servers.iter().position(|server| server.0 == one.servers[*i].0).expect("the same servers"))
            .collect();
        prop_assert_eq!(names(&one, owners_with(&one, &down)), names(&other, owners_with(&other, &down_there)));
    }

    /// No history: however the servers that are up came to be up.
    #[test]
    fn owners_follow_from_who_is_up(
        (one, down) in service_and_down(), selection in any_selection(), detour in prop::collection::vec((0usize..8, any::<bool>()), 0..12)
    ) {
        let one = one.selecting(selection);
        let clients = clients(1, 400);
        let mut straight = Cluster::new(&one.plan());
        down.iter().for_each(|i| _ = straight.set_up(&one.servers[*i].0, false));
        let mut winding = Cluster::new(&one.plan());
        for (i, up) in detour {
            winding.set_up(&one.servers[i % one.servers.len()].0, up);
        }
        for (i, server) in one.servers.iter().enumerate() {
            winding.set_up(&server.0, !down.contains(&i));
        }
        let (straight, winding) = (straight.compile(), winding.compile());
        prop_assert_eq!(owners_of(&straight, 0, one.slots), owners_of(&winding, 0, one.slots));
        prop_assert_eq!(clients_of(&straight, 0, &clients), clients_of(&winding, 0, &clients));
    }

    /// Whoever else is down at that moment: so also for clients that are on their second or third server already.
    #[test]
    fn nobody_else_moves_when_a_server_fails_or_returns(
        (one, down) in service_and_down(), selection in any_selection(), which in any::<prop::sample::Index>()
    ) {
        let one = one.selecting(selection);
        let clients = clients(2, 600);
        let it = which.index(one.servers.len());
        let mut cluster = Cluster::new(&one.plan());
        down.iter().for_each(|i| _ = cluster.set_up(&one.servers[*i].0, false));
        let mut turn = |up: bool| {
            cluster.set_up(&one.servers[it].0, up);
            let table = cluster.compile();
            (owners_of(&table, 0, one.slots), clients_of(&table, 0, &clients))
        };
        let (up, failed, returned) = (turn(true), turn(false), turn(true));
        prop_assert_eq!(&up, &returned);
        for (before, after) in up.0.iter().zip(&failed.0) {
            prop_assert_eq!(before != after, *before == it as u16);
        }
        for (before, after) in up.1.iter().zip(&failed.1) {
            prop_assert_eq!(before != after, *before == Some(it as u16));
        }
    }

    #[test]
    fn only_those_who_are_up_and_have_weight_are_chosen((one, down) in service_and_down(), selection in any_selection()) {
        let one = one.selecting(selection);
        let mut cluster = Cluster::new(&one.plan());
        down.iter().for_each(|i| _ = cluster.set_up(&one.servers[*i].0, false));
        let takes = |i: usize| one.servers[i].1 > 0 && !down.contains(&i);
        let somebody = (0..one.servers.len()).any(takes);
        let shares = cluster.shares(0);
        prop_assert_eq!(shares.iter().sum::<u32>(), if somebody { one.slots } else { 0 });
        let table = cluster.compile();
        let chosen = owners_of(&table, 0, one.slots).into_iter().map(|i| (i != NOBODY).then_some(i));
        for server in chosen.chain(clients_of(&table, 0, &clients(3, 300))) {
            prop_assert_eq!(server.is_some(), somebody);
            prop_assert!(server.is_none_or(|i| takes(i as usize)));
        }
    }

    /// The twin of the election: the first of the whole order that is up.
    #[test]
    fn the_owner_is_the_first_in_order_that_is_up((one, down) in service_and_down()) {
        let cluster = Cluster::new(&one.plan());
        let owners = owners_with(&one, &down);
        for (slot, owner) in owners.iter().enumerate() {
            let order = cluster.order(0, slot as u32);
            let first = order.iter().find(|i| !down.contains(&(**i as usize))).copied();
            prop_assert_eq!(*owner, first.unwrap_or(NOBODY), "slot {} of order {:?}", slot, order);
            let mut sorted = order;
            sorted.sort_unstable();
            let weighty: Vec<u16> = (0..one.servers.len() as u16).filter(|i| one.servers[*i as usize].1 > 0).collect();
            prop_assert_eq!(sorted, weighty, "the order has each server of some weight once");
        }
    }

    /// With equal weights the population is the paper's, literally.
    #[test]
    fn equal_weights_are_populated_as_in_the_paper(
        names in prop::collection::hash_set("[a-z]{1,6}[0-9]?", 1..9), weight in 1u32..100, slots in select(&PRIMES[..]), key: [u8; 16]
    ) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let candidates: Vec<Candidate> = names.iter().map(|name| Candidate { name, weight }).collect();
        let table = maglev::populate(Key::from(HashKey(key)), &candidates, slots);
        let paper = owners::populate(key, &names, slots);
        prop_assert!(table.iter().map(|i| *i as usize).eq(paper));
    }

    #[test]
    fn the_slot_is_the_upper_half_of_the_hash_scaled(hash: u64, slots in 1u32..=16_777_213) {
        let slot = hash::slot(hash, slots);
        prop_assert_eq!(slot as u128, ((hash >> 32) as u128 * slots as u128) >> 32);
        prop_assert!(slot < slots);
        prop_assert_eq!(slot, hash::slot(hash ^ 0xffff_ffff, slots), "the lower half has no influence");
    }

    #[test]
    fn the_hash_is_siphash_of_the_address(key: [u8; 16], v4: [u8; 4], v6: [u8; 16]) {
        prop_assert_eq!(hash::source(HashKey(key).into(), v4.into()), owners::siphash(key, &v4));
        prop_assert_eq!(hash::source(HashKey(key).into(), v6.into()), owners::siphash(key, &v6));
    }

    /// `lookup` and the data path: what `ServiceTable::select` says of a client is where its frame goes.
    #[test]
    fn a_frame_goes_where_lookup_says((one, down) in service_and_down(), selection in any_selection(), seed: u64) {
        let plan = one.clone().selecting(selection).both();
        let down: Vec<String> = down.iter().map(|i| one.servers[*i].0.clone()).collect();
        let table = turn::table(&plan, &down);
        let clients = clients(seed, 100);
        let frames: Vec<Vec<u8>> = clients.iter().map(|client| query(*client, 5353)).collect();
        // The laws of a turn only: the model populates equal weights.
        let verdicts = Bench::without_model(&plan, &down).run(&frames);
        for (client, verdict) in clients.iter().zip(verdicts) {
            let service = if client.is_ipv4() { 0 } else { 1 };
            let (slot, server) = table.service(service).select(hash::source(table.key, *client), number(*client));
            let expected = server.map_or(Verdict::Drop(Reason::NoServer), |server| Verdict::Forward { service, server });
            prop_assert_eq!(verdict, expected, "{}", client);
            let formula = match selection {
                Selection::Maglev => hash::slot(hash::source(table.key, *client), one.slots) as u128,
                Selection::Modulo => number(*client) % one.servers.len() as u128,
            };
            prop_assert_eq!(slot as u128, formula);
        }
    }
}

#[test]
fn modulo_is_the_position_in_the_file() {
    let one = One::weights(&[1, 1, 1], 1009).selecting(Selection::Modulo);
    let table = turn::table(&one.plan(), &[]);
    // 198.51.100.7 is 3325256711.
    let clients = [
        "0.0.0.0",
        "0.0.0.1",
        "0.0.0.2",
        "0.0.0.3",
        "198.51.100.7",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:ffff",
        "::1:0:0",
    ];
    let expected = [0, 1, 2, 0, 3_325_256_711u32 % 3, 0, 0, 1, 0, 1].map(|i| Some(i as u16));
    assert_eq!(clients_of(&table, 0, &clients.map(|client| client.parse().expect("an address"))), expected);
}

/// Pearson's statistic of observed counts against weights.
fn chi_square(observed: &[u32], weights: &[u32]) -> f64 {
    let (n, total) = (observed.iter().sum::<u32>() as f64, weights.iter().sum::<u32>() as f64);
    let term = |(o, w): (&u32, &u32)| {
        let expected = n * *w as f64 / total;
        (*o as f64 - expected).powi(2) / expected
    };
    observed.iter().zip(weights).map(term).sum()
}

/// Keys that were not chosen for their result: the statistic stays below 30 for 3 and 4 degrees of freedom (p < 1e-5).
fn keys() -> impl Iterator<Item = [u8; 16]> {
    (1..=8u8).map(|i| std::array::from_fn(|at| i.wrapping_mul(17).wrapping_add((at as u8).wrapping_mul(29))))
}

#[test]
fn a_failed_servers_slots_spread_by_weight() {
    let weights = [4, 1, 2, 3, 2];
    for key in keys() {
        let one = One::weights(&weights, 65_537).keyed(key);
        let all = owners_with(&one, &[]);
        let mut down = Vec::new();
        // The heaviest fails, then of the others the next: those who move for a second time spread by weight, too.
        for fails in [0, 3] {
            let before = if down.is_empty() { all.clone() } else { owners_with(&one, &down) };
            down.push(fails);
            let after = owners_with(&one, &down);
            let mut taken = [0; 5];
            for (owner, _) in after.iter().zip(&before).filter(|(_, before)| **before == fails as u16) {
                taken[*owner as usize] += 1;
            }
            let survivors: Vec<usize> = (0..5).filter(|i| !down.contains(i)).collect();
            let observed: Vec<u32> = survivors.iter().map(|i| taken[*i]).collect();
            let weights: Vec<u32> = survivors.iter().map(|i| weights[*i]).collect();
            let statistic = chi_square(&observed, &weights);
            assert!(statistic < 30.0, "{observed:?} for weights {weights:?}: {statistic}");
        }
    }
}

#[test]
fn modulo_clients_of_a_failed_server_spread_by_weight() {
    let weights = [4, 1, 2, 3, 2];
    let clients = clients(5, 100_000);
    for key in keys() {
        let one = One::weights(&weights, 65_537).keyed(key).selecting(Selection::Modulo);
        let own = clients_of(&turn::table(&one.plan(), &[]), 0, &clients);
        let after = clients_of(&turn::table(&one.plan(), &["s0".into()]), 0, &clients);
        let mut taken = [0; 5];
        for (_, server) in own.iter().zip(&after).filter(|(own, _)| **own == Some(0)) {
            taken[server.expect("others are up") as usize] += 1;
        }
        let statistic = chi_square(&taken[1..], &weights[1..]);
        assert!(taken[0] == 0 && statistic < 30.0, "{taken:?}: {statistic}");
    }
}

#[test]
fn clients_spread_over_slots() {
    let one = One::weights(&[1; 5], 65_537);
    let of = clients_of(&turn::table(&one.plan(), &[]), 0, &clients(6, 100_000));
    let mut taken = [0; 5];
    of.iter().for_each(|server| taken[server.expect("all are up") as usize] += 1);
    assert!(chi_square(&taken, &[1; 5]) < 30.0, "{taken:?}");
}

/// One part in n + 1 has to move; Maglev moves some more (its paper's figure 12), never the greater part.
#[test]
fn a_new_server_moves_little_more_than_its_share() {
    for n in [2, 5, 10, 30] {
        let (before, after) = (One::weights(&vec![1; n], 65_537), One::weights(&vec![1; n + 1], 65_537));
        let (before, after) = (owners_with(&before, &[]), owners_with(&after, &[]));
        let to_new = after.iter().filter(|owner| **owner == n as u16).count();
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert!(to_new.abs_diff(65_537 / (n + 1)) <= 1);
        assert!(moved >= to_new && moved < 2 * to_new, "{moved} of 65537 moved, {to_new} to server {} of {}", n, n + 1);
    }
}

#[test]
fn a_name_is_taken_up_and_down_in_every_service() {
    let plan = One::weights(&[1, 1, 1], 1009).both();
    let mut cluster = Cluster::new(&plan);
    assert_eq!(cluster.set_up("nobody", false), None);
    assert_eq!(cluster.set_up("s1", true), Some(0));
    assert_eq!(cluster.set_up("s1", false), Some(2));
    assert_eq!(cluster.set_up("s1", false), Some(0));
    assert_eq!((cluster.shares(0)[1], cluster.shares(1)[1]), (0, 0));
    let (first, second) = (cluster.compile().generation, cluster.compile().generation);
    assert_eq!(second, first + 1);
}

/// A machine is one primary address, in however many services it is.
#[test]
fn a_mac_is_noted_in_every_service() {
    let plan = One::weights(&[1, 1, 1], 1009).both();
    let mut cluster = Cluster::new(&plan);
    let macs = |cluster: &mut Cluster| {
        let table = cluster.compile();
        let mac = |service, server| table.next_hop(table.destination(service, server)).is_forward();
        [0, 1].map(|service| [0, 1, 2].map(|server| mac(service, server)))
    };
    assert_eq!(macs(&mut cluster), [[true; 3]; 2]);
    cluster.set_next_hop(plan.services[0].servers[1].address, None);
    assert_eq!(macs(&mut cluster), [[true, false, true]; 2]);
    cluster.set_next_hop(plan.services[0].servers[1].address, Some(NextHop::on_link(mac(1))));
    assert_eq!(macs(&mut cluster), [[true; 3]; 2]);
    cluster.set_next_hop("192.0.2.77".parse().expect("an address"), None);
    assert_eq!(macs(&mut cluster), [[true; 3]; 2]);
}

/// Another key, another table: nobody who does not know it can aim at a server.
#[test]
fn the_key_decides_everything() {
    let one = One::weights(&[1; 10], 65_537);
    let mut other = KEY;
    other[15] ^= 0x80;
    let (a, b) = (owners_with(&one, &[]), owners_with(&one.clone().keyed(other), &[]));
    let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
    assert!(same < 65_537 / 5, "{same} slots keep their owner where a tenth is chance");
    let client = "198.51.100.7".parse().expect("an address");
    assert_ne!(hash::source(HashKey(KEY).into(), client), hash::source(HashKey(other).into(), client));
}

/// With 1,024 servers of a thousand different weights, in the table that every configuration has.
#[test]
fn shares_are_exact_at_the_limits() {
    let weights: Vec<u32> = (0..1024).map(|i| i * 64 + 1).collect();
    let slots = DEFAULT_SLOTS;
    let one = One { hash: HashInput::Flow, ..One::weights(&weights, slots) };
    let shares = Cluster::new(&one.plan()).shares(0);
    let total: u64 = weights.iter().map(|w| *w as u64).sum();
    for (share, weight) in shares.iter().zip(&weights) {
        assert!((*share as i64 * total as i64 - slots as i64 * *weight as i64).unsigned_abs() < total);
    }
}

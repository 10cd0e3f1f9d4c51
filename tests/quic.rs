//! QUIC: connection IDs that say whose they are, by configurations and by packets.

mod model;

use etherparse::PacketBuilder;
use model::mutate::Mutator;
use model::plans::{CLUSTER_V4, CLUSTER_V6, One};
use model::turn::{self, Bench};
use model::{Random, quic};
use oneip::config::{self, Loaded};
use oneip::limits::MAX_ROUTED;
use oneip::model::{HashInput, Plan, QuicConfig, QuicKey, Selection, ServerId};
use oneip::path::select::Selection as Pipeline;
use oneip::table::Table;
use oneip::table::build::{Cluster, State};
use oneip::verdict::Verdict;
use oneip::wire::connection_id::Codec;
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;

/// Server IDs of 2 and of 3 bytes.
fn id(server: usize, length: usize) -> ServerId {
    ServerId::new(&[0xa0 + server as u8, 0x5b, 0xc3][..length]).unwrap()
}

const PLAIN: QuicConfig = QuicConfig { id: 0, server_id_length: 2, nonce_length: 5, key: None };
const KEYED: QuicConfig =
    QuicConfig { id: 6, server_id_length: 3, nonce_length: 8, key: Some(QuicKey(*b"sixteen bytes !!")) };

/// Five servers behind both families, with connection IDs by both configs.
fn plan(configs: &[QuicConfig]) -> Plan {
    let mut plan = One::weights(&[1, 1, 1, 1, 1], 211).both();
    for service in &mut plan.services {
        service.quic = configs.to_vec();
        for (at, server) in service.servers.iter_mut().enumerate() {
            server.quic_ids = vec![id(at, 2), id(at, 3)];
        }
    }
    plan
}

fn connection_id(config: &QuicConfig, server: usize, random: &mut Random) -> Vec<u8> {
    let nonce: Vec<u8> = (0..config.nonce_length).map(|_| random.word() as u8).collect();
    Codec::new(config).connection_id(id(server, config.server_id_length.into()), &nonce).to_vec()
}

/// A datagram with that connection ID, behind a long or a short header.
fn datagram(id: &[u8], is_long: bool) -> Vec<u8> {
    match is_long {
        true => [&[0xc3, 0, 0, 0, 1, id.len() as u8], id, &[0, 0x40, 0x20], &[0x77; 24]].concat(),
        false => [&[0x43], id, &[0x77; 24]].concat(),
    }
}

fn frame(client: IpAddr, port: u16, datagram: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut frame = Vec::new();
    let written = match client {
        IpAddr::V4(client) => {
            builder.ipv4(client.octets(), CLUSTER_V4.octets(), 64).udp(port, 53).write(&mut frame, datagram)
        }
        IpAddr::V6(client) => {
            builder.ipv6(client.octets(), CLUSTER_V6.octets(), 64).udp(port, 53).write(&mut frame, datagram)
        }
    };
    written.expect("a Vec takes all");
    frame
}

fn clients(count: u16) -> impl Iterator<Item = IpAddr> {
    (0..count).flat_map(|n| {
        let [high, low] = n.to_be_bytes();
        [IpAddr::V4(Ipv4Addr::new(198, 18, high, low)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, n))]
    })
}

/// The server that a table gives a frame.
fn decided(table: &Table, frame: &[u8]) -> Option<u16> {
    let mut pipeline = Pipeline::default();
    pipeline.classify(1, table, |_| frame);
    match pipeline.decide(table)[0].verdict() {
        Verdict::Forward { server, .. } => Some(server),
        _ => None,
    }
}

#[test]
fn connection_ids_are_read_as_by_a_naive_twin() {
    let mut random = Random(1);
    for round in 0..20_000 {
        let server_id_length = 1 + random.below(15);
        let nonce_length = 4 + random.below(MAX_ROUTED - server_id_length - 4 + 1);
        let key = (round % 4 > 0).then(|| QuicKey(std::array::from_fn(|_| random.word() as u8)));
        let (server_id_length, nonce_length) = (server_id_length as u8, nonce_length as u8);
        let config = QuicConfig { id: random.below(7) as u8, server_id_length, nonce_length, key };
        let codec = Codec::new(&config);
        let bytes = |count: u8, random: &mut Random| (0..count).map(|_| random.word() as u8).collect::<Vec<u8>>();
        let server = ServerId::new(&bytes(server_id_length, &mut random)).unwrap();
        let made = codec.connection_id(server, &bytes(nonce_length, &mut random));
        assert_eq!(quic::server_id(&config, &made), Some(server.to_string()), "{config}");
        assert_eq!(codec.server_id(&made), Some(server), "{config}");
        let any = bytes(random.below(21) as u8, &mut random);
        assert_eq!(codec.server_id(&any).map(|id| id.to_string()), quic::server_id(&config, &any), "{config}");
    }
}

/// Whatever the address, the port and the header; by every selection.
#[test]
fn a_connection_stays_with_its_server_wherever_its_client_goes() {
    let mut random = Random(2);
    for (selection, hash) in [
        (Selection::Maglev, HashInput::Source),
        (Selection::Maglev, HashInput::Flow),
        (Selection::Modulo, HashInput::Source),
    ] {
        let mut plan = plan(&[PLAIN, KEYED]);
        plan.services.iter_mut().for_each(|service| (service.selection, service.hash) = (selection, hash));
        let table = turn::table(&plan, &[]);
        for (at, client) in clients(200).enumerate() {
            let (server, config) = (at % 5, [PLAIN, KEYED][at % 2].clone());
            let datagram = datagram(&connection_id(&config, server, &mut random), at % 3 == 0);
            assert_eq!(
                decided(&table, &frame(client, random.word() as u16, &datagram)),
                Some(server as u16),
                "{client}"
            );
        }
        // What nobody's server has made goes by the hash.
        let spread: BTreeSet<Option<u16>> = clients(100)
            .map(|client| {
                decided(&table, &frame(client, 4433, &datagram(&[0xe0 | 7, 0xa1, 0x5b, 1, 2, 3, 4, 5], false)))
            })
            .collect();
        assert_eq!(spread.len(), 5, "{spread:?}");
    }
}

/// Real and forged IDs, cut off, of configs that there are and are not, with damage.
#[test]
fn quic_packets_have_the_models_verdict() {
    let mut random = Random(3);
    let down = vec!["s3".to_owned()];
    for (round, configs) in [&[PLAIN][..], &[KEYED], &[PLAIN, KEYED]].into_iter().enumerate() {
        let plan = plan(configs);
        let mut seeds = Vec::new();
        for client in clients(60) {
            let config = [PLAIN, KEYED][random.below(2)].clone();
            let mut id = connection_id(&config, random.below(6), &mut random);
            match random.below(6) {
                0 => id.truncate(random.below(id.len() + 1)),
                1 => id[0] = random.word() as u8,
                2 => id.extend([1, 2, 3]),
                _ => {}
            }
            seeds.push(frame(client, random.word() as u16, &datagram(&id, random.below(2) == 0)));
        }
        let macs: Vec<[u8; 6]> =
            plan.services[0].servers.iter().filter_map(|server| server.mac).map(|mac| mac.0).collect();
        let mut mutator = Mutator::new(round as u64, &seeds, &macs);
        let mut bench = Bench::new(&plan, &down);
        bench.check(&seeds);
        for _ in 0..50 {
            let frames: Vec<Vec<u8>> = (0..4000).map(|_| mutator.frame()).collect();
            bench.check(&frames);
        }
    }
}

/// Who drains or leaves keeps its connections; who is down has none. Other servers' coming and going moves nobody.
#[test]
fn states_of_servers_decide_whether_their_ids_count() {
    let mut random = Random(4);
    let plan = plan(&[KEYED]);
    let mut cluster = Cluster::new(&plan);
    let packet = |server: usize, random: &mut Random| {
        let client = IpAddr::V4(Ipv4Addr::from_bits(random.word() as u32 & 0xffff | 0xc612_0000));
        frame(client, 4433, &datagram(&connection_id(&KEYED, server, random), false))
    };
    let mut reached = |cluster: &mut Cluster, server: usize| -> BTreeSet<Option<u16>> {
        let table = cluster.compile();
        (0..50).map(|_| decided(&table, &packet(server, &mut random))).collect()
    };
    let (second, drain) = (1_000_000_000, 600_000_000_000);
    let mut states = [State::Active; 5];
    for (state, keeps) in [(State::Draining, true), (State::Down, false), (State::Active, true)] {
        states[2] = state;
        cluster.set_states(0, &states, second, second + drain);
        let of_it = reached(&mut cluster, 2);
        assert_eq!(of_it == BTreeSet::from([Some(2)]), keeps, "{state:?}: {of_it:?}");
        assert!(keeps || !of_it.contains(&Some(2)), "{of_it:?}");
        for other in [0, 1, 3, 4] {
            assert_eq!(reached(&mut cluster, other), BTreeSet::from([Some(other as u16)]), "{state:?}");
        }
    }
    // A reload removes it: it leaves, behind the others, while its connections last.
    let mut after = plan.clone();
    let gone = after.services[0].servers.remove(1);
    after.services[0].servers.push(oneip::model::Server { weight: 0, ..gone });
    after.services[0].leaving = 1;
    cluster.renew(&after, 2 * second);
    states = [State::Active; 5];
    states[4] = State::Draining;
    cluster.set_states(0, &states, 2 * second, 2 * second + drain);
    assert_eq!(reached(&mut cluster, 1), BTreeSet::from([Some(4)]));
    assert_eq!(reached(&mut cluster, 4), BTreeSet::from([Some(3)]));
}

/// The other config comes before any server uses it, and the first one goes when nobody does any more.
#[test]
fn configs_come_and_go_one_after_the_other() {
    let mut random = Random(5);
    let mut cluster = Cluster::new(&plan(&[PLAIN]));
    let reads = |cluster: &mut Cluster, config: &QuicConfig, random: &mut Random| {
        let table = cluster.compile();
        clients(20).enumerate().all(|(at, client)| {
            let id = connection_id(config, at % 5, random);
            decided(&table, &frame(client, 4433, &datagram(&id, false))) == Some((at % 5) as u16)
        })
    };
    for (now, configs, expected) in [
        (0, &[PLAIN][..], [true, false]),
        (1, &[PLAIN, KEYED], [true, true]),
        (2, &[KEYED], [false, true]),
        (3, &[], [false, false]),
    ] {
        cluster.renew(&plan(configs), now * 1_000_000_000);
        assert_eq!([PLAIN, KEYED].map(|config| reads(&mut cluster, &config, &mut random)), expected, "{now}");
    }
}

#[test]
fn the_key_may_stand_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (config, key) = (folder.path().join("t.toml"), folder.path().join("quic.key"));
    fs::write(&key, "9d4f0c6a1b7e35288ac1f2605dbe9473\n").unwrap();
    let text = "[cluster]\nhash_key = \"8f3a1c5e7b9d2046a1b3c5d7e9f00112\"\n[[service]]\nname = \"web\"\naddress = \"203.0.113.80\"\n\
                ports = [\"udp/443\"]\n[service.quic]\nconfig_id = 3\nserver_id_length = 2\nnonce_length = 14\nkey_file = \"quic.key\"\n\
                [[service.server]]\nname = \"a\"\naddress = \"192.0.2.11\"\nquic_id = [\"0a0b\", \"0c0d\"]\n";
    let said = |mode| {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let Loaded { plan, warnings } = config::parse(text, &config).unwrap();
        let service = &plan.services[0];
        assert_eq!(service.servers[0].quic_ids_text(), "0a0b, 0c0d");
        let [QuicConfig { id: 3, server_id_length: 2, nonce_length: 14, key: Some(key) }] = service.quic[..] else {
            panic!("{:?}", service.quic)
        };
        assert_eq!((key.0[0], key.0[15]), (0x9d, 0x73));
        assert!(!format!("{:?}", plan).contains("9d4f"), "a secret");
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(said(0o600), "");
    let warned = said(0o604);
    assert!(warned.contains("t.toml:11:12: every user of this machine can read the key file"), "{warned}");
}

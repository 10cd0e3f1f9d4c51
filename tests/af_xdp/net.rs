//! A worker that takes nothing out of its ring: what the ring has no room for is dispatched by the program in front of it.

use crate::veth::{CLIENT_MAC, CLUSTER_V4, Cable, DEVICE};
use crate::{drain, flood, settled};
use oneip::config;
use oneip::limits::{BEAT_TURNS, RING};
use oneip::model::Prefix;
use oneip::port::{Port, af_xdp};
use oneip::table::build::Cluster;
use oneip::xdp::dispatch::Setup;
use oneip::xdp::{Net, Steer};
use std::thread;
use std::time::Duration;

#[test]
fn a_ring_that_is_full_loses_nothing() {
    let Some(cable) = Cable::lay(1500, 1) else { return };
    let text = format!(
        "[cluster]\nhash_key = \"000102030405060708090a0b0c0d0e0f\"\n[[service]]\nname = \"web\"\naddress = \"{CLUSTER_V4}\"\n\
         [[service.server]]\nname = \"web1\"\naddress = \"192.0.2.1\"\nmac = \"{CLIENT_MAC}\"\n"
    );
    let plan = config::parse(&text, "net.toml").expect("a configuration").plan;
    let table = Cluster::new(&plan).compile();
    thread::scope(|scope| {
        let device = cable.device_thread(scope, || {
            let device = af_xdp::open(DEVICE).unwrap();
            let setup = Setup {
                mac: device.mac,
                egress: 0,
                queues: device.queues,
                flows: 0,
                timed_of: 1,
                others: Default::default(),
            };
            let after = Some(Duration::from_secs(60));
            let steer = Steer::load_with_net(Net { setup, table: &table, after, folder: None }).unwrap();
            let cluster = Prefix::host(CLUSTER_V4.parse().unwrap());
            let (mut steer, mut ports) = device.prepare(steer, &[cluster]).unwrap();
            steer.attach(&device).unwrap();
            let (counters, port) = (steer.counters(), &mut ports[0]);
            (0..BEAT_TURNS).for_each(|_| port.service());
            let ring = RING as u64;
            for round in 1..=3 {
                let before = counters.read().unwrap();
                cable.client_thread(scope, || flood(3 * RING)).join().unwrap();
                let counts = settled(&counters);
                assert_eq!((counts.redirected - before.redirected, counts.by_net - before.by_net), (ring, 2 * ring));
                assert_eq!(counts.redirected, round * ring);
                // It turns again, and has its ring again.
                assert_eq!(drain(port), ring);
            }
            assert_eq!(port.losses().total(), 0);
            assert_eq!(counters.read().unwrap().no_socket, 0);
        });
        device.join().unwrap();
    });
}

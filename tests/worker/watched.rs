//! What an operator is shown of frames that go by: which of them, and what became of each.

use crate::model::plans::query;
use crate::{rig, three};
use oneip::limits::BURST;
use oneip::model::Deliver;
use oneip::port::memory::Memory;
use oneip::table::TunnelEnd;
use oneip::table::build::{Cluster, State};
use oneip::table::trace::{Fate, Points, Seen, Watch};
use oneip::verdict::Reason;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const CLIENT_V6: &str = "2001:db8::7";

fn noted(watch: &Watch) -> Vec<(Seen, Vec<u8>)> {
    std::iter::from_fn(|| watch.take(|seen, bytes| (seen, bytes.to_vec()))).collect()
}

fn take_down(service: usize, cluster: &mut Cluster) {
    for of in 0..2 {
        let state = if of == service { State::Down } else { State::Active };
        cluster.set_states(of as u16, &[state; 3], 0, 0);
    }
}

/// The services are one for IPv4, and one for IPv6.
#[test]
fn of_dropped_frames_it_is_noted_for_which_service_they_were_and_of_others_nothing() {
    let clients: [IpAddr; 2] = [CLIENT.into(), CLIENT_V6.parse().expect("an address")];
    for down in 0..2 {
        let answered = query(clients[1 - down], 5353);
        let mut nowhere = answered.clone();
        // To another port.
        let at = if down == 0 { 56 } else { 36 };
        nowhere[at..at + 2].copy_from_slice(&54u16.to_be_bytes());
        let burst = [vec![answered; BURST - 2], vec![nowhere, query(clients[down], 5353)]].concat();
        let watch = Arc::new(Watch::capture(None, Points::DROPPED, 0, BURST));
        let mut cluster = Cluster::new(&three());
        cluster.set_watch(Some(Arc::clone(&watch)));
        take_down(down, &mut cluster);
        let mut rig = rig(Memory::new(&[burst.clone(), burst].concat()), cluster.compile());
        for _ in 0..2 {
            rig.turn();
            let noted: Vec<_> = noted(&watch).into_iter().map(|(seen, _)| (seen.fate, seen.service)).collect();
            let no_server = (Fate::Drop(Reason::NoServer.name()), Some(down as u16));
            assert_eq!(noted, [(Fate::Drop(Reason::NoService.name()), None), no_server]);
        }
        assert_eq!(watch.lost(), 0, "what is not noted gives its room back");
    }
}

#[test]
fn a_frame_that_is_damaged_behind_its_ip_header_is_still_its_senders() {
    let clients: [IpAddr; 2] = [CLIENT.into(), CLIENT_V6.parse().expect("an address")];
    for client in clients {
        let mut damaged = query(client, 5353);
        // A length beyond the frame.
        let at = if client.is_ipv4() { 16 } else { 18 };
        damaged[at] = 0x7f;
        let watch = Arc::new(Watch::new(client, BURST));
        let mut cluster = Cluster::new(&three());
        cluster.set_watch(Some(Arc::clone(&watch)));
        let frames = [damaged, query("192.0.2.1".parse().expect("an address"), 5353)];
        rig(Memory::new(&frames), cluster.compile()).turn();
        let fates: Vec<Fate> = noted(&watch).into_iter().map(|(seen, _)| seen.fate).collect();
        assert_eq!(fates, [Fate::Drop(Reason::Malformed.name())], "{client}");
    }
}

/// Each of two clients sends a packet that goes in two parts.
#[test]
fn a_packet_that_is_sent_in_fragments_is_noted_with_all_of_them() {
    let other = Ipv4Addr::new(198, 51, 100, 8);
    let frames = [other, CLIENT].map(|client| {
        let mut frame = query(client.into(), 5353);
        // It may be fragmented.
        frame[20] = 0;
        frame
    });
    for (points, expected) in [(Points::SENT, 2), (Points::ALL, 3), (Points::RECEIVED, 1)] {
        let watch = Arc::new(Watch::capture(Some(CLIENT.into()), points, 200, BURST));
        let mut plan = three();
        plan.services[0].deliver = Deliver::Ipip;
        let mut cluster = Cluster::new(&plan);
        cluster.set_watch(Some(Arc::clone(&watch)));
        // 16 bytes of data a packet.
        cluster.set_tunnel_end(TunnelEnd { v4: Some(Ipv4Addr::new(10, 0, 0, 254)), v6: None, mtu: 60 });
        let mut rig = rig(Memory::with_spares(&frames, BURST), cluster.compile());
        rig.turn();
        let memory = rig.worker.port();
        let sent: Vec<&[u8]> = memory.sent().iter().map(|at| memory.frame(*at as usize)).collect();
        assert_eq!(sent.len(), 4);
        let noted = noted(&watch);
        assert_eq!(noted.len(), expected, "{points:?}");
        let noted_sent: Vec<&[u8]> =
            noted.iter().filter(|(seen, _)| seen.is_sent).map(|(_, bytes)| &bytes[..]).collect();
        assert!(noted_sent == if points.sent { &sent[2..] } else { &[][..] }, "{points:?}");
    }
}

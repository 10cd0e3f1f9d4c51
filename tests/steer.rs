//! What steer takes from the kernel and what it leaves, frame by frame: the program is run by BPF_PROG_TEST_RUN.

use std::net::IpAddr;

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use oneip::limits::MAX_ADDRESSES;
use oneip::model::{Mac, Prefix};
use oneip::xdp::{Action, Steer, SteerCounts, XdpError};

const OWN: Mac = Mac([0x02, 0, 0, 0, 0, 0xd0]);
const SENDER: Mac = Mac([0x02, 0, 0, 0, 0, 0xc1]);
const CLUSTER_V4: [u8; 4] = [203, 0, 113, 80];
const OTHER_V4: [u8; 4] = [203, 0, 113, 81];
const CLUSTER_V6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80];
const OTHER_V6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x81];

/// 802.1Q and 802.1ad.
const C_TAG: u16 = 0x8100;
const S_TAG: u16 = 0x88a8;

/// `None` without root, and it says so.
fn steer() -> Option<Steer> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return None;
    }
    let mut steer = Steer::load(OWN, 1).unwrap();
    steer.set_cluster_addresses(&[Prefix::host(CLUSTER_V4.into()), Prefix::host(CLUSTER_V6.into())]).unwrap();
    Some(steer)
}

fn v4(mac: Mac, address: [u8; 4]) -> Vec<u8> {
    udp(PacketBuilder::ethernet2(SENDER.0, mac.0).ipv4([198, 51, 100, 7], address, 64))
}

fn v6(mac: Mac, address: [u8; 16]) -> Vec<u8> {
    udp(PacketBuilder::ethernet2(SENDER.0, mac.0).ipv6(OTHER_V6, address, 64))
}

fn udp(packet: PacketBuilderStep<IpHeaders>) -> Vec<u8> {
    let mut frame = Vec::new();
    packet.udp(4000, 53).write(&mut frame, &[0x5a; 22]).unwrap();
    frame
}

/// As `frame`, with VLAN tags of these types.
fn tagged(frame: &[u8], types: &[u16]) -> Vec<u8> {
    let tags = types.iter().flat_map(|kind| [(kind >> 8) as u8, *kind as u8, 0x00, 0x05]);
    frame[..12].iter().copied().chain(tags).chain(frame[12..].iter().copied()).collect()
}

/// As `frame`, untagged, with another ethertype.
fn retyped(frame: &[u8], kind: u16) -> Vec<u8> {
    [&frame[..12], &kind.to_be_bytes(), &frame[14..]].concat()
}

#[test]
fn frames_to_a_cluster_address_are_taken_and_stamped() {
    let Some(steer) = steer() else { return };
    let (v4, v6) = (v4(OWN, CLUSTER_V4), v6(OWN, CLUSTER_V6));
    let mut no_version = v4.clone();
    no_version[14] = 0;
    let taken = [
        ("IPv4", v4.clone()),
        ("IPv6", v6.clone()),
        ("IPv4, 802.1Q", tagged(&v4, &[C_TAG])),
        ("IPv6, 802.1Q", tagged(&v6, &[C_TAG])),
        ("IPv4, 802.1ad and 802.1Q", tagged(&v4, &[S_TAG, C_TAG])),
        ("IPv6, 802.1ad and 802.1Q", tagged(&v6, &[S_TAG, C_TAG])),
        ("IPv4, two tags of 802.1Q", tagged(&v4, &[C_TAG, C_TAG])),
        ("IPv4, nothing behind the destination address", v4[..34].to_vec()),
        ("IPv6, nothing behind the destination address", v6[..54].to_vec()),
        ("IPv4, a version that the worker will not like", no_version),
        ("IPv4, 1514 bytes", [&v4[..], &vec![0; 1514 - v4.len()]].concat()),
    ];
    let mut last = 0;
    for (what, frame) in &taken {
        // No ring is bound here, so a frame that is taken is dropped.
        let (action, arrival, behind) = steer.judge(frame).unwrap();
        assert_eq!(action, Action::Drop, "{what}");
        assert!(arrival > last, "{what}: a later frame has a later stamp");
        assert_eq!(&behind, frame, "{what}: the frame is not changed");
        last = arrival;
    }
    let seen = taken.len() as u64;
    let expected = SteerCounts { seen, no_socket: seen, ..SteerCounts::default() };
    assert_eq!(steer.counters().read().unwrap(), expected);
}

#[test]
fn everything_else_is_left_to_the_kernel_unchanged() {
    let Some(steer) = steer() else { return };
    let (to_v4, to_v6) = (v4(OWN, CLUSTER_V4), v6(OWN, CLUSTER_V6));
    let passed = [
        ("IPv4 to another address", v4(OWN, OTHER_V4)),
        ("IPv6 to another address", v6(OWN, OTHER_V6)),
        ("802.1Q, IPv4 to another address", tagged(&v4(OWN, OTHER_V4), &[C_TAG])),
        ("flooded: another host's MAC", v4(SENDER, CLUSTER_V4)),
        ("a MAC that differs in its last bit", v6(Mac([0x02, 0, 0, 0, 0, 0xd1]), CLUSTER_V6)),
        ("broadcast", v4(Mac([0xff; 6]), CLUSTER_V4)),
        ("multicast", v6(Mac([0x33, 0x33, 0, 0, 0, 1]), CLUSTER_V6)),
        ("ARP", retyped(&to_v4, 0x0806)),
        ("an ethertype nobody knows", retyped(&to_v4, 0x88b5)),
        ("an 802.3 length", retyped(&to_v4, 46)),
        ("IPv4 said to be IPv6", retyped(&to_v4, 0x86dd)),
        ("three tags", tagged(&to_v4, &[S_TAG, C_TAG, C_TAG])),
        ("an Ethernet header alone", to_v4[..14].to_vec()),
        ("IPv4 cut in the destination address", to_v4[..33].to_vec()),
        ("IPv6 cut in the destination address", to_v6[..53].to_vec()),
        ("802.1Q cut in the tag", tagged(&to_v4, &[C_TAG])[..17].to_vec()),
        ("802.1ad cut in the inner tag", tagged(&to_v4, &[S_TAG, C_TAG])[..21].to_vec()),
    ];
    for (what, frame) in &passed {
        let (action, arrival, behind) = steer.judge(frame).unwrap();
        assert_eq!((action, arrival), (Action::Pass, 0), "{what}");
        assert_eq!(&behind, frame, "{what}: the frame is not changed");
    }
    let seen = passed.len() as u64;
    assert_eq!(steer.counters().read().unwrap(), SteerCounts { seen, passed: seen, ..SteerCounts::default() });
}

#[test]
fn the_set_of_cluster_addresses_is_replaced() {
    let Some(mut steer) = steer() else { return };
    let action = |steer: &Steer, frame: Vec<u8>| steer.judge(&frame).unwrap().0;
    steer.set_cluster_addresses(&[OTHER_V4.into(), CLUSTER_V6.into(), CLUSTER_V6.into()].map(Prefix::host)).unwrap();
    assert_eq!(action(&steer, v4(OWN, CLUSTER_V4)), Action::Pass, "went");
    assert_eq!(action(&steer, v4(OWN, OTHER_V4)), Action::Drop, "came");
    assert_eq!(action(&steer, v6(OWN, CLUSTER_V6)), Action::Drop, "stayed");
    steer.set_cluster_addresses(&[]).unwrap();
    assert_eq!(action(&steer, v6(OWN, CLUSTER_V6)), Action::Pass, "went");
}

/// One that contains another is there as long as either is.
#[test]
fn a_prefix_is_taken_whole() {
    let Some(mut steer) = steer() else { return };
    let prefix = |address: IpAddr, length| Prefix { address, length };
    let (wide, narrow) = (prefix([10, 1, 0, 0].into(), 16), prefix([10, 1, 2, 0].into(), 24));
    let far = prefix(IpAddr::from([0x20, 1, 0xd, 0xb8, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 48);
    let taken = |steer: &Steer, to| steer.judge(&v4(OWN, to)).unwrap().0 == Action::Drop;
    steer.set_cluster_addresses(&[wide, narrow, far]).unwrap();
    let mut inside = [0; 16];
    inside[..6].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 0x80]);
    inside[15] = 9;
    assert_eq!(steer.judge(&v6(OWN, inside)).unwrap().0, Action::Drop);
    inside[5] = 0x81;
    assert_eq!(steer.judge(&v6(OWN, inside)).unwrap().0, Action::Pass);
    let asked = [[10, 1, 2, 0], [10, 1, 2, 255], [10, 1, 3, 1], [10, 2, 2, 1]];
    for (set, expected) in [
        (&[wide, narrow][..], [true, true, true, false]),
        (&[narrow], [true, true, false, false]),
        (&[wide], [true, true, true, false]),
        (&[Prefix::host([10, 1, 2, 0].into())], [true, false, false, false]),
    ] {
        steer.set_cluster_addresses(set).unwrap();
        assert_eq!(asked.map(|to| taken(&steer, to)), expected, "{set:?}");
    }
}

#[test]
fn a_full_set_can_be_replaced_by_another_full_set() {
    let Some(mut steer) = steer() else { return };
    let set =
        |first: u32| (first..first + MAX_ADDRESSES as u32).map(|number| Prefix::host(number.to_be_bytes().into()));
    let (old, new): (Vec<Prefix>, Vec<Prefix>) = (set(0x0a00_0000).collect(), set(0x0b00_0000).collect());
    steer.set_cluster_addresses(&old).unwrap();
    steer.set_cluster_addresses(&new).unwrap();
    let too_many: Vec<Prefix> = new.iter().copied().chain([Prefix::host(OTHER_V4.into())]).collect();
    let error = steer.set_cluster_addresses(&too_many).unwrap_err();
    assert!(matches!(error, XdpError::TooManyAddresses { count } if count == MAX_ADDRESSES + 1), "{error}");
    let action = |to| steer.judge(&v4(OWN, to)).unwrap().0;
    assert_eq!(action([10, 0, 0, 1]), Action::Pass);
    assert_eq!(action([11, 0, 0, 1]), Action::Drop, "a set that is refused changes nothing");
}

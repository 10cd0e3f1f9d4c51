use super::*;

/// At these addresses or prefixes; the first is the one that checks ask for.
fn service(addresses: &[&str]) -> Service {
    let prefixes: Vec<Prefix> = addresses.iter().map(|text| text.parse().expect("a prefix")).collect();
    Service {
        name: "web".into(),
        address: prefixes[0].first_host(),
        prefixes: if prefixes.len() == 1 && prefixes[0].is_host() { Vec::new() } else { prefixes },
        ports: Vec::new(),
        hash: HashInput::Source,
        deliver: Deliver::L2,
        selection: Selection::Maglev,
        slots: 1009,
        drain: Duration::ZERO,
        until_closed: false,
        second_chance: false,
        servers: Vec::new(),
        leaving: 0,
        health: None,
        withdrawn: false,
        limit: None,
        quic: Vec::new(),
    }
}

#[test]
fn a_service_has_all_its_addresses_and_no_others() {
    for (of, has, lacks) in [
        (&["192.0.2.1"][..], &["192.0.2.1"][..], "192.0.2.2"),
        (&["192.0.2.1", "198.51.100.0/24"], &["192.0.2.1", "198.51.100.9"], "192.0.2.2"),
        (&["2001:db8::/64"], &["2001:db8::1", "2001:db8::"], "2001:db8:0:1::"),
    ] {
        let service = service(of);
        assert!(has.iter().all(|address| service.has_address(address.parse().expect("an address"))), "{of:?}");
        assert!(!service.has_address(lacks.parse().expect("an address")), "{of:?}");
        assert_eq!(service.addresses_text(), of.join(", "));
    }
    let [one, both, other] = [&["192.0.2.1"][..], &["192.0.2.2", "192.0.2.1"], &["192.0.2.2"]].map(service);
    assert!(one.shares_address(&both) && both.shares_address(&other) && !one.shares_address(&other));
}

/// Of a worker of one device: its rings, the caches of two threads (256 mbufs and half as many more each), and three bursts of 64.
#[test]
fn mbufs_are_enough_and_one_less_than_a_power_of_two() {
    assert_eq!(Dpdk::least_mbufs(4096, 1), 4096 + 768 + 192);
    assert_eq!(Dpdk::least_mbufs(4096, 3), Dpdk::least_mbufs(4096, 1) + 128, "a burst waits for each device");
    assert_eq!(Dpdk::default_mbufs(4096, 1), 8191);
    assert_eq!(Dpdk::default_mbufs(8191 - 768 - 192, 1), 8191, "just enough");
    assert_eq!(Dpdk::default_mbufs(8192 - 768 - 192, 1), 16383);
}

#[test]
fn what_is_configured_is_called_as_it_is_written() {
    assert_eq!([HashInput::Source, HashInput::Flow].map(HashInput::name), ["source", "flow"]);
    assert_eq!([Selection::Maglev, Selection::Modulo].map(Selection::name), ["maglev", "modulo"]);
    for (deliver, text) in [
        (Deliver::L2, "l2"),
        (Deliver::Ipip, "ipip"),
        (Deliver::Gue { port: 6080 }, "gue to port 6080"),
        (Deliver::Gre, "gre"),
        (Deliver::L3dsr { dscp: 7 }, "l3dsr with dscp 7"),
    ] {
        assert_eq!(deliver.to_string(), text);
        assert_eq!(deliver.is_routed(), deliver != Deliver::L2, "a frame to a MAC stays on its link");
    }
    let tags = [None, Some(0), Some(7)].map(|id| Tags::of_vlan(id).to_string());
    assert_eq!(tags, ["as received", "untagged", "7"]);
}

#[test]
fn limits_are_said_with_their_bursts_and_nothing_is_said_of_others() {
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    let per_source = PerSource { prefix_v4: 32, prefix_v6: 64, packets: None, syn: rate(50, 64) };
    let whole = Limit { packets: None, bits: None, syn: rate(20_000, 2000), per_source: None, only_counts: false };
    assert_eq!(whole.to_string(), "at most 20000 SYN/s (burst 2000)");
    let both = Limit { per_source: Some(per_source.clone()), only_counts: true, ..whole.clone() };
    let text = "at most 20000 SYN/s (burst 2000); of each /32 and /64 at most 50 SYN/s (burst 64); only counted";
    assert_eq!(both.to_string(), text);
    let each = Limit { syn: None, per_source: Some(per_source), ..whole };
    assert_eq!(each.to_string(), "of each /32 and /64 at most 50 SYN/s (burst 64)");
    let kinds = |limit: &Limit| limit.rates().map(|(kind, _)| kind.name()).collect::<Vec<_>>();
    assert_eq!((kinds(&both), kinds(&each)), (vec!["source_syn", "syn"], vec!["source_syn"]));
    let odd = OddLimit { rates: [rate(20_000, 2000), rate(1000, 100), None], only_counts: true };
    assert_eq!(odd.to_string(), "at most 20000 fragments/s (burst 2000), 1000 icmp/s (burst 100); only counted");
}

#[test]
fn what_is_kept_as_text_comes_back() {
    fn comes_back<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + fmt::Debug>(of: T, text: &str) {
        assert_eq!(serde_json::to_value(&of).expect("it is text"), text);
        assert_eq!(serde_json::from_value::<T>(text.into()).expect("it was written"), of);
    }
    comes_back(Mac([2, 0, 0, 1, 0xab, 9]), "02:00:00:01:ab:09");
    comes_back(Port { transport: Transport::Udp, number: 443 }, "udp/443");
    comes_back(ServerId::new(&[1, 0xab, 0]).expect("three bytes"), "01ab00");
    let prefix = |address: &str, length| Prefix { address: address.parse().expect("an address"), length };
    for text in ["192.0.2.0/24", "0.0.0.0/0", "2001:db8:2::/64", "::/0"] {
        let (address, length) = text.split_once('/').expect("a prefix");
        comes_back(prefix(address, length.parse().expect("a length")), text);
    }
    comes_back(prefix("192.0.2.1", 32), "192.0.2.1");
    for wrong in ["192.0.2.0/33", "2001:db8::/129", "192.0.2.1/24", "2001:db8::1/64", "192.0.2.0/", "web"] {
        assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
    }
}

#[test]
fn a_server_id_is_its_bytes_and_how_many_they_are() {
    let ids = [&[7][..], &[7, 0]].map(|bytes| ServerId::new(bytes).expect("few bytes"));
    assert!(ids[0] != ids[1] && ids[0].bytes() == 7 && ids[1].bytes() == 7);
    let all = ServerId::new(&[0xff; 15]).expect("as many as there may be");
    assert_eq!(all.bytes(), u128::MAX >> 8);
    let config = |server_id_length, key| QuicConfig { id: 0, server_id_length, nonce_length: 4, key }.to_string();
    assert_eq!(config(3, Some(QuicKey([0; 16]))), "config 0, server ID of 3 bytes and nonce of 4, encrypted");
    assert_eq!(config(1, None), "config 0, server ID of 1 byte and nonce of 4, plaintext");
}

/// The address that stands for the network is passed over, where there is one.
#[test]
fn the_first_host_is_an_address_that_a_host_may_have() {
    for (prefix, first) in [
        ("192.0.2.0/24", "192.0.2.1"),
        ("192.0.2.4/30", "192.0.2.5"),
        ("192.0.2.4/31", "192.0.2.4"),
        ("192.0.2.4", "192.0.2.4"),
        ("2001:db8::/64", "2001:db8::1"),
        ("2001:db8::4/126", "2001:db8::5"),
        ("2001:db8::4/127", "2001:db8::4"),
        ("2001:db8::4", "2001:db8::4"),
    ] {
        assert_eq!(prefix.parse::<Prefix>().expect("a prefix").first_host().to_string(), first, "{prefix}");
    }
}

#[test]
fn a_mac_address_is_six_pairs_of_digits() {
    assert_eq!("02-00-00-01-aB-09".parse(), Ok(Mac([2, 0, 0, 1, 0xab, 9])));
    for wrong in
        ["", "02:00:00:01:ab", "02:00:00:01:ab:09:00", "2:00:00:01:ab:09", "02:00:00:01:ab:+9", "02:00:00:01:ab:009"]
    {
        assert_eq!(wrong.parse::<Mac>(), Err(()), "{wrong}");
    }
}

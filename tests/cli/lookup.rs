//! `oneip lookup`: which server each client has.

use std::fmt::Write;
use std::hash::Hasher;
use std::net::IpAddr;

use serde_json::Value;
use siphasher::sip::SipHasher13;

use crate::program::{Folder, ended, oneip};

/// SipHash-1-3 by another hand, over the address in network byte order.
fn hash(client: IpAddr) -> u64 {
    let key: Vec<u8> = (0..16).collect();
    let mut hasher = SipHasher13::new_with_key(&key.try_into().unwrap());
    match client {
        IpAddr::V4(client) => hasher.write(&client.octets()),
        IpAddr::V6(client) => hasher.write(&client.octets()),
    }
    hasher.finish()
}

fn answers(folder: &Folder, arguments: &str, input: &str) -> Vec<Value> {
    let answers: Value = serde_json::from_str(&folder.run_on("lookup", arguments, input).done()).unwrap();
    answers.as_array().unwrap().clone()
}

#[test]
fn the_json_is_literally_as_promised() {
    let folder = Folder::new();
    let answer = folder.run("lookup", "--json 198.51.100.7").done();
    let hash = hash("198.51.100.7".parse().unwrap());
    let slot = ((hash >> 32) * 65_537) >> 32;
    let server = answers(&folder, "--json 198.51.100.7", "")[0]["server"].as_str().unwrap().to_owned();
    let expected = format!(
        "[\n{{\"client\":\"198.51.100.7\",\"service\":\"web\",\"hash\":\"0x{hash:016x}\",\"slot\":{slot},\"server\":\"{server}\"}}\n]\n"
    );
    assert_eq!(answer, expected);
    assert_eq!(folder.run_on("lookup", "--json", "").done(), "[\n]\n", "nobody asked about");
}

#[test]
fn hash_and_slot_are_siphash_and_its_scaling() {
    let folder = Folder::new();
    let clients: [String; 2] = [
        (0..2000u32).map(|n| format!("{}\n", std::net::Ipv4Addr::from(n.wrapping_mul(2_654_435_761)))).collect(),
        (0..2000u128).map(|n| format!("{}\n", std::net::Ipv6Addr::from((n << 71) | (n * n)))).collect(),
    ];
    for (service, slots, clients) in [("web", 65_537, &clients[0]), ("web6", 1009, &clients[1])] {
        let answers = answers(&folder, &format!("--json --service {service}"), clients);
        assert_eq!(answers.len(), 2000);
        for (answer, client) in answers.iter().zip(clients.lines()) {
            let hash = hash(client.parse().unwrap());
            assert_eq!(answer["client"], client);
            assert_eq!(answer["service"], service);
            assert_eq!(answer["hash"], format!("{hash:#018x}"), "0x and 16 digits, the leading zeros too");
            assert_eq!(answer["slot"], ((hash >> 32) * slots) >> 32);
        }
    }
}

#[test]
fn modulo_takes_the_address_as_a_number() {
    let folder = Folder::new();
    for (at, answer) in
        answers(&folder, "--json --service plain", "0.0.0.5\n198.51.100.7\n255.255.255.255\n").iter().enumerate()
    {
        let remainder = [5 % 3, 0xc633_6407_u32 % 3, u32::MAX % 3][at];
        assert_eq!((&answer["slot"], &answer["server"]), (&remainder.into(), &format!("web{}", remainder + 1).into()));
    }
    let config =
        crate::program::CONFIG.replace("203.0.113.81", "2001:db8:80::81").replace("192.0.2.1", "2001:db8:2::1");
    let v6 = Folder::with(&config.replace("203.0.113.80", "2001:db8:80::82"));
    let client: std::net::Ipv6Addr = "2001:db8:1::ffff:3".parse().unwrap();
    assert_eq!(answers(&v6, "--json --service plain", &client.to_string())[0]["slot"], (client.to_bits() % 3) as u64);
}

#[test]
fn down_servers_hand_over_their_own_clients_only() {
    let folder = Folder::new();
    let clients: String = (0..3000u32).map(|n| format!("{}\n", std::net::Ipv4Addr::from(n * 65_537))).collect();
    for service in ["web", "plain"] {
        let servers = |down: &str| -> Vec<Value> {
            let answers = answers(&folder, &format!("--json --service {service} {down}"), &clients);
            answers.into_iter().map(|answer| answer["server"].clone()).collect()
        };
        let (all, without) = (servers(""), servers("--down web2"));
        for (was, is) in all.iter().zip(&without) {
            assert!(is != "web2" && (was == "web2" || was == is), "{service}: {was}, then {is}");
        }
        for survivor in ["web1", "web3"] {
            let took = all.iter().zip(&without).filter(|(was, is)| *was == "web2" && *is == survivor).count();
            assert!((300..700).contains(&took), "{service}: half of some thousand clients moved to {survivor}: {took}");
        }
        assert!(servers("--down web1 --down web2 --down web3").iter().all(Value::is_null));
    }
    let said = folder.run("lookup", "--down web9 198.51.100.7").failed();
    assert_eq!(said, "--down web9: there is no such server; there are web1, web2, web3\n");
}

#[test]
fn lines_for_people_name_client_and_server() {
    let folder = Folder::new();
    let out = folder.run("lookup", "198.51.100.7 198.51.100.8").done();
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    let server = answers(&folder, "--json 198.51.100.7", "")[0]["server"].as_str().unwrap().to_owned();
    assert_eq!((rows.len(), rows[0][0], rows[0][1], rows[0][2]), (2, "198.51.100.7", server.as_str(), "slot"));
    let out = folder.run("lookup", "--down web1 --down web2 --down web3 198.51.100.7").done();
    assert!(out.contains("(no server is up)"), "{out}");
}

#[test]
fn standard_input_is_forgiving_about_space_and_strict_about_the_rest() {
    let folder = Folder::new();
    let clients = answers(&folder, "--json", "  198.51.100.7\r\n\n\n198.51.100.8");
    assert_eq!(clients.len(), 2);
    let said = folder.run_on("lookup", "", "198.51.100.7\nhost\n\n198.51.100.256\n").failed();
    assert_eq!(
        said,
        "standard input, line 2: `host` is not an IP address\nstandard input, line 4: `198.51.100.256` is not an IP address\n"
    );
    let said = folder.run_on("lookup", "", &"x\n".repeat(1000)).failed();
    assert_eq!((said.lines().count(), said.lines().last()), (11, Some("... and 990 more lines")), "{said}");
}

#[test]
fn what_an_answer_cannot_mean_is_warned_of() {
    let folder = Folder::new();
    let warned = folder.run("lookup", "--json 2001:db8::1");
    assert_eq!(warned.code, Some(0));
    assert_eq!(
        warned.err,
        "warning: 2001:db8::1 cannot be a client of service web on 203.0.113.80: the families differ\n"
    );
    let answers: Value = serde_json::from_str(&warned.out).expect("standard output is the document alone");
    assert_eq!(answers[0]["server"], Value::Null);
    assert_eq!(answers[0]["reason"], "the families of client and service differ");
    let warned = folder.run("lookup", "2001:db8::1 198.51.100.7");
    let lines: Vec<&str> = warned.out.lines().collect();
    assert_eq!(lines[0].split_once(' ').unwrap().1.trim(), "(none: the families of client and service differ)");
    assert!(lines[1].contains(" web") && lines[1].contains(" slot "), "{}", warned.out);
    let flow = Folder::with(&crate::program::CONFIG.replacen("ports =", "hash = \"flow\"\nports =", 1));
    let warned = flow.run("lookup", "--json 198.51.100.7");
    assert!(warned.code == Some(0) && warned.err.starts_with("warning: service web hashes flows"), "{}", warned.err);
}

#[test]
fn a_million_addresses() {
    const COUNT: u32 = 1_000_000;
    let mut clients = String::new();
    for n in 0..COUNT {
        writeln!(clients, "{}", std::net::Ipv4Addr::from(n * 4099)).unwrap();
    }
    let out = Folder::new().run_on("lookup", "--json", &clients).done();
    let (mut counts, mut lines) = ([0; 3], 0);
    for line in out.lines().filter(|line| line.len() > 2) {
        lines += 1;
        for (count, name) in counts.iter_mut().zip(["\"web1\"", "\"web2\"", "\"web3\""]) {
            *count += u32::from(line.contains(name));
        }
    }
    assert_eq!((lines, counts.iter().sum::<u32>()), (COUNT, COUNT));
    // A third each; a standard deviation is 471.
    assert!(counts.iter().all(|count| count.abs_diff(COUNT / 3) < 3000), "{counts:?}");
}

#[test]
fn what_is_not_there_is_named() {
    let said = Folder::new().run("lookup", "--service nonesuch 198.51.100.7").failed();
    assert_eq!(said, "--service nonesuch: there is no such service; there are web, web6, plain\n");
    let said = ended(&mut oneip("lookup -c nonesuch.toml 198.51.100.7"), "").failed();
    assert!(said.starts_with("nonesuch.toml"), "{said}");
}

//! `oneip replay`: a capture in, a capture out.

use std::fs;
use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use serde_json::{Value, json};

use crate::program::{CONFIG, Folder};

const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const DISPATCHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A frame from a client, as the router hands it over.
pub fn frame(client: Ipv4Addr, cluster: [u8; 4], port: u16) -> Vec<u8> {
    let packet =
        PacketBuilder::ethernet2(ROUTER, DISPATCHER).ipv4(client.octets(), cluster, 64).tcp(40_000, port, 1, 1024);
    let mut frame = Vec::new();
    packet.write(&mut frame, b"hello").unwrap();
    frame
}

fn web(client: u8) -> Vec<u8> {
    frame(Ipv4Addr::new(198, 51, 100, client), [203, 0, 113, 80], 80)
}

/// A capture of microseconds, little-endian; the frames come a millisecond apart.
pub fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut capture = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
    for (at, frame) in (0u32..).zip(frames) {
        let length = frame.len() as u32;
        for word in [1_700_000_000 + at / 1000, at % 1000 * 1000 + 7, length, length] {
            capture.extend(word.to_le_bytes());
        }
        capture.extend(frame);
    }
    capture
}

/// Microseconds since 1970 and bytes of each frame.
fn frames(capture: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut reader = pcap_file::pcap::PcapReader::new(capture).unwrap();
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        frames.push((packet.timestamp.as_micros() as u64, packet.data.into_owned()));
    }
    frames
}

/// The server that `lookup` names, by number.
fn server(folder: &Folder, client: u8, options: &str) -> u8 {
    let out = folder.run("lookup", &format!("--json {options} 198.51.100.{client}")).done();
    let answers: Value = serde_json::from_str(&out).unwrap();
    answers[0]["server"].as_str().unwrap().trim_start_matches("web").parse().unwrap()
}

/// What is forwarded, dropped and passed, in turn.
fn mixed() -> Vec<Vec<u8>> {
    let arp = [vec![0xff; 6], ROUTER.to_vec(), vec![8, 6], vec![0; 46]].concat();
    let elsewhere = frame(Ipv4Addr::new(198, 51, 100, 7), [203, 0, 113, 99], 80);
    let closed = frame(Ipv4Addr::new(198, 51, 100, 7), [203, 0, 113, 80], 81);
    vec![web(7), closed, arp, web(8), elsewhere, web(9), web(7)]
}

#[test]
fn forwarded_frames_come_out_in_order_with_their_timestamps_and_bytes() {
    let folder = Folder::new();
    let input = mixed();
    fs::write(folder.path("in.pcap"), capture(&input)).unwrap();
    let out = folder.run("replay", "in.pcap out.pcap --json --verdicts verdicts").done();

    let sent = frames(&fs::read(folder.path("out.pcap")).unwrap());
    let forwarded = [(0, 7), (3, 8), (5, 9), (6, 7)];
    assert_eq!(sent.len(), forwarded.len());
    let (mut verdicts, mut servers) = (String::new(), [0u64; 4]);
    for ((at, client), (time, bytes)) in forwarded.into_iter().zip(&sent) {
        let server = server(&folder, client, "");
        servers[server as usize] += 1;
        assert_eq!(*time, 1_700_000_000_000_000 + at * 1000 + 7);
        assert_eq!(bytes[..6], [2, 0, 0, 0, 0, 0x10 + server], "to the server's MAC");
        assert_eq!(bytes[6..12], DISPATCHER, "from where the frame was sent to");
        assert_eq!(bytes[12..], input[at as usize][12..], "and else as it was");
        verdicts +=
            &format!("{{\"index\":{at},\"verdict\":\"forward\",\"service\":\"web\",\"server\":\"web{server}\"}}\n");
        verdicts += match at {
            0 => "{\"index\":1,\"verdict\":\"drop\",\"reason\":\"no_service\"}\n{\"index\":2,\"verdict\":\"pass\"}\n",
            3 => "{\"index\":4,\"verdict\":\"pass\"}\n",
            _ => "",
        };
    }
    assert_eq!(fs::read_to_string(folder.path("verdicts")).unwrap(), verdicts);

    let of = |n: usize| json!({"frames": servers[n], "bytes": servers[n] * web(7).len() as u64, "flows": 0});
    let expected = json!({
        "frames": 7, "forwarded": 4, "dropped": {"no_service": 1}, "passed": 2,
        "servers": {"web1": of(1), "web2": of(2), "web3": of(3)},
    });
    assert_eq!(out, format!("{expected}\n"), "the keys in this order too");
    assert_eq!(folder.files(), ["in.pcap", "oneip.toml", "out.pcap", "verdicts"]);

    let text = folder.run("replay", "in.pcap out.pcap").done();
    assert!(text.contains("frames in 7 = forwarded 4 + dropped 1 + passed 2"), "{text}");
}

/// By the capture's times: five at once, and then one every 10 ms, of one every millisecond.
#[test]
fn limits_hold_in_the_time_of_the_capture() {
    let folder = Folder::new();
    fs::write(folder.path("in.pcap"), capture(&vec![web(7); 1000])).unwrap();
    let config = fs::read_to_string(folder.path("oneip.toml")).unwrap();
    let summary = |limit: &str| -> Value {
        let config = config.replacen("[[service.server]]", &format!("[service.limit]\n{limit}\n[[service.server]]"), 1);
        fs::write(folder.path("oneip.toml"), config).unwrap();
        serde_json::from_str(&folder.run("replay", "in.pcap out.pcap --json").done()).unwrap()
    };
    let dropped = summary("packets = 100\npackets_burst = 5");
    assert_eq!((&dropped["forwarded"], &dropped["dropped"]), (&json!(104), &json!({"limited": 896})));
    let counted = summary("mode = \"count\"\nper_source = { packets = 100, burst = 5 }");
    assert_eq!((&counted["forwarded"], &counted["dropped"]), (&json!(1000), &json!({})));
}

#[test]
fn servers_taken_as_down_get_nothing() {
    let folder = Folder::new();
    let clients: Vec<u8> = (1..=99).collect();
    fs::write(folder.path("in.pcap"), capture(&clients.iter().map(|client| web(*client)).collect::<Vec<_>>())).unwrap();
    for (options, down) in [("--down web2", vec![2]), ("--down web2 --down web1", vec![1, 2])] {
        folder.run("replay", &format!("in.pcap out.pcap {options}")).done();
        let sent = frames(&fs::read(folder.path("out.pcap")).unwrap());
        for (client, (_, bytes)) in clients.iter().zip(&sent) {
            assert!(!down.contains(&(bytes[5] - 0x10)));
            if client % 33 == 0 {
                assert_eq!(bytes[5] - 0x10, server(&folder, *client, options));
            }
        }
    }
    let out = folder.run("replay", "in.pcap out.pcap --json --down web1 --down web2 --down web3").done();
    let summary: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&summary["forwarded"], &summary["dropped"]), (&json!(0), &json!({"no_server": 99})));
}

/// With `drain = "until-closed"`, what has shown itself in time stays on the server that is drained, whatever comes then.
#[test]
fn a_drain_until_connections_are_closed() {
    let folder = Folder::new();
    let config = CONFIG.replace("[[service]]", "[[service]]\ndrain_s = 1\ndrain = \"until-closed\"");
    fs::write(folder.path("oneip.toml"), config).unwrap();
    let old: Vec<u8> = (1..=60).filter(|client| server(&folder, *client, "") == 1).collect();
    let (shown, late) = old.split_at(old.len() / 2);
    // A millisecond a frame: those that show themselves, others for two seconds, and then all.
    let other = (61..=255).find(|client| server(&folder, *client, "") != 1).unwrap();
    let rest = std::iter::repeat_with(|| web(other)).take(2000);
    let input: Vec<Vec<u8>> = shown.iter().map(|c| web(*c)).chain(rest).chain(old.iter().map(|c| web(*c))).collect();
    fs::write(folder.path("in.pcap"), capture(&input)).unwrap();
    crate::program::ended(folder.command("replay", "in.pcap out.pcap").args(["--change", "0 drain web1"]), "").done();
    let sent: Vec<u8> =
        frames(&fs::read(folder.path("out.pcap")).unwrap()).iter().map(|(_, bytes)| bytes[5] - 0x10).collect();
    let (then, tail) = (&sent[..shown.len()], &sent[sent.len() - old.len()..]);
    assert!(then.iter().chain(&tail[..shown.len()]).all(|server| *server == 1));
    assert!(!late.is_empty() && tail[shown.len()..].iter().all(|server| *server != 1));
}

/// Connections of 60 clients each: the old ones are in the first frames, then web1 is drained, and new ones begin.
#[test]
fn a_drain_in_the_middle_keeps_connections() {
    let folder = Folder::new();
    let tcp = |client: u8, port: u16, syn: bool| {
        let ethernet = PacketBuilder::ethernet2(ROUTER, DISPATCHER);
        let ip = ethernet.ipv4([198, 51, 100, client], [203, 0, 113, 80], 64);
        let segment = ip.tcp(port, 80, 1, 1024);
        let (mut frame, segment) = (Vec::new(), if syn { segment.syn() } else { segment.ack(1) });
        segment.write(&mut frame, &[0; 20]).unwrap();
        frame
    };
    let all = |port, syn| (1..=60u8).map(move |client| tcp(client, port, syn));
    let input: Vec<Vec<u8>> =
        all(1000, false).chain(all(1000, false)).chain(all(2000, true)).chain(all(2000, false)).collect();
    fs::write(folder.path("in.pcap"), capture(&input)).unwrap();
    let replay = |changes: &[&str]| {
        let mut replay = folder.command("replay", "in.pcap out.pcap");
        changes.iter().for_each(|change| _ = replay.args(["--change", change]));
        let (mut command, none) = (replay, "");
        crate::program::ended(&mut command, none)
    };
    let servers = || -> Vec<u8> {
        let sent = frames(&fs::read(folder.path("out.pcap")).unwrap());
        sent.iter().map(|(_, bytes)| bytes[5] - 0x10).collect()
    };
    // A millisecond a frame: after the first 60.
    replay(&["0.06 drain web1"]).done();
    let drained = servers();
    let (old, new) = (&drained[..60], &drained[120..180]);
    assert!(old.contains(&1) && !new.contains(&1));
    assert_eq!((old, new), (&drained[60..120], &drained[180..]), "each connection stays where it is");
    assert!(old.iter().zip(new).all(|(old, new)| *old == 1 || old == new), "nobody else moves");

    replay(&["0.06 down web1"]).done();
    assert!(!servers()[60..].contains(&1), "what has failed keeps nothing");
    replay(&["0.06 drain web1", "0.12 undrain web1"]).done();
    assert_eq!(servers()[..60], servers()[120..180], "as if nothing had been");

    let error = replay(&["1 drain web9"]).failed();
    assert!(error.contains("--change: there is no server web9"), "{error}");
}

#[test]
fn what_fails_leaves_the_output_as_it_was() {
    let folder = Folder::new();
    let whole = capture(&mixed());
    fs::write(folder.path("whole.pcap"), &whole).unwrap();
    fs::write(folder.path("cut.pcap"), &whole[..whole.len() - 1]).unwrap();
    fs::write(folder.path("empty.pcap"), "").unwrap();
    fs::write(folder.path("text.pcap"), "not a capture at all").unwrap();
    fs::write(folder.path("bare.toml"), CONFIG.replace("mac = \"02:00:00:00:00:12\"\n", "")).unwrap();
    fs::write(folder.path("out.pcap"), "precious").unwrap();
    fs::write(folder.path("verdicts"), "precious too").unwrap();
    let files = folder.files();
    for (config, input, expected) in [
        ("oneip", "cut.pcap", "cut.pcap: cut off in the middle of frame 7"),
        ("oneip", "empty.pcap", "empty.pcap: the file is empty"),
        ("oneip", "text.pcap", "text.pcap: not a capture"),
        ("oneip", "nonesuch.pcap", "nonesuch.pcap: cannot be opened"),
        (
            "bare",
            "whole.pcap",
            "replay cannot resolve addresses: server web2 has no `mac` in the configuration; add a line",
        ),
    ] {
        let mut command = folder.command("replay", &format!("{input} out.pcap --verdicts verdicts"));
        if config == "bare" {
            fs::write(folder.path("oneip.toml"), fs::read(folder.path("bare.toml")).unwrap()).unwrap();
        }
        let said = crate::program::ended(&mut command, "").failed();
        assert!(said.starts_with(expected), "{expected}: {said}");
        assert_eq!(fs::read_to_string(folder.path("out.pcap")).unwrap(), "precious", "{input}");
        assert_eq!(fs::read_to_string(folder.path("verdicts")).unwrap(), "precious too", "{input}");
        assert_eq!(folder.files(), files, "no half-made file stays: {input}");
    }
}

#[test]
fn a_million_frames() {
    const COUNT: u32 = 1_000_000;
    let folder = Folder::new();
    let input: Vec<Vec<u8>> = (0..COUNT).map(|n| frame(Ipv4Addr::from(n * 4099), [203, 0, 113, 80], 80)).collect();
    fs::write(folder.path("in.pcap"), capture(&input)).unwrap();
    let out = folder.run("replay", "in.pcap out.pcap --json").done();
    let summary: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&summary["frames"], &summary["forwarded"]), (&json!(COUNT), &json!(COUNT)));
    assert_eq!(
        fs::metadata(folder.path("out.pcap")).unwrap().len(),
        fs::metadata(folder.path("in.pcap")).unwrap().len()
    );
}

#[test]
fn no_file_is_written_over_that_is_read_and_none_stands_for_two_things() {
    let folder = Folder::new();
    let input = capture(&mixed());
    fs::write(folder.path("in.pcap"), &input).unwrap();
    std::os::unix::fs::symlink("in.pcap", folder.path("link.pcap")).unwrap();
    fs::hard_link(folder.path("in.pcap"), folder.path("hard.pcap")).unwrap();
    std::os::unix::fs::symlink(".", folder.path("here")).unwrap();
    let before = folder.files();
    for (arguments, said) in [
        ("in.pcap in.pcap", "in.pcap: the output and the capture that is read are the same file; name another one\n"),
        (
            "in.pcap link.pcap",
            "link.pcap: the output and the capture that is read are the same file; name another one\n",
        ),
        (
            "link.pcap hard.pcap",
            "hard.pcap: the output and the capture that is read are the same file; name another one\n",
        ),
        ("in.pcap oneip.toml", "oneip.toml: the output and the configuration are the same file; name another one\n"),
        (
            "in.pcap out.pcap --verdicts here/out.pcap",
            "here/out.pcap: --verdicts and the output are the same file; name another one\n",
        ),
        (
            "in.pcap out.pcap --verdicts ./in.pcap",
            "./in.pcap: --verdicts and the capture that is read are the same file; name another one\n",
        ),
        (
            "in.pcap out.pcap --verdicts oneip.toml",
            "oneip.toml: --verdicts and the configuration are the same file; name another one\n",
        ),
    ] {
        assert_eq!(folder.run("replay", arguments).failed(), said, "{arguments}");
        assert_eq!(fs::read(folder.path("in.pcap")).unwrap(), input, "{arguments}");
        assert_eq!(fs::read_to_string(folder.path("oneip.toml")).unwrap(), CONFIG, "{arguments}");
        assert_eq!(folder.files(), before, "{arguments}");
    }
}

#[test]
fn verdicts_go_into_a_pipe_or_device_without_replacing_it() {
    let folder = Folder::new();
    fs::write(folder.path("in.pcap"), capture(&mixed())).unwrap();
    let fifo = folder.path("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read_to_string(fifo).unwrap()
    });
    folder.run("replay", "in.pcap out.pcap --verdicts fifo").done();
    let verdicts = reader.join().unwrap();
    assert_eq!(verdicts.lines().count(), mixed().len());
    assert!(!fs::metadata(&fifo).unwrap().is_file());
    folder.run("replay", "in.pcap /dev/null --verdicts /dev/null").done();
}

/// The frames of a capture through tunnels, with their timestamps; a large one in two frames, a larger one not at all.
#[test]
fn tunnels_come_out_encapsulated() {
    let folder = Folder::new();
    let bare = CONFIG.replacen("mac = \"02:00:00:00:00:12\"\n", "", 1);
    let tunnels = bare.replacen("[[service.server]]", "deliver = \"ipip\"\n[[service.server]]", 1);
    let dispatcher = |keys: &str| format!("[dispatcher]\ninterface = \"eth1\"\n{keys}\n{tunnels}");
    let large = |dont_fragment: bool| {
        let mut ip =
            etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber(0), [198, 51, 100, 7], [203, 0, 113, 80]).unwrap();
        ip.dont_fragment = dont_fragment;
        let packet =
            PacketBuilder::ethernet2(ROUTER, DISPATCHER).ip(etherparse::IpHeaders::Ipv4(ip, Default::default()));
        let mut frame = Vec::new();
        packet.tcp(40_000, 80, 1, 1024).write(&mut frame, &[7; 1460]).unwrap();
        frame
    };
    let mut padded = web(8);
    padded.extend([0xee; 6]);
    fs::write(folder.path("in.pcap"), capture(&[web(7), padded, large(false), large(true), web(9)])).unwrap();

    for (keys, expected) in [
        (
            "source = [\"192.0.2.2\"]",
            "replay cannot look up routes: server web2 has no `mac`, and [dispatcher] has no `gateway_mac`",
        ),
        (
            "gateway_mac = \"02:00:00:00:00:fe\"",
            "replay cannot ask for this host's addresses: the tunnel to server web1 needs an IPv4 source address, and \
             `source`",
        ),
    ] {
        fs::write(folder.path("oneip.toml"), dispatcher(keys)).unwrap();
        let said = folder.run("replay", "in.pcap out.pcap").failed();
        assert!(said.starts_with(expected), "{said}");
    }
    let keys = "source = [\"192.0.2.2\"]\ngateway_mac = \"02:00:00:00:00:fe\"";
    fs::write(folder.path("oneip.toml"), dispatcher(keys)).unwrap();
    let out: Value = serde_json::from_str(&folder.run("replay", "in.pcap out.pcap --json").done()).unwrap();
    assert_eq!((&out["forwarded"], &out["dropped"]), (&json!(4), &json!({"too_big": 1})));
    let sent = frames(&fs::read(folder.path("out.pcap")).unwrap());
    let micros: Vec<u64> = sent.iter().map(|(time, _)| time - 1_700_000_000_000_007).collect();
    assert_eq!(micros, [0, 1000, 2000, 2000, 4000], "an answer is not forwarded, and so is not there");
    for ((_, bytes), (client, inner)) in
        [&sent[0], &sent[1], &sent[4]].into_iter().zip([(7, web(7)), (8, web(8)), (9, web(9))])
    {
        let server = server(&folder, client, "");
        let mac = if server == 2 { [2, 0, 0, 0, 0, 0xfe] } else { [2, 0, 0, 0, 0, 0x10 + server] };
        assert_eq!(bytes[..6], mac, "to the server's MAC, or the gateway's");
        assert_eq!(bytes[6..12], DISPATCHER);
        assert_eq!(bytes[26..34], [192, 0, 2, 2, 192, 0, 2, 10 + server]);
        assert_eq!(bytes[34..], inner[14..], "the packet byte for byte, without padding");
    }
}

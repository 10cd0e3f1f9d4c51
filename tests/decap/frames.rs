//! Golden frames of each form and family, damaged ones, and those that are nobody's: the program against its twin, and against what
//! a dispatcher writes.

use super::model::mutate::Mutator;
use super::packets::{
    CLIENTS, DISPATCHERS, ENDS, FORMS, Form, address, cluster, frame, ip, packets, pseudo_header, sum, sum_header,
    wrapped,
};
use super::twin::{Fate, Twin};
use super::{plan, program};
use etherparse::IpNumber;
use oneip::model::{Deliver, Plan};
use oneip::verdict::Reason;
use oneip::wire::readdress::Readdress;
use oneip::wire::tunnel::{Inner, Template};
use oneip::xdp::program::{Action, Counts, Program};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::IpAddr;

const DSCP: u8 = 12;

/// The program, with what it has counted by now.
struct Judge {
    plan: Plan,
    program: Program,
    before: Counts,
    accounts: Vec<u64>,
}

impl Judge {
    fn new() -> Option<Judge> {
        let plan = plan();
        let program = program(&plan)?;
        Some(Judge { accounts: vec![0; plan.services.len()], plan, program, before: Counts::default() })
    }

    /// By its counters. Checks the action too, and that what is not kept is not touched.
    fn judge(&mut self, frame: &[u8]) -> Fate {
        let (action, after) = self.program.judge(frame).unwrap();
        let counts = self.program.counts().unwrap();
        let before = std::mem::replace(&mut self.before, counts);
        let account = |at: usize| self.program.kept(at as u32).unwrap().frames;
        let accounts: Vec<u64> = (0..self.plan.services.len()).map(account).collect();
        let counted = accounts.iter().zip(&self.accounts).position(|(now, before)| now > before);
        self.accounts = accounts;
        let reason = Reason::ALL.into_iter().find(|reason| counts.dropped(*reason) > before.dropped(*reason));
        let fate = match (counts.passed - before.passed, counts.kept - before.kept) {
            (1, 0) => Fate::Passed,
            (0, 1) => Fate::Kept(after.clone(), self.plan.services[counted.expect("it is on an account")].name.clone()),
            _ => Fate::Dropped(reason.expect("every frame is counted")),
        };
        assert_eq!(action, if matches!(fate, Fate::Dropped(_)) { Action::Drop } else { Action::Pass });
        assert!(matches!(fate, Fate::Kept(..)) || after == frame, "what is not kept is not touched: {fate:?}");
        assert_eq!(
            counted.is_some(),
            matches!(fate, Fate::Kept(..)),
            "what is kept is on an account, and nothing else"
        );
        fate
    }
}

/// The number of the services that come in this form, in `plan`.
fn number(form: Form) -> u8 {
    match form {
        Form::Ipip => 1,
        Form::Gue => 2,
        Form::Gre => 3,
    }
}

fn name(n: u8, family: usize) -> String {
    format!("{}{n}{}", ["ipip", "gue", "gre", "l3dsr", "l2", "ipip"][usize::from(n) - 1], ["", "v6"][family])
}

/// Every form, outer and inner family, kind of packet, and number of tags: the frame, and the packet in it.
fn golden() -> Vec<(Vec<u8>, Vec<u8>, String)> {
    let mut all = Vec::new();
    for form in FORMS {
        for (outer, inner) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for packet in packets(cluster(number(form), inner)) {
                let whole = wrapped(form, address(DISPATCHERS[outer]), address(ENDS[outer]), &packet);
                for tags in 0..3 {
                    all.push((frame(tags, &whole), frame(tags, &packet), name(number(form), inner)));
                }
            }
        }
    }
    for family in [0, 1] {
        for packet in packets(cluster(4, family)) {
            let mut sent = packet.clone();
            Readdress::new(address(ENDS[family]), DSCP).apply(&mut sent);
            for tags in 0..3 {
                all.push((frame(tags, &sent), frame(tags, &packet), name(4, family)));
            }
        }
    }
    all
}

#[test]
fn a_packet_of_each_form_and_family_comes_out_byte_for_byte_on_its_services_account() {
    let Some(mut judge) = Judge::new() else { return };
    let golden = golden();
    assert!(golden.len() > 250);
    for (sent, expected, service) in golden {
        assert_eq!(judge.judge(&sent), Fate::Kept(expected, service), "{sent:02x?}");
    }
}

#[test]
fn what_the_dispatcher_writes_comes_out_as_it_went_in() {
    let Some(mut judge) = Judge::new() else { return };
    for (form, deliver) in FORMS.into_iter().zip([Deliver::Ipip, Deliver::Gue { port: 6080 }, Deliver::Gre]) {
        for (outer, inner) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for packet in packets(cluster(number(form), inner)) {
                let (from, to) = (address(DISPATCHERS[outer]), address(ENDS[outer]));
                let template = Template::new(deliver, from, to, inner == 0).expect("a tunnel");
                let mut whole = vec![0; template.header_len()];
                whole.extend(&packet);
                template.write(&mut whole, &Inner::read(&packet), None, 50_001);
                let fate = judge.judge(&frame(1, &whole));
                assert_eq!(fate, Fate::Kept(frame(1, &packet), name(number(form), inner)), "{form:?}");
            }
        }
    }
}

#[test]
fn checksums_are_right_after_l3dsr() {
    let Some(mut judge) = Judge::new() else { return };
    for family in [0, 1] {
        let to = cluster(4, family);
        for packet in packets(to).into_iter().take(3) {
            let mut sent = packet.clone();
            Readdress::new(address(ENDS[family]), DSCP).apply(&mut sent);
            let Fate::Kept(kept, _) = judge.judge(&frame(0, &sent)) else { panic!("it is kept") };
            let kept = &kept[14..];
            let header = if family == 0 { 20 } else { 40 };
            let protocol = if family == 0 { kept[9] } else { kept[6] };
            assert!(family == 1 || sum(&kept[..20]) == 0xffff);
            let upper = &kept[header..];
            let summed = [&pseudo_header(address(CLIENTS[family]), to, protocol, upper.len())[..], upper].concat();
            assert_eq!(sum(&summed), 0xffff, "protocol {protocol}");
        }
    }
}

/// RFC 768: a datagram without a checksum gets none, and one whose sum comes out as 0 has 0xffff.
#[test]
fn datagrams_without_a_checksum_stay_so_and_none_loses_its() {
    let Some(mut judge) = Judge::new() else { return };
    let (from, own, to) = (address(CLIENTS[0]), address(ENDS[0]), cluster(4, 0));
    for payload in [[0, 0], [0x12, 0x34]] {
        for (given, expected) in [(false, [0, 0]), (true, [0xff, 0xff])] {
            let mut udp = [&[0x10, 0xe1, 0, 53, 0, 12, 0, 0][..], &payload, &[0, 0]].concat();
            if given {
                // Such that the sum with the cluster address is 0.
                let left = !sum(&[&pseudo_header(from, to, 17, 12)[..], &udp].concat());
                udp[10..].copy_from_slice(&left.to_be_bytes());
                let check = !sum(&[&pseudo_header(from, own, 17, 12)[..], &udp].concat());
                udp[6..8].copy_from_slice(&check.to_be_bytes());
            }
            let mut packet = ip(from, own, IpNumber::UDP, &udp);
            packet[1] |= DSCP << 2;
            sum_header(&mut packet);
            let Fate::Kept(kept, _) = judge.judge(&frame(0, &packet)) else { panic!("it is kept") };
            assert_eq!(kept[14 + 20 + 6..][..2], expected, "{payload:?} {given}");
        }
    }
}

/// A golden frame with a change: what becomes of it.
#[test]
fn each_reason_to_leave_or_to_drop_a_packet() {
    let Some(mut judge) = Judge::new() else { return };
    let packet = packets(cluster(1, 0)).remove(1);
    let gue = packets(cluster(2, 0)).remove(1);
    let (from, to) = (address(DISPATCHERS[0]), address(ENDS[0]));
    let mended = |form, inner: &[u8], change: &dyn Fn(&mut Vec<u8>)| {
        let mut whole = wrapped(form, from, to, inner);
        change(&mut whole);
        sum_header(&mut whole);
        frame(0, &whole)
    };
    let (passed, malformed) = (Fate::Passed, Fate::Dropped(Reason::Malformed));
    let (ttl, untrusted) = (Fate::Dropped(Reason::Ttl), Fate::Dropped(Reason::Untrusted));
    let ipip = |change: &dyn Fn(&mut Vec<u8>)| mended(Form::Ipip, &packet, change);
    let source = |text: &str| frame(0, &wrapped(Form::Ipip, address(text), to, &packet));
    let of = |n| frame(0, &wrapped(Form::Ipip, from, to, &packets(cluster(n, 0))[1]));
    let plain = |protocol: u8, class: u8| {
        let mut packet = ip(
            address(CLIENTS[0]),
            to,
            IpNumber(protocol),
            &[0x10, 0xe1, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0],
        );
        packet[1] |= class << 2;
        sum_header(&mut packet);
        frame(0, &packet)
    };
    let mut flooded = source(DISPATCHERS[0]);
    flooded[5] ^= 1;
    let mut unsummed = wrapped(Form::Ipip, from, to, &packet);
    unsummed[10] ^= 1;
    let mut elsewhere = wrapped(Form::Ipip, from, address("192.0.2.12"), &packet);
    sum_header(&mut elsewhere);
    let cases: Vec<(&str, Vec<u8>, Fate)> = vec![
        ("another host's", flooded, passed.clone()),
        ("to an address that is not this server's", frame(0, &elsewhere), passed.clone()),
        ("no tunnel", plain(6, 0), passed.clone()),
        ("ssh with the DSCP of l3dsr", plain(6, DSCP), passed.clone()),
        ("another DSCP", plain(6, 13), passed.clone()),
        ("first outer fragment", ipip(&|it| it[6] = 0x20), passed.clone()),
        ("later outer fragment", ipip(&|it| it[7] = 9), passed.clone()),
        ("another protocol", ipip(&|it| it[9] = 50), passed.clone()),
        ("to no cluster address", ipip(&|it| it[20 + 19] = 99), passed.clone()),
        ("to a cluster address that is delivered by l2", of(5), passed.clone()),
        ("to another server's cluster address", of(6), passed.clone()),
        ("by ipip, to one that is delivered by gue", of(2), passed.clone()),
        ("gre with a key", mended(Form::Gre, &packets(cluster(3, 0))[1], &|it| it[20] = 0x20), passed.clone()),
        ("gre with a checksum", mended(Form::Gre, &packets(cluster(3, 0))[1], &|it| it[20] = 0x80), passed.clone()),
        ("gre of version 1", mended(Form::Gre, &packets(cluster(3, 0))[1], &|it| it[21] = 1), passed.clone()),
        ("gre of another protocol", mended(Form::Gre, &packets(cluster(3, 0))[1], &|it| it[22] = 0x65), passed.clone()),
        ("udp to another port", mended(Form::Gue, &gue, &|it| it[23] = 0xc1), passed.clone()),
        ("gue variant 0", mended(Form::Gue, &gue, &|it| it[28] = 0x04), passed.clone()),
        ("gue variant 2", mended(Form::Gue, &gue, &|it| it[28] = 0x85), passed.clone()),
        ("gue variant 3", mended(Form::Gue, &gue, &|it| it[28] = 0xc5), passed.clone()),
        ("gue variant 1, IP version 5", mended(Form::Gue, &gue, &|it| it[28] = 0x55), malformed.clone()),
        ("udp length beyond the packet", mended(Form::Gue, &gue, &|it| it[24] = 0x40), malformed.clone()),
        ("udp length short of the inner packet", mended(Form::Gue, &gue, &|it| it[25] = 90), malformed.clone()),
        ("outer header checksum", frame(0, &unsummed), malformed.clone()),
        ("outer TTL 0", ipip(&|it| it[8] = 0), ttl.clone()),
        ("inner TTL 0", ipip(&|it| it[20 + 8] = 0), ttl),
        ("inner length beyond the outer", ipip(&|it| it[20 + 2] = 0x40), malformed.clone()),
        ("inner header length", ipip(&|it| it[20] = 0x44), malformed.clone()),
        ("inner version", ipip(&|it| it[20] = 0x65), malformed.clone()),
        ("inner TCP header", ipip(&|it| it[40 + 12] = 0x40), malformed),
        ("from a stranger", source("192.0.2.3"), untrusted.clone()),
        ("from beside the prefix", source("10.2.0.1"), untrusted),
    ];
    for (what, frame, expected) in cases {
        assert_eq!(judge.judge(&frame), expected, "{what}");
    }
    // A checksum field is no part of what makes the packet untrusted, nor is a prefix of the other family.
    let kept = |fate| matches!(fate, Fate::Kept(..));
    assert!(kept(judge.judge(&source("10.1.200.3"))), "from within the prefix");
    let v6 = |from: &str| frame(0, &wrapped(Form::Ipip, address(from), address(ENDS[1]), &packet));
    assert!(kept(judge.judge(&v6("2001:db8:7:9::1"))), "from within the prefix");
    assert_eq!(judge.judge(&v6("2001:db8:8::1")), Fate::Dropped(Reason::Untrusted));
}

#[test]
fn a_limit_of_encapsulations_is_looked_through() {
    let Some(mut judge) = Judge::new() else { return };
    let packet = packets(cluster(1, 0)).remove(1);
    let mut whole = wrapped(Form::Ipip, address(DISPATCHERS[1]), address(ENDS[1]), &packet);
    // As ip6_tnl writes it: the option 4, and padding.
    whole.splice(40..40, [4, 0, 4, 1, 4, 1, 1, 0]);
    whole[6] = 60;
    whole[5] += 8;
    assert_eq!(judge.judge(&frame(0, &whole)), Fate::Kept(frame(0, &packet), name(1, 0)));
}

#[test]
fn without_sources_tunnels_come_from_anywhere() {
    let mut plan = plan();
    plan.decap.sources.clear();
    let Some(program) = program(&plan) else { return };
    let packet = packets(cluster(1, 0)).remove(1);
    let (action, after) =
        program.judge(&frame(0, &wrapped(Form::Ipip, address("9.9.9.9"), address(ENDS[0]), &packet))).unwrap();
    assert_eq!((action, after), (Action::Pass, frame(0, &packet)));
}

#[test]
fn a_jumbo_frame_is_unwrapped_by_its_beginning() {
    let Some(judge) = Judge::new() else { return };
    let packet = ip(address(CLIENTS[0]), cluster(1, 0), IpNumber::UDP, &{
        let mut udp = vec![0x10, 0xe1, 0, 53, 0x22, 0x60, 0, 0];
        udp.resize(0x2260, 0x5a);
        udp
    });
    let sent = frame(0, &wrapped(Form::Ipip, address(DISPATCHERS[0]), address(ENDS[0]), &packet));
    let (action, after) = judge.program.judge(&sent).unwrap();
    assert_eq!((action, after), (Action::Pass, frame(0, &packet)));
}

#[test]
fn damaged_frames_are_judged_as_by_the_twin() {
    let Some(mut judge) = Judge::new() else { return };
    let twin = Twin::new(&judge.plan, "s0");
    let seeds: Vec<Vec<u8>> = golden().into_iter().map(|(sent, ..)| sent).collect();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut mutator = Mutator::new(11, &seeds, &[[2, 0, 0, 0, 0, 1]]);
    let damaged = std::iter::repeat_with(|| mutator.frame()).filter(|frame| (14..1514).contains(&frame.len()));
    for frame in seeds.iter().cloned().chain(damaged.take(20_000)) {
        let (fate, expected) = (judge.judge(&frame), twin.judge(&frame));
        assert_eq!(fate, expected, "{frame:02x?}");
        let kind = match fate {
            Fate::Kept(..) => "kept".to_owned(),
            other => format!("{other:?}"),
        };
        *seen.entry(kind).or_default() += 1;
    }
    assert_eq!(seen.len(), 5, "every fate is seen: {seen:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the addresses, lengths and marks: what is wrapped comes out again, and what is marked comes out as it was.
    #[test]
    fn unwrapping_undoes_wrapping(
        client: u32, payload in prop::collection::vec(any::<u8>(), 0..1200), form in 0usize..3, families in 0usize..4, tags in 0usize..3,
        class: u8, ports: (u16, u16),
    ) {
        // The program is loaded once.
        thread_local!(static JUDGE: std::cell::RefCell<Option<Judge>> = std::cell::RefCell::new(Judge::new()));
        JUDGE.with_borrow_mut(|judge| -> Result<(), TestCaseError> {
            let Some(judge) = judge else { return Ok(()) };
            let (form, outer, inner) = (FORMS[form], families & 1, families >> 1);
            let from: IpAddr = match inner {
                0 => std::net::Ipv4Addr::from_bits(client).into(),
                _ => std::net::Ipv6Addr::from_bits(u128::from(client) << 64 | 1).into(),
            };
            let mut udp = [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &(8 + payload.len() as u16).to_be_bytes(), &[0, 0]].concat();
            udp.extend(&payload);
            let to = cluster(number(form), inner);
            let mut packet = ip(from, to, IpNumber::UDP, &udp);
            match inner {
                0 => packet[1] = class,
                _ => packet[1] = packet[1] & 15 | class << 4,
            }
            if inner == 0 {
                sum_header(&mut packet);
            }
            let whole = wrapped(form, address(DISPATCHERS[outer]), address(ENDS[outer]), &packet);
            let fate = judge.judge(&frame(tags, &whole));
            prop_assert_eq!(fate, Fate::Kept(frame(tags, &packet), name(number(form), inner)));
            Ok(())
        })?;
    }
}

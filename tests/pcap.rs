//! The capture port, against captures built byte by byte.

use oneip::limits::{BURST, MAX_CAPTURED};
use oneip::port::pcap::{Blocks, Frame, Packet, Pcap, Reader};
use oneip::port::{Burst, Ledger, Port};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use tempfile::TempDir;

/// The byte order of a capture.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Little,
    Big,
}
use Order::{Big, Little};

impl Order {
    fn word(self, value: u32) -> [u8; 4] {
        if self == Little { value.to_le_bytes() } else { value.to_be_bytes() }
    }

    fn words(self, values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|value| self.word(*value)).collect()
    }

    /// Two 16-bit fields side by side.
    fn pair(self, first: u16, second: u16) -> Vec<u8> {
        if self == Little {
            [first.to_le_bytes(), second.to_le_bytes()].concat()
        } else {
            [first.to_be_bytes(), second.to_be_bytes()].concat()
        }
    }
}

const MICROS: u32 = 0xa1b2c3d4;
const NANOS: u32 = 0xa1b23c4d;
const ETHERNET: u32 = 1;

fn pcap_header(order: Order, magic: u32, link: u32) -> Vec<u8> {
    [order.word(magic).to_vec(), order.pair(2, 4), order.words(&[0, 0, 65535, link])].concat()
}

fn record(order: Order, seconds: u32, fraction: u32, original: u32, bytes: &[u8]) -> Vec<u8> {
    [order.words(&[seconds, fraction, bytes.len() as u32, original]), bytes.to_vec()].concat()
}

/// A block of a pcapng, its body padded.
fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
    let length = order.word((12 + body.len() + padding.len()) as u32).to_vec();
    [&order.word(kind), &length[..], body, &padding, &length].concat()
}

fn section(order: Order) -> Vec<u8> {
    let body = [order.word(0x1a2b3c4d).to_vec(), order.pair(1, 0), vec![0xff; 8]].concat();
    block(order, 0x0a0d0d0a, &body)
}

/// An interface with a timestamp resolution, and an offset in seconds.
fn interface(order: Order, link: u16, snap: u32, resolution: u8, offset: u64) -> Vec<u8> {
    let offset = if order == Little { offset.to_le_bytes() } else { offset.to_be_bytes() };
    let resolution = [order.pair(9, 1), vec![resolution, 0, 0, 0]].concat();
    let offset = [order.pair(14, 8), offset.to_vec()].concat();
    let body = [order.pair(link, 0), order.word(snap).to_vec(), resolution, offset, vec![0; 4]].concat();
    block(order, 1, &body)
}

fn enhanced(order: Order, interface: u32, ticks: u64, original: u32, bytes: &[u8]) -> Vec<u8> {
    let head = order.words(&[interface, (ticks >> 32) as u32, ticks as u32, bytes.len() as u32, original]);
    let padding = vec![0; bytes.len().next_multiple_of(4) - bytes.len()];
    // A comment, which is skipped.
    let comment = [order.pair(1, 2), b"hi\0\0".to_vec(), vec![0; 4]].concat();
    block(order, 6, &[head, bytes.to_vec(), padding, comment].concat())
}

/// A directory with a capture in it.
struct Lab {
    directory: TempDir,
    input: PathBuf,
    output: PathBuf,
}

impl Lab {
    fn new(capture: &[u8]) -> Lab {
        let directory = tempfile::tempdir().unwrap();
        let (input, output) = (directory.path().join("in.pcap"), directory.path().join("out.pcap"));
        fs::write(&input, capture).unwrap();
        Lab { directory, input, output }
    }

    /// Transmits every frame; the bytes of the output.
    fn replay(&self) -> Result<Vec<u8>, String> {
        let mut port = Pcap::open(&self.input, &self.output).map_err(|e| self.plain(e))?;
        let mut burst = Burst::new();
        while !port.is_exhausted() {
            port.service();
            port.rx(&mut burst);
            let count = burst.len();
            assert_eq!(port.ledger().lent, count);
            port.tx(0, &mut burst);
            assert!(port.ledger().balanced() && burst.is_empty());
        }
        assert_eq!(port.ledger().lent, 0);
        assert!(!self.output.exists(), "nothing is in place before the end");
        port.finish().map_err(|e| self.plain(e))?;
        Ok(fs::read(&self.output).unwrap())
    }

    fn plain(&self, error: impl ToString) -> String {
        error.to_string().replace(&format!("{}/", self.directory.path().display()), "")
    }

    fn files(&self) -> usize {
        fs::read_dir(self.directory.path()).unwrap().count()
    }
}

fn replay(capture: &[u8]) -> Result<Vec<u8>, String> {
    Lab::new(capture).replay()
}

/// Little-endian pcap with the given records: what every output is.
fn output(magic: u32, records: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
    let mut header = pcap_header(Little, magic, ETHERNET);
    header[16..20].copy_from_slice(&(MAX_CAPTURED as u32).to_le_bytes());
    let records = records
        .iter()
        .map(|(seconds, fraction, original, bytes)| record(Little, *seconds, *fraction, *original, bytes));
    [header].into_iter().chain(records).flatten().collect()
}

#[test]
fn pcap_of_both_resolutions_and_byte_orders() {
    for order in [Little, Big] {
        for magic in [MICROS, NANOS] {
            let records = [record(order, 1, 999_999, 4, b"abcd"), record(order, u32::MAX, 7, 90, b"xyz")];
            let capture = [pcap_header(order, magic, ETHERNET), records.concat()].concat();
            let expected = output(magic, &[(1, 999_999, 4, b"abcd"), (u32::MAX, 7, 90, b"xyz")]);
            assert_eq!(replay(&capture), Ok(expected));
        }
    }
}

#[test]
fn pcapng_with_interfaces_of_different_resolutions_and_sections_of_different_byte_order() {
    let mut capture = Vec::new();
    let mut expected: Vec<(u32, u32, u32, &[u8])> = Vec::new();
    for order in [Little, Big] {
        capture.extend(section(order));
        capture.extend(interface(order, 1, 0, 6, 0));
        capture.extend(interface(order, 1, 2, 9, 1000));
        // Binary: units of 2^-10 seconds. Finer than nanoseconds. Not Ethernet, which only matters where a frame is from it.
        capture.extend(interface(order, 1, 0, 0x8a, 0));
        capture.extend(interface(order, 1, 0, 12, (-1i64) as u64));
        capture.extend(interface(order, 113, 0, 6, 0));
        capture.extend(block(order, 5, &[0; 12]));
        capture.extend(enhanced(order, 0, 1_700_000_000_123_456, 5, b"micro"));
        capture.extend(enhanced(order, 1, 1_700_000_000_123_456_789, 60, b"nano"));
        capture.extend(enhanced(order, 2, (5 << 10) + 1, 6, b"binary"));
        capture.extend(enhanced(order, 3, 3_000_000_001_999, 4, b"pico"));
        let old = [order.pair(1, 77), order.words(&[0, 5, 3, 3]), b"old\0".to_vec()].concat();
        capture.extend(block(order, 2, &old));
        capture.extend(block(order, 3, &[order.word(6).to_vec(), b"simple\0\0".to_vec()].concat()));
        expected.extend([
            (1_700_000_000, 123_456_000, 5, &b"micro"[..]),
            (1_700_001_000, 123_456_789, 60, b"nano"),
            (5, 976_562, 6, b"binary"),
            (2, 1, 4, b"pico"),
            (1000, 5, 3, b"old"),
            (0, 0, 6, b"simple"),
        ]);
    }
    assert_eq!(replay(&capture), Ok(output(NANOS, &expected)));
}

/// What is of no interest, and longer than a piece that is read at once.
#[test]
fn a_block_of_megabytes_is_passed_over() {
    let mut capture = [section(Little), interface(Little, 1, 0, 6, 0)].concat();
    for (at, bytes) in [3 << 20, 1 << 20, 9 << 20].into_iter().enumerate() {
        capture.extend(block(Little, 0x0bad, &vec![0x5a; bytes]));
        capture.extend(enhanced(Little, 0, at as u64 * 1_000_000, 4, b"next"));
    }
    assert_eq!(replay(&capture), Ok(output(NANOS, &[0, 1, 2].map(|second| (second, 0, 4, &b"next"[..])))));
}

#[test]
fn a_simple_packet_is_cut_at_the_snap_length() {
    let packet = block(Little, 3, &[&9u32.to_le_bytes()[..], b"si\0\0"].concat());
    let capture = [section(Little), interface(Little, 1, 2, 6, 0), packet].concat();
    assert_eq!(replay(&capture), Ok(output(NANOS, &[(0, 0, 9, b"si")])));
}

#[test]
fn a_capture_without_frames_is_a_capture() {
    assert_eq!(replay(&pcap_header(Big, MICROS, ETHERNET)), Ok(output(MICROS, &[])));
    assert_eq!(replay(&section(Big)), Ok(output(NANOS, &[])));
    assert_eq!(replay(&[section(Little), interface(Little, 113, 0, 6, 0)].concat()), Ok(output(NANOS, &[])));
}

#[test]
fn what_is_no_capture_is_refused_with_its_first_bytes() {
    let no_capture =
        |bytes: &str, advice: &str| Err(format!("in.pcap: not a capture, it begins with the bytes {bytes}; {advice}"));
    let pass = "pass a pcap or pcapng file, as `tcpdump -w` writes it";
    assert_eq!(replay(b"GET / HTTP/1.1\r\nHost: example\r\n"), no_capture("47 45 54 20", pass));
    assert_eq!(replay(b"\xa1\xb2"), no_capture("a1 b2", pass));
    assert_eq!(
        replay(b"\x1f\x8b\x08\x00rest"),
        no_capture("1f 8b 08 00", "it is compressed, unpack it first with `gunzip`")
    );
    assert_eq!(
        replay(b"\x28\xb5\x2f\xfdrest"),
        no_capture("28 b5 2f fd", "it is compressed, unpack it first with `unzstd`")
    );
    let empty = "in.pcap: the file is empty, without even a capture's header; capture again with `tcpdump -w`";
    assert_eq!(replay(b""), Err(empty.to_owned()));
}

#[test]
fn another_link_type_is_refused_by_name_and_number() {
    let advice = "not Ethernet (1); capture on an Ethernet interface, such as `tcpdump -i eth1 -w FILE`, not on `any` or a tunnel";
    let refused = |what: &str| Err(format!("in.pcap: {what}, {advice}"));
    for (link, name) in [(113, "LINUX_SLL (113)"), (101, "RAW (101)"), (60_000, "Unknown(60000) (60000)")] {
        assert_eq!(
            replay(&pcap_header(Little, MICROS, link)),
            refused(&format!("it is a capture of link type {name}"))
        );
    }
    let head = [section(Little), interface(Little, 1, 0, 6, 0), interface(Little, 113, 0, 6, 0)].concat();
    let capture = [head, enhanced(Little, 0, 0, 1, b"a"), enhanced(Little, 1, 0, 1, b"b")].concat();
    assert_eq!(replay(&capture), refused("frame 2 comes from interface 1, which is of link type LINUX_SLL (113)"));
    let with_frame_check = pcap_header(Little, MICROS, 0x5400_0001);
    assert_eq!(replay(&with_frame_check), Ok(output(MICROS, &[])));
}

/// Cut at every byte, a capture is whole (at the border of two records) or an error that names the frame.
#[test]
fn a_cut_capture_is_an_error() {
    let cut = |place: &str, offset: usize| {
        Err(format!(
            "in.pcap: cut off in the middle of {place}, which begins at byte {offset}; capture or copy it again"
        ))
    };
    let parts = [pcap_header(Big, NANOS, ETHERNET), record(Big, 1, 2, 4, b"abcd"), record(Big, 3, 4, 2, b"xy")];
    let whole = parts.concat();
    for length in 4..whole.len() {
        let expected = match length {
            0..24 => cut("the capture's header", 0),
            24 => Ok(output(NANOS, &[])),
            25..44 => cut("frame 1", 24),
            44 => Ok(output(NANOS, &[(1, 2, 4, b"abcd")])),
            _ => cut("frame 2", 44),
        };
        assert_eq!(replay(&whole[..length]), expected, "{length} bytes");
    }
    let parts = [section(Little), interface(Little, 1, 0, 6, 0), enhanced(Little, 0, 0, 5, b"abcde")];
    let (head, whole) = (parts[..2].concat(), parts.concat());
    assert_eq!(replay(&head[..27]), cut("the capture's header", 0));
    assert_eq!(replay(&head[..9]), cut("the capture's header", 0));
    for length in head.len() + 1..whole.len() {
        assert_eq!(replay(&whole[..length]), cut("frame 1", head.len()), "{length} bytes");
    }
}

#[test]
fn a_corrupt_record_is_an_error_and_not_a_cut() {
    let corrupt = |offset: usize, what: &str| {
        Err(format!("in.pcap: frame 1 at byte {offset} is corrupt: {what}; capture or copy it again"))
    };
    let pcap = |lengths: &[u32]| {
        [pcap_header(Little, MICROS, ETHERNET), Little.words(&[0, 0]), Little.words(lengths)].concat()
    };
    assert_eq!(
        replay(&pcap(&[0xffff_fff0, 0xffff_fff0])),
        corrupt(24, "its length is 4294967280 bytes, and no capture has more than 262144")
    );
    assert_eq!(replay(&pcap(&[60, 59])), corrupt(24, "60 bytes are captured of 59 on the wire"));

    let head = [section(Little), interface(Little, 1, 0, 0, 0)].concat();
    let ng = |block: &[u8]| replay(&[&head[..], block].concat());
    let with_length = |length: u32| [Little.words(&[6, length]), vec![0; 64]].concat();
    assert_eq!(ng(&with_length(8)), corrupt(head.len(), "a block has a length of 8 bytes"));
    assert_eq!(ng(&with_length(u32::MAX)), corrupt(head.len(), "a block has a length of 4294967295 bytes"));
    assert!(ng(&with_length(33)).unwrap_err().contains("is corrupt"));
    assert!(ng(&with_length(32)).unwrap_err().contains("is corrupt"), "the length behind the block differs");
    assert_eq!(
        ng(&block(Little, 6, &Little.words(&[0, 0, 0, 8, 8, 1]))),
        corrupt(head.len(), "its block of 24 bytes is too short for it")
    );
    assert_eq!(ng(&block(Little, 6, &[0; 8])), corrupt(head.len(), "its block of 8 bytes is too short for it"));
    assert_eq!(ng(&block(Little, 3, &[])), corrupt(head.len(), "its block of 0 bytes is too short for it"));
    assert_eq!(
        ng(&enhanced(Little, 7, 0, 1, b"a")),
        corrupt(head.len(), "it comes from interface 7, which is not described")
    );
    let late = "its timestamp is outside of 1970 to 2106, which is all that a pcap can hold";
    assert_eq!(ng(&enhanced(Little, 0, 1 << 32, 1, b"a")), corrupt(head.len(), late));
}

#[test]
fn frames_cut_by_the_snap_length_are_counted() {
    let records =
        [record(Little, 0, 0, 3, b"abc"), record(Little, 0, 0, 4, b"abc"), record(Little, 0, 0, 1500, b"abc")];
    let lab = Lab::new(&[pcap_header(Little, MICROS, ETHERNET), records.concat()].concat());
    let mut port = Pcap::open(&lab.input, &lab.output).unwrap();
    let mut burst = Burst::new();
    port.rx(&mut burst);
    assert_eq!((burst.len(), port.cut_frames()), (3, 2));
    port.free(&mut burst);
}

/// More frames of one moment than the port has, of growing size: received in full bursts, changed, some transmitted and some freed.
#[test]
fn a_long_capture_passes_through_few_frames() {
    const COUNT: usize = 10 * BURST + 5;
    let frame = |i: usize| vec![i as u8; i * 7];
    let mut capture = pcap_header(Little, NANOS, ETHERNET);
    (0..COUNT).for_each(|i| capture.extend(record(Little, 7, 0, (i * 7) as u32, &frame(i))));
    let lab = Lab::new(&capture);
    let mut port = Pcap::open(&lab.input, &lab.output).unwrap();
    let (mut burst, mut held, mut received) = (Burst::new(), Burst::new(), 0);
    let total = port.ledger().total;
    assert_eq!(port.ledger(), Ledger { total, idle: total, ..Ledger::default() });
    loop {
        port.rx(&mut burst);
        assert_eq!(burst.len(), BURST.min(COUNT - received));
        if burst.is_empty() {
            break;
        }
        received += burst.len();
        burst.iter_mut().for_each(|frame| port.bytes_mut(frame).iter_mut().for_each(|byte| *byte ^= 0xff));
        held.extend(burst.drain(1..));
        port.free(&mut burst);
        let (lent, left) = (held.len(), (received - received.div_ceil(BURST) - held.len()) as u64);
        assert_eq!(port.ledger(), Ledger { total, idle: total - lent, lent, left, ..Ledger::default() });
        port.tx(0, &mut held);
    }
    assert!(port.is_exhausted() && port.error().is_none());
    assert_eq!(port.ledger().idle, total);
    port.finish().unwrap();
    let sent: Vec<_> = (0..COUNT).filter(|i| i % BURST != 0).map(|i| (i, frame(i))).collect();
    let sent: Vec<_> =
        sent.into_iter().map(|(i, bytes)| (i, bytes.iter().map(|b| b ^ 0xff).collect::<Vec<_>>())).collect();
    let records: Vec<_> = sent.iter().map(|(i, bytes)| (7, 0, (i * 7) as u32, &bytes[..])).collect();
    assert_eq!(fs::read(&lab.output).unwrap(), output(NANOS, &records));
}

/// Limits and flow tables see each frame at its own time.
#[test]
fn a_burst_is_of_one_moment() {
    let mut capture = pcap_header(Little, NANOS, ETHERNET);
    // The clock of who captured went back once.
    for nanoseconds in [5, 5, 6, 4, 9, 9, 9] {
        capture.extend(record(Little, 1, nanoseconds, 1, b"a"));
    }
    let lab = Lab::new(&capture);
    let mut port = Pcap::open(&lab.input, &lab.output).unwrap();
    for (count, now) in [(2, 5), (2, 6), (3, 9), (0, 9)] {
        let mut burst = Burst::new();
        port.rx(&mut burst);
        assert_eq!((burst.len(), port.now()), (count, 1_000_000_000 + now));
        port.free(&mut burst);
    }
}

#[test]
fn with_no_frame_idle_none_is_received_and_none_is_lost() {
    let mut capture = pcap_header(Little, NANOS, ETHERNET);
    (0..3 * BURST).for_each(|_| capture.extend(record(Little, 7, 0, 1, b"a")));
    let lab = Lab::new(&capture);
    let mut port = Pcap::open(&lab.input, &lab.output).unwrap();
    let (mut first, mut second, mut third) = (Burst::new(), Burst::new(), Burst::new());
    port.rx(&mut first);
    port.rx(&mut second);
    port.rx(&mut third);
    assert_eq!((first.len(), second.len(), third.len(), port.is_exhausted()), (BURST, BURST, 0, false));
    port.free(&mut first);
    port.rx(&mut third);
    assert_eq!((third.len(), port.ledger().balanced()), (BURST, true));
}

#[test]
fn a_failed_run_leaves_the_output_as_it_was() {
    let capture = [pcap_header(Little, MICROS, ETHERNET), record(Little, 1, 2, 4, b"abcd"), vec![0; 10]].concat();
    let lab = Lab::new(&capture);
    fs::write(&lab.output, "kept").unwrap();
    let mut port = Pcap::open(&lab.input, &lab.output).unwrap();
    let mut burst = Burst::new();
    port.rx(&mut burst);
    assert_eq!((burst.len(), port.is_exhausted()), (1, true));
    assert!(port.error().unwrap().to_string().contains("cut off in the middle of frame 2, which begins at byte 44"));
    port.tx(0, &mut burst);
    port.rx(&mut burst);
    assert!(burst.is_empty() && port.ledger().balanced());
    assert!(port.finish().unwrap_err().to_string().contains("frame 2"));
    drop(Pcap::open(&lab.input, &lab.output).unwrap());
    assert_eq!((fs::read_to_string(&lab.output).unwrap().as_str(), lab.files()), ("kept", 2));
}

#[test]
fn the_output_may_be_the_input_itself_or_a_link_or_a_device() {
    let capture = [pcap_header(Big, MICROS, ETHERNET), record(Big, 1, 2, 4, b"abcd")].concat();
    let mut lab = Lab::new(&capture);
    let link = lab.directory.path().join("link.pcap");
    symlink(&lab.input, &link).unwrap();
    let mut run = |output: PathBuf| {
        lab.output = output;
        let mut port = Pcap::open(&lab.input, &lab.output).unwrap();
        let mut burst = Burst::new();
        port.rx(&mut burst);
        port.tx(0, &mut burst);
        port.finish().unwrap();
    };
    run(link.clone());
    run(PathBuf::from("/dev/null"));
    assert!(link.is_symlink());
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    assert_eq!(fs::read(&lab.input).unwrap(), output(MICROS, &[(1, 2, 4, b"abcd")]));
    run(lab.input.clone());
    assert_eq!(fs::read(&lab.input).unwrap(), output(MICROS, &[(1, 2, 4, b"abcd")]));
    fs::set_permissions(&lab.input, fs::Permissions::from_mode(0o640)).unwrap();
    run(lab.input.clone());
    assert_eq!(fs::metadata(&lab.input).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn files_that_cannot_be_opened_say_why() {
    let lab = Lab::new(&pcap_header(Big, MICROS, ETHERNET));
    let directory = lab.directory.path();
    let error = |input: &str, output: &str| {
        let Err(error) = Pcap::open(&directory.join(input), &directory.join(output)) else { panic!("opened") };
        lab.plain(error)
    };
    let missing = "No such file or directory (os error 2)";
    assert_eq!(error("none", "out"), format!("none: cannot be opened: {missing}; check the path and its permissions"));
    assert!(error("", "out").ends_with("cannot be read at the capture's header: Is a directory (os error 21)"));
    let advice = "check that its directory exists, is writable and has space";
    assert_eq!(error("in.pcap", "none/out"), format!("none/out: cannot be written: entity not found; {advice}"));
    assert!(error("in.pcap", ".").contains("cannot be written: is a directory"));
    let mut port = Pcap::open(&lab.input, "/dev/full".as_ref()).unwrap();
    port.service();
    assert!(
        port.finish().unwrap_err().to_string().starts_with("/dev/full: cannot be written: No space left on device")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever bytes of a capture are overwritten, it is read or refused, and no frame is lost on the way.
    #[test]
    fn a_mutilated_capture_is_read_or_refused(
        is_ng: bool,
        order in prop_oneof![Just(Little), Just(Big)],
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![Just(0), Just(4), Just(255), any::<u8>()]), 1..8),
    ) {
        let mut capture = if is_ng {
            let frames = [enhanced(order, 0, 1, 3, b"abc"), enhanced(order, 1, 2, 9, b"abcd"), block(order, 3, b"\0\0\0\x02ab\0\0")];
            [section(order), interface(order, 1, 0, 6, 0), interface(order, 1, 9, 9, 5), frames.concat(), section(Big)].concat()
        } else {
            [pcap_header(order, NANOS, ETHERNET), record(order, 1, 2, 3, b"abc"), record(order, 1, 2, 9, b"abcd")].concat()
        };
        for (at, byte) in edits {
            let at = at.index(capture.len());
            capture[at] = byte;
        }
        match replay(&capture) {
            Ok(output) => prop_assert!(output.len() >= 24),
            Err(error) => prop_assert!(error.starts_with("in.pcap: "), "{error}"),
        }
    }
}

/// Read by our own reader, which does not share a line with what writes.
#[test]
fn a_pcapng_that_is_written_block_by_block_is_read_back() {
    let mut blocks = Blocks::new("eth1", 96);
    let frames: Vec<Vec<u8>> = (14..=97).map(|len| (0..len).map(|byte| byte as u8).collect()).collect();
    let mut file = Vec::new();
    for (at, frame) in frames.iter().enumerate() {
        let bytes = &frame[..frame.len().min(96)];
        let at = 1_700_000_000_000_000_001 + at as u64;
        blocks.add(Packet {
            at,
            original: frame.len() as u32,
            bytes,
            is_sent: false,
            comment: "x".repeat(frame.len()),
        });
        blocks.tell(at, 1);
        file.extend(blocks.take());
    }
    assert_eq!(blocks.frames(), frames.len() as u64);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pcapng");
    std::fs::write(&path, file).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    let mut read = Frame::empty();
    for (at, frame) in frames.iter().enumerate() {
        assert!(reader.next(&mut read).unwrap());
        assert_eq!(read.bytes(), &frame[..frame.len().min(96)]);
        assert_eq!(reader.time(&read), 1_700_000_000_000_000_001 + at as u64);
    }
    assert!(!reader.next(&mut read).unwrap());
}

//! Arguments that make no sense, and readers that go.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::program::{Folder, ended, oneip};

#[test]
fn wrong_usage_exits_2_and_says_what_is_right() {
    for arguments in [
        "",
        "fly",
        "check",
        "run",
        "run -c a.toml -c b.toml",
        "check -c oneip.toml surplus",
        "lookup",
        "lookup -c oneip.toml 198.51.100",
        "lookup -c oneip.toml --servce web 198.51.100.7",
        "replay -c oneip.toml in.pcap",
        "simulate -c oneip.toml",
        "simulate -c oneip.toml --clients a.log --add-server web9:0",
        "simulate -c oneip.toml --clients a.log --add-server web9:x",
        "simulate -c oneip.toml --clients a.log --add-server web/9",
        "server -c oneip.toml",
        "ctl",
        "ctl fly",
    ] {
        let said = ended(&mut oneip(arguments), "");
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "oneip {arguments}: {}", said.err);
        assert!(said.err.contains("Usage: oneip") || said.err.contains("try '--help'"), "{}", said.err);
    }
}

#[test]
fn a_log_level_that_there_is_not_is_refused() {
    let said = |level: &str| ended(oneip("check -c oneip.toml").env("ONEIP_LOG", level), "");
    for wrong in ["loud", "7", "oneip=loud", "info,warm", "=", "oneip"] {
        let said = said(wrong);
        assert_eq!(said.code, Some(2), "{wrong}");
        let expected = format!(
            "error: ONEIP_LOG=\"{wrong}\" is not a level; write off, error, warn, info, debug or trace, or MODULE=LEVEL,...\n"
        );
        assert_eq!(said.err, expected);
    }
    for right in ["", "off", "DEBUG", "oneip=trace", "warn,oneip::control=debug"] {
        let said = said(right);
        assert_eq!(said.code, Some(1), "{right}: it is the configuration that is missing: {}", said.err);
    }
}

#[test]
fn help_and_version_exit_0() {
    assert_eq!(ended(&mut oneip("--version"), "").done(), format!("oneip {}\n", env!("CARGO_PKG_VERSION")));
    for verb in ["", "run", "check", "replay", "lookup", "simulate", "ctl", "ctl drain", "server", "server add"] {
        assert!(ended(&mut oneip(&format!("{verb} --help")), "").done().contains("Usage: oneip"), "{verb}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut config = String::from("[cluster]\nhash_key = \"07a9606adec86390004c75d5b1af43cd\"\n");
    for n in 0..2000 {
        config += &format!("[[service]]\nname = \"s{n}\"\naddress = \"10.0.{}.{}\"\n", n / 200, n % 200 + 1);
        config += "[[service.server]]\nname = \"web1\"\naddress = \"192.0.2.11\"\n";
    }
    let folder = Folder::with(&config);
    let clients = "198.51.100.7 ".repeat(20_000);
    for mut command in [folder.command("check", ""), folder.command("lookup", &clients)] {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
    }
}

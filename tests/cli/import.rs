//! `oneip import`: what becomes of the configurations of others, literally, and that `oneip check` takes it.

use crate::program::{Ended, Folder, ended, oneip};
use crate::tools::installed;
use std::path::{Path, PathBuf};
use std::process::Command;

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import").join(name)
}

/// Standard output and standard error of a success, which `oneip check` takes.
fn imported(input: &str) -> (String, Vec<String>) {
    let Ended { code, out, err } = ended(&mut oneip("import - --interface lo"), input);
    assert_eq!(code, Some(0), "{err}");
    let checked = Folder::with(&out).run("check", "");
    assert_eq!(checked.code, Some(0), "{}\n{out}", checked.err);
    (out, err.lines().map(str::to_owned).collect())
}

/// The services, without what stands in front of them.
fn services(input: &str) -> String {
    let (out, _) = imported(input);
    out.split_once("\n[[service]]\n").unwrap().1.to_owned()
}

fn remarks(input: &str) -> Vec<String> {
    imported(input).1.into_iter().map(|line| line.replace("standard input:", "")).collect()
}

/// A virtual server with these lines in it, and a server.
fn with(lines: &str) -> String {
    format!(
        "virtual_server 203.0.113.80 80 {{ protocol TCP\nlvs_sched sh\nlvs_method DR\n{lines}\nreal_server 192.0.2.11 80 {{\n}}\n}}\n"
    )
}

/// A virtual server with this check of its server.
fn checked(lines: &str) -> String {
    format!(
        "virtual_server 203.0.113.80 80 {{ protocol TCP\nlvs_sched sh\nlvs_method DR\ndelay_loop 2\nreal_server 192.0.2.11 80 {{\n{lines}\n}}\n}}\n"
    )
}

#[test]
fn samples_of_real_life_become_configurations_that_check_takes() {
    for (name, expected, least) in [("keepalived.conf", 8, 25), ("ipvsadm.rules", 6, 13)] {
        let Ended { code, out, err } = ended(oneip("import").arg(sample(name)), "");
        assert_eq!(code, Some(0), "{err}");
        let checked = Folder::with(&out).run("check", "");
        assert_eq!(checked.code, Some(0), "{}\n{out}", checked.err);
        assert_eq!(out.matches("[[service]]").count(), expected, "{out}");
        let place = format!("{}:", sample(name).display());
        let placed: Vec<usize> =
            err.lines().filter_map(|line| line.strip_prefix(&place)?.split_once(": ")?.0.parse().ok()).collect();
        assert!(placed.len() >= least && placed.is_sorted(), "by line: {err}");
    }
}

/// A sample that keepalived itself would not read would prove little.
#[test]
fn keepalived_reads_the_sample() {
    if !installed("keepalived") {
        return;
    }
    let said = Command::new("keepalived").arg("-t").arg("-f").arg(sample("keepalived.conf")).output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("is duplicated"), "it has read it: {said}");
    for wrong in ["Invalid", "Unknown keyword", "Missing", "Unexpected", "no protocol set"] {
        assert!(!said.contains(wrong), "{said}");
    }
}

#[test]
fn several_files_are_one_configuration() {
    let files = [sample("keepalived.conf"), sample("ipvsadm.rules")];
    let Ended { code, out, err } = ended(oneip("import").args(&files), "");
    assert_eq!(code, Some(0), "{err}");
    let twice = format!(
        "{}:1: left out: the same virtual server stands on line 42 of a file before this one",
        files[1].display()
    );
    assert!(err.contains(&twice), "{err}");
    assert_eq!(out.matches("address = \"203.0.113.80\"").count(), 2);
}

#[test]
fn each_import_has_a_key_of_its_own() {
    let key = |text: String| text.lines().find(|line| line.starts_with("hash_key")).unwrap().to_owned();
    let [one, other] = [(), ()].map(|()| key(imported(&with("")).0));
    assert_ne!(one, other);
}

#[test]
fn a_virtual_server_is_a_service() {
    let input = "virtual_server 2001:db8::80 53 {\n protocol UDP\n lvs_sched sh\n sh-port\n lvs_method TUN type gue port 6081\n \
                 real_server 192.0.2.11 53 {\n weight 5\n }\n real_server 2001:db8:2::12 53\n}\n";
    let expected = "name = \"2001-db8--80-udp-53\"\naddress = \"2001:db8::80\"\nports = [\"udp/53\"]\nhash = \"flow\"\n\
                    deliver = \"gue\"\ngue_port = 6081\n\n[[service.server]]\nname = \"192.0.2.11\"\naddress = \"192.0.2.11\"\n\
                    weight = 5\n\n[[service.server]]\nname = \"2001-db8-2--12\"\naddress = \"2001:db8:2::12\"\n";
    assert_eq!(services(input), expected);
    assert_eq!(remarks(input), Vec::<String>::new(), "all of it");
}

#[test]
fn braces_quotes_comments_and_definitions_are_keepalived_s() {
    let input = "! a comment { with a brace\n$NET=192.0.2 # the LAN\nvirtual_server 203.0.113.80 80 # behind\n{\nprotocol TCP\nlvs_sched sh ! why\n\
                 lvs_method DR\nreal_server ${NET}.11 80 { weight 2 }\nreal_server $NET.12 80 {\nHTTP_GET { url { path \"/a b\" }\n\
                 virtualhost \"www.example.org\" } } }\n";
    let text = services(input);
    for part in [
        "name = \"192.0.2.11\"\naddress = \"192.0.2.11\"\nweight = 2\n",
        "path = \"/a%20b\"\nhost = \"www.example.org\"\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn checks_become_health_checks() {
    let health = |lines: &str| {
        let text = services(&checked(lines));
        let health = text.split_once("[service.health]\n").unwrap().1;
        health.split_once("\n\n").unwrap().0.to_owned()
    };
    let behind = "interval_ms = 2000\ntimeout_ms = 2000\nrise = 1\nfall = 2";
    assert_eq!(health("TCP_CHECK {\n}"), format!("type = \"tcp\"\nport = 80\n{behind}"));
    assert_eq!(
        health("HTTP_GET {\nurl {\npath /\n}\n}"),
        format!("type = \"http\"\nport = 80\npath = \"/\"\nexpect_status = \"200-299\"\n{behind}")
    );
    assert_eq!(
        health(
            "SSL_GET {\nconnect_port 8443\nconnect_timeout 1.5\nnb_get_retry 3\nurl {\npath /x?y=1\nstatus_code 200 301-302\n}\n}"
        ),
        "type = \"https\"\nport = 8443\npath = \"/x?y=1\"\nexpect_status = [200, \"301-302\"]\ninterval_ms = 2000\ntimeout_ms = 1500\nrise = 1\n\
         fall = 4"
    );
    assert_eq!(health("PING_CHECK {\n}"), format!("type = \"icmp\"\n{behind}"));
    let levels = checked(
        "retry 2\nvirtualhost a.example.org\nconnect_timeout 1\nHTTP_GET {\ndelay_loop 4\nurl {\npath /\nvirtualhost b.example.org\n}\n}",
    );
    let levels = services(&levels.replace("delay_loop 2", "delay_loop 2\nretry 9\nvirtualhost c.example.org"));
    let nearest = "host = \"b.example.org\"\nexpect_status = \"200-299\"\ninterval_ms = 4000\ntimeout_ms = 1000\nrise = 1\nfall = 3\n";
    assert!(levels.contains(nearest), "what stands nearest to the check counts: {levels}");
    let minute = services(&checked("TCP_CHECK {\n}").replace("delay_loop 2\n", ""));
    assert!(minute.contains("interval_ms = 60000\ntimeout_ms = 5000\n"), "as keepalived has it: {minute}");
}

#[test]
fn what_has_no_counterpart_is_said_with_its_line() {
    let hash = "has no counterpart: a client's server follows from a hash of its address, and weights count; hash = \"flow\" chooses for each \
                connection";
    let cases = [
        (with("").replace("lvs_sched sh", "lb_algo wlc"), format!("2: scheduler wlc {hash}")),
        (with("").replace("lvs_sched sh\n", ""), format!("1: scheduler wlc {hash}")),
        (
            with("persistence_timeout 50"),
            "4: persistence of 50 s is not needed: a client has the same server as long as that is up, without a timeout".into(),
        ),
        (
            with("persistence_granularity 255.255.255.0"),
            "4: granularity 255.255.255.0 has no counterpart: each address is a client of its own".into(),
        ),
        (
            with("sorry_server 192.0.2.99 80"),
            "4: sorry_server has no counterpart: when all servers are down, packets are dropped, or sent as if all were up (`all_down`)"
                .into(),
        ),
        (with("delay_loop 9999"), "4: delay_loop of 9999 s becomes 600000 ms".into()),
        (with("delay_loop soon"), "4: \"soon\" is no value for delay_loop; it was left out".into()),
        (
            with("").replace("{ protocol TCP", "{"),
            "1: no protocol is given: that means UDP; write protocol TCP where it is meant".into(),
        ),
        (with("persistence_timeout").replace("sh\n", "sh\n\n"), "5: persistence of 360 s is not needed: a client has the same server as long as that is up, without a timeout".into()),
        (with("protocol ICMP"), "4: \"ICMP\" is no value for protocol; it was left out".into()),
        (with("wizardry 3"), "4: wizardry was left out: it has no counterpart here".into()),
        (
            checked("MISC_CHECK {\nmisc_path \"/bin/true\"\n}"),
            "6: MISC_CHECK has no counterpart: no script is run; there are tcp, http, https and icmp for [service.health]".into(),
        ),
        (
            checked("TCP_CHECK {\nconnect_timeout 9\n}"),
            "7: connect_timeout becomes 2000 ms: a check ends before the next begins".into(),
        ),
        (
            checked("HTTP_GET {\nurl {\npath /\ndigest 12\n}\n}"),
            "9: digest has no counterpart: the status counts, not the content".into(),
        ),
        (
            checked("HTTP_GET {\nurl {\npath /\n}\nurl {\npath /b\n}\n}"),
            "10: this url was left out: a check has one".into(),
        ),
        (
            with("").replace("real_server 192.0.2.11 80", "real_server 192.0.2.11 8080"),
            "5: port 8080 of server 192.0.2.11 is not converted: oneip does not change ports".into(),
        ),
        (
            with("real_server 2001:db8::1 80"),
            "4: server 2001:db8::1 left out: its address is of another family than the cluster address".into(),
        ),
        (
            with("real_server 127.0.0.1 80"),
            "4: server 127.0.0.1 left out: it is the load balancer itself, which serves no clients".into(),
        ),
        (with("real_server 192.0.2.11 80"), "5: server 192.0.2.11 left out: the service has it already".into()),
        (with("real_server 192.0.2.12 x"), "4: left out: \"x\" is not a port from 0 to 65535".into()),
        (
            format!("include *.conf\n{}", with("")),
            "1: include *.conf is not followed: name those files as well, behind this one".into(),
        ),
        (
            with("").replace(".80 80 {", ".80 0 {").replace(".11 80", ".11"),
            "1: port 0 becomes all of the address: every protocol and port, ICMP included".into(),
        ),
    ];
    for (input, expected) in cases {
        assert_eq!(remarks(&input), [expected], "{input}");
    }
}

#[test]
fn what_cannot_be_is_left_out_and_the_rest_stays() {
    let nat = "left out: NAT has no counterpart: packets reach servers unchanged, and servers answer clients themselves. Give servers the \
               cluster address (`oneip server add`), and make this DR or TUN first";
    let mark = "has no counterpart, a service is chosen by address, protocol and port; write a virtual server for each of those that the \
                mark stands for";
    let stays = with("");
    for (more, expected) in [
        (
            "virtual_server 203.0.113.81 80 { protocol TCP\nlvs_sched sh\nlvs_method NAT\nreal_server 192.0.2.11 80\n}\n",
            vec![format!("8: {nat}")],
        ),
        (
            "virtual_server 203.0.113.81 80 { protocol TCP\nlvs_sched sh\nreal_server 192.0.2.11 80\n}\n",
            vec!["8: no lvs_method is given: that means NAT".to_owned(), format!("8: {nat}")],
        ),
        ("virtual_server fwmark 5 {\nlvs_method DR\n}\n", vec![format!("8: left out: fwmark 5 {mark}")]),
        (
            "virtual_server group GONE { protocol TCP\nlvs_sched sh\nlvs_method DR\n}\n",
            vec!["8: left out: there is no virtual_server_group GONE".into()],
        ),
        ("virtual_server www 80 {\n}\n", vec!["8: left out: \"www\" is not an address".into()]),
        (
            "virtual_server 203.0.113.81 80 { protocol TCP\nlvs_sched sh\nlvs_method DR\n}\n",
            vec!["8: left out: it has no server that could be converted".into()],
        ),
    ] {
        let (out, said) = imported(&format!("{stays}{more}"));
        let said: Vec<String> = said.into_iter().map(|line| line.replace("standard input:", "")).collect();
        assert_eq!(said, expected, "{more}");
        assert_eq!(out.matches("[[service]]").count(), 1, "{out}");
    }
}

#[test]
fn a_group_is_a_service_for_each_address() {
    let input = "virtual_server group G { protocol TCP\nlvs_sched sh\nlvs_method DR\nreal_server 192.0.2.11 80\n}\n\
                 virtual_server_group G {\n203.0.113.1 80\n203.0.113.254-255 443\nfwmark 3\n}\n";
    let text = services(input);
    for name in ["203.0.113.1-tcp-80", "203.0.113.254-tcp-443", "203.0.113.255-tcp-443"] {
        assert!(text.contains(&format!("name = \"{name}\"\n")), "{text}");
    }
    assert_eq!(remarks(input).iter().filter(|line| line.contains("fwmark 3 has no counterpart")).count(), 1);
}

#[test]
fn what_is_no_configuration_is_refused_with_its_line() {
    let refused = |input: &str| ended(&mut oneip("import -"), input).failed();
    assert_eq!(
        refused("virtual_server 203.0.113.80 80 {\n"),
        "standard input:1: `virtual_server 203.0.113.80 80` has a { that is not closed\n"
    );
    assert_eq!(refused("\n}\n"), "standard input:2: this } closes nothing\n");
    assert_eq!(refused("{\n"), "standard input:1: nothing stands in front of this {\n");
    assert_eq!(refused("a \"b\n"), "standard input:1: a quotation mark is not closed on its line\n");
    assert_eq!(
        refused("$X= \\\n1\n"),
        "standard input:1: $X is defined in several lines, which is not understood: write it in one\n"
    );
    assert_eq!(refused(""), "standard input: there is no virtual server in it that could be converted\n");
    let nothing = refused("virtual_server fwmark 1 {\n}\n");
    assert!(
        nothing.starts_with("standard input: there is no virtual server") && nothing.contains(":1: left out: fwmark 1"),
        "{nothing}"
    );
    let Ended { code, err, .. } = ended(&mut oneip("import /nonesuch.conf"), "");
    assert_eq!(
        (code, err.as_str()),
        (Some(1), "error: /nonesuch.conf cannot be read: No such file or directory (os error 2)\n")
    );
}

#[test]
fn ipvsadm_s_lines_become_services() {
    let input = "ipvsadm -A -t 203.0.113.80:80 -s mh -b mh-port\nipvsadm -a -t 203.0.113.80:80 -r 192.0.2.11:80 -i -w 3 --tun-type gre\n\
                 -A -u [2001:db8::53]:53 -s sh\n-a -u [2001:db8::53]:53 -r [2001:db8:2::11]:53 -g\n";
    let expected = "name = \"203.0.113.80-tcp-80\"\naddress = \"203.0.113.80\"\nports = [\"tcp/80\"]\nhash = \"flow\"\ndeliver = \"gre\"\n\n\
                    [[service.server]]\nname = \"192.0.2.11\"\naddress = \"192.0.2.11\"\nweight = 3\n\n\
                    [[service]]\nname = \"2001-db8--53-udp-53\"\naddress = \"2001:db8::53\"\nports = [\"udp/53\"]\n\n\
                    [[service.server]]\nname = \"2001-db8-2--11\"\naddress = \"2001:db8:2::11\"\n";
    assert_eq!(services(input), expected);
    assert_eq!(remarks(input), Vec::<String>::new());
    for (line, said) in [
        (
            "-a -t 203.0.113.9:80 -r 192.0.2.11:80 -g",
            "5: left out: its virtual server is not above it, or was left out",
        ),
        (
            "-A -t www:http -s sh",
            "5: left out: \"www:http\" is not an address and port in numbers; save them with `ipvsadm -Sn`",
        ),
        ("-a -t 203.0.113.80:80 -r 192.0.2.12:80 -i -w -1", "5: left out: \"-1\" is not a weight from 0 to 65535"),
        (
            "-a -t 203.0.113.80:80 -r 192.0.2.12:80 -i --tun-type sit",
            "5: left out: a tunnel of type `sit` has no counterpart; there are ipip, gue and gre",
        ),
        ("-A -s sh", "5: left out: it names no virtual server (-t, -u or --sctp-service ADDRESS:PORT)"),
        ("-Z", "5: left out: `-Z` adds neither a virtual server nor a server"),
    ] {
        assert_eq!(remarks(&format!("{input}{line}\n")), [said], "{line}");
    }
}

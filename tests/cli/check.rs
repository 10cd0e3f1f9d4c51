//! `oneip check`: the plan, or all that is wrong.

use crate::program::{CONFIG, Folder, ended, oneip};

#[test]
fn the_plan_shows_services_servers_and_shares() {
    let plan = Folder::new().run("check", "").done();
    let rows = |service: &str| -> Vec<Vec<&str>> {
        let lines = plan.lines().skip_while(|line| !line.starts_with(&format!("service {service}: ")));
        lines.skip(2).take_while(|line| !line.is_empty()).map(|line| line.split_whitespace().collect()).collect()
    };
    assert!(plan.contains("service web: 203.0.113.80 tcp/80; maglev over the source, 65537 slots\n"), "{plan}");
    assert!(plan.contains("service plain: 203.0.113.81 every protocol and port; client address modulo"), "{plan}");
    assert_eq!(
        rows("web")[1],
        ["web2", "192.0.2.12", "02:00:00:00:00:12", "1", rows("web")[1][4], rows("web")[1][5], "%"]
    );
    for (service, weights, slots) in [("web", vec![1.0; 3], 65_537), ("web6", vec![1.0, 3.0], 1009)] {
        let counts: Vec<u32> = rows(service).iter().map(|row| row[4].parse().unwrap()).collect();
        assert_eq!(counts.iter().sum::<u32>(), slots, "{service}");
        for (count, weight) in counts.iter().zip(&weights) {
            let exact = f64::from(slots) * weight / weights.iter().sum::<f64>();
            assert!((f64::from(*count) - exact).abs() < 1.0, "{service}: {count}, not {exact}");
        }
    }
}

#[test]
fn the_plan_ends_with_queues_and_cores_as_far_as_this_machine_tells() {
    let plan = |config: &str| Folder::with(config).run("check", "").done();
    assert!(plan(CONFIG).ends_with(
        "\nno [dispatcher] and no [filter]: enough for lookup and replay; `oneip run` or `oneip filter` needs one\n"
    ));
    let absent = plan(&format!("{CONFIG}\n[dispatcher]\ninterface = \"nonesuch0\"\n"));
    assert!(absent.contains("\nqueues and cores: not possible on this machine: interface nonesuch0 does not exist"));
}

#[test]
fn the_plan_says_what_a_change_keeps_and_where_the_dispatcher_is_asked() {
    let said =
        |config: &str| Folder::with(&format!("[dispatcher]\ninterface = \"lo\"\n{config}")).run("check", "").done();
    let plan = said(CONFIG);
    assert_eq!(plan.matches("\n  a change keeps connections where they are for 600 s\n").count(), 3, "{plan}");
    let admin = "\nadmin: socket /run/oneip/oneip.sock, no metrics over TCP, state in /var/lib/oneip/oneip.json\n";
    assert!(plan.contains(admin) && !plan.contains("announce"), "{plan}");
    let plan = said(&format!("[announce]\nhold_s = 0\n{CONFIG}"));
    let announce = "\nannounce: routes in table 111; needs 1 up; announced again after 5000 ms; withdrawn 2000 ms \
                    before a stop, and 0 s after a crash\n";
    assert!(plan.contains(announce), "{plan}");
    let plan =
        said(&format!("[admin]\nsocket = \"east.sock\"\nmetrics = \"[::1]:9180\"\nweb = \"[::1]:9181\"\n{CONFIG}"));
    let admin = "\nadmin: socket east.sock, http://[::1]:9180/metrics, page http://[::1]:9181/, state in /var/lib/oneip/east.json\n";
    assert!(plan.contains(admin), "{plan}");
}

#[test]
fn cores_that_this_machine_has_not_are_warned_of() {
    let config = format!("{CONFIG}\n[dispatcher]\ninterface = \"nonesuch0\"\ncores = [0, 9001, 9002]\n");
    let said = Folder::with(&config).run("check", "");
    assert_eq!(said.code, Some(0), "the file may be for another machine");
    let expected = "warning: `cores` lists 9001-9002; on this machine `run` would be refused: it may use ";
    assert!(said.err.starts_with(expected), "{}", said.err);
}

#[test]
fn a_filters_checks_are_of_the_primary_address() {
    let health = "[service.health]\ntype = \"tcp\"\nport = 80\n\n[[service.server]]";
    let config = CONFIG.replacen("[[service.server]]", health, 1);
    let plan = |mode: &str| Folder::with(&format!("[{mode}]\ninterface = \"lo\"\n{config}")).run("check", "").done();
    assert!(plan("dispatcher").contains("health: tcp connection to port 80, at the cluster address, "));
    let plan = plan("filter");
    assert!(plan.contains("health: tcp connection to port 80, at the primary address, "), "{plan}");
}

#[test]
fn all_that_is_wrong_is_said_at_once_by_line_and_column() {
    let config = CONFIG.replace("192.0.2.12\"\nmac", "192.0.2.300\"\nmac").replace("\nslots = 1009", "\nslotz = 1009");
    let said = Folder::with(&config).run("check", "").failed();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "oneip.toml: 3 problems", "{said}");
    assert!(said.contains("oneip.toml:16:11: ") && said.contains("192.0.2.300"), "{said}");
    assert!(said.contains("slotz"), "{said}");
    assert!(lines[1..].iter().all(|line| line.starts_with("oneip.toml:")), "{said}");
}

#[cfg(not(feature = "dpdk"))]
#[test]
fn without_dpdk_it_is_said_how_to_build_with_it() {
    let config =
        format!("{CONFIG}\n[dispatcher]\ninterface = \"lo\"\nengine = \"dpdk\"\n[dpdk]\nport = \"net_null0\"\n");
    let advice = "this build has no DPDK port; apt-get install libdpdk-dev && cargo build --release --features dpdk";
    let plan = Folder::with(&config).run("check", "").done();
    assert!(plan.contains(&format!("engine dpdk: {advice}")), "{plan}");
    let said = Folder::with(&config).run("run", "").failed();
    assert!(said.contains(&format!("engine = \"dpdk\": {advice}")), "{said}");
}

/// What has no end, or waits for somebody to write, is refused before it is read.
#[test]
fn only_a_regular_file_is_a_configuration() {
    for arguments in ["check -c /dev/zero", "run -c /dev/zero", "lookup -c /dev/zero 198.51.100.7"] {
        let said = ended(&mut oneip(arguments), "");
        assert_eq!((said.code, said.err.as_str()), (Some(1), "error: /dev/zero: is a device; name a regular file\n"));
    }
}

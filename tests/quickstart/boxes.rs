//! The walk through what the pages say of boxes: each block for a host of a network runs in a namespace of that host, one after the
//! other. boxes.sh makes the network, reader.sh is the reader who starts what does not end, and waits.

use crate::pages::{Fence, ROLES, fences, root};
use crate::{PREPARED, pages_with, run, said};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

const SERVERS: [&str; 2] = ["web1", "web2"];

/// A page, and what it presumes.
struct Walk {
    page: &'static str,
    configuration: Configuration,
    /// What is there before the first block: functions of boxes.sh.
    given: &'static str,
    /// What is looked at behind the block of that role with this line.
    looks: &'static [(&'static str, &'static str, &'static str)],
}

enum Configuration {
    /// The page's first whole one.
    Shown,
    /// Of two services, with these sections, and with these keys of each service.
    With(&'static str, &'static str),
}

const USUAL: Configuration = Configuration::With("", "");

/// A network that dispatches: what most pages are about.
const DISPATCHES: &str = "servers; route; dispatching";

macro_rules! walks {
    ($($test:ident: $walk:expr;)*) => {
        $(#[test]
        fn $test() {
            ($walk).run();
        })*

        const WALKS: &[Walk] = &[$($walk),*];
    };
}

walks! {
    readme: Walk {
        page: "README.md",
        configuration: Configuration::Shown,
        given: "",
        looks: &[("dispatcher", "oneip run -c cluster.toml --stats", "answers")],
    };
    broadcast: Walk {
        page: "docs/broadcast.md",
        configuration: USUAL,
        given: "",
        looks: &[
            ("router", "ip route add 203.0.113.80 dev eth1", "answers"),
            ("filter", "oneip server add -c cluster.toml --broadcast --group 03:00:5e:00:00:50", "answers"),
        ],
    };
    commands: Walk { page: "docs/commands.md", configuration: Configuration::With("", "second_chance = true"), given: "servers; route", looks: &[] };
    decap: Walk {
        page: "docs/decap.md",
        configuration: Configuration::With("[decap]\nsources = [\"192.0.2.2\", \"2001:db8:2::2\"]", "deliver = \"ipip\""),
        given: "route",
        looks: &[("server", "oneip decap -c cluster.toml", "dispatching; answers; unprepared web1")],
    };
    engines: Walk { page: "docs/engines.md", configuration: USUAL, given: "installed", looks: &[] };
    group: Walk {
        page: "docs/group.md",
        configuration: Configuration::With("[group]\nname = \"edge\"\netcd = [\"http://192.0.2.51:2379\"]\nconfig = \"etcd\"", ""),
        given: "store; servers; route; dispatching; services_to_publish",
        looks: &[
            ("dispatcher", "oneip ctl publish services.toml", "answers"),
            ("generator", "etcdctl user add oneip", "keeps_to_its_keys"),
        ],
    };
    import: Walk { page: "docs/import.md", configuration: USUAL, given: "keepalived", looks: &[] };
    installation: Walk {
        page: "docs/installation.md",
        configuration: USUAL,
        given: "installed; servers; route",
        looks: &[("dispatcher", "oneip ctl status", "answers")],
    };
    interfaces: Walk { page: "docs/interfaces.md", configuration: USUAL, given: "", looks: &[] };
    limits_and_lists: Walk { page: "docs/limits-and-lists.md", configuration: USUAL, given: "", looks: &[] };
    metrics: Walk { page: "docs/metrics.md", configuration: USUAL, given: DISPATCHES, looks: &[] };
    operations: Walk {
        page: "docs/operations.md",
        configuration: USUAL,
        given: "servers; route; dispatching; tunable",
        looks: &[(
            "dispatcher",
            "scripts/tune.sh undo --interface eth1",
            "printed 'nr_hugepages +0 -> 16'; printed 'nr_hugepages +16 -> 0'; printed 'smp_affinity_list +2 -> 0,1' 2",
        )],
    };
    page: Walk { page: "docs/page.md", configuration: USUAL, given: DISPATCHES, looks: &[] };
    pktgen: Walk {
        page: "docs/pktgen.md",
        configuration: USUAL,
        given: "sent_back; dispatching",
        looks: &[("generator", "oneip pktgen --interface eth1 --to 02:00:00:00:00:02 --address 203.0.113.80", "printed '^received +[1-9]' 2; printed '\"received\":[1-9]'")],
    };
    prefixes: Walk { page: "docs/prefixes.md", configuration: USUAL, given: "route", looks: &[("server", "ip route add local 203.0.113.0/24 dev lo", "dispatching; answers")] };
    quickstart: Walk {
        page: "docs/quickstart.md",
        configuration: Configuration::Shown,
        given: "",
        looks: &[("client", "curl http://203.0.113.80/", "answers")],
    };
    routers: Walk {
        page: "docs/routers.md",
        configuration: USUAL,
        given: "servers; dispatching",
        looks: &[
            ("router", "ip route add 203.0.113.80/32 via 192.0.2.2", "answers; answers '[2001:db8:80::80]'"),
            ("router", "ip route get 203.0.113.80", "printed '^203.0.113.80 dev eth1 src'; printed 'lladdr ff:ff:ff:ff:ff:ff PERMANENT'"),
        ],
    };
    several_dispatchers: Walk {
        page: "docs/several-dispatchers.md",
        configuration: Configuration::With("[announce]", "second_chance = true"),
        given: "own_run; servers; addresses dispatcher eth1 192.0.2.254/24 2001:db8:2::254/64; dispatching; announced",
        looks: &[
            ("router", "ip route add 203.0.113.80/32 via 192.0.2.254", "answers; answers '[2001:db8:80::80]'"),
            ("server", "oneip decap -c cluster.toml", "answers"),
        ],
    };
    troubleshooting: Walk { page: "docs/troubleshooting.md", configuration: USUAL, given: DISPATCHES, looks: &[] };
}

impl Walk {
    fn run(&self) {
        if !rustix::process::geteuid().is_root() {
            return crate::skip("network namespaces need root");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let configuration = self.configuration.text(self.page);
        fs::write(at("cluster.toml"), &configuration).expect("written");
        let engine = |line: &&str| !line.starts_with("engine");
        let filter: Vec<&str> = configuration.lines().filter(engine).collect();
        fs::write(at("filter.toml"), filter.join("\n").replace("[dispatcher]", "[filter]")).expect("written");
        fs::write(at("reader.sh"), include_str!("reader.sh")).expect("written");
        fs::create_dir(at("own")).expect("made");

        let output = run(&self.script(folder.path()), folder.path());
        let printed = String::from_utf8_lossy(&output.stdout);
        for line in printed.lines().filter(|line| line.starts_with("SKIPPED")) {
            say(&format!("{line}: a block of {}", self.page));
        }
        assert!(output.status.success(), "{}: {}", output.status, said(&output));
    }

    fn script(&self, folder: &Path) -> String {
        let blocks = boxes(self.page);
        let mounted = if blocks.iter().any(|block| block.body.contains("mount -t bpf")) { "" } else { "yes" };
        let mut script = format!(
            "{PREPARED}\nexport WALK={} SOURCE={} MOUNTED={mounted}\n{}\nnetwork\necho '== before {}' >&2\n{}\n",
            folder.display(),
            root().display(),
            include_str!("boxes.sh"),
            self.page,
            self.given,
        );
        let mut looked = 0;
        for (n, Fence { info, body, output, place }) in blocks.into_iter().enumerate() {
            let file = folder.join(format!("block{n}.sh"));
            fs::write(&file, &body).expect("written");
            let (role, hosts) = hosts(&info);
            for host in hosts {
                script += &format!("echo '== {place} on {host}' >&2\nat {role} {host} {}\n", file.display());
                if let Some(output) = &output {
                    script += &format!("diff -uZ - \"$WALK/printed\" >&2 <<'SHOWN'\n{output}SHOWN\n");
                }
            }
            for (_, _, look) in
                self.looks.iter().filter(|(of, line, _)| *of == role && body.lines().any(|l| l == *line))
            {
                looked += 1;
                script += &format!("{look}\n");
            }
        }
        assert_eq!(looked, self.looks.len(), "{}: a line that is looked at is not there", self.page);
        script + "echo '== at the end' >&2\nend\n"
    }
}

impl Configuration {
    fn text(&self, page: &str) -> String {
        let Configuration::With(sections, keys) = self else {
            return fences(page).into_iter().find(|fence| fence.info == "toml").expect("a configuration").body;
        };
        let service = |name: &str, address: &str, lan: &str| {
            let servers = [(1, 11), (2, 12)]
                .map(|(n, last)| format!("[[service.server]]\nname = \"web{n}\"\naddress = \"{lan}{last}\"\n"));
            format!(
                "[[service]]\nname = \"{name}\"\naddress = \"{address}\"\n{keys}\n\
                 [service.health]\ntype = \"http\"\nport = 80\n{}",
                servers.concat()
            )
        };
        format!(
            "[cluster]\nhash_key = \"5b2f9d0c71e84a6d93f05ce2187ab46d\"\n[dispatcher]\ninterface = \"eth1\"\nengine = \"xdp\"\n\
             [admin]\nmetrics = \"127.0.0.1:9180\"\nweb = \"127.0.0.1:9181\"\n{sections}\n{}{}",
            service("web", "203.0.113.80", "192.0.2."),
            service("web6", "2001:db8:80::80", "2001:db8:2::"),
        )
    }
}

/// Not `eprintln`, which is not shown of a test that passes.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The blocks for a host of a network.
fn boxes(page: &str) -> Vec<Fence> {
    fences(page).into_iter().filter(|fence| fence.info.starts_with("sh box ")).collect()
}

/// `sh box ROLE`, or `sh box ROLE HOST` for one of the hosts that have this role.
fn hosts(info: &str) -> (&str, Vec<&str>) {
    let words: Vec<&str> = info.split(' ').skip(2).collect();
    let role = words[0];
    assert!(ROLES.contains(&role), "```{info}: what is {role}?");
    let all = if ["server", "filter"].contains(&role) { SERVERS.to_vec() } else { vec![role] };
    match words.get(1) {
        Some(host) => (role, all.into_iter().filter(|name| name == host).collect()),
        None => (role, all),
    }
}

#[test]
fn every_page_about_boxes_is_walked_through() {
    let walked: BTreeSet<String> = WALKS.iter().map(|walk| walk.page.to_owned()).collect();
    assert_eq!(pages_with(|page| !boxes(page).is_empty()), walked);
}

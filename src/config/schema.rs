//! The sections of the configuration and their keys.

/// What a kind of section may hold.
pub struct Schema {
    /// The section as it is written: `[cluster]`.
    pub title: &'static str,
    pub keys: &'static [Key],
}

pub struct Key {
    pub name: &'static str,
    pub required: bool,
    /// The key as it is written: `weight = 1`.
    pub form: &'static str,
}

const fn required(name: &'static str, form: &'static str) -> Key {
    Key { name, required: true, form }
}

const fn optional(name: &'static str, form: &'static str) -> Key {
    Key { name, required: false, form }
}

pub static ROOT: Schema = Schema {
    title: "the configuration",
    keys: &[
        optional("include", "include = \"services.d\""),
        required("cluster", "[cluster] with hash_key = \"32 hex digits\""),
        optional("dispatcher", "[dispatcher] with interface = \"eth1\""),
        optional("filter", "[filter] with interface = \"eth1\""),
        optional("decap", "[decap] with sources = [\"192.0.2.2\"]"),
        optional("admin", "[admin] with metrics = \"127.0.0.1:9180\""),
        optional("announce", "[announce], which may be empty"),
        optional("group", "[group] with name and etcd"),
        optional("deny", "[[deny]] with prefixes = [\"198.51.100.0/24\"]"),
        optional("allow", "[[allow]] with prefixes = [\"198.51.100.7\"]"),
        optional("limit", "[limit.odd] with fragments = 20000"),
        optional("dpdk", "[dpdk] with port = \"0000:03:00.0\""),
        required("service", "[[service]] with double brackets, once for each service"),
    ],
};

pub static CLUSTER: Schema = Schema {
    title: "[cluster]",
    keys: &[
        optional("hash_key", "hash_key = \"32 hex digits\""),
        optional("hash_key_file", "hash_key_file = \"PATH\""),
    ],
};

pub static DISPATCHER: Schema = Schema {
    title: "[dispatcher]",
    keys: &[
        required("interface", "interface = \"eth1\""),
        optional("engine", "engine = \"af_xdp\""),
        optional("cores", "cores = [2, 3]"),
        optional("idle", "idle = \"poll\""),
        optional("flows", "flows = 1048576"),
        optional("heartbeat_ms", "heartbeat_ms = 100"),
        optional("source", "source = [\"192.0.2.2\"]"),
        optional("mtu", "mtu = 1500"),
        optional("gateway_mac", "gateway_mac = \"02:00:00:00:00:fe\""),
        optional("limit_sources", "limit_sources = 65536"),
        optional("xdp", "xdp = \"native\""),
        optional("pins", "pins = \"/sys/fs/bpf/oneip\""),
    ],
};

pub static INTERFACE: Schema = Schema {
    title: "[[dispatcher.interface]]",
    keys: &[required("name", "name = \"eth1\""), optional("queues", "queues = 4"), optional("cores", "cores = [2, 3]")],
};

pub static FILTER: Schema = Schema {
    title: "[filter]",
    keys: &[
        required("interface", "interface = \"eth1\""),
        optional("hold_ms", "hold_ms = 1500"),
        optional("xdp", "xdp = \"native\""),
        optional("pins", "pins = \"/sys/fs/bpf/oneip\""),
        optional("port", "port = 7480"),
    ],
};

pub static DECAP: Schema = Schema {
    title: "[decap]",
    keys: &[
        optional("interface", "interface = \"eth1\""),
        optional("sources", "sources = [\"192.0.2.2\", \"2001:db8:2::/64\"]"),
        optional("xdp", "xdp = \"native\""),
        optional("pins", "pins = \"/sys/fs/bpf/oneip\""),
    ],
};

pub static ADMIN: Schema = Schema {
    title: "[admin]",
    keys: &[
        optional("socket", "socket = \"/run/oneip/oneip.sock\""),
        optional("metrics", "metrics = \"127.0.0.1:9180\""),
        optional("web", "web = \"127.0.0.1:9181\""),
        optional("state", "state = \"/var/lib/oneip/oneip.json\""),
    ],
};

pub static ANNOUNCE: Schema = Schema {
    title: "[announce]",
    keys: &[
        optional("table", "table = 111"),
        optional("min_up", "min_up = 1"),
        optional("hold_down_ms", "hold_down_ms = 5000"),
        optional("linger_ms", "linger_ms = 2000"),
        optional("hold_s", "hold_s = 30"),
    ],
};

pub static GROUP: Schema = Schema {
    title: "[group]",
    keys: &[
        required("name", "name = \"edge\""),
        required("etcd", "etcd = [\"https://192.0.2.51:2379\"]"),
        optional("member", "member = \"dispatcher1\""),
        optional("ca_file", "ca_file = \"etcd-ca.pem\""),
        optional("cert_file", "cert_file = \"etcd-client.pem\""),
        optional("key_file", "key_file = \"etcd-client.key\""),
        optional("user", "user = \"oneip\""),
        optional("password_file", "password_file = \"etcd.password\""),
        optional("config", "config = \"etcd\""),
        optional("health", "health = \"shared\""),
        optional("check_by", "check_by = 3"),
    ],
};

pub static DPDK: Schema = Schema {
    title: "[dpdk]",
    keys: &[
        required("port", "port = \"0000:03:00.0\""),
        optional("eal", "eal = [\"--no-huge\", \"-m\", \"256\"]"),
        optional("queues", "queues = 2"),
        optional("descriptors", "descriptors = 1024"),
        optional("mbufs", "mbufs = 8191"),
        optional("mtu", "mtu = 1500"),
        optional("exception", "exception = \"tap\""),
    ],
};

pub static DENY: Schema = Schema {
    title: "[[deny]]",
    keys: &[
        optional("prefixes", "prefixes = [\"198.51.100.0/24\"]"),
        optional("files", "files = [\"deny.txt\"]"),
        optional("services", "services = [\"web\"]"),
        optional("mode", "mode = \"count\""),
    ],
};

pub static ALLOW: Schema = Schema {
    title: "[[allow]]",
    keys: &[
        optional("prefixes", "prefixes = [\"198.51.100.7\"]"),
        optional("files", "files = [\"allow.txt\"]"),
        optional("services", "services = [\"web\"]"),
    ],
};

pub static SERVICE: Schema = Schema {
    title: "[[service]]",
    keys: &[
        required("name", "name = \"web\""),
        required("address", "address = \"203.0.113.80\""),
        optional("ports", "ports = [\"tcp/80\", \"udp/443\"]"),
        optional("hash", "hash = \"source\""),
        optional("deliver", "deliver = \"l2\""),
        optional("gue_port", "gue_port = 6080"),
        optional("dscp", "dscp = 12"),
        optional("selection", "selection = \"maglev\""),
        optional("slots", "slots = 65537"),
        optional("drain_s", "drain_s = 600"),
        optional("drain", "drain = \"until-closed\""),
        optional("second_chance", "second_chance = true"),
        optional("announce", "announce = \"drain\""),
        required("server", "[[service.server]] with double brackets, once for each server"),
        optional("health", "[service.health] with type = \"http\""),
        optional("limit", "[service.limit] with syn = 20000"),
        optional("quic", "[service.quic] with config_id = 0"),
    ],
};

pub static SERVER: Schema = Schema {
    title: "[[service.server]]",
    keys: &[
        required("name", "name = \"web1\""),
        required("address", "address = \"192.0.2.11\""),
        optional("mac", "mac = \"02:00:00:00:00:11\""),
        optional("weight", "weight = 1"),
        optional("vlan", "vlan = 100"),
        optional("quic_id", "quic_id = \"c4605e\""),
    ],
};

pub static HEALTH: Schema = Schema {
    title: "[service.health]",
    keys: &[
        required("type", "type = \"http\""),
        optional("port", "port = 80"),
        optional("path", "path = \"/healthz\""),
        optional("expect_status", "expect_status = [200, 204] or expect_status = \"200-299\""),
        optional("host", "host = \"www.example.org\""),
        optional("interval_ms", "interval_ms = 1000"),
        optional("timeout_ms", "timeout_ms = 500"),
        optional("rise", "rise = 2"),
        optional("fall", "fall = 3"),
        optional("via", "via = \"service\""),
        optional("probe_address", "probe_address = \"203.0.113.80\""),
        optional("all_down", "all_down = \"drop\""),
    ],
};

pub static LIMIT: Schema = Schema {
    title: "[service.limit]",
    keys: &[
        optional("packets", "packets = 500000"),
        optional("packets_burst", "packets_burst = 50000"),
        optional("bits", "bits = 4000000000"),
        optional("bits_burst", "bits_burst = 400000000"),
        optional("syn", "syn = 20000"),
        optional("syn_burst", "syn_burst = 2000"),
        optional("mode", "mode = \"count\""),
        optional("per_source", "per_source = { syn = 50 }"),
    ],
};

pub static PER_SOURCE: Schema = Schema {
    title: "[service.limit.per_source]",
    keys: &[
        optional("prefix_v4", "prefix_v4 = 32"),
        optional("prefix_v6", "prefix_v6 = 64"),
        optional("packets", "packets = 5000"),
        optional("syn", "syn = 50"),
        optional("burst", "burst = 100"),
    ],
};

pub static CLUSTER_LIMIT: Schema =
    Schema { title: "[limit]", keys: &[optional("odd", "[limit.odd] with fragments = 20000")] };

pub static ODD: Schema = Schema {
    title: "[limit.odd]",
    keys: &[
        optional("fragments", "fragments = 20000"),
        optional("fragments_burst", "fragments_burst = 2000"),
        optional("icmp", "icmp = 2000"),
        optional("icmp_burst", "icmp_burst = 200"),
        optional("options", "options = 1000"),
        optional("options_burst", "options_burst = 100"),
        optional("mode", "mode = \"count\""),
    ],
};

pub static QUIC: Schema = Schema {
    title: "[service.quic]",
    keys: &[
        required("config_id", "config_id = 0"),
        required("server_id_length", "server_id_length = 3"),
        required("nonce_length", "nonce_length = 6"),
        optional("key", "key = \"32 hex digits\""),
        optional("key_file", "key_file = \"quic.key\""),
    ],
};

static ALL: [&Schema; 19] = [
    &ROOT,
    &CLUSTER,
    &DISPATCHER,
    &FILTER,
    &DECAP,
    &ADMIN,
    &ANNOUNCE,
    &GROUP,
    &DENY,
    &ALLOW,
    &DPDK,
    &SERVICE,
    &SERVER,
    &HEALTH,
    &LIMIT,
    &PER_SOURCE,
    &CLUSTER_LIMIT,
    &ODD,
    &QUIC,
];

impl Schema {
    /// The key of that name. Asking for one that the schema lacks is a bug.
    pub fn key(&self, name: &str) -> &'static Key {
        self.keys.iter().find(|key| key.name == name).expect("a key of the schema")
    }

    pub fn knows(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.name == name)
    }

    /// What to say of a key that the section does not know: where it belongs, or which key was probably meant.
    pub fn unknown(&self, name: &str) -> String {
        let key = super::value::quoted(name, '`');
        let elsewhere: Vec<_> = ALL.iter().filter(|schema| schema.knows(name)).collect();
        let near = self.keys.iter().map(|key| key.name).find(|known| is_near(&folded(name), known));
        let known: Vec<_> = self.keys.iter().map(|key| key.name).collect();
        let advice = match near {
            _ if !elsewhere.is_empty() => {
                let titles: Vec<_> = elsewhere.iter().map(|schema| schema.title).collect();
                format!("it belongs in {}: {}", titles.join(" or "), elsewhere[0].key(name).form)
            }
            Some(near) => format!("did you mean `{near}`? The keys here are {}", known.join(", ")),
            None => format!("the keys here are {}", known.join(", ")),
        };
        format!("unknown key {key} in {}; {advice}", self.title)
    }
}

fn folded(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

/// Whether `name` is `known` with a slip of the finger in every third letter at most.
fn is_near(name: &str, known: &str) -> bool {
    let slips = (known.len() / 3).max(1);
    name.len().abs_diff(known.len()) <= slips && distance(name, known) <= slips
}

/// Letters to insert, remove, replace or swap with their neighbour to turn `a` into `b` (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, _) => j,
                (_, 0) => i,
                _ => {
                    let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let edited = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                    if swapped { edited.min(rows[i - 2][j - 2] + 1) } else { edited }
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_near_and_other_words_are_not() {
        for (name, known) in
            [("weigth", "weight"), ("slot", "slots"), ("hsah", "hash"), ("mak", "mac"), ("prots", "ports")]
        {
            assert!(is_near(name, known), "{name} {known}");
        }
        for (name, known) in [("health", "hash"), ("size", "slots"), ("", "mac"), ("folder", "cluster")] {
            assert!(!is_near(name, known), "{name} {known}");
        }
    }

    #[test]
    fn distance_counts_each_kind_of_slip_once() {
        for (a, b, edits) in
            [("abc", "abc", 0), ("abc", "abxc", 1), ("abc", "ac", 1), ("abc", "axc", 1), ("abc", "acb", 1)]
        {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}

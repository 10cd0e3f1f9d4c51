//! The store and its clients prove to each other who they are, and what they prove it with is seen nowhere.

use super::SAME;
use super::net::{KEY, Net, eventually, run};
use std::fs;

/// The store refuses after the handshake, and the library does not tell why.
const NO_CERTIFICATE: &str = "the store CANNOT BE REACHED";

#[test]
fn the_store_and_its_clients_are_verified_and_nothing_secret_is_shown() {
    let Some(net) = Net::up(3) else { return };
    let d = net.folder.path();
    let ec = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    run("openssl", &format!("req -x509 {ec} -days 1 -subj /CN=authority -keyout ca.key -out ca.pem"), d);
    run("openssl", &format!("req -x509 {ec} -days 1 -subj /CN=other -keyout other.key -out other.pem"), d);
    fs::write(d.join("names"), "subjectAltName=IP:127.0.0.1\n").expect("written");
    for name in ["server", "client"] {
        run("openssl", &format!("req {ec} -subj /CN={name} -keyout {name}.key -out {name}.csr"), d);
        run(
            "openssl",
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -extfile names -out {name}.pem"
            ),
            d,
        );
    }
    let serving = "--cert-file=server.pem --key-file=server.key";
    let etcd = net.etcd(0, 1, &format!("{serving} --trusted-ca-file=ca.pem --client-cert-auth"));
    let as_client = "--endpoints=https://127.0.0.1:2379 --cacert=ca.pem --cert=client.pem --key=client.key";
    for order in [
        "user add root:top",
        "user grant-role root root",
        "user add oneip:s3cret",
        "role add edge",
        "role grant-permission edge --prefix=true readwrite /oneip/edge/",
        "user grant-role oneip edge",
        "auth enable",
    ] {
        net.etcdctl(&format!("{as_client} {order}"));
    }
    fs::write(d.join("password"), "s3cret\n").expect("written");
    let group =
        |host: &str, ca: &str, more: &str| format!("etcd = [\"https://{host}:2379\"]\nca_file = \"{ca}\"\n{more}");
    let user = "user = \"oneip\"\npassword_file = \"password\"\n";
    let client = "cert_file = \"client.pem\"\nkey_file = \"client.key\"\n";
    let both = format!("{user}{client}");
    net.config(1, &group("127.0.0.1", "ca.pem", &both), SAME);
    let d1 = net.dispatcher(1);
    net.joined(1, 1);
    let mut logs = d1.said();

    // Each is refused for one thing that is wrong, and says which.
    let wrong = d.join("wrong");
    fs::write(&wrong, "h1dden\n").expect("written");
    for (settings, told) in [
        (group("127.0.0.1", "other.pem", &both), "invalid peer certificate: UnknownIssuer"),
        // It is the same store, and its certificate has another name.
        (group("localhost", "ca.pem", &both), "invalid peer certificate: certificate not valid for name \"localhost\""),
        (group("127.0.0.1", "ca.pem", user), NO_CERTIFICATE),
        (group("127.0.0.1", "ca.pem", &both.replace("\"password\"", "\"wrong\"")), "authentication failed"),
    ] {
        net.config(2, &settings, SAME);
        let d2 = net.dispatcher(2);
        let is_refused = || told != NO_CERTIFICATE || etcd.said().contains("client didn't provide a certificate");
        eventually(told, || net.done(2, "status").contains(told) && is_refused());
        logs += &net.done(2, "status --json");
        logs += &d2.said();
        d2.stop();
    }
    let said = net.done(1, "drain web1");
    assert!(said.ends_with("the group has the order: 1 members"), "{said}");

    // A password alone, where the store wants no certificate.
    etcd.stop();
    let _etcd = net.etcd(0, 1, serving);
    net.config(3, &group("127.0.0.1", "ca.pem", user), SAME);
    let d3 = net.dispatcher(3);
    [1, 3].iter().for_each(|at| net.joined(*at, 2));
    net.becomes(3, "web1", "draining", 1);

    for at in [1, 3] {
        logs += &(net.done(at, "status --json") + &net.done(at, "group --json") + &net.done(at, "metrics"));
    }
    logs += &(d1.said() + &d3.said());
    let stored = net.etcdctl("--endpoints=https://127.0.0.1:2379 --cacert=ca.pem --user=root:top get --prefix /oneip/");
    assert!(stored.contains("/oneip/edge/shared/members/d1") && stored.contains("drained_until"), "{stored}");
    let key = fs::read_to_string(d.join("client.key")).expect("it was made");
    let mut secrets: Vec<&str> = key.lines().filter(|line| !line.starts_with('-')).collect();
    assert!(!secrets.is_empty());
    secrets.extend(["s3cret", "h1dden", KEY]);
    for secret in secrets {
        assert!(!logs.contains(secret), "{secret}: {logs}");
        assert!(!stored.contains(secret), "{secret}: {stored}");
    }
}

//! The filter on a server whose NIC qemu emulates, beside two servers of the lab's with theirs.

use crate::CLIENTS;
use crate::machine::Guest;
use crate::network::{HEALTH, Lab, SERVERS, WEB, clients, eventually, lookup, say, with_health, write_config};
use std::fs;
use std::process::{Child, Stdio};

const IN_GUEST: &str = "web3";

/// A process of the lab's, which is killed with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn filter_of(lab: &Lab, server: &str) -> Killed {
    let log = fs::File::create(lab.file(&format!("{server}.log"))).unwrap();
    let mut filter = lab.command(server, env!("CARGO_BIN_EXE_oneip"));
    filter.arg("filter").arg("-c").arg(lab.file(&format!("{server}.toml")));
    Killed(filter.stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

/// Everybody has the server that keeps them, over both families, but those of `gone`; what clients of the guest's send and get arrives whole.
fn all_are_served(lab: &Lab, gone: &[&str]) {
    for (family, service) in WEB.iter().enumerate() {
        let clients = &clients(family)[..CLIENTS];
        let expected = lookup(&lab.config(), service, clients, gone);
        eventually("everybody has their server", || lab.fetch_within(2, family, clients) == expected);
        assert_eq!(lab.fetch(family, clients), expected);
        if gone.is_empty() {
            let (client, _) = expected.iter().find(|(_, server)| server == IN_GUEST).unwrap();
            lab.transfer(family, client, IN_GUEST);
        }
    }
}

/// The lab's router sends what is to the cluster address to the broadcast address; the driver gives the program those frames.
fn keeps_its_clients_on(nic: &str, mode: &str) {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    for server in SERVERS {
        let file = lab.file(&format!("{server}.toml"));
        write_config(&file, &with_health(&fs::read_to_string(&file).unwrap(), HEALTH));
    }
    let filters = ["web1", "web2"].map(|server| filter_of(lab, server));
    lab.sh(IN_GUEST, &format!("kill $(cat {})", lab.file(&format!("{IN_GUEST}/nginx.pid")).display()));
    let Some(mut guest) = Guest::boot(lab, nic, 2, &["--host", IN_GUEST]) else { return };
    let folder = lab.file(IN_GUEST).display().to_string();
    let config = lab.file(&format!("{IN_GUEST}.toml"));
    guest.run("mkdir -p /var/lib/nginx /var/log/nginx");
    guest.run(&format!("nginx -e {folder}/error.log -p {folder} -c {folder}/nginx.conf"));
    let set_up = format!("{} server add -c {} --broadcast", env!("CARGO_BIN_EXE_oneip"), config.display());
    guest.run(&set_up);
    let text = fs::read_to_string(&config).unwrap();
    let said = guest.begin("filter", &text, "");
    say(&said);
    assert!(said.contains(mode), "{said}");
    all_are_served(lab, &[]);

    guest.end("KILL");
    let expected = lookup(&lab.config(), WEB[0], &clients(0)[..CLIENTS], &[]);
    assert_eq!(lab.fetch(0, &clients(0)[..CLIENTS]), expected, "the program in the kernel goes on");
    let said = guest.begin("filter", &text, "");
    assert!(said.contains("taken over from the process before"), "{said}");
    all_are_served(lab, &[]);

    guest.set_link(false);
    all_are_served(lab, &["--down", IN_GUEST]);
    guest.set_link(true);
    all_are_served(lab, &[]);
    guest.end("TERM");
    drop(filters);
}

#[test]
#[ignore = "takes minutes"]
fn a_server_behind_igb_keeps_its_own_clients() {
    keeps_its_clients_on("igb", "native XDP");
}

#[test]
#[ignore = "takes minutes"]
fn a_server_behind_virtio_keeps_its_own_clients() {
    keeps_its_clients_on("virtio", "native XDP");
}

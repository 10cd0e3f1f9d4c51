//! What operators, drivers and cables do to igb while the dispatcher runs.

use crate::machine::Guest;
use crate::network::{Lab, clients, eventually, say};
use crate::{CLIENTS, all_is_well, expected, wait_for_link};
use std::time::{Duration, Instant};

/// By ethtool. The number of queues is as it was after each.
const BY_ETHTOOL: [&str; 5] = [
    "ethtool -G lan0 rx 512 tx 512",
    "ethtool -r lan0",
    "ethtool -K lan0 rx off",
    "ethtool -K lan0 rx on",
    "ethtool -G lan0 rx 256 tx 256",
];

/// Everybody has their server.
fn all_are_served(lab: &Lab, after: &str) {
    wait_for_link(lab);
    assert_eq!(lab.fetch(0, &clients(0)[..CLIENTS]), expected(lab), "after {after}");
}

/// Pulls the cable out until it is told, and plugs it in again.
fn unplug(guest: &mut Guest) {
    const DOWN: &str = "lan0 is down: nothing comes or goes";
    let mut heard = String::new();
    eventually("it has seen that the link is there", || {
        heard = guest.heard();
        heard.rfind(DOWN) <= heard.rfind("lan0 is up")
    });
    let before = heard.matches(DOWN).count();
    guest.set_link(false);
    eventually("it is told", || guest.heard().matches(DOWN).count() > before);
    guest.set_link(true);
}

#[test]
#[ignore = "takes minutes"]
fn igb_is_changed_while_it_runs() {
    let Some(lab) = Lab::up(&[]) else { return };
    let Some(mut guest) = Guest::boot(&lab, "igb", 2, &[]) else { return };
    for engine in ["af_xdp", "xdp"] {
        guest.start(&format!("engine = \"{engine}\""), "");
        all_is_well(&lab);
        for change in BY_ETHTOOL {
            guest.run(change);
            all_are_served(&lab, &format!("{engine}: {change}"));
        }
        unplug(&mut guest);
        all_are_served(&lab, &format!("{engine}: the cable was out"));
        guest.stop();
    }
}

/// The driver goes with the interface, its rings and its program, and comes back.
#[test]
#[ignore = "takes minutes"]
fn igb_goes_while_it_runs() {
    let Some(lab) = Lab::up(&[]) else { return };
    let Some(mut guest) = Guest::boot(&lab, "igb", 2, &[]) else { return };
    for engine in ["af_xdp", "xdp"] {
        guest.start(&format!("engine = \"{engine}\""), "");
        all_is_well(&lab);
        guest.run("modprobe -r igb");
        let account = guest.ended();
        assert!(account["forwarded"].as_u64().unwrap() > 0, "the figures are told all the same: {account}");
        let said = guest.heard();
        assert!(said.contains("error: lan0 was removed, so no frames arrive; restart oneip when it is back"), "{said}");
        guest.run("modprobe igb; lay_network");
        guest.start(&format!("engine = \"{engine}\""), "");
        all_is_well(&lab);
        guest.stop();
    }
}

/// All of that, in an order that a seed gives, for an hour, or for so many minutes as `ONEIP_MINUTES` says: after each change all clients have
/// their servers, and every process's ledger balances.
#[test]
#[ignore = "takes an hour"]
fn an_hour_of_changes_to_igb() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let minutes = number("ONEIP_MINUTES").unwrap_or(60);
    let seed = number("ONEIP_SEED").unwrap_or(1);
    let Some(lab) = Lab::up(&[]) else { return };
    let Some(mut guest) = Guest::boot(&lab, "igb", 2, &["--minutes", &(minutes + 15).to_string()]) else { return };
    let mut random = fastrand::Rng::with_seed(seed);
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let (mut changes, mut accounts) = (0, Vec::new());
    while Instant::now() < end {
        let engine = ["af_xdp", "xdp"][random.usize(..2)];
        let settings = format!("engine = \"{engine}\"");
        guest.start(&settings, "");
        all_is_well(&lab);
        for _ in 0..random.usize(3..9) {
            let change = match random.usize(..9) {
                at @ 0..5 => {
                    guest.run(BY_ETHTOOL[at]);
                    BY_ETHTOOL[at]
                }
                5 => {
                    unplug(&mut guest);
                    "the cable was out"
                }
                6 => {
                    guest.run(&format!("ip link set lan0 down; sleep 1; ip link set lan0 up; {}", crate::ROUTES));
                    "the link was down"
                }
                7 => {
                    guest.end("KILL");
                    all_are_served(&lab, &format!("{engine}: kill -9"));
                    guest.start(&settings, "");
                    "a start after kill -9"
                }
                _ => {
                    accounts.push(guest.take_over());
                    "a takeover"
                }
            };
            changes += 1;
            all_are_served(&lab, &format!("change {changes} of seed {seed}, {engine}: {change}"));
        }
        if random.bool() {
            guest.run("modprobe -r igb");
            accounts.push(guest.ended());
            guest.run("modprobe igb; lay_network");
        } else {
            accounts.push(guest.stop());
        }
        let all = |key: &str| accounts.iter().map(|account| account[key].as_u64().unwrap()).sum::<u64>();
        let [frames, forwarded] = ["frames", "forwarded"].map(all);
        say(&format!(
            "seed {seed}: {changes} changes; {} accounts, which balance: {frames} frames, {forwarded} of them forwarded",
            accounts.len()
        ));
    }
}

//! The soak: trouble of every kind, drawn from a seed, while clients download and browse; a model says which connections may
//! break, and no other does.
//!
//! - `traffic`: the clients, and what becomes of their connections
//! - `model`: which of them may break
//! - `growth`: what the processes and the kernel hold, which may not grow
//! - `clock`: a wall clock that jumps
//! - `deck`: which trouble comes next
//! - `trouble`: what is done to the network, in the order that the seed gives
//!
//! A short one runs with the other tests. `scripts/soak.sh` runs a long one: `SOAK_SECONDS` and `SOAK_SEED` in the environment.

mod clock;
mod deck;
// What the lab's tests have and these do not need.
#[allow(dead_code)]
#[path = "../lab/dispatcher.rs"]
mod dispatcher;
#[allow(dead_code)]
#[path = "../lab/filters.rs"]
mod filters;
#[path = "../forge/mod.rs"]
mod forge;
mod growth;
mod model;
#[allow(dead_code)]
#[path = "../lab/network.rs"]
mod network;
#[path = "../stop/mod.rs"]
mod stop;
mod traffic;
mod trouble;

use model::Model;
use network::{HEALTH, Lab, eventually, say, with_health};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::env;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};
use stop::Stop;
use traffic::Traffic;
use trouble::{Broadcast, DISK, Dispatched, Trouble};

/// Long downloads at any time, and clients that fetch a page again and again.
const DOWNLOADS: usize = 40;
const BROWSERS: usize = 10;

/// From then on, in seconds, nothing may grow.
const GROWN: u64 = 600;

fn setting(name: &str, otherwise: u64) -> u64 {
    env::var(name)
        .map_or(otherwise, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value}")))
}

/// Whatever happens, until the time is over.
fn soak(lab: &Lab, mut trouble: impl Trouble) {
    let (seed, seconds) = (setting("SOAK_SEED", 13), setting("SOAK_SECONDS", 40));
    let mut draw = fastrand::Rng::with_seed(seed);
    let model = &Model::new();
    let stop = &AtomicBool::new(false);
    let traffic = &Traffic { lab, model, stop };
    say(&format!("soak: seed {seed}, {seconds} s"));
    let failures = thread::scope(|scope| {
        let when_done = Stop(stop);
        (0..DOWNLOADS).for_each(|n| drop(scope.spawn(move || traffic.download(n))));
        (0..BROWSERS).for_each(|n| drop(scope.spawn(move || traffic.browse(DOWNLOADS + n))));
        eventually("downloads run", || model.live() >= DOWNLOADS);
        let begin = Instant::now();
        let (end, grown) =
            (begin + Duration::from_secs(seconds), begin + Duration::from_secs((seconds / 4).min(GROWN)));
        let mut held = None;
        while Instant::now() < end && model.failures().is_empty() {
            trouble.strike(&mut draw, model);
            if held.is_none() && Instant::now() >= grown {
                held = Some(trouble.held());
            }
            // What was broken shows itself.
            thread::sleep(Duration::from_millis(draw.u64(1000..3000)));
        }
        let mut failures = model.failures();
        if let Some(held) = held {
            let now = trouble.held();
            say(&format!("soak: held {held}\n      in the end {now}"));
            failures.extend(now.beyond(&held));
        }
        drop(when_done);
        failures
    });
    say(&format!("soak: {}", model.account()));
    assert!(
        seconds < GROWN || trouble.is_complete() || !failures.is_empty(),
        "seed {seed}: not every trouble has been"
    );
    assert!(failures.is_empty(), "seed {seed}:\n{}\n\n{}", failures.join("\n"), trouble.said());
    assert!(model.fetched() > 0, "nobody fetched anything");
}

/// The lab's web services over both families, checked.
fn configure(lab: &Lab) {
    let plain = std::fs::read_to_string(lab.config()).unwrap();
    let (head, _) = plain.split_once("[[service]]\nname = \"echo\"").expect("the echo services come last");
    std::fs::write(lab.config(), with_health(head, HEALTH)).unwrap();
}

/// A small one, for the state file alone.
struct Disk(PathBuf);

impl Disk {
    fn under(lab: &Lab) -> Disk {
        let folder = lab.file(DISK);
        std::fs::create_dir_all(&folder).unwrap();
        mount(Some("disk"), &folder, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        let text = std::fs::read_to_string(lab.config()).unwrap();
        let of = |line: &str| match line.strip_prefix("state = ") {
            Some(_) => format!("state = \"{}\"", folder.join("state.json").display()),
            None => line.to_owned(),
        };
        std::fs::write(lab.config(), text.lines().map(of).collect::<Vec<_>>().join("\n")).unwrap();
        Disk(folder)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_dispatcher_and_its_servers_in_trouble() {
    let Some(lab) = Lab::up(&[]) else { return };
    configure(&lab);
    let _disk = Disk::under(&lab);
    soak(&lab, Dispatched::start(&lab));
}

#[test]
fn filters_in_trouble() {
    let Some(lab) = Lab::up(&["--broadcast"]) else { return };
    configure(&lab);
    let text = std::fs::read_to_string(lab.config()).unwrap();
    filters::publish(&lab, &text.replacen("[filter]\n", &format!("[filter]\n{}", filters::QUICK), 1));
    let filters = filters::start(&lab);
    soak(&lab, Broadcast::new(&lab, filters));
}

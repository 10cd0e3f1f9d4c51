//! The dispatcher's host: its own traffic on the same interface, and an interface without XDP of its own.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::decap;
use crate::dispatcher::{Dispatcher, run};
use crate::echo::Echo;
use crate::filters::Filter;
use crate::network::{Lab, WEB, clients, eventually, lookup, one_each, say, succeed};
use crate::stop::Stop;

const OWN: [&str; 2] = ["192.0.2.2:22", "[2001:db8:2::2]:22"];

/// A service of the dispatcher's own: what it is told comes back.
fn serve_own(lab: &Lab) {
    for address in OWN {
        let listener = lab.inside("dispatcher", || TcpListener::bind(address).unwrap());
        // It ends with the process.
        thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                thread::spawn(move || io::copy(&mut connection.try_clone().unwrap(), &mut connection));
            }
        });
    }
}

fn talk(connection: &mut TcpStream) {
    let sent: Vec<u8> = (0..20_000u32).map(|at| (at.wrapping_mul(at) >> 8) as u8).collect();
    let mut received = vec![0; sent.len()];
    connection.write_all(&sent).unwrap();
    connection.read_exact(&mut received).unwrap();
    assert!(received == sent, "what comes back is what was sent");
}

/// Some ten thousand datagrams a second: a load, but not so much that the link has to drop.
fn load(socket: &UdpSocket, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..16 {
            // While the router asks for the dispatcher's MAC it may refuse a datagram.
            let _ = socket.send(&[0x5a; 18]);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_dispatchers_own_service_stays_reachable_before_during_and_after() {
    let Some(lab) = Lab::up(&[]) else { return };
    serve_own(&lab);
    let _echo = Echo::serve(&lab);
    let connect =
        |n: usize| OWN.map(|own| lab.connect(&clients(usize::from(own.starts_with('[')))[n], own.parse().unwrap()));
    let mut old = connect(0);
    let mut talk_all = |n: usize| old.iter_mut().chain(&mut connect(n)).for_each(talk);
    talk_all(1);

    let dispatcher = Dispatcher::start(&lab, &[]);
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(stop);
        for family in [0, 1] {
            let socket = lab.datagrams(family, &clients(family)[100]);
            scope.spawn(move || load(&socket, stop));
        }
        for n in 2..42 {
            talk_all(n);
            // ARP and neighbour discovery have to be answered again. (Under load `ip` does not always come to an end of it.)
            lab.sh("router", "ip neigh flush dev lan0 || true");
        }
    });
    for own in ["192.0.2.2", "2001:db8:2::2"] {
        eventually("the router knows the dispatcher", || {
            lab.sh("router", &format!("ping -c1 -W1 -q {own} >/dev/null || true"));
            lab.ip("router", &format!("neigh show {own}")).contains("lladdr 02:00:00:00:00:02")
        });
    }
    let account = dispatcher.stop();
    assert!(account.number("forwarded") > 1000 && account.number("passed") > 1000, "{}", account.json);
    talk_all(42);
}

#[test]
fn on_a_bridge_it_works_by_generic_xdp() {
    let Some(lab) = Lab::up(&[]) else { return };
    // A bridge has no XDP of its own, and must be asked for. It takes the interface's place.
    lab.ip("dispatcher", "link add br0 type bridge");
    lab.ip("dispatcher", "link set br0 address 02:00:00:00:00:02 up");
    lab.ip("dispatcher", "address flush dev lan0");
    lab.ip("dispatcher", "link set lan0 master br0");
    lab.ip("dispatcher", "address add 192.0.2.2/24 dev br0");
    lab.ip("dispatcher", "address add 2001:db8:2::2/64 dev br0 nodad");
    let config = lab.file("bridge.toml");
    fs::write(&config, fs::read_to_string(lab.config()).unwrap().replace("\"lan0\"", "\"br0\"\nxdp = \"generic\""))
        .unwrap();

    let dispatcher = Dispatcher::start_with(&lab, &config, &[]);
    let said = dispatcher.said();
    assert!(said.contains("AF_XDP, copy mode, ") && said.contains(" generic XDP\n"), "{said}");
    for family in [0, 1] {
        let expected = lookup(&config, WEB[family], &clients(family), &[]);
        assert_eq!(lab.fetch(family, &clients(family)), expected);
        let (client, server) = &one_each(&expected)[0];
        lab.transfer(family, client, server);
    }
    assert_eq!(dispatcher.stop().dropped_total(), 0);
}

/// A program in a folder that it may write to: elsewhere Landlock keeps the kernel from writing its core, though it would
/// not keep it from giving it to a program (core(5)).
fn where_it_may_write(lab: &Lab, mut command: Command) -> Command {
    command.current_dir(lab.file(""));
    command
}

/// `abort` ends a process by SIGABRT, which may dump as much as it likes. Another one does dump there.
fn leaves_no_core_dump(lab: &Lab, process: u32, abort: impl FnOnce() -> ExitStatus) {
    let unlimited = ["--core=unlimited:unlimited"];
    succeed(Command::new("prlimit").args(unlimited).arg("--pid").arg(process.to_string()));
    let status = abort();
    assert_eq!((status.signal(), status.core_dumped()), (Some(Signal::ABORT.as_raw()), false));
    let mut other = where_it_may_write(lab, Command::new("prlimit"));
    if !other.args(unlimited).args(["sh", "-c", "kill -ABRT $$"]).status().unwrap().core_dumped() {
        say("SKIPPED: this machine dumps no cores (kernel.core_pattern)");
    }
}

#[test]
fn a_crash_leaves_no_core_dump_with_the_key_in_it() {
    let Some(lab) = &Lab::up(&[]) else { return };
    decap::configure(lab, "deliver = \"gue\"", [0, 1]);
    let dispatcher = Dispatcher::start_by(lab, where_it_may_write(lab, run(lab, &lab.config())), &[]);
    let process = dispatcher.child().id();
    leaves_no_core_dump(lab, process, || dispatcher.crash(Signal::ABORT));
    let command = where_it_may_write(lab, lab.command("web1", env!("CARGO_BIN_EXE_oneip")));
    let decap = Filter::decap_by(lab, "web1", command);
    let process = decap.child().id();
    leaves_no_core_dump(lab, process, || decap.crash(Signal::ABORT));
}

#[test]
fn a_crash_of_a_filter_leaves_no_core_dump_with_the_key_in_it() {
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    let command = where_it_may_write(lab, lab.command("web1", env!("CARGO_BIN_EXE_oneip")));
    let filter = Filter::start_by(lab, "web1", command);
    let process = filter.child().id();
    leaves_no_core_dump(lab, process, || filter.crash(Signal::ABORT));
}

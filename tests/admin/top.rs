//! `ctl top`, drawn on terminals of every size.

use crate::sample;
use oneip::admin::order::{Heaviest, Talkers};
use oneip::admin::status::{LatencyStatus, State, Status};
use oneip::ctl::top::screen;
use oneip::ctl::top::view::{View, Way};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::time::{Duration, Instant};

/// What stands on a terminal of that size, line by line.
fn drawn(view: &mut View, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen::draw(frame, view)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn status() -> Status {
    let mut status = sample::status();
    status.workers.iter_mut().for_each(|worker| worker.turns = true);
    status.services[0].latency_ns =
        Some(LatencyStatus { count: 1000, p50: 3_100, p90: 5_200, p99: 12_345, p999: 90_123, max: 1_234_567 });
    status
}

/// A second later: so many frames to each server of web, and some dropped.
fn later(status: &Status, frames: [u64; 3]) -> Status {
    let mut status = status.clone();
    status.uptime_s += 1.0;
    let total: u64 = frames.iter().sum();
    (status.frames, status.forwarded) = (status.frames + total + 30, status.forwarded + total);
    *status.dropped.entry("no_service".to_owned()).or_default() += 30;
    for (server, frames) in status.services[0].servers.iter_mut().zip(frames) {
        server.frames += frames;
        server.bytes += 125 * frames;
        server.new_flows += frames / 100;
    }
    status
}

/// After looks at a load that grows.
fn busy() -> View {
    let (mut now, mut status) = (Instant::now(), status());
    let mut view = View::new(status.clone(), now);
    for n in 1..=30 {
        now += Duration::from_secs(1);
        status = later(&status, [n * 4000, n * 4000, n * 2000]);
        view.look(Ok(status.clone()), now);
    }
    view
}

#[test]
fn a_terminal_of_80_by_24_has_everything() {
    let screen = drawn(&mut busy(), 80, 24);
    let expected = format!(
        " oneip {}  dispatcher eth1  up 3 d 4 h  table 17  2 workers run
 in 300 k/s  forwarded 300 k/s  dropped 30/s  passed 0/s  300 Mbit/s
 dropped no_service 30/s
 300 k/s                                                               ▁▂▃▄▄▅▆▇█
                                                             ▁▂▃▄▄▅▆▇███████████
                                                   ▁▂▃▄▄▅▆▇█████████████████████
 server        state       slots of frames  frame/s   bit/s   new/s    check
 web  203.0.113.80 tcp/80 tcp/443  maglev, 65537 slots
 ▂▃▃▃▃▄▄▄▄▅▅▅▆▆▆▆▇▇▇▇████  300 k/s  p50 3.10 us  p99 12.3 us  max 1235 us
   web1        up        33.33 %  40 % ██     120 k   120 M  1.20 k  0.81 ms
   web2        up        33.33 %  40 % ██     120 k   120 M  1.20 k  0.81 ms
   web3        up        33.33 %  20 % █     60.0 k  60.0 M     600  0.81 ms
 dns  203.0.113.53 tcp/80 tcp/443  maglev, 65537 slots  1200 moving
                           0/s
   ns1         up        33.33 %                  0       0       0
   ns2         draining  33.33 %                  0       0       0
     draining for 1 h 10 min: by `ctl drain`, its connections end in 312 s






 q quit  p pause  t sources  ↑ ↓ PgUp PgDn  ? help",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(screen.join("\n"), expected, "{}", screen.join("\n"));
}

#[test]
fn before_the_second_look_there_are_no_rates() {
    let screen = drawn(&mut View::new(status(), Instant::now()), 80, 24).join("\n");
    assert!(screen.contains(" looking ..."), "{screen}");
    assert!(
        screen.contains("   web1        up        33.33 %                  -       -       -  0.81 ms"),
        "{screen}"
    );
}

#[test]
fn no_size_is_too_small() {
    let mut view = busy();
    for width in [1, 2, 7, 20, 79, 80, 200] {
        for height in [1, 2, 3, 5, 8, 16, 60] {
            assert_eq!(drawn(&mut view, width, height).len(), height as usize);
        }
    }
    let low = drawn(&mut view, 80, 10);
    assert!(low[3].starts_with(" server") && low[4].starts_with(" web "), "{low:?}");
}

#[test]
fn a_list_that_does_not_fit_is_scrolled() {
    let mut status = status();
    status.services[0].servers = (0..100).map(|i| sample::server(&format!("web{i}"), i)).collect();
    let mut view = View::new(status, Instant::now());
    let screen = drawn(&mut view, 80, 24);
    assert_eq!((view.lines, view.shown), (102 + 5, 16));
    assert!(screen[23].ends_with("lines 1 to 16 of 107"), "{}", screen[23]);
    view.scroll(Way::Bottom);
    let screen = drawn(&mut view, 80, 24);
    assert!(screen[23].ends_with("lines 92 to 107 of 107"), "{}", screen[23]);
    assert!(screen[22].contains("draining for "), "{}", screen[22]);
    view.scroll(Way::Page(-1));
    assert_eq!(view.first, 76, "one line of the page before stays");
    view.scroll(Way::Line(1));
    assert_eq!(view.first, 77);
    view.scroll(Way::Top);
    view.scroll(Way::Line(-1));
    assert_eq!(view.first, 0);
    view.scroll(Way::Bottom);
    // The terminal grows, or services go.
    drawn(&mut view, 80, 200);
    assert_eq!(view.first, 0);
}

#[test]
fn names_and_notes_have_what_room_there_is() {
    let mut status = status();
    status.services[0].servers[0].name = "a-server-with-a-long-name".to_owned();
    let mut view = View::new(status, Instant::now());
    let line = |screen: Vec<String>| screen.into_iter().find(|line| line.starts_with("   a-ser")).unwrap();
    assert!(line(drawn(&mut view, 80, 24)).starts_with("   a-serve…g-name up "));
    let wide = line(drawn(&mut view, 130, 24));
    assert!(wide.starts_with("   a-server-with-a-long-name up ") && wide.ends_with(" up for 1 h 10 min"), "{wide}");
    let screen = drawn(&mut busy(), 90, 24);
    assert!(screen[1].ends_with("300 Mbit/s  new 3.00 k/s"), "{}", screen[1]);
}

/// A name may be as long as a domain name, and a service may have many ports.
#[test]
fn the_table_holds_whatever_names_there_are() {
    let mut status = status();
    let long = |end: &str| format!("{}-{end}", "web-frontend-of-the-shop".repeat(3));
    let service = &mut status.services[0];
    service.name = long("service");
    service.ports = (1..=40).map(|port| format!("tcp/{port}")).collect();
    for (at, server) in service.servers.iter_mut().enumerate() {
        server.name = long(&format!("0{at}"));
    }
    let mut view = View::new(status.clone(), Instant::now());
    view.look(Ok(later(&status, [4000, 4000, 2000])), Instant::now() + Duration::from_secs(1));
    for width in [80, 100, 160] {
        let screen = drawn(&mut view, width, 30);
        let header = screen.iter().find(|line| line.starts_with(" server")).unwrap();
        let at = header.find("state").unwrap();
        let rows: Vec<&String> = screen.iter().filter(|line| line.starts_with("   web-")).collect();
        assert_eq!(rows.len(), 3, "{screen:?}");
        for (number, row) in rows.into_iter().enumerate() {
            let (name, rest): (String, String) = (row.chars().take(at).collect(), row.chars().skip(at).collect());
            assert!(name.ends_with(&format!("0{number} ")) && rest.starts_with("up "), "{row}");
        }
        let heading = screen.iter().find(|line| line.starts_with(" web-")).unwrap();
        let tail = "service  203.0.113.80 tcp/1 tcp/2 tcp/3 tcp/4 and 36 more  maglev";
        assert!(heading.contains(if width == 80 { "rvice  203.0.113.80 " } else { tail }), "{heading}");
    }
}

#[test]
fn a_question_mark_shows_keys_and_columns_and_the_list_again() {
    let mut view = busy();
    let list = drawn(&mut view, 80, 24);
    view.help();
    let help = drawn(&mut view, 80, 40).join("\n");
    for words in ["quit", "pause", "scroll by a page", "slots", "of frames", "check"] {
        assert!(help.contains(words), "{words}: {help}");
    }
    assert!(!help.contains("web1"), "{help}");
    drawn(&mut view, 80, 12);
    view.scroll(Way::Bottom);
    assert!(view.first > 0, "on a low terminal it scrolls");
    view.help();
    assert_eq!(drawn(&mut view, 80, 24), list);
}

#[test]
fn who_sends_most_takes_the_place_of_the_servers() {
    let mut view = busy();
    let list = drawn(&mut view, 80, 24);
    view.talkers();
    let rows = |view: &mut View, width| drawn(view, width, 24)[6..13].join("\n").trim_end().to_owned();
    let header = " source                    service    share frames/s  dropped      bit/s  SYN/s";
    assert_eq!(rows(&mut view, 80).lines().take(2).collect::<Vec<_>>(), [header, " looking ..."]);
    let heaviest = Heaviest { talkers: Some(sample::talkers()), age_s: Some(3.2), error: None };
    view.look_at_talkers(Ok(heaviest.clone()));
    let expected = format!(
        "{header}
 198.51.100.7              web      75.00 %   24.0 k  50.00 %  19.2 Mbit    320
 2001:db8:0:7::/64         (none)   12.50 %   4.00 k 100.00 %  3.20 Mbit      0
 198.51.100.8              dns       0.10 %       32   0.00 %  25.6 kbit     32

 1000 frames sampled in 2.0 s (one in 64), 3 s ago"
    );
    assert_eq!(rows(&mut view, 80), expected);
    assert!(drawn(&mut view, 80, 24)[23].contains("t servers"));

    // Why a look cannot be taken stands before what was known, and a long name has the room that there is.
    let mut talkers = sample::talkers();
    talkers.sources[0].service = Some("web-frontend-of-the-shop".to_owned());
    talkers.missed = 7;
    let error = "somebody captures frames at the moment; try again when that is over";
    view.look_at_talkers(Ok(Heaviest { talkers: Some(talkers), age_s: Some(9.0), error: Some(error.to_owned()) }));
    let screen = rows(&mut view, 110);
    assert!(screen.contains(error) && screen.contains(" web-frontend-of-the-shop "), "{screen}");
    assert!(screen.contains("(one in 64, 7 missed), 9 s ago"), "{screen}");
    assert!(rows(&mut view, 80).contains(" web…hop "), "{}", rows(&mut view, 80));
    view.look_at_talkers(Err("nobody answers".to_owned()));
    assert!(rows(&mut view, 80).contains("\n nobody answers"));
    view.look_at_talkers(Ok(Heaviest {
        talkers: Some(Talkers { sources: Vec::new(), ..sample::talkers() }),
        ..heaviest
    }));
    assert!(rows(&mut view, 80).contains("\n nobody was seen\n"));
    for width in [1, 7, 79, 200] {
        drawn(&mut view, width, 10);
    }
    view.pause();
    view.look_at_talkers(Err("nobody answers".to_owned()));
    assert!(rows(&mut view, 80).contains("nobody was seen"), "it is paused");
    view.pause();
    view.talkers();
    assert_eq!(drawn(&mut view, 80, 24), list);
}

#[test]
fn what_is_wrong_stands_out() {
    let mut status = status();
    status.workers[1].turns = false;
    status.workers[0].stuck = true;
    status.services[0].servers[0].state = State::Down;
    status.services[0].servers[0].why = "no answer within 500 ms".to_owned();
    let mut view = View::new(status, Instant::now());
    let screen = drawn(&mut view, 120, 24);
    assert!(screen[0].ends_with("worker 0 is stuck, 1 hangs"), "{}", screen[0]);
    assert!(screen.iter().any(|line| line == "     down for 1 h 10 min: no answer within 500 ms"), "{screen:?}");
    view.look(Err("nobody answers on the socket /run/oneip/oneip.sock".to_owned()), Instant::now());
    let screen = drawn(&mut view, 80, 24);
    assert_eq!(screen[2], " nobody answers on the socket /run/oneip/oneip.sock");
    assert!(screen.join("\n").contains("web1"), "the last look stays");
}

#[test]
fn a_pause_holds_the_picture() {
    let mut view = busy();
    let before = drawn(&mut view, 80, 24);
    view.pause();
    let next = later(&view.status, [1, 1, 1]);
    view.look(Ok(next), Instant::now() + Duration::from_secs(60));
    let held = drawn(&mut view, 80, 24);
    assert_eq!(before[..23], held[..23]);
    assert!(held[23].ends_with("PAUSED"), "{}", held[23]);
    view.pause();
    view.look(Ok(later(&view.status, [1, 1, 1])), Instant::now() + Duration::from_secs(61));
    assert_ne!(before[1], drawn(&mut view, 80, 24)[1]);
}

#[test]
fn another_process_starts_a_new_picture() {
    let mut view = busy();
    let mut other = status();
    other.pid = 4000;
    view.look(Ok(other), Instant::now() + Duration::from_secs(60));
    let screen = drawn(&mut view, 80, 24);
    assert_eq!(screen[1], " looking ...");
    assert!(view.frames.is_empty() && view.services.is_empty());
}

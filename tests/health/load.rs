//! What a thousand servers cost: `cargo test --test health -- --ignored --nocapture --test-threads 1`
//!
//! `perf/method.md` has the figures of a run.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::net::{END, Net, V4, during, plan, run};
use oneip::control::health::{Health, Verdict};
use rustix::time::{ClockId, clock_gettime};

const SERVERS: usize = 1000;
const MEASURED: Duration = Duration::from_secs(5);

/// A service of a thousand servers, which are one machine with as many addresses.
fn service(net: &Net, health: &str) -> String {
    let mut text = format!("[[service]]\nname = 'web'\naddress = '{V4}'\n");
    for i in 0..SERVERS {
        let (high, low) = (i / 250, i % 250 + 1);
        write!(text, "[[service.server]]\nname = 's{i}'\naddress = '10.9.{}.{low}'\n", 100 + high).unwrap();
        if i == 0 {
            // The same MAC twice in a service is an error of the configuration, so `set_mac` gives the others theirs.
            writeln!(text, "mac = '{}'", net.mac(0)).unwrap();
        }
    }
    text + "[service.health]\n" + health + "\n"
}

/// Shows the part of a core that checks cost this process, in percent, and what the kernel does to receive the answers.
async fn cost(net: &Net, receiver: u32, health: &str) {
    let plan = plan(&service(net, health));
    let mut health = Health::open(&plan, "lan0", END).await.unwrap();
    let mac = net.mac(0);
    for server in &plan.services[0].servers {
        health.set_mac(server.address, Some(mac));
    }
    let begin = Instant::now();
    while health.pending() > 0 && begin.elapsed() < Duration::from_secs(5) {
        health.next().await;
    }
    let settled = begin.elapsed();
    during(&mut health, Duration::from_secs(1)).await;
    let (begin, receive, wall) = (cpu(), receiving(receiver), Instant::now());
    during(&mut health, MEASURED).await;
    let percent = |time: Duration| 100.0 * time.as_secs_f64() / wall.elapsed().as_secs_f64();
    let (here, received) = (percent(cpu() - begin), percent(receiving(receiver) - receive));
    let up = (0..SERVERS).filter(|i| health.status(0, *i).unwrap().verdict == Verdict::Up).count();
    let settled = settled.as_millis();
    eprintln!(
        "  {up} of {SERVERS} up, all known after {settled} ms, {here:.2} % of a core, and {received:.2} to receive"
    );
    health.close().await.unwrap();
    assert_eq!(up, SERVERS);
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The time that a thread of the kernel has run.
fn receiving(pid: u32) -> Duration {
    let statistics = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(statistics.split(' ').next().unwrap().parse().unwrap())
}

#[test]
#[ignore = "a measurement; takes a minute"]
fn what_a_thousand_servers_at_one_a_second_cost() {
    let Some(net) = Net::pair() else { return };
    let receiver = net.receiver();
    for i in 0..SERVERS {
        net.at(0, &format!("addr add 10.9.{}.{}/16 dev lan0", 100 + i / 250, i % 250 + 1));
    }
    let directory = tempfile::tempdir().unwrap();
    let d = directory.path().display().to_string();
    let subject = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=nobody";
    run("openssl", &format!("req {subject} -keyout {d}/key -out {d}/crt"));
    let servers = format!(
        "ssl_certificate {d}/crt; ssl_certificate_key {d}/key; server {{ listen 80; return 200 hello; }}\n\
         server {{ listen 443 ssl; ssl_protocols TLSv1.3; return 200 hello; }}\n\
         server {{ listen 444 ssl; ssl_protocols TLSv1.2; return 200 hello; }}\n"
    );
    let _nginx = net.nginx(0, directory.path(), &servers);
    net.inside(async || {
        for (what, probe) in [
            ("tcp", "type = 'tcp'\nport = 80"),
            ("http", "type = 'http'\nport = 80"),
            ("icmp", "type = 'icmp'"),
            ("https, TLS 1.3", "type = 'https'\nport = 443"),
            ("https, TLS 1.2", "type = 'https'\nport = 444"),
        ] {
            for via in ["service", "primary"] {
                eprintln!("{what}, via {via}:");
                cost(&net, receiver, &format!("{probe}\nvia = '{via}'")).await;
            }
        }
    });
}

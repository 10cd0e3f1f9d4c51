//! A real Prometheus scrapes a dispatcher under load, and its queries tell what was sent.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dashboard;
use crate::dispatcher::Dispatcher;
use crate::echo::Echo;
use crate::failover::checked;
use crate::filters::{self, QUICK};
use crate::group::{Etcd, join};
use crate::network::{AF_XDP, CLUSTER, ECHO, ECHO_PORT, Lab, XDP, clients, eventually, lookup, succeed, write_config};
use crate::promtool::check_metrics;
use crate::stop::Stop;
use crate::tools::installed;

/// Datagrams a second of all clients together.
const RATE: f64 = 1000.0;

/// In a host, whose oneip it scrapes. Ended with the test, however that ends.
struct Prometheus<'l> {
    lab: &'l Lab,
    host: &'l str,
    process: Child,
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus<'_> {
    fn start<'l>(lab: &'l Lab, host: &'l str) -> Prometheus<'l> {
        let scrape = "global: {scrape_interval: 250ms, scrape_timeout: 200ms}\nscrape_configs:\n\
                      - {job_name: oneip, static_configs: [{targets: ['127.0.0.1:9180']}]}\n";
        fs::write(lab.file("prometheus.yml"), scrape).unwrap();
        let mut command = lab.command(host, "prometheus");
        command.arg(format!("--config.file={}", lab.file("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", lab.file("prometheus").display()));
        command.args(["--web.listen-address=127.0.0.1:9090"]).stdout(Stdio::null()).stderr(Stdio::null());
        Prometheus { lab, host, process: command.spawn().unwrap() }
    }

    /// By server. Empty while there is no answer yet.
    fn query(&self, query: &str) -> BTreeMap<String, f64> {
        let answer = self.ask(query);
        let series = answer["data"]["result"].as_array().map(Vec::as_slice).unwrap_or_default();
        let server = |series: &Value| series["metric"]["server"].as_str().unwrap().to_owned();
        let value = |series: &Value| series["value"][1].as_str().unwrap().parse().unwrap();
        series.iter().map(|series| (server(series), value(series))).collect()
    }

    /// The whole answer.
    fn ask(&self, query: &str) -> Value {
        let mut curl = self.lab.command(self.host, "curl");
        curl.args(["-sG", "http://127.0.0.1:9090/api/v1/query", "--data-urlencode"]).arg(format!("query={query}"));
        serde_json::from_slice(&curl.output().unwrap().stdout).unwrap_or_default()
    }
}

/// Has a configuration be that of a process that this Prometheus scrapes.
fn scraped(config: &Path, more: &str) {
    let text = fs::read_to_string(config).unwrap();
    assert!(text.contains("[admin]\n"), "{text}");
    write_config(config, &text.replace("[admin]\n", &format!("{more}[admin]\nmetrics = \"127.0.0.1:9180\"\n")));
}

fn page(lab: &Lab, host: &str) -> String {
    succeed(lab.command(host, "curl").args(["-sf", "http://127.0.0.1:9180/metrics"]))
}

#[test]
fn a_real_prometheus_sees_what_was_sent() {
    if !installed("prometheus") || !installed("promtool") {
        return;
    }
    // A program in the kernel has neither rings nor, in the metrics, a flow table.
    let Some(lab) = &Lab::up(&AF_XDP) else { return };
    let config = checked(lab);
    scraped(&config, "[announce]\nlinger_ms = 0\n");
    join(&config, "dispatcher", "health = \"shared\"\n");
    let _etcd = Etcd::serve(lab);
    let _echo = Echo::serve(lab);
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    let prometheus = Prometheus::start(lab, "dispatcher");

    let senders = lookup(&config, ECHO[0], &clients(0)[..50], &[]);
    let sockets: Vec<_> = senders.iter().map(|(client, _)| lab.datagrams(0, client)).collect();
    // To a port that no service has.
    let stray = lab.datagrams(0, &senders[0].0);
    stray.connect((CLUSTER[0], ECHO_PORT + 1)).unwrap();
    let stop = &AtomicBool::new(false);
    let (sent, _sockets) = thread::scope(|scope| {
        let when_done = Stop(stop);
        // In turns, and however the machine falls behind, so many since the start.
        let sending = scope.spawn(move || {
            let (start, mut sent) = (Instant::now(), 0);
            while !stop.load(Ordering::Relaxed) {
                while (sent as f64) < start.elapsed().as_secs_f64() * RATE {
                    sockets[sent % sockets.len()].send(&[7; 20]).unwrap();
                    sent += 1;
                }
                stray.send(&[7; 20]).unwrap();
                thread::sleep(Duration::from_millis(5));
            }
            // Open until all is counted: an echo to a closed port would come back as an ICMP error, which is counted too.
            (sent, sockets)
        });
        let share =
            |server: &str| senders.iter().filter(|(_, has)| has == server).count() as f64 / senders.len() as f64;
        let query = "rate(oneip_frames_forwarded_total{service=\"echo\"}[10s])";
        eventually("the rate of each server is that of its clients", || {
            let rates = prometheus.query(query);
            let near =
                |(server, rate): (&String, &f64)| (rate - share(server) * RATE).abs() < 0.05 * share(server) * RATE;
            rates.len() == 3 && rates.iter().all(near)
        });
        let page = page(lab, "dispatcher");
        check_metrics(&page);
        dashboard::has_answers(&page, |query| prometheus.ask(query));
        drop(when_done);
        sending.join().unwrap()
    });

    // A machine that stands still for a moment may lose some on their way, and may find a server down.
    let each = || {
        let servers = lab.status("echo")["servers"].as_array().unwrap().clone();
        let frames = |server: &Value| (server["name"].as_str().unwrap().to_owned(), server["frames"].as_f64().unwrap());
        servers.iter().map(frames).collect::<BTreeMap<String, f64>>()
    };
    eventually("in the end it has what oneip has counted", || {
        prometheus.query("oneip_frames_forwarded_total{service=\"echo\"}") == each()
    });
    let total: f64 = each().values().sum();
    assert!(total <= sent as f64 && total > 0.9 * sent as f64, "{total} of {sent}");
    eventually("all are up", || {
        let up = prometheus.query("oneip_server_up{service=\"web\"}");
        up.len() == 3 && up.values().all(|up| *up == 1.0)
    });
    dispatcher.stop();
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    dashboard::has_annotations(|query| prometheus.ask(query));
    dispatcher.stop();
}

#[test]
fn a_real_prometheus_sees_what_filters_hear() {
    if !installed("prometheus") || !installed("promtool") {
        return;
    }
    let Some(lab) = &Lab::up(&["--broadcast"]) else { return };
    filters::configure(lab, QUICK, "");
    scraped(&filters::config(lab, "web1"), "");
    let filters = filters::start(lab);
    let prometheus = Prometheus::start(lab, "web1");
    let others = |value: f64| BTreeMap::from([("web2".to_owned(), value), ("web3".to_owned(), value)]);
    for metric in ["oneip_filter_peer_heard", "oneip_filter_peer_agrees"] {
        eventually("it hears the others, and they agree", || prometheus.query(metric) == others(1.0));
    }
    check_metrics(&page(lab, "web1"));
    dashboard::has_answers_about_filters(|query| prometheus.ask(query));
    filters.into_iter().for_each(|filter| drop(filter.stop()));
}

/// Of a configuration with thousands of services, as fast as they can, while a server fails.
#[test]
fn a_flood_of_scrapes_keeps_no_verdict_waiting() {
    let Some(lab) = &Lab::up(&XDP) else { return };
    let config = checked(lab);
    let text = fs::read_to_string(&config).unwrap();
    let server = |n: usize| {
        let mac = format!("mac = \"02:00:00:00:01:{n:02x}\"");
        format!("[[service.server]]\nname = \"other{n}\"\naddress = \"192.0.2.10{n}\"\n{mac}\n")
    };
    let servers: String = (1..=3).map(server).collect();
    let service = |n: usize| {
        format!("[[service]]\nname = \"s{n}\"\naddress = \"203.0.113.80\"\nports = [\"tcp/{n}\"]\n{servers}")
    };
    let many: String = (10_000..12_000).map(service).collect();
    assert!(text.contains("[admin]"), "{text}");
    let text = text.replace("[admin]", "[admin]\nmetrics = \"127.0.0.1:9181\"");
    fs::write(&config, format!("{text}\n{many}")).unwrap();
    let dispatcher = Dispatcher::start_with(lab, &config, &[]);
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let _when_done = Stop(stop);
        let floods: Vec<_> = ["/metrics", "/readyz", "/healthz", "/metrics"]
            .map(|path| {
                scope.spawn(move || {
                    let url = format!("http://127.0.0.1:9181{path}");
                    let mut answered = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let mut curl = lab.command("dispatcher", "curl");
                        let said = curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}\n", "-Z"]);
                        let said = said.args((0..16).flat_map(|_| [&*url, "-o", "/dev/null"])).output().unwrap();
                        answered += String::from_utf8_lossy(&said.stdout).matches("200").count();
                    }
                    answered
                })
            })
            .into();
        let (all, down) = (clients(0), lookup(&config, "web", &clients(0), &["--down", "web2"]));
        eventually("it is under way", || !lab.sh("dispatcher", "ss -Htn sport = 9181").is_empty());
        lab.ip("web2", "address del 203.0.113.80/32 dev lo");
        dispatcher.hear("server web2 of service web is down");
        eventually("web2's clients are served", || lab.fetch_within(2, 0, &all) == down);
        lab.ctl(&["drain", "web3"]);
        assert_eq!(lab.server("web", "web3")["state"], "draining", "orders have their turn");
        eventually("probes are not too late to count", || {
            lab.status("web")["servers"][0]["check"]["unchecked"].is_null()
        });
        stop.store(true, Ordering::Relaxed);
        let answered: Vec<usize> = floods.into_iter().map(|flood| flood.join().unwrap()).collect();
        assert!(answered.iter().all(|answered| *answered > 0), "{answered:?}");
    });
    dispatcher.stop();
}

//! A real Prometheus scrapes, and a query gives the rate that was driven.

use crate::fake::{Fake, Script};
use crate::http::{self, exchange};
use crate::metrics::installed;
use serde_json::Value;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Ended with the test, however that ends.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn prometheus_scrapes_and_computes_the_rate() {
    if !installed("prometheus") {
        return;
    }
    const RATE: f64 = 5000.0;
    let script = Script::default();
    let figures = script.figures.clone();
    let fake = Fake::with(script);
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "global: {{scrape_interval: 500ms, scrape_timeout: 400ms}}\nscrape_configs: [{{job_name: oneip, static_configs: [{{targets: ['{}']}}]}}]\n",
        fake.metrics
    );
    fs::write(folder.path().join("p.yml"), config).unwrap();
    // A port that was free a moment ago.
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new("prometheus");
    command.current_dir(folder.path()).args(["--config.file=p.yml", "--storage.tsdb.path=data"]);
    command.arg(format!("--web.listen-address={listen}")).stdout(Stdio::null()).stderr(Stdio::null());
    let _prometheus = Prometheus(command.spawn().unwrap());

    let start = Instant::now();
    let mut last = String::new();
    while start.elapsed() < Duration::from_secs(40) {
        {
            let mut figures = figures.lock().unwrap();
            let server = &mut figures.as_mut().unwrap().summary.servers[1];
            server.frames = 2000 + (start.elapsed().as_secs_f64() * RATE) as u64;
        }
        thread::sleep(Duration::from_millis(20));
        let query = "/api/v1/query?query=rate(oneip_frames_forwarded_total%7Bserver%3D%22web2%22%7D%5B4s%5D)";
        let Ok(stream) = TcpStream::connect(listen) else { continue };
        let request = format!("GET {query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let Some(reply) = exchange(stream, request.as_bytes()) else { continue };
        if start.elapsed() > Duration::from_secs(6)
            && let Some(rate) = rate(&reply)
            && (rate - RATE).abs() < 0.05 * RATE
        {
            return;
        }
        last = reply.body;
    }
    panic!("no rate of {RATE} in 40 s; the last answer: {last}");
}

/// Of the one series that the query is about.
fn rate(reply: &http::Reply) -> Option<f64> {
    let answer: Value = serde_json::from_str(&reply.body).ok()?;
    let [series] = &answer["data"]["result"].as_array()?[..] else { return None };
    assert_eq!(series["metric"]["service"], "web");
    series["value"][1].as_str()?.parse().ok()
}

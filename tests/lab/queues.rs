//! Interfaces of several receive queues: cores that serve more than one, and flows that move from one to another.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::dispatcher::Dispatcher;
use crate::interface::{lay_with_queues, use_queues};
use crate::network::{CLUSTER, Lab, WEB, clients, eventually, lookup, write_config};

/// Asks for a page over a connection that stays: who answers.
pub fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: www\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            if body.len() >= length.parse::<usize>().unwrap() {
                return body.trim().to_owned();
            }
        }
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "the connection stays");
        answer.extend(&buffer[..read]);
    }
}

/// The kernel chooses among the queues of the link's other end by the flow's hash: with one left there, each flow comes by that.
fn send_by(lab: &Lab, queues: u32) {
    lab.sh("lan", &format!("ethtool -L dispatcher tx {queues}"));
}

#[test]
fn cores_serve_several_queues_and_flows_may_move_between_them() {
    for (queues, cores) in [(2, "[1]"), (4, "[0, 1]")] {
        let Some(lab) = Lab::up(&["--engine", "af_xdp"]) else { return };
        lay_with_queues(&lab, queues);
        use_queues(&lab, queues);
        let text = std::fs::read_to_string(lab.config()).unwrap();
        write_config(&lab.config(), &text.replacen("[dispatcher]\n", &format!("[dispatcher]\ncores = {cores}\n"), 1));
        let (clients, dispatcher) = (&clients(0)[..40], Dispatcher::start(&lab, &[]));
        let received = || -> Vec<u64> {
            let status: serde_json::Value = serde_json::from_str(&lab.ctl(&["status", "--json"])).unwrap();
            let workers = status["workers"].as_array().unwrap();
            workers.iter().map(|worker| worker["received"].as_u64().unwrap()).collect()
        };
        assert_eq!(received().len(), queues as usize, "a worker a queue");

        let expected = lookup(&lab.config(), WEB[0], clients, &[]);
        assert_eq!(lab.fetch(0, clients), expected, "{queues} queues, cores {cores}");
        eventually("frames came by each queue", || received().iter().all(|count| *count > 0));

        let to = format!("{}:80", CLUSTER[0]).parse().unwrap();
        let mut streams: Vec<TcpStream> = clients.iter().map(|client| lab.connect(client, to)).collect();
        let before: Vec<String> = streams.iter_mut().map(ask).collect();
        let servers: Vec<&String> = expected.iter().map(|(_, server)| server).collect();
        assert_eq!(before.iter().collect::<Vec<_>>(), servers);
        send_by(&lab, 1);
        let others: u64 = received()[1..].iter().sum();
        assert_eq!(streams.iter_mut().map(ask).collect::<Vec<_>>(), before, "by the first queue now");
        send_by(&lab, queues);
        assert_eq!(streams.iter_mut().map(ask).collect::<Vec<_>>(), before, "and back");
        eventually("others come by theirs again", || {
            assert_eq!(streams.iter_mut().map(ask).collect::<Vec<_>>(), before);
            received()[1..].iter().sum::<u64>() > others
        });
        drop(streams);
        dispatcher.stop();
    }
}

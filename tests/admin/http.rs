//! HTTP by hand, so that it can be done wrong.

use crate::fake::Fake;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What came back, whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The words of a refused order.
    pub fn refused(&self) -> String {
        let answer = self.json();
        assert_eq!(answer["answer"], "refused", "{self:?}");
        answer["error"].as_str().unwrap().to_owned()
    }
}

/// Sends the text and reads until the server closes. `None`: it closed without an answer.
pub fn exchange(mut stream: impl Read + Write, text: &[u8]) -> Option<Reply> {
    // A server that refuses a request closes while it is being sent.
    let _ = stream.write_all(text);
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    reply(&String::from_utf8_lossy(&all))
}

pub fn reply(text: &str) -> Option<Reply> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Reply { status, head: head.to_lowercase(), body: body.to_owned() })
}

pub fn request(method: &str, path: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

pub fn unix(socket: &Path, method: &str, path: &str, body: &str) -> Reply {
    let stream = UnixStream::connect(socket).unwrap();
    exchange(stream, request(method, path, body).as_bytes()).expect("an answer")
}

pub fn tcp(fake: &Fake, method: &str, path: &str) -> Reply {
    at(fake.metrics, method, path)
}

pub fn at(address: SocketAddr, method: &str, path: &str) -> Reply {
    let stream = TcpStream::connect(address).unwrap();
    exchange(stream, request(method, path, "").as_bytes()).expect("an answer")
}

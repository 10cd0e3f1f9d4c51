//! Every client with its requests, out of millions of lines or frames. Memory grows with distinct clients alone.

use super::capture;
use super::lines::{self, Line, Lines};
use super::source::{Source, unreadable};
use crate::error::Failure;
use crate::model::Service;
use crate::port::pcap::{Frame, Reader};
use serde::Serialize;
use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// Clients handed over at a time, and how many of these batches may wait.
const BATCH: usize = 8192;
const WAITING: usize = 8;

/// Characters of a line that are quoted.
const QUOTED: usize = 60;

/// Requests by client, as numbers in host byte order.
#[derive(Default)]
pub struct Census {
    pub v4: HashMap<u32, u64>,
    pub v6: HashMap<u128, u64>,
}

impl Census {
    fn add(&mut self, client: IpAddr, requests: u32) {
        let known = match client {
            IpAddr::V4(client) => self.v4.entry(client.to_bits()).or_default(),
            IpAddr::V6(client) => self.v6.entry(client.to_bits()).or_default(),
        };
        *known += u64::from(requests);
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// What the clients were read from.
#[derive(Clone, Debug, Serialize)]
pub struct Origin {
    pub file: String,
    pub form: Form,
    /// Lines that are not blank, or frames.
    pub records: u64,
    /// Those of them that tell no client.
    pub without_client: u64,
    /// The first such line.
    pub first_without_client: Option<Stray>,
}

/// A line that tells no client.
#[derive(Clone, Debug, Serialize)]
pub struct Stray {
    /// From 1.
    pub line: u64,
    /// How it begins.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// An access log, in the common or combined format.
    Log,
    /// Addresses, one a line.
    List,
    /// Ethernet frames, pcap or pcapng.
    Capture,
}

/// Counts the clients of `source`; of a capture those that talk to `service`.
///
/// # Errors
/// It cannot be read, or has no client.
pub fn take(source: Source, service: &Service) -> Result<(Census, Origin), Failure> {
    let Source { name, is_capture, bytes } = source;
    let (census, origin) = match is_capture {
        true => of_frames(&name, bytes, service)?,
        false => of_lines(&name, bytes).map_err(|error| unreadable(&name, &error))?,
    };
    if !census.is_empty() {
        return Ok((census, origin));
    }
    let Origin { file, records, first_without_client, .. } = origin;
    if is_capture {
        let (service, address) = (&service.name, service.addresses_text());
        return Err(format!(
            "{file}: none of its {records} frames is to the cluster address {address} of service {service} and one of its \
             ports; capture where clients' frames to it pass, or make a list of clients' addresses"
        )
        .into());
    }
    let found = match first_without_client {
        Some(Stray { line, text }) => {
            format!("none of its {records} lines has a client's address (line {line}: `{text}`)")
        }
        None => "there is no line in it".to_owned(),
    };
    Err(format!(
        "{file}: {found}; understood are: an access log whose first field is the client's address (common or combined \
         format); a list of addresses, one a line, also with a number of requests before or behind it; a capture of \
         Ethernet frames (pcap or pcapng)"
    )
    .into())
}

fn of_frames(name: &Path, bytes: Box<dyn Read + Send>, service: &Service) -> Result<(Census, Origin), Failure> {
    let mut reader = Reader::new(name, bytes)?;
    let (mut census, mut frame) = (Census::default(), Frame::empty());
    let (mut records, mut without_client) = (0, 0);
    while reader.next(&mut frame)? {
        records += 1;
        match capture::client(frame.bytes(), service) {
            Some(client) => census.add(client, 1),
            None => without_client += 1,
        }
    }
    let file = name.display().to_string();
    Ok((census, Origin { file, form: Form::Capture, records, without_client, first_without_client: None }))
}

/// One thread reads, another counts.
fn of_lines(name: &Path, bytes: Box<dyn Read + Send>) -> io::Result<(Census, Origin)> {
    let (sender, receiver) = sync_channel(WAITING);
    thread::scope(|scope| {
        let reading = scope.spawn(move || read(bytes, sender));
        let mut census = Census::default();
        for batch in receiver {
            batch.into_iter().for_each(|(client, requests)| census.add(client, requests));
        }
        let mut origin = reading.join().expect("reading does not panic")?;
        origin.file = name.display().to_string();
        Ok((census, origin))
    })
}

fn read(bytes: Box<dyn Read + Send>, sender: SyncSender<Vec<(IpAddr, u32)>>) -> io::Result<Origin> {
    let mut lines = Lines::new(BufReader::with_capacity(PIECE, bytes));
    let mut origin =
        Origin { file: String::new(), form: Form::List, records: 0, without_client: 0, first_without_client: None };
    let mut batch = Vec::with_capacity(BATCH);
    let mut number = 0;
    while let Some(line) = lines.next_line()? {
        number += 1;
        let parsed = lines::parse(line);
        origin.records += u64::from(parsed != Line::Blank);
        match parsed {
            Line::Log(client) => {
                origin.form = Form::Log;
                batch.push((client, 1));
            }
            Line::Listed(client, requests) => batch.push((client, requests)),
            Line::Other => {
                origin.without_client += 1;
                origin.first_without_client.get_or_insert_with(|| Stray { line: number, text: quoted(line) });
            }
            Line::Blank => {}
        }
        if batch.len() == BATCH {
            sender.send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))).expect("the census is taken");
        }
    }
    sender.send(batch).expect("the census is taken");
    Ok(origin)
}

/// How a line begins, on one line of a message.
fn quoted(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let text: String = text.trim_end().chars().map(printable).collect();
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

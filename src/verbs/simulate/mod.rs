//! `oneip simulate`: what selection does with given clients, before anything is deployed.
//!
//! In reading order: `source` opens what the clients are read from, `lines` reads logs and lists, `capture` frames, and
//! `census` counts; `clients` are those of the service. A `change` of the cluster moves clients, by our own selection
//! (`configured`) and by `others`; a `trial` takes each through all changes. `report` holds what was found, `findings` says the most important of it in words, `text`
//! shows it to people, `plot` draws it. `dispatchers`: what several of them behind a router do.

mod capture;
mod census;
mod change;
mod clients;
mod configured;
mod dispatchers;
mod findings;
pub mod lines;
mod others;
mod plot;
mod report;
mod source;
mod text;
mod trial;

pub use plot::write as draw;
pub use report::Report;

use crate::config;
use crate::error::Failure;
use crate::hash::Key;
use crate::limits::{MAX_SERVERS, MAX_WEIGHT, SLOTS_PER_SERVER};
use crate::model::{Plan, Server, Service, Tags};
use crate::table::build::maglev::Candidate;
use change::{Change, Scheme};
use clients::{Clients, Load};
use configured::Configured;
use others::{Maglev, Modulo, Rendezvous};
use report::{Heavy, Share};
use std::path::Path;
use std::str::FromStr;
use std::thread;
use trial::{Servers, Trial};

/// Clients that are listed by name.
const HEAVIEST: usize = 10;

/// What a server is called that nobody has named; no configuration can have such a name.
const UNNAMED: &str = "(added)";

/// A server that may be added, written `web9` or `web9:3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    name: String,
    weight: Option<u32>,
}

impl FromStr for Added {
    type Err = String;

    fn from_str(text: &str) -> Result<Added, String> {
        let (name, weight) = match text.split_once(':') {
            Some((name, weight)) => (name, Some(weight)),
            None => (text, None),
        };
        let weight = weight.map(|weight| match weight.parse() {
            Ok(weight @ 1..=MAX_WEIGHT) => Ok(weight),
            _ => Err(format!("`{weight}` is not a weight; use 1 to {MAX_WEIGHT}")),
        });
        Ok(Added { name: config::name(name)?, weight: weight.transpose()? })
    }
}

/// Simulates a service with the clients of a file, or of standard input as `-`.
///
/// # Errors
/// The clients cannot be read or there are none; no server takes clients; the added server cannot be added.
pub fn run(
    plan: &Plan,
    service: &Service,
    clients: &Path,
    added: Option<&Added>,
    dispatchers: Option<u32>,
) -> Result<Report, Failure> {
    if service.servers.iter().all(|server| server.weight == 0) {
        return Err(
            format!("no server of service {} has a weight above 0: no server takes clients", service.name).into()
        );
    }
    let added = self::added(service, added)?;
    let key = Key::from(plan.hash_key);
    let (census, origin) = census::take(source::open(clients)?, service)?;
    let clients = Clients::of(census, service, key);
    if clients.all.is_empty() {
        let (service, address, file) = (&service.name, service.addresses_text(), &origin.file);
        return Err(format!(
            "service {service} is on {address}, and all addresses of {file} are of the other family; choose another \
             service with --service"
        )
        .into());
    }
    let candidates: Vec<Candidate> = service.servers.iter().map(candidate).collect();
    let grown = added.as_ref().map(candidate);
    let servers = Servers::new(&candidates, grown);
    let compared = |scheme: &mut dyn Scheme| Trial::of(scheme, &servers).compared();
    let mut report = thread::scope(|scope| {
        let others = [
            scope.spawn(|| compared(&mut Modulo::new(&candidates, &clients))),
            scope.spawn(|| compared(&mut Maglev::new(key, &candidates, grown, service.slots, &clients))),
            scope.spawn(|| compared(&mut Rendezvous::new(key, &candidates, grown, &clients))),
        ];
        let mut configured = Configured::new(plan, service, added.as_ref(), &clients);
        let trial = Trial::of(&mut configured, &servers);
        let heaviest = heaviest(service, &clients, &configured);
        let others = others.map(|scheme| scheme.join().expect("a scheme does not panic"));
        Report {
            service: service.name.clone(),
            source: origin,
            total: clients.total,
            foreign: clients.foreign,
            findings: Vec::new(),
            servers: shares(service, &trial.loads, clients.total),
            peak_to_mean: trial.peak,
            heaviest_share: heaviest.iter().map(|heavy| heavy.share).sum(),
            heaviest,
            drains: servers.each(&mut configured, |out| Change::Drain(out), &trial.loads),
            schemes: [trial.compared()].into_iter().chain(others).collect(),
            failures: trial.failures,
            pairs: trial.pairs,
            added: trial.added,
            dispatchers: dispatchers.map(|count| dispatchers::simulate(plan, service, &clients, count)),
        }
    });
    report.findings = findings::of(&report, service);
    Ok(report)
}

fn candidate(server: &Server) -> Candidate<'_> {
    Candidate { name: &server.name, weight: server.weight }
}

/// The server that is added: the one that was asked for, or one as heavy as the heaviest. `None`: there is no room for one that
/// nobody asked for.
fn added(service: &Service, asked: Option<&Added>) -> Result<Option<Server>, Failure> {
    let name = asked.map_or(UNNAMED, |added| &added.name);
    let servers = service.servers.len() + 1;
    if service.servers.iter().any(|server| server.name == name) {
        return Err(format!("--add-server {name}: service {} has a server of that name already", service.name).into());
    }
    if servers > MAX_SERVERS || servers as u32 * SLOTS_PER_SERVER > service.slots {
        let most = MAX_SERVERS.min((service.slots / SLOTS_PER_SERVER) as usize);
        let full = format!("--add-server {name}: service {} has room for {most} servers", service.name);
        return if asked.is_some() { Err(full.into()) } else { Ok(None) };
    }
    let heaviest = service.servers.iter().map(|server| server.weight).max().expect("a service has a server");
    let weight = asked.and_then(|added| added.weight).unwrap_or(heaviest);
    // Its address plays no part in selection.
    let (name, address) = (name.to_owned(), service.address);
    Ok(Some(Server { name, address, mac: None, weight, tags: Tags::AsReceived, quic_ids: Vec::new() }))
}

fn shares(service: &Service, loads: &[Load], total: Load) -> Vec<Share> {
    let weights: u64 = service.servers.iter().map(|server| u64::from(server.weight)).sum();
    let share = |part: u64, whole: u64| part as f64 / whole as f64;
    let of = |(server, load): (&Server, &Load)| Share {
        server: server.name.clone(),
        weight: server.weight,
        clients: load.clients,
        requests: load.requests,
        clients_share: share(load.clients, total.clients),
        requests_share: share(load.requests, total.requests),
        ideal_share: share(u64::from(server.weight), weights),
    };
    service.servers.iter().zip(loads).map(of).collect()
}

fn heaviest(service: &Service, clients: &Clients, configured: &Configured) -> Vec<Heavy> {
    let of = |client: clients::Client| Heavy {
        client: clients.address(&client),
        requests: client.requests,
        share: client.requests as f64 / clients.total.requests as f64,
        server: service.servers[configured.server(&client) as usize].name.clone(),
    };
    clients.heaviest(HEAVIEST).into_iter().map(of).collect()
}

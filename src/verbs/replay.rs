//! `oneip replay`: the frames of a capture through the same worker that dispatches, without root or a NIC.

use super::script::{Change, Script};
use crate::error::Failure;
use crate::limits::DEFAULT_FLOWS;
use crate::metrics::counters::Tally;
use crate::metrics::summary::{Places, Summary};
use crate::metrics::worker::{self, WorkerMetrics};
use crate::model::{NextHop, Plan, names};
use crate::port::pcap::{Output, Pcap};
use crate::table::build::Cluster;
use crate::table::flow_table::FlowTable;
use crate::table::publish::{self, Publisher};
use crate::table::{self, Table, TunnelEnd};
use crate::verdict::Verdict;
use crate::worker::Worker;
use serde::Serialize;
use std::ffi::OsString;
use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// A line of the verdicts file.
#[derive(Serialize)]
struct Line<'a> {
    /// From 0.
    index: u64,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// Replays `input` into `output`, and writes each frame's verdict to `verdicts`, while `changes` happen to the cluster. Both
/// files appear only when all went well. `config` is where the plan is from.
///
/// # Errors
/// A server without `mac`, a change of a server that there is not, one file for two things, or whatever is wrong with a file.
pub fn run(
    plan: &Plan,
    mut cluster: Cluster,
    config: &Path,
    (input, output): (&Path, &Path),
    verdicts: Option<&Path>,
    changes: Vec<Change>,
) -> Result<Summary, Failure> {
    require_next_hops(plan)?;
    require_source(plan)?;
    let gateway = plan.dispatcher.as_ref().and_then(|dispatcher| dispatcher.gateway_mac);
    for server in plan.services.iter().flat_map(|service| &service.servers).filter(|server| server.mac.is_none()) {
        cluster.set_next_hop(server.address, gateway.map(NextHop::by_gateway));
    }
    require_distinct(config, (input, output), verdicts)?;
    let mut port = Pcap::open(input, output)?;
    let mut log = verdicts.map(Verdicts::create).transpose()?;
    let table = cluster.compile();
    let start = port.next_time().unwrap_or(0);
    let mut script = Script::new(plan, cluster, changes, start)?;
    let mut worker = Replayer::new(plan, table, port);
    let mut index = 0;
    while let Some(time) = worker.worker.port_mut().next_time() {
        if let Some(cluster) = script.pass(time) {
            worker.tables.publish(cluster.compile());
        }
        worker.worker.port_mut().stop_at(script.due());
        for outcome in worker.worker.turn() {
            if let Some(log) = &mut log {
                log.write(plan, index, outcome.verdict())?;
            }
            index += 1;
        }
    }
    let mut summary = Summary::new(plan);
    let places = Places::of(&summary);
    summary.add(&*worker.tally, &places);
    let port = worker.worker.into_port();
    let cut = port.cut_frames();
    port.finish()?;
    if let Some(log) = log {
        log.finish()?;
    }
    if cut > 0 {
        eprintln!(
            "warning: {cut} of {index} frames were captured without their end, and count as malformed where a header or \
             length says so; capture whole frames with `tcpdump -s 0`"
        );
    }
    Ok(summary)
}

/// A worker over a capture.
struct Replayer {
    worker: Worker<Pcap>,
    tables: Publisher<WorkerMetrics>,
    tally: Arc<Tally>,
}

impl Replayer {
    fn new(plan: &Plan, table: Table, port: Pcap) -> Replayer {
        let flows = plan.dispatcher.as_ref().map_or(DEFAULT_FLOWS, |dispatcher| dispatcher.flows) as usize;
        let flow_table = FlowTable::new(flows, table.key);
        let (metrics, view) = worker::open(&table);
        let (tables, mut readers) = publish::channel(table, vec![metrics]);
        let reader = readers.pop().expect("one was asked for");
        Replayer { worker: Worker::new(port, reader, flow_table), tables, tally: view.tally }
    }
}

/// Each server has a MAC, or is behind a router that has one.
fn require_next_hops(plan: &Plan) -> Result<(), Failure> {
    let gateway = plan.dispatcher.as_ref().and_then(|dispatcher| dispatcher.gateway_mac);
    let without_mac = |is_routed: bool| {
        let services = plan.services.iter().filter(move |service| service.deliver.is_routed() == is_routed);
        let servers = services.flat_map(|service| &service.servers).filter(|server| server.mac.is_none());
        let mut names: Vec<&str> = servers.map(|server| server.name.as_str()).collect();
        names.dedup();
        names
    };
    let routed = without_mac(true);
    if gateway.is_none() && !routed.is_empty() {
        return Err(format!(
            "replay cannot look up routes: server {} has no `mac`, and [dispatcher] has no `gateway_mac`; add the router's, as in \
             gateway_mac = \"02:00:00:00:00:fe\"",
            names::first(routed)
        )
        .into());
    }
    let missing = without_mac(false);
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "replay cannot resolve addresses: server {} has no `mac` in the configuration; add a line such as \
         mac = \"02:00:00:00:00:11\"",
        names::first(missing)
    )
    .into())
}

/// Tunnels come from an address.
fn require_source(plan: &Plan) -> Result<(), Failure> {
    let end = TunnelEnd::new(plan.dispatcher.as_ref().map_or(&[], |dispatcher| &dispatcher.source), TunnelEnd::MTU);
    let sources = [("IPv4", end.v4.is_some(), "192.0.2.2"), ("IPv6", end.v6.is_some(), "2001:db8::2")];
    for (server, (family, is_known, example)) in table::families(&plan.services).into_iter().zip(sources) {
        if let Some(server) = server.filter(|_| !is_known) {
            return Err(format!(
                "replay cannot ask for this host's addresses: the tunnel to server {server} needs an {family} source \
                 address, and `source` of [dispatcher] has none; add one, as in source = [\"{example}\"]"
            )
            .into());
        }
    }
    Ok(())
}

/// Refuses to write over what is read, or two things into one file.
fn require_distinct(config: &Path, (input, output): (&Path, &Path), verdicts: Option<&Path>) -> Result<(), Failure> {
    let (config, input) = (("the configuration", config), ("the capture that is read", input));
    let mut others = vec![config, input];
    for (what, file) in [("the output", Some(output)), ("--verdicts", verdicts)] {
        let Some((file, identity)) = file.and_then(|file| Some((file, identity(file)?))) else { continue };
        if let Some((other, _)) = others.iter().find(|(_, other)| self::identity(other) == Some(identity.clone())) {
            return Err(format!("{}: {what} and {other} are the same file; name another one", file.display()).into());
        }
        others.push((what, file));
    }
    Ok(())
}

/// Device and inode of a file, by whichever of its names; of one that there is not yet, those of its folder, and its name there.
/// `None`: it is a pipe or a device, which holds nothing, or cannot be a file at all.
fn identity(file: &Path) -> Option<(u64, u64, Option<OsString>)> {
    if let Ok(facts) = fs::metadata(file) {
        return facts.is_file().then(|| (facts.dev(), facts.ino(), None));
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let facts = fs::metadata(folder).ok()?;
    Some((facts.dev(), facts.ino(), Some(file.file_name()?.to_owned())))
}

/// The verdicts file, in the making.
struct Verdicts {
    file: BufWriter<Output>,
    path: std::path::PathBuf,
}

impl Verdicts {
    fn create(path: &Path) -> Result<Verdicts, Failure> {
        let file = Output::open(path).map_err(|error| format!("{}: cannot be written: {error}", path.display()))?;
        Ok(Verdicts { file: BufWriter::new(file), path: path.to_owned() })
    }

    fn write(&mut self, plan: &Plan, index: u64, verdict: Verdict) -> Result<(), Failure> {
        let mut line = Line { index, verdict: "pass", service: None, server: None, reason: None };
        match verdict {
            Verdict::Forward { service, server } => {
                let service = &plan.services[service as usize];
                line.verdict = "forward";
                line.service = Some(&service.name);
                line.server = Some(&service.servers[server as usize].name);
            }
            Verdict::Drop(reason) => {
                line.verdict = "drop";
                line.reason = Some(reason.name());
            }
            Verdict::Pass => {}
        }
        serde_json::to_writer(&mut self.file, &line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"))
            .map_err(|error| self.failed(&error))
    }

    fn finish(self) -> Result<(), Failure> {
        let Verdicts { file, path } = self;
        let failed = |error: &dyn std::fmt::Display| format!("{}: cannot be written: {error}", path.display());
        let file = file.into_inner().map_err(|error| failed(error.error()))?;
        Ok(file.finish().map_err(|error| failed(&error))?)
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        format!("{}: cannot be written: {error}", self.path.display()).into()
    }
}

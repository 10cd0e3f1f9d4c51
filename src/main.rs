//! The verbs. The only place that exits.

use clap::{Args, Parser, Subcommand};
use oneip::error::Failure;
use oneip::host::privileges;
use oneip::model::{Mac, Plan};
use oneip::pktgen::arguments::Arguments as Pktgen;
use oneip::server::Dispatch;
use oneip::verbs;
use oneip::verbs::script::Change;
use oneip::verbs::simulate::{self, Added};
use oneip::{ctl, pktgen, run, server};
use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// What is logged where nobody says otherwise. The netlink library warns of answers that nobody waits for any more: those of
/// requests that were given up.
const LOG: &str = "info,netlink_proto=error";

/// Makes a cluster of servers answer on one IP address.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Dispatch: routing-based dispatch on the configured interface, until SIGINT or SIGTERM
    Run(Run),
    /// Filter on a server: broadcast-based dispatch; keep this server's clients until SIGINT or SIGTERM
    Filter(Filter),
    /// Validate a configuration and print the plan: services, servers, table shares, queue -> core
    Check(Config),
    /// Run the frames of a capture through the same pipeline, without root or a NIC
    Replay(Replay),
    /// Say which server each client address gets
    Lookup(Lookup),
    /// Show what selection does with given clients: shares, and what failures, drains and an added server move
    Simulate(Simulate),
    /// Talk to a running dispatcher: status, rates, drain, weight, reload ...
    Ctl(ctl::Arguments),
    /// Send frames of many clients to a cluster address, and see what comes back
    Pktgen(Box<Pktgen>),
    /// On a server: set up, undo or check the cluster address alias and its ARP/ND settings
    #[command(subcommand)]
    Server(ServerVerb),
}

#[derive(Args)]
struct Config {
    /// Configuration file (TOML)
    #[arg(short, long = "config", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args)]
struct Down {
    /// Take this server as down (repeatable)
    #[arg(long, value_name = "NAME")]
    down: Vec<String>,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    down: Down,
    /// Print a line of figures a second
    #[arg(long)]
    stats: bool,
    /// Write an HdrHistogram interval log of the latency
    #[arg(long, value_name = "FILE")]
    hlog: Option<PathBuf>,
    /// Print the final figures as JSON on standard output, all else on standard error
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Filter {
    #[command(flatten)]
    config: Config,
    /// Which server this is; default: the one whose primary address this host has
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    #[command(flatten)]
    down: Down,
    /// Print the final figures as JSON on standard output, all else on standard error
    #[arg(long)]
    json: bool,
    /// Take off the interface what a filter has left there, and do nothing else
    #[arg(long, conflicts_with_all = ["down", "json"])]
    detach: bool,
}

#[derive(Args)]
struct Replay {
    #[command(flatten)]
    config: Config,
    /// Capture to read: Ethernet, pcap or pcapng
    input: PathBuf,
    /// Capture to write: the forwarded frames, in order
    output: PathBuf,
    #[command(flatten)]
    down: Down,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    /// Write one JSON line per input frame
    #[arg(long, value_name = "FILE")]
    verdicts: Option<PathBuf>,
    /// Change the cluster so many seconds after the first frame: drain, undrain, down or up a server (repeatable)
    #[arg(long, value_name = "\"SECONDS WHAT NAME\"")]
    change: Vec<Change>,
}

#[derive(Args)]
struct Lookup {
    #[command(flatten)]
    config: Config,
    /// Service to ask about; default: the first
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    #[command(flatten)]
    down: Down,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    /// Client addresses; without any, one a line from standard input
    addresses: Vec<IpAddr>,
}

#[derive(Args)]
struct Simulate {
    #[command(flatten)]
    config: Config,
    /// The clients: an access log (each line begins with the client's address), a list of addresses (one a line, also with a
    /// number of requests), or a capture (pcap, pcapng; its frames to the cluster address). `-` is standard input
    #[arg(long, value_name = "FILE")]
    clients: PathBuf,
    /// Service to simulate; default: the first
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// The server that is added; default: one of the greatest weight that there is
    #[arg(long, value_name = "NAME[:WEIGHT]")]
    add_server: Option<Added>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Draw the shares, and what changes move
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Subcommand)]
enum ServerVerb {
    /// Put the cluster addresses on lo, and silence ARP for them
    Add(Server),
    /// Undo what `add` did
    Remove(Server),
    /// Name each setting that is wrong, and the command that mends it
    Check(Server),
}

#[derive(Args)]
struct Server {
    #[command(flatten)]
    config: Config,
    /// Which server this is; default: the one whose primary address this host has
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// For broadcast-based dispatch: silent while no filter is attached, no forwarding, no redirects, no strict rp_filter.
    /// `remove` undoes all that was added, with it or without
    #[arg(long)]
    broadcast: bool,
    /// The router sends to this multicast MAC address instead of the broadcast address: the interface takes its frames
    #[arg(long, value_name = "MAC", requires = "broadcast", value_parser = server::group)]
    group: Option<Mac>,
}

fn main() -> ExitCode {
    let level = match log_level() {
        Ok(level) => level,
        Err(wrong) => {
            let _ = writeln!(io::stderr(), "error: {wrong}");
            return ExitCode::from(2);
        }
    };
    // No time and no colour: journald adds the one, and cannot use the other. And when nobody reads any more, the library
    // shall not tell of that by `eprintln!`, which panics.
    let log = tracing_subscriber::fmt().with_env_filter(level).with_writer(io::stderr);
    log.without_time().with_ansi(false).log_internal_errors(false).init();
    let done = match Cli::parse().verb {
        Verb::Run(arguments) => run(arguments),
        Verb::Filter(arguments) => filter(arguments),
        Verb::Check(config) => check(&config),
        Verb::Replay(arguments) => replay(&arguments),
        Verb::Lookup(arguments) => lookup(&arguments),
        Verb::Simulate(arguments) => simulate(&arguments),
        Verb::Ctl(arguments) => ctl::run(arguments),
        Verb::Pktgen(arguments) => pktgen::run(&arguments),
        Verb::Server(ServerVerb::Add(arguments)) => server(&arguments, server::add),
        Verb::Server(ServerVerb::Remove(arguments)) => server(&arguments, |plan, name, _| server::remove(plan, name)),
        Verb::Server(ServerVerb::Check(arguments)) => server(&arguments, server::check),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(failure) if is_broken_pipe(&failure) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// What `ONEIP_LOG` says, or that.
fn log_level() -> Result<EnvFilter, String> {
    let said = match env::var_os("ONEIP_LOG").map(OsString::into_string) {
        None => String::new(),
        Some(Ok(said)) => said,
        Some(Err(said)) => said.to_string_lossy().into_owned(),
    };
    let is_level =
        |text: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&text.to_lowercase().as_str());
    // By itself the parser takes any word for the name of a module.
    let is_directive = |part: &str| is_level(part.rsplit_once('=').map_or(part, |(_, level)| level));
    let wrong = || {
        format!("ONEIP_LOG=\"{said}\" is no level; write off, error, warn, info, debug or trace, or MODULE=LEVEL,...")
    };
    let said = said.trim();
    if said.is_empty() {
        return Ok(EnvFilter::new(LOG));
    }
    match said.split(',').all(|part| is_directive(part.trim())) {
        // The last directive of a module counts.
        true => EnvFilter::try_new(format!("{LOG},{said}")).map_err(|_| wrong()),
        false => Err(wrong()),
    }
}

fn is_broken_pipe(failure: &Failure) -> bool {
    failure.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn run(arguments: Run) -> Result<(), Failure> {
    let Run { config, down, stats, hlog, json } = arguments;
    let (config, plan) = load_for_long(&config.config)?;
    run::run(plan, run::Options { config, down: down.down, stats, hlog, json })
}

/// For a process that reads it again: by the same name in full, which may be a link that leads elsewhere by then. And one that
/// crashes some day with the key in its memory.
fn load_for_long(file: &Path) -> Result<(PathBuf, Plan), Failure> {
    privileges::hide_memory();
    let file = std::path::absolute(file)?;
    let plan = verbs::load(&file)?;
    Ok((file, plan))
}

fn filter(Filter { config, server, down, json, detach }: Filter) -> Result<(), Failure> {
    let (config, plan) = load_for_long(&config.config)?;
    if detach {
        return run::filter::detach(&plan);
    }
    let options = run::filter::Options { config, server, down: down.down, json };
    run::filter::run(plan, options)
}

fn check(Config { config }: &Config) -> Result<(), Failure> {
    let plan = verbs::load(config)?;
    let cluster = verbs::cluster(&plan, &[])?;
    for warning in verbs::check::warnings(&plan) {
        eprintln!("warning: {warning}");
    }
    print(verbs::check::plan(&plan, &cluster).trim_end())?;
    verbs::check::against_running(&plan, config).map_or(Ok(()), |text| print(text.trim_end()))
}

fn replay(arguments: &Replay) -> Result<(), Failure> {
    let Replay { config, input, output, down, json, verdicts, change } = arguments;
    let plan = verbs::load(&config.config)?;
    let cluster = verbs::cluster(&plan, &down.down)?;
    let summary =
        verbs::replay::run(&plan, cluster, &config.config, (input, output), verdicts.as_deref(), change.clone())?;
    if *json { print(summary.json()) } else { print(summary) }
}

fn lookup(arguments: &Lookup) -> Result<(), Failure> {
    let Lookup { config, service, down, json, addresses } = arguments;
    let plan = verbs::load(&config.config)?;
    let service = verbs::lookup::service(&plan, service.as_deref())?;
    let table = verbs::cluster(&plan, &down.down)?.compile();
    let read;
    let clients = if addresses.is_empty() {
        read = verbs::lookup::addresses(io::stdin().lock())?;
        &read
    } else {
        addresses
    };
    verbs::lookup::run(&table, service, clients, *json, BufWriter::new(io::stdout().lock()))?;
    Ok(())
}

fn simulate(arguments: &Simulate) -> Result<(), Failure> {
    let Simulate { config, clients, service, add_server, json, svg } = arguments;
    let plan = verbs::load(&config.config)?;
    let (_, service) = verbs::lookup::service(&plan, service.as_deref())?;
    let report = simulate::run(&plan, service, clients, add_server.as_ref())?;
    if let Some(file) = svg {
        simulate::draw(&report, file)?;
    }
    if *json { print(report.json()) } else { print(report) }
}

fn server(
    Server { config, server, broadcast, group }: &Server,
    verb: fn(&Plan, Option<&str>, Dispatch) -> Result<server::Report, server::Error>,
) -> Result<(), Failure> {
    let plan = verbs::load(&config.config)?;
    let dispatch = if *broadcast { Dispatch::Broadcast { group: *group } } else { Dispatch::Routing };
    let report = verb(&plan, server.as_deref(), dispatch)?;
    print(&report)?;
    Ok(report.verdict()?)
}

/// `println!` panics when whoever reads has gone.
fn print(text: impl Display) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

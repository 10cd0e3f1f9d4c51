//! `oneip ctl`: what an operator asks of a running dispatcher or filter, over its admin socket.
//!
//! `client` asks; the documents of `control::admin` come back; `status`, `stats`, `trace` and `top` show them, each a pure
//! function from documents to text, with the numbers of `units`, a `table` and the `rates` between two statuses.

mod capture;
pub mod check_client;
pub mod client;
pub mod denied;
pub mod diff;
pub mod group;
pub mod rates;
pub mod stats;
pub mod status;
pub mod table;
pub mod talkers;
pub mod top;
pub mod trace;
pub mod units;

use crate::admin::order::{self, Answer, Order};
use crate::admin::status::Status;
use crate::error::Failure;
use crate::limits::{
    CAPTURE_MOST_S, CAPTURE_SNAP, CAPTURE_SNAP_DEFAULT, FIGURES_MOST, GROUP_CONFIG, MAX_DRAIN_S, MAX_WEIGHT, TRACE_MOST,
};
use crate::model::{Admin, Port, Prefix};
use clap::{Args, Subcommand, ValueEnum};
use client::Client;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// Query and control a running dispatcher, filter or decap
#[derive(Args)]
#[command(
    after_help = "Examples:\n  oneip ctl status\n  oneip ctl drain web1\n  oneip ctl reload --dry-run\n  oneip ctl top"
)]
pub struct Arguments {
    /// The admin socket of the process
    #[arg(long, value_name = "PATH", default_value = Admin::SOCKET, env = "ONEIP_SOCKET", hide_env_values = true, global = true)]
    socket: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show services, servers and workers, and the counters since the start
    #[command(after_help = "Example:\n  oneip ctl status")]
    Status {
        /// Print the JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print tables of rates, until interrupted
    #[command(after_help = "Examples:\n  oneip ctl stats\n  oneip ctl stats --interval 10 --count 6")]
    Stats {
        /// Seconds between two tables
        #[arg(long, value_name = "S", default_value = "1", value_parser = interval)]
        interval: Duration,
        /// How many tables; default: no limit
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Show services, servers and rates live; q quits, ? shows the keys
    #[command(after_help = "Example:\n  oneip ctl top --interval 2")]
    Top {
        /// Seconds between two updates
        #[arg(long, value_name = "S", default_value = "1", value_parser = interval)]
        interval: Duration,
    },
    /// Show which server gets this client's new connections now
    #[command(after_help = "Example:\n  oneip ctl lookup 198.51.100.7")]
    Lookup {
        /// The client's address
        address: IpAddr,
        /// Only in this service; default: in each service of the address's family
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Print a JSON array, as `oneip lookup` does
        #[arg(long)]
        json: bool,
    },
    /// Show service, slot, server and failover order of a client, and watch where its frames go
    #[command(after_help = "Example:\n  oneip ctl trace 198.51.100.7 --for 10")]
    Trace {
        /// The client's address
        address: IpAddr,
        /// How long to watch, in seconds
        #[arg(long = "for", value_name = "SECONDS", default_value = "2", value_parser = watch)]
        watch: Duration,
        /// Print the JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show what each service does with a client: lists, slot, server and why, and which server keeps its connections
    #[command(
        after_help = "Examples:\n  oneip ctl check-client 198.51.100.7\n  oneip ctl check-client 198.51.100.7 2001:db8::7 --service web --json\n  oneip ctl check-client 198.51.100.7 --port 40000"
    )]
    CheckClient {
        /// The clients' addresses
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<IpAddr>,
        /// Only in this service; default: in each service of the address's family
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// A port of the client: with `hash = "flow"`, the server depends on it
        #[arg(long, value_name = "N")]
        port: Option<u16>,
        /// The port of a service that does not list its ports, such as tcp/443
        #[arg(long, value_name = "PORT", requires = "port")]
        to: Option<Port>,
        /// Print a JSON array, a document for each client
        #[arg(long)]
        json: bool,
    },
    /// Write frames into a capture file, with the verdict on each
    ///
    /// The file is a pcapng: Wireshark and tshark show verdict, service, server and reason as comments of the packets. Each
    /// forwarded frame is in it twice: as it came in, and as it went out to its server.
    #[command(after_help = CAPTURE_EXAMPLES)]
    Capture(Capture),
    /// Show the clients that send most, by service, from a sample of the frames
    #[command(after_help = talkers::EXAMPLES)]
    Talkers(talkers::Arguments),
    /// Drain a server: no new clients, and its connections stay until they end or the timeout passes
    #[command(after_help = "Examples:\n  oneip ctl drain web1\n  oneip ctl drain web1 --service web --timeout 60")]
    Drain {
        #[command(flatten)]
        subject: Subject,
        /// End its connections after so many seconds; default: the service's `drain_s`
        #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(..=u64::from(MAX_DRAIN_S)))]
        timeout: Option<u64>,
        /// Do it even if a service is left without any server that takes clients
        #[arg(long)]
        force: bool,
        /// Only for this process, and not for the other members of its group
        #[arg(long)]
        local: bool,
    },
    /// Give new clients to a drained server again
    #[command(after_help = "Examples:\n  oneip ctl undrain web1\n  oneip ctl undrain web1 --service web")]
    Undrain {
        #[command(flatten)]
        subject: Subject,
        /// Only for this process, and not for the other members of its group
        #[arg(long)]
        local: bool,
    },
    /// Set another weight than the configuration's
    #[command(
        after_help = "Examples:\n  oneip ctl weight web1 3\n  oneip ctl weight web1 3 --service web\n  oneip ctl weight web1 default"
    )]
    Weight {
        #[command(flatten)]
        subject: Subject,
        /// 0 to 65535, or `default` for the configuration's weight
        #[arg(value_name = "N|default", value_parser = weight)]
        weight: Weight,
        /// Do it even if a service is left without any server that takes clients
        #[arg(long)]
        force: bool,
        /// Only for this process, and not for the other members of its group
        #[arg(long)]
        local: bool,
    },
    /// Take a server out of service at once; its connections break
    #[command(after_help = "Examples:\n  oneip ctl disable web1\n  oneip ctl disable web1 --service web")]
    Disable {
        #[command(flatten)]
        subject: Subject,
        /// Do it even if a service is left without any server that takes clients
        #[arg(long)]
        force: bool,
        /// Only for this process, and not for the other members of its group
        #[arg(long)]
        local: bool,
    },
    /// Put a disabled server back into service
    #[command(after_help = "Examples:\n  oneip ctl enable web1\n  oneip ctl enable web1 --service web")]
    Enable {
        #[command(flatten)]
        subject: Subject,
        /// Only for this process, and not for the other members of its group
        #[arg(long)]
        local: bool,
    },
    /// Drop the frames of these source addresses, for a while or until `undeny`
    #[command(
        after_help = "Examples:\n  oneip ctl deny 198.51.100.0/24 --for 10m\n  oneip ctl deny 2001:db8::7 --service web"
    )]
    Deny {
        /// An address or a prefix
        prefix: Prefix,
        /// How long: seconds, or a number with s, m, h or d; default: until `undeny`
        #[arg(long = "for", value_name = "TIME", value_parser = denied::time)]
        time: Option<u64>,
        /// Only frames to this service; default: to all
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Only for this process, and not for the other members of its group
        #[arg(long)]
        local: bool,
    },
    /// Remove a `deny`
    #[command(after_help = "Example:\n  oneip ctl undeny 198.51.100.0/24")]
    Undeny {
        /// The address or prefix, as it was denied
        prefix: Prefix,
        /// The service for which it was denied; default: all
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Only for this process, and not for the other members of its group
        #[arg(long)]
        local: bool,
    },
    /// Show what `deny` has denied and for how long, and the configuration's lists
    #[command(after_help = "Example:\n  oneip ctl denied")]
    Denied {
        /// Print the JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show the members of the group, the state of each, and the orders for all of them
    #[command(after_help = "Example:\n  oneip ctl group")]
    Group {
        /// Print the JSON document
        #[arg(long)]
        json: bool,
    },
    /// Tell routers to send no more clients here; frames that still arrive are dispatched
    #[command(after_help = "Examples:\n  oneip ctl withdraw\n  oneip ctl withdraw --service web")]
    Withdraw {
        /// Only this service's cluster address; default: all
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
    },
    /// Announce again what was withdrawn, as soon as it is ready
    #[command(after_help = "Examples:\n  oneip ctl announce\n  oneip ctl announce --service web")]
    Announce {
        /// Only this service's cluster address; default: all
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
    },
    /// Report whether clients should be sent here, by the exit code: 0 yes, 1 no
    #[command(after_help = "Examples:\n  oneip ctl ready\n  oneip ctl ready --service web")]
    Ready {
        /// Only this service; default: all services must be ready
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
    },
    /// Read the configuration again, and use it if it is valid
    #[command(after_help = "Examples:\n  oneip ctl reload --dry-run\n  oneip ctl reload")]
    Reload {
        /// Do it even if most clients of a service get another server without need
        #[arg(long)]
        force: bool,
        /// Show what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Publish the services of a file to all members of the group, if they are valid here
    ///
    /// For members with `config = "etcd"` in `[group]`. The file has `[[service]]`, and may have `[[deny]]` and `[[allow]]`.
    #[command(after_help = "Example:\n  oneip ctl publish services.toml")]
    Publish {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Do it even if most clients of a service get another server without need
        #[arg(long)]
        force: bool,
    },
    /// Compare a configuration file with what is in use: exit code 0 if they are the same, 1 if they differ, 2 on an error
    #[command(after_help = "Examples:\n  oneip ctl diff\n  oneip ctl diff -c /etc/oneip/next.toml --json")]
    Diff {
        /// The file; default: the one that the process was started with
        #[arg(short, long = "config", value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print the JSON document
        #[arg(long)]
        json: bool,
    },
    /// Stop the process, but leave its program in the kernel dispatching: the next start takes over. With engine xdp no frame is
    /// lost
    #[command(after_help = "Example:\n  oneip ctl hand-over")]
    HandOver,
    /// Print the metrics, as Prometheus gets them
    #[command(after_help = "Example:\n  oneip ctl metrics")]
    Metrics,
}

/// Of whom an order is.
#[derive(Args)]
struct Subject {
    /// The server
    #[arg(value_name = "NAME")]
    server: String,
    /// Only in this service; default: in every service that has a server of this name
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

const CAPTURE_EXAMPLES: &str = "Examples:
  oneip ctl capture --out web.pcapng --service web --seconds 10
  oneip ctl capture --out drops.pcapng --where drop --count 100
  oneip ctl capture --out - --client 198.51.100.7 --count 20 | tshark -r -";

#[derive(Args)]
struct Capture {
    /// The file to write; `-` for standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Only frames for this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only frames of this client
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// Only frames that go to this server
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// End after so many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=CAPTURE_MOST_S))]
    seconds: Option<u64>,
    /// Where to look at frames; default: where they come in and where they go out
    #[arg(long = "where", value_name = "PLACE")]
    point: Option<Point>,
    /// Keep at most so many bytes of each frame
    #[arg(long, value_name = "N", default_value_t = CAPTURE_SNAP_DEFAULT as u64, value_parser = clap::value_parser!(u64).range(1..=CAPTURE_SNAP as u64))]
    snap: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Point {
    /// As frames come in, with what becomes of them
    In,
    /// As forwarded frames go out to their servers
    Out,
    /// Only frames that are dropped
    Drop,
}

impl Capture {
    fn order(self) -> (order::Capture, PathBuf) {
        let Capture { out, service, client, server, count, seconds, point, snap } = self;
        let point = point.map(|point| match point {
            Point::In => order::Point::In,
            Point::Out => order::Point::Out,
            Point::Drop => order::Point::Drop,
        });
        (order::Capture { client, service, server, point, snap: snap as usize, count, seconds }, out)
    }
}

/// `None`: the configuration's.
#[derive(Clone)]
struct Weight(Option<u32>);

fn weight(text: &str) -> Result<Weight, String> {
    match text.parse() {
        _ if text == "default" => Ok(Weight(None)),
        Ok(weight) if weight <= MAX_WEIGHT => Ok(Weight(Some(weight))),
        _ => Err(format!("write a number from 0 to {MAX_WEIGHT}, or `default`")),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    seconds(text, 0.1, 3600.0)
}

fn watch(text: &str) -> Result<Duration, String> {
    seconds(text, 0.0, TRACE_MOST.as_secs_f64())
}

fn look(text: &str) -> Result<Duration, String> {
    seconds(text, 0.1, TRACE_MOST.as_secs_f64())
}

fn seconds(text: &str, least: f64, most: f64) -> Result<Duration, String> {
    let found = text.parse::<f64>().ok().filter(|seconds| (least..=most).contains(seconds));
    found.map(Duration::from_secs_f64).ok_or_else(|| format!("write a number of seconds from {least} to {most}"))
}

/// Asks, and shows the answer.
///
/// # Errors
/// There is nobody to ask, or it was refused.
pub fn run(Arguments { socket, verb }: Arguments) -> Result<(), Failure> {
    let client = Client::new(socket)?;
    match verb {
        Verb::Status { json: true } => print(&client.status()?),
        Verb::Status { json: false } => print(status::text(&client::read(client.status()?)?)),
        Verb::Stats { interval, count } => show_rates(&client, interval, count),
        Verb::Top { interval } => top::run(client, interval),
        Verb::Lookup { address, service, json } => {
            let order = Order::Trace { client: address, watch_ms: 0 };
            let found: order::Trace = client::read(client.order(&order)?)?;
            let found = found.of_service(service.as_deref())?;
            if json { print(found.lookup()) } else { print(trace::lookup(&found)) }
        }
        Verb::Trace { address, watch, json } => {
            let watch_ms = watch.as_millis() as u64;
            let found = client.order(&Order::Trace { client: address, watch_ms })?;
            if json { print(document(found)) } else { print(trace::text(&client::read(found)?, watch)) }
        }
        Verb::CheckClient { addresses, service, port, to, json } => {
            check_client::run(&client, &addresses, service.as_deref(), (port, to), json)
        }
        Verb::Capture(capture) => {
            let (capture, out) = capture.order();
            capture::run(&client, capture, &out)
        }
        Verb::Talkers(arguments) => {
            let json = arguments.json;
            let found = client.order(&Order::Talkers(arguments.order(&client)?))?;
            if json { print(document(found)) } else { print(talkers::text(&client::read(found)?)) }
        }
        Verb::Drain { subject: Subject { server, service }, timeout, force, local } => {
            share(&client, Order::Drain { server, service, timeout_s: timeout, force }, local)
        }
        Verb::Undrain { subject: Subject { server, service }, local } => {
            share(&client, Order::Undrain { server, service }, local)
        }
        Verb::Weight { subject: Subject { server, service }, weight: Weight(weight), force, local } => {
            share(&client, Order::Weight { server, service, weight, force }, local)
        }
        Verb::Disable { subject: Subject { server, service }, force, local } => {
            share(&client, Order::Disable { server, service, force }, local)
        }
        Verb::Enable { subject: Subject { server, service }, local } => {
            share(&client, Order::Enable { server, service }, local)
        }
        Verb::Deny { prefix, time, service, local } => {
            share(&client, Order::Deny { prefix, service, for_s: time }, local)
        }
        Verb::Undeny { prefix, service, local } => share(&client, Order::Undeny { prefix, service }, local),
        Verb::Group { json } => {
            let found = client.order(&Order::Group)?;
            if json { print(document(found)) } else { print(group::text(&client::read(found)?)) }
        }
        Verb::Denied { json } => {
            let found = client.order(&Order::Denied)?;
            if json { print(document(found)) } else { print(denied::text(&client::read(found)?)) }
        }
        Verb::Withdraw { service } => carry_out(&client, &Order::Withdraw { service }),
        Verb::Announce { service } => carry_out(&client, &Order::Announce { service }),
        Verb::Ready { service } => {
            status::ready(&client::read(client.status()?)?, service.as_deref())?;
            print("ready")
        }
        Verb::Reload { force, dry_run } => carry_out(&client, &Order::Reload { force, dry_run }),
        Verb::Publish { file, force } => {
            let mut text = String::new();
            // One byte more than may be published, of which the answer is to say that it is too long.
            File::open(&file)
                .and_then(|opened| opened.take(GROUP_CONFIG as u64 + 1).read_to_string(&mut text))
                .map_err(|error| format!("{} cannot be read: {error}; nothing was published", file.display()))?;
            carry_out(&client, &Order::Publish { text, force })
        }
        Verb::Diff { config, json } => diff::run(&client, config, json),
        Verb::HandOver => carry_out(&client, &Order::HandOver),
        Verb::Metrics => print(client.metrics()?.trim_end()),
    }
}

/// The same for all members of the group, or for this one only.
fn share(client: &Client, order: Order, is_local: bool) -> Result<(), Failure> {
    let order = if is_local { Order::Local { inner: Box::new(order) } } else { order };
    carry_out(client, &order)
}

/// Has an order carried out and says what changed.
fn carry_out(client: &Client, order: &Order) -> Result<(), Failure> {
    match client::read(client.order(order)?)? {
        Answer::Done { changes } if changes.is_empty() => print("nothing to change"),
        Answer::Done { changes } => print(changes.join("\n")),
        other => Err(format!("the answer is not a list of changes: {other:?}").into()),
    }
}

/// How long to wait for new counters.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A table an interval, on a clock of its own, so that slow answers do not add up.
fn show_rates(client: &Client, interval: Duration, count: Option<u64>) -> Result<(), Failure> {
    let look = || -> Result<(Status, Instant), client::Error> { Ok((client::read(client.status()?)?, Instant::now())) };
    let (mut before, mut then) = look()?;
    let mut due = then;
    for _ in 0..count.unwrap_or(u64::MAX) {
        due += interval;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let (mut status, mut now) = look()?;
        // Counters are put down a few times a second.
        while status.counted_s.is_some() && status.counted_s == before.counted_s && now < due + FIGURES_MOST {
            thread::sleep(LOOK_AGAIN);
            (status, now) = look()?;
        }
        match rates::between(&before, &status, now - then) {
            Some(rates) => print(stats::text(&rates))?,
            None => print("the process was restarted; its counters start at 0")?,
        }
        (before, then) = (status, now);
    }
    Ok(())
}

/// An answer without the tag that says which it is.
fn document(mut answer: Value) -> Value {
    if let Some(keys) = answer.as_object_mut() {
        keys.shift_remove("answer");
    }
    answer
}

/// `println!` panics when whoever reads has gone.
fn print(text: impl std::fmt::Display) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

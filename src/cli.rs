//! The command line: every verb, every option, and what their help says. Manuals and shell completions are made of it
//! ([`manual`]), and tests hold `docs/commands.md` to it.

pub mod manual;
pub mod schema;

use crate::limits::MAX_DISPATCHERS;
use crate::log::Format;
use crate::model::Mac;
use crate::pktgen::arguments::Arguments as Pktgen;
use crate::verbs::script::Change;
use crate::verbs::simulate::Added;
use crate::{ctl, server};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use std::net::IpAddr;
use std::path::PathBuf;

const ABOUT: &str = "\
Start:
  oneip check -c cluster.toml          is the configuration right, and what does it come to?
  oneip server add -c cluster.toml     on each server
  oneip doctor -c cluster.toml         is this host fit for it?
  oneip run -c cluster.toml            on the dispatcher
  oneip ctl status                     how is it?

Exit codes: 0 done; 1 it failed, and standard error says why; 2 wrong usage.
Environment: ONEIP_CONFIG names the configuration where -c does not; ONEIP_LOG=debug logs more (off, error, warn, info, debug, trace,
or MODULE=LEVEL,...).";

/// Make a cluster of servers answer on one IP address
#[derive(Parser)]
#[command(name = "oneip", version, max_term_width = 100, after_help = ABOUT)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Subcommand)]
pub enum Verb {
    Run(Run),
    Filter(Filter),
    Decap(Decap),
    Check(Check),
    Import(Import),
    Doctor(Doctor),
    Lookup(Lookup),
    Replay(Replay),
    Simulate(Simulate),
    Ctl(ctl::Arguments),
    Server(Server),
    Pktgen(Box<Pktgen>),
    #[command(hide = true)]
    Guard(Guard),
    #[command(hide = true)]
    Man(Man),
    #[command(hide = true)]
    Completions(Completions),
    #[command(hide = true)]
    Schema(Schema),
}

#[derive(Args)]
pub struct Config {
    /// The configuration file (TOML)
    #[arg(short, long = "config", value_name = "FILE", env = "ONEIP_CONFIG", hide_env_values = true)]
    pub config: PathBuf,
}

#[derive(Args)]
pub struct Log {
    /// How to write the log; default: to the journal if standard error leads there, else as text
    #[arg(long, value_name = "FORMAT")]
    pub log: Option<Format>,
}

#[derive(Args)]
pub struct Down {
    /// Take this server as down (repeatable)
    #[arg(long, value_name = "NAME")]
    pub down: Vec<String>,
}

/// Dispatch clients' packets to the servers, until SIGINT or SIGTERM
///
/// This runs on the dispatcher and needs root. SIGHUP reads the configuration again.
#[derive(Args)]
#[command(after_help = "\
Examples:
  oneip run -c cluster.toml
  oneip run -c cluster.toml --stats --hlog latency.hlog
  oneip run -c cluster.toml --down web2
  oneip run -c cluster.toml --takeover
  oneip run -c cluster.toml --detach")]
pub struct Run {
    #[command(flatten)]
    pub config: Config,
    #[command(flatten)]
    pub down: Down,
    #[command(flatten)]
    pub log: Log,
    /// Print a line of rates each second
    #[arg(long)]
    pub stats: bool,
    /// Write the latency histograms of each second, in the format of HdrHistogram's tools
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
    /// Take the place of the dispatcher that runs with this configuration's admin socket; with engine xdp no frame is lost
    #[arg(long)]
    pub takeover: bool,
    /// Take the program of a dispatcher that was killed off the interface, and do nothing else
    #[arg(long, conflicts_with_all = ["down", "stats", "hlog", "takeover", "json"])]
    pub detach: bool,
    /// At the end print the counters as JSON on standard output, and all else on standard error
    #[arg(long)]
    pub json: bool,
}

/// Withdraw the routes of a dispatcher that is gone, or hangs; `run` starts it, with its beats on standard input
#[derive(Args)]
#[command(after_help = "Example:\n  oneip guard --interface eth1 --table 111 --hold-s 30")]
pub struct Guard {
    /// The interface that the routes lead out of
    #[arg(long, value_name = "ETH")]
    pub interface: String,
    /// The routing table that they are in
    #[arg(long, value_name = "N")]
    pub table: u8,
    /// How long they stay without a beat
    #[arg(long, value_name = "S")]
    pub hold_s: u64,
}

/// Keep this server's clients and drop all others' packets, until SIGINT or SIGTERM
///
/// This runs on each server of a cluster without a dispatcher (broadcast-based dispatch), and needs root. When it ends, the
/// program stays on the interface and goes on with its last table.
#[derive(Args)]
#[command(after_help = "\
Examples:
  oneip filter -c cluster.toml
  oneip filter -c cluster.toml --server web1
  oneip filter -c cluster.toml --detach")]
pub struct Filter {
    #[command(flatten)]
    pub config: Config,
    /// Which server this is; default: the one whose primary address this host has
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    #[command(flatten)]
    pub down: Down,
    #[command(flatten)]
    pub log: Log,
    /// At the end print the counters as JSON on standard output, and all else on standard error
    #[arg(long)]
    pub json: bool,
    /// Take the program of an earlier filter off the interface, and do nothing else
    #[arg(long, conflicts_with_all = ["down", "json"])]
    pub detach: bool,
}

/// Unwrap what dispatchers send to this server in tunnels, until SIGINT or SIGTERM
///
/// This runs on each server of services with `deliver` other than "l2", where the kernel has no devices for them, and needs root. It
/// takes IPIP, GUE (variant 1) and GRE off packets to a cluster address, and sets destinations back that came by L3DSR. When it ends, the
/// program stays on the interface and goes on with its last table.
#[derive(Args)]
#[command(after_help = "\
Examples:
  oneip decap -c cluster.toml
  oneip decap -c cluster.toml --server web1
  oneip decap -c cluster.toml --detach")]
pub struct Decap {
    #[command(flatten)]
    pub config: Config,
    /// Which server this is; default: the one whose primary address this host has
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    #[command(flatten)]
    pub log: Log,
    /// At the end print the counters as JSON on standard output, and all else on standard error
    #[arg(long)]
    pub json: bool,
    /// Take the program of an earlier decap off the interface, and do nothing else
    #[arg(long, conflicts_with = "json")]
    pub detach: bool,
}

/// Check a configuration, and print the plan: services, servers, shares, queues and cores
///
/// If the file is that of a running process, it also says what a reload would change.
#[derive(Args)]
#[command(after_help = "\
Example:
  oneip check -c cluster.toml")]
pub struct Check {
    #[command(flatten)]
    pub config: Config,
}

/// Make a configuration of one of keepalived, or of what `ipvsadm -Sn` writes
///
/// The configuration goes to standard output. Standard error says, line by line, what could not be taken over. It has a new
/// secret key in it.
#[derive(Args)]
#[command(after_help = "\
Examples:
  oneip import /etc/keepalived/keepalived.conf --interface eth1 > cluster.toml
  oneip import keepalived.conf conf.d/web.conf conf.d/mail.conf > cluster.toml
  ipvsadm -Sn | oneip import - > cluster.toml")]
pub struct Import {
    /// Files of keepalived or ipvsadm, read as one configuration; - is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where clients' frames arrive; default: where VRRP runs, or eth1
    #[arg(long, value_name = "ETH")]
    pub interface: Option<String>,
}

/// Run the frames of a capture through the same steps as `run`, without root or a NIC
///
/// Each server needs `mac` in the configuration.
#[derive(Args)]
#[command(after_help = "\
Examples:
  oneip replay -c cluster.toml in.pcap out.pcap
  oneip replay -c cluster.toml in.pcap out.pcap --verdicts verdicts.json
  oneip replay -c cluster.toml in.pcap out.pcap --change \"2.5 drain web1\" --change \"9 undrain web1\"")]
pub struct Replay {
    #[command(flatten)]
    pub config: Config,
    /// The capture to read: Ethernet, pcap or pcapng
    pub input: PathBuf,
    /// The capture to write: the forwarded frames, in order
    pub output: PathBuf,
    #[command(flatten)]
    pub down: Down,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
    /// Write one JSON line for each input frame
    #[arg(long, value_name = "FILE")]
    pub verdicts: Option<PathBuf>,
    /// Change the cluster so many seconds after the first frame: drain, undrain, down or up a server (repeatable)
    #[arg(long, value_name = "\"SECONDS WHAT NAME\"")]
    pub change: Vec<Change>,
}

/// Look for everything that makes this host fail as a dispatcher or as a server, and name the command that mends it
///
/// A line for each thing that was looked at: ok, warn or fail. It changes nothing. Exit code 1 if a check fails.
#[derive(Args)]
#[command(after_help = "\
Examples:
  oneip doctor
  oneip doctor -c cluster.toml
  oneip doctor -c cluster.toml --json
  oneip doctor -c cluster.toml --seconds 10
  oneip doctor -c cluster.toml --server web1")]
pub struct Doctor {
    /// The configuration file (TOML); default: that of the dispatcher that runs, or /etc/oneip/oneip.toml
    #[arg(short, long = "config", value_name = "FILE", env = "ONEIP_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// This host is a server of the cluster, this one; without NAME the one whose primary address it has
    #[arg(long, value_name = "NAME", num_args = 0..=1, requires = "config")]
    pub server: Option<Option<String>>,
    /// Print the JSON document
    #[arg(long)]
    pub json: bool,
    /// How long to listen to received frames and to count drops
    #[arg(long, value_name = "S", default_value = "1", value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub seconds: u64,
    /// Read what lies below this directory, as proc/... or sys/..., in place of the host's own /proc and /sys
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// Tell which server each client address gets
#[derive(Args)]
#[command(after_help = "\
Examples:
  oneip lookup -c cluster.toml 198.51.100.7
  oneip lookup -c cluster.toml --down web2 198.51.100.7 198.51.100.8
  oneip lookup -c cluster.toml --service web --json < addresses.txt")]
pub struct Lookup {
    #[command(flatten)]
    pub config: Config,
    /// The service to ask about; default: the first
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    #[command(flatten)]
    pub down: Down,
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
    /// Client addresses; without any, one a line from standard input
    #[arg(value_name = "ADDRESS")]
    pub addresses: Vec<IpAddr>,
}

/// Show what selection does with your clients: shares, and what failures, drains and an added server move
#[derive(Args)]
#[command(after_help = "\
Examples:
  oneip simulate -c cluster.toml --clients access.log
  oneip simulate -c cluster.toml --clients access.log --add-server web4:2 --svg shares.svg
  cut -d ' ' -f 1 access.log | sort | uniq -c | oneip simulate -c cluster.toml --clients -")]
pub struct Simulate {
    #[command(flatten)]
    pub config: Config,
    /// The clients: an access log (each line begins with the client's address), a list of addresses (one a line, also with a
    /// number of requests), or a capture (pcap, pcapng; its frames to the cluster address). `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub clients: PathBuf,
    /// The service to simulate; default: the first
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// The server to add; default: one with the greatest weight that there is
    #[arg(long, value_name = "NAME[:WEIGHT]")]
    pub add_server: Option<Added>,
    /// Say what so many dispatchers behind a router do that spreads flows over them (ECMP): when one dies, and when they disagree
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=MAX_DISPATCHERS))]
    pub dispatchers: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Draw the shares, and what changes move
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Prepare a server: add, remove or check the cluster address and the settings that go with it
#[derive(Args)]
#[command(after_help = "\
Examples:
  oneip server add -c cluster.toml
  oneip server check -c cluster.toml
  oneip server remove -c cluster.toml")]
pub struct Server {
    #[command(subcommand)]
    pub verb: ServerVerb,
}

#[derive(Subcommand)]
pub enum ServerVerb {
    /// Put the cluster addresses on lo, and make the server silent about them
    #[command(after_help = "\
Examples:
  oneip server add -c cluster.toml
  oneip server add -c cluster.toml --broadcast --group 03:00:5e:00:00:50")]
    Add(ServerArguments),
    /// Undo what `add` did
    #[command(after_help = "\
Example:
  oneip server remove -c cluster.toml")]
    Remove(ServerArguments),
    /// Name each setting that is wrong, and the command that repairs it
    #[command(after_help = "\
Examples:
  oneip server check -c cluster.toml
  oneip server check -c cluster.toml --server web1 --broadcast")]
    Check(ServerArguments),
}

#[derive(Args)]
pub struct ServerArguments {
    #[command(flatten)]
    pub config: Config,
    /// Which server this is; default: the one whose primary address this host has
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    /// For broadcast-based dispatch: the server answers nobody while no filter is attached, forwards nothing, sends no
    /// redirects, and has no strict rp_filter. `remove` undoes all that was added, with this option or without it
    #[arg(long)]
    pub broadcast: bool,
    /// The router sends to this multicast MAC address instead of the broadcast address: the interface takes its frames
    #[arg(long, value_name = "MAC", requires = "broadcast", value_parser = server::group)]
    pub group: Option<Mac>,
}

/// Write the manual pages: oneip(1), one for each verb, and oneip.toml(5)
#[derive(Args)]
#[command(after_help = "\
Example:
  oneip man /usr/local/share/man")]
pub struct Man {
    /// The pages are written below this directory, in man1 and man5
    pub directory: PathBuf,
}

/// Print the completions for a shell
#[derive(Args)]
#[command(after_help = "\
Example:
  oneip completions bash > /etc/bash_completion.d/oneip")]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

/// Print a JSON Schema of the configuration, by which editors complete and check it
#[derive(Args)]
#[command(after_help = "\
Example:
  oneip schema > oneip.schema.json")]
pub struct Schema {}

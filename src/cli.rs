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
  oneip check -c cluster.toml          check the configuration, and print the plan
  oneip server add -c cluster.toml     prepare a server (run it on each)
  oneip doctor -c cluster.toml         find what is wrong with this host
  oneip run -c cluster.toml            dispatch (run it on the dispatcher)
  oneip ctl status                     show the state of services and servers

Exit codes: 0 done; 1 failed, and standard error says why; 2 wrong usage.
Environment: ONEIP_CONFIG names the configuration file if -c is not given; ONEIP_LOG=debug logs more
(off, error, warn, info, debug, trace, or MODULE=LEVEL,...).";

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
    /// The format of the log; default: journal if standard error is connected to it, else text
    #[arg(long, value_name = "FORMAT")]
    pub log: Option<Format>,
}

#[derive(Args)]
pub struct Down {
    /// Treat this server as down (repeatable)
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
    /// Append the latency histograms of each second, in the format of HdrHistogram's tools
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
    /// Replace the running dispatcher that uses this configuration's admin socket; with engine xdp no frame is lost
    #[arg(long)]
    pub takeover: bool,
    /// Detach the program that a killed dispatcher left on the interface, and exit
    #[arg(long, conflicts_with_all = ["down", "stats", "hlog", "takeover", "json"])]
    pub detach: bool,
    /// At the end, print the counters as JSON on standard output; everything else goes to standard error
    #[arg(long)]
    pub json: bool,
}

/// Withdraw the routes of a dispatcher that has ended or hangs; `run` starts this and sends it heartbeats on standard input
#[derive(Args)]
#[command(after_help = "Example:\n  oneip guard --interface eth1 --table 111 --hold-s 30")]
pub struct Guard {
    /// The interface of the routes
    #[arg(long, value_name = "ETH")]
    pub interface: String,
    /// The routing table of the routes
    #[arg(long, value_name = "N")]
    pub table: u8,
    /// How long the routes stay without a heartbeat
    #[arg(long, value_name = "S")]
    pub hold_s: u64,
}

/// Accept the packets of this server's clients and drop all others, until SIGINT or SIGTERM
///
/// This runs on each server of a cluster without a dispatcher (broadcast-based dispatch), and needs root. When it ends, the
/// program stays on the interface and continues with its last table.
#[derive(Args)]
#[command(after_help = "\
Examples:
  oneip filter -c cluster.toml
  oneip filter -c cluster.toml --server web1
  oneip filter -c cluster.toml --detach")]
pub struct Filter {
    #[command(flatten)]
    pub config: Config,
    /// The name of this server; default: the server whose primary address this host has
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    #[command(flatten)]
    pub down: Down,
    #[command(flatten)]
    pub log: Log,
    /// At the end, print the counters as JSON on standard output; everything else goes to standard error
    #[arg(long)]
    pub json: bool,
    /// Detach the program of an earlier filter from the interface, and exit
    #[arg(long, conflicts_with_all = ["down", "json"])]
    pub detach: bool,
}

/// Decapsulate the packets that dispatchers send to this server in tunnels, until SIGINT or SIGTERM
///
/// This runs on each server of services with `deliver` other than "l2", if the kernel has no tunnel devices for them, and needs
/// root. It removes the IPIP, GUE (variant 1) or GRE header of packets to a cluster address, and restores the destination of
/// L3DSR packets. When it ends, the program stays on the interface and continues with its last table.
#[derive(Args)]
#[command(after_help = "\
Examples:
  oneip decap -c cluster.toml
  oneip decap -c cluster.toml --server web1
  oneip decap -c cluster.toml --detach")]
pub struct Decap {
    #[command(flatten)]
    pub config: Config,
    /// The name of this server; default: the server whose primary address this host has
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    #[command(flatten)]
    pub log: Log,
    /// At the end, print the counters as JSON on standard output; everything else goes to standard error
    #[arg(long)]
    pub json: bool,
    /// Detach the program of an earlier decap from the interface, and exit
    #[arg(long, conflicts_with = "json")]
    pub detach: bool,
}

/// Check a configuration, and print the plan: services, servers, shares, queues and cores
///
/// If a running process uses this file, it also shows what a reload would change.
#[derive(Args)]
#[command(after_help = "\
Example:
  oneip check -c cluster.toml")]
pub struct Check {
    #[command(flatten)]
    pub config: Config,
}

/// Convert a configuration of keepalived, or the output of `ipvsadm -Sn`
///
/// The configuration of oneip goes to standard output, with a new secret key. Standard error lists, line by line, what could
/// not be converted.
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
    /// Drain, undrain, down or up a server, so many seconds after the first frame (repeatable)
    #[arg(long, value_name = "\"SECONDS WHAT NAME\"")]
    pub change: Vec<Change>,
}

/// Check this host for everything that makes a dispatcher or a server fail, and print the command that fixes it
///
/// It prints a line for each check: ok, warn or fail. It changes nothing. Exit code 1 if a check fails.
#[derive(Args)]
#[command(after_help = "\
Examples:
  oneip doctor
  oneip doctor -c cluster.toml
  oneip doctor -c cluster.toml --json
  oneip doctor -c cluster.toml --seconds 10
  oneip doctor -c cluster.toml --server web1")]
pub struct Doctor {
    /// The configuration file (TOML); default: that of the running dispatcher, or /etc/oneip/oneip.toml
    #[arg(short, long = "config", value_name = "FILE", env = "ONEIP_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Check this host as this server of the cluster; without NAME, as the server whose primary address it has
    #[arg(long, value_name = "NAME", num_args = 0..=1, requires = "config")]
    pub server: Option<Option<String>>,
    /// Print the JSON document
    #[arg(long)]
    pub json: bool,
    /// How long to listen to received frames and to count drops
    #[arg(long, value_name = "S", default_value = "1", value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub seconds: u64,
    /// Read proc/... and sys/... below this directory instead of the host's own /proc and /sys
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// Show which server each client address gets
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
    /// Client addresses; default: one per line from standard input
    #[arg(value_name = "ADDRESS")]
    pub addresses: Vec<IpAddr>,
}

/// Show how your clients are shared out, and how many move when a server fails, drains or is added
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
    /// The server to add; default: one with the greatest weight in use
    #[arg(long, value_name = "NAME[:WEIGHT]")]
    pub add_server: Option<Added>,
    /// Also simulate so many dispatchers behind a router that spreads flows over them (ECMP): when one fails, and when they
    /// disagree
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=MAX_DISPATCHERS))]
    pub dispatchers: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write a plot of the shares, and of the clients that move at each change
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Prepare a server: add, remove or check the cluster address and the settings that it needs
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
    /// Add the cluster addresses to lo, and make sure that the server does not answer ARP or ND for them
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
    /// Show each setting that is wrong, and the command that fixes it
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
    /// The name of this server; default: the server whose primary address this host has
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    /// For broadcast-based dispatch: the server answers nobody while no filter is attached, forwards nothing, sends no
    /// redirects, and has no strict rp_filter. `remove` undoes all that was added, with this option or without it
    #[arg(long)]
    pub broadcast: bool,
    /// The multicast MAC address that the router sends to, if not the broadcast address: the interface accepts its frames
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

/// Print a JSON Schema of the configuration, for completion and checks in editors
#[derive(Args)]
#[command(after_help = "\
Example:
  oneip schema > oneip.schema.json")]
pub struct Schema {}

//! The command line, and what it comes to.

use super::error::PktgenError;
use super::frames::{Order, Size, Traffic};
use super::schedule::Schedule;
use super::transmit::{Load, Until};
use crate::config;
use crate::host::cores;
use crate::model::{Mac, Port};
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// RFC 2544, appendix C.2.2.
const FIRST_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// RFC 5180, section 8.
const FIRST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0);

/// 7 : 4 : 1 of the smallest frame, 594 and 1518 bytes.
const IMIX: [usize; 12] = [64, 594, 64, 64, 594, 64, 64, 594, 64, 1518, 594, 64];

const EXAMPLES: &str = "\
Examples:
  oneip pktgen --interface eth1 --to 02:00:00:00:00:02 --address 203.0.113.80
  oneip pktgen --interface eth1 --to 02:00:00:00:00:02 --address 203.0.113.80 --rate 100000 --duration 30 --json";

const ABOUT: &str = "\
Examples:
  oneip pktgen --interface eth1 --to 02:00:00:00:00:02 --address 203.0.113.80
  oneip pktgen --interface eth1 --to 02:00:00:00:00:02 --address 203.0.113.80 --rate 100000 --duration 30 --json

Frames that come back carry the time at which they were due, and the latency is from then to the receive loop: \
with --rate, a frame that the generator sent late counts as if it had been sent on time (no coordinated omission), \
and how late it sends is reported apart, as lag.

The topology in which the latency means something is a loop, since both times are of this host's clock: the \
dispatcher's configuration has as servers' MACs those of this host's interfaces. On one machine that is a veth pair, \
whose other end is the dispatcher's. With two machines and a cable or a switch between them, `mac` of every server is \
that of --receive, or --receive is promiscuous (ip link set dev ETH promisc on).

Clients are 198.18.0.0 and on, of RFC 2544; a million of them reach beyond that block, to 198.33.66.63. Generate on \
isolated networks.";

/// Send frames of many clients to a cluster address, and measure what comes back
#[derive(Args)]
#[command(after_help = EXAMPLES, after_long_help = ABOUT)]
pub struct Arguments {
    /// Frames leave here; their source MAC address is that of the interface
    #[arg(long, value_name = "ETH")]
    pub interface: String,
    /// The destination MAC address: that of the dispatcher; with filters, ff:ff:ff:ff:ff:ff or the multicast address
    #[arg(long, value_name = "MAC", value_parser = destination)]
    pub to: Mac,
    /// The cluster address, IPv4 or IPv6; several take turns
    #[arg(long, value_name = "ADDR", required = true)]
    pub address: Vec<IpAddr>,
    /// The destination port, udp/80 or tcp/80 (a segment with ACK, of no connection); several take turns
    #[arg(long, value_name = "PORT", default_value = "udp/80", value_parser = config::port)]
    pub port: Vec<Port>,
    /// Send TCP segments as SYNs: a flood, to test limits
    #[arg(long)]
    pub syn: bool,
    /// How many consecutive client addresses
    #[arg(long, value_name = "N", default_value = "1000000", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pub clients: u64,
    /// The first client address; once for each family; default: 198.18.0.0 and 2001:2::
    #[arg(long, value_name = "ADDR")]
    pub first_client: Vec<IpAddr>,
    /// The order of clients: at random, each with the same probability; or by address, and after the last the first again
    #[arg(long, value_name = "ORDER", default_value = "random")]
    pub order: Clients,
    /// The seed of the random order
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,
    /// The frame size in bytes, with the 4 bytes of the FCS (RFC 2544), or imix: 64, 594 and 1518 as 7 : 4 : 1 (the smallest
    /// possible size where 64 is too small). Several take turns. Default: the smallest: 64 for udp and 76 for tcp over IPv4, 84
    /// and 96 over IPv6
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub size: Vec<SizeArgument>,
    /// Frames a second, on a fixed schedule; default: as fast as possible
    #[arg(long, value_name = "PPS", value_parser = RangedU64ValueParser::<u64>::new().range(1..=Schedule::MOST_PPS))]
    pub rate: Option<u64>,
    /// How long to send; default: 10
    #[arg(long, value_name = "SECONDS", value_parser = duration, conflicts_with = "count")]
    pub duration: Option<Duration>,
    /// How many frames to send
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    pub count: Option<u64>,
    /// Frames come back here; default: the same interface
    #[arg(long, value_name = "ETH")]
    pub receive: Option<String>,
    /// How to send: xdp is a program in the kernel, af_xdp a socket. auto takes af_xdp if the device has zero copy, else xdp if
    /// the interface can send for XDP programs (which costs less than copies), else af_xdp
    #[arg(long, value_name = "METHOD", default_value = "auto")]
    pub method: Method,
    /// The cores to send from, like 2 or 2,3,5 or 2-5. Each core has a sender, and the frames are shared among them: rate, count
    /// and duration are totals. With af_xdp each sender needs a queue of the interface. Default: one sender, on any core
    #[arg(long, value_name = "CORES", value_parser = core_list)]
    pub core: Option<Arc<[usize]>>,
    /// Print the results as JSON
    #[arg(long)]
    pub json: bool,
    /// Write the latency histograms of each second, in the format of HdrHistogram's tools
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Clients {
    Random,
    Sequential,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    Auto,
    Xdp,
    #[value(name = "af_xdp")]
    AfXdp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeArgument {
    Bytes(usize),
    Imix,
}

fn size(text: &str) -> Result<SizeArgument, String> {
    match text {
        "imix" => Ok(SizeArgument::Imix),
        _ => text.parse().map(SizeArgument::Bytes).map_err(|_| "write a number of bytes, like 64, or imix".into()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let year = Duration::from_secs(365 * 86_400);
    seconds
        .filter(|seconds| !seconds.is_zero() && *seconds < year)
        .ok_or("write a number of seconds, like 10 or 0.5".into())
}

impl Arguments {
    /// The frames to send from an interface with the address `source`.
    ///
    /// # Errors
    /// A first client of a family that no address has, or two of one.
    pub fn traffic(&self, source: Mac) -> Result<Traffic, PktgenError> {
        let (mut v4, mut v6) = (None, None);
        for first in &self.first_client {
            let before = match first {
                IpAddr::V4(address) => v4.replace(*address).map(IpAddr::V4),
                IpAddr::V6(address) => v6.replace(*address).map(IpAddr::V6),
            };
            if let Some(before) = before {
                return Err(PktgenError::FirstClients { first: before, second: *first });
            }
            if !self.address.iter().any(|address| address.is_ipv4() == first.is_ipv4()) {
                return Err(PktgenError::FirstClient { first: *first });
            }
        }
        let sizes = self.size.iter().flat_map(|size| match size {
            SizeArgument::Bytes(bytes) => vec![Size::Bytes(*bytes)],
            SizeArgument::Imix => IMIX.map(Size::AtLeast).to_vec(),
        });
        Ok(Traffic {
            source,
            destination: self.to,
            addresses: self.address.clone(),
            ports: self.port.clone(),
            sizes: sizes.collect(),
            clients: self.clients,
            first_v4: v4.unwrap_or(FIRST_V4),
            first_v6: v6.unwrap_or(FIRST_V6),
            order: match self.order {
                Clients::Random => Order::Random,
                Clients::Sequential => Order::Sequential,
            },
            seed: self.seed,
            syn: self.syn,
        })
    }

    pub fn load(&self) -> Load {
        const DEFAULT: Duration = Duration::from_secs(10);
        let until = self.count.map_or(Until::Elapsed(self.duration.unwrap_or(DEFAULT)), Until::Count);
        Load { schedule: self.rate.map(Schedule::new), until }
    }
}

fn core_list(text: &str) -> Result<Arc<[usize]>, String> {
    let cores = cores::parse(text).ok_or("write cores, like 2 or 2,3,5 or 2-5")?;
    let mut named = BTreeSet::new();
    match cores.iter().find(|core| !named.insert(**core)) {
        Some(core) => Err(format!("core {core} is named twice; a core can have one sender only")),
        None => Ok(cores.into()),
    }
}

/// A host's address or a group's: that of broadcast-based dispatch.
fn destination(text: &str) -> Result<Mac, String> {
    match text.parse::<Mac>() {
        Ok(mac) if mac.is_group() => Ok(mac),
        _ => config::mac(text),
    }
}

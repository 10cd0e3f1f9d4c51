//! `ctl talkers`: who sends most.

use super::client::{self, Client, Error};
use super::table;
use super::units::{percent, si, with_unit};
use crate::admin::order::{LookForTalkers, Talker, Talkers};
use crate::admin::status::Status;
use crate::limits::{TALKERS_PREFIX_V4, TALKERS_PREFIX_V6, TALKERS_SHOWN, TALKERS_SHOWN_DEFAULT};
use clap::Args;
use std::fmt::Write;
use std::thread;
use std::time::Duration;

pub const EXAMPLES: &str = "Examples:
  oneip ctl talkers
  oneip ctl talkers --service web --for 10 --top 20
  oneip ctl talkers --prefix-v4 24 --prefix-v6 48";

/// What is looked for.
#[derive(Args)]
pub struct Arguments {
    /// Only of this service; default: of all
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// How long to sample, in seconds
    #[arg(long = "for", value_name = "SECONDS", default_value = "2", value_parser = super::look)]
    time: Duration,
    /// How many sources of each service to show
    #[arg(long, value_name = "N", default_value_t = TALKERS_SHOWN_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(TALKERS_SHOWN)))]
    top: u32,
    /// Sample one frame in so many, at random; default: so that 20,000 frames a second are sampled
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    one_in: Option<u32>,
    /// Count IPv4 sources by prefixes of so many bits
    #[arg(long, value_name = "BITS", default_value_t = TALKERS_PREFIX_V4, value_parser = clap::value_parser!(u8).range(0..=32))]
    prefix_v4: u8,
    /// Count IPv6 sources by prefixes of so many bits
    #[arg(long, value_name = "BITS", default_value_t = TALKERS_PREFIX_V6, value_parser = clap::value_parser!(u8).range(0..=128))]
    prefix_v6: u8,
    /// Print the JSON document
    #[arg(long)]
    pub json: bool,
}

impl Arguments {
    /// # Errors
    /// There is nobody to ask.
    pub fn order(self, client: &Client) -> Result<LookForTalkers, Error> {
        let Arguments { service, time, top, one_in, prefix_v4, prefix_v6, .. } = self;
        let one_in = one_in.map_or_else(|| self::one_in(client), Ok)?;
        let for_ms = time.as_millis() as u64;
        Ok(LookForTalkers { for_ms, one_in, prefix_v4, prefix_v6, most: top, service, gives_way: false })
    }
}

/// How long frames are counted to learn how many come.
const COUNTED: Duration = Duration::from_secs(1);

fn one_in(client: &Client) -> Result<u32, Error> {
    let count = || -> Result<(u64, f64), Error> {
        let status: Status = client::read(client.status()?)?;
        Ok((status.frames, status.counted_s.unwrap_or(status.uptime_s)))
    };
    let (before, since) = count()?;
    thread::sleep(COUNTED);
    let (now, until) = count()?;
    let rate = now.saturating_sub(before) as f64 / (until - since).max(COUNTED.as_secs_f64() / 2.0);
    Ok(LookForTalkers::one_in(rate))
}

/// A row a source, the heaviest first.
pub fn text(talkers: &Talkers) -> String {
    let Talkers { for_ms, one_in, looked_at, missed, frames: all, sources } = talkers;
    let seconds = *for_ms as f64 / 1000.0;
    let part = if *one_in == 1 { "all".to_owned() } else { format!("one in {one_in}") };
    let mut text = format!("{looked_at} frames sampled in {seconds} s, {part}\n");
    if *missed > 0 {
        let _ = writeln!(text, "{missed} more were missed because the buffer was full; use a larger --one-in");
    }
    if sources.is_empty() {
        return text + "nobody was seen";
    }
    let mut table = table::new(COLUMNS, 2..7);
    for talker in sources {
        table.add_row(cells(talker, *all, seconds));
    }
    let _ = write!(text, "\n{}", table.trim_fmt());
    text
}

pub const COLUMNS: [&str; 7] = ["source", "service", "share", "frames/s", "dropped", "bit/s", "SYN/s"];

/// A row of these columns, of a source that so many frames of `all` came from within so many seconds.
pub fn cells(
    Talker { service, source, frames, dropped, bytes, syns, .. }: &Talker,
    all: u64,
    seconds: f64,
) -> [String; 7] {
    let rate = |count: u64| count as f64 / seconds;
    [
        source.to_string(),
        service.clone().unwrap_or_else(|| "(none)".to_owned()),
        percent(*frames as f64 / all.max(1) as f64),
        si(rate(*frames)),
        percent(*dropped as f64 / (*frames).max(1) as f64),
        with_unit(8.0 * rate(*bytes), "bit"),
        si(rate(*syns)),
    ]
}

//! Limits of a service: how many packets, bits and connections a second come to its servers, of all sources and of each. And limits of
//! packets that are dear to read, whatever their service.

use std::fmt;
use std::time::Duration;

/// `[service.limit]`. At least one limit is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub packets: Option<Rate>,
    /// Of whole frames, Ethernet header included, FCS not.
    pub bits: Option<Rate>,
    /// TCP connections begun: SYN without ACK.
    pub syn: Option<Rate>,
    pub per_source: Option<PerSource>,
    /// What is beyond a limit is dispatched all the same, and counted.
    pub only_counts: bool,
}

/// What a token bucket is made of: it holds `burst`, and fills by so many a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u64,
    pub burst: u64,
}

/// Limits of each source: the addresses that begin alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerSource {
    /// Bits of the prefix.
    pub prefix_v4: u8,
    pub prefix_v6: u8,
    pub packets: Option<Rate>,
    pub syn: Option<Rate>,
}

/// Which limit a frame is beyond, in the order in which they are asked: the narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum LimitKind {
    SourceSyn,
    SourcePackets,
    Syn,
    Packets,
    Bits,
}

impl LimitKind {
    pub const ALL: [LimitKind; 5] =
        [LimitKind::SourceSyn, LimitKind::SourcePackets, LimitKind::Syn, LimitKind::Packets, LimitKind::Bits];

    pub const COUNT: usize = Self::ALL.len();

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            LimitKind::SourceSyn => "source_syn",
            LimitKind::SourcePackets => "source_packets",
            LimitKind::Syn => "syn",
            LimitKind::Packets => "packets",
            LimitKind::Bits => "bits",
        }
    }
}

/// `[limit.odd]`. At least one limit is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OddLimit {
    /// By `OddKind`.
    pub rates: [Option<Rate>; OddKind::COUNT],
    /// As in `Limit`.
    pub only_counts: bool,
}

/// Packets whose headers are read the long way, by what the IP header alone says of them; the first that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum OddKind {
    /// Of IPv6: the fragment header is the first.
    Fragments,
    Icmp,
    /// IPv4 options, or any other extension header first.
    Options,
}

impl OddKind {
    pub const ALL: [OddKind; 3] = [OddKind::Fragments, OddKind::Icmp, OddKind::Options];

    pub const COUNT: usize = Self::ALL.len();

    /// The name of the key, and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            OddKind::Fragments => "fragments",
            OddKind::Icmp => "icmp",
            OddKind::Options => "options",
        }
    }
}

impl Limit {
    /// Each limit of a kind.
    pub fn rates(&self) -> impl Iterator<Item = (LimitKind, Rate)> {
        let of_source = |of: fn(&PerSource) -> Option<Rate>| self.per_source.as_ref().and_then(of);
        let all = [of_source(|of| of.syn), of_source(|of| of.packets), self.syn, self.packets, self.bits];
        LimitKind::ALL.into_iter().zip(all).filter_map(|(kind, rate)| Some((kind, rate?)))
    }
}

impl Rate {
    /// How long an empty bucket takes to be full.
    pub fn filled_in(&self) -> Duration {
        Duration::from_secs_f64(self.burst as f64 / self.per_second as f64)
    }
}

/// `at most 20000 SYN/s (burst 2000); of each /32 and /64 at most 50 SYN/s (burst 64); only counted`
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |rates: [(&str, Option<Rate>); 3]| {
            let each = rates.into_iter().filter_map(|(what, rate)| {
                let Rate { per_second, burst } = rate?;
                Some(format!("{per_second} {what}/s (burst {burst})"))
            });
            Some(each.collect::<Vec<_>>().join(", ")).filter(|said| !said.is_empty())
        };
        let whole = said([("packets", self.packets), ("bits", self.bits), ("SYN", self.syn)]);
        let each = self.per_source.as_ref().and_then(|of| {
            let said = said([("packets", of.packets), ("SYN", of.syn), ("", None)])?;
            Some(format!("of each /{} and /{} at most {said}", of.prefix_v4, of.prefix_v6))
        });
        let only_counts = self.only_counts.then(|| "only counted".to_owned());
        let parts: Vec<String> =
            whole.map(|whole| format!("at most {whole}")).into_iter().chain(each).chain(only_counts).collect();
        f.write_str(&parts.join("; "))
    }
}

/// `at most 20000 fragments/s (burst 2000), 1000 icmp/s (burst 100); only counted`
impl fmt::Display for OddLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = OddKind::ALL.into_iter().zip(self.rates).filter_map(|(kind, rate)| {
            let Rate { per_second, burst } = rate?;
            Some(format!("{per_second} {}/s (burst {burst})", kind.name()))
        });
        write!(f, "at most {}", each.collect::<Vec<_>>().join(", "))?;
        if self.only_counts { f.write_str("; only counted") } else { Ok(()) }
    }
}

//! What becomes of a frame: forwarded, dropped for one reason, or passed.

use std::fmt;

/// Why a frame was dropped. Every reason has one counter, one help line and a test that produces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    NoService,
    Malformed,
    Loop,
    Ttl,
    NoServer,
    Unresolved,
    TxFull,
    RxFull,
    Stray,
    PassFull,
    OtherServer,
    TooBig,
    Untrusted,
    Denied,
    Limited,
}

impl Reason {
    pub const ALL: [Reason; 15] = [
        Reason::NoService,
        Reason::Malformed,
        Reason::Loop,
        Reason::Ttl,
        Reason::NoServer,
        Reason::Unresolved,
        Reason::TxFull,
        Reason::RxFull,
        Reason::Stray,
        Reason::PassFull,
        Reason::OtherServer,
        Reason::TooBig,
        Reason::Untrusted,
        Reason::Denied,
        Reason::Limited,
    ];

    pub const COUNT: usize = Self::ALL.len();

    /// The name in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::NoService => "no_service",
            Reason::Malformed => "malformed",
            Reason::Loop => "loop",
            Reason::Ttl => "ttl",
            Reason::NoServer => "no_server",
            Reason::Unresolved => "unresolved",
            Reason::TxFull => "tx_full",
            Reason::RxFull => "rx_full",
            Reason::Stray => "stray",
            Reason::PassFull => "pass_full",
            Reason::OtherServer => "other_server",
            Reason::TooBig => "too_big",
            Reason::Untrusted => "untrusted",
            Reason::Denied => "denied",
            Reason::Limited => "limited",
        }
    }

    /// One line for an operator who sees the counter rise.
    pub const fn help(self) -> &'static str {
        match self {
            Reason::NoService => "to a cluster address, but no service has that protocol and port",
            Reason::Malformed => "header truncated, length beyond the frame, or bad version or header length",
            Reason::Loop => {
                "from a server's own MAC to its cluster address: that server lacks the alias and sends it back"
            }
            Reason::Ttl => "TTL or hop limit 0",
            Reason::NoServer => "no server of the service is up",
            Reason::Unresolved => "the server's MAC address is not known yet",
            Reason::TxFull => {
                "the transmit ring was full: the link is down, or it or the kernel takes frames slower than they come"
            }
            Reason::RxFull => "the receive ring was full: the worker takes frames slower than they come",
            Reason::Stray => "to an address that stopped being a cluster address while the frame waited in the ring",
            Reason::PassFull => "for the kernel, but the path to it (DPDK only) was full, down or absent",
            Reason::OtherServer => {
                "on a server: its filter knows that another server has the client, or its decap has sent it back to the dispatcher"
            }
            Reason::TooBig => {
                "larger than the MTU with the tunnel's header, and must not be fragmented: ICMP tells the client"
            }
            Reason::Untrusted => "on a server, by its decap: in a tunnel from an address that is not a dispatcher's",
            Reason::Denied => "from an address that a [[deny]] or `ctl deny` covers",
            Reason::Limited => {
                "beyond a limit of its service, of its source or of its kind: [service.limit], [limit.odd]"
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The decision about one frame. Indices are positions in the plan: the service's, and the server's within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Forward { service: u16, server: u16 },
    Drop(Reason),
    Pass,
}

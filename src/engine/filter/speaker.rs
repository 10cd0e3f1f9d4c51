//! The filters of a cluster speak to each other: the socket and the clock of `filter::peers`, and what this server has to do by it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::admin::status::PeerStatus;
use crate::control::membership::peers::Seen;
use crate::control::membership::{Membership, Update};
use crate::control::overrides::Overrides;
use crate::engine::filter::beacon::{Cipher, Number, Report};
use crate::engine::filter::digest::Digests;
use crate::engine::filter::peers::{Agreement, Peers, Times};
use crate::engine::filter::takeover::{self, Others};
use crate::error::Failure;
use crate::limits::{BEACON_BYTES, FILTER_LEASE, PEER_MESSAGES};
use crate::model::Plan;

/// One server's end.
pub struct Speaker {
    socket: UdpSocket,
    peers: Peers,
    /// Where the others are, by name.
    addresses: Vec<(String, SocketAddr)>,
    times: Times,
    number: Number,
    ticks: Interval,
    datagram: Box<[u8]>,
    /// Something is to be looked at; a tick has come.
    pub is_due: bool,
    has_ticked: bool,
    /// What was told last.
    told: Report,
    /// What `peers` was made for.
    followed: Option<(Arc<Plan>, Overrides)>,
    link: Link,
    /// Until when the program keeps what is other servers' by first choice.
    lease: Instant,
    was_isolated: bool,
    agreements: Vec<Agreement>,
}

/// What is to be done with the program.
#[derive(Debug, Default)]
pub struct Turn {
    /// Others may have by now what this server had.
    pub comes_again: bool,
    pub update: Option<Update>,
    /// Until when to lease from now on.
    pub lease: bool,
}

impl Speaker {
    /// `takes_at_once`: the program has been there all the time. Inside a runtime.
    ///
    /// # Errors
    /// The port cannot be had.
    pub fn open(plan: &Plan, me: &str, interface: &str, takes_at_once: bool) -> Result<Speaker, Failure> {
        let port = plan.filter.as_ref().map_or(crate::model::Filter::PORT, |filter| filter.port);
        let socket = bind(port).map_err(|error| {
            format!(
                "UDP port {port}, on which the filters of the servers speak to each other, cannot be opened: {error}; \
                 set another `port` in [filter], the same on every server"
            )
        })?;
        let times = times(plan);
        let run = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        Ok(Speaker {
            socket,
            peers: Peers::new(me, Cipher::new(plan.hash_key), takes_at_once),
            addresses: Vec::new(),
            times,
            number: Number { run, count: 0 },
            ticks: ticks(times),
            datagram: vec![0; BEACON_BYTES].into(),
            is_due: true,
            has_ticked: true,
            told: Report::default(),
            followed: None,
            link: Link::new(interface),
            lease: Instant::now() + FILTER_LEASE,
            was_isolated: false,
            agreements: Vec::new(),
        })
    }

    /// Whether there is something to do. Takes in what has come.
    pub fn poll(&mut self, context: &mut Context) -> Poll<()> {
        let now = Instant::now();
        // Whoever floods the port shall not keep this thread from its work.
        for at in 0..=PEER_MESSAGES {
            let mut buffer = ReadBuf::new(&mut self.datagram);
            match self.socket.poll_recv_from(context, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(_) if at == PEER_MESSAGES => context.waker().wake_by_ref(),
                Poll::Ready(Ok(from)) => {
                    let message = buffer.filled();
                    self.is_due |= take(&mut self.peers, &self.addresses, message, from, now);
                }
                // What a host that is not there has answered to a message of ours.
                Poll::Ready(Err(_)) => {}
            }
        }
        if self.ticks.poll_tick(context).is_ready() {
            (self.is_due, self.has_ticked) = (true, true);
        }
        if self.is_due { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Looks at what has come. The membership follows it. Inside a runtime.
    pub fn turn(&mut self, membership: &mut Membership, me: &str) -> Turn {
        let now = Instant::now();
        self.is_due = false;
        self.follow(membership);
        let mut turn = Turn { lease: self.has_ticked, ..Turn::default() };
        let lapsed = now >= self.lease;
        if lapsed {
            tracing::warn!("this process stood still; others may have taken over its clients meanwhile");
        }
        let seen = membership.seen(me);
        let isolated = membership.isolated().is_some();
        if self.link.was_lost() | lapsed {
            turn.comes_again = self.peers.come_again(now);
        } else if self.was_isolated && !isolated {
            self.peers.come_if_doubtful(&seen, &self.times, now);
        }
        self.was_isolated = isolated;
        let hearsays = self.peers.judge(&seen, &self.times, now);
        turn.update = membership.hear(hearsays);
        turn
    }

    /// What there is to know of the others before a table of the membership as it is now is published.
    pub fn others(&mut self, membership: &Membership) -> Others {
        self.follow(membership);
        let takes = |server: &str| membership.takes_clients(server);
        self.peers.others(takes, &self.times, Instant::now())
    }

    /// The program decides by the membership as it was followed last, and keeps nothing of what was before.
    pub fn has_given_up(&mut self) {
        self.peers.give_up();
    }

    /// The lease begins anew, until then.
    pub fn renew(&mut self) -> Instant {
        self.lease = Instant::now() + FILTER_LEASE;
        self.lease
    }

    /// Tells the others how this server is, if that is new or a tick has come; `fails`: nobody is served from here at all.
    pub fn speak(&mut self, membership: &Membership, me: &str, fails: bool) {
        let now = Instant::now();
        let seen = membership.seen(me);
        let report = self.peers.report(&seen, fails, &self.times, now);
        if self.has_ticked || report != self.told {
            self.number.count += 1;
            let message = self.peers.cipher().seal(&report, self.number);
            // A host that is not there, or no link: the next message may come.
            self.addresses.iter().for_each(|(_, to)| drop(self.socket.try_send_to(&message, *to)));
            self.told = report;
        }
        if std::mem::take(&mut self.has_ticked) {
            self.compare(&seen, now);
        }
    }

    /// What is new of how the others stand to this one is logged.
    fn compare(&mut self, seen: &[Seen], now: Instant) {
        let before = std::mem::replace(&mut self.agreements, self.peers.compare(&self.times, now));
        for agreement in &self.agreements {
            let server = &agreement.server;
            let before = before.iter().find(|before| before.server == *server);
            if before.is_some_and(|before| before.differs != agreement.differs) {
                PeerStatus::from(agreement).troubles().for_each(|trouble| tracing::warn!("{trouble}"));
                if agreement.differs.is_empty() {
                    tracing::info!("the filter of {server} agrees with this one again");
                }
            }
            let serves = seen.iter().any(|one| one.server == *server && one.serves);
            match (before.map(|before| before.is_heard), agreement.is_heard) {
                (None | Some(false), true) => tracing::info!("the filter of {server} is heard"),
                (Some(true), false) if serves => {
                    tracing::warn!(
                        "the filter of {server} is not heard any more; now only checks tell whether it serves"
                    )
                }
                _ => {}
            }
        }
    }

    pub fn status(&self) -> Vec<PeerStatus> {
        self.agreements.iter().map(PeerStatus::from).collect()
    }

    fn follow(&mut self, membership: &Membership) {
        let plan = membership.plan();
        let (orders, down) = membership.orders();
        let same = |(known, ordered): &(Arc<Plan>, Overrides)| Arc::ptr_eq(known, plan) && ordered == orders;
        if self.followed.as_ref().is_some_and(same) {
            return;
        }
        let configured = membership.configured();
        let cipher = Cipher::new(configured.hash_key);
        let servers = || configured.services.iter().flat_map(|service| &service.servers);
        let digests = Digests::new(cipher.key(), configured, orders, down);
        self.peers.follow(cipher, digests, servers().map(|server| server.name.as_str()));
        let before = std::mem::replace(&mut self.times, times(configured));
        if before.beacon != self.times.beacon {
            self.ticks = ticks(self.times);
        }
        let port = configured.filter.as_ref().map_or(crate::model::Filter::PORT, |filter| filter.port);
        let is_v6 = self.socket.local_addr().is_ok_and(|own| own.is_ipv6());
        let at = |name: &str| SocketAddr::new(address(configured, name, is_v6), port);
        self.addresses = self.peers.names().map(|name| (name.to_owned(), at(name))).collect();
        self.followed = Some((Arc::clone(plan), orders.clone()));
    }
}

/// Whether it says something new.
fn take(peers: &mut Peers, known: &[(String, SocketAddr)], message: &[u8], from: SocketAddr, now: Instant) -> bool {
    match peers.cipher().open(message) {
        Ok((report, number)) => peers.take(report, number, now),
        Err(why) => {
            if let Some((name, _)) = known.iter().find(|(_, at)| at.ip().to_canonical() == from.ip().to_canonical()) {
                peers.take_stranger(name, why, now);
            }
            false
        }
    }
}

/// A server may have an address of each family; one is enough. `is_v6`: for a socket of IPv6, which speaks both.
fn address(plan: &Plan, name: &str, is_v6: bool) -> IpAddr {
    let servers = plan.services.iter().flat_map(|service| &service.servers).filter(|server| server.name == name);
    let address = servers.map(|server| server.address).min_by_key(IpAddr::is_ipv6);
    match address.expect("it is a server of the plan") {
        IpAddr::V4(address) if is_v6 => address.to_ipv6_mapped().into(),
        address => address,
    }
}

/// For both families, or for IPv4 where there is no IPv6.
fn bind(port: u16) -> io::Result<UdpSocket> {
    let open = |address: IpAddr| {
        let socket = Socket::new(Domain::for_address((address, port).into()), Type::DGRAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&SocketAddr::new(address, port).into())?;
        Ok(socket)
    };
    let socket = open(Ipv6Addr::UNSPECIFIED.into()).or_else(|error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
        _ => open(Ipv4Addr::UNSPECIFIED.into()),
    })?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

/// The link of the interface that frames come over.
struct Link {
    facts: PathBuf,
    /// How often it came and went.
    changes: Option<u64>,
}

impl Link {
    fn new(interface: &str) -> Link {
        let mut link = Link { facts: PathBuf::from("/sys/class/net").join(interface), changes: None };
        link.was_lost();
        link
    }

    /// Whether it is down, or was since the last call.
    fn was_lost(&mut self) -> bool {
        let fact = |name| fs::read_to_string(self.facts.join(name));
        let changes = fact("carrier_changes").ok().and_then(|text| text.trim().parse().ok());
        let changed = self.changes.is_some() && self.changes != changes;
        self.changes = changes;
        let is_down = match fact("carrier") {
            Ok(carrier) => carrier.trim() == "0",
            // It is set down (net/core/net-sysfs.c, carrier_show).
            Err(error) => error.raw_os_error() == Some(Errno::INVAL.raw_os_error()),
        };
        changed || is_down
    }
}

fn times(plan: &Plan) -> Times {
    let servers = plan.services.iter().map(|service| service.servers.len()).max().unwrap_or_default();
    Times::new(takeover::hold(plan), takeover::first_hold(plan), servers)
}

fn ticks(times: Times) -> Interval {
    let mut ticks = interval(times.beacon);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

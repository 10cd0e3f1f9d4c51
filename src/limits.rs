//! Every bound of the program, in one place, with the relations between them checked by the compiler.

mod group;
mod quic;
mod turns;
mod watching;

pub use group::*;
pub use quic::*;
pub use turns::*;
pub use watching::*;

use std::ops::RangeInclusive;
use std::time::Duration;

/// Frames a worker takes from its port in one turn.
///
/// `perf/method.md` has the measurement that chose it; AF_XDP in copy mode sends 32 descriptors per system call.
pub const BURST: usize = 64;

/// Services in one configuration.
pub const MAX_SERVICES: usize = 4096;

/// Cluster addresses and prefixes of all services of one configuration, each time that one is listed.
pub const MAX_ADDRESSES: usize = 2 * MAX_SERVICES;

/// Servers in one service.
pub const MAX_SERVERS: usize = 1024;

/// Slots of a service that names none (prime), whatever the number of its servers: with a default that grew, a server more would
/// move nearly every client.
pub const DEFAULT_SLOTS: u32 = 65_537;

/// A service needs at least this many slots per server. A share is whole slots, so with equal weights it comes out within
/// 1.6 % of itself.
pub const SLOTS_PER_SERVER: u32 = 64;

/// Clients that a reload is tried on before it is put to work.
pub const COST_CLIENTS: usize = 8192;

/// A reload that moves a greater part of a service's clients for nothing must be forced: half of them, and what chance does
/// to `COST_CLIENTS`.
pub const MOVED_MOST: f64 = 0.55;

/// A part that is told.
pub const MOVED_TOLD: f64 = 0.01;

/// Largest configuration file, in bytes: some 400,000 servers.
pub const MAX_CONFIG: u64 = 32 << 20;

/// Most files that a configuration may include: one for each service.
pub const MAX_INCLUDED: usize = MAX_SERVICES;

/// Most slots a service may have: the largest prime below 2^24 (32 MiB of table).
pub const MAX_SLOTS: u32 = 16_777_213;

/// Largest weight of a server.
pub const MAX_WEIGHT: u32 = 65_535;

/// Flows that a worker remembers while a change is under way, where the configuration does not say: 16 MiB.
pub const DEFAULT_FLOWS: u32 = 1 << 20;

pub const MAX_FLOWS: u32 = 1 << 26;

/// How long connections stay on their server through a change, where the configuration does not say; in seconds.
pub const DEFAULT_DRAIN_S: u32 = 600;

/// A week.
pub const MAX_DRAIN_S: u32 = 604_800;

/// How long a server may wait before it takes over clients of another one in broadcast-based dispatch; in milliseconds.
pub const MAX_HOLD_MS: u32 = 60_000;

/// How long it waits where no service is checked and the configuration does not say.
pub const DEFAULT_HOLD: Duration = Duration::from_secs(1);

/// Takeovers that a filter holds back at once; with one more, the two oldest count as one.
pub const MAX_HOLDS: usize = 8;

/// A filter's table that could not be published is tried again after this.
pub const FILTER_RETRY: Duration = Duration::from_secs(1);

/// How often a filter tells the others how it is: an eighth of `hold_ms` within these bounds, and longer by `BEACON_SERVER` for each
/// of them.
pub const BEACON_LEAST: Duration = Duration::from_millis(50);

pub const BEACON_MOST: Duration = Duration::from_millis(500);

pub const BEACON_SERVER: Duration = Duration::from_millis(1);

/// A filter that says nothing for so many times as long, and at least `PEER_SILENCE`, is not heard any more.
pub const SILENT_BEACONS: u32 = 4;

pub const PEER_SILENCE: Duration = Duration::from_secs(1);

/// How long the program of a filter keeps clients that are other servers' by first choice, without its process. Restarts are shorter.
pub const FILTER_LEASE: Duration = Duration::from_secs(8);

/// How long a TCP handshake takes, with its SYN-ACK lost three times.
pub const FILTER_HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a filter waits for one that it does not hear: by then those clients have lapsed.
pub const PEER_LEASE: Duration = Duration::from_secs(10);

/// What two filters differ in for so long is told. A reload of all servers, one after another, is shorter.
pub const PEER_DIFFERS: Duration = Duration::from_secs(10);

/// Messages of filters that are read before anything else is done.
pub const PEER_MESSAGES: usize = 64;

/// Largest message from filter to filter. Fragmented, it has room for what is to be said of 6,000 servers of services.
pub const BEACON_BYTES: usize = 60_000;

/// Services that a server's program counts frames of, those that a reload removed included.
pub const KEPT_ACCOUNTS: u32 = 2 * MAX_SERVICES as u32;

/// Prefixes of each family that tunnels may come from: both fill a cell of decap's table.
pub const TUNNEL_SOURCES: usize = 64;

/// Lists of denied or allowed prefixes in one configuration.
pub const MAX_LISTS: usize = 256;

/// Prefixes of one family in all `[[deny]]` of a configuration together, and as many in all `[[allow]]`.
pub const MAX_LISTED: usize = 100_000;

/// Largest file of prefixes, in bytes: as many as there may be, with a remark each.
pub const MAX_LIST_FILE: u64 = 32 << 20;

/// Mistakes that are told of one file of prefixes.
pub const LIST_ERRORS: usize = 20;

/// Services fall into so many groups at most by which lists they have: a bit each of a word.
pub const LIST_GROUPS: usize = 64;

/// Orders `ctl deny` that stand at once.
pub const MAX_DENIED: usize = 10_000;

/// Longest `ctl deny`, in seconds: a year.
pub const MAX_DENY_S: u64 = 31_536_000;

/// How often it is looked whether files of prefixes have changed.
pub const LIST_LOOK: Duration = Duration::from_secs(1);

/// Greatest limit of packets or SYNs a second.
pub const MAX_PACKETS_LIMIT: u64 = 1_000_000_000;

/// Least and greatest limit of bits a second.
pub const LEAST_BITS: u64 = 8_000;
pub const MAX_BITS_LIMIT: u64 = 1_000_000_000_000;

/// Least burst of a limit of bits: a jumbo frame of 9,018 bytes fits in. A longer frame than the burst never passes.
pub const LEAST_BITS_BURST: u64 = 80_000;

/// A burst that the configuration does not name is what comes in this part of a second: 100 ms, a round trip over half the world. What a
/// sender holds back comes at once within one, and it is still over before a server's queue of connections is full.
pub const BURST_OF: u64 = 10;

/// It is at least so many packets, or SYNs: a browser opens six connections to a host at once. Of bits, as many of the longest usual frames.
pub const LEAST_BURST: u64 = 16;

/// Longest time that a bucket takes to be full. It is well below what `table::limits` can tell apart.
pub const MAX_BURST_FILL: Duration = Duration::from_secs(3600);

/// Cells for what sources are limited by, where the configuration does not say: 1 MiB.
pub const DEFAULT_LIMIT_SOURCES: u32 = 1 << 16;

/// The least is a bucket; the most takes 1 GiB.
pub const LIMIT_SOURCES: RangeInclusive<u32> = 4..=1 << 26;

/// Clients whose packets are too large are told so at most so often in each window, by each worker or core: some 950 a second. Linux
/// answers 1,000 a second (net.ipv4.icmp_msgs_per_sec).
pub const TOO_BIG_ANSWERS: u32 = 64;
/// In nanoseconds; a power of two, as BPF divides slowly.
pub const TOO_BIG_WINDOW: u64 = 1 << 26;

/// No frame of any port is longer, with what is put in front of it.
pub const MAX_FRAME: usize = 20_000;

/// How often an XDP program is loaded at most, where signals interrupt the verifier.
pub const PROGRAM_LOADS: usize = 5;

/// VLAN tags in front of the IP header that are looked through (802.1ad outer, 802.1Q inner).
pub const MAX_VLAN_TAGS: usize = 2;

/// Interfaces of a dispatcher. The program in the kernel looks through them (src/bpf/dispatch.h, OTHERS).
pub const MAX_INTERFACES: usize = 8;

/// The largest VLAN ID; 4095 is reserved (802.1Q-2018, table 9-2).
pub const MAX_VLAN: u32 = 4094;

/// IPv6 extension headers that are walked; a longer chain is dispatched as if its transport were unknown.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// How often the routes to servers behind routers are looked up again.
pub const ROUTE_LOOK: Duration = Duration::from_secs(2);

/// Neighbours the kernel is asked to resolve in one `NEIGHBOUR_ROUND`: 1,280 a second, so that a start with 1,000 servers
/// is over in a second and stays far below the storm control of a switch.
pub const NEIGHBOURS_PER_ROUND: usize = 64;

pub const NEIGHBOUR_ROUND: Duration = Duration::from_millis(50);

/// Wait before a server that does not answer is asked for again; doubled each time up to `NEIGHBOUR_RETRY_LAST`. Also how
/// long a MAC counts as confirmed when its neighbour entry was deleted, or is verified, while the kernel asks anew.
pub const NEIGHBOUR_RETRY_FIRST: Duration = Duration::from_secs(1);

pub const NEIGHBOUR_RETRY_LAST: Duration = Duration::from_secs(8);

/// Neighbours that are doubted and not asked for yet; a doubt that finds no room comes again with the next failures of its check.
pub const NEIGHBOUR_DOUBTS: usize = MAX_SERVERS;

/// A neighbour that fails is unconfirmed after this, unless the failure turns out to be the first half of a deletion.
pub const NEIGHBOUR_FAILURE_SETTLES: Duration = Duration::from_millis(20);

/// How often a resolved neighbour is verified where the kernel does not do it by itself (before Linux 5.16), +-25 %.
pub const NEIGHBOUR_REFRESH: Duration = Duration::from_secs(30);

/// Changes of neighbours are delivered at once, but not sooner than this after the delivery before.
pub const NEIGHBOUR_GATHER: Duration = Duration::from_millis(100);

/// Probes under way at once. With a thousand servers at one a second, all silent, 500 wait for their timeout of 500 ms.
pub const HEALTH_PARALLEL: usize = 512;

/// Servers that can be checked by way of the cluster address: each has a mark and a routing table of its own.
pub const HEALTH_PATHS: usize = 0x3fff;

/// The first and the last port of probes over TCP by way of the cluster address: above those that the kernel gives to others by
/// default, and no further than a rule may say (`fib_rule_port_range_valid`, include/net/fib_rules.h).
pub const HEALTH_PORTS: (u16, u16) = (61_000, 65_534);

/// Ports that a probe tries; one may be another program's.
pub const HEALTH_PORT_TRIES: u32 = 16;

/// The pause between probes of a server that there is no verdict of yet, if the interval is not shorter.
pub const HEALTH_FIRST_PAUSE: Duration = Duration::from_millis(100);

/// An interval is shortened by up to this part of itself, at random, so that probes do not fall into step.
pub const HEALTH_JITTER: f64 = 0.1;

/// What falls due within the interval divided by this is probed now, so that this process wakes up for many probes at once:
/// a quarter cheaper with a thousand servers than to wake up for each.
pub const HEALTH_TICKS: u32 = 40;

/// A probe whose timeout was noticed later than this proves nothing: it was this process that slept.
pub const HEALTH_LATE: Duration = Duration::from_millis(100);

/// While probes are under way, this process looks this often whether it goes on at all: when it stood still, what it missed
/// proves nothing.
pub const HEALTH_BEAT: Duration = Duration::from_millis(50);

/// The pause after a probe that this host could not send or follow, if the interval is not shorter.
pub const HEALTH_HERE_PAUSE: Duration = Duration::from_secs(1);

/// The last routing table that routes for routing daemons may be put in: those behind it are the kernel's own (`RT_TABLE_DEFAULT`,
/// include/uapi/linux/rtnetlink.h), and FRR imports none that is greater.
pub const MAX_ANNOUNCE_TABLE: u8 = 252;

/// Longest time that an address must be ready before it is announced again: an hour.
pub const MAX_HOLD_DOWN_MS: u32 = 3_600_000;

/// Longest time that routes stay when the process was killed: a day.
pub const MAX_ANNOUNCE_HOLD_S: u32 = 86_400;

/// How often the kernel is asked whether the routes of cluster addresses are as they should be: an interface that goes down takes
/// them along and says nothing.
pub const ANNOUNCE_LOOK: Duration = Duration::from_secs(1);

/// How often the process that withdraws them looks whether another dispatcher has come in the place of the one that was killed.
pub const GUARD_LOOK: Duration = Duration::from_millis(100);

/// It may be silent for so long and not hang, however short `hold_s` is.
pub const GUARD_SILENCE: Duration = Duration::from_secs(3);

/// How long routes stay at least for the dispatcher that takes over: it may wait `START_MOST` for verdicts.
pub const GUARD_HAND_OVER: Duration = Duration::from_secs(20);

/// A service none of whose servers could be checked for so long is not ready.
pub const UNCHECKED_MOST: Duration = Duration::from_secs(3);

/// A lost probe route is put back within this time, whenever the next probe would be.
pub const HEALTH_REPAIR: Duration = Duration::from_millis(500);

/// While more than half of all servers are silent, it takes this many times `fall` failures to say that one is down.
pub const HEALTH_MOST_SILENT: u32 = 2;

/// Changes of verdicts are delivered at once, but not sooner than this after the delivery before.
pub const HEALTH_GATHER: Duration = Duration::from_millis(50);

/// The way to a server that does not answer is laid again at the first failure and then at each so many.
pub const HEALTH_RELAY: u32 = 16;

/// Falls within `FLAP_WINDOW` that are not flapping yet.
pub const FLAP_FALLS: usize = 3;

/// Also at least `FLAP_CYCLES` times the time in which a server can fall and rise once.
pub const FLAP_WINDOW: Duration = Duration::from_secs(60);

pub const FLAP_CYCLES: u32 = 12;

/// A flapping server comes up after so long without a failure; doubled at each fall, up to `FLAP_HOLD_LAST`.
pub const FLAP_HOLD_FIRST: Duration = Duration::from_secs(10);

pub const FLAP_HOLD_LAST: Duration = Duration::from_secs(160);

/// A flow without a beginning and an end, such as UDP's, is over when nothing was seen of it for so long.
pub const FLOW_IDLE: Duration = Duration::from_secs(30);

/// A connection of which only the SYN was seen is over after this: Linux sends its SYN-ACK for the last time 31 s after the SYN, and
/// gives up 32 s later (`tcp_synack_retries` 5).
pub const FLOW_HALF_OPEN: Duration = Duration::from_secs(64);

/// Another SYN of the same addresses and ports, with another sequence number, counts when the one before is older: who waits for an
/// answer repeats the same SYN after 1 s at first (RFC 6298, section 2).
pub const FLOW_SYN_RETRY: Duration = Duration::from_secs(1);

/// A connection that was ended by the client, and of which nothing was seen for so long, may begin anew on another server. Until then
/// the end may have been a stranger's: while the connection goes on, it is not silent. Short, so that a proxy that uses its ports again
/// and again gets to the new owner: with the 28,232 ports of Linux at up to 5,600 connections a second.
pub const FLOW_REOPEN: Duration = Duration::from_secs(5);

/// A connection that was ended by the client is over when nothing was seen of it for so long: Linux's TIME-WAIT, and its
/// `tcp_fin_timeout`.
pub const FLOW_CLOSED: Duration = Duration::from_secs(60);

/// With `drain = "until-closed"`: a connection is over when nothing was seen of it for so long. Linux sends the first keepalive after
/// 2 h (`tcp_keepalive_time`), and gives up 11 min later.
pub const FLOW_ESTABLISHED_IDLE: Duration = Duration::from_secs(9000);

/// Workers go through their flow tables at most so often, while it must be known which servers have connections.
pub const FLOW_CENSUS: Duration = Duration::from_secs(1);

/// How far the sequence numbers of a client may be from where they were: they are believed to be its own. The answer to a SYN allows
/// 65,535 bytes, since its window is never scaled (RFC 7323, section 2.2); later, so much lost in one piece is rare.
pub const FLOW_SEQUENCE_WINDOW: u32 = 1 << 16;

/// Changes of a service that are under way at once; with one more, the two oldest of one rule count as one.
pub const MAX_CHANGES: usize = 8;

/// Steps that a service has gone through, of which a process that comes after this one is told; with one more, the first is
/// forgotten.
pub const MAX_HISTORY: usize = 256;

/// Steps of services that are kept while slots move, for services with the same servers that go the same: they differ by rule, and by how long
/// connections stay.
pub const SHARED_MOVES: usize = 4;

/// Layouts that the program in the kernel counts for at once: the one that is published, and those before it whose last counts were not
/// read yet. The twin of `TALLIES` in src/bpf/counters.h.
pub const LAYOUTS: usize = 8;

/// Of the frames that the program in the kernel dispatches, one of so many is timed: reading the clock twice costs as much as the rest.
pub const FRAMES_TIMED: u32 = 64;

/// How often the control thread goes through a part of the flow tables that the program in the kernel fills, and how many buckets that are.
pub const CENSUS_EVERY: Duration = Duration::from_millis(20);
pub const CENSUS_PART: usize = 4096;

/// How long a table that the program in the kernel did not take waits until it is tried again.
pub const KERNEL_RETRY: Duration = Duration::from_secs(1);

/// Most bytes of a frame in a capture file; libpcap's `MAXIMUM_SNAPLEN`.
pub const MAX_CAPTURED: usize = 262_144;

/// Most bytes of a block in a pcapng file; Wireshark's `MAX_BLOCK_SIZE`.
pub const MAX_CAPTURE_BLOCK: usize = 16 << 20;

/// Dispatchers that `simulate` takes: next hops that routers commonly spread flows over.
pub const MAX_DISPATCHERS: i64 = 64;

/// Pairs of servers whose failure `simulate` tries: all of 32 servers.
pub const SIMULATED_PAIRS: usize = 496;

/// A start begins to dispatch when no server has been resolved, or been found up or down, for so long.
pub const QUIET: Duration = Duration::from_millis(250);

/// A start waits at most so long for the first verdict of each server that there is none of from before.
pub const START_MOST: Duration = Duration::from_secs(10);

/// Verdicts of a process that ended longer ago count for nothing.
pub const VERDICT_MOST: Duration = Duration::from_secs(3600);

/// The state file is written again after this, though nothing has changed, so that it tells until when it was true.
pub const STATE_AGAIN: Duration = Duration::from_secs(60);

/// The last time that a state file may speak of, in nanoseconds since 1970: 2116. Times are added to one another.
pub const STATE_LAST_NS: u64 = 1 << 62;

/// How long an order, or a stop, waits for the state file.
pub const STATE_MOST: Duration = Duration::from_secs(2);

/// How often the interface is looked at.
pub const INTERFACE_LOOK: Duration = Duration::from_secs(1);

/// How long a stop waits, after the program is detached, for frames that are on their way into the rings; and before a DPDK device is
/// closed, for those on their way out.
pub const DRAIN: Duration = Duration::from_millis(20);

/// How long no frame may come while a run's last figures are read, and how often that is tried, at most: some tenths of a second in all.
pub const LAST_LOOK: Duration = Duration::from_micros(50);
pub const LAST_LOOKS: u32 = 1000;

/// How often workers' histograms are harvested and reports written.
pub const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// A service manager's watchdog with less time than this ends processes whose workers turn: they are looked at once a `STATS_INTERVAL`.
pub const SHORT_WATCHDOG: Duration = Duration::from_secs(4);

/// What is shown of the figures is at most this old, unless it takes long to put them together: a `FIGURES_PART` of the stats
/// thread's time is spent on it.
pub const FIGURES_EVERY: Duration = Duration::from_millis(250);

pub const FIGURES_PART: u32 = 20;

/// What is shown of the servers is at most this old: checks come to results without anything changing for the data path.
pub const OVERVIEW_EVERY: Duration = Duration::from_millis(250);

/// A control thread that has put nothing down for so long hangs.
pub const OVERVIEW_MOST: Duration = Duration::from_secs(5);

/// Connections to the admin socket that are served at once, and as many to the listener of the metrics, so that neither keeps
/// the other waiting. More wait in the kernel's queue.
pub const ADMIN_CONNECTIONS: usize = 64;

/// So many names are told; of more, how many there are.
pub const NAMES_TOLD: usize = 12;

/// Most bytes of an order.
pub const ADMIN_BODY: usize = 2 * GROUP_CONFIG;

/// Most bytes of what stands before it: method, path, headers.
pub const ADMIN_HEAD: usize = 16 << 10;

/// How long a client may take to send the head of its request, again to send the body, and again to read the answer.
pub const ADMIN_PATIENCE: Duration = Duration::from_secs(5);

/// How long the control thread may take to carry out an order, those before it included.
pub const ORDER_MOST: Duration = Duration::from_secs(10);

/// How long the stats thread may take to give its figures. It harvests for a quarter of `STATS_INTERVAL` at most.
pub const FIGURES_MOST: Duration = Duration::from_secs(2);

/// Longest watch of a client's frames.
pub const TRACE_MOST: Duration = Duration::from_secs(60);

/// How long a process that ends waits for the admin thread to send the answers that it owes, such as that to `hand-over`.
pub const ADMIN_FAREWELL: Duration = Duration::from_secs(1);

/// Longest life of a connection to the admin socket: one request and its answer.
pub const ADMIN_EXCHANGE: Duration = Duration::from_secs(90);

/// Longest life of a connection to the listener of the metrics, which takes no order.
pub const METRICS_EXCHANGE: Duration = Duration::from_secs(30);

/// Changes of servers that are remembered for the page, and as many of everything else: with a thousand servers that come and go, an
/// order is not forgotten.
pub const TIMELINE_EVENTS: usize = 500;

/// Most bytes of what is said of one.
pub const TIMELINE_TEXT: usize = 600;

/// The same change of a server in several services is one, if it is among so many that came last, and within this time.
pub const TIMELINE_LOOK: usize = 64;
pub const TIMELINE_SAME: Duration = Duration::from_secs(1);

/// How far back the page's rates go.
pub const WEB_MINUTE: Duration = Duration::from_secs(60);

/// How often the counters of all frames are noted for them, and those of each server and service.
pub const WEB_EVERY: Duration = Duration::from_secs(1);
pub const WEB_SERVERS_EVERY: Duration = Duration::from_secs(10);

/// Services, or servers of one, that the page gets at once.
pub const WEB_ROWS: usize = 25;

/// Servers that take no clients, named in a row of a service.
pub const WEB_NAMED: usize = 3;

/// Descriptors in each of the four rings of an AF_XDP queue: 200 us of frames at 10 Mpps.
pub const RING: usize = 2048;

/// Frames of an AF_XDP queue: a full ring waits to be received into while another waits to be sent.
pub const QUEUE_FRAMES: usize = 2 * RING;

/// Queues that one AF_XDP port serves, of all interfaces together.
pub const MAX_PORT_QUEUES: usize = 256;

/// Descriptors of a ring of a DPDK device that names none: 100 us of frames at 10 Mpps.
pub const DESCRIPTORS: u16 = 1024;

/// Most descriptors of a ring that may be asked for; the device has bounds of its own.
pub const MAX_DESCRIPTORS: u32 = 32_768;

/// Most queues of a DPDK device.
pub const MAX_QUEUES: u32 = 128;

/// Most mbufs of a queue.
pub const MAX_MBUFS: u32 = 1 << 22;

/// Mbufs that DPDK keeps at hand for a thread; at most half as many more are with it.
pub const MBUF_CACHE: u32 = 256;

/// Frames under way between a worker and the kernel, in each direction.
pub const KERNEL_LANE: usize = 256;

/// How often the clock made of the time stamp counter is set by the kernel's.
pub const TSC_STEP: Duration = Duration::from_millis(100);

/// How long the time stamp counter is measured at the start: to some 5 parts in a million.
pub const TSC_FIRST_STEP: Duration = Duration::from_millis(10);

/// Cluster addresses of one family, and prefixes, that steer holds: while they change, the new ones stand beside the old.
pub const STEER_ADDRESSES: usize = 2 * MAX_ADDRESSES;

/// How long an interface or the admin socket may stay taken after its last owner went.
pub const RELEASE: Duration = Duration::from_secs(2);

/// How long the socket or program of a process that has ended may stand in the way: the kernel releases them in the background, on a
/// machine that is short of cores seconds later.
pub const KERNEL_RELEASE: Duration = Duration::from_secs(10);

/// How long `oneip doctor` waits for servers whose MAC the kernel does not know: its three questions, a second apart.
pub const DOCTOR_RESOLVES: Duration = Duration::from_millis(3200);

/// How often a dispatcher looks at its host while it runs.
pub const DOCTOR_EVERY: Duration = Duration::from_secs(30);

/// What is wrong with the host: how many lines of it `oneip run` and `ctl status` show.
pub const DOCTOR_SHOWN: usize = 5;

/// How much longer servers that a reload removed stay, each time that the plan without them is refused.
pub const LEAVE_AGAIN: Duration = Duration::from_secs(30);

/// Largest frame of pktgen, without FCS. A page holds it beside what the kernel keeps there (`max_data_sz`, net/bpf/test_run.c). The
/// twin of `MAX_FRAME` in src/bpf/pktgen.h.
pub const PKTGEN_FRAME: usize = 3000;

/// Kinds of frame (address, port, size) of one run of pktgen. The twin of `MAX_TEMPLATES` there.
pub const PKTGEN_TEMPLATES: usize = 1024;

/// How often it is looked whether pktgen's program is done, once it should be.
pub const PKTGEN_LOOK: Duration = Duration::from_millis(1);

/// How long the kernel may take to run the senders' programs for the first time.
pub const PKTGEN_START: Duration = Duration::from_secs(5);

/// Stragglers are waited for until none has come for `PKTGEN_DRAIN`, or for `PKTGEN_DRAIN_COPIES` where all frames are back; at
/// most `PKTGEN_DRAIN_MOST`.
pub const PKTGEN_DRAIN: Duration = Duration::from_millis(300);

pub const PKTGEN_DRAIN_COPIES: Duration = Duration::from_millis(30);

pub const PKTGEN_DRAIN_MOST: Duration = Duration::from_secs(3);

/// How long an interface may be without a carrier after an XDP program was attached: NICs start anew then.
pub const PKTGEN_CARRIER: Duration = Duration::from_secs(10);

const _: () = {
    assert!(PKTGEN_FRAME.is_multiple_of(8), "frames are compared in words of 8 bytes");
    assert!(BURST.is_power_of_two() && BURST <= u8::MAX as usize, "a burst index is one byte");
    assert!(MAX_SERVERS < 0x7fff, "a slot holds a 15-bit server index with one sentinel, and a mark");
    assert!(MAX_SERVICES <= u16::MAX as usize, "a service index is 16 bits");
    assert!(MAX_ADDRESSES < u16::MAX as usize, "an address's index is 16 bits, and one more than it too");
    assert!(MAX_CAPTURED < MAX_CAPTURE_BLOCK, "a block holds a frame");

    assert!(RING.is_power_of_two() && RING >= 2 * BURST, "rings are powers of two and take whole bursts");
    assert!(QUEUE_FRAMES >= RING + 3 * BURST, "with the transmit ring full, frames are left to receive into");
    assert!(MAX_PORT_QUEUES.is_power_of_two(), "its numbers are bits of a frame's");
    assert!(QUEUE_FRAMES.is_multiple_of(BURST), "frames are handed over in whole bursts");
    assert!(KERNEL_LANE >= BURST, "a burst for the kernel has room");
    assert!(
        (MAX_SERVERS as u32) * SLOTS_PER_SERVER <= DEFAULT_SLOTS,
        "the default is enough for as many as there can be"
    );
    assert!(DEFAULT_SLOTS <= MAX_SLOTS);
    assert!((MAX_SERVERS as u64) * (MAX_WEIGHT as u64) < u32::MAX as u64, "a sum of weights is 32 bits");
    assert!(FIGURES_MOST.as_millis() > STATS_INTERVAL.as_millis(), "the stats thread is asked between two harvests");
    assert!(ADMIN_EXCHANGE.as_secs() >= METRICS_EXCHANGE.as_secs() + TRACE_MOST.as_secs());
    assert!(
        METRICS_EXCHANGE.as_secs() > (3 * ADMIN_PATIENCE.as_secs()) + ORDER_MOST.as_secs() + FIGURES_MOST.as_secs()
    );
    assert!(WEB_EVERY.as_millis() >= FIGURES_EVERY.as_millis(), "what is noted is new");
    assert!(WEB_MINUTE.as_secs().is_multiple_of(WEB_SERVERS_EVERY.as_secs()));
    assert!(GROUP_ALIVE.as_secs() * 3 < GROUP_LEASE_S as u64, "a member may miss two times");
    assert!(GROUP_ORDER.as_millis() < ORDER_MOST.as_millis(), "the operator is answered");
    assert!(FILTER_LEASE.as_millis() > PEER_SILENCE.as_millis());
    assert!(PEER_LEASE.as_millis() >= FILTER_LEASE.as_millis() + BEACON_MOST.as_millis() + 1000, "1,000 servers");
    assert!(BEACON_BYTES < 65_507, "a message is one datagram");
    assert!(FLAP_HOLD_FIRST.as_millis() <= FLAP_HOLD_LAST.as_millis());
    assert!(NEIGHBOUR_RETRY_FIRST.as_millis() <= NEIGHBOUR_RETRY_LAST.as_millis());
    assert!(NEIGHBOUR_RETRY_LAST.as_millis() < NEIGHBOUR_REFRESH.as_millis());
};

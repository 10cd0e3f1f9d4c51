//! Bounds of a group, and of its store.

use std::time::Duration;

/// Addresses of etcd in one configuration.
pub const GROUP_ENDPOINTS: usize = 16;

/// Most bytes of a value in the store of a group.
pub const GROUP_VALUE: usize = 4096;

/// Most bytes of what a member finds of all servers: of 16,000 that are up and down by turns, and `GROUP_REASONS`.
pub const GROUP_VIEW: usize = 256 << 10;

/// Most bytes of a configuration that is published: etcd takes 1.5 MiB at once.
pub const GROUP_CONFIG: usize = 1 << 20;

/// Servers of which a member says why they are not up.
pub const GROUP_REASONS: usize = 64;

/// Characters of such a reason.
pub const GROUP_REASON: usize = 200;

/// A member writes what it finds at once, but not sooner than this after the last time.
pub const GROUP_VIEW_EVERY: Duration = Duration::from_millis(200);

/// So long after it has lost the others, a member goes by its own checks alone, of all servers: their leases have ended by then, too.
pub const GROUP_ALONE: Duration = Duration::from_secs(GROUP_LEASE_S as u64);

/// So long after it has come to a store that may have what is not so any more, what members find counts: a lease of one that does not
/// live has ended by then, with the time that etcd takes to notice.
pub const GROUP_SETTLE: Duration = Duration::from_secs(GROUP_LEASE_S as u64 + 2);

/// How much longer a denial stands in the store if it was read there and not heard of as it was given: by this clock it is over, which may be wrong.
pub const GROUP_CLOCKS: Duration = Duration::from_secs(24 * 60 * 60);

/// How far ahead of this clock the time of an order may be. Clocks may be wrong by much, but nothing that is ordered counts for ever.
pub const GROUP_AHEAD: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Members of a group, and wrong values of its store that are named.
pub const GROUP_MEMBERS: usize = 1024;

/// Servers that a group has orders for.
pub const GROUP_SERVERS: usize = 65_536;

/// Most bytes of what the store answers at once: the orders for as many servers, and as many denied prefixes as there may be.
pub const GROUP_ANSWER: usize = 32 << 20;

/// A member that etcd has not heard of for so long is gone, in seconds.
pub const GROUP_LEASE_S: i64 = 10;

/// How often a member says that it lives: three times before its lease ends.
pub const GROUP_ALIVE: Duration = Duration::from_secs(3);

/// How long the store may take to answer, or to be connected to.
pub const GROUP_ANSWERS: Duration = Duration::from_secs(3);

/// After that a node is asked again what it has not answered, since its leader may have died; then after twice as long, for it may only be slow.
pub const GROUP_TRY: Duration = Duration::from_millis(250);

/// Wait before a node is asked again that has refused something for the moment; shortened by up to a half at random.
pub const GROUP_AGAIN: Duration = Duration::from_millis(100);

/// Wait before the store is tried again, unless another node has not been tried; doubled each time up to `GROUP_RETRY_LAST`, and shortened by up to a half at random.
pub const GROUP_RETRY_FIRST: Duration = Duration::from_millis(200);

pub const GROUP_RETRY_LAST: Duration = Duration::from_secs(5);

/// How long an operator waits at most until the store has an order, which counts here already.
pub const GROUP_ORDER: Duration = Duration::from_secs(4);

/// How often a member writes how far it is, at most.
pub const GROUP_PROGRESS: Duration = Duration::from_millis(500);

/// How often an order is tried again that another one came before.
pub const GROUP_CONFLICTS: usize = 16;

/// How long the end of a process waits for its lease to be given back.
pub const GROUP_CLOSE: Duration = Duration::from_secs(1);

/// Events of the store that wait for the control thread; then the thread of the store waits.
pub const GROUP_EVENTS: usize = 64;

/// Largest file of certificates, or of a key, in bytes: all authorities of a system are 220 KiB.
pub const MAX_CERTIFICATES: u64 = 1 << 20;

/// Largest file of a password, in bytes.
pub const MAX_PASSWORD: u64 = 1024;

//! Every bound of the program, in one place, with the relations between them checked by the compiler.

use std::time::Duration;

/// Frames a worker takes from its port in one turn.
///
/// `perf/method.md` has the measurement that chose it; AF_XDP in copy mode sends 32 descriptors per system call.
pub const BURST: usize = 64;

/// Services in one configuration.
pub const MAX_SERVICES: usize = 4096;

/// Servers in one service.
pub const MAX_SERVERS: usize = 1024;

/// Slots of a service that names none (prime).
pub const DEFAULT_SLOTS: u32 = 65_537;

/// A service needs at least this many slots per server, so that shares come out within 1 % of the weights.
pub const SLOTS_PER_SERVER: u32 = 100;

/// Most slots a service may have: the largest prime below 2^24 (32 MiB of table).
pub const MAX_SLOTS: u32 = 16_777_213;

/// Largest weight of a server.
pub const MAX_WEIGHT: u32 = 65_535;

/// VLAN tags in front of the IP header that are looked through (802.1ad outer, 802.1Q inner).
pub const MAX_VLAN_TAGS: usize = 2;

/// IPv6 extension headers that are walked; a longer chain is dispatched as if its transport were unknown.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// Descriptors in each of the four rings of an AF_XDP queue: 200 us of frames at 10 Mpps.
pub const RING: usize = 2048;

/// Frames of an AF_XDP queue: a full ring waits to be received into while another waits to be sent.
pub const QUEUE_FRAMES: usize = 2 * RING;

/// Cluster addresses of one family that steer holds: while they change, the new ones stand beside the old.
pub const STEER_ADDRESSES: usize = 2 * MAX_SERVICES;

/// How long a queue or an interface may stay taken after its last owner went: the kernel releases both in the background.
pub const RELEASE: Duration = Duration::from_secs(2);

const _: () = {
    assert!(BURST.is_power_of_two() && BURST <= u8::MAX as usize, "a burst index is one byte");
    assert!(MAX_SERVERS < u16::MAX as usize, "a slot holds a 16-bit server index and one sentinel");
    assert!(MAX_SERVICES <= u16::MAX as usize, "a service index is 16 bits");
    assert!(RING.is_power_of_two() && RING >= 2 * BURST, "rings are powers of two and take whole bursts");
    assert!(QUEUE_FRAMES >= RING + 3 * BURST, "with the transmit ring full, frames are left to receive into");
    assert!(QUEUE_FRAMES.is_multiple_of(BURST), "frames are handed over in whole bursts");
    assert!((MAX_SERVERS as u32) * SLOTS_PER_SERVER <= MAX_SLOTS);
    assert!((MAX_SERVERS as u64) * (MAX_WEIGHT as u64) < u32::MAX as u64, "a sum of weights is 32 bits");
};

//! The keyed hash that selects: SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), 64 bits.
//!
//! `siphash` is the specification: scalar, over bytes. `vector` is the hot path: many clients at once, chosen once at start
//! for the processor it runs on. `splitmix` is not keyed: for random numbers. A hash input is at most five 8-byte blocks, and both build the same ones here.

pub mod siphash;
pub mod splitmix;
pub mod vector;

use std::net::IpAddr;

pub use siphash::Key;

/// Blocks of an IPv4 client address.
pub const SOURCE_V4: usize = 1;
/// Blocks of an IPv6 client address.
pub const SOURCE_V6: usize = 3;
/// Blocks of an IPv4 flow.
pub const FLOW_V4: usize = 2;
/// Blocks of an IPv6 flow.
pub const FLOW_V6: usize = 5;

/// SipHash's last block: what is left of the input, and the input's length in the top byte.
const fn last(rest: u64, len: u64) -> u64 {
    len << 56 | rest
}

fn word(bytes: [u8; 8]) -> u64 {
    u64::from_le_bytes(bytes)
}

/// The two words of an IPv6 address.
#[inline(always)]
fn words(address: [u8; 16]) -> [u64; 2] {
    let (low, high) = address.split_at(8);
    [word(low.try_into().expect("8 bytes")), word(high.try_into().expect("8 bytes"))]
}

/// The blocks of an IPv4 address in network byte order.
#[inline(always)]
pub fn source_v4(client: [u8; 4]) -> [u64; SOURCE_V4] {
    [last(u32::from_le_bytes(client) as u64, 4)]
}

/// The blocks of an IPv6 address in network byte order.
#[inline(always)]
pub fn source_v6(client: [u8; 16]) -> [u64; SOURCE_V6] {
    let [low, high] = words(client);
    [low, high, SOURCE_V6_LAST]
}

/// The last block of every IPv6 address.
pub const SOURCE_V6_LAST: u64 = last(0, 16);

/// Ports in network byte order and the protocol, as the five last bytes of a flow.
#[inline(always)]
fn tail(source: u16, destination: u16, protocol: u8) -> u64 {
    source.swap_bytes() as u64 | (destination.swap_bytes() as u64) << 16 | (protocol as u64) << 32
}

/// The blocks of an IPv4 flow: source, destination, source port, destination port, protocol; 13 bytes.
#[inline(always)]
pub fn flow_v4(source: [u8; 4], destination: [u8; 4], ports: (u16, u16), protocol: u8) -> [u64; FLOW_V4] {
    let addresses = u32::from_le_bytes(source) as u64 | (u32::from_le_bytes(destination) as u64) << 32;
    [addresses, last(tail(ports.0, ports.1, protocol), 13)]
}

/// The blocks of an IPv6 flow, in the same order; 37 bytes.
#[inline(always)]
pub fn flow_v6(source: [u8; 16], destination: [u8; 16], ports: (u16, u16), protocol: u8) -> [u64; FLOW_V6] {
    let [s0, s1] = words(source);
    let [d0, d1] = words(destination);
    [s0, s1, d0, d1, last(tail(ports.0, ports.1, protocol), 37)]
}

/// The slot of a hash among `slots`: `((hash >> 32) * slots) >> 32`.
#[inline(always)]
pub fn slot(hash: u64, slots: u32) -> u32 {
    (((hash >> 32) * slots as u64) >> 32) as u32
}

/// The hash of one client address.
pub fn source(key: Key, client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(client) => siphash::blocks(key, source_v4(client.octets())),
        IpAddr::V6(client) => siphash::blocks(key, source_v6(client.octets())),
    }
}

/// The hash of one flow. Both addresses are of one family.
pub fn flow(key: Key, source: IpAddr, destination: IpAddr, ports: (u16, u16), protocol: u8) -> u64 {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            siphash::blocks(key, flow_v4(source.octets(), destination.octets(), ports, protocol))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            siphash::blocks(key, flow_v6(source.octets(), destination.octets(), ports, protocol))
        }
        _ => unreachable!("an address of another family"),
    }
}

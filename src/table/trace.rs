//! A client whose frames an operator wants to see go by.

use super::ServiceId;
use crate::model::Transport;
use crossbeam::queue::ArrayQueue;
use std::net::IpAddr;

/// Stands in the table while somebody watches. Workers look for it once a burst.
pub struct Watch {
    pub client: IpAddr,
    /// A frame that finds no room is not noted.
    pub seen: ArrayQueue<Seen>,
}

/// What became of a frame of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Nanoseconds, on the clock of the ports.
    pub at: u64,
    pub worker: usize,
    pub bytes: u32,
    /// Of the flow; 0 where it is not known.
    pub protocol: u8,
    pub fate: Fate,
}

/// A verdict, by what the table calls things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Forward(ServiceId, u16),
    /// The reason's name.
    Drop(&'static str),
    Pass,
}

impl Watch {
    pub fn new(client: IpAddr, most: usize) -> Watch {
        Watch { client, seen: ArrayQueue::new(most) }
    }
}

/// The name of a protocol, or its number.
pub fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 | 58 => "icmp".to_owned(),
        _ => Transport::from_protocol(protocol).map_or(protocol.to_string(), |transport| transport.name().to_owned()),
    }
}

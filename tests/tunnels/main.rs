//! Delivery through tunnels and to other addresses: frames through a whole worker, held against a second data path, two decoders, and
//! the laws of what comes out.

mod decoded;
mod frames;
mod golden;
mod kernel;
mod lab;
#[path = "../model/mod.rs"]
mod model;
mod probes;
#[path = "../tools/mod.rs"]
mod tools;
mod tshark;
mod twins;

use oneip::model::Deliver;

/// Each way.
const ALL: [Deliver; 5] = [Deliver::L2, WAYS[0], WAYS[1], WAYS[2], WAYS[3]];

/// Each way but the first, which is no tunnel.
const WAYS: [Deliver; 4] = [Deliver::Ipip, Deliver::Gue { port: 6080 }, Deliver::Gre, Deliver::L3dsr { dscp: 10 }];

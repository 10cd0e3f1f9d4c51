//! Bounds of QUIC connection IDs (draft-ietf-quic-load-balancers-21, sections 3.1 and 5).

use std::ops::RangeInclusive;

/// Configs that connection IDs can tell apart; one more number says that a connection ID is of none.
pub const QUIC_CONFIGS: usize = 7;

/// Bytes of a server ID.
pub const SERVER_ID_LENGTHS: RangeInclusive<u32> = 1..=MAX_SERVER_ID as u32;
pub const MAX_SERVER_ID: usize = 15;

/// Bytes of a nonce.
pub const NONCE_LENGTHS: RangeInclusive<u32> = 4..=18;

/// Most bytes of both: a connection ID of QUIC version 1 has 20 (RFC 9000, section 17.2), and the first says which config it is of.
pub const MAX_ROUTED: usize = 19;
pub const MAX_CONNECTION_ID: usize = 1 + MAX_ROUTED;

/// Server IDs of one server.
pub const SERVER_IDS: usize = 16;

//! How servers make QUIC connection IDs that say whose they are: draft-ietf-quic-load-balancers-21.

use crate::limits::MAX_SERVER_ID;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a server makes connection IDs by, and what they are read by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicConfig {
    /// Below `QUIC_CONFIGS`: the upper three bits of a connection ID.
    pub id: u8,
    /// Bytes of the server ID, and of the nonce behind it.
    pub server_id_length: u8,
    pub nonce_length: u8,
    /// Of AES-128; `None`: in plaintext.
    pub key: Option<QuicKey>,
}

/// It never reaches a log or an error message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct QuicKey(pub [u8; 16]);

impl fmt::Debug for QuicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuicKey(secret)")
    }
}

/// `config 0, server ID of 3 bytes and nonce of 4, encrypted`
impl fmt::Display for QuicConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QuicConfig { id, server_id_length, nonce_length, key } = self;
        let bytes = if *server_id_length == 1 { "byte" } else { "bytes" };
        let form = if key.is_some() { "encrypted" } else { "plaintext" };
        write!(f, "config {id}, server ID of {server_id_length} {bytes} and nonce of {nonce_length}, {form}")
    }
}

/// By what a server is known in connection IDs: 1 to 15 bytes, as a number whose lowest byte is the first, and whose highest is how many they
/// are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ServerId(u128);

impl ServerId {
    /// `None`: they are none, or too many.
    #[inline]
    pub fn new(bytes: &[u8]) -> Option<ServerId> {
        if !(1..=MAX_SERVER_ID).contains(&bytes.len()) {
            return None;
        }
        let mut padded = [0; size_of::<u128>()];
        padded[..bytes.len()].copy_from_slice(bytes);
        padded[MAX_SERVER_ID] = bytes.len() as u8;
        Some(ServerId(u128::from_le_bytes(padded)))
    }

    /// Its bytes, zeroes behind them, and how many they are in the highest.
    #[inline(always)]
    pub fn number(self) -> u128 {
        self.0
    }

    /// Its bytes, and zeroes behind them.
    pub fn bytes(self) -> u128 {
        self.0 << 8 >> 8
    }

    /// What `number` says.
    pub fn from_number(number: u128) -> ServerId {
        ServerId(number)
    }

    /// How many bytes it has.
    pub fn length(self) -> usize {
        (self.0 >> (8 * MAX_SERVER_ID)) as usize
    }
}

/// In hex.
impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_le_bytes()[..self.length()].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerId({self})")
    }
}

/// An even number of hex digits.
impl FromStr for ServerId {
    type Err = ();

    fn from_str(text: &str) -> Result<ServerId, ()> {
        let digits = text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect::<Option<Vec<u8>>>();
        let digits = digits.filter(|digits| digits.len().is_multiple_of(2)).ok_or(())?;
        let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        ServerId::new(&bytes).ok_or(())
    }
}

impl From<ServerId> for String {
    fn from(id: ServerId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for ServerId {
    type Error = String;

    fn try_from(text: String) -> Result<ServerId, String> {
        text.parse().map_err(|()| format!("\"{text}\" is no server ID"))
    }
}

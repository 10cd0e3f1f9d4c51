//! QUIC connection IDs that say whose they are (draft-ietf-quic-load-balancers-21, section 5): a first byte that names the config, the server
//! ID, and a nonce; the last two may be encrypted. Bytes behind them are the server's own.

use crate::limits::{MAX_CONNECTION_ID, MAX_ROUTED};
use crate::model::{QuicConfig, QuicKey, ServerId};
use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use arrayvec::ArrayVec;

/// The config that a connection ID is of; `QUIC_CONFIGS`: of none.
#[inline(always)]
pub fn config_id(connection_id: &[u8]) -> Option<u8> {
    connection_id.first().map(|first| first >> 5)
}

/// Reads and makes the connection IDs of one config.
pub struct Codec {
    config: QuicConfig,
    cipher: Option<Aes128>,
    /// The bits of a half that are its own.
    left: Half,
    right: Half,
}

/// Half of a server ID and its nonce, and zeroes behind it. Of an odd number of bytes the middle one is split: its upper four bits are the
/// left half's last, its lower four the right half's first.
type Half = [u8; MAX_ROUTED.div_ceil(2)];

const BLOCK: usize = 16;

impl Codec {
    pub fn new(config: &QuicConfig) -> Codec {
        let cipher = config.key.map(|QuicKey(key)| Aes128::new(&key.into()));
        let mut codec = Codec { config: config.clone(), cipher, left: Half::default(), right: Half::default() };
        let (half, is_odd) = (codec.half(), !codec.routed().is_multiple_of(2));
        codec.left[..half].fill(0xff);
        codec.right[..half].fill(0xff);
        if is_odd {
            codec.left[half - 1] = 0xf0;
            codec.right[0] = 0x0f;
        }
        codec
    }

    pub fn config(&self) -> &QuicConfig {
        &self.config
    }

    /// The server ID in a connection ID of this config. `None`: it is too short.
    #[inline]
    pub fn server_id(&self, connection_id: &[u8]) -> Option<ServerId> {
        let routed = connection_id.get(1..1 + self.routed())?;
        let Some(cipher) = &self.cipher else { return ServerId::new(&routed[..self.server()]) };
        if let Ok(block) = <[u8; BLOCK]>::try_from(routed) {
            let mut block = block.into();
            cipher.decrypt_block(&mut block);
            return ServerId::new(&block[..self.server()]);
        }
        ServerId::new(&self.decrypt(cipher, routed)[..self.server()])
    }

    /// A connection ID whose first byte says how long it is. The nonce must be another each time, and without a key must look random.
    ///
    /// # Panics
    /// If the server ID or the nonce is not of the config's length.
    pub fn connection_id(&self, server: ServerId, nonce: &[u8]) -> ArrayVec<u8, MAX_CONNECTION_ID> {
        assert_eq!((server.length(), nonce.len()), (self.server(), self.config.nonce_length.into()), "lengths");
        let mut id = ArrayVec::new();
        id.push(self.config.id << 5 | self.routed() as u8);
        id.extend(server.number().to_le_bytes().into_iter().take(server.length()));
        id.extend(nonce.iter().copied());
        let Some(cipher) = &self.cipher else { return id };
        if let Ok(block) = <[u8; BLOCK]>::try_from(&id[1..]) {
            let mut block = block.into();
            cipher.encrypt_block(&mut block);
            id[1..].copy_from_slice(&block);
        } else {
            let encrypted = self.encrypt(cipher, &id[1..]);
            id[1..].copy_from_slice(&encrypted[..self.routed()]);
        }
        id
    }

    fn server(&self) -> usize {
        self.config.server_id_length.into()
    }

    /// Bytes of server ID and nonce.
    fn routed(&self) -> usize {
        usize::from(self.config.server_id_length) + usize::from(self.config.nonce_length)
    }

    /// Bytes of a half.
    fn half(&self) -> usize {
        self.routed().div_ceil(2)
    }

    /// Section 5.4.2: a Feistel network of four rounds.
    fn encrypt(&self, cipher: &Aes128, plaintext: &[u8]) -> [u8; MAX_ROUTED] {
        let (mut left, mut right) = self.split(plaintext);
        self.change(cipher, (&mut right, &self.right), 1, &left);
        self.change(cipher, (&mut left, &self.left), 2, &right);
        self.change(cipher, (&mut right, &self.right), 3, &left);
        self.change(cipher, (&mut left, &self.left), 4, &right);
        self.joined(&left, &right)
    }

    /// Section 5.5.2. Where the server ID is in the left half, the right one is not needed.
    fn decrypt(&self, cipher: &Aes128, ciphertext: &[u8]) -> [u8; MAX_ROUTED] {
        let (mut left, mut right) = self.split(ciphertext);
        self.change(cipher, (&mut left, &self.left), 4, &right);
        self.change(cipher, (&mut right, &self.right), 3, &left);
        self.change(cipher, (&mut left, &self.left), 2, &right);
        if self.config.server_id_length > self.config.nonce_length {
            self.change(cipher, (&mut right, &self.right), 1, &left);
        }
        self.joined(&left, &right)
    }

    fn split(&self, routed: &[u8]) -> (Half, Half) {
        let half = |bytes: &[u8], own: &Half| -> Half {
            std::array::from_fn(|at| bytes.get(at).map_or(0, |byte| byte & own[at]))
        };
        (half(routed, &self.left), half(&routed[routed.len() - self.half()..], &self.right))
    }

    fn joined(&self, left: &Half, right: &Half) -> [u8; MAX_ROUTED] {
        let (mut routed, half) = ([0; MAX_ROUTED], self.half());
        routed[..half].copy_from_slice(&left[..half]);
        routed[self.routed() - half..].iter_mut().zip(right).for_each(|(byte, of_right)| *byte |= of_right);
        routed
    }

    /// A round: `by`, encrypted, changes the other half's own bits.
    fn change(&self, cipher: &Aes128, (half, own): (&mut Half, &Half), pass: u8, by: &Half) {
        let mut block = [0; BLOCK];
        block[..by.len()].copy_from_slice(by);
        (block[BLOCK - 2], block[BLOCK - 1]) = (self.routed() as u8, pass);
        let mut block = block.into();
        cipher.encrypt_block(&mut block);
        half.iter_mut().zip(own).zip(&block).for_each(|((byte, own), with)| *byte = (*byte ^ with) & own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    fn codec(id: u8, server: &str, nonce: &str, key: &str) -> Codec {
        Codec::new(&QuicConfig {
            id,
            server_id_length: (server.len() / 2) as u8,
            nonce_length: (nonce.len() / 2) as u8,
            key: (!key.is_empty()).then(|| QuicKey(hex(key).try_into().unwrap())),
        })
    }

    /// Appendix B, and the example of section 5.4.2: config, server ID, nonce, key, connection ID. The appendix prints the second
    /// one's nonce without its first digit, and the last one as of config 3.
    const VECTORS: [(u8, &str, &str, &str, &str); 7] = [
        (0, "c4605e", "4504cc4f", "", "07c4605e4504cc4f"),
        (1, "350d28b420", "03487d970b", "", "2a350d28b42003487d970b"),
        (0, "ed793a", "ee080dbf", KEY, "0720b1d07b359d3c"),
        (1, "ed793a51d49b8f5fab65", "ee080dbf48", KEY, "2fcc381bc74cb4fbad2823a3d1f8fed2"),
        (2, "ed793a51d49b8f5f", "ee080dbf48c0d1e5", KEY, "504dd2d05a7b0de9b2b9907afb5ecf8cc3"),
        (0, "ed793a51d49b8f5fab", "ee080dbf48c0d1e55d", KEY, "125779c9cc86beb3a3a4a3ca96fce4bfe0cdbc"),
        (0, "31441a", "9c69c275", "fdf726a9893ec05c0632d3956680baf0", "0767947d29be054a"),
    ];
    const KEY: &str = "8f95f09245765f80256934e50c66207f";

    #[test]
    fn the_vectors_of_the_draft_are_made_and_read() {
        for (config, server, nonce, key, expected) in VECTORS {
            let codec = codec(config, server, nonce, key);
            let made = codec.connection_id(server.parse().unwrap(), &hex(nonce));
            assert_eq!(made[..], hex(expected), "{server}");
            assert_eq!(config_id(&made), Some(config));
            assert_eq!(codec.server_id(&made).unwrap().to_string(), server);
            let longer = [&made[..], &[0xaa; 3]].concat();
            assert_eq!(codec.server_id(&longer), codec.server_id(&made), "what follows is the server's own");
            assert!((0..made.len()).all(|length| codec.server_id(&made[..length]).is_none()), "too short");
        }
    }
}

//! Whose a QUIC connection is, by draft-ietf-quic-load-balancers-21: nibble by nibble.

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use oneip::model::{QuicConfig, Service};

/// The server that the connection ID of a datagram names, if it is not down.
pub fn server(service: &Service, down: &[String], datagram: &[u8]) -> Option<usize> {
    let id = if datagram.first()? / 128 == 1 {
        let length = *datagram.get(5)? as usize;
        datagram.get(6..6 + length)?
    } else {
        &datagram[1..]
    };
    let number = id.first()? / 32;
    let config = service.quic.iter().find(|config| config.id == number)?;
    let named = server_id(config, id)?;
    let has = |server: &oneip::model::Server| {
        server.quic_ids.iter().any(|id| id.to_string() == named) && !down.contains(&server.name)
    };
    service.servers.iter().position(has)
}

/// The server ID of a connection ID, in hex.
pub fn server_id(config: &QuicConfig, id: &[u8]) -> Option<String> {
    let (server, nonce) = (config.server_id_length as usize, config.nonce_length as usize);
    let routed = id.get(1..1 + server + nonce)?;
    let mut nibbles: Vec<u8> = routed.iter().flat_map(|byte| [byte / 16, byte % 16]).collect();
    if let Some(key) = config.key {
        let cipher = Aes128::new(&key.0.into());
        nibbles = if routed.len() == 16 { block(&cipher, &nibbles) } else { feistel(&cipher, &nibbles) };
    }
    Some(nibbles[..2 * server].iter().map(|nibble| format!("{nibble:x}")).collect())
}

fn block(cipher: &Aes128, nibbles: &[u8]) -> Vec<u8> {
    let bytes: Vec<u8> = nibbles.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect();
    let mut block = <[u8; 16]>::try_from(bytes).expect("16 bytes").into();
    cipher.decrypt_block(&mut block);
    block.iter().flat_map(|byte| [byte / 16, byte % 16]).collect()
}

/// Of `n` bytes, each half has `n` nibbles. Of an odd number, the right one's begin in the middle of a byte.
fn feistel(cipher: &Aes128, nibbles: &[u8]) -> Vec<u8> {
    let n = nibbles.len() / 2;
    let (mut left, mut right) = (nibbles[..n].to_vec(), nibbles[n..].to_vec());
    for pass in (1..=4).rev() {
        if pass % 2 == 0 {
            let with = encrypted(cipher, &[&vec![0; n % 2], &right[..]].concat(), n, pass);
            left.iter_mut().zip(with).for_each(|(nibble, with)| *nibble ^= with);
        } else {
            let with = encrypted(cipher, &left, n, pass);
            right.iter_mut().zip(with.into_iter().skip(n % 2)).for_each(|(nibble, with)| *nibble ^= with);
        }
    }
    [left, right].concat()
}

fn encrypted(cipher: &Aes128, half: &[u8], n: usize, pass: u8) -> Vec<u8> {
    let mut padded = half.to_vec();
    padded.resize(28, 0);
    padded.extend([n as u8 / 16, n as u8 % 16, 0, pass]);
    let bytes: Vec<u8> = padded.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect();
    let mut block = <[u8; 16]>::try_from(bytes).expect("16 bytes").into();
    cipher.encrypt_block(&mut block);
    block.iter().flat_map(|byte| [byte / 16, byte % 16]).collect()
}

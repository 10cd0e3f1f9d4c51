//! Any datagram: whose connection ID it has, by every length of the server ID and the nonce, encrypted or not, held against a decoder that goes
//! nibble by nibble.
#![no_main]

#[path = "../../model/quic.rs"]
#[allow(dead_code)]
mod quic;

use libfuzzer_sys::fuzz_target;
use oneip::model::{QuicConfig, QuicKey};
use oneip::wire::connection_id::{Codec, config_id};
use oneip::wire::quic::destination_id;

fuzz_target!(|input: &[u8]| {
    let Some(([server, nonce, keyed], datagram)) = input.split_first_chunk() else { return };
    let server_id_length = 1 + server % 15;
    let nonce_length = 4 + nonce % (16 - server_id_length);
    let key = (keyed % 2 == 1).then_some(QuicKey([*keyed; 16]));
    let Some(id) = destination_id(datagram) else { return };
    let Some(number) = config_id(id) else { return };
    let config = QuicConfig { id: number, server_id_length, nonce_length, key };
    let found = Codec::new(&config).server_id(id).map(|id| id.to_string());
    assert_eq!(found, quic::server_id(&config, id));
});

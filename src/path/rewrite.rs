//! The only bytes that a dispatcher changes.

use crate::table::PackedMac;

/// Sends the frame on to `server`: destination MAC = the server's, source MAC = the one the frame was received for, which
/// is ours. The rest of the frame stays as it is. `frame` holds an Ethernet header.
#[inline(always)]
pub fn to_server(frame: &mut [u8], server: PackedMac) {
    let Some(macs) = frame.first_chunk_mut::<12>() else {
        unreachable!("a frame without an Ethernet header is never forwarded")
    };
    let [a, b, c, d, e, f, ..] = *macs;
    let [g, h, i, j, k, l] = server.bytes();
    *macs = [g, h, i, j, k, l, a, b, c, d, e, f];
}

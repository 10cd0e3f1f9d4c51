//! The only bytes that a dispatcher changes.

use crate::table::PackedNextHop;

/// Sends the frame on to `next_hop`: destination MAC = that one's, source MAC = the one the frame was received for, which
/// is ours. The rest of the frame stays as it is. `frame` holds an Ethernet header.
#[inline(always)]
pub fn to_next_hop(frame: &mut [u8], next_hop: PackedNextHop) {
    let Some(macs) = frame.first_chunk_mut::<12>() else {
        unreachable!("a frame without an Ethernet header is never forwarded")
    };
    // Two stores instead of four: its six bytes with our first two behind them, then our last four.
    let ours = u64::from_le_bytes([macs[0], macs[1], macs[2], macs[3], macs[4], macs[5], 0, 0]);
    let [head, tail] = [next_hop.mac_word() | ours << 48, ours >> 16];
    macs[..8].copy_from_slice(&head.to_le_bytes());
    macs[8..].copy_from_slice(&(tail as u32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Mac, NextHop};

    #[test]
    fn only_the_macs_change() {
        let mut frame: Vec<u8> = (0..64).collect();
        let next_hop = NextHop::on_link(Mac([0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5]));
        to_next_hop(&mut frame, Some(next_hop).into());
        assert_eq!(frame[..6], [0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5]);
        assert_eq!(frame[6..12], [0, 1, 2, 3, 4, 5]);
        assert!(frame[12..].iter().enumerate().all(|(i, byte)| *byte == 12 + i as u8));
    }
}

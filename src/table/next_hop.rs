//! A next hop, compiled to the word that the data path copies.

use crate::model::NextHop;

/// The destination MAC in the low six bytes, above it the number of the egress, and in the uppermost bits whether frames are
/// forwarded at all, and whether more of them changes than MACs (`Table::way`). `UNRESOLVED` forwards nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedNextHop(u64);

const MAC: u64 = (1 << 48) - 1;
const EGRESS: u32 = 48;
const FORWARD: u64 = 1 << 63;
const HAS_WAY: u64 = 1 << 62;

impl PackedNextHop {
    pub const UNRESOLVED: PackedNextHop = PackedNextHop(0);

    /// Whether there is a next hop.
    #[inline(always)]
    pub fn is_forward(self) -> bool {
        self.0 & FORWARD != 0
    }

    /// Whether its packets get headers or another address.
    #[inline(always)]
    pub fn has_way(self) -> bool {
        self.0 & HAS_WAY != 0
    }

    pub(super) fn with_way(self) -> PackedNextHop {
        PackedNextHop(self.0 | HAS_WAY)
    }

    /// The destination MAC, little-endian, below two zero bytes.
    #[inline(always)]
    pub fn mac_word(self) -> u64 {
        self.0 & MAC
    }

    pub fn mac(self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.0.to_le_bytes();
        [a, b, c, d, e, f]
    }

    /// See `NextHop::egress`.
    pub fn egress(self) -> u8 {
        (self.0 >> EGRESS) as u8
    }
}

impl From<Option<NextHop>> for PackedNextHop {
    fn from(next_hop: Option<NextHop>) -> PackedNextHop {
        next_hop.map_or(PackedNextHop::UNRESOLVED, |NextHop { egress, destination, .. }| {
            let [a, b, c, d, e, f] = destination.0;
            PackedNextHop(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]) | u64::from(egress) << EGRESS | FORWARD)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mac;

    #[test]
    fn a_next_hop_is_unpacked_as_it_was_packed() {
        for egress in [0, 1, 255] {
            for mac in [[0; 6], [0xff; 6], [2, 0, 0, 0, 0, 0x81]] {
                let packed = PackedNextHop::from(Some(NextHop { egress, ..NextHop::on_link(Mac(mac)) }));
                let with_way = packed.with_way();
                assert!(!packed.has_way() && with_way.has_way());
                assert_eq!((with_way.is_forward(), with_way.mac(), with_way.egress()), (true, mac, egress));
                assert_eq!((packed.is_forward(), packed.mac(), packed.egress()), (true, mac, egress));
            }
        }
        assert!(!PackedNextHop::from(None).is_forward());
    }
}

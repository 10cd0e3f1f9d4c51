//! QUIC's headers, as far as all its versions have them (RFC 8999).

/// Of the first byte: the header is a long one.
const LONG: u8 = 0x80;

/// Behind it: the version.
const VERSION_LEN: usize = 4;

/// The destination connection ID of what a UDP datagram carries. A short header does not say how long it is: all that follows is lent.
/// `None`: cut off.
#[inline]
pub fn destination_id(datagram: &[u8]) -> Option<&[u8]> {
    let (first, rest) = datagram.split_first()?;
    if first & LONG == 0 {
        return Some(rest);
    }
    let (length, rest) = rest.get(VERSION_LEN..)?.split_first()?;
    rest.get(..*length as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_headers_have_one_and_what_is_cut_off_has_none() {
        let long = [0xc3, 0, 0, 0, 1, 4, 10, 11, 12, 13, 0];
        assert_eq!(destination_id(&long), Some(&[10, 11, 12, 13][..]));
        assert_eq!(destination_id(&long[..10]), Some(&[10, 11, 12, 13][..]));
        assert_eq!(destination_id(&[0x80, 9, 9, 9, 9, 0]), Some(&[][..]), "of any version, and empty");
        assert!((0..10).all(|cut| destination_id(&long[..cut]).is_none()));
        assert_eq!(destination_id(&[0x43, 10, 11, 12]), Some(&[10, 11, 12][..]));
        assert_eq!(destination_id(&[0x43]), Some(&[][..]));
        assert_eq!(destination_id(&[]), None);
    }
}

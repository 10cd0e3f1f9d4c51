//! A range of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The addresses whose first `length` bits are those of `address`, all of whose other bits are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Prefix {
    pub address: IpAddr,
    pub length: u8,
}

impl Prefix {
    /// Of one address.
    pub fn host(address: IpAddr) -> Prefix {
        Prefix { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Ones where its addresses agree.
    pub fn mask(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0)).into(),
            IpAddr::V6(_) => {
                Ipv6Addr::from_bits(u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0)).into()
            }
        }
    }

    pub fn is_host(&self) -> bool {
        *self == Prefix::host(self.address)
    }

    /// An address in it that a host may have: behind the one that stands for the network, if it has another.
    pub fn first_host(&self) -> IpAddr {
        match (self.address, self.is_host()) {
            (address, true) => address,
            (IpAddr::V4(address), _) if self.length < 31 => Ipv4Addr::from_bits(address.to_bits() + 1).into(),
            (IpAddr::V6(address), _) if self.length < 127 => Ipv6Addr::from_bits(address.to_bits() + 1).into(),
            (address, _) => address,
        }
    }

    /// Whether all of the other's addresses are in it.
    pub fn covers(&self, other: &Prefix) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// The same prefix of an address that may have bits behind it.
    pub fn first(&self) -> Prefix {
        let address = match (self.address, self.mask()) {
            (IpAddr::V4(address), IpAddr::V4(mask)) => (address & mask).into(),
            (IpAddr::V6(address), IpAddr::V6(mask)) => (address & mask).into(),
            _ => unreachable!("a mask is of its address's family"),
        };
        Prefix { address, length: self.length }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Prefix { address, ..*self }.first().address == self.address
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Prefix, String> {
        let (head, length) = text.split_once('/').map_or((text, None), |(head, length)| (head, Some(length)));
        let wanted = || "write an address or a prefix, like 198.51.100.0/24 or 2001:db8:2::/64".to_owned();
        let whole = Prefix::host(head.parse().map_err(|_| wanted())?);
        let Some(length) = length else { return Ok(whole) };
        let length = length.parse().ok().filter(|length| *length <= whole.length).ok_or_else(wanted)?;
        let prefix = Prefix { length, ..whole };
        match prefix.first() == prefix {
            true => Ok(prefix),
            false => Err(format!("{text} has host bits set; write {}", prefix.first())),
        }
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> String {
        prefix.to_string()
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Prefix, String> {
        text.parse()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_host() {
            true => write!(f, "{}", self.address),
            false => write!(f, "{}/{}", self.address, self.length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(address: &str, length: u8) -> Prefix {
        Prefix { address: address.parse().expect("an address"), length }
    }

    #[test]
    fn a_prefix_has_the_addresses_that_begin_alike_and_no_others() {
        for (address, length, has, lacks) in [
            ("192.0.2.0", 24, "192.0.2.255", "192.0.3.0"),
            ("192.0.2.2", 32, "192.0.2.2", "192.0.2.3"),
            ("0.0.0.0", 0, "203.0.113.9", "2001:db8::"),
            ("2001:db8:2::", 64, "2001:db8:2::ffff:1", "2001:db8:2:1::"),
            ("2001:db8::7", 128, "2001:db8::7", "2001:db8::6"),
            ("::", 0, "2001:db8::7", "0.0.0.0"),
        ] {
            let prefix = prefix(address, length);
            assert!(prefix.contains(has.parse().expect("an address")), "{prefix} {has}");
            assert!(!prefix.contains(lacks.parse().expect("an address")), "{prefix} {lacks}");
        }
        assert_eq!(prefix("192.0.2.77", 24).first(), prefix("192.0.2.0", 24));
        assert_eq!(prefix("2001:db8::7", 127).first().to_string(), "2001:db8::6/127");
        assert_eq!(prefix("192.0.2.77", 32).to_string(), "192.0.2.77");
    }
}

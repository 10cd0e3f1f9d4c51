//! Numbers of slots are prime: each server goes through all of them by its own step (`table::build::maglev`).

/// The first prime that is `n` or greater.
pub fn next_prime(n: u32) -> u32 {
    (n..).find(|n| is_prime(*n)).expect("a prime below 2^32 - 5")
}

/// By trial division: at most 4,096 steps up to `MAX_SLOTS`.
pub fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|d| *d <= n / d).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{DEFAULT_SLOTS, MAX_SLOTS};

    #[test]
    fn primes() {
        let small: Vec<u32> = (0..30).filter(|n| is_prime(*n)).collect();
        assert_eq!(small, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(DEFAULT_SLOTS) && is_prime(MAX_SLOTS));
        assert_eq!(next_prime(MAX_SLOTS + 1), (1 << 24) + 43, "so `MAX_SLOTS` is the largest below 2^24");
        assert_eq!(next_prime(90), 97);
    }
}

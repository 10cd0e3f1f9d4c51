//! Numbers as people read them.

use std::time::Duration;

/// Three digits and the SI prefix: `4.21 M`.
pub fn si(value: f64) -> String {
    let (mut value, mut prefixes) = (value, ["", " k", " M", " G", " T", " P"].into_iter());
    let mut prefix = prefixes.next().expect("six prefixes");
    // What would be shown as 1000 is shown as 1.00 of the next.
    while value >= 999.5
        && let Some(next) = prefixes.next()
    {
        value /= 1000.0;
        prefix = next;
    }
    let decimals = match value {
        _ if value == value.trunc() && prefix.is_empty() => 0,
        _ if value < 9.995 => 2,
        _ if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}{prefix}")
}

/// Exact as long as that is short.
pub fn count(value: u64) -> String {
    if value < 100_000 { value.to_string() } else { si(value as f64) }
}

/// `1.23 GB`
pub fn bytes(value: u64) -> String {
    with_unit(value as f64, "B")
}

/// `1.23 Gbit`, `12 bit`
pub fn with_unit(value: f64, unit: &str) -> String {
    let text = si(value);
    let space = if text.contains(' ') { "" } else { " " };
    format!("{text}{space}{unit}")
}

/// The two largest units: `3 d 4 h`.
pub fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match whole {
        0..10 => format!("{:.1} s", seconds.max(0.0)),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{minutes} min {} s", whole % 60),
        3600..86_400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A time as short as a health check's.
pub fn milliseconds(ms: f64) -> String {
    match ms {
        _ if ms < 10.0 => format!("{ms:.2} ms"),
        _ if ms < 100.0 => format!("{ms:.1} ms"),
        _ => format!("{ms:.0} ms"),
    }
}

pub fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// `2 s`, `0.5 s`
pub fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let shown =
            [0.0, 1.0, 7.5, 42.0, 42.42, 999.4, 999.9, 1000.0, 4213.0, 99_960.0, 123_456.0, 9.9999e6, 2e9, 3e18];
        let expected = [
            "0", "1", "7.50", "42", "42.4", "999", "1.00 k", "1.00 k", "4.21 k", "100 k", "123 k", "10.0 M", "2.00 G",
            "3000 P",
        ];
        assert_eq!(shown.map(si), expected);
        assert_eq!([0, 99_999, 100_000, 1_234_567].map(count), ["0", "99999", "100 k", "1.23 M"]);
        let bits = [0.0, 0.5, 999.0, 999.9, 3e8].map(|value| with_unit(value, "bit"));
        assert_eq!(bits, ["0 bit", "0.50 bit", "999 bit", "1.00 kbit", "300 Mbit"]);
        assert_eq!([0, 999, 1000, 5_000_000_000].map(bytes), ["0 B", "999 B", "1.00 kB", "5.00 GB"]);
    }

    #[test]
    fn spans_have_their_two_largest_units() {
        let shown = [-1.0, 0.0, 0.26, 9.99, 10.0, 59.9, 60.0, 3599.0, 3600.0, 90_000.0, 8.64e6];
        let expected = [
            "0.0 s",
            "0.0 s",
            "0.3 s",
            "10.0 s",
            "10 s",
            "59 s",
            "1 min 0 s",
            "59 min 59 s",
            "1 h 0 min",
            "1 d 1 h",
            "100 d 0 h",
        ];
        assert_eq!(shown.map(span), expected);
        assert_eq!([0.042, 9.5, 42.0, 512.3].map(milliseconds), ["0.04 ms", "9.50 ms", "42.0 ms", "512 ms"]);
    }
}

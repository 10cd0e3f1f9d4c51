//! `oneip ctl denied`: what is denied, and by which lists.

use crate::admin::order::{Denial, Denied, ListStatus};
use std::fmt::Write;

/// A time as operators write it: `90`, `90s`, `10m`, `2h`, `1d`. In seconds.
///
/// # Errors
/// It is none; in words.
pub fn time(text: &str) -> Result<u64, String> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let split = |(unit, seconds): &(char, u64)| Some((text.strip_suffix(*unit)?, *seconds));
    let (number, unit) = units.iter().find_map(split).unwrap_or((text, 1));
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|seconds| *seconds > 0);
    seconds.ok_or_else(|| "write a time of 1 s or more, like 90, 90s, 10m, 2h or 1d".to_owned())
}

/// Orders first, then the configuration's lists.
pub fn text(Denied { denied, lists }: &Denied) -> String {
    let mut text = String::new();
    for Denial { prefix, service, left_s } in denied {
        let service = service.as_ref().map_or(String::new(), |service| format!(" of service {service}"));
        let time = left_s.map_or("until `ctl undeny`".to_owned(), |left| format!("for {left} s more"));
        let _ = writeln!(text, "{prefix}{service}: denied {time}");
    }
    if denied.is_empty() {
        let _ = writeln!(text, "no prefix is denied by ctl");
    }
    for ListStatus { kind, services, prefixes, files, wrong } in lists {
        let title = match kind.as_str() {
            "allow" => "[[allow]]",
            "count" => "[[deny]] that only counts",
            _ => "[[deny]]",
        };
        let services = if services.is_empty() { "every service".to_owned() } else { services.join(", ") };
        let _ = write!(text, "{title} of {services}: {prefixes} prefixes");
        files.iter().for_each(|file| _ = write!(text, ", {}", file.display()));
        let _ = writeln!(text);
        wrong.iter().flat_map(|wrong| wrong.lines()).for_each(|wrong| _ = writeln!(text, "  NOT IN USE: {wrong}"));
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_numbers_with_units() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86_400)] {
            assert_eq!(time(text), Ok(seconds), "{text}");
        }
        for text in ["", "0", "m", "-1", "10 m", "ten", "99999999999999999999d", "1mm"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_denied_is_shown_in_lines() {
        let denied = Denied {
            denied: vec![
                Denial { prefix: "198.51.100.0/24".parse().expect("a prefix"), service: None, left_s: Some(540) },
                Denial { prefix: "2001:db8::7".parse().expect("a prefix"), service: Some("web".into()), left_s: None },
            ],
            lists: vec![ListStatus {
                kind: "count".into(),
                services: Vec::new(),
                prefixes: 3,
                files: vec!["/etc/oneip/deny.txt".into()],
                wrong: vec!["/etc/oneip/deny.txt:4:1: what".into()],
            }],
        };
        let expected = "\
198.51.100.0/24: denied for 540 s more
2001:db8::7 of service web: denied until `ctl undeny`
[[deny]] that only counts of every service: 3 prefixes, /etc/oneip/deny.txt
  NOT IN USE: /etc/oneip/deny.txt:4:1: what";
        assert_eq!(text(&denied), expected);
    }
}

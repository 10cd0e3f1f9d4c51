//! What a member finds of the servers of a service, as a text: a letter for each, in the order of their names, with a number behind it
//! where several that follow one another have the same. `u998d-u` is up 998 times, down, not checked, up.

use super::vote::Finding;
use crate::limits::MAX_SERVERS;
use std::fmt::Write;

fn letter(finding: Option<Finding>) -> char {
    match finding {
        None => '-',
        Some(Finding::Down) => 'd',
        Some(Finding::Held) => 'h',
        Some(Finding::Up) => 'u',
    }
}

pub fn write(findings: impl IntoIterator<Item = Option<Finding>>) -> String {
    let mut text = String::new();
    let mut findings = findings.into_iter().peekable();
    while let Some(finding) = findings.next() {
        let mut count = 1;
        while findings.next_if_eq(&finding).is_some() {
            count += 1;
        }
        text.push(letter(finding));
        if count > 1 {
            let _ = write!(text, "{count}");
        }
    }
    text
}

/// # Errors
/// It is no such text, or of more servers than a service may have; in words.
pub fn read(text: &str) -> Result<Vec<Option<Finding>>, String> {
    let mut findings = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        let finding = match letter {
            '-' => None,
            'd' => Some(Finding::Down),
            'h' => Some(Finding::Held),
            'u' => Some(Finding::Up),
            _ => return Err(format!("{letter:?} is not a finding; there are u, h, d and -")),
        };
        let mut count = 0;
        while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
            rest.next();
            count = 10 * count + digit as usize;
            if count == 0 || count > MAX_SERVERS {
                return Err(format!("a run of findings is of 1 to {MAX_SERVERS} servers"));
            }
        }
        findings.resize(findings.len() + count.max(1), finding);
        if findings.len() > MAX_SERVERS {
            return Err(format!("it has findings of more than {MAX_SERVERS} servers of a service"));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;

    proptest! {
        #[test]
        fn it_is_read_as_it_was_written(
            runs in prop::collection::vec((select(&[None, Some(Finding::Down), Some(Finding::Held), Some(Finding::Up)][..]), 1usize..80), 0..12),
        ) {
            let findings: Vec<_> = runs.iter().flat_map(|(finding, count)| vec![*finding; *count]).collect();
            prop_assert_eq!(read(&write(findings.iter().copied())), Ok(findings));
        }

        #[test]
        fn nothing_else_stops_anybody(text in "[-udh0-9 x]{0,24}") {
            if let Ok(findings) = read(&text) {
                prop_assert!(findings.len() <= MAX_SERVERS);
                prop_assert_eq!(read(&write(findings.clone())), Ok(findings));
            }
        }
    }

    #[test]
    fn it_is_short_and_what_is_wrong_is_said() {
        let (up, down) = (Some(Finding::Up), Some(Finding::Down));
        assert_eq!(write([vec![up; 998], vec![down, None, up]].concat()), "u998d-u");
        for (wrong, said) in [
            ("ux", "'x' is not a finding; there are u, h, d and -"),
            ("3u", "'3' is not a finding"),
            ("u0", "a run of findings is of 1 to 1024 servers"),
            ("u99999999999999999999", "a run of findings is of 1 to 1024 servers"),
            ("u1024d", "it has findings of more than 1024 servers of a service"),
        ] {
            let error = read(wrong).expect_err(wrong);
            assert!(error.starts_with(said), "{wrong}: {error}");
        }
    }
}

//! Names in a sentence.

use crate::limits::NAMES_TOLD;

/// The first of them, and how many more there are.
pub fn first<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> String {
    let mut names = names.into_iter();
    let mut said = String::new();
    for (at, name) in names.by_ref().take(NAMES_TOLD).enumerate() {
        said += if at == 0 { "" } else { ", " };
        said += name.as_ref();
    }
    let more = names.count();
    if more > 0 {
        said += &format!(" and {more} more");
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dozen_is_named_and_the_rest_is_counted() {
        let names: Vec<String> = (1..=14).map(|n| format!("s{n}")).collect();
        let of = |count| first(&names[..count]);
        assert_eq!((of(0).as_str(), of(2).as_str()), ("", "s1, s2"));
        assert_eq!(of(12), "s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12");
        assert_eq!(of(14), of(12) + " and 2 more");
    }
}

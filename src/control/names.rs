//! Names in a sentence.

use crate::limits::NAMES_TOLD;

/// The first of them, and how many more there are.
pub fn first<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let mut names = names.into_iter();
    let mut said = names.by_ref().take(NAMES_TOLD).collect::<Vec<_>>().join(", ");
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
        let of = |count| first(names.iter().take(count).map(String::as_str));
        assert_eq!((of(0).as_str(), of(2).as_str()), ("", "s1, s2"));
        assert_eq!(of(12), "s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12");
        assert_eq!(of(14), of(12) + " and 2 more");
    }
}

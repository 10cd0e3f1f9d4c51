//! Each reason to drop a frame is in docs/metrics.md, and no other.

use crate::page::{read, rows, section, spans};
use oneip::verdict::Reason;

#[test]
fn every_reason_is_documented_with_what_to_do() {
    let rows = rows(&section(&read("docs/metrics.md"), "Drop reasons"));
    let documented: Vec<String> = rows.iter().flat_map(|row| spans(&row[0])).collect();
    assert_eq!(documented, Reason::ALL.map(Reason::name), "in the order of `Reason::ALL`");
    for row in rows {
        assert!(row.len() == 3 && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}

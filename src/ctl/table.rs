//! Tables without lines, as elsewhere.

use comfy_table::{CellAlignment, Table, presets};
use std::ops::Range;

/// With titles, and the columns of `right` aligned there. The first column begins where its text does.
pub fn new<const N: usize>(titles: [&str; N], right: Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(titles);
    for at in right {
        table.column_mut(at).expect("a column has a title").set_cell_alignment(CellAlignment::Right);
    }
    table.column_mut(0).expect("a column has a title").set_padding((0, 1));
    table
}

//! What servers are called in flow tables.

use crate::table::flow_table::MAX_IDENT;
use std::collections::HashSet;

/// Names servers in flow tables: by numbers from 1 to `MAX_IDENT`, in turn, so that none is used again before 16 million servers have
/// come after it; what a flow table says of a change that is over counts no more, whoever it names.
#[derive(Clone, Default)]
pub struct Idents {
    last: u32,
    in_use: HashSet<u32>,
}

impl Idents {
    /// Draws none of these from now on.
    pub fn keep(&mut self, in_use: impl Iterator<Item = u32>) {
        self.in_use = in_use.collect();
    }

    pub fn draw(&mut self) -> u32 {
        loop {
            self.last = self.last % MAX_IDENT + 1;
            if !self.in_use.contains(&self.last) {
                return self.last;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idents_come_again_in_turn_but_for_those_in_use() {
        let mut idents = Idents { last: MAX_IDENT - 2, in_use: HashSet::new() };
        idents.keep([MAX_IDENT, 1, 3].into_iter());
        assert_eq!([(); 3].map(|()| idents.draw()), [MAX_IDENT - 1, 2, 4]);
    }
}

//! Which trouble comes next: each kind once before any comes again, in an order that the seed gives.

use fastrand::Rng;

pub struct Deck {
    kinds: u8,
    left: Vec<u8>,
    dealt: usize,
}

impl Deck {
    /// Kinds of trouble from 0; one that has several numbers comes as often.
    pub fn of(kinds: u8) -> Deck {
        Deck { kinds, left: Vec::new(), dealt: 0 }
    }

    pub fn deal(&mut self, draw: &mut Rng) -> u8 {
        if self.left.is_empty() {
            self.left = (0..self.kinds).collect();
            draw.shuffle(&mut self.left);
        }
        self.dealt += 1;
        self.left.pop().expect("there are kinds")
    }

    /// Whether each kind has come.
    pub fn is_through(&self) -> bool {
        self.dealt >= usize::from(self.kinds)
    }
}

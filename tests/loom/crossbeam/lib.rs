//! What our sources use of crossbeam, whose own inside is not what is tried here: each call is one step.

pub mod queue {
    use loom::sync::Mutex;
    use std::collections::VecDeque;

    pub struct ArrayQueue<T> {
        room: usize,
        held: Mutex<VecDeque<T>>,
    }

    impl<T> ArrayQueue<T> {
        pub fn new(room: usize) -> ArrayQueue<T> {
            ArrayQueue { room, held: Mutex::new(VecDeque::new()) }
        }

        pub fn push(&self, value: T) -> Result<(), T> {
            let mut held = self.held.lock().expect("nobody panics");
            if held.len() == self.room {
                return Err(value);
            }
            held.push_back(value);
            Ok(())
        }

        pub fn pop(&self) -> Option<T> {
            self.held.lock().expect("nobody panics").pop_front()
        }

        pub fn is_empty(&self) -> bool {
            self.held.lock().expect("nobody panics").is_empty()
        }
    }
}

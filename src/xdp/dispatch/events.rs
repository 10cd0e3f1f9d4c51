//! What became of the frames that an operator watches, as the program notes it.

use aya::maps::{MapData, MapError, RingBuf};
use std::sync::Arc;

use super::tables::Tables;
use crate::table::Table;
use crate::table::trace::{Fate, Seen, Watch};
use crate::verdict::Reason;
use crate::xdp::XdpError;

/// `struct seen` of src/bpf/watch.h
const BYTES: usize = 32;

const NO_SERVICE: u16 = u16::MAX;

/// Moves what the program notes to the watch that is in its table.
pub struct Reader {
    events: Option<Events>,
    /// How many frames found no room, when that was looked at last.
    unseen: u64,
    decided: Option<Decided>,
}

/// By what the frames are decided that are noted.
struct Decided {
    watch: Arc<Watch>,
    layout: u64,
    /// The destination of its first server, by service.
    bases: Box<[u32]>,
}

impl Reader {
    /// Of what these tables' program notes: the first that asks gets it.
    ///
    /// # Errors
    ///
    /// The kernel has no room for it in the address space.
    pub fn new(tables: &mut Tables) -> Result<Reader, XdpError> {
        Ok(Reader { events: tables.events()?, unseen: tables.unseen(), decided: None })
    }

    /// What is noted from here on is decided by this table. What was noted before must have been read.
    pub fn follow(&mut self, table: &Table) {
        let bases = || (0..table.services() as u16).map(|service| table.service(service).base()).collect();
        self.decided = table.watch.as_ref().map(|watch| Decided {
            watch: Arc::clone(watch),
            layout: table.layout,
            bases: bases(),
        });
    }

    /// Puts what was noted into the watch.
    pub fn read(&mut self, tables: &Tables) {
        let Reader { events: Some(events), unseen, decided: Some(decided) } = self else { return };
        let watch = &decided.watch;
        while let Some(item) = events.0.next() {
            let (event, frame) = item.split_first_chunk().expect("the program writes so many bytes");
            match watch.room() {
                Some(mut note) => {
                    note.copy(frame);
                    watch.put(note, decided.seen(event));
                }
                None => watch.lose(1),
            }
        }
        let before = std::mem::replace(unseen, tables.unseen());
        watch.lose(unseen.saturating_sub(before));
    }
}

impl Decided {
    fn seen(&self, event: &[u8; BYTES]) -> Seen {
        let word = |at: usize| u32::from_ne_bytes(*event[at..].first_chunk().expect("within it"));
        let [service, high] = [word(20) as u16, (word(20) >> 16) as u16];
        let [verdict, protocol] = high.to_le_bytes();
        let fate = match verdict as usize {
            0 => Fate::Pass,
            reason if reason <= Reason::COUNT => Fate::Drop(Reason::ALL[reason - 1].name()),
            _ => {
                let base = self.bases.get(service as usize).copied().unwrap_or(0);
                Fate::Forward(service, word(16).wrapping_sub(base) as u16)
            }
        };
        Seen {
            at: u64::from(word(0)) | u64::from(word(4)) << 32,
            worker: word(8) as usize,
            bytes: word(12),
            protocol,
            is_sent: event[30] != 0,
            layout: self.layout,
            service: (matches!(fate, Fate::Drop(_)) && service != NO_SERVICE).then_some(service),
            fate,
        }
    }
}

/// Frames that were noted, oldest first.
pub(super) struct Events(RingBuf<MapData>);

impl Events {
    pub fn new(map: MapData) -> Result<Events, MapError> {
        RingBuf::try_from(aya::maps::Map::RingBuf(map)).map(Events)
    }
}

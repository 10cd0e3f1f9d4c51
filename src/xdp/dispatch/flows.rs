//! The flow tables of the receive queues, in memory that the program shares.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use aya::maps::MapData;

use super::tables::Sizes;
use crate::hash::Key;
use crate::table::flow_table::{Bucket, FlowMemory, FlowTable, syn_buckets};
use crate::xdp::error::XdpError;
use crate::xdp::memory::Memory;

/// `struct flow_report` of src/bpf/flow_table.h, in words.
pub const REPORT_WORDS: usize = 8;

/// In the first queue's.
const KEY: usize = 4;

/// Of all queues.
#[derive(Clone)]
pub struct Flows {
    pub(super) tables: Arc<Memory>,
    pub(super) reports: Arc<Memory>,
    pub(super) queues: usize,
    /// Of flows, of each queue.
    pub(super) buckets: usize,
}

/// Of one.
struct OfQueue {
    flows: Flows,
    queue: usize,
}

impl Flows {
    pub fn queues(&self) -> usize {
        self.queues
    }

    /// The flow table of a queue. While frames of the queue are decided by the program, it is to be read only: for the census and
    /// the report.
    ///
    /// # Panics
    /// There is no such queue.
    pub fn of_queue(&self, queue: usize) -> FlowTable {
        assert!(queue < self.queues);
        FlowTable::over(Box::new(OfQueue { flows: self.clone(), queue }), self.key())
    }

    /// What flows are hashed with: the first cluster key's, through every change of that, or flows would not be found any more.
    pub(super) fn key(&self) -> Key {
        Key::from_state(std::array::from_fn(|at| self.reports.read(KEY + at)))
    }

    /// Where nothing was remembered yet.
    pub(super) fn begin(&self, key: Key) {
        if self.key().state() == [0; 4] {
            self.reports.write(KEY, &key.state());
        }
    }
}

impl FlowMemory for OfQueue {
    fn buckets(&self) -> &[Bucket] {
        let all = self.flows.buckets + syn_buckets(self.flows.buckets);
        self.flows.tables.buckets(self.queue * all, all)
    }

    fn flow_buckets(&self) -> usize {
        self.flows.buckets
    }

    fn report(&self) -> &[AtomicU64; 4] {
        self.flows.reports.words()[self.queue * REPORT_WORDS..].first_chunk().expect("a report has more words")
    }
}

/// What flow tables and their reports are called in a folder on a BPF file system.
const NAMES: [&str; 2] = ["flows", "flow-reports"];

/// Removes the flow tables in a folder, and the folder if nothing else is in it. Their memory lasts as long as a program has it.
///
/// # Errors
///
/// They cannot be removed.
pub fn forget_flows(folder: &Path) -> Result<(), XdpError> {
    for path in NAMES.map(|name| folder.join(name)) {
        remove(&path)?;
    }
    // Another process's pins may be there.
    let _ = fs::remove_dir(folder);
    Ok(())
}

fn remove(path: &Path) -> Result<(), XdpError> {
    match fs::remove_file(path) {
        Err(reason) if reason.kind() != io::ErrorKind::NotFound => Err(XdpError::Facts { path: path.into(), reason }),
        _ => Ok(()),
    }
}

/// The files of flow tables and their reports in a folder on a BPF file system. What does not have these sizes is removed
/// there: the memory lasts as long as a program has it.
pub fn pins(folder: &Path, sizes: &Sizes) -> Result<[PathBuf; 2], XdpError> {
    let [flows, reports] = NAMES.map(|name| folder.join(name));
    let pins = [(flows, sizes.flows()), (reports, sizes.queues())];
    let fits = |(path, entries): &(PathBuf, u32)| {
        let map = MapData::from_pin(path).ok()?;
        map.info().ok().filter(|info| info.max_entries() == *entries)
    };
    let fit = pins.iter().all(|pin| fits(pin).is_some());
    for (path, _) in pins.iter().filter(|_| !fit) {
        remove(path)?;
    }
    Ok(pins.map(|(path, _)| path))
}

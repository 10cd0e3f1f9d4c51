//! What the two programs in the kernel have in common: how they are told which frames there are.

use super::error::PktgenError;
use super::frames::{Frames, Words};
use crate::limits::PKTGEN_FRAME;
use crate::xdp::{load, with_causes};
use aya::maps::{Array, MapData, MapError};
use aya::{Ebpf, EbpfLoader};

/// A program of this name, alone in its object, with its constants.
pub struct Program {
    pub name: &'static str,
    pub object: &'static [u8],
    /// Besides those of the frames; of 64 bits.
    pub constants: &'static [&'static str],
    /// Maps with so many entries for each sender.
    pub by_sender: &'static [(&'static str, u32)],
}

impl Program {
    /// Loads it, and gives it the templates of `frames`, at which so many senders take turns. `values` are of `constants`.
    pub fn load(&self, frames: &Frames, senders: u64, values: &[u64]) -> Result<Ebpf, PktgenError> {
        let (run, clients, seed, in_order) =
            (frames.run(), frames.clients(), frames.seed(), u8::from(frames.in_order()));
        let templates: Vec<Words> = frames.words().collect();
        let count = templates.len() as u32;
        let mut loader = EbpfLoader::new();
        loader
            .override_global("run_id", &run, true)
            .override_global("template_count", &count, true)
            .override_global("clients", &clients, true)
            .override_global("seed", &seed, true)
            .override_global("in_order", &in_order, true)
            .override_global("sender_count", &senders, true)
            .map_max_entries("templates", count);
        for (name, value) in self.constants.iter().zip(values) {
            loader.override_global(name, value, true);
        }
        for (map, entries) in self.by_sender {
            loader.map_max_entries(map, entries * senders as u32);
        }
        let failed = |reason| PktgenError::Load { program: self.name, reason };
        let mut program = loader.load(self.object).map_err(|error| failed(with_causes(&error)))?;
        load(&mut program, self.name).map_err(failed)?;
        let map = |program: &mut Ebpf, name| program.take_map(name).expect("the program has this map");
        let mut table: Array<MapData, Words> =
            Array::try_from(map(&mut program, "templates")).map_err(inaccessible("templates"))?;
        for (at, template) in (0..).zip(&templates) {
            table.set(at, template, 0).map_err(inaccessible("templates"))?;
        }
        let mut filler: Array<MapData, [u64; PKTGEN_FRAME / 8]> =
            Array::try_from(map(&mut program, "filler")).map_err(inaccessible("filler"))?;
        filler.set(0, Frames::filler(), 0).map_err(inaccessible("filler"))?;
        Ok(program)
    }
}

pub fn inaccessible(map: &'static str) -> impl Fn(MapError) -> PktgenError {
    move |error| PktgenError::Map { map, reason: with_causes(&error) }
}

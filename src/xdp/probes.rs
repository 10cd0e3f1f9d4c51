//! The program `src/bpf/probe.bpf.c`, by which probes leave as clients' packets do: through a tunnel, or to another address. It is where
//! packets leave an interface (tc egress), and goes with this process.

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData};
use aya::programs::tc::{SchedClassifierLinkId, TcAttachType, qdisc_add_clsact, qdisc_detach_program};
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use rustix::io::Errno;

use super::attach::uninterrupted;
use super::cell::Words;
use super::error::{os_error, with_causes};
use super::way::WayCell;
use crate::limits::HEALTH_PATHS;
use crate::model::Tags;
use crate::table::Way;
use crate::wire::tunnel::MAX_HEADER_LEN;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probe.bpf.o"));

const PROGRAM: &str = "oneip_probe";
const PROBES: &str = "probes";

/// include/uapi/linux/pkt_cls.h
const TC_ACT_SHOT: u32 = 2;

/// `struct probe`: a `WayCell`, and what has left by it.
type Probe = [u64; WAY + 1];

const WAY: usize = size_of::<WayCell>() / 8;

/// Why probes cannot go through tunnels.
#[derive(Debug, thiserror::Error)]
pub enum ProbesError {
    #[error("cannot load a program for it: {reason}")]
    Load { reason: String },
    #[error("cannot attach a program to what leaves {interface}: {reason}")]
    Attach { interface: String, reason: String },
    #[error("cannot access the map of the program for it: {reason}")]
    Map { reason: String },
    #[error("the kernel does not run the program on this frame: {reason}")]
    Judge { reason: String },
}

/// The loaded program. Dropped, it leaves the interfaces.
pub struct Probes {
    object: Ebpf,
    probes: HashMap<MapData, u32, Probe>,
    /// By interface.
    links: BTreeMap<String, SchedClassifierLinkId>,
}

impl Probes {
    /// Needs `CAP_BPF` and `CAP_NET_ADMIN`; afterwards the latter is enough.
    ///
    /// # Errors
    ///
    /// The kernel refuses it, for want of privileges or features.
    pub fn load() -> Result<Probes, ProbesError> {
        let refused = |error: &(dyn std::error::Error + 'static)| ProbesError::Load { reason: with_causes(error) };
        let most = 2 * HEALTH_PATHS as u32;
        let mut object =
            EbpfLoader::new().map_max_entries(PROBES, most).load(OBJECT).map_err(|error| refused(&error))?;
        let program = program(&mut object);
        uninterrupted(|| program.load(), |error| os_error(error) == Some(Errno::AGAIN)).map_err(|error| {
            if let ProgramError::LoadError { verifier_log, .. } = &error {
                tracing::debug!(program = PROGRAM, %verifier_log, "the program was refused");
            }
            let reason = match error {
                ProgramError::LoadError { io_error, .. } => io_error.to_string(),
                error => with_causes(&error),
            };
            ProbesError::Load { reason }
        })?;
        let map = object.take_map(PROBES).expect("the program has this map");
        let probes = HashMap::try_from(map).map_err(|error| ProbesError::Map { reason: with_causes(&error) })?;
        Ok(Probes { object, probes, links: BTreeMap::new() })
    }

    /// Has the program see what leaves an interface, if it does not yet.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn attach(&mut self, interface: &str) -> Result<(), ProbesError> {
        if self.links.contains_key(interface) {
            return Ok(());
        }
        // Later kernels hold it by a link, which ends with its process. On these it is a filter of a queueing discipline.
        if KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(6, 6, 0)) {
            // It is there already, or attaching fails. A filter may be there that a process which was killed has left.
            _ = qdisc_add_clsact(interface);
            _ = qdisc_detach_program(interface, TcAttachType::Egress, PROGRAM);
        }
        let link = program(&mut self.object)
            .attach(interface, TcAttachType::Egress)
            .map_err(|error| ProbesError::Attach { interface: interface.to_owned(), reason: with_causes(&error) })?;
        self.links.insert(interface.to_owned(), link);
        Ok(())
    }

    /// Attaches it anew where somebody has taken it off.
    ///
    /// # Errors
    ///
    /// As `attach`.
    pub fn attach_again(&mut self, interface: &str) -> Result<(), ProbesError> {
        if let Some(link) = self.links.remove(interface) {
            _ = program(&mut self.object).detach(link);
        }
        self.attach(interface)
    }

    /// How probes leave that have the key in their mark, from now on. `None`: as they are.
    ///
    /// # Errors
    ///
    /// The kernel has no memory for it.
    pub fn set(&mut self, key: u32, way: Option<&Way>) -> Result<(), ProbesError> {
        let Some(way) = way else {
            // There need not be one.
            _ = self.probes.remove(&key);
            return Ok(());
        };
        let mut probe = [0; WAY + 1];
        probe[..WAY].copy_from_slice(WayCell::new(way, Tags::AsReceived, 0).words());
        probe[WAY] = self.sent(key);
        self.probes.insert(key, probe, 0).map_err(|error| ProbesError::Map { reason: with_causes(&error) })
    }

    /// What becomes of a packet with this mark, in a frame, on its way out. By `BPF_PROG_TEST_RUN`: it goes nowhere. `None`: it is dropped.
    ///
    /// # Errors
    ///
    /// The kernel refuses to run it: too short or too long a frame, or no privileges.
    pub fn judge(&mut self, mark: u32, frame: &[u8]) -> Result<Option<Vec<u8>>, ProbesError> {
        // `struct __sk_buff`, include/uapi/linux/bpf.h: `len`, `pkt_type`, `mark`.
        let packet: Vec<u8> = [0, 0, mark].into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut out = vec![0; frame.len() + MAX_HEADER_LEN];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&packet),
            ..TestRunOptions::new()
        };
        let result = program(&mut self.object).test_run(options);
        let result = result.map_err(|error| ProbesError::Judge { reason: with_causes(&error) })?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value != TC_ACT_SHOT).then_some(out))
    }

    /// Packets that have left so.
    pub fn sent(&self, key: u32) -> u64 {
        self.probes.get(&key, 0).map_or(0, |probe| probe[WAY])
    }
}

fn program(object: &mut Ebpf) -> &mut SchedClassifier {
    object.program_mut(PROGRAM).expect("the object has this program").try_into().expect("it is one of this kind")
}

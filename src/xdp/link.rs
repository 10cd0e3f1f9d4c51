//! A program on its interface, kept there when its process is gone: the link between the two is pinned. It holds the program, and the
//! program its maps, so frames go on to be decided by the last table. The next process puts its own program, with its own table, into
//! the same link: the kernel exchanges one pointer (net/core/dev.c, bpf_xdp_link_update).

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{Xdp, XdpMode};
use rustix::io::Errno;

use super::attach::{Mode, is_taken};
use super::error::{os_error, with_causes};
use super::when_released;
use crate::model;

/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h.
const BPF_FS: u64 = 0xcafe_4a11;

const MODES: [Mode; 2] = [Mode::Native, Mode::Generic];

/// The pin of the map by which programs hand on what they have learned.
const MEMORY: &str = "memory";

/// What is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Filter,
    Decap,
    Dispatcher,
}

impl Kept {
    /// What its pins' names begin with.
    fn prefix(self) -> &'static str {
        match self {
            Kept::Filter => "",
            Kept::Decap => "decap-",
            Kept::Dispatcher => "dispatch-",
        }
    }

    fn section(self) -> &'static str {
        match self {
            Kept::Filter => "filter",
            Kept::Decap => "decap",
            Kept::Dispatcher => "dispatcher",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Kept::Filter => "filter",
            Kept::Decap => "decap",
            Kept::Dispatcher => "run",
        }
    }

    /// In src/bpf.
    pub(super) fn program(self) -> &'static str {
        match self {
            Kept::Filter => "filter",
            Kept::Decap => "decap",
            Kept::Dispatcher => "oneip_dispatch",
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.section())
    }
}

/// Where a program is attached and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub kept: Kept,
    pub interface: String,
    pub index: u32,
    /// A folder on a BPF file system.
    pub pins: PathBuf,
}

/// How a program came to its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub mode: Mode,
    /// In the place of an earlier process's.
    pub taken_over: bool,
    /// It stays when this process is gone.
    pub stays: bool,
}

/// Why a program is not on its interface, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("there is no BPF file system at {}: mount -t bpf bpf /sys/fs/bpf", path.display())]
    NoBpfFileSystem { path: PathBuf },

    #[error("cannot keep the {kept} at {}: {reason}", path.display())]
    Pin { kept: Kept, path: PathBuf, reason: String },

    #[error(
        "another XDP program is attached to {interface} (ip link show {interface} shows it): stop its owner, or detach \
         it: oneip filter, decap or run -c FILE --detach, if it is oneip's with other `pins`; ip link set dev \
         {interface} xdp off, if no program holds it"
    )]
    ProgramAttached { interface: String },

    #[error("cannot attach the {kept}'s program to {interface}, neither in the driver nor in the kernel: {reason}")]
    Attach { kept: Kept, interface: String, reason: String },

    #[error(
        "the driver of {interface} does not take the {kept}'s program: {reason}; leave `xdp` in [{kept}] out, or write \"generic\""
    )]
    NoNative { kept: Kept, interface: String, reason: String },

    #[error("cannot take over the {kept} on {interface}: {reason} (to remove it: rm {})", path.display())]
    TakeOver { kept: Kept, interface: String, path: PathBuf, reason: String },
}

/// Attaches a loaded program, in the place of one that an earlier process left there. `xdp` says where it runs; `None`: in the driver
/// where it can, if `in_driver`.
///
/// # Errors
/// There is no BPF file system at the path, another XDP program is attached, or the kernel refuses.
pub fn attach(
    program: &mut Xdp,
    place: &Place,
    (xdp, in_driver): (Option<model::Xdp>, bool),
) -> Result<(XdpLink, Attachment), LinkError> {
    let Place { kept, interface, .. } = place;
    let folder = folder(place)?;
    for mode in MODES {
        let path = folder.join(pin(place, mode)?);
        if path.exists()
            && let Some(link) = take_over(program, place, &path)?
        {
            if xdp.is_some_and(|xdp| (xdp == model::Xdp::Native) != (mode == Mode::Native)) {
                tracing::warn!(
                    "the {kept} on {interface} stays in the mode in which it was left, {mode}; to apply `xdp` of \
                     [{kept}], stop it, detach it (oneip {} --detach), and start it again",
                    kept.verb()
                );
            }
            return Ok((link, Attachment { mode, taken_over: true, stays: true }));
        }
    }
    let (link, mode) = attach_anew(program, place, (xdp, in_driver))?;
    let path = folder.join(pin(place, mode)?);
    let link = pinned(link, &path).map_err(|reason| LinkError::Pin { kept: *kept, path, reason })?;
    Ok((link, Attachment { mode, taken_over: false, stays: true }))
}

/// As `attach`, where there is no BPF file system: the program is detached when this process ends, whichever way.
///
/// # Errors
/// Another XDP program is attached, or the kernel refuses.
pub fn attach_unpinned(
    program: &mut Xdp,
    place: &Place,
    at: (Option<model::Xdp>, bool),
) -> Result<(XdpLink, Attachment), LinkError> {
    let (link, mode) = attach_anew(program, place, at)?;
    Ok((link, Attachment { mode, taken_over: false, stays: false }))
}

/// Whether there is a link of an earlier process, to this interface.
///
/// # Errors
/// /proc cannot be read.
pub fn is_pinned(place: &Place) -> Result<bool, LinkError> {
    let folder = place.pins.join(&place.interface);
    let [native, generic] = MODES.map(|mode| pin(place, mode));
    Ok(folder.join(native?).exists() || folder.join(generic?).exists())
}

/// The number of the program that is kept there; `None`: there is none, or its interface is gone.
///
/// # Errors
/// /proc cannot be read.
pub fn kept_program(place: &Place) -> Result<Option<u32>, LinkError> {
    let folder = place.pins.join(&place.interface);
    let [native, generic] = MODES.map(|mode| pin(place, mode));
    let program = |path: PathBuf| Some(FdLink::from(PinnedLink::from_pin(path).ok()?).info().ok()?.program_id());
    Ok(program(folder.join(native?)).or_else(|| program(folder.join(generic.ok()?))))
}

/// Removes what keeps the program attached when nobody has its link any more, and what it would hand on.
///
/// # Errors
/// The pin cannot be removed; the program stays.
pub fn unpin(place: &Place) -> Result<(), LinkError> {
    let folder = place.pins.join(&place.interface);
    for name in [pin(place, MODES[0])?, pin(place, MODES[1])?, file(place, MEMORY)?] {
        remove(place.kept, &folder.join(name))?;
    }
    // Another process's pins may be there.
    let _ = fs::remove_dir(folder);
    Ok(())
}

/// The folder of an interface's pins.
///
/// # Errors
/// There is no BPF file system at the path.
pub fn folder(place: &Place) -> Result<PathBuf, LinkError> {
    let folder = place.pins.join(&place.interface);
    let no_bpf = || LinkError::NoBpfFileSystem { path: place.pins.clone() };
    // A folder that is made on another file system would stay there.
    if !is_bpf_fs(&place.pins) {
        return Err(no_bpf());
    }
    fs::create_dir_all(&folder).map_err(|_| no_bpf())?;
    Ok(folder)
}

/// Whether a folder is, or would be made, on a BPF file system.
pub fn is_bpf_fs(folder: &Path) -> bool {
    let there = folder.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    rustix::fs::statfs(there).is_ok_and(|facts| facts.f_type as u64 == BPF_FS)
}

/// A link's pin is called for its mode, which the link does not tell.
fn pin(place: &Place, mode: Mode) -> Result<String, LinkError> {
    let mode = match mode {
        Mode::Native => "native",
        Mode::Generic => "generic",
    };
    file(place, mode)
}

/// A pin is called for the one interface it can be about: names come again, in other network namespaces too.
fn file(place: &Place, what: &str) -> Result<String, LinkError> {
    let path = Path::new("/proc/thread-self/ns/net");
    let failed = |error: io::Error| LinkError::Pin { kept: place.kept, path: path.into(), reason: error.to_string() };
    let namespace = fs::metadata(path).map_err(failed)?;
    Ok(format!("{}{what}-{}-{}", place.kept.prefix(), namespace.ino(), place.index))
}

/// Where a map is pinned by which a program hands on what it has learned to the next one there. One with another number of entries, or of other
/// ones, is removed: it lasts as long as a program has it.
///
/// # Errors
/// There is no BPF file system at the path, or the map cannot be removed.
pub fn memory(place: &Place, entries: u32, (key, value): (u32, u32)) -> Result<PathBuf, LinkError> {
    let path = folder(place)?.join(file(place, MEMORY)?);
    let fits = |info: &MapInfo| (info.max_entries(), info.key_size(), info.value_size()) == (entries, key, value);
    if !MapData::from_pin(&path).is_ok_and(|map| map.info().is_ok_and(|info| fits(&info))) {
        remove(place.kept, &path)?;
    }
    Ok(path)
}

fn remove(kept: Kept, path: &Path) -> Result<(), LinkError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LinkError::Pin { kept, path: path.into(), reason: error.to_string() })
        }
        _ => Ok(()),
    }
}

/// `None`: the link was of an interface that is gone.
fn take_over(program: &mut Xdp, place: &Place, path: &Path) -> Result<Option<XdpLink>, LinkError> {
    let Place { kept, interface, .. } = place;
    let failed = |reason| LinkError::TakeOver { kept: *kept, interface: interface.clone(), path: path.into(), reason };
    let link = PinnedLink::from_pin(path).map_err(|error| failed(with_causes(&error)))?;
    let link = XdpLink::try_from(FdLink::from(link)).map_err(|error| failed(with_causes(&error)))?;
    match program.attach_to_link(link).and_then(|id| program.take_link(id)) {
        Ok(link) => Ok(Some(link)),
        Err(error) if os_error(&error) == Some(Errno::NOLINK) => {
            fs::remove_file(path).map_err(|error| failed(error.to_string()))?;
            Ok(None)
        }
        Err(error) => Err(failed(with_causes(&error))),
    }
}

/// In the driver if it can.
fn attach_anew(
    program: &mut Xdp,
    place: &Place,
    (xdp, in_driver): (Option<model::Xdp>, bool),
) -> Result<(XdpLink, Mode), LinkError> {
    let Place { kept, interface, index, .. } = place;
    let taken = || LinkError::ProgramAttached { interface: interface.clone() };
    let mut attach_as = |mode| program.attach_to_if_index(*index, mode).and_then(|id| program.take_link(id));
    if xdp.map_or(in_driver, |xdp| xdp == model::Xdp::Native) {
        match when_released(|| attach_as(XdpMode::Driver), is_taken) {
            Ok(link) => return Ok((link, Mode::Native)),
            Err(error) if is_taken(&error) => return Err(taken()),
            Err(error) if xdp.is_some() => {
                let reason = with_causes(&error);
                return Err(LinkError::NoNative { kept: *kept, interface: interface.clone(), reason });
            }
            Err(error) => {
                let reason = with_causes(&error);
                tracing::warn!(%interface, %reason, "no native XDP: using generic XDP, which is slow");
            }
        }
    }
    match when_released(|| attach_as(XdpMode::Skb), is_taken) {
        Ok(link) => Ok((link, Mode::Generic)),
        Err(error) if is_taken(&error) => Err(taken()),
        Err(error) => Err(LinkError::Attach { kept: *kept, interface: interface.clone(), reason: with_causes(&error) }),
    }
}

/// The link, which has a file now.
fn pinned(link: XdpLink, path: &Path) -> Result<XdpLink, String> {
    let link = FdLink::try_from(link).map_err(|error| with_causes(&error))?;
    let link = link.pin(path).map_err(|error| with_causes(&error))?;
    XdpLink::try_from(FdLink::from(link)).map_err(|error| with_causes(&error))
}

//! The program on its interface. The link between the two is pinned: it holds the program, and the program its table, so a
//! server whose `oneip filter` died goes on to keep its clients, by the last table. The next process puts its own program,
//! with its own table, into the same link: the kernel exchanges one pointer (net/core/dev.c, bpf_xdp_link_update).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use rustix::io::Errno;

use super::error::{os_error, with_causes};
use super::{FilterError, Interface};
use crate::model;
use crate::xdp::{Mode, driver};

/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h.
const BPF_FS: u64 = 0xcafe_4a11;

const MODES: [Mode; 2] = [Mode::Native, Mode::Generic];

/// How a program came to its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub mode: Mode,
    /// In the place of an earlier process's.
    pub taken_over: bool,
}

pub fn attach(
    program: &mut Xdp,
    interface: &Interface,
    (xdp, pins): (Option<model::Xdp>, &Path),
) -> Result<(XdpLink, Attachment), FilterError> {
    let folder = folder(interface, pins)?;
    for mode in MODES {
        let path = folder.join(pin(interface, mode)?);
        if path.exists()
            && let Some(link) = take_over(program, interface, &path)?
        {
            if xdp.is_some_and(|xdp| (xdp == model::Xdp::Native) != (mode == Mode::Native)) {
                tracing::warn!(
                    "the filter on {} goes on as {mode}, as which it was left, whatever `xdp` in [filter] says: for that, end it, \
                     take it off (oneip filter --detach), and start it again",
                    interface.name
                );
            }
            return Ok((link, Attachment { mode, taken_over: true }));
        }
    }
    let (link, mode) = attach_anew(program, interface, xdp)?;
    let path = folder.join(pin(interface, mode)?);
    let link = pinned(link, &path).map_err(|reason| FilterError::Pin { path, reason })?;
    Ok((link, Attachment { mode, taken_over: false }))
}

/// Whether there is a link of an earlier process, to this interface.
pub fn is_pinned(interface: &Interface, pins: &Path) -> Result<bool, FilterError> {
    let folder = pins.join(&interface.name);
    let [native, generic] = MODES.map(|mode| pin(interface, mode));
    Ok(folder.join(native?).exists() || folder.join(generic?).exists())
}

/// Removes what keeps the program attached when nobody has its link any more.
pub fn unpin(interface: &Interface, pins: &Path) -> Result<(), FilterError> {
    let folder = pins.join(&interface.name);
    for mode in MODES {
        let path = folder.join(pin(interface, mode)?);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FilterError::Pin { path, reason: error.to_string() });
            }
            _ => {}
        }
    }
    Ok(())
}

fn folder(interface: &Interface, pins: &Path) -> Result<PathBuf, FilterError> {
    let folder = pins.join(&interface.name);
    let no_bpf = || FilterError::NoBpfFileSystem { path: pins.into() };
    fs::create_dir_all(&folder).map_err(|_| no_bpf())?;
    let file_system = rustix::fs::statfs(&folder).map_err(|_| no_bpf())?.f_type as u64;
    if file_system != BPF_FS {
        return Err(no_bpf());
    }
    Ok(folder)
}

/// A pin is called for the mode, which a link does not tell, and for the one interface it can be about: names come again, in
/// other network namespaces too.
fn pin(interface: &Interface, mode: Mode) -> Result<String, FilterError> {
    let path = Path::new("/proc/thread-self/ns/net");
    let namespace =
        fs::metadata(path).map_err(|error| FilterError::Pin { path: path.into(), reason: error.to_string() })?;
    let mode = match mode {
        Mode::Native => "native",
        Mode::Generic => "generic",
    };
    Ok(format!("{mode}-{}-{}", namespace.ino(), interface.index))
}

/// `None`: the link was of an interface that is gone.
fn take_over(program: &mut Xdp, interface: &Interface, path: &Path) -> Result<Option<XdpLink>, FilterError> {
    let failed = |reason| FilterError::TakeOver { interface: interface.name.clone(), path: path.into(), reason };
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

/// In the driver if it can, but on veth. There the driver's XDP meets socket buffers that are marked as broadcast when they
/// are sent, and `eth_type_trans`, which marks, does not unmark what is host-addressed by then (drivers/net/veth.c,
/// veth_xdp_rcv_skb): TCP would refuse what the filter kept. Generic XDP unmarks it (net/core/dev.c, bpf_prog_run_generic_xdp).
fn attach_anew(
    program: &mut Xdp,
    interface: &Interface,
    xdp: Option<model::Xdp>,
) -> Result<(XdpLink, Mode), FilterError> {
    let Interface { name, index, .. } = interface;
    let by_default = || driver(name).is_none_or(|driver| driver != "veth");
    if xdp.map_or_else(by_default, |xdp| xdp == model::Xdp::Native) {
        match attach_as(program, *index, XdpMode::Driver) {
            Ok(link) => return Ok((link, Mode::Native)),
            Err(error) if is_taken(&error) => return Err(FilterError::ProgramAttached { interface: name.clone() }),
            Err(error) if xdp.is_some() => {
                return Err(FilterError::NoNative { interface: name.clone(), reason: with_causes(&error) });
            }
            Err(error) => {
                let reason = with_causes(&error);
                tracing::warn!(interface = %name, %reason, "no native XDP: using generic XDP, which is slow");
            }
        }
    }
    match attach_as(program, *index, XdpMode::Skb) {
        Ok(link) => Ok((link, Mode::Generic)),
        Err(error) if is_taken(&error) => Err(FilterError::ProgramAttached { interface: name.clone() }),
        Err(error) => Err(FilterError::Attach { interface: name.clone(), reason: with_causes(&error) }),
    }
}

fn attach_as(program: &mut Xdp, index: u32, mode: XdpMode) -> Result<XdpLink, ProgramError> {
    program.attach_to_if_index(index, mode).and_then(|id| program.take_link(id))
}

/// By another program, in the same mode or in another one (dev_xdp_attach, net/core/dev.c).
fn is_taken(error: &ProgramError) -> bool {
    matches!(os_error(error), Some(Errno::BUSY | Errno::EXIST))
}

/// The link, which has a file now.
fn pinned(link: XdpLink, path: &Path) -> Result<XdpLink, String> {
    let link = FdLink::try_from(link).map_err(|error| with_causes(&error))?;
    let link = link.pin(path).map_err(|error| with_causes(&error))?;
    XdpLink::try_from(FdLink::from(link)).map_err(|error| with_causes(&error))
}

//! An XDP program into the kernel, and onto a device.

use std::fmt;
use std::io;

use aya::Ebpf;
use aya::programs::xdp::XdpError as LibraryError;
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::util::KernelVersion;
use rustix::io::Errno;

use super::device::Device;
use super::error::{XdpError, os_error, with_causes};
use super::{privileges, when_released};
use crate::limits::PROGRAM_LOADS;

const HAS_PROGRAM: &str = "the object has this program";
const IS_XDP: &str = "it is an XDP program";

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel makes a packet buffer of the frame.
    Native,
    /// In the kernel, after that: for drivers that cannot do better, and much slower.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Native => "native XDP",
            Mode::Generic => "generic XDP",
        })
    }
}

/// The program of this name in an object.
///
/// # Panics
///
/// The object has no XDP program of this name.
pub fn program<'o>(object: &'o Ebpf, name: &str) -> &'o Xdp {
    object.program(name).expect(HAS_PROGRAM).try_into().expect(IS_XDP)
}

/// As `program`, to load and attach it.
///
/// # Panics
///
/// As `program`.
pub fn program_mut<'o>(object: &'o mut Ebpf, name: &str) -> &'o mut Xdp {
    object.program_mut(name).expect(HAS_PROGRAM).try_into().expect(IS_XDP)
}

/// Loads a program of an object. The verifier gives up where a signal comes meanwhile (EAGAIN of `do_check`,
/// kernel/bpf/verifier.c), and is then asked again, as libbpf does.
///
/// # Errors
///
/// The kernel refuses it, for this reason. The verifier's log is for us: it goes to the log at the level debug.
pub fn load(object: &mut Ebpf, name: &str) -> Result<(), String> {
    let program = program_mut(object, name);
    uninterrupted(|| program.load(), |error| os_error(error) == Some(Errno::AGAIN)).map_err(|error| match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            tracing::debug!(program = name, %verifier_log, "the program was refused");
            let wants_more = io_error.kind() == io::ErrorKind::PermissionDenied && !privileges::is_unguarded();
            format!("{io_error}{}", if wants_more { "; older kernels such as 6.1 need CAP_PERFMON for it" } else { "" })
        }
        error => with_causes(&error),
    })
}

pub(super) fn uninterrupted<E>(
    mut load: impl FnMut() -> Result<(), E>,
    is_interruption: impl Fn(&E) -> bool,
) -> Result<(), E> {
    let mut result = load();
    for _ in 1..PROGRAM_LOADS {
        if !result.as_ref().is_err_and(&is_interruption) {
            break;
        }
        result = load();
    }
    result
}

/// Attaches a loaded program, in the driver, or in the kernel where the driver cannot. It is detached when the link is dropped,
/// and when the process ends, whichever way.
///
/// # Errors
///
/// Another program is attached, or the kernel refuses.
pub fn attach(program: &mut Xdp, device: &Device) -> Result<(XdpLink, Mode), XdpError> {
    let interface = &device.interface;
    let mut attach_as = |mode| {
        let id = program.attach_to_if_index(device.index, mode)?;
        program.take_link(id)
    };
    let native = when_released(|| attach_as(XdpMode::Driver), is_taken);
    let attached = match native {
        Ok(link) => (link, Mode::Native),
        Err(error) if is_taken(&error) => {
            return Err(XdpError::ProgramAttached { interface: interface.clone() });
        }
        Err(error) => {
            let reason = with_causes(&error);
            tracing::warn!(%interface, driver = %device.driver, %reason, "no native XDP: using generic XDP, which is slow");
            let link = attach_as(XdpMode::Skb).map_err(|error| match is_taken(&error) {
                true => XdpError::ProgramAttached { interface: interface.clone() },
                false => XdpError::Attach { interface: interface.clone(), reason: with_causes(&error) },
            })?;
            (link, Mode::Generic)
        }
    };
    // Since this version an attachment is a file descriptor (bpf_xdp_link_attach, net/core/dev.c); before it, a setting.
    if KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(5, 9, 0)) {
        tracing::warn!(%interface, "this kernel leaves XDP attached after a kill -9: ip link set dev {interface} xdp off");
    }
    Ok(attached)
}

/// Whether another program is in the way, be it attached in the same mode or in another one (dev_xdp_attach, net/core/dev.c).
pub(super) fn is_taken(error: &ProgramError) -> bool {
    let code = match error {
        ProgramError::XdpError(LibraryError::NetlinkError(error)) => error.raw_os_error().map(Errno::from_raw_os_error),
        error => os_error(error),
    };
    matches!(code, Some(Errno::BUSY | Errno::EXIST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_signal_has_interrupted_is_loaded_again_and_nothing_else_nor_for_ever() {
        for (interruptions, otherwise, loads) in [
            (0, Ok(()), 1),
            (3, Ok(()), 4),
            (0, Err(Errno::PERM), 1),
            (2, Err(Errno::INVAL), 3),
            (1000, Err(Errno::AGAIN), PROGRAM_LOADS),
        ] {
            let mut count = 0;
            let load = || {
                count += 1;
                if count <= interruptions { Err(Errno::AGAIN) } else { otherwise }
            };
            assert_eq!(uninterrupted(load, |error| *error == Errno::AGAIN), otherwise);
            assert_eq!(count, loads);
        }
    }
}

//! `--detach`: takes off an interface what a process has left there.

use crate::error::Failure;
use crate::host::lock::{InterfaceLock, LockError};
use crate::limits::{KERNEL_RELEASE, RELEASE};
use crate::metrics::collect::say;
use crate::netlink::{self, links};
use crate::xdp::link::{self, Kept, Place};
use std::io;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::time::sleep;

/// Returns when the kernel has done it, which it does in the background. Where a process is at work, which has the program too, it says so.
///
/// # Errors
/// There is nothing, or the kernel refuses, or the program is there yet.
pub(super) fn detach(places: &[Place], forget: impl Fn(&Place) -> Result<(), Failure>) -> Result<(), Failure> {
    let name = places.iter().map(|place| place.interface.as_str()).collect::<Vec<_>>().join(" and ");
    let what = match places.first().expect("there is an interface").kept {
        Kept::Dispatcher => "dispatcher's program".to_owned(),
        kept @ (Kept::Filter | Kept::Decap) => kept.to_string(),
    };
    // Nobody takes it over meanwhile.
    let alone = places.iter().map(|place| InterfaceLock::take(&place.interface)).collect::<Result<Vec<_>, _>>();
    let (mut any, mut programs) = (false, Vec::new());
    for place in places {
        any |= link::is_pinned(place)?;
        programs.extend(link::kept_program(place)?.map(|program| (place.index, program)));
    }
    if !any {
        return Err(format!("there is no {what} on {name}; nothing was changed").into());
    }
    places.iter().try_for_each(forget)?;
    let patience = if alone.is_ok() { KERNEL_RELEASE } else { RELEASE };
    if are_off(&programs, patience)? {
        say(&format!("the {what} is detached from {name}"), false);
        return Ok(());
    }
    match alone {
        Err(LockError::Taken { owner, .. }) => {
            say(&format!("{owner} is at work on {name}: the {what} is detached when that ends"), false);
            Ok(())
        }
        _ => Err(format!(
            "the {what} on {name} is not kept any more, but it is there yet: the kernel is slow, or another process holds it (bpftool link \
             show)"
        )
        .into()),
    }
}

/// Waits until none of the programs is on its interface. One without its interface is not.
fn are_off(programs: &[(u32, u32)], patience: Duration) -> io::Result<bool> {
    let give_up = Instant::now() + patience;
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let handle = netlink::requests()?;
        for (interface, program) in programs {
            while links::one(&handle, *interface).await.is_ok_and(|look| look.program == Some(*program)) {
                if Instant::now() > give_up {
                    return Ok(false);
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(true)
    })
}

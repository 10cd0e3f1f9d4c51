//! `--detach`: takes off an interface what a process has left there.

use crate::error::Failure;
use crate::host::lock::InterfaceLock;
use crate::limits::KERNEL_RELEASE;
use crate::metrics::collect::say;
use crate::netlink::{self, links};
use crate::xdp::link::{self, Kept, Place};
use std::io;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;

/// Returns when the kernel has done it, which it does in the background.
///
/// # Errors
/// There is nothing, or the kernel refuses.
pub(super) fn detach(places: &[Place], forget: impl Fn(&Place) -> Result<(), Failure>) -> Result<(), Failure> {
    let name = places.iter().map(|place| place.interface.as_str()).collect::<Vec<_>>().join(" and ");
    let kept = places.first().expect("there is an interface").kept;
    let what = match kept {
        Kept::Dispatcher => "dispatcher's program".to_owned(),
        Kept::Filter | Kept::Decap => kept.to_string(),
    };
    let mut pinned = Vec::new();
    for place in places {
        if link::is_pinned(place)? {
            pinned.push(place.clone());
        }
    }
    if pinned.is_empty() {
        return Err(format!("there is no {what} on {name}; nothing was changed").into());
    }
    let before = programs(&pinned)?;
    let runs = places.iter().any(|place| InterfaceLock::is_taken(&place.interface));
    places.iter().try_for_each(forget)?;
    if runs {
        let verb = kept.verb();
        say(&format!("`oneip {verb}` is running on {name}: the {what} is detached when it ends"), false);
        return Ok(());
    }
    let give_up = Instant::now() + KERNEL_RELEASE;
    while programs(&pinned)?.iter().zip(&before).any(|(now, before)| now.is_some() && now == before) {
        if Instant::now() > give_up {
            return Err(format!(
                "the {what} on {name} is not kept any more, but another process holds it (bpftool link show): it is detached when that ends"
            )
            .into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    say(&format!("the {what} is detached from {name}"), false);
    Ok(())
}

/// The number of the XDP program on each interface.
fn programs(places: &[Place]) -> io::Result<Vec<Option<u32>>> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let handle = netlink::requests()?;
        let mut programs = Vec::new();
        for place in places {
            programs.push(links::one(&handle, place.index).await?.1);
        }
        Ok(programs)
    })
}

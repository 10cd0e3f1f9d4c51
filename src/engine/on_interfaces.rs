//! A dispatcher's program on its interfaces, and what is said when somebody takes it off one of them.

use crate::control::interface::InterfaceWatch;
use crate::metrics::collect::Troubles;

/// Notes whether the program of that number is on all interfaces, and says so when that changes.
pub fn see(interface: &InterfaceWatch, number: u32, troubles: &Troubles) {
    let lost = interface.all().find(|interface| interface.program() != Some(number));
    let trouble = lost.map(|interface| {
        let found = interface.program().map(|found| format!(", and XDP program {found} is there"));
        let name = interface.name();
        format!(
            "somebody has detached the dispatcher's program from {name}{}: nothing is dispatched; restart `oneip run`",
            found.unwrap_or_default()
        )
    });
    let known = troubles.get().map(|(known, _)| (*known).clone()).unwrap_or_default();
    let now: Vec<String> = trouble.into_iter().collect();
    if known != now {
        match now.first() {
            Some(trouble) => tracing::error!("{trouble}"),
            None => tracing::info!("the dispatcher's program is attached to {} again", interface.name()),
        }
        troubles.put(now);
    }
}

//! A dispatcher's program on its interfaces, and what is said when somebody takes it off one of them, or a driver does not run it.

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
    let is_idle =
        || format!("{}: nothing is dispatched; restart `oneip run`", not_run(interface, "the dispatcher's program"));
    let trouble = trouble.or_else(|| (!interface.is_run()).then(is_idle));
    let known = troubles.get().map(|(known, _)| (*known).clone()).unwrap_or_default();
    let now: Vec<String> = trouble.into_iter().collect();
    if known != now {
        match now.first() {
            Some(trouble) => tracing::error!("{trouble}"),
            None => tracing::info!("the dispatcher's program has the frames of {} again", interface.name()),
        }
        troubles.put(now);
    }
}

/// That the drivers of these interfaces do not run what is attached to them.
pub fn not_run(interface: &InterfaceWatch, what: &str) -> String {
    let names: Vec<&str> = interface.all().map(InterfaceWatch::name).collect();
    format!(
        "{} receives frames, and {what}, which is attached there, sees none (the driver vmxnet3 does not run a program any more when the \
         interface was set down and up)",
        names.join(" and ")
    )
}

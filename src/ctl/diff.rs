//! `ctl diff`: a configuration file against what is in use.

use super::client::{self, Client};
use super::{document, print};
use crate::admin::order::{Diff, Order, ServiceDiff};
use crate::error::{Exit, Failure};
use std::fmt::Write;
use std::path::{self, PathBuf};

/// Asks, and shows what differs. As diff(1): whether anything does is the exit code.
///
/// # Errors
/// The files differ, or that is not known.
pub fn run(client: &Client, config: Option<PathBuf>, json: bool) -> Result<(), Failure> {
    let found = compare(client, config, json).map_err(|why| Exit { code: 2, why: Some(why) })?;
    if found.same { Ok(()) } else { Err(Exit { code: 1, why: None }.into()) }
}

fn compare(client: &Client, config: Option<PathBuf>, json: bool) -> Result<Diff, Failure> {
    // The process has another directory.
    let config = config.map(path::absolute).transpose()?;
    let answer = client.order(&Order::Diff { config })?;
    let found: Diff = client::read(answer.clone())?;
    if json { print(document(answer)) } else { print(text(&found)) }?;
    Ok(found)
}

/// A line each.
pub fn text(diff: &Diff) -> String {
    let Diff { config, same, changes, needs_restart, services, refused, warnings, orders } = diff;
    let mut text = String::new();
    if *same {
        let _ = writeln!(text, "{} is the same as the configuration in use", config.display());
    }
    changes.iter().for_each(|change| _ = writeln!(text, "{change}"));
    needs_restart.iter().for_each(|key| _ = writeln!(text, "{key}: changed, needs a restart"));
    services.iter().for_each(|service| _ = writeln!(text, "{}", moved(service)));
    warnings.iter().for_each(|warning| _ = writeln!(text, "warning: {warning}"));
    orders.iter().for_each(|order| _ = writeln!(text, "by order, not a difference: {order}"));
    if let Some(why) = refused {
        let _ = writeln!(text, "a reload would be refused: {why}");
    }
    text.trim_end().to_owned()
}

/// What a reload costs a service.
fn moved(ServiceDiff { service, slots, moved_slots, moved, must, drain_s, .. }: &ServiceDiff) -> String {
    let slots = match moved_slots {
        Some(moved) => format!("{moved} of {slots} slots move"),
        None => "the slots belong to other clients now".to_owned(),
    };
    let percent = |part: &f64| (100.0 * part).round();
    let (moved, must) = (percent(moved), percent(must));
    let stay = match drain_s {
        0 => "their connections break (drain_s = 0)".to_owned(),
        seconds => format!("connections stay where they are for {seconds} s"),
    };
    format!(
        "service {service}: {slots}: {moved} % of its clients get another server, although the change of servers needs \
         only {must} %; {stay}"
    )
}

//! A process that dispatches, by what it says of itself over its admin socket.

use crate::admin::status::Status;
use crate::ctl::client::{self, Client, Error};
use crate::doctor::facts::Running;
use std::path::{self, Path};
use std::thread;
use std::time::{Duration, Instant};

/// Looks twice. `Ok(None)`: nobody runs there.
///
/// # Errors
/// Somebody does, and does not answer; in words.
pub fn running(socket: &Path, config: Option<&Path>, wait: Duration) -> Result<Option<Running>, String> {
    let client = Client::new(socket.to_owned()).map_err(|error| error.to_string())?;
    let look = || client.status().and_then(client::read::<Status>);
    let (before, then) = match look() {
        Ok(status) => (status, Instant::now()),
        Err(Error::Absent(_) | Error::Dead(_)) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    thread::sleep(wait);
    let status = look().map_err(|error| error.to_string())?;
    let count = |reason: &String| before.dropped.get(reason).copied().unwrap_or(0);
    let drops =
        status.dropped.iter().map(|(reason, now)| (reason.clone(), now.saturating_sub(count(reason)))).collect();
    let same = |config: &&Path| path::absolute(config).is_ok_and(|config| config == Path::new(&status.config));
    let reload = config.filter(same).and_then(|_| client.rehearse_reload());
    let trouble = client.trouble().map_err(|error| error.to_string())?;
    Ok(Some(Running { status, drops, seconds: then.elapsed().as_secs_f64(), reload, trouble }))
}

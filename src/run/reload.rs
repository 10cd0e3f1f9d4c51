//! A reload. The file is read, and what it comes to is worked out, on a thread of its own: however long that takes, servers are
//! followed and orders carried out meanwhile, by the configuration that there is. One at a time.

use crate::admin::order::Answer;
use crate::config::{self, Loaded};
use crate::control::membership::{Base, Prepared};
use crate::engine::HostCheck;
use crate::model::Plan;
use std::collections::BTreeSet;
use std::future::pending;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;
use tokio::sync::oneshot;

/// What was asked for, and by whom.
pub struct Request {
    /// However many clients it moves for nothing.
    pub force: bool,
    /// Only to say what would change.
    pub dry_run: bool,
    /// `None`: by a signal.
    pub to: Option<oneshot::Sender<Answer>>,
}

impl Request {
    pub const BY_SIGNAL: Request = Request { force: false, dry_run: false, to: None };
}

/// Where the configuration comes from.
pub enum Source {
    File(PathBuf),
    /// From a file that was read already, with its warnings.
    Read(Box<Plan>, Vec<String>),
}

/// A configuration that is ready to be taken over.
pub struct Made {
    pub prepared: Prepared,
    pub warnings: Vec<String>,
    pub addresses: BTreeSet<IpAddr>,
}

/// One that is under way.
pub struct Reloading {
    pub request: Request,
    /// The file is to be read once more after it: a signal has come meanwhile.
    pub again: bool,
    began: Instant,
    made: oneshot::Receiver<Result<Made, String>>,
}

impl Reloading {
    /// # Errors
    /// There is no thread to be had.
    pub fn start(
        request: Request,
        source: Source,
        base: Base,
        (before, check): (BTreeSet<IpAddr>, HostCheck),
    ) -> Result<Reloading, (Request, String)> {
        let (to, made) = oneshot::channel();
        // Not one of the runtime's: those are waited for when the process ends, and a file may hang for ever.
        let thread = thread::Builder::new().name("oneip-reload".into()).spawn(move || {
            let _ = to.send(make(source, &base, (&before, check)));
        });
        match thread {
            Ok(_) => Ok(Reloading { request, again: false, began: Instant::now(), made }),
            Err(error) => Err((request, format!("there is no thread to read the configuration on: {error}"))),
        }
    }

    /// What to tell who wants another one meanwhile.
    pub fn busy(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        format!("a reload is under way, since {seconds:.1} s, and there is one at a time; try again when it is over")
    }
}

/// Waits until the one that is under way has made something. Cancel-safe.
pub async fn made(reloading: &mut Option<Reloading>) -> Result<Made, String> {
    match reloading {
        Some(reloading) => (&mut reloading.made)
            .await
            .unwrap_or_else(|_| Err("the thread that reads the configuration has ended in a panic".to_owned())),
        None => pending().await,
    }
}

fn make(source: Source, base: &Base, (before, check): (&BTreeSet<IpAddr>, HostCheck)) -> Result<Made, String> {
    let (plan, warnings) = match source {
        Source::Read(plan, warnings) => (*plan, warnings),
        Source::File(path) => {
            let Loaded { plan, warnings } = config::load(&path).map_err(|errors| errors.to_string())?;
            (plan, warnings.iter().map(ToString::to_string).collect())
        }
    };
    let addresses = addresses(&plan);
    let new: Vec<IpAddr> = addresses.difference(before).copied().collect();
    check(&new).map_err(|error| error.to_string())?;
    let prepared = base.prepare(plan).map_err(|error| error.to_string())?;
    Ok(Made { prepared, warnings, addresses })
}

pub fn addresses(plan: &Plan) -> BTreeSet<IpAddr> {
    plan.services.iter().map(|service| service.address).collect()
}

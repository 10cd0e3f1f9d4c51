//! `oneip doctor`: everything that makes a dispatcher or a server fail, a line each, with the command that mends it.
//!
//! Readers ([`read`]) gather [`facts`] from /proc, /sys, netlink, the NIC's driver, frames that come in, and a dispatcher that
//! runs; checks ([`check`]) are pure functions from facts to findings. [`server`] does the same for a server of the cluster.
//! Nothing is changed on the host. Servers that the kernel does not know are sent a packet, so that it asks for them.

mod check;
mod facts;
mod read;
mod server;

pub use server::examine as examine_server;

use crate::admin::finding::{Finding, Grade, worst};
use crate::config::{self, Loaded};
use crate::limits::{DOCTOR_EVERY, DOCTOR_SHOWN};
use crate::metrics::latest::Latest;
use crate::model::{Admin, Plan};
use crate::netlink;
use facts::Facts;
use read::files::Root;
use read::{frames, host, interface, network, running};
use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Where a configuration is, if nobody says.
const CONFIG: &str = "/etc/oneip/oneip.toml";

/// What the command line asks for.
pub struct Options {
    /// `None`: that of the dispatcher that runs, or the usual one.
    pub config: Option<PathBuf>,
    /// What is read there in place of /proc and /sys.
    pub root: Option<PathBuf>,
    /// How long to listen to frames and to count drops.
    pub seconds: Duration,
}

/// What was found, to be printed with `Display`.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    pub checks: Vec<Finding>,
}

impl Report {
    fn count(&self, grade: Grade) -> usize {
        self.checks.iter().filter(|finding| finding.state == grade).count()
    }

    /// # Errors
    /// A check fails; in words.
    pub fn verdict(&self) -> Result<(), String> {
        match self.count(Grade::Fail) {
            0 => Ok(()),
            1 => Err("1 check fails".to_owned()),
            count => Err(format!("{count} checks fail")),
        }
    }

    /// One JSON document.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("findings have text keys")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { name, state, why, fix } in &self.checks {
            writeln!(f, "{:<5} {name:<16} {why}", state.name())?;
            if let Some(fix) = fix {
                writeln!(f, "{:<22} fix: {fix}", "")?;
            }
        }
        let [ok, warn, fail] = [Grade::Ok, Grade::Warn, Grade::Fail].map(|grade| self.count(grade));
        write!(f, "{ok} ok, {warn} warn, {fail} fail")
    }
}

/// Looks at a dispatcher. Not to be called inside an async runtime.
pub fn examine(options: &Options) -> Report {
    let config = options.config.clone().or_else(usual);
    let Some(config) = config else {
        return Report { checks: check::all(&gather(None, None, options, true)) };
    };
    match config::load(&config) {
        Ok(Loaded { plan, warnings }) => {
            let mut checks = vec![configuration(&config, &warnings)];
            checks.extend(check::all(&gather(Some(plan), Some(&config), options, true)));
            Report { checks }
        }
        Err(errors) => {
            let mut checks = vec![Finding::fail("configuration", errors.to_string())];
            checks.extend(check::all(&gather(None, None, options, true)));
            Report { checks }
        }
    }
}

fn configuration(config: &Path, warnings: &[config::Diagnostic]) -> Finding {
    match warnings {
        [] => Finding::ok("configuration", config.display().to_string()),
        all => {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            Finding::warn("configuration", all.join("; "))
        }
    }
}

/// The configuration that a dispatcher runs by, or the one that is where it is expected.
fn usual() -> Option<PathBuf> {
    let running = running::running(Path::new(Admin::SOCKET), None, Duration::ZERO).ok().flatten();
    let running = running.map(|running| PathBuf::from(running.status.config));
    running.or_else(|| Some(PathBuf::from(CONFIG)).filter(|path| path.exists()))
}

/// What is wrong with the host, as far as a look tells that takes no time. For a dispatcher that is about to start.
pub fn glance(plan: &Plan) -> Vec<Finding> {
    let options = Options { config: None, root: None, seconds: Duration::ZERO };
    check::all(&gather(Some(plan.clone()), None, &options, false))
}

/// Says the worst of it in the log, in a line each.
pub fn warn(findings: &[Finding]) {
    let shown = worst(findings, DOCTOR_SHOWN);
    shown.iter().for_each(|finding| tracing::warn!("{}", finding.line()));
    let more = worst(findings, usize::MAX).len() - shown.len();
    if more > 0 {
        tracing::warn!("and {more} more: `oneip doctor` shows them");
    }
}

/// Looks now and then, on a thread of its own, and puts down the worst.
///
/// # Errors
/// There is no thread to be had.
pub fn watch(plan: Plan, first: &[Finding], prepare: fn()) -> std::io::Result<Latest<Vec<Finding>>> {
    let (latest, shown) =
        (Latest::default(), |findings: &[Finding]| worst(findings, usize::MAX).into_iter().cloned().collect());
    latest.put(shown(first));
    let to = latest.clone();
    thread::Builder::new().name("oneip-doctor".into()).spawn(move || {
        prepare();
        loop {
            thread::sleep(DOCTOR_EVERY);
            to.put(shown(&glance(&plan)));
        }
    })?;
    Ok(latest)
}

/// `full`: this process stands for a dispatcher, servers are asked for, and a process that runs is asked.
fn gather(plan: Option<Plan>, config: Option<&Path>, options: &Options, full: bool) -> Facts {
    let root = Root(options.root.clone());
    let mut facts =
        Facts { host: host::host(&root, plan.as_ref(), full), cores: host::cores(&root), ..Facts::default() };
    if let Some(plan) = &plan {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let (Ok(runtime), Some(settings)) = (runtime, &plan.dispatcher) {
            facts.network.held = Vec::new();
            let held = network::held(plan);
            runtime.block_on(async {
                let Ok(handle) = netlink::requests() else { return };
                for name in settings.interfaces() {
                    match interface::interface(&root, &handle, settings, name).await {
                        Ok(found) => facts.interfaces.push(found),
                        Err(error) => facts.no_interface.push(error.to_string()),
                    }
                }
                let is_up =
                    |found: &facts::Interface| found.up && found.carrier != Some(false) && found.master.is_none();
                let all_up = facts.no_interface.is_empty() && facts.interfaces.iter().all(is_up);
                facts.network = network::network(&root, &handle, plan, (&facts.interfaces, all_up), full).await;
            });
            facts.network.held = held;
        }
        if full {
            let running = thread::scope(|scope| {
                for interface in &mut facts.interfaces {
                    scope.spawn(|| {
                        let (index, mtu) = (interface.device.index, interface.device.mtu);
                        let heard = frames::listen(index, mtu, interface.gro != Some(false), options.seconds);
                        interface.heard = heard.ok().filter(|heard| heard.seconds > 0.0);
                    });
                }
                running::running(&plan.admin.socket, config, options.seconds)
            });
            match running {
                Ok(running) => facts.running = running,
                Err(why) => facts.no_answer = Some(why),
            }
        }
    }
    facts.plan = plan;
    if !full {
        // Who looks is the dispatcher: the program is its own, or is about to be.
        facts.interfaces.iter_mut().for_each(|interface| interface.program = None);
        facts.is_itself = true;
    }
    facts
}

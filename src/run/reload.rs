//! A reload. The file is read, and what it comes to is worked out, on a thread of its own: however long that takes, servers are
//! followed and orders carried out meanwhile, by the configuration that there is. One at a time. Then the control thread has the data
//! path go over to it.

use super::controller::Controller;
use crate::admin::finding::Grade;
use crate::admin::order::{Answer, Diff};
use crate::admin::timeline::{Kind, Timeline, Told};
use crate::config::published::Published;
use crate::config::{self, Loaded};
use crate::control::membership::{Base, Membership, Prepared, Reloaded};
use crate::engine::HostCheck;
use crate::limits::DRAIN;
use crate::model::{Plan, Prefix};
use std::collections::BTreeSet;
use std::future::pending;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;
use tokio::sync::oneshot;

/// What was asked for, and by whom.
pub struct Request {
    pub purpose: Purpose,
    /// `None`: by a signal, or by the group.
    pub to: Option<oneshot::Sender<Answer>>,
    /// What was published, and is taken over with it.
    pub adopts: Option<Box<Published>>,
}

/// `force`: however many clients it moves for nothing.
pub enum Purpose {
    Reload {
        force: bool,
    },
    /// Only to say what a reload would do.
    Rehearse {
        force: bool,
    },
    /// Only to say how a file differs; `None`: the own one.
    Compare(Option<PathBuf>),
    /// Have the group publish it, if it can count here.
    Publish(Box<Published>),
}

impl Request {
    pub const BY_SIGNAL: Request = Request::new(Purpose::Reload { force: false }, None);

    pub const fn new(purpose: Purpose, to: Option<oneshot::Sender<Answer>>) -> Request {
        Request { purpose, to, adopts: None }
    }

    fn is_reload(&self) -> bool {
        matches!(self.purpose, Purpose::Reload { .. })
    }
}

/// Where the configuration comes from.
pub enum Source {
    File(PathBuf),
    /// Who names it need not be allowed to read it, so that nothing is told of what is in it unless it is a configuration.
    Stranger(PathBuf),
    /// The file, with this in the place of its services.
    Published(PathBuf, Box<Published>),
    /// From a file that was read already, with its warnings.
    Read(Box<Plan>, Vec<String>),
}

/// A configuration that is ready to be taken over.
pub struct Made {
    pub prepared: Prepared,
    /// Whether this host can have its addresses.
    pub host: Result<(), String>,
    pub warnings: Vec<String>,
    pub addresses: BTreeSet<Prefix>,
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
        (before, check): (BTreeSet<Prefix>, HostCheck),
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

/// What the control thread knows of reloads.
#[derive(Default)]
pub struct Reloads {
    pub under_way: Option<Reloading>,
    /// The interface does not take the frames of the addresses of the configuration that is in use.
    owes_addresses: bool,
}

impl Reloads {
    /// Waits until the one that is under way has made something. Cancel-safe.
    pub async fn made(&mut self) -> Result<Made, String> {
        match &mut self.under_way {
            Some(reloading) => (&mut reloading.made)
                .await
                .unwrap_or_else(|_| Err("the thread that reads the configuration has ended in a panic".to_owned())),
            None => pending().await,
        }
    }
}

/// What came of a reload.
enum Outcome {
    /// What has changed, a line each.
    Done(Vec<String>),
    /// It is in use, but for this.
    Partly(Vec<String>, String),
    /// Nothing was changed.
    Refused(String),
    /// Nothing was to be changed.
    Compared(Diff),
}

fn make(source: Source, base: &Base, (before, check): (&BTreeSet<Prefix>, HostCheck)) -> Result<Made, String> {
    let (plan, warnings) = match source {
        Source::Read(plan, warnings) => (*plan, warnings),
        Source::File(path) => {
            let Loaded { plan, warnings } = config::load(&path).map_err(|errors| errors.to_string())?;
            (plan, warnings.iter().map(ToString::to_string).collect())
        }
        Source::Published(path, published) => {
            let Loaded { plan, warnings } =
                config::load_published(&path, &published).map_err(|errors| errors.to_string())?;
            (plan, warnings.iter().map(ToString::to_string).collect())
        }
        Source::Stranger(path) => {
            let Loaded { plan, warnings } = config::load(&path).map_err(|_| {
                let path = path.display();
                format!(
                    "the process that dispatches cannot read {path}, or it is no configuration: `oneip check -c {path}` says why; \
                     the process may see other files than you: put it beside its own"
                )
            })?;
            (plan, warnings.iter().map(ToString::to_string).collect())
        }
    };
    let addresses = plan.cluster_addresses();
    let new: Vec<Prefix> = addresses.difference(before).copied().collect();
    let host = check(&new).map_err(|error| error.to_string());
    Ok(Made { prepared: base.prepare(plan), host, warnings, addresses })
}

impl Controller<'_> {
    /// Has the configuration file read, unless that is being done.
    pub(super) fn begin_reload(&mut self, membership: &Membership, mut request: Request, reloads: &mut Reloads) {
        if let Some(other) = &mut reloads.under_way {
            let error = other.busy();
            match request.to {
                Some(to) => drop(to.send(Answer::Refused { error })),
                None => {
                    tracing::warn!("reload: {error}; the file is read once more then");
                    other.again = true;
                }
            }
            return;
        }
        if request.is_reload() {
            self.supervisor.reloading();
        }
        if matches!(request.purpose, Purpose::Reload { .. } | Purpose::Rehearse { .. }) && request.adopts.is_none() {
            request.adopts = self.group.as_ref().and_then(|group| group.newer()).cloned().map(Box::new);
        }
        let source = match (&request.purpose, &request.adopts) {
            (Purpose::Compare(Some(file)), _) if *file != self.config => Source::Stranger(file.clone()),
            (Purpose::Publish(published), _) => {
                Source::Published(self.config.clone(), Box::new(Published { generation: 0, ..(**published).clone() }))
            }
            (_, Some(published)) => Source::Published(self.config.clone(), published.clone()),
            _ => Source::File(self.config.clone()),
        };
        reloads.under_way = self.start_reload(membership, request, source);
    }

    fn start_reload(&mut self, membership: &Membership, request: Request, source: Source) -> Option<Reloading> {
        let host = (membership.plan().cluster_addresses(), self.engine.host_check());
        match Reloading::start(request, source, membership.base(), host) {
            Ok(reloading) => Some(reloading),
            Err((request, error)) => {
                self.answer(membership.timeline(), request, Outcome::Refused(error));
                None
            }
        }
    }

    /// Goes over to what was read, and says what comes of it.
    pub(super) async fn end_reload(
        &mut self,
        membership: &mut Membership,
        made: Result<Made, String>,
        reloads: &mut Reloads,
    ) {
        let Reloading { request, again, .. } = reloads.under_way.take().expect("it made this");
        let outcome = match made {
            Ok(made) => self.take_over(membership, made, &request, &mut reloads.owes_addresses).await,
            Err(error) => Ok(Outcome::Refused(error)),
        };
        match outcome {
            Ok(outcome) => {
                self.show(membership);
                self.answer(membership.timeline(), request, outcome);
                if again {
                    self.begin_reload(membership, Request::BY_SIGNAL, reloads);
                }
            }
            Err(source) => {
                reloads.under_way = self.start_reload(membership, request, source);
                reloads.under_way.iter_mut().for_each(|reloading| reloading.again = again);
            }
        }
    }

    fn answer(&mut self, timeline: &Timeline, request: Request, outcome: Outcome) {
        let Request { purpose, to, adopts } = request;
        if let (Purpose::Reload { .. }, Some(published), Some(group)) = (&purpose, adopts, &mut self.group) {
            let refused = if let Outcome::Refused(error) = &outcome { Some(error.as_str()) } else { None };
            group.adopted(*published, refused);
        }
        if let (Purpose::Publish(published), Outcome::Done(_)) = (&purpose, &outcome) {
            let (Some(group), Some(to), Outcome::Done(changes)) = (&self.group, to, outcome) else { return };
            return group.publish((**published).clone(), to, changes);
        }
        if matches!(purpose, Purpose::Reload { .. }) {
            self.supervisor.ready();
            note(timeline, &outcome);
            let tell = |changes: &[String]| changes.iter().for_each(|change| tracing::info!("reload: {change}"));
            match &outcome {
                Outcome::Done(changes) => tell(changes),
                Outcome::Partly(changes, trouble) => {
                    tell(changes);
                    tracing::error!("reload: {trouble}");
                }
                Outcome::Refused(error) => tracing::error!("reload: nothing was changed: {error}"),
                Outcome::Compared(_) => {}
            }
        }
        let Some(to) = to else { return };
        let _ = to.send(match outcome {
            Outcome::Done(mut changes) => {
                // Of a rehearsal there is nothing to know.
                if matches!(purpose, Purpose::Reload { .. }) {
                    changes.extend(self.engine.remark());
                }
                Answer::Done { changes }
            }
            Outcome::Partly(_, error) | Outcome::Refused(error) => Answer::Refused { error },
            Outcome::Compared(diff) => Answer::Diff(diff),
        });
    }

    /// `Err`: what must be worked out again. `owes`: whether the interface takes the frames of other addresses than it should.
    async fn take_over(
        &mut self,
        membership: &mut Membership,
        made: Made,
        request: &Request,
        owes: &mut bool,
    ) -> Result<Outcome, Source> {
        let Made { prepared, host, warnings, addresses: after } = made;
        if let Purpose::Compare(file) = &request.purpose {
            let config = file.as_ref().unwrap_or(&self.config).clone();
            let orders = membership.orders_told();
            return Ok(Outcome::Compared(Diff { config, warnings, orders, ..prepared.compared(host.err()) }));
        }
        let force = match &request.purpose {
            Purpose::Reload { force } | Purpose::Rehearse { force } => *force,
            Purpose::Publish(published) => published.force,
            Purpose::Compare(_) => false,
        };
        let confirmed = || if force { Ok(()) } else { prepared.confirm() };
        let refused =
            host.and_then(|()| prepared.possible().and_then(|()| confirmed()).map_err(|error| error.to_string()));
        if let Err(error) = refused {
            return Ok(Outcome::Refused(error));
        }
        let warned = warnings.iter().map(|warning| format!("warning: {warning}"));
        if !request.is_reload() {
            let mut changes = prepared.changes();
            changes.extend(warned);
            if matches!(request.purpose, Purpose::Rehearse { .. }) {
                changes.push("dry run: nothing was changed".to_owned());
            }
            return Ok(Outcome::Done(changes));
        }
        let before = membership.plan().cluster_addresses();
        let (mut changes, update) = match membership.reload(prepared).await {
            Ok(Reloaded::Done(changes, update)) => (changes, update),
            Ok(Reloaded::Outdated(plan)) => return Err(Source::Read(plan, warnings)),
            Err(error) => return Ok(Outcome::Refused(error.to_string())),
        };
        changes.extend(warned);
        // What goes is the kernel's before workers lose sight of it, and what comes is theirs before it is taken.
        let staying: Vec<Prefix> = before.intersection(&after).copied().collect();
        let mut taken = Ok(());
        if staying.len() < before.len() {
            taken = self.engine.take_addresses(&staying);
            tokio::time::sleep(DRAIN).await;
        }
        match update {
            // In any case: the tables that come are of this layout.
            Some(update) => self.engine.publish(membership, update),
            None if *owes => {}
            None => changes.push("nothing has changed".to_owned()),
        }
        if staying.len() < after.len() || taken.is_err() || *owes {
            taken = self.engine.take_addresses(&after.into_iter().collect::<Vec<_>>());
        }
        let owed = std::mem::replace(owes, taken.is_err());
        Ok(match taken {
            Ok(()) => {
                let late = "the interface takes the frames of the addresses of this configuration now";
                changes.extend(owed.then(|| late.to_owned()));
                Outcome::Done(changes)
            }
            Err(error) => {
                let trouble = format!(
                    "the new configuration is in use, but the interface does not take the frames of all of its addresses: {error}; \
                     reload again"
                );
                Outcome::Partly(changes, trouble)
            }
        })
    }
}

fn note(timeline: &Timeline, outcome: &Outcome) {
    let (grade, text) = match outcome {
        Outcome::Done(changes) => (Grade::Ok, changes.join("; ")),
        Outcome::Partly(_, trouble) => (Grade::Fail, trouble.clone()),
        Outcome::Refused(error) => (Grade::Warn, format!("nothing was changed: {error}")),
        Outcome::Compared(_) => return,
    };
    timeline.tell(Told { kind: Kind::Reload, grade, text: &format!("reload: {text}"), mark: None });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin;
    use crate::admin::status::Status;
    use crate::control::membership::{Side, Update};
    use crate::engine::Engine;
    use crate::engine::worker_pool::WorkerPool;
    use crate::error::Failure;
    use crate::host::supervisor::Supervisor;
    use crate::metrics::latest::Latest;
    use std::fs;
    use std::io;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Arc, Mutex};
    use tokio::sync::mpsc;

    /// Workers, and an interface that takes no addresses while it is told not to.
    struct Stubborn {
        workers: WorkerPool,
        refuses: bool,
        asked: Vec<Vec<Prefix>>,
    }

    impl Engine for Stubborn {
        fn publish(&mut self, membership: &mut Membership, update: Update) {
            let table = membership.table();
            match update {
                Update::Table => self.workers.publish(table),
                Update::Layout => self.workers.publish_layout(membership.plan(), table, None),
            }
        }

        fn take_addresses(&mut self, addresses: &[Prefix]) -> Result<(), Failure> {
            self.asked.push(addresses.to_vec());
            if self.refuses { Err("no memory".into()) } else { Ok(()) }
        }

        fn host_check(&self) -> HostCheck {
            |_| Ok(())
        }

        fn describe(&self, _status: &mut Status) {}

        fn can_watch(&self) -> Result<(), String> {
            Ok(())
        }
    }

    /// Needs no privileges: every MAC is known, and nothing is checked.
    fn config(services: u8) -> String {
        let service = |n: u8| {
            format!(
                "[[service]]\nname = \"web{n}\"\naddress = \"203.0.113.{n}\"\n[[service.server]]\nname = \"a\"\naddress = \
                 \"192.0.2.1\"\nmac = \"02:00:00:00:00:01\"\n"
            )
        };
        let head = "[cluster]\nhash_key = \"8f3a1c5e7b9d2046a1b3c5d7e9f00112\"\n[dispatcher]\ninterface = \"eth1\"\n";
        head.to_owned() + &(1..=services).map(service).collect::<String>()
    }

    fn controller(
        config: PathBuf,
        orders: mpsc::Receiver<admin::Asked>,
        started: Instant,
        engine: &mut dyn Engine,
    ) -> Controller<'_> {
        let (overview, supervisor) = (Latest::default(), Supervisor::default());
        let findings = Latest::default();
        Controller {
            config,
            orders,
            started,
            watch: None,
            findings,
            overview,
            engine,
            supervisor,
            announcing: None,
            group: None,
        }
    }

    /// What the operator is answered.
    async fn reload(controller: &mut Controller<'_>, membership: &mut Membership, reloads: &mut Reloads) -> Answer {
        let (to, answer) = oneshot::channel();
        controller.begin_reload(membership, Request::new(Purpose::Reload { force: false }, Some(to)), reloads);
        let made = reloads.made().await;
        controller.end_reload(membership, made, reloads).await;
        answer.await.expect("it is answered")
    }

    /// What a log is written to.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panics").write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut self.0.lock().expect("nobody panics"))).expect("text")
        }
    }

    /// Whoever may order need not be allowed to read: what is wrong with another file is not told, since it may be any.
    #[test]
    fn of_a_file_that_is_no_configuration_nothing_is_told_to_who_names_it() {
        let folder = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            fs::write(&file, text).expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
            file
        };
        let (own, next) = (write("t.toml", &config(2)), write("next.toml", &config(3)));
        let secret = write("shadow", "root:$6$secret:19000:0:99999:7:::\n");
        let plan = config::load(&own).expect("it is a configuration").plan;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let opened = Membership::open(plan, (Side::Dispatcher, "eth1", None), &[], None).await;
            let mut membership = opened.expect("it needs nothing of the kernel");
            let table = membership.table();
            let workers = WorkerPool::idle(membership.plan(), table).expect("threads");
            let mut engine = Stubborn { workers, refuses: false, asked: Vec::new() };
            let (_orders, orders) = mpsc::channel::<admin::Asked>(1);
            let mut controller = self::controller(own.clone(), orders, Instant::now(), &mut engine);
            let mut reloads = Reloads::default();
            let mut compare = async |file: Option<PathBuf>| {
                let (to, answer) = oneshot::channel();
                let request = Request::new(Purpose::Compare(file), Some(to));
                controller.begin_reload(&membership, request, &mut reloads);
                let made = reloads.made().await;
                controller.end_reload(&mut membership, made, &mut reloads).await;
                answer.await.expect("it is answered")
            };
            let answer = compare(None).await;
            assert!(matches!(&answer, Answer::Diff(diff) if diff.same && diff.config == own), "{answer:?}");
            let answer = compare(Some(next.clone())).await;
            let Answer::Diff(diff) = answer else { panic!("{answer:?}") };
            assert_eq!(
                (diff.config, diff.changes),
                (next, vec!["service web3 added (203.0.113.3, 1 server)".to_owned()])
            );
            let answer = compare(Some(secret)).await;
            let Answer::Refused { error } = answer else { panic!("{answer:?}") };
            assert!(error.contains("`oneip check -c ") && !error.contains("secret:"), "{error}");
            fs::write(&own, "[clutter]\n").expect("written");
            let answer = compare(None).await;
            let Answer::Refused { error } = answer else { panic!("{answer:?}") };
            assert!(error.contains("clutter"), "of the own file all is told: {error}");
            assert_eq!(membership.plan().services.len(), 2, "nothing is taken over");
            engine.workers.stop().expect("no thread panics");
        });
    }

    #[test]
    fn addresses_that_cannot_be_taken_keep_nothing_from_being_published_and_are_taken_later() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("t.toml");
        fs::write(&file, config(2)).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
        let plan = config::load(&file).expect("it is a configuration").plan;
        let log = Log::default();
        let writer = log.clone();
        let _logged = tracing::subscriber::set_default(
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish(),
        );
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let opened = Membership::open(plan, (Side::Dispatcher, "eth1", None), &[], None).await;
            let mut membership = opened.expect("it needs nothing of the kernel");
            membership.set_workers(1);
            let table = membership.table();
            let workers = WorkerPool::idle(membership.plan(), table).expect("threads");
            let mut engine = Stubborn { workers, refuses: true, asked: Vec::new() };
            let (_orders, orders) = mpsc::channel::<admin::Asked>(1);
            let started = Instant::now();
            let mut controller = self::controller(file.clone(), orders, started, &mut engine);
            let mut reloads = Reloads::default();

            fs::write(&file, config(3)).expect("written");
            let layout = membership.table().layout;
            let answer = reload(&mut controller, &mut membership, &mut reloads).await;
            let Answer::Refused { error } = answer else { panic!("{answer:?}") };
            assert!(
                error.starts_with("the new configuration is in use, but") && error.contains("no memory"),
                "{error}"
            );
            let logged = log.take();
            assert!(logged.contains("INFO") && logged.contains("reload: service web3 added"), "{logged}");
            assert!(logged.contains("ERROR") && logged.contains("reload: the new configuration is in use"), "{logged}");
            assert!(!logged.contains("nothing was changed"), "{logged}");
            assert_eq!(membership.plan().services.len(), 3);
            // Of another layout, which the workers know.
            assert_ne!(membership.table().layout, layout);
            controller.engine.publish(&mut membership, Update::Table);

            // Nothing has changed, and the kernel goes on refusing.
            let answer = reload(&mut controller, &mut membership, &mut reloads).await;
            assert!(matches!(answer, Answer::Refused { .. }), "{answer:?}");
            drop(controller);
            engine.refuses = false;
            let (_orders, orders) = mpsc::channel::<admin::Asked>(1);
            let mut controller = self::controller(file, orders, started, &mut engine);
            for expected in
                ["the interface takes the frames of the addresses of this configuration now", "nothing has changed"]
            {
                let answer = reload(&mut controller, &mut membership, &mut reloads).await;
                let Answer::Done { changes } = answer else { panic!("{answer:?}") };
                assert_eq!(changes, [expected]);
            }
            drop(controller);
            let all: Vec<Prefix> = (1..=3).map(|n| Prefix::host([203, 0, 113, n].into())).collect();
            assert_eq!(engine.asked, [all.clone(), all.clone(), all], "three times, and not when nothing is owed");
            engine.workers.stop().expect("no thread panics");
        });
    }
}

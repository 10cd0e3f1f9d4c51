//! The engine `xdp`: the dispatcher inside the kernel. A program decides every frame on the core that takes the NIC's interrupt; this
//! process only keeps the program's table up to date, and reads what it counts.

use super::device::{attach_all, folder, forget, place};
use super::kernel_metrics::CoreMetrics;
use super::{Attached, Dispatching, Engine, Facts, HostCheck, Opened, Start, on_interfaces};
use crate::admin::status::{ProgramStatus, Status, WorkerStatus};
use crate::control::interface::InterfaceWatch;
use crate::control::membership::{Membership, Update};
use crate::error::Failure;
use crate::host::{self, clock, privileges};
use crate::limits::{CENSUS_EVERY, CENSUS_PART, DRAIN, KERNEL_RETRY};
use crate::metrics::collect::{self, Collector, Sources, Stats, Troubles};
use crate::metrics::source::boxed;
use crate::metrics::summary::Summary;
use crate::model::{Dispatcher, Plan, Prefix, Xdp};
use crate::table::Table;
use crate::table::flow_table::FlowTable;
use crate::xdp::dispatch::{Books, Dispatch, Flows, PublishError, Reader, Setup};
use crate::xdp::link::{self, Attachment, Place};
use crate::xdp::privileges as needed;
use crate::xdp::{Device, Features, MEND_VETH, Mode, check_alike};
use aya::programs::xdp::XdpLink;
use caps::Capability;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use tokio::time::{Instant, Interval, interval};

/// The interface that a configuration names.
///
/// # Errors
/// It does not exist, is no Ethernet or is down, or the process lacks privileges.
pub fn open(dispatcher: &Dispatcher) -> Result<Box<dyn Opened>, Failure> {
    needed::check(&dispatcher.interface, &needed::PROGRAM)?;
    needed::raise_memory_lock_limit();
    let devices = dispatcher.interfaces().map(Device::read).collect::<Result<Vec<_>, _>>()?;
    check_alike(&devices)?;
    if dispatcher.cores.is_some() {
        tracing::warn!(
            "the engine xdp ignores `cores`: it runs on the cores that take the interrupts of {} \
             (/proc/irq/*/smp_affinity_list sets them)",
            dispatcher.interface
        );
    }
    Ok(Box::new(OpenedKernel { devices, settings: dispatcher.clone() }))
}

struct OpenedKernel {
    /// The first one, and the others.
    devices: Vec<Device>,
    settings: Dispatcher,
}

impl Opened for OpenedKernel {
    fn facts(&self) -> Facts {
        Facts::of(&self.devices)
    }

    fn attach(self: Box<Self>, _cluster_addresses: &[Prefix], table: Table) -> Result<Box<dyn Attached>, Failure> {
        let OpenedKernel { devices, settings } = *self;
        let (egress, xdp) = match &devices[..] {
            [device] => way_out(device, settings.xdp),
            _ => (devices[0].index, between(&devices, settings.xdp)),
        };
        let setup = Setup::of(&devices, egress, settings.flows);
        let places = devices.iter().map(|device| place(device, &settings)).collect();
        let program = Program::begin(setup, places, xdp, table)?;
        let is_several = devices.len() > 1 && program.attachment.mode == Mode::Native;
        match devices.iter().find(|device| is_several && !Features::of(device.index).transmits()) {
            Some(unfit) => Ok(Box::new(program.without(unfit, settings.xdp)?)),
            None => Ok(Box::new(program)),
        }
    }
}

/// How frames leave, and where the program runs. A veth sends what a program redirects to it if its other end has GRO or an XDP program, and what
/// leaves by XDP_TX only in the second case (drivers/net/veth.c, veth_xdp_flush): so frames are redirected there. If the other end has neither, only
/// generic XDP sends anything.
fn way_out(device: &Device, xdp: Option<Xdp>) -> (u32, Option<Xdp>) {
    let Device { interface, index, .. } = device;
    if device.driver != "veth" || xdp == Some(Xdp::Generic) {
        return (0, xdp);
    }
    if device.transmits() {
        return (*index, xdp);
    }
    let mend = format!("{MEND_VETH} (the other end of the veth), and start again");
    if xdp == Some(Xdp::Native) {
        tracing::warn!("{interface} does not send what its XDP program forwards: {mend}");
        return (*index, xdp);
    }
    tracing::warn!(
        "{interface} does not send what a native XDP program forwards: using generic XDP, which is slow; {mend}"
    );
    (0, Some(Xdp::Generic))
}

/// Where the program runs on several interfaces: in the drivers, if each of them runs it and sends what is redirected to it from another
/// one. A driver's program and a generic one cannot send to each other's interfaces with any certainty. Most drivers send, and say so, only while they
/// have a program themselves (`xdp_features_set_redirect_target`, net/core/xdp.c): what they say then comes later.
fn between(devices: &[Device], xdp: Option<Xdp>) -> Option<Xdp> {
    if xdp == Some(Xdp::Generic) {
        return xdp;
    }
    let is_fit = |device: &&Device| Features::of(device.index).is_native() && device.transmits();
    match devices.iter().find(|device| !is_fit(device)) {
        Some(unfit) => without(unfit, xdp),
        None => Some(Xdp::Native),
    }
}

/// What is done where a driver does not send what others redirect to it.
fn without(unfit: &Device, xdp: Option<Xdp>) -> Option<Xdp> {
    let Device { interface, driver, .. } = unfit;
    let mend = if driver == "veth" {
        format!("; {MEND_VETH} (the other end of the veth), and start again")
    } else {
        String::new()
    };
    let generic = if xdp.is_none() { ": using generic XDP on all interfaces, which is slow" } else { "" };
    tracing::warn!("{interface} does not send what native XDP programs of other interfaces forward{generic}{mend}");
    xdp.or(Some(Xdp::Generic))
}

/// The program on its interfaces.
struct Program {
    dispatch: Dispatch,
    setup: Setup,
    /// What it decides by.
    table: Table,
    flows: Vec<FlowTable>,
    events: Reader,
    links: Vec<XdpLink>,
    attachment: Attachment,
    /// The first interface's, and the others'.
    places: Vec<Place>,
    xdp: Option<Xdp>,
}

impl Program {
    /// Attaches the program, in the place of one that an earlier process has left.
    fn begin(setup: Setup, places: Vec<Place>, xdp: Option<Xdp>, table: Table) -> Result<Program, Failure> {
        let at = (xdp, true);
        let folder = folder(&places[0])?;
        let mut dispatch = match &folder {
            Some(folder) => Dispatch::load_kept(setup, &table, folder)?,
            None => Dispatch::load(setup, &table)?,
        };
        let mut links = Vec::with_capacity(places.len());
        let attachment = attach_all(&places, |place| {
            let (link, attachment) = match folder {
                Some(_) => link::attach(dispatch.program(), place, at)?,
                None => link::attach_unpinned(dispatch.program(), place, at)?,
            };
            links.push(link);
            Ok(attachment)
        })?;
        let (mut events, flows) = (Reader::new(dispatch.split().1)?, flow_tables(&dispatch.flows()));
        events.follow(&table);
        Ok(Program { dispatch, setup, table, flows, events, links, attachment, places, xdp })
    }

    /// In the place of this one, which was attached in the drivers, one that does without what a driver does not send.
    fn without(self, unfit: &Device, xdp: Option<Xdp>) -> Result<Program, Failure> {
        let xdp = without(unfit, xdp);
        if xdp != Some(Xdp::Generic) || self.attachment.taken_over {
            return Ok(self);
        }
        self.places.iter().try_for_each(forget)?;
        let Program { dispatch, links, setup, table, places, .. } = self;
        drop(links);
        dispatch.close()?;
        Program::begin(setup, places, xdp, table)
    }

    /// Puts a program with room for a larger table in the place of this one. The kernel exchanges the two between two frames.
    fn renew(&mut self, table: Table) -> Result<(), Failure> {
        let Program { setup, ref places, xdp, .. } = *self;
        if !self.attachment.stays {
            return Err("the maps of the running program are too small for this table; restart oneip".into());
        }
        let new = Program::begin(setup, places.clone(), xdp, table)?;
        std::mem::replace(self, new).dispatch.close()?;
        Ok(())
    }

    /// Reads what became of watched frames.
    fn read_events(&mut self) {
        self.events.read(self.dispatch.split().1);
    }

    /// Notes of which servers flows are remembered, where the table wants to know: a part of each flow table.
    fn count_flows(&mut self) {
        let (Program { flows, table, .. }, now) = (self, clock::now_ns());
        for (queue, flows) in flows.iter_mut().enumerate() {
            (0..CENSUS_PART).for_each(|_| flows.count(table, queue, now));
        }
    }
}

impl Attached for Program {
    fn text(&self) -> String {
        let Attachment { mode, taken_over, stays } = self.attachment;
        let slow = if mode == Mode::Generic { ", which is slow" } else { "" };
        let taken_over = if taken_over { ", taken over from the process before" } else { "" };
        let stays = if stays { ", goes on if this process is killed" } else { "" };
        format!("XDP program in the kernel, {mode}{slow}{taken_over}{stays}")
    }

    fn start(mut self: Box<Self>, start: Start) -> Result<Box<dyn Dispatching>, Failure> {
        let Start { plan, reports, .. } = start;
        let (stats, inbox) = collect::channel();
        let troubles = Troubles::default();
        let books = self.dispatch.open_books(&self.table)?;
        let cores = books.cores();
        open_sources(&stats, plan, &books, &self.dispatch.flows());
        let sources = Sources {
            workers: cores,
            beside: 0,
            close: Box::new(|| {}),
            device_counters: None,
            troubles: troubles.clone(),
        };
        let collector = thread::Builder::new().name("oneip-stats".into()).spawn(move || {
            privileges::drop_all();
            collect::run(sources, reports, &inbox)
        })?;
        let program = self.dispatch.program().info()?;
        let number = program.id();
        Ok(Box::new(Kernel { number, program: *self, cores, stats, collector, troubles, census: None, retry: None }))
    }
}

/// Has the books read, a source a core, and the flow tables' reports.
fn open_sources(stats: &Stats, plan: &Arc<Plan>, books: &Books, flows: &Flows) {
    stats.open(Arc::clone(plan), boxed(CoreMetrics::all(books, flow_tables(flows)).collect()));
}

fn flow_tables(flows: &Flows) -> Vec<FlowTable> {
    (0..flows.queues()).map(|queue| flows.of_queue(queue)).collect()
}

struct Kernel {
    program: Program,
    /// By which the kernel tells the program from others.
    number: u32,
    cores: usize,
    stats: Stats,
    collector: JoinHandle<Collector>,
    troubles: Troubles,
    /// When flow tables are gone through, while that is wanted.
    census: Option<Interval>,
    /// The last table could not be published; when to try again.
    retry: Option<Instant>,
}

impl Dispatching for Kernel {
    fn stats(&self) -> Stats {
        self.stats.clone()
    }

    fn needs(&self) -> &'static [Capability] {
        &privileges::KERNEL
    }

    fn stop(self: Box<Self>) -> Result<Summary, Failure> {
        if self.program.attachment.stays {
            self.program.places.iter().try_for_each(forget)?;
        }
        self.leave()
    }

    fn leave(self: Box<Self>) -> Result<Summary, Failure> {
        let Kernel { program: Program { links, .. }, stats, collector, .. } = *self;
        drop(links);
        // Frames that the program has begun with are counted.
        thread::sleep(DRAIN);
        stats.stop();
        let collector = collector.join().map_err(|_| "the stats thread ended in a panic")?;
        Ok(collector.summary())
    }
}

impl Engine for Kernel {
    fn publish(&mut self, membership: &mut Membership, update: Update) {
        let table = membership.table();
        self.program.read_events();
        if update == Update::Layout {
            match self.program.dispatch.open_books(&table) {
                Ok(books) => {
                    open_sources(&self.stats, membership.plan(), &books, &self.program.dispatch.flows());
                }
                Err(PublishError::Full) => return self.renew(membership.plan(), table),
                Err(error) => return self.try_again(&error),
            }
        }
        match self.program.dispatch.publish(&table) {
            Ok(()) => {
                self.program.events.follow(&table);
                (self.program.table, self.retry) = (table, None);
            }
            Err(PublishError::Full) => self.renew(membership.plan(), table),
            Err(error) => self.try_again(&error),
        }
    }

    fn due(&self) -> Option<Instant> {
        self.retry
    }

    fn poll_work(&mut self, context: &mut Context) -> Poll<()> {
        if !self.program.table.wants_census() {
            return Poll::Pending;
        }
        self.census.get_or_insert_with(|| interval(CENSUS_EVERY)).poll_tick(context).map(|_| ())
    }

    fn work(&mut self, _membership: &mut Membership) {
        self.program.count_flows();
    }

    fn seen(&self) -> Option<u64> {
        Some(self.program.dispatch.seen())
    }

    fn see(&mut self, interface: &InterfaceWatch) {
        on_interfaces::see(interface, self.number, &self.troubles);
    }

    /// Which addresses those are stands in the table.
    fn take_addresses(&mut self, _addresses: &[Prefix]) -> Result<(), Failure> {
        Ok(())
    }

    fn host_check(&self) -> HostCheck {
        |new| Ok(host::check(new)?)
    }

    fn describe(&self, status: &mut Status) {
        status.mode = "dispatcher".to_owned();
        status.engine = Some("xdp".to_owned());
        let core = |core| WorkerStatus { worker: core, core, ..WorkerStatus::default() };
        status.workers = (0..self.cores).map(core).collect();
        status.program =
            self.program.dispatch.run_time().map(|(run_time_ns, runs)| ProgramStatus { run_time_ns, runs });
    }

    fn can_watch(&self) -> Result<(), String> {
        Ok(())
    }

    fn read_watched(&mut self) {
        self.program.read_events();
    }
}

impl Kernel {
    /// The table has outgrown the program's maps.
    fn renew(&mut self, plan: &Arc<Plan>, table: Table) {
        let renewed = self.program.renew(table).and_then(|()| {
            let Program { dispatch, table, .. } = &mut self.program;
            open_sources(&self.stats, plan, &dispatch.open_books(table)?, &dispatch.flows());
            self.number = dispatch.program().info()?.id();
            Ok(())
        });
        match renewed {
            Ok(()) => self.retry = None,
            Err(error) => self.try_again(&error),
        }
    }

    fn try_again(&mut self, error: &dyn fmt::Display) {
        tracing::error!("the program continues with its current table: {error}");
        self.retry = Some(Instant::now() + KERNEL_RETRY);
    }
}

//! The verbs. The only place that exits.

use clap::Parser;
use oneip::cli::{
    Check, Cli, Config, Decap, Doctor, Filter, Guard, Import, Lookup, Replay, Run, Server, ServerArguments, ServerVerb,
    Simulate, Verb, manual, schema,
};
use oneip::config::{self, Loaded};
use oneip::error::{Exit, Failure};
use oneip::host::privileges;
use oneip::log::{self, Format};
use oneip::model::Plan;
use oneip::server::Dispatch;
use oneip::verbs;
use oneip::verbs::simulate;
use oneip::{ctl, doctor, pktgen, run, server};
use std::fmt::Display;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    let asked = match &verb {
        Verb::Run(Run { log, .. }) | Verb::Filter(Filter { log, .. }) | Verb::Decap(Decap { log, .. }) => log.log,
        _ => Some(Format::Text),
    };
    let format = match log::begin(asked) {
        Ok(format) => format,
        Err(wrong) => {
            log::fail(Format::Text, &wrong);
            return ExitCode::from(2);
        }
    };
    let done = match verb {
        Verb::Run(arguments) => run(arguments),
        Verb::Filter(arguments) => filter(arguments),
        Verb::Decap(arguments) => decap(arguments),
        Verb::Check(arguments) => check(&arguments),
        Verb::Import(arguments) => import(&arguments),
        Verb::Doctor(arguments) => doctor(arguments),
        Verb::Replay(arguments) => replay(&arguments),
        Verb::Lookup(arguments) => lookup(&arguments),
        Verb::Simulate(arguments) => simulate(&arguments),
        Verb::Ctl(arguments) => ctl::run(arguments),
        Verb::Pktgen(arguments) => pktgen::run(&arguments),
        Verb::Server(Server { verb: ServerVerb::Add(arguments) }) => server(&arguments, server::add),
        Verb::Server(Server { verb: ServerVerb::Remove(arguments) }) => {
            server(&arguments, |plan, name, _| server::remove(plan, name))
        }
        Verb::Server(Server { verb: ServerVerb::Check(arguments) }) => server(&arguments, server::check),
        Verb::Guard(Guard { interface, table, hold_s }) => {
            run::guard::run(&interface, table, Duration::from_secs(hold_s))
        }
        Verb::Man(arguments) => manual::write(&arguments.directory).map_err(Failure::from),
        Verb::Completions(arguments) => {
            manual::completions(arguments.shell, io::stdout().lock()).map_err(Failure::from)
        }
        Verb::Schema(_) => print(format!("{:#}", schema::schema())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(failure) if is_broken_pipe(&failure) => ExitCode::SUCCESS,
        Err(failure) => match failure.downcast::<Exit>() {
            Ok(exit) => {
                exit.why.into_iter().for_each(|why| log::fail(format, &why));
                ExitCode::from(exit.code)
            }
            Err(failure) => {
                log::fail(format, &failure);
                ExitCode::FAILURE
            }
        },
    }
}

fn is_broken_pipe(failure: &Failure) -> bool {
    failure.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn run(arguments: Run) -> Result<(), Failure> {
    let Run { config, down, stats, hlog, takeover, detach, json, log: _ } = arguments;
    let (config, plan) = load_for_long(&config.config)?;
    if detach {
        return run::detach(&plan);
    }
    run::run(plan, run::Options { config, down: down.down, stats, hlog, takeover, json })
}

/// For a process that reads it again: by the same name in full, which may be a link that leads elsewhere by then. And one that
/// crashes some day with the key in its memory.
fn load_for_long(file: &Path) -> Result<(PathBuf, Plan), Failure> {
    privileges::hide_memory();
    let file = std::path::absolute(file)?;
    let Loaded { plan, warnings } = config::load(&file)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok((file, plan))
}

fn filter(Filter { config, server, down, json, detach, log: _ }: Filter) -> Result<(), Failure> {
    let (config, plan) = load_for_long(&config.config)?;
    if detach {
        return run::filter::detach(&plan);
    }
    run::filter::run(plan, run::on_server::Options { config, server, down: down.down, json })
}

fn decap(Decap { config, server, json, detach, log: _ }: Decap) -> Result<(), Failure> {
    let (config, plan) = load_for_long(&config.config)?;
    if detach {
        return run::decap::detach(&plan, server.as_deref());
    }
    run::decap::run(plan, run::on_server::Options { config, server, down: Vec::new(), json })
}

fn import(Import { files, interface }: &Import) -> Result<(), Failure> {
    let imported = verbs::import::run(files, interface.as_deref())?;
    for remark in imported.remarks {
        eprintln!("{remark}");
    }
    print(imported.configuration.trim_end())
}

fn check(Check { config: Config { config } }: &Check) -> Result<(), Failure> {
    let plan = verbs::load(config)?;
    let cluster = verbs::cluster(&plan, &[])?;
    for warning in verbs::check::warnings(&plan) {
        eprintln!("warning: {warning}");
    }
    print(verbs::check::plan(&plan, &cluster).trim_end())?;
    verbs::check::against_running(&plan, config).map_or(Ok(()), |text| print(text.trim_end()))
}

fn doctor(Doctor { config, server, json, seconds, root }: Doctor) -> Result<(), Failure> {
    let options = doctor::Options { config, root, seconds: Duration::from_secs(seconds) };
    let report = match (server, &options.config) {
        (Some(server), Some(config)) => doctor::examine_server(&verbs::load(config)?, server.as_deref(), &options)?,
        _ => doctor::examine(&options),
    };
    if json { print(report.json()) } else { print(&report) }?;
    Ok(report.verdict()?)
}

fn replay(arguments: &Replay) -> Result<(), Failure> {
    let Replay { config, input, output, down, json, verdicts, change } = arguments;
    let plan = verbs::load(&config.config)?;
    let cluster = verbs::cluster(&plan, &down.down)?;
    let summary =
        verbs::replay::run(&plan, cluster, &config.config, (input, output), verdicts.as_deref(), change.clone())?;
    if *json { print(summary.json()) } else { print(summary) }
}

fn lookup(arguments: &Lookup) -> Result<(), Failure> {
    let Lookup { config, service, down, json, addresses } = arguments;
    let plan = verbs::load(&config.config)?;
    let service = verbs::lookup::service(&plan, service.as_deref())?;
    let table = verbs::cluster(&plan, &down.down)?.compile();
    let read;
    let clients = if addresses.is_empty() {
        read = verbs::lookup::addresses(io::stdin().lock())?;
        &read
    } else {
        addresses
    };
    verbs::lookup::run(&table, service, clients, *json, BufWriter::new(io::stdout().lock()))?;
    Ok(())
}

fn simulate(arguments: &Simulate) -> Result<(), Failure> {
    let Simulate { config, clients, service, add_server, dispatchers, json, svg } = arguments;
    let plan = verbs::load(&config.config)?;
    let (_, service) = verbs::lookup::service(&plan, service.as_deref())?;
    let report = simulate::run(&plan, service, clients, add_server.as_ref(), *dispatchers)?;
    if let Some(file) = svg {
        simulate::draw(&report, file)?;
    }
    if *json { print(report.json()) } else { print(report) }
}

fn server(
    ServerArguments { config, server, broadcast, group }: &ServerArguments,
    verb: fn(&Plan, Option<&str>, Dispatch) -> Result<server::Report, server::Error>,
) -> Result<(), Failure> {
    let plan = verbs::load(&config.config)?;
    let dispatch = if *broadcast { Dispatch::Broadcast { group: *group } } else { Dispatch::Routing };
    let report = verb(&plan, server.as_deref(), dispatch)?;
    print(&report)?;
    Ok(report.verdict()?)
}

/// `println!` panics when whoever reads has gone.
fn print(text: impl Display) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

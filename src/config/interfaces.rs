//! The interfaces of a dispatcher: `interface` is a name, or a section for each.

use super::report::Report;
use super::schema;
use super::section::{At, Section, integer_element};
use super::value::{self};
use crate::limits::{MAX_INTERFACES, MAX_QUEUES};
use crate::model::{Engine, Queues};
use std::collections::HashMap;

/// The first one comes first.
pub struct InterfacesDraft {
    /// Those that have one.
    pub names: Vec<At<String>>,
    /// Of each.
    pub queues: Vec<Queues>,
    /// Of all workers, wherever they are written; `None`: nowhere, or for each interface.
    pub cores: Option<Vec<usize>>,
}

type Cores = Vec<At<usize>>;

impl InterfacesDraft {
    /// `section` is the dispatcher's, `engine` the one that it asks for.
    pub fn read(section: &Section, engine: Engine, report: &mut Report) -> InterfacesDraft {
        let cores = read_cores(section, report).map(numbers);
        if !section.is_list("interface") {
            let name = section.text("interface", report, value::interface);
            return InterfacesDraft { names: name.into_iter().collect(), queues: vec![Queues::default()], cores };
        }
        let sections = section.tables("interface", MAX_INTERFACES, &schema::INTERFACE, report);
        let names: Vec<At<String>> =
            sections.iter().filter_map(|section| section.text("name", report, value::interface)).collect();
        check_names(&names, report);
        let several = sections.len() > 1;
        let read = |section: &Section, report: &mut Report| read_queues(section, (engine, several), report);
        let mut queues: Vec<(Option<u32>, Option<Cores>)> =
            sections.iter().map(|section| read(section, report)).collect();
        let listed = sections
            .iter()
            .zip(&queues)
            .find_map(|(section, (_, cores))| section.key_at("cores").filter(|_| cores.is_some()));
        if let (Some(at), Some(of_all)) = (listed, section.key_at("cores")) {
            let line = report.line(of_all);
            report.error(at, format!(
                "`cores` is given on line {line} too, for the workers of all interfaces; write it there, or for each interface"
            ));
        }
        // Of one interface, they are those of all workers.
        if let ([(_, of_one)], None) = (&mut queues[..], &cores) {
            let cores = of_one.take().map(numbers);
            return InterfacesDraft { names, queues: counts(queues), cores };
        }
        if listed.is_some() && cores.is_none() {
            check_cores(&sections, &queues, report);
        }
        InterfacesDraft { names, queues: counts(queues), cores }
    }
}

fn numbers(cores: Cores) -> Vec<usize> {
    cores.into_iter().map(|core| core.value).collect()
}

fn counts(queues: Vec<(Option<u32>, Option<Cores>)>) -> Vec<Queues> {
    queues.into_iter().map(|(count, cores)| Queues { count, cores: cores.map(numbers) }).collect()
}

fn check_names(names: &[At<String>], report: &mut Report) {
    let mut seen = HashMap::new();
    for name in names {
        if let Some(other) = seen.insert(&name.value, name.at) {
            let line = report.line(other);
            report.error(
                name.at,
                format!("interface \"{}\" is already given on line {line}; each has its own name", name.value),
            );
        }
    }
}

/// `several`: there is another interface.
fn read_queues(
    section: &Section,
    (engine, several): (Engine, bool),
    report: &mut Report,
) -> (Option<u32>, Option<Cores>) {
    for (key, of_all) in [("queues", "[dpdk]"), ("cores", "[dispatcher]")] {
        let Some(at) = section.key_at(key) else { continue };
        let why = match engine {
            Engine::Xdp => format!(
                "the engine xdp runs on every queue, on the core that takes the queue's interrupts; leave `{key}` out"
            ),
            Engine::Dpdk if several => format!(
                "with the engine dpdk a worker serves the queue of its number of every interface; write `{key}` in {of_all}, for all of them"
            ),
            _ => continue,
        };
        report.error(at, why);
        return (None, None);
    }
    let (count, cores) = (section.integer("queues", 1..=MAX_QUEUES, report), read_cores(section, report));
    if let (Some(count), Some(cores)) = (&count, &cores)
        && (count.value as usize) < cores.len()
    {
        let (count_, listed) = (count.value, cores.len());
        report.error(count.at, format!(
            "`queues` is {count_}, but `cores` lists {listed}, and a queue is served by one core; leave `queues` out, or list at most {count_}"
        ));
    }
    (count.map(|count| count.value), cores)
}

/// A worker sends by each interface, and for that it needs a queue of each: so its core is listed for each.
fn check_cores(sections: &[Section], queues: &[(Option<u32>, Option<Cores>)], report: &mut Report) {
    let of = |at: usize| queues[at].1.as_deref().unwrap_or_default();
    for (section, (_, cores)) in sections.iter().zip(queues) {
        if cores.is_none() && section.key_at("cores").is_none() {
            report.missing(
                section.at,
                "`cores` is missing here: another interface has it, and each worker needs a queue of every interface, \
                 to send through it; write the same cores, in any order"
                    .to_owned(),
            );
        }
    }
    for (at, (_, cores)) in queues.iter().enumerate() {
        for core in cores.iter().flatten() {
            let lacking = (0..queues.len())
                .filter(|other| *other != at && queues[*other].1.is_some())
                .find(|other| of(*other).iter().all(|known| known.value != core.value));
            if let Some(other) = lacking {
                let line = report.line(sections[other].key_at("cores").unwrap_or(sections[other].at));
                report.error(core.at, format!(
                    "core {} is not among the `cores` on line {line}: a worker needs a queue of every interface, to \
                     send through it; list the same cores for each, in any order",
                    core.value
                ));
            }
        }
    }
}

fn read_cores(section: &Section, report: &mut Report) -> Option<Cores> {
    let empty = "`cores` is empty; leave the key out to use the cores near the NIC, or write cores = [2, 3]";
    let wanted = "the number of a core; write 0 or more";
    let cores = section.list("cores", report, empty, |core, report| integer_element(core, report, wanted))?;
    let mut seen = HashMap::new();
    for core in &cores {
        if let Some(other) = seen.insert(core.value, core.at) {
            let line = report.line(other);
            report.error(
                core.at,
                format!("core {} is already given on line {line}; each core runs one worker", core.value),
            );
        }
    }
    Some(cores)
}

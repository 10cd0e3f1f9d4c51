//! The page of a run: the findings first, then what they rest on.

use crate::figures::{Change, Cost, Flood, Latency, Snapshot, Tail, median, suffices};
use std::fmt::Write as _;

/// Which device is compared with which, and what it is to reach of it: workers with what the I/O itself allows and with DPDK's
/// forwarder on the same kind of socket, the program in the kernel with the kernel's nearest rule and with what a program there costs at least.
const AIMS: [(&str, &str, f64); 5] = [
    ("oneip", "reflector", 0.95),
    ("oneip", "testpmd-af_xdp", 1.0),
    ("oneip-xdp", "nftables", 2.0),
    ("oneip-xdp", "macswap", 0.75),
    ("oneip-ipip", "oneip", 0.67),
];
/// Devices of ours: the first two are compared with all others, the last one with the first.
const OURS: [&str; 3] = ["oneip", "oneip-xdp", "oneip-ipip"];
/// A p99 of so many times another's is no worse: two runs of one device differ by more.
const NO_WORSE: f64 = 1.05;
const LOADS: [&str; 5] = ["idle", "10", "50", "90", "99"];

/// As Markdown. `plots`: the names of those that there are.
pub fn page(figures: &Snapshot, plots: &[String]) -> String {
    let mut page = format!("# {}\n\n", figures.name);
    let _ = writeln!(page, "{}. {}. {}.\n", figures.fact("cpu"), figures.fact("kernel"), figures.fact("interface"));
    page += &findings(figures);
    page += &ground(figures);
    page += &throughput(figures, plots);
    page += &latency(figures, plots);
    page += &overload(figures, plots);
    page += &change(figures);
    page += &flood(figures);
    page += &growth(figures, plots);
    page += &cost(figures);
    page += &unfair(figures);
    page += &facts(figures);
    page
}

fn plot(plots: &[String], name: &str) -> String {
    if plots.iter().any(|plot| plot == name) { format!("![{name}]({name}.svg)\n\n") } else { String::new() }
}

fn kpps(pps: f64) -> String {
    if pps < 99_500.0 { format!("{:.1}", pps / 1e3) } else { format!("{:.0}", pps / 1e3) }
}

/// Of a search.
fn held(pps: f64) -> String {
    if pps > 0.0 { kpps(pps) } else { "-".to_owned() }
}

/// Of nanoseconds.
fn us(ns: Option<f64>) -> String {
    match ns.map(|ns| ns / 1e3) {
        None => "-".to_owned(),
        Some(us) if us < 100.0 => format!("{us:.1}"),
        Some(us) => format!("{us:.0}"),
    }
}

/// As it is printed: what is no less in print is no less in the verdict.
fn percent(ratio: f64) -> u64 {
    (ratio * 100.0).round() as u64
}

/// The least and the most.
fn range(values: &[f64]) -> (f64, f64) {
    (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(0.0, f64::max))
}

// ---- the findings ----

fn findings(figures: &Snapshot) -> String {
    let mut text = String::from("## Findings\n\n");
    for ours in OURS {
        let rounds = figures.rounds(ours, 4, "64");
        let Some(rate) = median(rounds.clone()) else { continue };
        let (low, high) = range(&rounds);
        let bound = if figures.generator_bound(ours, 4, "64") { "; the generator was the limit" } else { "" };
        let lost = match figures.most_lost(ours, 4, "64") {
            Some(0.0) => "without loss".to_owned(),
            Some(most) => format!("with up to {:.2} % lost", most * 100.0),
            None => format!("with no more than {} lost", figures.fact("tolerance")),
        };
        let _ = writeln!(
            text,
            "- {ours} forwards **{} kpps** of 64-byte frames {lost} ({} to {} in {} rounds{bound}).",
            kpps(rate),
            kpps(low),
            kpps(high),
            rounds.len()
        );
    }
    for ours in &OURS[..2] {
        for dut in figures.duts().into_iter().filter(|dut| !OURS.contains(dut)) {
            text += &beside(figures, ours, dut);
        }
    }
    text += &beside(figures, OURS[2], OURS[0]);
    text += &tail(figures);
    for row in &figures.change {
        let what = match row.what.as_str() {
            "none" => "nothing changed, for comparison,",
            "disable" => "a server disabled",
            "enable" => "the server enabled again",
            "reload" => "a reload that adds a server",
            "takeover" => "a new process took over (`run --takeover`)",
            _ => "killed (`kill -9`) and started again",
        };
        let late =
            row.late.map_or(String::new(), |late| format!("; {late:.0} frames reached the server after the answer"));
        let _ = writeln!(
            text,
            "- {}: {what} under {} kpps: {:.0} ms, {:.0} of {:.0} frames lost{late}.",
            row.dut,
            kpps(row.rate),
            row.ms,
            row.lost,
            row.sent
        );
    }
    text + "\n"
}

/// The throughput of `ours` by that of `dut`; nothing if one of them was not measured.
fn beside(figures: &Snapshot, ours: &str, dut: &str) -> String {
    let ratios = figures.ratios(ours, dut);
    let (low, high) = range(&ratios);
    let count = ratios.len();
    let Some(ratio) = median(ratios) else { return String::new() };
    let aim = AIMS.iter().find(|(known, other, _)| (*known, *other) == (ours, dut));
    let verdict = aim.map_or(String::new(), |(_, _, aim)| {
        format!(
            "; the target of {aim:.2} is {}",
            if percent(ratio) >= percent(*aim) { "reached" } else { "**not reached**" }
        )
    });
    let wins = if percent(ratio) < 100 { format!(" **{dut} is faster here.**") } else { String::new() };
    let bound = [(ours, format!("{ours}'s")), (dut, format!("{dut}'s"))];
    let bound: Vec<String> =
        bound.into_iter().filter(|(dut, _)| figures.generator_bound(dut, 4, "64")).map(|(_, whose)| whose).collect();
    let bound = if bound.is_empty() {
        String::new()
    } else {
        format!(" (the generator was {} limit in at least one round)", bound.join(" and "))
    };
    format!(
        "- {ours} to {dut}: **{ratio:.2}** x the throughput of {dut} with 64-byte frames, the median of {count} rounds ({low:.2} to {high:.2}){verdict}.{wins}{bound}\n"
    )
}

/// Is oneip's p99 no worse than the reflector's?
fn tail(figures: &Snapshot) -> String {
    let by_load: Vec<(&str, f64)> = LOADS.iter().filter_map(|load| Some((*load, figures.tail(load)?))).collect();
    if by_load.is_empty() {
        return String::new();
    }
    let listed: Vec<String> = by_load.iter().map(|(load, ratio)| format!("{load}: {ratio:.2}")).collect();
    let good = by_load.iter().filter(|(_, ratio)| *ratio <= NO_WORSE).count();
    let verdict =
        if good == by_load.len() { "reached".to_owned() } else { format!("reached at {good} of {}", by_load.len()) };
    format!(
        "- Ratio of oneip's p99 to that of the bare reflector, the lowest of short trials of each, by load: {}; the target of no worse (up to {NO_WORSE:.2}) is **{verdict}**.\n",
        listed.join(", ")
    )
}

fn ground(figures: &Snapshot) -> String {
    let mut text = String::from("## How to read these results\n\n");
    let real = figures.fact("interface").contains("veth");
    if real {
        text += "The link is a veth pair, and AF_XDP copies every frame in and out: there is no NIC here, and no zero copy. Absolute rates do not apply to a NIC. \
            Ratios between devices of one run are meaningful, because all devices had the same frames, on the same cores, alternately. ";
    }
    let _ = writeln!(
        text,
        "{}; {} cores in all. Sending, the DUT's driver, and counting share a core, so the DUT's rate also depends on the generator's rate. \
         Other load at the start: {}.\n",
        upper(figures.fact("cores used")),
        figures.fact("cores"),
        figures.fact("other load at the start")
    );
    let _ = writeln!(
        text,
        "Terms are those of RFC 2544. Throughput: the highest rate at which no more than {} are lost, found by binary search to within 3 %, with trials of {} (the RFC requires 60 s and no loss; \
         on a shared machine that would measure the other load). Sizes include FCS. Load: {}.\n",
        figures.fact("tolerance"),
        figures.fact("trial"),
        figures.fact("frames")
    );
    let _ = writeln!(
        text,
        "Generator: {}. Frames that came back are counted, not frames that were reported as sent.\n",
        figures.fact("generator")
    );
    text
}

fn upper(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

// ---- the tables ----

fn throughput(figures: &Snapshot, plots: &[String]) -> String {
    let mut text = format!("## Throughput\n\n{}", plot(plots, "throughput"));
    text += "64-byte frames over IPv4, in kpps, for each round. In each round every device is measured once, as a new process. `+`: the generator was the limit; `-`: no rate was without excess loss.\n\n";
    text += "| | median | rounds | oneip to this device |\n|---|--:|---|--:|\n";
    for dut in figures.duts() {
        let rounds = figures.searches(dut, 4, "64");
        let rounds: Vec<String> =
            rounds.map(|row| held(row.pps) + if row.limit == "generator" { "+" } else { "" }).collect();
        let middle = median(figures.rounds(dut, 4, "64")).map_or("-".to_owned(), kpps);
        let ratio = match figures.ratio("oneip", dut) {
            Some(ratio) if dut != "oneip" => format!("{ratio:.2}"),
            _ => String::new(),
        };
        let _ = writeln!(text, "| {dut} | {middle} | {} | {ratio} |", rounds.join(", "));
    }
    text += "\nBy frame size, in kpps, and in brackets Mbit/s of frames with FCS (IMIX: 7 x 64, 4 x 594, 1 x 1518 bytes, or close to it):\n\n";
    let duts: Vec<&str> = figures
        .duts()
        .into_iter()
        .filter(|dut| figures.throughput.iter().any(|row| row.dut == *dut && row.size != "64"))
        .collect();
    if duts.is_empty() {
        return text + "Not measured in this run.\n\n";
    }
    let _ = writeln!(text, "| | {} |\n|---|{}", duts.join(" | "), "--:|".repeat(duts.len()));
    for family in [4, 6] {
        let mut seen = Vec::new();
        for row in figures.throughput.iter().filter(|row| row.family == family) {
            if seen.contains(&&row.size) {
                continue;
            }
            seen.push(&row.size);
            let cells = duts.iter().map(|dut| {
                median(figures.rounds(dut, family, &row.size)).map_or("-".to_owned(), |pps| {
                    row.size
                        .parse::<f64>()
                        .map_or_else(|_| kpps(pps), |bytes| format!("{} ({:.0})", kpps(pps), pps * bytes * 8.0 / 1e6))
                })
            });
            let cells: Vec<String> = cells.collect();
            let _ = writeln!(text, "| IPv{family}, {} | {} |", row.size, cells.join(" | "));
        }
    }
    text + "\n" + &plot(plots, "sizes")
}

fn latency(figures: &Snapshot, plots: &[String]) -> String {
    if figures.latency.iter().all(|row| row.p50.is_none()) {
        return "## Latency\n\nNot measured in this run: its generator does not measure latency.\n\n".to_owned();
    }
    let mut text = String::from(
        "## Latency\n\nLatency is the time from when a frame was due to be sent until its return, in us: if a frame is sent late, the delay counts \
        (no coordinated omission). The load is the same for all devices, in percent of oneip's throughput; idle is 1,000 frames a second. A device that cannot carry a load loses frames at it. \
        A percentile is shown only if at least ten frames are beyond it.\n\n",
    );
    text += "| load | device | p50 | p90 | p99 | p99.9 | p99.99 | max | lost of sent |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n";
    for load in LOADS {
        for row in figures.latency.iter().filter(|row| row.load == load) {
            let Latency { dut, max, .. } = row;
            let cells = row.percentiles().into_iter().chain([*max]).map(us).collect::<Vec<_>>();
            let lost = if row.sent > 0.0 { format!("{:.2} %", row.lost / row.sent * 100.0) } else { "-".to_owned() };
            let unit = if load == "idle" { "" } else { " %" };
            let _ =
                writeln!(text, "| {load}{unit} ({} kpps) | {dut} | {} | {lost} |", kpps(row.rate), cells.join(" | "));
        }
    }
    text += "\n";
    if !figures.tail.is_empty() {
        let _ = writeln!(
            text,
            "Sometimes the kernel's own threads, or the host of a virtual machine, take a core, also that of the generator. This determines the p99 of the device that runs at that moment. So oneip and the \
             reflector were also measured alternately in many short trials. Such disturbances can only increase the latency of a trial: the lowest p99 of each are compared. p99 in us:\n\n\
             | load | oneip | reflector | ratio of the lowest |\n|---|---|---|--:|"
        );
        for load in LOADS {
            let Some(ratio) = figures.tail(load) else { continue };
            let of = |pick: fn(&Tail) -> f64| {
                let rows = figures.tail.iter().filter(|row| row.load == load);
                rows.map(|row| us(Some(pick(row)))).collect::<Vec<_>>().join(", ")
            };
            let _ = writeln!(text, "| {load} | {} | {} | {ratio:.2} |", of(|row| row.oneip), of(|row| row.reflector));
        }
        text += "\n";
    }
    for load in LOADS {
        text += &plot(plots, &format!("latency-{load}"));
    }
    text + "The histograms are in `hlog/`, in HdrHistogram's log format.\n\n"
}

fn overload(figures: &Snapshot, plots: &[String]) -> String {
    if figures.loss.is_empty() {
        return String::new();
    }
    let mut text = format!("## Overload\n\n{}", plot(plots, "loss"));
    text += "| device | kpps sent | received | lost |\n|---|--:|--:|--:|\n";
    for dut in figures.duts() {
        for row in figures.loss.iter().filter(|row| row.dut == dut) {
            let lost = ((1.0 - row.received_pps / row.sent_pps.max(1.0)) * 100.0).max(0.0);
            let _ = writeln!(text, "| {dut} | {} | {} | {lost:.1} % |", kpps(row.sent_pps), kpps(row.received_pps));
        }
    }
    text + "\n"
}

fn change(figures: &Snapshot) -> String {
    if figures.change.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "## Changes under load\n\nEach trial takes three seconds at half the throughput, with the change in the second one. The time is that of `oneip ctl`, including the start of its process; after \
        a takeover and a kill, it is the time until the new process is ready. Losses of a changed server's clients are not included: no server answers here. `none` is a trial without a change: it shows the losses caused by the host.\n\n",
    );
    text += "| device | change | ms | lost | of sent | loss in ms of the load | frames to the server after the answer |\n|---|---|--:|--:|--:|--:|--:|\n";
    for row in &figures.change {
        let late = row.late.map_or(String::new(), |late| format!("{late:.0}"));
        let gap = row.lost / row.rate.max(1.0) * 1e3;
        let Change { dut, what, ms, lost, sent, .. } = row;
        let _ = writeln!(text, "| {dut} | {what} | {ms:.0} | {lost:.0} | {sent:.0} | {gap:.1} | {late} |");
    }
    text + "\n"
}

fn flood(figures: &Snapshot) -> String {
    if figures.flood.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "## During a flood\n\nIn the lab of scripts/lab.sh, a client fetches a page repeatedly, with a new connection each time, and downloads a file. Meanwhile its router sends a flood: SYNs from a million \
        sources, SYNs from one /24, datagrams to a port without a service, the frames that take longest to parse, or segments of one client. Generator, dispatcher, servers and client share \
        the cores. Only answers within the time of the flood are counted; a percentile is shown only if at least ten are beyond it. With limits, each /16 may send 20,000 packets and 1,000 SYNs a second, and there is a limit of 200 a second for each kind of frames that take long to parse. The million \
        sources are in sixteen /16, which differ from the client's /16. A per-source limit cannot separate SYNs from all addresses from the client's: these are for the servers' SYN cookies.\n\n",
    );
    text += "| engine | limits | flood | kpps | answered | p50, ms | p99, ms | download |\n|---|---|---|--:|--:|--:|--:|---|\n";
    for row in &figures.flood {
        let Flood { engine, limits, flood, pps, gets, answered, p50_us, p99_us, download } = row;
        let of_answers = |percentile: f64, beyond: f64| match suffices(*answered, beyond) {
            true => format!("{:.1}", percentile / 1e3),
            false => "-".to_owned(),
        };
        let (p50, p99) = (of_answers(*p50_us, 0.5), of_answers(*p99_us, 0.01));
        let _ = writeln!(
            text,
            "| {engine} | {limits} | {flood} | {} | {answered:.0} of {gets:.0} | {p50} | {p99} | {download} |",
            kpps(*pps)
        );
    }
    text + "\n"
}

fn growth(figures: &Snapshot, plots: &[String]) -> String {
    let mut text = String::new();
    if !figures.growth.is_empty() {
        let _ = write!(text, "## Growth\n\n{}", plot(plots, "growth"));
        text += "There was one search for each row, so look at large differences only. Services differ by port, and up to 1,024 of them get frames.\n\n| | | kpps | resident, MiB |\n|---|--:|--:|--:|\n";
        for row in &figures.growth {
            let _ = writeln!(text, "| {} | {} | {} | {:.1} |", row.what, row.n, held(row.pps), row.rss_kib / 1024.0);
        }
        text += "\n";
        if !figures.growth.iter().any(|row| row.what == "workers") {
            text += "Scaling by workers was not measured: it needs a core for each worker and each sender, so at least \
                     four.\n\n";
        }
    }
    let rows: Vec<(f64, f64, f64)> =
        figures.memory.iter().map(|row| (row.services, row.servers, row.rss_kib)).collect();
    if !rows.is_empty() {
        text += "## Memory\n\nResident memory after the start, with one worker and tables of 65,537 slots; one service also exists over IPv6:\n\n| services | servers in each | MiB |\n|--:|--:|--:|\n";
        for (services, servers, kib) in &rows {
            let _ = writeln!(text, "| {services} | {servers} | {:.1} |", kib / 1024.0);
        }
        let of = |services: f64, servers: f64| {
            rows.iter().find(|row| (row.0, row.1) == (services, servers)).map(|row| row.2)
        };
        if let (Some(one), Some(many)) = (of(1.0, 3.0), of(256.0, 3.0)) {
            let _ = write!(text, "\nA service: {:.0} KiB. ", (many - one) / 255.0);
        }
        if let (Some(few), Some(many)) = (of(256.0, 3.0), of(256.0, 64.0)) {
            let _ = write!(text, "A server: {:.1} KiB.", (many - few) / (256.0 * 61.0));
        }
        text += "\n\n";
    }
    text
}

fn cost(figures: &Snapshot) -> String {
    let (inside, run): (Vec<_>, Vec<_>) = figures.cost.iter().partition(|row| row.scenario != "oneip run");
    if figures.cost.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "## Cost per frame\n\nMeasured in memory, without any device (`cargo bench --bench turn`), in ns per frame. The stages are timed one by one. The turn is timed as a whole, with its counters and the work \
        that is done once per burst. The floor touches the same bytes but does not dispatch.\n\n",
    );
    let stages = ["receive", "parse and match", "hash and look up", "rewrite", "transmit", "turn", "floor"];
    text += &by_stage(&inside, &stages, 1);
    if !figures.instructions.is_empty() {
        text += "Instructions per frame, counted by valgrind, which supports AVX2 but not AVX-512:\n\n";
        text += &by_stage(&figures.instructions.iter().collect::<Vec<_>>(), &stages[..6], 0);
    }
    if figures.instructions.is_empty() && run.is_empty() {
        text += "Instructions were not counted: neither valgrind nor a processor counter was available.\n\n";
    }
    for row in run {
        let _ = writeln!(text, "`oneip run` at 99 % of its throughput: {:.0} {} per frame.\n", row.value, row.stage);
    }
    text
}

/// A line a scenario, a column a stage.
fn by_stage(rows: &[&Cost], stages: &[&str], digits: usize) -> String {
    let mut text = format!("| | {} |\n|---|{}\n", stages.join(" | "), "--:|".repeat(stages.len()));
    let mut seen: Vec<&str> = Vec::new();
    for row in rows.iter().filter(|row| row.stage == "turn") {
        if seen.contains(&row.scenario.as_str()) {
            continue;
        }
        seen.push(&row.scenario);
        let of = |stage: &&str| rows.iter().find(|other| other.scenario == row.scenario && other.stage == *stage);
        let cell = |stage: &&str| of(stage).map_or("-".to_owned(), |row| format!("{:.digits$}", row.value));
        let _ = writeln!(text, "| {} | {} |", row.scenario, stages.iter().map(cell).collect::<Vec<_>>().join(" | "));
    }
    text + "\n"
}

// ---- what to think of it ----

fn unfair(figures: &Snapshot) -> String {
    let mut text = String::from("## Limits of the comparison\n\n");
    for (name, value) in &figures.facts {
        if let Some(dut) = name.strip_prefix("dut ")
            && value != "left out: not asked for"
        {
            let _ = writeln!(text, "- **{dut}**: {value}");
        }
    }
    text + "\n"
}

fn facts(figures: &Snapshot) -> String {
    let mut text = String::from("## The host\n\n| | |\n|---|---|\n");
    for (name, value) in figures.facts.iter().filter(|(name, _)| !name.starts_with("dut ")) {
        let _ = writeln!(text, "| {name} | {} |", value.replace('|', "\\|").replace('\n', "<br>"));
    }
    text + "\nEvery command: `commands.txt`. Every trial: `trials.csv`. How to read this report: `perf/README.md`.\n"
}

//! The page, the plots and the comparison of figures that are known.

use crate::compare::compare;
use crate::figures::Snapshot;
use crate::page::page;
use crate::plots;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2Serializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const LATENCY: &str = "dut,load,rate,sent,lost,count,min,mean,p50,p90,p99,p999,p9999,max\n";

/// A run in which oneip forwards so many frames a second, and the reflector 600,000.
fn run(oneip: u32, kernel: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write(
        "facts.json",
        &format!(
            r#"{{"cpu":"a CPU","kernel":"{kernel}","interface":"dut0 (veth); AF_XDP, copy mode","tolerance":"0.1 % of the frames sent","dut oneip":"it polls"}}"#
        ),
    );
    write(
        "throughput.csv",
        &format!(
            "dut,family,size,round,pps,limit\noneip,4,64,1,{oneip},dut\nreflector,4,64,1,600000,dut\noneip,4,64,2,{oneip},dut\n\
             reflector,4,64,2,600000,generator\noneip,4,64,3,{oneip},dut\nreflector,4,64,3,600000,dut\n\
             oneip,4,1518,1,100000,dut\noneip,6,84,1,90000,dut\nreflector,6,84,1,100000,dut\noneip,6,1518,1,80000,dut\n\
             oneip-xdp,4,64,1,700000,dut\nnftables,4,64,1,350000,dut\nnftables,4,64,2,0,dut\noneip-ipip,4,64,1,240000,dut\n"
        ),
    );
    write(
        "latency.csv",
        &format!(
            "{LATENCY}oneip,50,1000,1000,5,995,1000,1500,2000,3000,9000,9500,9900,9999\n\
             reflector,50,1000,1000,0,1000,1000,1500,2000,3000,8000,9500,9900,9999\noneip,90,1000,0,0,,,,,,,,,\n"
        ),
    );
    write("tail.csv", "load,oneip,reflector\n50,9600,8000\n50,7000,5000\n50,70000,35000\n90,4000,5000\n");
    write("instructions.csv", "scenario,stage,value\nipv4,receive,11.4\nipv4,turn,219.3\n");
    write(
        "change.csv",
        "dut,what,rate,sent,lost,ms,late\noneip,none,300000,900000,7,0,\noneip,disable,300000,900000,0,12,0\n\
         oneip,kill,300000,900000,30000,95,\noneip-xdp,takeover,300000,900000,0,120,\n",
    );
    write("growth.csv", "what,n,pps,rss_kib\nservers,3,500000,40960\nservers,1000,490000,51200\n");
    write("memory.csv", "services,servers,rss_kib\n1,3,40960\n256,3,302080\n256,64,317696\n");
    write("cost.csv", "scenario,stage,value\nipv4,receive,1\nipv4,turn,13.25\nipv4,floor,3.5\n");
    write("loss.csv", "dut,load,sent_pps,received_pps\noneip,200,1000000,500000\n");
    write(
        "flood.csv",
        "engine,limits,flood,pps,gets,answered,p50_us,p99_us,download\nxdp,off,none,0,1000,1000,1200,3400,whole\n\
         xdp,on,syn_random,140250,1000,998,1500,10200,broken\nxdp,on,dear,150000,1000,19,1500,10200,broken\n",
    );
    fs::create_dir(folder.path().join("hlog")).unwrap();
    write_log(&folder.path().join("hlog/oneip-50.hlog"));
    folder
}

fn write_log(path: &Path) {
    let mut histogram = Histogram::<u64>::new(3).unwrap();
    (1..=1000u64).for_each(|us| histogram.record(us * 1000).unwrap());
    let (mut file, mut serializer) = (fs::File::create(path).unwrap(), V2Serializer::new());
    let mut log = IntervalLogWriterBuilder::new().begin_log_with(&mut file, &mut serializer).unwrap();
    for second in 0..2 {
        log.write_histogram(&histogram, Duration::from_secs(second), Duration::from_secs(1), None).unwrap();
    }
}

#[test]
fn the_page_says_what_was_measured_and_who_won() {
    let folder = run(480_000, "6.1");
    let figures = Snapshot::read(folder.path()).unwrap();
    assert_eq!(figures.histograms[0].2.len(), 2000, "both intervals");
    let plots = plots::all(&figures, folder.path()).unwrap();
    assert_eq!(plots, ["throughput", "sizes", "latency-50", "loss", "growth"]);
    let page = page(&figures, &plots);
    for line in [
        "oneip forwards **480 kpps** of 64-byte frames with no more than 0.1 % of the frames sent lost (480 to 480 in 3 rounds)",
        "oneip to reflector: **0.80** x the throughput of reflector with 64-byte frames, the median of 3 rounds (0.80 to 0.80); the target of 0.95 is **not reached**. **reflector is faster here.** (the generator was reflector's limit in at least one round)",
        "by load: 50: 1.40, 90: 0.80; the target of no worse (up to 1.05) is **reached at 1 of 2**",
        "the lowest p99 of each are compared. p99 in us:\n\n| load |",
        "| 50 | 9.6, 7.0, 70.0 | 8.0, 5.0, 35.0 | 1.40 |",
        "| ipv4 | 11 | - | - | - | - | 219 |",
        "- oneip: a server disabled under 300 kpps: 12 ms, 0 of 900000 frames lost; 0 frames reached the server after the answer.",
        "- oneip: killed (`kill -9`) and started again under 300 kpps: 95 ms, 30000 of 900000 frames lost.",
        "- oneip: nothing changed, for comparison, under 300 kpps: 0 ms, 7 of 900000 frames lost.",
        "- oneip-xdp: a new process took over (`run --takeover`) under 300 kpps: 120 ms, 0 of 900000 frames lost.",
        "- oneip-xdp forwards **700 kpps** of 64-byte frames",
        "oneip-xdp to nftables: **2.00** x the throughput of nftables with 64-byte frames, the median of 1 rounds (2.00 to 2.00); the target of 2.00 is reached.",
        "oneip-xdp to reflector: **1.17** x",
        "oneip-ipip to oneip: **0.50** x the throughput of oneip with 64-byte frames, the median of 1 rounds (0.50 to 0.50); the target of 0.67 is **not reached**",
        "| nftables | 350 | 350, - | 1.37 |",
        "| oneip | kill | 95 | 30000 | 900000 | 100.0 |",
        "there is no NIC here, and no zero copy",
        "| reflector | 600 | 600, 600+, 600 | 0.80 |",
        "| IPv4, 1518 | 100 (1214) |",
        "| 50 % (1.0 kpps) | oneip | 2.0 | 3.0 | - | - | - | 10.0 | 0.50 % |",
        "| 50 % (1.0 kpps) | reflector | 2.0 | 3.0 | 8.0 | - | - | 10.0 | 0.00 % |",
        "| oneip | 1000 | 500 | 50.0 % |",
        "A service: 1024 KiB. A server: 1.0 KiB.",
        "| ipv4 | 1.0 | - | - | - | - | 13.2 | 3.5 |",
        "| xdp | off | none | 0.0 | 1000 of 1000 | 1.2 | 3.4 | whole |",
        "| xdp | on | syn_random | 140 | 998 of 1000 | 1.5 | - | broken |",
        "| xdp | on | dear | 150 | 19 of 1000 | - | - | broken |",
        "- **oneip**: it polls",
        "![latency-50](latency-50.svg)",
    ] {
        assert!(page.contains(line), "{line}\nis not in\n{page}");
    }
    for plot in plots {
        let svg = svg(&folder, &plot);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && !svg.contains("NaN"), "{plot}");
    }
}

fn svg(folder: &TempDir, plot: &str) -> String {
    fs::read_to_string(folder.path().join(format!("{plot}.svg"))).unwrap()
}

/// The elements of that name, each with its attributes and up to the next element.
fn elements<'s>(svg: &'s str, name: &str) -> Vec<&'s str> {
    svg.split('<').filter(|element| element.split([' ', '>']).next() == Some(name)).collect()
}

fn attribute<'s>(element: &'s str, name: &str) -> Option<&'s str> {
    element.split_once(&format!(" {name}=\"")).and_then(|(_, rest)| rest.split('"').next())
}

/// The texts of a plot.
fn texts(svg: &str) -> Vec<&str> {
    elements(svg, "text").into_iter().filter_map(|element| Some(element.split_once('>')?.1.trim())).collect()
}

#[test]
fn plots_can_be_read_in_the_dark_with_axes_and_with_few_points() {
    let folder = run(480_000, "6.1");
    let plots = plots::all(&Snapshot::read(folder.path()).unwrap(), folder.path()).unwrap();
    for plot in &plots {
        let svg = svg(&folder, plot);
        let whole = ["width", "height"].map(|side| attribute(elements(&svg, "svg")[0], side));
        let first = elements(&svg, "rect")[0];
        let background = ["x", "y", "width", "height", "fill"].map(|name| attribute(first, name));
        assert_eq!(background, [Some("0"), Some("0"), whole[0], whole[1], Some("#FFFFFF")], "{plot}");
        assert!(svg.find("<rect") < svg.find("<text"), "{plot}: behind all");
        assert!(texts(&svg).iter().any(|text| text.contains("kpps") || text.starts_with("us, ")), "{plot}");
    }
    // Bars have a scale: from 0, and what it counts.
    let bars = svg(&folder, "throughput");
    for text in ["0", "200", "400", "600", "kpps"] {
        assert!(texts(&bars).contains(&text), "{text}: {:?}", texts(&bars));
    }
    // A line of two points, or of one, is seen by its points.
    for (plot, points) in [("sizes", 4), ("loss", 1), ("growth", 2)] {
        assert_eq!(elements(&svg(&folder, plot), "circle").len(), points, "{plot}");
    }
}

/// Of 2000 frames ten are beyond 99.5 %, at which a line ends, though the scale goes on to 99.99 %.
#[test]
fn a_line_of_percentiles_ends_where_few_frames_are_beyond_it() {
    let folder = run(480_000, "6.1");
    plots::all(&Snapshot::read(folder.path()).unwrap(), folder.path()).unwrap();
    let svg = svg(&folder, "latency-50");
    let of = |label: &str| -> f64 {
        let text = elements(&svg, "text").into_iter().find(|text| text.split_once('>').unwrap().1.trim() == label);
        attribute(text.unwrap(), "x").unwrap().parse().unwrap()
    };
    let (known, most) = (of("99 %"), of("99.99 %"));
    let lines = elements(&svg, "polyline");
    let line = lines.iter().max_by_key(|line| attribute(line, "points").unwrap().len()).unwrap();
    let points = attribute(line, "points").unwrap().split_whitespace();
    let end = points.map(|point| point.split(',').next().unwrap().parse::<f64>().unwrap()).fold(0.0, f64::max);
    let expected = known + (most - known) * 2f64.log10() / 2.0;
    assert!((end - expected).abs() < (most - known) / 20.0, "it ends at {end}, between {known} and {most}");
}

#[test]
fn without_loss_is_said_of_no_loss_alone() {
    let folder = run(480_000, "6.1");
    for (lost, said) in
        [("0", "of 64-byte frames without loss (480"), ("25", "of 64-byte frames with up to 0.10 % lost (480")]
    {
        let rows = format!(
            "dut,family,size,round,pps,limit,sent,lost\noneip,4,64,1,480000,dut,25000,0\noneip,4,64,2,480000,dut,25000,{lost}\noneip,4,64,3,0,dut,,\n"
        );
        fs::write(folder.path().join("throughput.csv"), rows).unwrap();
        let figures = Snapshot::read(folder.path()).unwrap();
        let page = page(&figures, &[]);
        assert!(page.contains(said), "{said}\nis not in\n{page}");
    }
}

#[test]
fn two_runs_stand_side_by_side() {
    let (a, b) = (run(480_000, "6.1"), run(528_000, "6.18"));
    let read = |folder: &TempDir| Snapshot::read(folder.path()).unwrap();
    let text = compare(&read(&a), &read(&b)).unwrap();
    for line in [
        "kernel: A 6.1, B 6.18",
        "not measured under the same conditions",
        "| oneip, IPv4, 64 bytes: kpps | 480.0 | 528.0 | 1.10 |",
        "| oneip to reflector, throughput | 0.80 | 0.88 | 1.10 |",
        "| oneip, load 50: p50, us | 2.00 | 2.00 | 1.00 |",
        "| reflector, load 50: p99, us | 8.00 | 8.00 | 1.00 |",
    ] {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
    assert!(!compare(&read(&a), &read(&a)).unwrap().contains("same conditions"));
}

#[test]
fn what_is_no_report_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Snapshot::read(folder.path()).err().unwrap().to_string();
    assert!(error.contains("facts.json") && error.contains("no report of scripts/bench.sh"), "{error}");
    let broken = run(1, "6.1");
    fs::write(broken.path().join("loss.csv"), "dut,sent_pps,received_pps\noneip,many,0\n").unwrap();
    let error = Snapshot::read(broken.path()).err().unwrap().to_string();
    assert!(error.contains("loss.csv") && error.contains("line: 2"), "{error}");
}

//! The page that Prometheus gets: names, labels, values; and the histogram against a naive count.

use crate::fake::{Fake, Script};
use crate::http::tcp;
use crate::promtool::check_metrics;
use crate::sample;
use crate::tools::installed;
use oneip::admin::LATENCY_BOUNDS_NS;
use oneip::admin::status::{CheckStatus, State};
use oneip::metrics::snapshot::Snapshot;
use oneip::verdict::Reason;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Every sample of a page: name and labels as they stand there, and the value.
pub fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let mut samples = BTreeMap::new();
    for line in lines {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let other = samples.insert(name.to_owned(), value.parse().unwrap());
        assert_eq!(other, None, "{name} is there twice");
    }
    samples
}

fn page_of(figures: Snapshot) -> String {
    let fake = Fake::with(Script { figures: Arc::new(Mutex::new(Some(figures))), ..Script::default() });
    tcp(&fake, "GET", "/metrics").body
}

#[test]
fn every_promised_name_is_there_with_its_labels() {
    let fake = Fake::start();
    let reply = tcp(&fake, "GET", "/metrics");
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", reply.head);
    let samples = samples(&reply.body);
    let version = format!("oneip_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    for (name, value) in [
        (version.as_str(), 1.0),
        ("oneip_table_generation", 17.0),
        ("oneip_interface_frames_total", 6167.0),
        ("oneip_frames_received_total{worker=\"0\"}", 4000.0),
        ("oneip_frames_received_total{worker=\"1\"}", 2062.0),
        ("oneip_frames_forwarded_total{service=\"web\",server=\"web2\"}", 2000.0),
        ("oneip_frames_forwarded_total{service=\"dns\",server=\"ns2\"}", 0.0),
        ("oneip_bytes_forwarded_total{service=\"web\",server=\"web2\"}", 200_000.0),
        ("oneip_new_flows_total{service=\"web\",server=\"web2\"}", 200.0),
        // A reload removed it; what it got was got.
        ("oneip_frames_forwarded_total{service=\"web\",server=\"web0\"}", 7.0),
        ("oneip_frames_dropped_total{reason=\"no_service\"}", 12.0),
        ("oneip_frames_passed_total", 105.0),
        ("oneip_server_up{service=\"web\",server=\"web1\"}", 1.0),
        ("oneip_server_up{service=\"dns\",server=\"ns2\"}", 0.0),
        ("oneip_server_state{service=\"dns\",server=\"ns2\",state=\"draining\"}", 1.0),
        ("oneip_server_state{service=\"dns\",server=\"ns2\",state=\"up\"}", 0.0),
        ("oneip_server_weight{service=\"dns\",server=\"ns2\"}", 3.0),
        ("oneip_server_slots{service=\"web\",server=\"web1\"}", 21_845.0),
        ("oneip_server_check_duration_seconds{service=\"web\",server=\"web1\"}", 0.00081),
        ("oneip_server_check_impossible{service=\"web\",server=\"web1\"}", 0.0),
        ("oneip_server_unchecked_seconds{service=\"web\",server=\"web1\"}", 0.0),
        ("oneip_frames_denied_total{service=\"web\",mode=\"drop\"}", 9.0),
        ("oneip_frames_denied_total{service=\"web\",mode=\"count\"}", 2.0),
        ("oneip_frames_limited_total{service=\"web\",limit=\"syn\",mode=\"drop\"}", 7.0),
        ("oneip_odd_frames_limited_total{limit=\"icmp\",mode=\"drop\"}", 3.0),
        ("oneip_service_slots{service=\"dns\"}", 65_537.0),
        ("oneip_service_slots_moving{service=\"dns\"}", 1200.0),
        ("oneip_worker_turns{worker=\"0\"}", 1.0),
        ("oneip_worker_stuck{worker=\"1\"}", 0.0),
        ("oneip_worker_port_frames{worker=\"0\",place=\"idle\"}", 1000.0),
        ("oneip_worker_port_frames{worker=\"0\",place=\"lent\"}", 96.0),
        ("oneip_worker_port_frames{worker=\"0\",place=\"in_device\"}", 3000.0),
        ("oneip_pins_held{worker=\"0\"}", 40.0),
        ("oneip_pins_capacity{worker=\"0\"}", 1_048_576.0),
        ("oneip_pins_remembered_total{worker=\"0\"}", 400.0),
        ("oneip_pins_evicted_total{worker=\"0\"}", 5.0),
        ("oneip_pins_syns_displaced_total{worker=\"0\"}", 9.0),
        ("oneip_dispatch_latency_seconds_count{service=\"web\"}", 4.0),
        ("oneip_dispatch_latency_seconds_count{service=\"dns\"}", 0.0),
        ("oneip_dispatch_latency_seconds_bucket{le=\"+Inf\",service=\"web\"}", 4.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name}\n{}", reply.body);
    }
    for reason in Reason::ALL {
        assert!(samples.contains_key(&format!("oneip_frames_dropped_total{{reason=\"{reason}\"}}")), "{reason}");
        assert!(reply.body.contains(&format!("{reason}: {}", reason.help())), "{reason}");
    }
    for state in State::ALL {
        let name = format!("oneip_server_state{{service=\"web\",server=\"web1\",state=\"{}\"}}", state.name());
        assert_eq!(samples[&name], f64::from(state == State::Up), "{name}");
    }
    assert!(!samples.keys().any(|name| name.starts_with("oneip_server_check") && name.contains("\"dns\"")), "no check");
    assert!(!reply.body.contains("server_check_failure"), "no check has failed");
}

#[test]
fn states_are_called_the_same_in_json() {
    for state in State::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.name());
    }
}

#[test]
fn moments_are_seconds_since_1970_and_stand_still() {
    let script = Script::default();
    script.status.lock().unwrap().services[0].servers[0].check = Some(CheckStatus {
        age_s: Some(2.0),
        latency_ms: None,
        failing: true,
        failure: Some("connection refused".into()),
        failure_age_s: Some(2.0),
        unchecked: Some("no route".into()),
        unchecked_s: Some(4.5),
    });
    let status = Arc::clone(&script.status);
    let fake = Fake::with(script);
    let first = samples(&tcp(&fake, "GET", "/metrics").body);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let web1 = "{service=\"web\",server=\"web1\"}";
    let near = |name: &str, ago: f64| assert!((now - first[name] - ago).abs() < 1.0, "{name}: {}", first[name]);
    near("process_start_time_seconds", 273_912.5);
    near(&format!("oneip_server_state_change_timestamp_seconds{web1}"), 4242.0);
    near(&format!("oneip_server_check_timestamp_seconds{web1}"), 2.0);
    near(&format!("oneip_server_check_failure_timestamp_seconds{web1}"), 2.0);
    assert_eq!(first[&format!("oneip_server_check_impossible{web1}")], 1.0);
    assert!((4.5..6.0).contains(&first[&format!("oneip_server_unchecked_seconds{web1}")]), "{first:?}");
    assert!(!first.contains_key(&format!("oneip_server_check_duration_seconds{web1}")), "none has succeeded");

    std::thread::sleep(Duration::from_millis(50));
    {
        // Time passes for the process by another clock than here.
        let mut status = status.lock().unwrap();
        status.uptime_s += 40.0;
        status.services[0].servers[0].since_s += 40.0;
    }
    let second = samples(&tcp(&fake, "GET", "/metrics").body);
    for name in ["process_start_time_seconds", &format!("oneip_server_state_change_timestamp_seconds{web1}")] {
        assert_eq!(first[name], second[name], "{name}");
    }
}

/// Cumulative counts by bound, in nanoseconds, and the sum in seconds.
fn buckets(page: &str, service: &str) -> (Vec<(u64, u64)>, f64) {
    let samples = samples(page);
    let rest = format!("\",service=\"{service}\"}}");
    let mut buckets: Vec<(u64, u64)> = samples
        .iter()
        .filter_map(|(name, count)| {
            Some((
                name.strip_prefix("oneip_dispatch_latency_seconds_bucket{le=\"")?.strip_suffix(&rest)?,
                *count as u64,
            ))
        })
        .map(|(bound, count)| match bound {
            "+Inf" => (u64::MAX, count),
            bound => ((bound.parse::<f64>().unwrap() * 1e9).round() as u64, count),
        })
        .collect();
    buckets.sort_unstable();
    (buckets, samples[&format!("oneip_dispatch_latency_seconds_sum{{service=\"{service}\"}}")])
}

#[test]
fn bounds_double_from_a_microsecond_to_a_second() {
    let (buckets, sum) = buckets(&page_of(sample::figures()), "dns");
    let bounds: Vec<u64> = buckets.iter().map(|(bound, _)| *bound).collect();
    assert_eq!(bounds[..21], LATENCY_BOUNDS_NS);
    assert_eq!((bounds[0], bounds[20], bounds[21]), (1000, 1_048_576_000, u64::MAX));
    assert!(buckets.iter().all(|(_, count)| *count == 0) && sum == 0.0);
}

#[test]
fn no_step_of_the_histograms_lies_on_both_sides_of_a_bound() {
    let histogram = sample::histogram(&[]);
    for bound in LATENCY_BOUNDS_NS {
        assert_eq!(histogram.lowest_equivalent(bound), bound);
        assert_eq!(histogram.highest_equivalent(bound - 1), bound - 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn buckets_count_as_one_would_by_hand(
        small in prop::collection::vec(0u64..5000, 0..200),
        wide in prop::collection::vec((0u32..34).prop_flat_map(|bits| (1u64 << bits)..(2u64 << bits)), 0..200),
        on_bounds in prop::collection::vec((0usize..21, -2i64..3), 0..40),
    ) {
        let on_bounds = on_bounds.into_iter().map(|(at, off)| LATENCY_BOUNDS_NS[at].saturating_add_signed(off));
        let values: Vec<u64> = small.into_iter().chain(wide).chain(on_bounds).filter(|ns| *ns < 9_900_000_000).collect();
        let mut figures = sample::figures();
        figures.latency[0].1 = sample::histogram(&values).into();
        let (buckets, sum) = buckets(&page_of(figures), "web");
        for (bound, count) in buckets {
            let naive = values.iter().filter(|value| **value < bound).count() as u64;
            prop_assert_eq!(count, naive, "below {} ns", bound);
        }
        let exact = values.iter().sum::<u64>() as f64 / 1e9;
        prop_assert!((sum - exact).abs() <= 0.004 * exact + 1e-9 * values.len() as f64, "{} is not {}", sum, exact);
    }
}

#[test]
fn promtool_has_no_complaint() {
    if !installed("promtool") {
        return;
    }
    let mut failing = sample::status();
    failing.services[0].servers[0].check = Some(CheckStatus {
        age_s: Some(2.0),
        latency_ms: Some(1.0),
        failing: true,
        failure: Some("no answer within 500 ms".into()),
        failure_age_s: Some(2.0),
        unchecked: None,
        unchecked_s: None,
    });
    let empty = Script {
        status: Arc::new(Mutex::new({
            let mut status = sample::status();
            status.services.clear();
            status
        })),
        figures: Arc::new(Mutex::new(Some(Snapshot::default()))),
        ..Script::default()
    };
    let failing = Script { status: Arc::new(Mutex::new(failing)), ..Script::default() };
    for script in [Script::default(), failing, empty] {
        let page = tcp(&Fake::with(script), "GET", "/metrics").body;
        check_metrics(&page);
    }
}

#[test]
fn every_family_has_one_help_and_one_type_and_stands_in_one_piece() {
    let page = page_of(sample::figures());
    let mut seen = BTreeSet::new();
    let mut family = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().unwrap();
            assert!(seen.insert(family.to_owned()), "{family} is there twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(rest.split(' ').next(), Some(family));
        } else {
            assert!(line.starts_with(family), "{line} stands under {family}");
        }
    }
    assert!(seen.len() > 25, "{seen:?}");
}

#[test]
fn a_filter_s_page_says_how_the_others_stand_to_it() {
    let script = Script::default();
    script.status.lock().unwrap().peers = sample::peers();
    let samples = samples(&tcp(&Fake::with(script), "GET", "/metrics").body);
    let each =
        |name: &str| ["web2", "web3", "web4", "web5"].map(|server| samples[&format!("{name}{{server=\"{server}\"}}")]);
    assert_eq!(each("oneip_filter_peer_heard"), [1.0, 1.0, 0.0, 0.0]);
    assert_eq!(each("oneip_filter_peer_agrees"), [1.0, 0.0, 1.0, 0.0]);
}

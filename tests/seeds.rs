//! Each target of `tests/fuzz` with each of its first inputs: so it is seen without a nightly compiler that they compile, and that none of these
//! inputs fails.
#![allow(clippy::duplicate_mod, clippy::module_inception)] // each target is a program with modules of its own

extern crate self as libfuzzer_sys;

use std::fs;

mod once {
    /// What libFuzzer calls again and again.
    macro_rules! fuzz_target {
        (|$input:ident: &[u8]| $body:block) => {
            pub fn run($input: &[u8]) $body
        };
    }
    pub(crate) use fuzz_target;
}
use once::fuzz_target;

#[path = "fuzz/corpus.rs"]
mod corpus;

/// The targets, by name.
macro_rules! targets {
    ($($name:ident: $file:literal,)*) => {
        $(
            #[allow(unused_attributes)] // `no_main`, of the program that it is else
            #[path = $file]
            mod $name;
        )*
        const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name::run)),*];
    };
}
targets! {
    capture: "fuzz/fuzz_targets/capture.rs",
    config: "fuzz/fuzz_targets/config.rs",
    engines: "fuzz/fuzz_targets/engines.rs",
    etcd: "fuzz/fuzz_targets/etcd.rs",
    import: "fuzz/fuzz_targets/import.rs",
    lines: "fuzz/fuzz_targets/lines.rs",
    netlink: "fuzz/fuzz_targets/netlink.rs",
    order: "fuzz/fuzz_targets/order.rs",
    prefixes: "fuzz/fuzz_targets/prefixes.rs",
    quic: "fuzz/fuzz_targets/quic.rs",
    state: "fuzz/fuzz_targets/state.rs",
    turn: "fuzz/fuzz_targets/turn.rs",
}

#[test]
fn every_target_takes_its_first_inputs() {
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/fuzz_targets")).unwrap().count();
    let seeds = corpus::seeds();
    assert_eq!([seeds.len(), TARGETS.len()], [files; 2]);
    for (target, inputs) in seeds {
        let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).expect("there is such a target");
        inputs.iter().for_each(|input| run(input));
    }
}

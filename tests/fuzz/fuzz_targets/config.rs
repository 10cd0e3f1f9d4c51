//! Any text as a configuration: errors say where, and what is taken is taken again alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneip::config;

fuzz_target!(|text: &[u8]| {
    let Ok(text) = std::str::from_utf8(text) else { return };
    match config::parse(text, "oneip.toml") {
        Ok(loaded) => {
            let again = config::parse(text, "oneip.toml").expect("it was taken before");
            assert_eq!(loaded.plan, again.plan);
            assert!(!loaded.plan.services.is_empty());
        }
        Err(errors) => {
            let said = errors.to_string();
            assert!(said.lines().next().is_some_and(|line| line.contains("oneip.toml")), "{said}");
        }
    }
});

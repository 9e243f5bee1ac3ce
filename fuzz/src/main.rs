//! The fuzzer: `FUZZ_TARGET` names what it calls. `cargo xtask fuzz` builds and runs it.

#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<postrider_fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = postrider_fuzz::TARGETS
        .iter()
        .find(|(known, _)| *known == name);
    match found {
        Some((_, target)) => *target,
        None if name == "control" => postrider_fuzz::control,
        None => panic!("FUZZ_TARGET must name a target; `cargo xtask fuzz` does"),
    }
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));

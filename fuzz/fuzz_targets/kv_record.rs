//! See `crates/store/tests/mutations/checks.rs`, which CI runs from changed copies of the committed files.
#![no_main]

#[allow(dead_code)]
#[path = "../../crates/store/tests/mutations/checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    checks::record(data);
});

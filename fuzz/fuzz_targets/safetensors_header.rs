//! Any bytes as a safetensors file: an error or a header, never a panic.
#![no_main]

use std::path::Path;

use cachalot_model::load::safetensors_header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(header) = safetensors_header(data, data.len() as u64, Path::new("fuzz.safetensors")) {
        assert!(header.tensors() <= data.len());
    }
});

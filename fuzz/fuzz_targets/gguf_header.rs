//! Any bytes as a GGUF header: an error or a header whose tensors lie inside the file, never a panic.
//!
//! A header that parses is also read as the description of a model.
#![no_main]

use std::path::Path;

use cachalot_model::{gguf, spec};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = Path::new("fuzz.gguf");
    if let Ok(header) = gguf::parse(data, data.len() as u64, path) {
        for tensor in &header.tensors {
            assert!(gguf::GgmlType::from_code(tensor.code).is_none() || tensor.offset <= data.len() as u64);
        }
        if let Ok(spec) = spec::gguf::spec(&header, None) {
            spec.ropes.iter().for_each(|r| assert_eq!(r.inv_freq().len(), r.rotary_dim / 2));
        }
    }
});

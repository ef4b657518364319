//! The bytes of fixed pages: they change only when somebody means to.

use crate::properties::{STAGES, stage};
use crate::support::{Random, encode};
use cachalot_kv::encode::codec::Side;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/formats/scalar.golden");

/// A format that is written differently cannot be read from files of before. Where that is meant, run the test with
/// `CACHALOT_BLESS=1` and commit the file.
#[test]
fn pages_of_every_stage_are_the_bytes_they_were() {
    let mut lines = String::new();
    for text in STAGES {
        for side in [Side::Keys, Side::Values] {
            let part = stage(text, side, 96);
            let page = encode(&*part, &Random::new(10).rows(64, 96));
            let hash = &blake3::hash(&page).to_hex()[..32];
            lines.push_str(&format!("{hash} {:5} {} {text}\n", page.len(), side.letter()));
        }
    }
    if std::env::var_os("CACHALOT_BLESS").is_some() {
        std::fs::write(FILE, &lines).unwrap();
    }
    let golden = std::fs::read_to_string(FILE).unwrap();
    for (now, before) in lines.lines().zip(golden.lines()) {
        assert_eq!(now, before);
    }
    assert_eq!(lines.lines().count(), golden.lines().count());
}

//! Tensors of every type against what another package read from the same bytes.

use std::path::PathBuf;
use std::sync::Mutex;

use super::checkpoint::Checkpoint;
use super::source::Source;
use super::weights::Weights;
use super::{WeightMode, parse};

#[test]
fn every_type_decodes_to_what_the_gguf_package_reads() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/quants.gguf");
    let source = Source::open(&path).unwrap();
    let header = parse(&source).unwrap();
    let checkpoint = Checkpoint::of_gguf(source, &header);
    let load = |mode| Weights { checkpoint: &checkpoint, mode, odd: Mutex::new(Vec::new()) };
    let mut seen = 0;
    for tensor in header.tensors.iter().filter(|t| t.name.starts_with("blocks.")) {
        let (out, inp) = (tensor.shape[0], tensor.shape[1]);
        let expected = load(WeightMode::Native).matrix(&tensor.name.replace("blocks", "floats"), None, out, inp, None);
        let expected = expected.unwrap();
        for mode in [WeightMode::Native, WeightMode::F32] {
            let backwards = |row: usize| out - 1 - row;
            let same = load(mode).matrix(&tensor.name, None, out, inp, None).unwrap();
            let turned = load(mode).matrix(&tensor.name, None, out, inp, Some(&backwards)).unwrap();
            let (mut wanted, mut got, mut other) = (vec![0.0; inp], vec![0.0; inp], vec![0.0; inp]);
            for row in 0..out {
                expected.row(row, &mut wanted);
                same.row(row, &mut got);
                turned.row(out - 1 - row, &mut other);
                let largest = wanted.iter().fold(0f32, |m, w| m.max(w.abs()));
                assert!(largest > 0.01, "{} row {row} shows nothing", tensor.name);
                for (g, w) in got.iter().zip(&wanted) {
                    assert!((g - w).abs() <= 1e-6 * largest, "{} row {row} as {mode:?}: {g} {w}", tensor.name);
                }
                assert_eq!(got, other, "{} row {row} in another order", tensor.name);
            }
        }
        seen += 1;
    }
    assert_eq!(seen, 10);
}

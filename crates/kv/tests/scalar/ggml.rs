//! The block formats against the bytes of ggml itself (fixtures/formats/scalar.py).

use crate::support::{decode, encode, part, round_trip};
use cachalot_kv::encode::codec::{Shape, Side};
use cachalot_kv::encode::quantizer::float8::Float8;
use cachalot_kv::encode::quantizer::ggml::Kind;

const ROWS: &[u8] = include_bytes!("../../../../fixtures/formats/ggml-rows.f32");

fn rows() -> Vec<f32> {
    ROWS.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn expected(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Q8_0 => include_bytes!("../../../../fixtures/formats/ggml-q8_0.bin"),
        Kind::Q5_1 => include_bytes!("../../../../fixtures/formats/ggml-q5_1.bin"),
        Kind::Q5_0 => include_bytes!("../../../../fixtures/formats/ggml-q5_0.bin"),
        Kind::Q4_1 => include_bytes!("../../../../fixtures/formats/ggml-q4_1.bin"),
        Kind::Q4_0 => include_bytes!("../../../../fixtures/formats/ggml-q4_0.bin"),
        Kind::Iq4Nl => include_bytes!("../../../../fixtures/formats/ggml-iq4_nl.bin"),
    }
}

#[test]
fn pages_hold_exactly_the_blocks_that_ggml_writes() {
    let rows = rows();
    for kind in Kind::ALL {
        for side in [Side::Keys, Side::Values] {
            let matrix = kind.matrix(Shape { side, tokens: 64, channels: 128 }).unwrap();
            let page = encode(&matrix, &rows);
            let (blocks, expected) = (kind.to_blocks(&matrix, &page), expected(kind));
            for (i, (a, b)) in blocks.chunks(kind.block_bytes()).zip(expected.chunks(kind.block_bytes())).enumerate() {
                assert_eq!(a, b, "{} {side:?}: token {} block {}", kind.name(), i / 4, i % 4);
            }
            assert_eq!(blocks.len(), expected.len());
            let back = kind.from_blocks(&matrix, expected).unwrap();
            assert!(decode(&matrix, &back) == decode(&matrix, &page) && back == page, "{} {side:?}", kind.name());
            assert_eq!(kind.from_blocks(&matrix, &expected[1..]), None);
        }
    }
}

#[test]
fn bits_per_value_are_those_of_the_blocks() {
    for (kind, bits) in Kind::ALL.into_iter().zip([8.5, 6.0, 5.5, 5.0, 4.5, 4.5]) {
        let shape = Shape { side: Side::Keys, tokens: 64, channels: 96 };
        let matrix = kind.matrix(shape).unwrap();
        let bytes = cachalot_kv::encode::codec::Part::bytes(&matrix);
        assert_eq!(8.0 * bytes as f64 / shape.elements() as f64, bits, "{}", kind.name());
    }
}

#[test]
fn the_extreme_opposite_to_the_largest_saturates() {
    let shape = Shape { side: Side::Values, tokens: 16, channels: 32 };
    let matrix = Kind::Q4_0.matrix(shape).unwrap();
    let mut x = vec![0.0; shape.elements()];
    (x[0], x[1]) = (-4.0, 3.75);
    assert_eq!(decode(&matrix, &encode(&matrix, &x))[..3], [-4.0, 3.5, 0.0]);
}

#[test]
fn channels_that_are_no_whole_blocks_are_refused_with_the_mend() {
    let error = crate::support::build("q4_0", Shape { side: Side::Keys, tokens: 64, channels: 80 }, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "q4_0: needs a multiple of 32 channels, not 80; use `uniform` or a transform that pads"
    );
}

/// Both formats of E2M1 elements; scales must agree, and errors, since they may take the other of two equally near.
#[test]
fn elements_are_as_near_as_those_of_ggml() {
    let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let value = |nibble: u8| if nibble < 8 { 1.0 } else { -1.0 } * magnitudes[usize::from(nibble % 8)];
    let rows = rows();
    let same = |ours: &[f32], most: f32, theirs: &dyn Fn(usize) -> f64| {
        for (i, (&x, &y)) in rows.iter().zip(ours).enumerate() {
            if rows[i / 16 * 16..][..16].iter().any(|x| x.abs() >= most) {
                continue;
            }
            let error = |y: f64| (f64::from(x) - y).abs();
            assert_eq!(error(f64::from(y)), error(theirs(i)), "{i}: {x} became {y}");
        }
    };
    let mx = include_bytes!("../../../../fixtures/formats/ggml-mxfp4.bin");
    same(&round_trip(&*part("mxfp4", Side::Keys, 64, 128), &rows), f32::MAX, &|i| {
        let (block, j) = (&mx[i / 32 * 17..][..17], i % 32);
        value(block[1 + j % 16] >> (j / 16 * 4) & 15) * 2f64.powi(i32::from(block[0]) - 127)
    });
    // Theirs has no scale of the whole tensor, which is one where the largest magnitude is 448 * 6; and it takes the
    // largest scale for all from 256 up.
    let nv = include_bytes!("../../../../fixtures/formats/ggml-nvfp4.bin");
    same(&round_trip(&*part("nvfp4(max=2688)", Side::Values, 64, 128), &rows), 256.0 * 6.0, &|i| {
        let (block, sub, j) = (&nv[i / 64 * 36..][..36], i % 64 / 16, i % 16);
        let nibble = block[4 + 8 * sub + j % 8] >> (j / 8 * 4) & 15;
        value(nibble) * f64::from(Float8::E4m3.decode(block[sub]))
    });
}

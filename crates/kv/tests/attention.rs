//! The cache against plain attention, and row independence: the same bits alone, in a batch, in any chunks, with any
//! number of threads, on every instruction set.

mod common;

use cachalot_kernels::Isa;
use cachalot_kv::{Element, KvFormat, LayerGeometry};
use common::*;
use proptest::prelude::*;

fn geometry() -> impl Strategy<Value = LayerGeometry> {
    let heads = prop_oneof![Just((1, 1)), Just((3, 1)), Just((4, 2)), Just((6, 2)), Just((8, 1)), Just((2, 2))];
    let window = prop_oneof![Just(None), Just(Some(1)), Just(Some(7)), Just(Some(64)), Just(Some(100))];
    let softcap = prop_oneof![Just(None), Just(Some(4.0))];
    (heads, prop_oneof![Just(16usize), Just(20), Just(64), Just(80)], window, softcap, any::<bool>()).prop_map(
        |((heads, kv_heads), head_dim, window, softcap, rotary)| LayerGeometry {
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
            softcap,
            window,
            rope: rotary.then(|| rope(head_dim)),
            output: None,
        },
    )
}

fn format() -> impl Strategy<Value = KvFormat> {
    let element = || prop_oneof![Just(Element::F32), Just(Element::F16), Just(Element::Bf16)];
    (element(), element()).prop_map(|(k, v)| KvFormat { k, v })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn equals_plain_attention(g in geometry(), tokens in 1usize..300, seed in 0u64..1000) {
        let rows = Rows::random(&g, tokens, seed);
        let got = run(&cache(std::slice::from_ref(&g), "f32", 1, Isa::detect()), &rows, &[tokens]);
        let want = reference(&g, &rows);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            prop_assert!((f64::from(*got) - want).abs() < 2e-5, "{} against {} at {}", got, want, i);
        }
    }

    #[test]
    fn rows_do_not_depend_on_chunks_threads_neighbours_or_isa(
        g in geometry(), format in format(), tokens in 1usize..700, chunk in 1usize..130, seed in 0u64..1000,
    ) {
        let rows = Rows::random(&g, tokens, seed);
        let format = format.to_string();
        let whole = run(&cache(std::slice::from_ref(&g), &format, 1, Isa::Portable), &rows, &[tokens]);
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (isa, threads) in Isa::available().into_iter().zip([2, 3, 1, 2]) {
            let cache = cache(std::slice::from_ref(&g), &format, threads, isa);
            prop_assert_eq!(bits(&run(&cache, &rows, &[tokens])), bits(&whole), "{}", isa);
            // A long chunk, then one token at a time.
            let mut chunks = vec![tokens - tokens.min(20)];
            chunks.extend(vec![1; tokens.min(20)]);
            prop_assert_eq!(bits(&run(&cache, &rows, &chunks)), bits(&whole), "decode on {}", isa);
            let chunks: Vec<usize> = (0..tokens).step_by(chunk).map(|at| chunk.min(tokens - at)).collect();
            prop_assert_eq!(bits(&run(&cache, &rows, &chunks)), bits(&whole), "chunks of {} on {}", chunk, isa);
            let other = Rows::random(&g, 1 + tokens / 3, seed + 1);
            let (batched, neighbour) = run_two(&cache, &rows, &other, chunk);
            prop_assert_eq!(bits(&batched), bits(&whole), "batch on {}", isa);
            prop_assert_eq!(bits(&neighbour), bits(&run(&cache, &other, &[other.tokens])));
            prop_assert_eq!(cache.ledger().used(), 0);
        }
    }
}

#[test]
fn sixteen_bit_pages_are_as_close_as_their_mantissa() {
    let g = plain(4, 2, 64);
    let rows = Rows::random(&g, 200, 5);
    let exact = run(&cache(std::slice::from_ref(&g), "f32", 1, Isa::detect()), &rows, &[200]);
    for (format, bound) in [("f16", 2e-3), ("bf16", 1.6e-2)] {
        let got = run(&cache(std::slice::from_ref(&g), format, 1, Isa::detect()), &rows, &[200]);
        let worst = exact.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst > 0.0 && worst < bound, "{format}: {worst}");
    }
}

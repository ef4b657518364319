//! What every codec promises, over pages of every kind.

#![allow(clippy::unwrap_used)]

#[path = "codecs_support/mod.rs"]
mod support;

use cachalot_kernels::attention::Element;
use cachalot_kv::page::HEADER;
use cachalot_store::codec::{Codec, Lossless, Plain, Zstd};
use proptest::prelude::*;
use support::{bytes_of, coded, keys, page, random};

fn exact() -> Vec<Box<dyn Codec>> {
    let zstd = |level| Box::new(Zstd::new(level).unwrap());
    vec![Box::new(Plain), Box::new(Lossless), zstd(1), zstd(3), zstd(19)]
}

#[test]
fn every_bit_comes_back_whatever_the_elements_are() {
    for codec in exact() {
        assert!(codec.is_lossless());
        for k in Element::ALL {
            for v in Element::ALL {
                for dim in [16, 33, 80] {
                    // Random bits are not-a-number with any payload, infinities, subnormals, negative zeros.
                    let page = page(dim, Some((k, v)), &random(bytes_of(dim as usize, (k, v)), 1));
                    let coded = coded(&*codec, &page);
                    assert!(coded.len() <= page.len() + 64, "{}: {} {}", codec.name(), coded.len(), page.len());
                    assert_eq!(codec.decode(&coded, page.len()).unwrap(), page, "{} {k} {v}", codec.name());
                }
            }
        }
    }
}

#[test]
fn pages_of_one_value_nearly_vanish() {
    for element in Element::ALL {
        for byte in [0, 0x3c, 0xff] {
            let page = page(128, Some((element, element)), &vec![byte; bytes_of(128, (element, element))]);
            let coded = coded(&Lossless, &page);
            assert!(coded.len() < page.len() / 100 + HEADER, "{element} {byte}: {}", coded.len());
            assert_eq!(Lossless.decode(&coded, page.len()).unwrap(), page);
        }
    }
}

#[test]
fn pages_of_recipes_go_through() {
    for (payload, bound) in [(random(3008, 4), 3008 + 64), (vec![9; 3008], 64), ([0, 1, 1, 2].repeat(1024), 1500)] {
        let page = page(64, None, &payload);
        let coded = coded(&Lossless, &page);
        assert!(coded.len() <= bound.min(page.len() + 64), "{} of {}", coded.len(), payload.len());
        assert_eq!(Lossless.decode(&coded, page.len()).unwrap(), page);
    }
}

#[test]
fn what_is_no_page_is_refused() {
    let good = page(16, Some((Element::F16, Element::F16)), &random(4096, 2));
    let mut bad = good.clone();
    bad[70] ^= 1;
    for codec in exact().iter().skip(1) {
        for bad in [&bad[..], &good[..good.len() - 1], &good[..63], &[]] {
            assert!(codec.encode(bad, &mut Vec::new()).is_err(), "{}", codec.name());
        }
        // Lengths other than the page's.
        let coded = coded(&**codec, &good);
        for len in [0, 1, 63, 64, good.len() - 1, good.len() + 1] {
            assert!(codec.decode(&coded, len).is_err(), "{} {len}", codec.name());
        }
    }
}

#[test]
fn cut_and_changed_bytes_never_panic() {
    let smooth: Vec<u8> = (0..2048_u16).flat_map(|i| (0x3800 | (i % 997) | ((i & 1) << 15)).to_le_bytes()).collect();
    let page = page(16, Some((Element::F16, Element::F16)), &smooth);
    for codec in exact().iter().skip(1) {
        let good = coded(&**codec, &page);
        for len in 0..good.len() {
            assert!(codec.decode(&good[..len], page.len()).is_err(), "{} {len}", codec.name());
        }
        for at in 0..good.len() {
            for byte in [good[at] ^ 1, good[at] ^ 0x80, 0, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                if let Ok(decoded) = codec.decode(&bad, page.len()) {
                    assert_eq!(decoded.len(), page.len());
                }
            }
        }
    }
}

#[test]
fn numbers_become_as_small_as_their_exponents_allow() {
    // Of sixteen bits of bfloat16, normal numbers have 10.5 (exponents of 2.55); half floats, 13.5.
    for (element, ratio) in [(Element::Bf16, 1.4), (Element::F16, 1.13), (Element::F32, 1.18)] {
        let page = page(128, Some((element, element)), &keys(128, element, 7));
        let found = page.len() as f64 / coded(&Lossless, &page).len() as f64;
        assert!(found > ratio, "{element}: {found}");
        assert_eq!(Lossless.decode(&coded(&Lossless, &page), page.len()).unwrap(), page);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]
    #[test]
    fn any_page_comes_back(
        dim in 1_u32..40,
        k in 0_usize..5,
        v in 0_usize..5,
        masks in proptest::array::uniform4(any::<u8>()),
        seed in any::<u64>(),
    ) {
        let format = (Element::ALL[k], Element::ALL[v]);
        let mut payload = random(bytes_of(dim as usize, format), seed);
        payload.iter_mut().zip(masks.iter().cycle()).for_each(|(byte, mask)| *byte &= mask);
        let page = page(dim, Some(format), &payload);
        for codec in exact() {
            let coded = coded(&*codec, &page);
            prop_assert_eq!(codec.decode(&coded, page.len()).unwrap(), page.clone());
        }
    }
}

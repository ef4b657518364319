//! What `cachegen` promises: sizes, errors, and pages that are pages.

#![allow(clippy::unwrap_used)]

#[path = "codecs_support/mod.rs"]
mod support;

use cachalot_kernels::attention::{Element, PAGE_TOKENS};
use cachalot_kv::page::{HEADER, Header, reseal};
use cachalot_store::Codec;
use cachalot_store::codec::{CacheGen, Profile, UnknownCodec, named};
use std::sync::Arc;
use support::{coded, keys, normals, numbers, page, random, write};

const DIM: usize = 64;

fn codec(level: u8) -> CacheGen {
    CacheGen::new(level, None).unwrap()
}

fn f16_page(seed: u64) -> Vec<u8> {
    page(DIM as u32, Some((Element::F16, Element::F16)), &keys(DIM, Element::F16, seed))
}

fn read(element: Element, page: &[u8]) -> Vec<f32> {
    let payload = &page[HEADER..];
    match element {
        Element::F16 => payload.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect(),
        Element::Bf16 => payload.as_chunks().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        _ => payload.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
    }
}

fn error(a: &[f32], b: &[f32]) -> f32 {
    (a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / a.iter().map(|a| a * a).sum::<f32>()).sqrt()
}

#[test]
fn levels_trade_size_for_error_and_decoded_pages_are_pages() {
    for element in [Element::F16, Element::Bf16, Element::F32] {
        let page = page(DIM as u32, Some((element, element)), &keys(DIM, element, 11));
        let numbers = read(element, &page);
        let mut last = (0, f32::INFINITY);
        for level in 1..=3 {
            let codec = codec(level);
            assert!(!codec.is_lossless());
            assert_eq!(codec.name(), format!("cachegen-{level}"));
            let coded = coded(&codec, &page);
            let decoded = codec.decode(&coded, page.len()).unwrap();
            let (was, is) = (Header::verified(&page).unwrap(), Header::verified(&decoded).unwrap());
            assert_eq!(was, is);
            let off = error(&numbers, &read(element, &decoded));
            // Each level has half the step of the one before: half the error, and a bit more an element.
            assert!(coded.len() > last.0 && off < 0.6 * last.1, "{element} {level}: {} {off}", coded.len());
            if last.0 > 0 {
                let bits = 8.0 * (coded.len() - last.0) as f64 / (2 * DIM * PAGE_TOKENS) as f64;
                assert!((0.85..1.1).contains(&bits), "{element} {level}: {bits} bits more");
            }
            last = (coded.len(), off);
        }
        assert!(last.1 < 0.02, "{element}: {}", last.1);
    }
    let sizes: Vec<f64> = (1..=3).map(|level| 16448.0 / coded(&codec(level), &f16_page(3)).len() as f64).collect();
    assert!(sizes[0] > 4.0 && sizes[1] > 3.2 && sizes[2] > 2.6, "{sizes:?}");
}

#[test]
fn no_key_is_off_by_more_than_half_a_step() {
    let page = f16_page(21);
    let decoded = codec(2).decode(&coded(&codec(2), &page), page.len()).unwrap();
    let (was, is) = (read(Element::F16, &page), read(Element::F16, &decoded));
    let off = was.iter().zip(&is).map(|(a, b)| (a - b).abs());
    let keys = DIM * PAGE_TOKENS;
    // The grid is the same for all channels; an error of half a step is seen somewhere, and none is larger, but for the
    // rounding to half floats.
    let most = off.clone().take(keys).fold(0.0, f32::max);
    let mean = (off.take(keys).map(|off| off * off).sum::<f32>() / keys as f32).sqrt();
    assert!(
        (most / mean - 3_f32.sqrt()).abs() < 0.1,
        "a uniform error has its peak at the root of three: {}",
        most / mean
    );
}

#[test]
fn the_first_tokens_are_exact_and_slots_behind_the_last_do_not_matter() {
    let mut first = f16_page(8);
    first[16..24].fill(0);
    first[24] = 50;
    reseal(&mut first);
    let mut other = first.clone();
    for channel in 0..DIM {
        other[HEADER + 2 * (channel * PAGE_TOKENS + 50)..HEADER + 2 * (channel * PAGE_TOKENS + 64)].fill(0x3b);
    }
    other[HEADER + 2 * DIM * (PAGE_TOKENS + 50)..].fill(0x3b);
    reseal(&mut other);
    assert_eq!(coded(&codec(1), &first), coded(&codec(1), &other));
    let decoded = codec(1).decode(&coded(&codec(1), &first), first.len()).unwrap();
    let (was, is) = (read(Element::F16, &first), read(Element::F16, &decoded));
    for token in 0..4 {
        for channel in 0..DIM {
            assert_eq!(was[channel * PAGE_TOKENS + token], is[channel * PAGE_TOKENS + token]);
            let value = DIM * PAGE_TOKENS + token * DIM + channel;
            assert_eq!(was[value], is[value]);
        }
    }
    assert_ne!(was[4], is[4]);
}

#[test]
fn what_cannot_lose_anything_loses_nothing() {
    let mut numbers = numbers(DIM, 4);
    numbers[77] = f32::NAN;
    let payload: Vec<u8> = numbers.iter().flat_map(|&x| write(Element::F16, x)).collect();
    let zeros = vec![0; 4 * DIM * PAGE_TOKENS];
    let pages = [
        page(DIM as u32, Some((Element::F16, Element::F16)), &payload),
        page(DIM as u32, Some((Element::F16, Element::E4m3)), &random(3 * DIM * PAGE_TOKENS, 1)),
        page(DIM as u32, None, &random(5000, 2)),
        page(DIM as u32, Some((Element::F16, Element::F16)), &zeros),
    ];
    for page in &pages {
        let coded = coded(&codec(1), page);
        assert!(coded.len() < page.len() + 64);
        assert_eq!(&codec(1).decode(&coded, page.len()).unwrap(), page);
    }
    assert!(coded(&codec(1), &pages[3]).len() < 200);
}

#[test]
fn neighbours_that_resemble_each_other_cost_less() {
    // Channels that wander slowly: an anchor tells more of a token than the mean does.
    let steps = normals(2 * DIM * PAGE_TOKENS, 5);
    let wander = |noise: f32| -> Vec<f32> {
        let mut keys = Vec::new();
        for channel in 0..DIM {
            let mut x = 0.0;
            for token in 0..PAGE_TOKENS {
                x += noise * steps[channel * PAGE_TOKENS + token];
                keys.push(x);
            }
        }
        keys.extend((0..DIM * PAGE_TOKENS).map(|at| steps[DIM * PAGE_TOKENS + at]));
        keys
    };
    let size = |numbers: &[f32]| {
        let payload: Vec<u8> = numbers.iter().flat_map(|&x| write(Element::F32, x)).collect();
        coded(&codec(2), &page(DIM as u32, Some((Element::F32, Element::F32)), &payload)).len()
    };
    let wandering = wander(0.3);
    let mut shuffled = wandering.clone();
    for channel in 0..DIM {
        for token in 0..PAGE_TOKENS {
            shuffled[channel * PAGE_TOKENS + token] = wandering[channel * PAGE_TOKENS + token * 29 % PAGE_TOKENS];
        }
    }
    let (along, across) = (size(&wandering), size(&shuffled));
    assert!((along as f64) < 0.97 * across as f64, "{along} {across}");
}

#[test]
fn a_profile_makes_pages_smaller_and_is_named() {
    let pages: Vec<Vec<u8>> = (30..50).map(f16_page).collect();
    let learned = Profile::learn(&mut pages.iter().map(Vec::as_slice), &[]).unwrap();
    let bytes = learned.to_bytes();
    assert_eq!(Profile::from_bytes(&bytes).unwrap(), learned);
    assert_eq!(Profile::from_bytes(&bytes).unwrap().to_bytes(), bytes);
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(Profile::from_bytes(&bad).is_err(), "byte {at}");
        assert!(Profile::from_bytes(&bytes[..at]).is_err(), "{at} bytes");
    }
    let profile = Arc::new(learned);
    let with = CacheGen::new(2, Some(profile.clone())).unwrap();
    assert_eq!(with.name(), format!("cachegen-2@{}", profile.digest()));
    assert_eq!(profile.digest().len(), 8);
    let page = f16_page(99);
    let (small, large) = (coded(&with, &page), coded(&codec(2), &page));
    let off = |codec: &CacheGen, coded: &[u8]| {
        let decoded = codec.decode(coded, page.len()).unwrap();
        error(&read(Element::F16, &page), &read(Element::F16, &decoded))
    };
    // Levels with a profile are coarser ones: a bit less doubles the error of a grid.
    let saved = 8.0 * (large.len() as f32 - small.len() as f32) / (2 * DIM * PAGE_TOKENS) as f32;
    let worse = (off(&with, &small) / off(&codec(2), &large)).log2();
    assert!(saved > worse, "{saved} bits fewer, {worse} of error more");
    let error = codec(2).decode(&small, page.len()).unwrap_err().to_string();
    assert!(error.contains("a profile that this codec does not have"), "{error}");
    // Lanes that the profile does not know say all of themselves.
    let mut other = page.clone();
    other[8] = 6;
    reseal(&mut other);
    let decoded = with.decode(&coded(&with, &other), other.len()).unwrap();
    assert_eq!(Header::verified(&decoded).unwrap().layer, 6);
}

#[test]
fn codecs_are_found_by_the_names_they_have() {
    let profile = Arc::new(Profile::learn(&mut [f16_page(1)].iter().map(Vec::as_slice), &[]).unwrap());
    let with = format!("cachegen-1@{}", profile.digest());
    for name in ["none", "lossless", "zstd", "zstd-1", "zstd-19", "cachegen-1", "cachegen-3", &with] {
        assert_eq!(named(name, std::slice::from_ref(&profile)).unwrap().name(), name);
    }
    for bad in ["", "zip", "none-1", "lossless-2", "zstd-0", "zstd-", "zstd-x", "cachegen", "cachegen-4", "cachegen-@"]
    {
        assert!(matches!(named(bad, &[]).err(), Some(UnknownCodec::Name { .. })), "{bad}");
    }
    let missing = named(&with, &[]).err().unwrap();
    assert_eq!(missing, UnknownCodec::Profile { name: with, digest: profile.digest() });
}

#[test]
fn a_profile_that_knows_rotary_position_expects_keys_to_turn() {
    // Keys of one mean that turns, with little else; pages at other positions than those that were learned from.
    let angles: Vec<f32> = (0..DIM as i32 / 2).map(|i| 1e4_f32.powf(-i as f32 / 32.0)).collect();
    let means = normals(DIM, 40);
    let turned = |seed: u64, start: u64| {
        let noise = normals(2 * DIM * PAGE_TOKENS, seed);
        let mut numbers = Vec::new();
        for channel in 0..DIM {
            for token in 0..PAGE_TOKENS {
                let pair = channel % (DIM / 2);
                let (sin, cos) = (f64::from(angles[pair]) * (start as f64 + token as f64)).sin_cos();
                let (x, y) = (f64::from(means[pair]), f64::from(means[pair + DIM / 2]));
                let mean = if channel < DIM / 2 { x * cos - y * sin } else { y * cos + x * sin };
                numbers.push(3.0 * mean as f32 + 0.5 * noise[channel * PAGE_TOKENS + token]);
            }
        }
        numbers.extend(&noise[DIM * PAGE_TOKENS..]);
        let payload: Vec<u8> = numbers.iter().flat_map(|&x| write(Element::F32, x)).collect();
        let mut page = page(DIM as u32, Some((Element::F32, Element::F32)), &payload);
        page[16..24].copy_from_slice(&start.to_le_bytes());
        reseal(&mut page);
        page
    };
    let pages: Vec<Vec<u8>> = (0..20).map(|at| turned(at + 1, 64 * at)).collect();
    let new = turned(77, 64 * 1500);
    let of = |angles: &[f32]| {
        let profile = Profile::learn(&mut pages.iter().map(Vec::as_slice), angles).unwrap();
        assert_eq!(Profile::from_bytes(&profile.to_bytes()).unwrap().angles(), angles);
        let codec = CacheGen::new(3, Some(Arc::new(profile))).unwrap();
        let coded = coded(&codec, &new);
        let decoded = codec.decode(&coded, new.len()).unwrap();
        let keys = |page: &[u8]| read(Element::F32, page)[..DIM * PAGE_TOKENS].to_vec();
        let off = error(&keys(&new), &keys(&decoded));
        assert!(off < 0.05, "{off}");
        (8.0 * coded.len() as f32 / (2 * DIM * PAGE_TOKENS) as f32, off)
    };
    // Waves of three times a mean of one against a noise of a half: steps follow what is not known beforehand, so it is the error
    // of keys, which are half of the numbers, that shrinks; half of it is a bit of them.
    let ((with, near), (without, far)) = (of(&angles), of(&[]));
    let gain = without - with + 0.5 * (far / near).log2();
    assert!(gain > 0.25, "{with} {without} bits a number, errors {near} {far}");
}

#[test]
fn cut_and_changed_bytes_never_panic() {
    let mut first = page(16, Some((Element::F16, Element::F16)), &keys(16, Element::F16, 6));
    first[16..24].fill(0);
    reseal(&mut first);
    let pages: Vec<Vec<u8>> =
        (60..80).map(|seed| page(16, Some((Element::F16, Element::F16)), &keys(16, Element::F16, seed))).collect();
    let learned = Arc::new(Profile::learn(&mut pages.iter().map(Vec::as_slice), &[0.5, 0.01]).unwrap());
    let with = CacheGen::new(2, Some(learned)).unwrap();
    for codec in [codec(1), codec(3), with] {
        let good = coded(&codec, &first);
        for len in 0..good.len() {
            assert!(codec.decode(&good[..len], first.len()).is_err(), "{len}");
        }
        for at in 0..good.len() {
            for byte in [good[at] ^ 1, good[at] ^ 0x80, 0, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                if let Ok(decoded) = codec.decode(&bad, first.len()) {
                    assert_eq!(decoded.len(), first.len());
                }
            }
        }
        for len in [0, 63, 64, first.len() - 1, first.len() / 2] {
            assert!(codec.decode(&good, len).is_err(), "{len}");
        }
    }
    assert!(CacheGen::new(0, None).is_none() && CacheGen::new(4, None).is_none());
}

#[test]
fn a_learned_lane_keeps_what_every_page_keeps() {
    // Of all elements; the sinks to the bit, slots behind the last do not matter, what cannot be written is not lost.
    for element in [Element::F16, Element::Bf16, Element::F32] {
        let of = |seed: u64| page(DIM as u32, Some((element, element)), &keys(DIM, element, seed));
        let pages: Vec<Vec<u8>> = (100..120).map(of).collect();
        let angles: Vec<f32> = (0..DIM as i32 / 2).map(|i| 1e4_f32.powf(-i as f32 / 32.0)).collect();
        let profile = Arc::new(Profile::learn(&mut pages.iter().map(Vec::as_slice), &angles).unwrap());
        let with = |level: u8| CacheGen::new(level, Some(profile.clone())).unwrap();
        let mut first = of(7);
        first[16..24].fill(0);
        first[24] = 50;
        reseal(&mut first);
        let mut other = first.clone();
        let (bytes, tokens) = (element.bytes(), PAGE_TOKENS);
        other[HEADER + bytes * DIM * (tokens + 50)..HEADER + bytes * DIM * 2 * tokens].fill(0x3b);
        reseal(&mut other);
        assert_eq!(coded(&with(1), &first), coded(&with(1), &other));
        let decoded = with(1).decode(&coded(&with(1), &first), first.len()).unwrap();
        let (was, is) = (read(element, &first), read(element, &decoded));
        for at in 0..4 * DIM {
            let key = at % DIM * tokens + at / DIM;
            assert!(was[key] == is[key] && was[DIM * tokens + at] == is[DIM * tokens + at]);
        }
        let used = |x: &[f32]| -> Vec<f32> {
            let keys = (0..DIM * 50).map(|at| x[at / 50 * tokens + at % 50]);
            keys.chain(x[DIM * tokens..DIM * (tokens + 50)].iter().copied()).collect()
        };
        let mut last = (0, f32::INFINITY);
        for level in 1..=3 {
            let coded = coded(&with(level), &first);
            let decoded = with(level).decode(&coded, first.len()).unwrap();
            let off = error(&used(&was), &used(&read(element, &decoded)));
            assert!(coded.len() > last.0 && off < 0.6 * last.1, "{element} {level}: {} {off}", coded.len());
            last = (coded.len(), off);
        }
        assert!(last.1 < 0.03, "{element}: {}", last.1);
        let mut odd = first.clone();
        odd[HEADER + 6 * bytes..HEADER + 7 * bytes].fill(0xff);
        reseal(&mut odd);
        assert_eq!(with(1).decode(&coded(&with(1), &odd), odd.len()).unwrap(), odd);
    }
}

#[test]
fn what_keys_tell_of_values_is_not_written_again() {
    // Values that are keys in another order, with a little of their own: a profile makes them nearly free.
    let related = |seed: u64, own: f32| {
        let (keys, noise) = (normals(DIM * PAGE_TOKENS, seed), normals(DIM * PAGE_TOKENS, seed + 1000));
        let value = |at: usize| {
            let (token, channel) = (at / DIM, at % DIM);
            (1.0 - own) * keys[(channel * 29 + 5) % DIM * PAGE_TOKENS + token] + own * noise[at]
        };
        let values: Vec<f32> = (0..DIM * PAGE_TOKENS).map(value).collect();
        let payload: Vec<u8> = keys.iter().chain(&values).flat_map(|&x| write(Element::F16, x)).collect();
        page(DIM as u32, Some((Element::F16, Element::F16)), &payload)
    };
    let written = |own: f32| {
        let pages: Vec<Vec<u8>> = (0..20).map(|seed| related(2 * seed + 1, own)).collect();
        let profile = Profile::learn(&mut pages.iter().map(Vec::as_slice), &[]).unwrap();
        let codec = CacheGen::new(2, Some(Arc::new(profile))).unwrap();
        let new = related(777, own);
        let coded = coded(&codec, &new);
        let decoded = codec.decode(&coded, new.len()).unwrap();
        let values = |page: &[u8]| read(Element::F16, page)[DIM * PAGE_TOKENS..].to_vec();
        (coded.len(), error(&values(&new), &values(&decoded)))
    };
    let ((told, near), (untold, far)) = (written(0.2), written(1.0));
    // Steps follow what is left of values: the same size says more of them.
    assert!(told <= untold + untold / 20 && near < 0.5 * far, "{told} {untold}, {near} {far}");
}

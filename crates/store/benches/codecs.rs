//! Size and speed of codecs, one thread: `cargo bench -p cachalot-store --bench codecs [-- FILTER]`.
//!
//! Pages are made up: 64 tokens, channels of log-normal size with means of their own. Bytes are those of the page as the pool
//! holds it.

use cachalot_kernels::attention::{Element, PAGE_TOKENS};
use cachalot_kv::page::{HEADER, reseal};
use cachalot_store::codec::{CacheGen, Codec, Lossless, Zstd};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;

/// Pages that are coded one after the other.
const PAGES: usize = 32;

fn pages(element: Element, dim: usize) -> Vec<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut normal = move || {
        let mut sum = 0.0;
        for _ in 0..4 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            sum += (state >> 40) as f32 / (1_u32 << 24) as f32 - 0.5;
        }
        sum * 1.73
    };
    let scales: Vec<(f32, f32)> = (0..2 * dim).map(|_| ((1.2 * normal()).exp(), normal())).collect();
    let mut page = || {
        let mut page = vec![0; HEADER];
        page[..5].copy_from_slice(b"KVPG\x02");
        page[12..16].copy_from_slice(&(dim as u32).to_le_bytes());
        page[24] = PAGE_TOKENS as u8;
        page[32..34].copy_from_slice(&[element as u8; 2]);
        let mut put = |x: f32| match element {
            Element::F16 => page.extend_from_slice(&half::f16::from_f32(x).to_le_bytes()),
            Element::Bf16 => page.extend_from_slice(&half::bf16::from_f32(x).to_le_bytes()),
            _ => page.extend_from_slice(&x.to_le_bytes()),
        };
        for (scale, mean) in &scales[..dim] {
            (0..PAGE_TOKENS).for_each(|_| put(scale * (mean + normal())));
        }
        for _ in 0..PAGE_TOKENS {
            scales[dim..].iter().for_each(|(scale, _)| put(scale.sqrt() * normal()));
        }
        reseal(&mut page);
        page
    };
    (0..PAGES).map(|_| page()).collect()
}

fn codecs() -> Vec<Box<dyn Codec>> {
    let zstd = [1, 3].into_iter().filter_map(Zstd::new).map(|codec| Box::new(codec) as Box<dyn Codec>);
    let lossy = CacheGen::new(2, None).map(|codec| Box::new(codec) as Box<dyn Codec>);
    zstd.chain([Box::new(Lossless) as Box<dyn Codec>]).chain(lossy).collect()
}

fn bench(criterion: &mut Criterion) {
    for element in [Element::F16, Element::Bf16, Element::F32] {
        let pages = pages(element, 64);
        let bytes: usize = pages.iter().map(Vec::len).sum();
        for codec in codecs() {
            let name = codec.name();
            let mut group = criterion.benchmark_group(format!("{name}/{element}"));
            group.throughput(Throughput::Bytes(bytes as u64)).sample_size(20);
            group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
            let coded: Vec<Vec<u8>> = pages
                .iter()
                .filter_map(|page| {
                    let mut out = Vec::new();
                    codec.encode(page, &mut out).ok().map(|()| out)
                })
                .collect();
            let ratio = bytes as f64 / coded.iter().map(Vec::len).sum::<usize>() as f64;
            println!("{name} of {element}: {ratio:.3} times smaller");
            group.bench_function("encode", |bencher| {
                bencher.iter(|| {
                    let mut out = Vec::with_capacity(bytes);
                    pages.iter().for_each(|page| _ = black_box(codec.encode(page, &mut out)));
                    out
                });
            });
            group.bench_function("decode", |bencher| {
                bencher.iter(|| {
                    coded.iter().zip(&pages).for_each(|(coded, page)| _ = black_box(codec.decode(coded, page.len())));
                });
            });
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);

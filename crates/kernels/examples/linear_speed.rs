//! How fast the linear layers are: `cargo run --release -p cachalot-kernels --example linear_speed`, with any of the
//! arguments `ISA` (several), `threads=N` and `only=TEXT` (a part of the name of what to run).
//!
//! Runs the linear layers of a model of SmolLM2-135M's shape (30 layers of 4-bit weights with scale and minimum, an
//! 8-bit head), and square matrices of larger models. Prints GB/s of weights for one row, beside what plain reading
//! of memory reaches on this machine, and GOP/s (two per weight and row) for many rows. Best of several runs.

use cachalot_kernels::linear::{Linear, QuantSpec};
use cachalot_kernels::{Isa, Team};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::Instant;

const Q4_1: QuantSpec = QuantSpec { bits: 4, group: 32, zero: 0, min: true };
const Q4_0: QuantSpec = QuantSpec { bits: 4, group: 32, zero: 8, min: false };
const Q8_0: QuantSpec = QuantSpec { bits: 8, group: 32, zero: 128, min: false };
const Q6_K: QuantSpec = QuantSpec { bits: 8, group: 16, zero: 32, min: false };

fn quantized(spec: QuantSpec, out: usize, inp: usize) -> Linear {
    Linear::quantized(spec, out, inp, |row, codes, d, m| {
        codes.iter_mut().enumerate().for_each(|(k, c)| *c = ((row * 7 + k * 5) % 16) as u8);
        d.fill(0.0078125);
        m.fill(-0.0625);
    })
}

fn bf16(out: usize, inp: usize) -> Linear {
    Linear::dense_bf16(out, inp, &vec![half::bf16::from_f32(0.01); out * inp])
}

/// Bytes per second of summing up memory that no cache holds: the best stretch of 32 MB of several passes.
fn bandwidth(team: &Team) -> f64 {
    const STRETCH: usize = 32 << 17;
    let words = vec![1u64; 768 << 17];
    let mut best = f64::INFINITY;
    for stretch in (0..4).flat_map(|_| words.chunks_exact(STRETCH)) {
        let now = Instant::now();
        let parts = team.threads() * 4;
        team.for_each(parts, |i| {
            let part = &stretch[STRETCH / parts * i..STRETCH / parts * (i + 1)];
            let mut sums = [0u64; 32];
            for chunk in part.as_chunks::<32>().0 {
                sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
            }
            black_box(sums);
        });
        best = best.min(now.elapsed().as_secs_f64());
    }
    (STRETCH * 8) as f64 / best
}

/// Seconds for all layers, each shape at the best of its runs: on a machine with other work, no run is undisturbed
/// throughout.
fn time(layers: &[Linear], rows: usize, isa: Isa, team: &Team) -> f64 {
    let widest = layers.iter().map(Linear::inp).max().unwrap_or(0);
    let tallest = layers.iter().map(Linear::out).max().unwrap_or(0);
    let x: Vec<f32> = (0..rows * widest).map(|i| (i * 7919 % 1009) as f32 / 500.0 - 1.0).collect();
    let mut y = vec![0.0; rows * tallest];
    let mut shapes = BTreeMap::new();
    let start = Instant::now();
    for pass in 0.. {
        for layer in layers {
            let now = Instant::now();
            layer.forward(isa, team, &x[..rows * layer.inp()], &mut y[..rows * layer.out()]);
            let best: &mut f64 = shapes.entry((layer.out(), layer.inp())).or_insert(f64::INFINITY);
            *best = best.min(now.elapsed().as_secs_f64());
        }
        if pass >= 2 && start.elapsed().as_secs_f64() > 1.0 {
            break;
        }
    }
    layers.iter().map(|layer| shapes[&(layer.out(), layer.inp())]).sum()
}

fn report(name: &str, layers: &[Linear], many: &[usize], isas: &[Isa], team: &Team, read: f64) {
    let bytes: usize = layers.iter().map(Linear::bytes).sum();
    let weights: usize = layers.iter().map(|l| l.out() * l.inp()).sum();
    println!("{name}: {:.1}M weights, {:.1} MB", weights as f64 / 1e6, bytes as f64 / 1e6);
    for isa in isas {
        let seconds = time(layers, 1, *isa, team);
        let rate = bytes as f64 / seconds;
        print!(
            "  {:<9} 1 row {:>8.3} ms, {:>5.1} GB/s ({:.0}% of reading)",
            isa.name(),
            seconds * 1e3,
            rate / 1e9,
            rate / read * 100.0
        );
        for rows in many {
            let seconds = time(layers, *rows, *isa, team);
            let rate = 2.0 * (weights * rows) as f64 / seconds / 1e9;
            print!(" | {rows} rows {:>8.2} ms, {rate:>6.0} GOP/s", seconds * 1e3);
        }
        println!();
    }
}

fn main() {
    let only = std::env::args().find_map(|arg| Some(arg.strip_prefix("only=")?.to_owned()));
    let named: Vec<Isa> = std::env::args().skip(1).filter_map(|name| name.parse().ok()).collect();
    let threads = std::env::args().find_map(|arg| arg.strip_prefix("threads=")?.parse::<NonZeroUsize>().ok());
    let fast = || Isa::available().into_iter().filter(|isa| *isa != Isa::Portable || Isa::detect() == *isa).collect();
    let isas = if named.is_empty() { fast() } else { named };
    let team = threads.map_or_else(Team::of_all_cores, Team::new);
    let read = bandwidth(&team);
    println!("{} threads, reading memory at {:.1} GB/s", team.threads(), read / 1e9);
    let run = |name: &str, layers: &[Linear], many: &[usize]| {
        if only.as_ref().is_none_or(|o| name.contains(o.as_str())) {
            report(name, layers, many, &isas, &team, read)
        }
    };
    let shapes = [(960, 576), (576, 576), (3072, 576), (576, 1536)];
    let layers: Vec<Linear> = (0..30).flat_map(|_| shapes).map(|(out, inp)| quantized(Q4_1, out, inp)).collect();
    run("30 layers of SmolLM2-135M, 4 bits with minimum", &layers, &[4, 16, 64, 512]);
    drop(layers);
    run("its head, 8 bits", &[quantized(Q8_0, 49152, 576)], &[4, 16]);
    run("4096 x 4096, 4 bits", &(0..4).map(|_| quantized(Q4_0, 4096, 4096)).collect::<Vec<_>>(), &[4, 16, 512]);
    run("4096 x 4096, 8 bits", &(0..4).map(|_| quantized(Q8_0, 4096, 4096)).collect::<Vec<_>>(), &[4, 512]);
    run("2048 x 8192, groups of 16", &(0..4).map(|_| quantized(Q6_K, 2048, 8192)).collect::<Vec<_>>(), &[4, 512]);
    let layers: Vec<Linear> = (0..8).flat_map(|_| shapes).map(|(out, inp)| bf16(out, inp)).collect();
    run("8 layers of SmolLM2-135M, bf16", &layers, &[4, 64, 512]);
    run("4096 x 4096, bf16", &(0..4).map(|_| bf16(4096, 4096)).collect::<Vec<_>>(), &[4, 64]);
}

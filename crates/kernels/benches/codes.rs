//! Attention over encoded pages: `cargo bench -p cachalot-kernels --bench codes [-- FILTER]`.
//!
//! A GQA group of query rows reads pages whose bytes together are larger than the caches (`CACHALOT_BENCH_MB`, 64 where
//! nothing is said; 0 takes a few pages that stay in the first caches). One thread, one instruction set (`CACHALOT_ISA`,
//! else the widest), in processor time of the thread, so that what else runs on the machine counts less, or where pages
//! stay in the first caches, beside a chain of multiplications. Every format is measured whole (scores, softmax, outputs) and by its keys and values alone. At the
//! end a table of medians: tokens a second, bytes moved against the bandwidth that plain reading of as much memory has
//! in the same run, cycles of a page, and the ratio to f16.

use cachalot_kernels::Isa;
use cachalot_kernels::attention::*;
use cachalot_kernels::codes::*;
use criterion::{Criterion, Throughput};
use half::f16;
use std::hint::black_box;
use std::time::{Duration, Instant};

const T: usize = PAGE_TOKENS;

#[derive(Clone, Copy, PartialEq)]
enum Format {
    Plain(Element),
    /// Scale and offset per token.
    Token(Bits),
    /// Scale and offset per channel.
    Channel(Bits),
}

impl Format {
    fn name(self) -> String {
        match self {
            Format::Plain(element) => element.name().to_owned(),
            Format::Token(bits) => format!("int{} by token", bits.count()),
            Format::Channel(bits) => format!("int{} by channel", bits.count()),
        }
    }

    /// Scales of a page's side; there are as many offsets.
    fn scales(self, d: usize) -> usize {
        match self {
            Format::Plain(_) => 0,
            Format::Token(_) => T,
            Format::Channel(_) => d,
        }
    }

    /// Bytes of a page's side: codes, scales, offsets.
    fn bytes(self, d: usize) -> usize {
        match self {
            Format::Plain(element) => d * T * element.bytes(),
            Format::Token(bits) | Format::Channel(bits) => packed_bytes(bits, d * T) + 4 * self.scales(d),
        }
    }

    fn side(self, d: usize, seed: usize) -> Vec<u8> {
        let noise = |i: usize| ((i + seed) * 7919 % 1009) as f32 / 504.5 - 1.0;
        let halves = |x: f32| f16::from_f32(x).to_le_bytes();
        match self {
            Format::Plain(Element::F16) => (0..d * T).flat_map(|i| halves(noise(i))).collect(),
            // Bytes below 0x40 are numbers below two in both types of eight bits.
            Format::Plain(_) => (0..self.bytes(d)).map(|i| (i * 31 + seed) as u8 & 0x3f).collect(),
            Format::Token(bits) | Format::Channel(bits) => {
                let mut side: Vec<u8> = (0..packed_bytes(bits, d * T)).map(|i| (i * 31 + seed) as u8).collect();
                let largest = ((1 << bits.count()) - 1) as f32;
                (0..self.scales(d)).for_each(|_| side.extend(halves(2.0 / largest)));
                (0..self.scales(d)).for_each(|_| side.extend(halves(-1.0)));
                side
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    Page,
    Keys,
    Values,
}

/// One head's queries, state and buffers over its pages.
struct Bench {
    isa: Isa,
    format: Format,
    d: usize,
    rows: usize,
    /// Aligned as pages of a pool are.
    pages: Levels,
    bytes: usize,
    q: Vec<f32>,
    scores: Vec<f32>,
    state: [Vec<f32>; 3],
    levels: Levels,
    /// The queries, rounded for keys that have no scales of channels.
    rounded: Vec<f32>,
    floats: Vec<f32>,
    wide: Vec<f32>,
    scratch: Scratch,
}

impl Bench {
    fn new(isa: Isa, format: Format, d: usize, rows: usize, bytes: usize) -> Bench {
        let page: Vec<u8> = [format.side(d, 0), format.side(d, 5)].concat();
        let bytes = (bytes / page.len()).max(8) * page.len();
        let mut pages = Levels::default();
        pages.resize(bytes, 0);
        pages.chunks_exact_mut(page.len()).for_each(|to| to.copy_from_slice(&page));
        let q: Vec<f32> = (0..rows * d).map(|i| (i * 7919 % 1013) as f32 / 5000.0 - 0.1).collect();
        let (mut rounded, offsets) = (Vec::new(), vec![0.0; T]);
        round(isa, &grid(d, T, true, &offsets, &offsets), &q, d, rows, &mut rounded);
        Bench {
            isa,
            format,
            d,
            rows,
            pages,
            bytes,
            q,
            rounded,
            scores: vec![0.5; rows * T],
            state: [vec![f32::NEG_INFINITY; rows], vec![0.0; rows], vec![0.0; rows * d]],
            levels: Levels::default(),
            floats: vec![0.0; 2 * d.max(T)],
            wide: vec![0.0; d * T],
            scratch: Scratch::default(),
        }
    }

    fn tokens(&self) -> usize {
        self.bytes / (2 * self.format.bytes(self.d)) * T
    }

    /// All pages once.
    fn run(&mut self, what: What) {
        let side = self.format.bytes(self.d);
        let visible = vec![Visible { from: 0, to: T as u8 }; self.rows];
        let pages = std::mem::take(&mut self.pages);
        for page in pages.chunks_exact(2 * side) {
            if what != What::Values {
                self.score(&page[..side]);
            }
            if what == What::Page {
                let [max, sum, out] = &mut self.state;
                let mut rows = Rows { max, sum, out };
                soften(self.isa, &mut self.scores, &visible, 0.0, &mut rows);
            }
            if what != What::Keys {
                self.accumulate(&page[side..], &visible);
            }
        }
        self.pages = pages;
        black_box((&self.scores, &self.state));
    }

    fn score(&mut self, k: &[u8]) {
        match self.format {
            Format::Plain(element) if self.rows > DIRECT_ROWS => {
                self.widen(k, element);
                score_page(self.isa, &self.q, self.d, bytes(&self.wide), Element::F32, &mut self.scores);
            }
            Format::Plain(element) => score_page(self.isa, &self.q, self.d, k, element, &mut self.scores),
            Format::Token(bits) | Format::Channel(bits) => {
                self.widen_scales(bits, k);
                let by_token = self.format == Format::Token(bits);
                self.scores.fill(0.0);
                let (scales, offsets) = self.floats.split_at(self.format.scales(self.d));
                let grid = grid(self.d, T, by_token, scales, offsets);
                // Without scales of channels queries are rounded once for all pages.
                let given = match by_token {
                    true => Given::Rounded(&self.rounded),
                    false => Given::Plain { x: &self.q, stride: self.d },
                };
                let codes =
                    codes(self.isa, bits, &k[..packed_bytes(bits, self.d * T)], &grid, self.rows, &mut self.levels);
                multiply(self.isa, &grid, codes, given, self.rows, &mut self.scratch, &mut self.scores, T);
            }
        }
    }

    fn accumulate(&mut self, v: &[u8], visible: &[Visible]) {
        let d = self.d;
        match self.format {
            Format::Plain(element) if self.rows > DIRECT_ROWS => {
                self.widen(v, element);
                let out = &mut self.state[2];
                accumulate_page(self.isa, &self.scores, bytes(&self.wide), Element::F32, d, visible, out);
            }
            Format::Plain(element) => {
                accumulate_page(self.isa, &self.scores, v, element, d, visible, &mut self.state[2]);
            }
            Format::Token(bits) | Format::Channel(bits) => {
                self.widen_scales(bits, v);
                let by_channel = self.format == Format::Channel(bits);
                let (scales, offsets) = self.floats.split_at(self.format.scales(d));
                let grid = grid(T, d, by_channel, scales, offsets);
                let given = Given::Plain { x: &self.scores, stride: T };
                let codes = codes(self.isa, bits, &v[..packed_bytes(bits, d * T)], &grid, self.rows, &mut self.levels);
                multiply(self.isa, &grid, codes, given, self.rows, &mut self.scratch, &mut self.state[2], d);
            }
        }
    }

    fn widen(&mut self, side: &[u8], element: Element) {
        let view = PageView { k: side, v: &[], k_element: element, v_element: element };
        widen_page(self.isa, view, &mut self.wide, &mut []);
    }

    fn widen_scales(&mut self, bits: Bits, side: &[u8]) {
        let scales = &side[packed_bytes(bits, self.d * T)..];
        let view = PageView { k: scales, v: &[], k_element: Element::F16, v_element: Element::F16 };
        widen_page(self.isa, view, &mut self.floats[..2 * self.format.scales(self.d)], &mut []);
    }
}

/// Packed codes where the product reads them, else levels.
fn codes<'a>(
    isa: Isa,
    bits: Bits,
    packed: &'a [u8],
    grid: &Grid<'_>,
    rows: usize,
    levels: &'a mut Levels,
) -> Codes<'a> {
    if reads_packed(isa, grid, rows) {
        return Codes::Packed { bits, packed, table: None };
    }
    levels.resize(grid.reduce * grid.lanes, 0);
    unpack(isa, bits, packed, None, levels);
    Codes::Levels(levels)
}

/// One group of rows and lanes; scales of the lanes or folded into the vector.
fn grid<'a>(reduce: usize, lanes: usize, by_lane: bool, scales: &'a [f32], offsets: &'a [f32]) -> Grid<'a> {
    let ((lane_scale, lane_offset), (fold_scale, fold_offset)) =
        if by_lane { ((scales, offsets), (&[][..], &[][..])) } else { ((&[][..], &[][..]), (scales, offsets)) };
    let (reduce_groups, lane_groups): (&[usize], &[usize]) = match (reduce, lanes) {
        (64, 64) => (&[64], &[64]),
        (64, _) => (&[64], &[128]),
        (_, _) => (&[128], &[64]),
    };
    Grid { reduce, lanes, zero: 0, reduce_groups, lane_groups, fold_scale, fold_offset, lane_scale, lane_offset }
}

fn bytes(x: &[f32]) -> &[u8] {
    // SAFETY: any four bytes of an `f32` are bytes.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), size_of_val(x)) }
}

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is there to be written; the clock exists wherever `libc` does for us.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x.get(x.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Bytes per second of summing up as much memory, the median of some passes.
fn bandwidth(bytes: usize) -> f64 {
    let words = vec![1u64; bytes.max(1 << 16) / 8];
    let pass = |_| {
        let now = cpu_time();
        let mut sums = [0u64; 64];
        for chunk in words.as_chunks::<64>().0 {
            sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
        }
        black_box(sums);
        (words.len() * 8) as f64 / (cpu_time() - now).as_secs_f64()
    };
    median((0..15).map(pass).collect())
}

/// Clock cycles a second, from a chain of multiplications and rotations, four cycles each (as on all recent x86 processors).
fn clock() -> f64 {
    let pass = |_| {
        let now = cpu_time();
        chain(1_000_000);
        4e6 / (cpu_time() - now).as_secs_f64()
    };
    (0..20).map(pass).fold(0.0, f64::max)
}

/// So many multiplications and rotations, each of what the one before comes to.
#[inline(never)]
fn chain(length: usize) {
    let (factor, mut x) = (black_box(7u64), black_box(3u64));
    for _ in 0..length {
        x = x.wrapping_mul(factor).rotate_left(1);
    }
    black_box(x);
}

struct Line {
    shape: String,
    name: String,
    seconds: [f64; 3],
    tokens: usize,
    bytes: usize,
}

fn measure(c: &mut Criterion, isa: Isa, hertz: f64, format: Format, d: usize, rows: usize, bytes: usize) -> Line {
    let in_cache = bytes == 0;
    let mut bench = Bench::new(isa, format, d, rows, bytes);
    let shape = format!("d={d} rows={rows}");
    let mut seconds = [f64::NAN; 3];
    for (what, part) in [(What::Page, "page"), (What::Keys, "keys"), (What::Values, "values")] {
        let mut samples = Vec::new();
        let mut group = c.benchmark_group(&shape);
        group.throughput(Throughput::Elements(bench.tokens() as u64));
        group.bench_function(format!("{}/{part}", format.name()), |b| {
            b.iter_custom(|passes| {
                if in_cache {
                    // Clocks of shared machines change, so passes are held against a chain of known cycles; and what else
                    // runs only lengthens both, so the shortest count.
                    let (mut pass, mut known) = (Duration::MAX, Duration::MAX);
                    for _ in 0..passes {
                        let start = Instant::now();
                        bench.run(what);
                        let middle = Instant::now();
                        chain(1000);
                        (pass, known) = (pass.min(middle - start), known.min(middle.elapsed()));
                    }
                    let seconds = pass.as_secs_f64() / known.as_secs_f64() * 4000.0 / hertz;
                    samples.push(seconds);
                    return Duration::from_secs_f64(seconds * passes as f64);
                }
                let now = cpu_time();
                (0..passes).for_each(|_| bench.run(what));
                let elapsed = cpu_time() - now;
                samples.push(elapsed.as_secs_f64() / passes as f64);
                elapsed
            });
        });
        group.finish();
        seconds[what as usize] = median(samples);
    }
    Line { shape, name: format.name(), seconds, tokens: bench.tokens(), bytes: bench.bytes }
}

fn main() {
    let megabytes = std::env::var("CACHALOT_BENCH_MB").ok().and_then(|mb| mb.parse::<usize>().ok()).unwrap_or(64);
    let isa = std::env::var("CACHALOT_ISA").ok().and_then(|isa| isa.parse().ok()).unwrap_or_else(Isa::detect);
    let mut c = Criterion::default()
        .sample_size(10)
        .without_plots()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .configure_from_args();
    let four = |of: fn(Bits) -> Format| [Bits::B2, Bits::B3, Bits::B4, Bits::B8].map(of);
    let mut formats = [Element::F16, Element::E4m3, Element::E5m2].map(Format::Plain).to_vec();
    formats.extend(four(Format::Token).into_iter().chain(four(Format::Channel)));
    let (before, hertz) = (bandwidth(megabytes << 20), clock());
    let mut lines = Vec::new();
    for (d, rows) in [(64, 3), (128, 4), (64, 48), (128, 48)] {
        // Many rows are not bound by memory.
        let bytes = if rows > DIRECT_ROWS { megabytes << 17 } else { megabytes << 20 };
        lines.extend(formats.iter().map(|&format| measure(&mut c, isa, hertz, format, d, rows, bytes)));
    }
    c.final_summary();
    let read = bandwidth(megabytes << 20);
    println!(
        "\n{isa}, {megabytes} MB of pages, reading memory at {:.1} GB/s before and {:.1} GB/s after, about {:.2} GHz",
        before / 1e9,
        read / 1e9,
        hertz / 1e9
    );
    println!("| shape | format | Mtokens/s | GB/s | of reading | cycles/page | keys | values | to f16 |");
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|");
    let mut f16 = f64::NAN;
    for Line { shape, name, seconds, tokens, bytes } in lines {
        let rate = |seconds: f64| tokens as f64 / seconds;
        if name == Element::F16.name() {
            f16 = rate(seconds[0]);
        }
        let [page, keys, values] = seconds.map(|s| s / (tokens / T) as f64 * hertz);
        let moved = bytes as f64 / seconds[0];
        println!(
            "| {shape} | {name} | {:.1} | {:.2} | {:.0}% | {page:.0} | {keys:.0} | {values:.0} | {:.2} |",
            rate(seconds[0]) / 1e6,
            moved / 1e9,
            moved / read * 100.0,
            rate(seconds[0]) / f16
        );
    }
}

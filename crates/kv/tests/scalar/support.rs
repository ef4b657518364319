//! Parts from their written form, and pages of them.

use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::encode::codec::{Hints, Part, Queries, Shape, Side, Work};
use cachalot_kv::encode::registry;
use cachalot_kv::encode::stage::{Args, Built, Context, NamedTensor, Samples, StageError, StageSpec, Tensors};
use std::sync::Arc;

/// Tensors by name.
pub struct Profile(pub Vec<NamedTensor>);

impl Tensors for Profile {
    fn tensor(&self, name: &str) -> Option<(&[usize], &[f32])> {
        self.0.iter().find(|tensor| tensor.name == name).map(|tensor| (&tensor.shape[..], &tensor.data[..]))
    }
}

/// What calibration makes of rows.
pub fn calibrated(text: &str, shape: Shape, rows: &[f32]) -> Profile {
    let mut tensors = Vec::new();
    for text in text.split('|') {
        let args = Args::new(spec(text.trim()));
        if let Some(calibrate) = registry::stage(&args.spec().name).unwrap().calibrate {
            let samples = Samples { rows, queries: &[], seed: 0 };
            tensors.extend(calibrate(&args, &context(shape, None), &samples).unwrap());
        }
    }
    Profile(tensors)
}

/// `name(key=value, …)`.
pub fn spec(text: &str) -> StageSpec {
    let (name, args) = text.strip_suffix(')').and_then(|text| text.split_once('(')).unwrap_or((text, ""));
    let pairs = args.split(',').filter(|pair| !pair.is_empty());
    let args = pairs.map(|pair| pair.trim().split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned()));
    StageSpec { name: name.to_owned(), args: args.collect() }
}

pub fn context(shape: Shape, profile: Option<&dyn Tensors>) -> Context<'_> {
    Context {
        side: shape.side,
        tokens: shape.tokens,
        channels: shape.channels,
        layer: 0,
        layers: 1,
        head: 0,
        heads: 1,
        rope: None,
        profile,
        stage: 0,
    }
}

/// The part that a chain of wraps and a part, `a | b`, stands for.
pub fn build(text: &str, shape: Shape, profile: Option<&dyn Tensors>) -> Result<Arc<dyn Part>, StageError> {
    let mut wraps = Vec::new();
    for text in text.split('|') {
        let args = Args::new(spec(text.trim()));
        let entry = registry::stage(&args.spec().name).unwrap_or_else(|| panic!("no stage {text}"));
        match (entry.build)(&args, &context(shape, profile))? {
            Built::Wrap(wrap) => wraps.push(wrap),
            Built::Part(part) => return wraps.into_iter().rev().try_fold(part, |part, wrap| wrap(part)),
            _ => panic!("{text} writes nothing"),
        }
    }
    panic!("{text} writes nothing")
}

pub fn part(text: &str, side: Side, tokens: usize, channels: usize) -> Arc<dyn Part> {
    build(text, Shape { side, tokens, channels }, None).unwrap()
}

pub fn encode(part: &dyn Part, x: &[f32]) -> Vec<u8> {
    // Every byte must be set, whatever was there.
    let (mut a, mut b) = (vec![0; part.bytes()], vec![0xff; part.bytes()]);
    part.encode(x, Hints::default(), &mut a);
    part.encode(x, Hints::default(), &mut b);
    assert_eq!(a, b, "{}: bytes depend on what was in the page", part.describe());
    a
}

pub fn decode(part: &dyn Part, page: &[u8]) -> Vec<f32> {
    let mut x = vec![0.0; part.shape().elements()];
    part.decode(page, &mut x);
    x
}

pub fn round_trip(part: &dyn Part, x: &[f32]) -> Vec<f32> {
    decode(part, &encode(part, x))
}

/// The tile as `[tokens][channels]`; the padding must be empty, and what is written over anything the same.
pub fn tile(part: &dyn Part, isa: Isa, page: &[u8]) -> Vec<f32> {
    let shape = part.shape();
    let mut tile = vec![0.0; shape.tile_len()];
    part.tile(isa, page, &mut Work::default(), &mut tile);
    let mut written = vec![f32::NAN; shape.tile_len()];
    part.write_tile(isa, page, &mut Work::default(), &mut written);
    assert!(tile.iter().zip(&written).all(|(a, b)| a.to_bits() == b.to_bits()), "{}: {isa}", part.describe());
    let at = |token: usize, channel: usize| match shape.side {
        Side::Keys => channel * PAGE_TOKENS + token,
        Side::Values => token * shape.width() + channel,
    };
    let elements = (0..shape.tokens).flat_map(|t| (0..shape.channels).map(move |c| (t, c)));
    let x = elements.map(|(t, c)| std::mem::take(&mut tile[at(t, c)])).collect();
    assert!(tile.iter().all(|&x| x == 0.0), "{}: padding of the tile is not empty", part.describe());
    x
}

/// Scores or outputs of the fused route, `[rows][tokens]` or `[rows][channels]`; `x` is `[rows][channels or tokens]`.
pub fn fused(part: &dyn Part, isa: Isa, page: &[u8], x: &[f32], rows: usize) -> Vec<f32> {
    let shape = part.shape();
    let (taken, given) = match shape.side {
        Side::Keys => (shape.width(), PAGE_TOKENS),
        Side::Values => (PAGE_TOKENS, shape.width()),
    };
    let padded: Vec<f32> = x.chunks_exact(x.len() / rows).flat_map(|row| widened(row, taken)).collect();
    let (mut work, mut state, mut out) = (Work::default(), Vec::new(), vec![0.0; rows * given]);
    match shape.side {
        Side::Keys => {
            part.prepare(isa, &padded, rows, &mut state);
            part.score(isa, page, Queries { rows, q: &padded, state: &state }, &mut work, &mut out);
        }
        Side::Values => part.accumulate(isa, page, &padded, rows, &mut work, &mut out),
    }
    let real = if shape.side == Side::Keys { shape.tokens } else { shape.channels };
    out.chunks_exact(given).flat_map(|row| row[..real].to_vec()).collect()
}

fn widened(row: &[f32], len: usize) -> Vec<f32> {
    row.iter().copied().chain(std::iter::repeat(0.0)).take(len).collect()
}

/// Pseudo-random numbers, about normal.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 + 0.5) / (1u64 << 24) as f32
    }

    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }

    /// Rows with a few channels much larger than the rest, as keys have them.
    pub fn rows(&mut self, tokens: usize, channels: usize) -> Vec<f32> {
        let scales: Vec<f32> = (0..channels).map(|c| if c % 19 == 7 { 12.0 } else { 0.5 + self.uniform() }).collect();
        let means: Vec<f32> = scales.iter().map(|s| s * self.normal()).collect();
        let element = |i: usize| means[i % channels] + scales[i % channels] * self.normal();
        (0..tokens * channels).map(element).collect()
    }
}

//! Random signs and random rotations (QuIP#'s randomised Hadamard transform, Tseng et al., 2024; TurboQuant, Zandieh et
//! al., 2025).

use super::super::codec::Transform;
use super::super::math::{Rng, dense};
use super::super::stage::{Args, Built, Context, StageError};
use super::basis::Basis;
use super::hadamard::{transform, transform_tile};
use super::widest;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::ops::Range;
use std::sync::Arc;

/// Passes of random signs, each but a lone one followed by a Walsh-Hadamard transform.
///
/// A power of two channels takes one pass over all of them. Other numbers take three overlapping ones, over the
/// first, the last and again the first power of two of them, so that every channel reaches every other.
#[derive(Clone, Debug)]
struct Rotate {
    channels: usize,
    passes: Vec<Pass>,
}

#[derive(Clone, Debug)]
struct Pass {
    channels: Range<usize>,
    signs: Vec<f32>,
    mix: bool,
}

impl Rotate {
    fn signs(channels: usize, seed: u64) -> Rotate {
        let mut rng = Rng::new(seed, 1);
        let signs = (0..channels).map(|_| rng.sign()).collect();
        Rotate { channels, passes: vec![Pass { channels: 0..channels, signs, mix: false }] }
    }

    fn hadamard(channels: usize, seed: u64) -> Rotate {
        let mut rng = Rng::new(seed, 1);
        let block = 1 << channels.ilog2();
        let starts: &[usize] = if block == channels { &[0] } else { &[0, channels - block, 0] };
        let pass = |&start: &usize| {
            let signs = (0..block).map(|_| rng.sign()).collect();
            Pass { channels: start..start + block, signs, mix: true }
        };
        Rotate { channels, passes: starts.iter().map(pass).collect() }
    }
}

fn seed(args: &Args) -> Result<u64, StageError> {
    Ok(args.integer("seed", 0, 0..=u32::MAX as usize)? as u64)
}

pub(super) fn build_signs(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let seed = seed(args)?;
    args.done()?;
    Ok(Built::Transform(Arc::new(Rotate::signs(context.channels, seed))))
}

pub(super) fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let (seed, kind) = (seed(args)?, args.word("kind", &["hadamard", "dense"])?);
    args.done()?;
    let d = context.channels;
    if kind == "hadamard" {
        return Ok(Built::Transform(Arc::new(Rotate::hadamard(d, seed))));
    }
    let matrix: Vec<f32> = dense::random_rotation(d, &mut Rng::new(seed, 2)).iter().map(|&x| x as f32).collect();
    Ok(Built::Transform(Arc::new(Basis::orthonormal(format!("dense random rotation of seed {seed}"), d, matrix, None))))
}

impl Transform for Rotate {
    fn inputs(&self) -> usize {
        self.channels
    }

    fn outputs(&self) -> usize {
        self.channels
    }

    fn forward(&self, x: &[f32], y: &mut [f32]) {
        y.copy_from_slice(x);
        for pass in &self.passes {
            let y = &mut y[pass.channels.clone()];
            y.iter_mut().zip(&pass.signs).for_each(|(y, sign)| *y *= sign);
            if pass.mix {
                transform(widest(), y);
            }
        }
    }

    fn query(&self, q: &[f32], y: &mut [f32]) -> f32 {
        self.forward(q, y);
        0.0
    }

    fn inverse(&self, y: &[f32], x: &mut [f32]) {
        x.copy_from_slice(y);
        for pass in self.passes.iter().rev() {
            let x = &mut x[pass.channels.clone()];
            if pass.mix {
                transform(widest(), x);
            }
            x.iter_mut().zip(&pass.signs).for_each(|(x, sign)| *x *= sign);
        }
    }

    fn output(&self, y: &[f32], _weight: f32, x: &mut [f32]) {
        self.inverse(y, x);
    }

    fn inverse_in_place(&self, tile: &mut [f32]) -> bool {
        for pass in self.passes.iter().rev() {
            let to = &mut tile[pass.channels.start * PAGE_TOKENS..pass.channels.end * PAGE_TOKENS];
            if pass.mix {
                transform_tile(widest(), to);
            }
            for (row, sign) in to.chunks_exact_mut(PAGE_TOKENS).zip(&pass.signs) {
                row.iter_mut().for_each(|x| *x *= sign);
            }
        }
        true
    }

    fn describe(&self) -> String {
        match &self.passes[..] {
            [pass] if !pass.mix => "random signs".to_owned(),
            [_] => format!("randomised Hadamard transform of {} channels", self.channels),
            passes => {
                let block = passes[0].channels.len();
                format!("{} overlapping randomised Hadamard transforms of {block} channels", passes.len())
            }
        }
    }

    fn shared_bytes(&self) -> usize {
        self.passes.iter().map(|pass| 4 * pass.signs.len()).sum()
    }
}

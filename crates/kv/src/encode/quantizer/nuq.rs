//! Levels learned from samples: the non-uniform quantization of KVQuant (arXiv 2401.18079).
//!
//! Numbers are normalized to [-1, 1] between two thresholds and take the nearest of 2^bits learned levels. Per channel
//! (keys) the thresholds come from the profile and nothing is stored with a page; per token (values) they are the extremes
//! of the token, which `outliers` before this stage keeps from being stretched by a few numbers.

mod learn;

use super::table::{Table, ZERO};
use super::{Group, GroupQuantizer, Kept, Offset, Packing, Parameters, Store, range};
use crate::encode::codec::Side;
use crate::encode::part::matrix::{Axis, Matrix};
use crate::encode::stage::{Args, Built, Context, StageEntry, StageError};
use cachalot_kernels::Isa;
use std::sync::Arc;

pub(super) const STAGE: StageEntry = StageEntry {
    name: "nuq",
    summary: "learned levels between thresholds that are calibrated per channel (keys) or taken per token (values); needs \
              a profile: bits=3 (1 to 4), axis=channel|token, qnorm=false (decode to levels that keep mean and spread), \
              share=0.01 (of numbers that count as outliers in calibration)",
    build,
    calibrate: Some(learn::calibrate),
};

/// What both building and calibrating read.
struct Options {
    levels: usize,
    by_channel: bool,
    qnorm: bool,
    share: f32,
}

impl Options {
    fn of(args: &Args, side: Side) -> Result<Options, StageError> {
        let choices = if side == Side::Keys { ["channel", "token"] } else { ["token", "channel"] };
        let options = Options {
            levels: 1 << args.integer("bits", 3, 1..=4)?,
            by_channel: args.word("axis", &choices)? == "channel",
            qnorm: args.flag("qnorm", false)?,
            share: args.number("share", 0.01, 0.0..=0.5)?,
        };
        args.done()?;
        Ok(options)
    }
}

#[derive(Debug)]
struct Learned {
    /// Levels that numbers are compared with.
    encode: Table,
    /// Levels that pages decode to.
    decode: Table,
    thresholds: Thresholds,
}

#[derive(Debug)]
enum Thresholds {
    /// Middle and half distance of every channel; and the latter times the unit of the levels.
    Fixed { middle: Arc<[f32]>, half: Vec<f32>, scale: Arc<[f32]> },
    /// Of every token.
    Dynamic,
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let options = Options::of(args, context.side)?;
    let levels = |what| -> Result<Table, StageError> {
        let values = context.tensor(args, what, &[options.levels])?;
        if values.is_sorted() && values.iter().all(|x| x.is_finite()) {
            return Ok(Table::new(values));
        }
        Err(args.error(format!("tensor `{}` of the profile is not ascending", context.tensor_name(what))))
    };
    let encode = levels("levels")?;
    let decode = if options.qnorm { levels("decoded")? } else { encode.clone() };
    let (axis, thresholds) = if options.by_channel {
        let middle = context.tensor(args, "middle", &[context.channels])?;
        let half = context.tensor(args, "half", &[context.channels])?;
        if !middle.iter().chain(half).all(|x| x.is_finite()) {
            return Err(args.error("thresholds of the profile are not finite"));
        }
        let scale = half.iter().map(|half| half * decode.unit()).collect();
        let (middle, half) = (middle.into(), half.to_vec());
        (Axis::Channel { group: 0 }, Thresholds::Fixed { middle, half, scale })
    } else {
        (Axis::Token { group: 0 }, Thresholds::Dynamic)
    };
    Matrix::finish(args, context, axis, Learned { encode, decode, thresholds }, false)
}

impl GroupQuantizer for Learned {
    fn packing(&self) -> Packing {
        self.decode.packing()
    }

    fn zero(&self) -> u8 {
        ZERO
    }

    fn scale(&self) -> Kept {
        match &self.thresholds {
            Thresholds::Fixed { scale, .. } => Kept::Fixed(Arc::clone(scale)),
            Thresholds::Dynamic => Kept::Stored(Store::F16),
        }
    }

    fn offset(&self) -> Offset {
        Offset::Added(match &self.thresholds {
            Thresholds::Fixed { middle, .. } => Kept::Fixed(Arc::clone(middle)),
            Thresholds::Dynamic => Kept::Stored(Store::F16),
        })
    }

    fn quantize(&self, group: Group, x: &[f32], codes: &mut [u8]) -> Parameters {
        let (middle, half, scale) = match &self.thresholds {
            Thresholds::Fixed { middle, half, scale } => (middle[group.line], half[group.line], scale[group.line]),
            Thresholds::Dynamic => {
                let (low, high) = range(x);
                // Halved first, so that the middle of two large numbers is finite.
                let (middle, half) = (Store::F16.round(low / 2.0 + high / 2.0), high / 2.0 - low / 2.0);
                let scale = Store::F16.round(half * self.decode.unit());
                (middle, scale / self.decode.unit(), scale)
            }
        };
        let step = half * self.encode.unit();
        let steps = |&x: &f32| if step > 0.0 { (x - middle) / step } else { 0.0 };
        self.encode.nearest_each(Isa::detect(), &x.iter().map(steps).collect::<Vec<_>>(), codes);
        Parameters { scale, offset: middle }
    }

    fn describe(&self) -> String {
        match self.thresholds {
            Thresholds::Fixed { .. } => "learned levels between calibrated thresholds".to_owned(),
            Thresholds::Dynamic => "learned levels, f16 scale and offset".to_owned(),
        }
    }

    fn shared_bytes(&self) -> usize {
        let fixed = if let Thresholds::Fixed { middle, .. } = &self.thresholds { 8 * middle.len() } else { 0 };
        16 + fixed
    }
}

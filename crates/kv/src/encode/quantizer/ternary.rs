//! One bit and three levels, as VidKV (arXiv 2503.16257) keeps keys and values of video.

use super::{Group, GroupQuantizer, Kept, Offset, Packing, Parameters, Store};
use crate::encode::part::matrix::{Axis, Matrix};
use crate::encode::stage::{Args, Context, StageEntry, StageError};
use cachalot_kernels::codes::Bits;

pub(super) const TERNARY: StageEntry = StageEntry {
    name: "ternary",
    summary: "minus, nothing or plus the mean magnitude, nothing below half of it: axis=channel|token, group=32 (0 for \
              all), pack=planes|base3 (2 or 1.6 bits)",
    build: |args, context| {
        let packing = match args.word("pack", &["planes", "base3"])? {
            "base3" => Packing::Ternary,
            _ => Packing::Planes { bits: Bits::B2, table: None },
        };
        Matrix::finish(args, context, axis(args, context)?, Ternary { packing }, false)
    },
    calibrate: None,
};

pub(super) const SIGN: StageEntry = StageEntry {
    name: "sign",
    summary: "signs times the mean magnitude, 1 bit: axis=channel|token, group=32 (0 for all)",
    build: |args, context| Matrix::finish(args, context, axis(args, context)?, Sign, false),
    calibrate: None,
};

/// Groups run along tokens on both sides unless asked otherwise.
fn axis(args: &Args, _: &Context<'_>) -> Result<Axis, StageError> {
    Axis::of_args(args, crate::encode::codec::Side::Keys, 32)
}

fn mean_magnitude(x: &[f32]) -> f32 {
    x.iter().map(|x| x.abs()).sum::<f32>() / x.len() as f32
}

#[derive(Clone, Debug)]
struct Ternary {
    packing: Packing,
}

impl GroupQuantizer for Ternary {
    fn packing(&self) -> Packing {
        self.packing.clone()
    }

    fn zero(&self) -> u8 {
        1
    }

    fn scale(&self) -> Kept {
        Kept::Stored(Store::F16)
    }

    fn offset(&self) -> Offset {
        Offset::None
    }

    fn quantize(&self, _: Group, x: &[f32], codes: &mut [u8]) -> Parameters {
        let mean = mean_magnitude(x);
        let code = |x: f32| if x > mean / 2.0 { 2 } else { u8::from(x >= -mean / 2.0) };
        x.iter().zip(codes).for_each(|(&x, to)| *to = code(x));
        Parameters { scale: Store::F16.round(mean), offset: 0.0 }
    }

    fn describe(&self) -> String {
        "three levels, f16 mean magnitude".to_owned()
    }
}

#[derive(Clone, Debug)]
struct Sign;

impl GroupQuantizer for Sign {
    fn packing(&self) -> Packing {
        let table = std::array::from_fn(|code| if code == 0 { 0 } else { 2 });
        Packing::Planes { bits: Bits::B1, table: Some(table) }
    }

    fn zero(&self) -> u8 {
        1
    }

    fn scale(&self) -> Kept {
        Kept::Stored(Store::F16)
    }

    fn offset(&self) -> Offset {
        Offset::None
    }

    fn quantize(&self, _: Group, x: &[f32], codes: &mut [u8]) -> Parameters {
        x.iter().zip(codes).for_each(|(&x, code)| *code = u8::from(x >= 0.0));
        Parameters { scale: Store::F16.round(mean_magnitude(x)), offset: 0.0 }
    }

    fn describe(&self) -> String {
        "signs, f16 mean magnitude".to_owned()
    }
}

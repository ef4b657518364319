//! Channels as rows of small whole numbers: what each token is predicted from, and how far off that will be.

use super::super::entropy::rans::{self, CLASSES, class_of};
use super::profile::Channel;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::ops::Range;

/// Tokens that share an anchor.
const GROUP: usize = 10;

/// How a channel is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Row {
    /// Distribution of what is left over; see [`rans`].
    pub class: u8,
    /// What tokens are predicted from, in units of [`unit`].
    pub mean: i8,
    /// Whether only the first of every ten tokens is predicted from the mean, and the others from it.
    pub anchored: bool,
}

/// What means are multiples of: a quarter of the spread.
pub fn unit(class: u8) -> i32 {
    1 << (class / 2).saturating_sub(4).min(20)
}

/// Takes from each token what it is predicted from. Tokens that are not written count as predicted.
fn residuals(row: &[i32], mean: i32, anchored: bool, tokens: &Range<usize>) -> [i32; PAGE_TOKENS] {
    let mut left = [0; PAGE_TOKENS];
    for token in tokens.clone() {
        let anchor = tokens.start + (token - tokens.start) / GROUP * GROUP;
        left[token] = row[token] - if anchored && token != anchor { row[anchor] } else { mean };
    }
    left
}

/// Undoes [`residuals`].
pub fn restore(row: &mut [i32], mean: i32, anchored: bool, tokens: &Range<usize>) {
    for token in tokens.clone() {
        let anchor = tokens.start + (token - tokens.start) / GROUP * GROUP;
        row[token] = row[token].wrapping_add(if anchored && token != anchor { row[anchor] } else { mean });
    }
}

/// A way to write a channel: what is left over, and its bits.
pub struct Written {
    /// How.
    pub row: Row,
    /// What is left over.
    pub left: [i32; PAGE_TOKENS],
    /// Bits.
    pub bits: f32,
}

/// The cheapest way to write a channel that says all of itself.
pub fn own(row: &[i32], tokens: &Range<usize>) -> Written {
    let mut sorted: Vec<i32> = row[tokens.clone()].to_vec();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    let spread = |left: &[i32]| left.iter().map(|x| x.abs() as f32).sum::<f32>() * 1.25 / tokens.len().max(1) as f32;
    let mut best: Option<Written> = None;
    for anchored in [false, true] {
        let guess = class_of(spread(&residuals(row, median, anchored, tokens)));
        for class in (guess.saturating_sub(2)..=guess + 1).filter(|&class| class <= CLASSES) {
            let mean = (median as f32 / unit(class) as f32).round().clamp(-127.0, 127.0) as i8;
            let left = residuals(row, i32::from(mean) * unit(class), anchored, tokens);
            let bits = rans::cost(class, &left);
            if best.as_ref().is_none_or(|best| bits < best.bits) {
                best = Some(Written { row: Row { class, mean, anchored }, left, bits });
            }
        }
    }
    best.unwrap_or(Written { row: Row::default(), left: [0; PAGE_TOKENS], bits: 0.0 })
}

/// The class and the mean, a point of the grid, that a profile expects of a channel.
pub fn expected(channel: Channel, step: f32) -> (u8, i32) {
    let mean = (channel.mean / step).round().clamp(-4e6, 4e6) as i32;
    let class = match channel.spread > 0.0 {
        true => class_of(channel.spread / step),
        false => class_of(0.0),
    };
    (class, mean)
}

/// The cheaper way to write a channel as a profile expects it.
pub fn learned(row: &[i32], channel: Channel, step: f32, tokens: &Range<usize>) -> Written {
    let (class, mean) = expected(channel, step);
    let [plain, anchored] = [false, true].map(|anchored| {
        let left = residuals(row, mean, anchored, tokens);
        Written { row: Row { class, mean: 0, anchored }, bits: rans::cost(class, &left), left }
    });
    if anchored.bits < plain.bits { anchored } else { plain }
}

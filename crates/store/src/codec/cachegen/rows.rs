//! Channels as rows of small whole numbers: what each token is predicted from, and how far off that will be.

use super::super::entropy::rans::{self, CLASSES, Decoder, Encoder, class_of};
use super::super::layout::corrupt;
use super::profile::Channel;
use crate::StoreError;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::ops::Range;

/// Tokens that share an anchor.
const GROUP: usize = 10;
/// The class that is expected of a channel of which nothing is known.
const TYPICAL: u8 = 8;

/// How a channel is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Row {
    /// Distribution of what is left over; see [`rans`].
    pub class: u8,
    /// What tokens are predicted from, a point of the grid.
    pub mean: i32,
    /// Whether only the first of every ten tokens is predicted from the mean, and the others from it.
    pub anchored: bool,
}

/// What is expected of a row before it is seen: class and mean.
pub type Expected = (u8, i32);

/// Without a profile.
pub const UNKNOWN: Expected = (TYPICAL, 0);

/// What a profile expects of a channel on a grid.
pub fn expected(channel: Channel, step: f32) -> Expected {
    (class_of(channel.spread / step), (channel.mean / step).round().clamp(-4e6, 4e6) as i32)
}

/// What means differ from the expected ones by multiples of: a quarter of the spread, so that they cost little.
fn unit(class: u8) -> i32 {
    1 << (class / 2).saturating_sub(4)
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
pub fn restore(row: &mut [i32], how: Row, tokens: &Range<usize>) {
    if !how.anchored {
        return row[tokens.clone()].iter_mut().for_each(|x| *x = x.wrapping_add(how.mean));
    }
    for group in row[tokens.clone()].chunks_mut(GROUP) {
        let mut from = how.mean;
        for (at, x) in group.iter_mut().enumerate() {
            *x = x.wrapping_add(from);
            from = if at == 0 { *x } else { from };
        }
    }
}

/// A way to write a channel: what is left over, and its bits.
pub struct Written {
    /// How.
    pub row: Row,
    /// What is left over.
    pub left: [i32; PAGE_TOKENS],
    bits: f32,
}

/// The cheapest way to write a channel.
pub fn write(row: &[i32], (_, usual): Expected, tokens: &Range<usize>) -> Written {
    let mut some = row[tokens.clone()].to_vec();
    let median = match some.is_empty() {
        true => usual,
        false => *some.select_nth_unstable(tokens.len() / 2).1,
    };
    let mut best: Option<Written> = None;
    for anchored in [false, true] {
        let left = residuals(row, median, anchored, tokens);
        let spread = left.iter().map(|x| x.unsigned_abs() as f32).sum::<f32>() * 1.25 / tokens.len().max(1) as f32;
        let guess = if spread > 0.0 { class_of(spread) } else { 0 };
        for class in guess.saturating_sub(1)..=(guess + 1).min(CLASSES) {
            let unit = unit(class);
            let mean = usual + ((median - usual) as f32 / unit as f32).round() as i32 * unit;
            let left = residuals(row, mean, anchored, tokens);
            let bits = rans::cost(class, &left) + if anchored { 3.0 } else { 0.0 };
            if best.as_ref().is_none_or(|best| bits < best.bits) {
                best = Some(Written { row: Row { class, mean, anchored }, left, bits });
            }
        }
    }
    best.unwrap_or(Written { row: Row::default(), left: [0; PAGE_TOKENS], bits: 0.0 })
}

/// Appends a row in the class that suits it best, which is returned.
pub fn put(symbols: &[i32], coder: &mut Encoder, classes: &mut Vec<u8>) {
    let cheapest = (0..=CLASSES).min_by(|&a, &b| rans::cost(a, symbols).total_cmp(&rans::cost(b, symbols)));
    let class = cheapest.unwrap_or(CLASSES);
    classes.push(class);
    coder.row(class, symbols);
}

/// Appends all that rows say of themselves, as differences to what was expected.
pub fn put_all(rows: &[Written], expected: &[Expected], coder: &mut Encoder, classes: &mut Vec<u8>) {
    let pairs = || rows.iter().map(|row| row.row).zip(expected);
    let differences: [Vec<i32>; 3] = [
        pairs().map(|(row, usual)| i32::from(row.class) - i32::from(usual.0)).collect(),
        pairs().map(|(row, usual)| (row.mean - usual.1) / unit(row.class)).collect(),
        pairs().map(|(row, _)| i32::from(row.anchored)).collect(),
    ];
    differences.iter().for_each(|symbols| put(symbols, coder, classes));
}

/// Reads what [`put_all`] wrote.
pub fn take_all(expected: &[Expected], coder: &mut Decoder<'_>, classes: &[u8; 3]) -> Result<Vec<Row>, StoreError> {
    let mut differences = [(); 3].map(|()| vec![0; expected.len()]);
    for (symbols, &class) in differences.iter_mut().zip(classes) {
        coder.row(class, symbols)?;
    }
    let [kinds, means, anchored] = differences;
    let rows = expected.iter().zip(kinds).zip(means).zip(anchored);
    rows.map(|((((usual, middle), kind), mean), anchored)| {
        let class = u8::try_from(kind.saturating_add(i32::from(*usual))).ok().filter(|&class| class <= CLASSES);
        let class = class.ok_or_else(|| corrupt("a channel of a class that does not exist"))?;
        let mean = mean.wrapping_mul(unit(class)).wrapping_add(*middle);
        Ok(Row { class, mean, anchored: anchored != 0 })
    })
    .collect()
}

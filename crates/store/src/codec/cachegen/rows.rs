//! Channels as rows of small whole numbers: what each token is predicted from, and how far off that will be.

use super::super::entropy::family::{CLASSES, class_of, cost};
use super::super::entropy::rans::{Decoder, Encoder};
use super::super::layout::corrupt;
use crate::StoreError;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::ops::Range;

/// Tokens that share an anchor.
const GROUP: usize = 10;
/// How a channel is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Row {
    /// Distribution of what is left over; see `entropy/family.rs`.
    pub class: u8,
    /// What tokens are predicted from, a point of the grid.
    pub mean: i32,
    /// Whether only the first of every ten tokens is predicted from the mean, and the others from it.
    pub anchored: bool,
}

/// What means are multiples of: a quarter of the spread, so that they cost little.
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
pub fn write(row: &[i32], tokens: &Range<usize>) -> Written {
    let mut some = row[tokens.clone()].to_vec();
    let median = match some.is_empty() {
        true => 0,
        false => *some.select_nth_unstable(tokens.len() / 2).1,
    };
    let mut best: Option<Written> = None;
    for anchored in [false, true] {
        let left = residuals(row, median, anchored, tokens);
        let spread = left.iter().map(|x| x.unsigned_abs() as f32).sum::<f32>() * 1.25 / tokens.len().max(1) as f32;
        let guess = if spread > 0.0 { class_of(spread) } else { 0 };
        for class in guess.saturating_sub(1)..=(guess + 1).min(CLASSES) {
            let unit = unit(class);
            let mean = (median as f32 / unit as f32).round() as i32 * unit;
            let left = residuals(row, mean, anchored, tokens);
            let bits = cost(class, &left) + if anchored { 3.0 } else { 0.0 };
            if best.as_ref().is_none_or(|best| bits < best.bits) {
                best = Some(Written { row: Row { class, mean, anchored }, left, bits });
            }
        }
    }
    best.unwrap_or(Written { row: Row::default(), left: [0; PAGE_TOKENS], bits: 0.0 })
}

/// Appends a row in the class that suits it best, which is returned.
pub fn put(symbols: &[i32], coder: &mut Encoder, classes: &mut Vec<u8>) {
    let cheapest = (0..=CLASSES).min_by(|&a, &b| cost(a, symbols).total_cmp(&cost(b, symbols)));
    let class = cheapest.unwrap_or(CLASSES);
    classes.push(class);
    coder.row(class, symbols);
}

/// Appends all that rows say of themselves; classes as differences to those expected.
pub fn put_all(rows: &[Written], expected: &[u8], coder: &mut Encoder, classes: &mut Vec<u8>) {
    let all = || rows.iter().map(|row| row.row);
    let said: [Vec<i32>; 3] = [
        all().zip(expected).map(|(row, &usual)| i32::from(row.class) - i32::from(usual)).collect(),
        all().map(|row| row.mean / unit(row.class)).collect(),
        all().map(|row| i32::from(row.anchored)).collect(),
    ];
    said.iter().for_each(|symbols| put(symbols, coder, classes));
}

/// Reads what [`put_all`] wrote.
pub fn take_all(expected: &[u8], coder: &mut Decoder<'_>, classes: &[u8; 3]) -> Result<Vec<Row>, StoreError> {
    let mut said = [(); 3].map(|()| vec![0; expected.len()]);
    for (symbols, &class) in said.iter_mut().zip(classes) {
        coder.row(class, symbols)?;
    }
    let [kinds, means, anchored] = said;
    let rows = expected.iter().zip(kinds).zip(means).zip(anchored);
    rows.map(|(((&usual, kind), mean), anchored)| {
        let class = u8::try_from(kind.saturating_add(i32::from(usual))).ok().filter(|&class| class <= CLASSES);
        let class = class.ok_or_else(|| corrupt("a channel of a class that does not exist"))?;
        Ok(Row { class, mean: mean.wrapping_mul(unit(class)), anchored: anchored != 0 })
    })
    .collect()
}

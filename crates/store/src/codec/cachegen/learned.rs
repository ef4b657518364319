//! Pages of lanes that a profile knows: components instead of channels, values less what keys foretell, numbers by trellis.
//!
//! A side is its grid (two bytes) and the classes of what rows say of themselves, then all in the coder: by how much tokens
//! differ from the grid (values only), by how much components differ from their usual class, their means in the page, and the
//! numbers, component by component.

use super::super::entropy::family::{CLASSES, class_of};
use super::super::entropy::rans::{Decoder, Encoder};
use super::super::layout::{Layout, Reader, Side, corrupt};
use super::context::Context;
use super::profile::{Basis, Lane};
use super::trellis::{self, States};
use super::turn::Turn;
use super::{alone, grid, rows};
use crate::StoreError;
use cachalot_kernels::Isa;
use cachalot_kernels::attention::{Element, PAGE_TOKENS};
use cachalot_kernels::tile::{Weights, combine, to_f16};
use cachalot_kv::page::Header;
use std::ops::Range;

/// A lane as the codec has it.
pub struct Known<'a> {
    pub lane: &'a Lane,
    pub turn: Option<&'a Turn>,
}

/// How a side is written: whole numbers `[components][tokens]`, and what rows say.
struct Written {
    n: i16,
    grids: [u8; PAGE_TOKENS],
    classes: Vec<u8>,
    more: Vec<i32>,
    means: Vec<i32>,
    numbers: Vec<i32>,
}

/// What means are multiples of, in steps: a quarter of the spread, or one.
fn unit(class: u8) -> i32 {
    1 << (class / 2).saturating_sub(4)
}

/// The class of each component, by the profile.
fn usual(basis: &Basis, step: f32) -> Vec<u8> {
    basis.spread.iter().map(|&spread| class_of(spread / step)).collect()
}

fn isa() -> Isa {
    static BEST: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
    *BEST.get_or_init(Isa::detect)
}

/// `rows` of weights in their own order, times tiles of a page.
fn product(weights: &[f32], inputs: usize, from: &[f32], to: &mut [f32]) {
    combine(isa(), Weights { data: weights, row: inputs, input: 1, inputs }, from, PAGE_TOKENS, to);
}

/// Components of channels `[channels][tokens]`.
fn components(basis: &Basis, x: &[f32]) -> Vec<f32> {
    let d = basis.mean.len();
    let off: Vec<f32> = x.iter().enumerate().map(|(at, x)| x - basis.mean[at / PAGE_TOKENS]).collect();
    let mut y = vec![0.0; x.len()];
    product(&basis.analysis, d, &off, &mut y);
    y
}

/// By how much tokens are larger than usual, in quarters of an octave above `BELOW`.
fn grids(basis: &Basis, y: &[f32], tokens: &Range<usize>) -> [u8; PAGE_TOKENS] {
    let mut grids = [grid::BELOW as u8; PAGE_TOKENS];
    for token in tokens.clone() {
        let rows = y.chunks_exact(PAGE_TOKENS).zip(&basis.spread);
        let mean = rows.map(|(row, spread)| (row[token] / spread).powi(2)).sum::<f32>() / basis.mean.len() as f32;
        let quarters = (TOKENS * 2.0 * mean.max(1e-9).log2()).round() + f32::from(grid::BELOW);
        grids[token] = quarters.clamp(0.0, f32::from(grid::GRIDS - 1)) as u8;
    }
    grids
}

/// How much of a token's size its grid follows.
const TOKENS: f32 = 1.0;

/// Writes components and makes them what they are read as.
fn write(basis: &Basis, level: f32, even: bool, y: &mut [f32], tokens: &Range<usize>) -> Option<Written> {
    let n = grid::nearest(level * basis.step);
    let step = grid::step(n)?;
    let grids = if even { [grid::BELOW as u8; PAGE_TOKENS] } else { grids(basis, y, tokens) };
    let steps = alone::steps(n, &grids)?;
    let usual = usual(basis, step);
    let (mut classes, mut more, mut means) = (Vec::new(), Vec::new(), Vec::new());
    for (row, &usual) in y.chunks_exact_mut(PAGE_TOKENS).zip(&usual) {
        let some = &row[tokens.clone()];
        let mean = some.iter().sum::<f32>() / some.len().max(1) as f32;
        let unit = unit(usual);
        let mean = (mean / (step * unit as f32)).round_ties_even().clamp(-4e6, 4e6);
        let off = mean * (step * unit as f32);
        row.iter_mut().for_each(|x| *x -= off);
        row[..tokens.start].fill(0.0);
        row[tokens.end..].fill(0.0);
        let sizes = row.iter().zip(&steps).map(|(x, step)| (x / step).abs()).sum::<f32>();
        let found = 2.0 * (sizes * 1.25 / tokens.len().max(1) as f32).max(1e-9).log2() + 4.0;
        let differs = (0.7 * (found - f32::from(usual))).trunc().clamp(-6.0, 8.0) as i32;
        let class = (i32::from(usual) + differs).clamp(1, CLASSES.into());
        more.push(class - i32::from(usual));
        classes.push(class as u8);
        means.push(mean as i32);
    }
    let halves: Vec<f32> = y.iter().enumerate().map(|(at, x)| 2.0 * x / steps[at % PAGE_TOKENS]).collect();
    if halves.iter().any(|x| !x.is_finite() || x.abs() > 8e6) {
        return None;
    }
    let spreads: Vec<f32> = classes.iter().map(|&class| ((f32::from(class) - 4.0) / 2.0).exp2()).collect();
    let numbers = trellis::quantize(&halves, &spreads);
    let mut states = States::default();
    for (((row, y), &mean), &usual) in numbers.as_chunks().0.iter().zip(y.as_chunks_mut().0).zip(&means).zip(&usual) {
        mean_and_numbers(row, mean.wrapping_mul(unit(usual)) as f32 * step, &steps, &mut states, y);
    }
    Some(Written { n, grids, classes, more, means, numbers })
}

/// What a row of numbers means.
fn mean_and_numbers(
    row: &[i32; PAGE_TOKENS],
    mean: f32,
    steps: &[f32; PAGE_TOKENS],
    states: &mut States,
    y: &mut [f32; PAGE_TOKENS],
) {
    let mut halves = [0; PAGE_TOKENS];
    states.step(row, &mut halves);
    for ((y, &half), step) in y.iter_mut().zip(&halves).zip(steps) {
        *y = half as f32 * (0.5 * step) + mean;
    }
}

impl Written {
    fn put(&self, even: bool, coder: &mut Encoder, out: &mut Vec<u8>) {
        let mut kinds = Vec::new();
        if !even {
            let grids = self.grids.map(|grid| i32::from(grid) - i32::from(grid::BELOW));
            rows::put(&grids, coder, &mut kinds);
        }
        rows::put(&self.more, coder, &mut kinds);
        rows::put(&self.means, coder, &mut kinds);
        let (mut context, mut states, mut halves) = (Context::default(), States::default(), [0; PAGE_TOKENS]);
        for (row, &class) in self.numbers.as_chunks().0.iter().zip(&self.classes) {
            coder.mixed(&context.classes(class), &states.0.map(|state| state >> 1), row);
            context.see(class, row);
            states.step(row, &mut halves);
        }
        out.extend_from_slice(&self.n.to_le_bytes());
        out.append(&mut kinds);
    }
}

/// Appends what follows the header and the sinks; none where the page has numbers that have no place.
pub fn encode(
    known: &Known<'_>,
    level: f32,
    header: &Header,
    layout: &Layout,
    page: &[u8],
    tokens: &Range<usize>,
) -> Option<Vec<u8>> {
    let mut keys = grid::read(&layout.keys, &page[layout.keys.range.clone()])?;
    let values = grid::read(&layout.values, &page[layout.values.range.clone()])?;
    if let Some(turn) = known.turn {
        turn.undo(header.start, &mut keys);
    }
    let (lane, d) = (known.lane, layout.keys.channels);
    let mut keys = components(&lane.keys, &keys);
    let first = write(&lane.keys, level, true, &mut keys, tokens)?;
    let mut told = vec![0.0; values.len()];
    product(&lane.forecast, d, &keys, &mut told);
    let mut values = components(&lane.values, &values);
    values.iter_mut().zip(&told).for_each(|(value, told)| *value -= told);
    let second = write(&lane.values, level, EVEN, &mut values, tokens)?;
    let (mut out, mut coder) = (Vec::new(), Encoder::default());
    first.put(true, &mut coder, &mut out);
    second.put(EVEN, &mut coder, &mut out);
    coder.finish(&mut out);
    Some(out)
}

/// Whether all tokens' values have one grid.
const EVEN: bool = false;

/// Reads it to the places of keys and values.
pub fn decode(
    known: &Known<'_>,
    header: &Header,
    layout: &Layout,
    from: &mut Reader<'_>,
    page: &mut [u8],
) -> Result<(), StoreError> {
    let (lane, d) = (known.lane, layout.keys.channels);
    let mut head = |even: bool| -> Result<_, StoreError> {
        let n = from.short()? as u16 as i16;
        let grids = if even { None } else { Some(from.byte()?) };
        Ok((n, grids, from.byte()?, from.byte()?))
    };
    let heads = [head(true)?, head(EVEN)?];
    let mut decoder = Decoder::new(from)?;
    let keys = components_of(&lane.keys, heads[0], &mut decoder)?;
    let mut values = components_of(&lane.values, heads[1], &mut decoder)?;
    decoder.end()?;
    product(&lane.forecast, d, &keys, &mut values);
    let mut x: Vec<f32> = lane.keys.mean.iter().flat_map(|&mean| [mean; PAGE_TOKENS]).collect();
    let weights = Weights { data: &lane.keys.rows, row: 1, input: d, inputs: d };
    combine(isa(), weights, &keys, PAGE_TOKENS, &mut x);
    if let Some(turn) = known.turn {
        turn.redo(header.start, &mut x);
    }
    put(&layout.keys, &x, page);
    x.clear();
    (0..PAGE_TOKENS).for_each(|_| x.extend_from_slice(&lane.values.mean));
    let weights = Weights { data: &values, row: 1, input: PAGE_TOKENS, inputs: d };
    combine(isa(), weights, &lane.values.rows, d, &mut x);
    put(&layout.values, &x, page);
    Ok(())
}

fn components_of(
    basis: &Basis,
    (n, kind, more, means): (i16, Option<u8>, u8, u8),
    decoder: &mut Decoder<'_>,
) -> Result<Vec<f32>, StoreError> {
    let far = || corrupt("a grid beyond all numbers");
    let d = basis.mean.len();
    let mut grids = [0; PAGE_TOKENS];
    if let Some(kind) = kind {
        decoder.row(kind, &mut grids)?;
    }
    let grids = grids.map(|grid| grid.saturating_add(i32::from(grid::BELOW)).clamp(0, 255) as u8);
    let (step, steps) = (grid::step(n).ok_or_else(far)?, alone::steps(n, &grids).ok_or_else(far)?);
    let usual = usual(basis, step);
    let [mut differ, mut middles] = [vec![0; d], vec![0; d]];
    decoder.row(more, &mut differ)?;
    decoder.row(means, &mut middles)?;
    let mut y = vec![0.0; d * PAGE_TOKENS];
    let (mut context, mut states, mut row) = (Context::default(), States::default(), [0; PAGE_TOKENS]);
    for (((y, &usual), differs), mean) in y.as_chunks_mut().0.iter_mut().zip(&usual).zip(differ).zip(middles) {
        let class = differs.saturating_add(i32::from(usual)).clamp(1, CLASSES.into()) as u8;
        decoder.mixed(&context.classes(class), &states.0.map(|state| state >> 1), &mut row)?;
        context.see(class, &row);
        mean_and_numbers(&row, mean.wrapping_mul(unit(usual)) as f32 * step, &steps, &mut states, y);
    }
    Ok(y)
}

/// Elements in the order of the page.
fn put(side: &Side, x: &[f32], page: &mut [u8]) {
    let bytes = &mut page[side.range.clone()];
    match side.element {
        Element::F16 => to_f16(isa(), x, bytes),
        Element::Bf16 => bytes.as_chunks_mut().0.iter_mut().zip(x).for_each(|(to, x)| {
            *to = half::bf16::from_f32(x.clamp(-3.38e38, 3.38e38)).to_le_bytes();
        }),
        _ => bytes.as_chunks_mut().0.iter_mut().zip(x).for_each(|(to, x)| *to = x.to_le_bytes()),
    }
}

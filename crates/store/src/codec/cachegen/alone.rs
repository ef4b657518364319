//! Pages of lanes that no profile knows: they say all of themselves.

use super::super::entropy::rans::{Decoder, Encoder};
use super::super::layout::{Layout, Reader, Side, corrupt};
use super::rows::{self, Written};
use super::{grid, tokens_of};
use crate::StoreError;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::page::Header;

/// The class of a channel of which nothing is known; see `entropy/family.rs`.
const TYPICAL: u8 = 8;

/// How a side is written.
struct Plan {
    /// The grid.
    n: i16,
    /// By how much tokens differ from it.
    grids: [u8; PAGE_TOKENS],
    rows: Vec<Written>,
}

/// Steps by token; none where a grid is beyond all numbers.
pub fn steps(n: i16, grids: &[u8; PAGE_TOKENS]) -> Option<[f32; PAGE_TOKENS]> {
    let mut steps = [0.0; PAGE_TOKENS];
    for (step, &grid) in steps.iter_mut().zip(grids) {
        *step = grid::step(n.checked_add(i16::from(grid) - grid::BELOW)?)?;
    }
    Some(steps)
}

/// How a side is written; none where it cannot be.
fn plan(level: f32, header: &Header, side: &Side, bytes: &[u8]) -> Option<Plan> {
    let x = grid::read(side, bytes)?;
    let tokens = tokens_of(header);
    let centres: Vec<(f32, f32)> = x.chunks(PAGE_TOKENS).map(|x| grid::centre(&x[tokens.clone()])).collect();
    // A page of constants has no spread, and every grid will do that has points for it.
    let spread = grid::mean_spread(centres.iter().map(|centre| centre.1)).unwrap_or(1.0);
    let n = grid::nearest(level * spread);
    let grids = match side.by_channel {
        true => [grid::BELOW as u8; PAGE_TOKENS],
        false => grid::token_grids(&x, &centres, tokens.clone()),
    };
    let points = grid::quantize(&x, &steps(n, &grids)?)?;
    let rows = points.chunks(PAGE_TOKENS).map(|row| rows::write(row, &tokens)).collect();
    Some(Plan { n, grids, rows })
}

/// What follows the header and the sinks; none where the page has numbers that have no place.
pub fn encode(level: f32, header: &Header, layout: &Layout, page: &[u8]) -> Option<Vec<u8>> {
    let plan = |side: &Side| plan(level, header, side, &page[side.range.clone()]);
    let plans = [plan(&layout.keys)?, plan(&layout.values)?];
    let (mut out, mut coder, mut classes) = (Vec::new(), Encoder::default(), Vec::new());
    for (side, plan) in [&layout.keys, &layout.values].into_iter().zip(&plans) {
        out.extend_from_slice(&plan.n.to_le_bytes());
        if !side.by_channel {
            rows::put(&plan.grids.map(|grid| i32::from(grid) - i32::from(grid::BELOW)), &mut coder, &mut classes);
        }
        rows::put_all(&plan.rows, &vec![TYPICAL; plan.rows.len()], &mut coder, &mut classes);
        plan.rows.iter().for_each(|row| coder.row(row.row.class, &row.left));
        out.append(&mut classes);
    }
    coder.finish(&mut out);
    Some(out)
}

/// Reads it to the places of keys and values.
pub fn decode(header: &Header, layout: &Layout, from: &mut Reader<'_>, page: &mut [u8]) -> Result<(), StoreError> {
    let tokens = tokens_of(header);
    let mut sides = Vec::with_capacity(2);
    for side in [&layout.keys, &layout.values] {
        let n = from.short()? as u16 as i16;
        let grids = if side.by_channel { None } else { Some(from.byte()?) };
        sides.push((side, n, [from.byte()?, from.byte()?, from.byte()?], grids));
    }
    let mut decoder = Decoder::new(from)?;
    for (side, n, classes, of_grids) in sides {
        let mut grids = [0; PAGE_TOKENS];
        if let Some(class) = of_grids {
            decoder.row(class, &mut grids)?;
        }
        let grids = grids.map(|grid| grid.saturating_add(i32::from(grid::BELOW)).clamp(0, 255) as u8);
        let steps = steps(n, &grids).ok_or_else(|| corrupt("a grid beyond all numbers"))?;
        let rows = rows::take_all(&vec![TYPICAL; side.channels], &mut decoder, &classes)?;
        let mut points = vec![0; side.len()];
        for (points, &row) in points.chunks_exact_mut(PAGE_TOKENS).zip(&rows) {
            decoder.row(row.class, points)?;
            rows::restore(points, row, &tokens);
        }
        grid::write(side, &points, &steps, &mut page[side.range.clone()]);
    }
    decoder.end()
}

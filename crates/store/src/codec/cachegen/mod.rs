//! `cachegen-LEVEL`: lossy, for rest and flight (CacheGen, Liu et al., SIGCOMM 2024).
//!
//! From the paper: anchors every ten tokens that their neighbours are written against, levels of one grid, and arithmetic coding
//! with distributions for each layer and channel that a profile has learned, or the page itself says. What differs, since it
//! was measured to lose less for the same bytes (divergence of SmolLM2-135M over a context that was coded):
//!
//! - All layers have the same grid in proportion to their numbers. The paper's grids that become coarser from third to third
//!   diverged by three tenths more.
//! - One grid for all channels of a lane's keys. Attention adds up the errors of channels, so none deserves a finer grid than
//!   another; large channels cost more bits instead of more error.
//! - Values have a grid by token, in proportion to the token's size.
//! - The first [`SINKS`] positions are exact: they receive attention from everywhere.
//! - Anchors have the grid of the others, as every token is read alone, and a channel has them only where that is cheaper
//!   than a mean: neighbours differ more from each other than from the mean where rotary position turns fast.
//! - A profile knows means and spreads, and where it was told the angles of rotary position, turns the means with it; what a
//!   page says of its channels are differences to that.
//!
//! What is decoded are whole numbers times a step, so all machines give the same bytes. Pages that a recipe wrote, of eight-bit
//! elements or with numbers that are not finite go the way of [`Lossless`].

mod forecast;
mod grid;
mod profile;
mod rows;

pub use profile::{Channel, Lane, Profile};

use super::Lossless;
use super::entropy::rans::{Decoder, Encoder};
use super::layout::{Layout, Reader, Side, corrupt, header_of, put_header, take_header};
use crate::{Codec, StoreError};
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::page::{HEADER, Header, reseal};
use forecast::{Forecast, Turn};
use rows::Written;
use std::ops::Range;
use std::sync::Arc;

/// Positions from the start of a sequence that are exact.
pub const SINKS: u64 = 4;
/// Steps of the levels, in spreads of a typical channel.
const STEPS: [f32; 3] = [0.375, 0.1875, 0.093_75];

const LOSSLESS: u8 = 0;
const CODED: u8 = 1;
const LEARNED: u8 = 2;

/// See the module. Level 1 is the smallest, level 3 the best.
#[derive(Clone, Debug)]
pub struct CacheGen {
    level: u8,
    profile: Option<Learned>,
}

#[derive(Clone, Debug)]
struct Learned {
    profile: Arc<Profile>,
    digest: String,
    turn: Option<Turn>,
}

impl CacheGen {
    /// None for a level that does not exist.
    pub fn new(level: u8, profile: Option<Arc<Profile>>) -> Option<CacheGen> {
        let profile = profile.map(|profile| {
            let (digest, turn) = (profile.digest(), Turn::new(profile.angles()));
            Learned { profile, digest, turn }
        });
        (1..=3).contains(&level).then_some(CacheGen { level, profile })
    }

    fn lane(&self, header: &Header, layout: &Layout) -> Option<&[Lane; 2]> {
        self.profile.as_ref()?.profile.lane(header.layer, header.head, layout.keys.channels)
    }

    /// How a side is written; none where it cannot be.
    fn plan(&self, header: &Header, side: &Side, bytes: &[u8], lane: Option<&Lane>) -> Option<Plan> {
        let x = grid::read(side, bytes)?;
        let tokens = tokens(header);
        let centres: Vec<(f32, f32)> = x.chunks(PAGE_TOKENS).map(|x| grid::centre(&x[tokens.clone()])).collect();
        let spread = match lane {
            Some(lane) => lane.spread,
            // A page of constants has no spread, and every grid will do that has points for it.
            None => grid::mean_spread(centres.iter().map(|centre| centre.1)).unwrap_or(1.0),
        };
        let n = grid::nearest(STEPS[usize::from(self.level) - 1] * spread);
        let grids = match side.by_channel {
            true => [grid::BELOW as u8; PAGE_TOKENS],
            false => grid::token_grids(&x, &centres, tokens.clone()),
        };
        let steps = steps(n, &grids)?;
        let mut points = grid::quantize(&x, &steps)?;
        let forecast = self.forecast(header, side, lane, n, &steps)?;
        forecast.take(&mut points);
        let rows = points.chunks(PAGE_TOKENS).map(|row| rows::write(row, &tokens)).collect();
        Some(Plan { n, grids, rows, expected: forecast.classes })
    }

    /// What is expected of a side; none where its grid is beyond all numbers.
    fn forecast(
        &self,
        header: &Header,
        side: &Side,
        lane: Option<&Lane>,
        n: i16,
        steps: &[f32; PAGE_TOKENS],
    ) -> Option<Forecast> {
        let turn = self.profile.as_ref().and_then(|learned| learned.turn.as_ref()).filter(|_| side.by_channel);
        let usual = grid::step(n)?;
        Some(match lane {
            Some(lane) => Forecast::of(lane, turn, header.start, steps, usual),
            None => Forecast::none(side.channels),
        })
    }
}

/// How a side is written.
struct Plan {
    /// The grid.
    n: i16,
    /// By how much tokens differ from it.
    grids: [u8; PAGE_TOKENS],
    rows: Vec<Written>,
    /// Classes of the rows.
    expected: Vec<u8>,
}

/// Tokens that are on the grid: not the sinks, and none behind the last.
fn tokens(header: &Header) -> Range<usize> {
    let end = (header.tokens as usize).min(PAGE_TOKENS);
    (SINKS.saturating_sub(header.start) as usize).min(end)..end
}

/// Steps by token; none where a grid is beyond all numbers.
fn steps(n: i16, grids: &[u8; PAGE_TOKENS]) -> Option<[f32; PAGE_TOKENS]> {
    let mut steps = [0.0; PAGE_TOKENS];
    for (step, &grid) in steps.iter_mut().zip(grids) {
        *step = grid::step(n.checked_add(i16::from(grid) - grid::BELOW)?)?;
    }
    Some(steps)
}

/// The bytes of the elements of sinks, in the order of the page.
fn sinks(side: &Side, sinks: usize) -> impl Iterator<Item = Range<usize>> {
    let (row, rows) = if side.by_channel { (PAGE_TOKENS, side.channels) } else { (side.channels, sinks) };
    let (bytes, len) = (side.element.bytes(), if side.by_channel { sinks } else { row });
    let start = side.range.start;
    (0..rows).map(move |at| start + at * row * bytes..start + (at * row + len) * bytes)
}

impl Codec for CacheGen {
    fn name(&self) -> String {
        match &self.profile {
            None => format!("cachegen-{}", self.level),
            Some(Learned { digest, .. }) => format!("cachegen-{}@{digest}", self.level),
        }
    }

    fn is_lossless(&self) -> bool {
        false
    }

    fn encode(&self, page: &[u8], out: &mut Vec<u8>) -> Result<(), StoreError> {
        let header = header_of(page)?;
        let layout = Layout::of(&header, page.len());
        let plans = layout.as_ref().and_then(|layout| {
            let lane = self.lane(&header, layout);
            let plan = |side: &Side, which: usize| {
                self.plan(&header, side, &page[side.range.clone()], lane.map(|lane| &lane[which]))
            };
            Some((layout, [plan(&layout.keys, 0)?, plan(&layout.values, 1)?]))
        });
        let Some((layout, plans)) = plans else {
            out.push(LOSSLESS);
            return Lossless.encode(page, out);
        };
        let lane = self.lane(&header, layout);
        out.push(if lane.is_some() { LEARNED } else { CODED });
        // Without the checksum, which will be another.
        let mut bare = page[..HEADER].to_vec();
        bare[HEADER - 16..].fill(0);
        put_header(&bare, out);
        let (mut coder, mut classes) = (Encoder::default(), Vec::new());
        for (side, plan) in [&layout.keys, &layout.values].into_iter().zip(&plans) {
            sinks(side, tokens(&header).start).for_each(|range| out.extend_from_slice(&page[range]));
            out.extend_from_slice(&plan.n.to_le_bytes());
            if !side.by_channel {
                rows::put(&plan.grids.map(|grid| i32::from(grid) - i32::from(grid::BELOW)), &mut coder, &mut classes);
            }
            rows::put_all(&plan.rows, &plan.expected, &mut coder, &mut classes);
            plan.rows.iter().for_each(|row| coder.row(row.row.class, &row.left));
            out.append(&mut classes);
        }
        coder.finish(out);
        Ok(())
    }

    fn decode(&self, coded: &[u8], len: usize) -> Result<Vec<u8>, StoreError> {
        let mut from = Reader::new(coded);
        let learned = match from.byte()? {
            LOSSLESS => return Lossless.decode(from.rest(), len),
            CODED => false,
            LEARNED => true,
            other => return Err(corrupt(format!("a page of the unknown kind {other}"))),
        };
        let mut page = vec![0; len];
        let header = take_header(&mut from, &mut page)?;
        let layout = Layout::of(&header, len).ok_or_else(|| corrupt("a page that is not in plain elements"))?;
        let lane = self.lane(&header, &layout).filter(|_| learned);
        if learned && lane.is_none() {
            return Err(corrupt("it was written with a profile that this codec does not have"));
        }
        let tokens = tokens(&header);
        let mut sides = Vec::with_capacity(2);
        for (which, side) in [&layout.keys, &layout.values].into_iter().enumerate() {
            let exact: Vec<&[u8]> = sinks(side, tokens.start).map(|r| from.take(r.len())).collect::<Result<_, _>>()?;
            let n = from.short()? as u16 as i16;
            let grids = if side.by_channel { None } else { Some(from.byte()?) };
            let classes = [from.byte()?, from.byte()?, from.byte()?];
            sides.push((side, lane.map(|lane| &lane[which]), exact, n, classes, grids));
        }
        let mut decoder = Decoder::new(&mut from)?;
        for (side, lane, exact, n, classes, of_grids) in sides {
            let far = || corrupt("a grid beyond all numbers");
            let mut grids = [0; PAGE_TOKENS];
            if let Some(class) = of_grids {
                decoder.row(class, &mut grids)?;
            }
            let grids = grids.map(|grid| grid.saturating_add(i32::from(grid::BELOW)).clamp(0, 255) as u8);
            let steps = steps(n, &grids).ok_or_else(far)?;
            let forecast = self.forecast(&header, side, lane, n, &steps).ok_or_else(far)?;
            let rows = rows::take_all(&forecast.classes, &mut decoder, &classes)?;
            let mut points = vec![0; side.len()];
            for (points, &row) in points.chunks_exact_mut(PAGE_TOKENS).zip(&rows) {
                decoder.row(row.class, points)?;
                rows::restore(points, row, &tokens);
            }
            forecast.add(&mut points);
            grid::write(side, &points, &steps, &mut page[side.range.clone()]);
            sinks(side, tokens.start).zip(exact).for_each(|(to, bytes)| page[to].copy_from_slice(bytes));
        }
        decoder.end()?;
        reseal(&mut page);
        Ok(page)
    }
}

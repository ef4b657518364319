//! `cachegen-LEVEL`: lossy, for rest and flight (CacheGen, Liu et al., SIGCOMM 2024).
//!
//! From the paper: levels of one grid, and arithmetic coding with distributions for each layer and channel that a profile has
//! learned, or the page itself says. What differs was measured to lose less for the same bytes (`bench/RESULTS.md`, CacheGen).
//!
//! With a profile (`learn.rs`, `learned.rs`):
//!
//! - Keys are written before rotary position, keys and values in components that have little to do with each other, and values
//!   less what the keys of their token foretell (KVTC's principal components, within a page).
//! - Directions that queries ask for, or that outputs take, have finer grids; layers have the grids that their measured
//!   divergence asks for, not the paper's thirds.
//! - Numbers are chosen by trellis (`trellis.rs`), and coded by how large their component usually is and how large the numbers of
//!   their token were so far (`context.rs`).
//!
//! Without (`alone.rs`): anchors every ten tokens that their neighbours are written against where that is cheaper than a mean,
//! and one grid for all channels of a lane's keys.
//!
//! Both: values have a grid by token, in proportion to the token's size, and the first [`SINKS`] positions are exact: they
//! receive attention from everywhere.
//!
//! What is decoded are sums and products in a fixed order, so all machines give the same bytes. Pages that a recipe wrote, of
//! eight-bit elements or with numbers that are not finite go the way of [`Lossless`].

mod alone;
mod context;
mod grid;
mod learn;
mod learned;
mod profile;
mod rows;
mod trellis;
mod turn;

pub use learn::Learner;
pub use profile::{Basis, Lane, Profile};

use super::Lossless;
use super::layout::{Layout, Reader, Side, corrupt, header_of, put_header, take_header};
use crate::{Codec, StoreError};
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::page::{HEADER, Header, reseal};
use learned::Known;
use std::ops::Range;
use std::sync::Arc;
use turn::Turn;

/// Positions from the start of a sequence that are exact.
pub const SINKS: u64 = 4;
/// Steps of the levels without a profile, in spreads of a typical channel.
const STEPS: [f32; 3] = [0.375, 0.1875, 0.093_75];
/// The same with one, in spreads of a typical component.
const LEARNED_STEPS: [f32; 3] = [0.5, 0.25, 0.125];

const LOSSLESS: u8 = 0;
// 1 and 2 were pages before there was a trellis, and are not read any more.
const LEARNED: u8 = 3;
const CODED: u8 = 4;

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

    fn known(&self, header: &Header, layout: &Layout) -> Option<Known<'_>> {
        let Learned { profile, turn, .. } = self.profile.as_ref()?;
        let channels = layout.keys.channels;
        let lane = profile.lane(header.layer, header.head, channels)?;
        Some(Known { lane, turn: turn.as_ref().filter(|turn| 2 * turn.pairs() <= channels) })
    }
}

/// Tokens that are on the grid: not the sinks, and none behind the last.
fn tokens_of(header: &Header) -> Range<usize> {
    let end = (header.tokens as usize).min(PAGE_TOKENS);
    (SINKS.saturating_sub(header.start) as usize).min(end)..end
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
        let level = usize::from(self.level) - 1;
        let coded = Layout::of(&header, page.len()).and_then(|layout| {
            let (kind, coded) = match self.known(&header, &layout) {
                Some(known) => {
                    let tokens = tokens_of(&header);
                    (LEARNED, learned::encode(&known, LEARNED_STEPS[level], &header, &layout, page, &tokens)?)
                }
                None => (CODED, alone::encode(STEPS[level], &header, &layout, page)?),
            };
            Some((layout, kind, coded))
        });
        let Some((layout, kind, coded)) = coded else {
            out.push(LOSSLESS);
            return Lossless.encode(page, out);
        };
        out.push(kind);
        // Without the checksum, which will be another.
        let mut bare = page[..HEADER].to_vec();
        bare[HEADER - 16..].fill(0);
        put_header(&bare, out);
        for side in [&layout.keys, &layout.values] {
            sinks(side, tokens_of(&header).start).for_each(|range| out.extend_from_slice(&page[range]));
        }
        out.extend_from_slice(&coded);
        Ok(())
    }

    fn decode(&self, coded: &[u8], len: usize) -> Result<Vec<u8>, StoreError> {
        let mut from = Reader::new(coded);
        let kind = match from.byte()? {
            LOSSLESS => return Lossless.decode(from.rest(), len),
            kind @ (CODED | LEARNED) => kind,
            other => return Err(corrupt(format!("a page of the unknown kind {other}"))),
        };
        let mut page = vec![0; len];
        let header = take_header(&mut from, &mut page)?;
        let layout = Layout::of(&header, len).ok_or_else(|| corrupt("a page that is not in plain elements"))?;
        let first = tokens_of(&header).start;
        let places = || [&layout.keys, &layout.values].into_iter().flat_map(|side| sinks(side, first));
        let exact: Vec<&[u8]> = places().map(|place| from.take(place.len())).collect::<Result<_, _>>()?;
        if kind == LEARNED {
            let known = self.known(&header, &layout);
            let known = known.ok_or_else(|| corrupt("it was written with a profile that this codec does not have"))?;
            learned::decode(&known, &header, &layout, &mut from, &mut page)?;
        } else {
            alone::decode(&header, &layout, &mut from, &mut page)?;
        }
        places().zip(exact).for_each(|(to, bytes)| page[to].copy_from_slice(bytes));
        reseal(&mut page);
        Ok(page)
    }
}

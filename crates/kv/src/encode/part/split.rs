//! Channels of a head in two sets, each with optimal levels and a norm of its own: TurboQuant (arXiv 2504.19874) at 2.5 and
//! 3.5 bits.

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::registry::stage;
use super::super::stage::{Args, Built, Context, StageEntry, StageError, StageSpec};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::ops::Range;
use std::sync::Arc;

/// Registry line.
pub(super) const STAGE: StageEntry = StageEntry {
    name: "split",
    summary: "rotated rows in two sets of channels: optimal levels of high=3 bits for share=0.25 of them (in sixteens), of \
              low=2 bits for the others; density and norm as in lloyd",
    build,
    calibrate: None,
};

/// Sets are whole vectors of channels.
const STEP: usize = 16;

#[derive(Debug)]
struct Split {
    shape: Shape,
    sets: [Set; 2],
}

#[derive(Debug)]
struct Set {
    channels: Range<usize>,
    /// Of the page.
    bytes: Range<usize>,
    part: Arc<dyn Part>,
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let share = args.number("share", 0.25, 0.01..=0.99)?;
    let (high, low) = (args.integer("high", 3, 1..=4)?, args.integer("low", 2, 1..=4)?);
    let density = args.word("density", &["gaussian", "beta"])?;
    let norm = args.word("norm", &["plain", "preserve", "unbiased", "mse"])?;
    args.done()?;
    let d = context.channels;
    if d < 2 * STEP || !d.is_multiple_of(STEP) {
        return Err(args.error(format!("{d} channels are not two sets of whole sixteens; choose another stage")));
    }
    let first = ((d as f32 * share / STEP as f32).round() as usize * STEP).clamp(STEP, d - STEP);
    let mut end = 0;
    let mut set = |channels: Range<usize>, bits: usize| {
        let options = [("bits", bits.to_string()), ("density", density.to_owned()), ("norm", norm.to_owned())];
        let options = options.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let spec = Args::new(StageSpec { name: "lloyd".to_owned(), args: options });
        let lloyd = stage("lloyd").ok_or_else(|| args.error("there is no stage `lloyd`"))?;
        let Built::Part(part) = (lloyd.build)(&spec, &Context { channels: channels.len(), ..*context })? else {
            return Err(args.error("`lloyd` is no stage that writes"));
        };
        end += part.bytes();
        Ok(Set { channels, bytes: end - part.bytes()..end, part })
    };
    let sets = [set(0..first, high)?, set(first..d, low)?];
    Ok(Built::Part(Arc::new(Split { shape: context.shape(), sets })))
}

impl Split {
    /// The channels of a set, row by row.
    fn rows(&self, set: &Set, x: &[f32], width: usize) -> Vec<f32> {
        x.chunks_exact(width).flat_map(|row| &row[set.channels.clone()]).copied().collect()
    }
}

impl Part for Split {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        let items = |set: &Set| {
            let n = set.channels.len();
            let items = set.part.breakdown().into_iter();
            items.map(move |item| Item::new(format!("{} of {n} channels", item.what), item.bytes)).collect::<Vec<_>>()
        };
        self.sets.iter().flat_map(items).collect()
    }

    fn describe(&self) -> String {
        let each = self.sets.iter().map(|set| format!("{} channels: {}", set.channels.len(), set.part.describe()));
        each.collect::<Vec<_>>().join("; ")
    }

    fn shared_bytes(&self) -> usize {
        self.sets.iter().map(|set| set.part.shared_bytes()).sum()
    }

    fn encode(&self, x: &[f32], hints: Hints<'_>, to: &mut [u8]) {
        for set in &self.sets {
            set.part.encode(&self.rows(set, x, self.shape.channels), hints, &mut to[set.bytes.clone()]);
        }
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        for set in &self.sets {
            let mut rows = vec![0.0; set.part.shape().elements()];
            set.part.decode(&page[set.bytes.clone()], &mut rows);
            for (x, row) in x.chunks_exact_mut(self.shape.channels).zip(rows.chunks_exact(set.channels.len())) {
                x[set.channels.clone()].iter_mut().zip(row).for_each(|(x, y)| *x += y);
            }
        }
    }

    fn fused(&self) -> bool {
        self.sets.iter().all(|set| set.part.fused())
    }

    /// For each set its queries, how many numbers its part left, and those.
    fn prepare(&self, isa: Isa, q: &[f32], rows: usize, state: &mut Vec<f32>) {
        state.clear();
        let mut own = Vec::new();
        for set in &self.sets {
            let q = self.rows(set, q, self.shape.width());
            set.part.prepare(isa, &q, rows, &mut own);
            state.extend_from_slice(&q);
            state.push(f32::from_bits(own.len() as u32));
            state.extend_from_slice(&own);
        }
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let mut state = queries.state;
        for set in &self.sets {
            let (q, rest) = state.split_at(queries.rows * set.channels.len());
            let (own, rest) = rest[1..].split_at(rest[0].to_bits() as usize);
            set.part.score(isa, &page[set.bytes.clone()], Queries { q, state: own, ..queries }, work, scores);
            state = rest;
        }
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        let width = self.shape.width();
        for set in &self.sets {
            let mut sums = vec![0.0; rows * set.channels.len()];
            set.part.accumulate(isa, &page[set.bytes.clone()], weights, rows, work, &mut sums);
            for (out, sums) in out.chunks_exact_mut(width).zip(sums.chunks_exact(set.channels.len())) {
                out[set.channels.clone()].iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
            }
        }
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let width = self.shape.width();
        for set in &self.sets {
            let page = &page[set.bytes.clone()];
            if self.shape.side == Side::Keys {
                let channels = set.channels.start * PAGE_TOKENS..set.channels.end * PAGE_TOKENS;
                set.part.tile(isa, page, work, &mut tile[channels]);
                continue;
            }
            let mut own = vec![0.0; set.part.shape().tile_len()];
            set.part.tile(isa, page, work, &mut own);
            for (tile, own) in tile.chunks_exact_mut(width).zip(own.chunks_exact(set.channels.len())) {
                tile[set.channels.clone()].iter_mut().zip(own).for_each(|(to, x)| *to += x);
            }
        }
    }
}

//! A few numbers kept apart from a quantizer: the sparse half of dense-and-sparse formats, as in KVQuant (arXiv
//! 2401.18079) and GEAR (2403.05527).
//!
//! The other part sees a page whose outliers are replaced by the mean of what remains of their line, so that they stretch
//! no group. What it makes of them is then made up for: the difference is stored as a half float beside the place. A page
//! is the other part's bytes, the differences, then the places within their lines.

use super::scatter::{Entry, FEW, LineEntries, Lines, add_line_products, add_products};
use crate::encode::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use crate::encode::quantizer::Store;
use crate::encode::stage::{Args, Built, Context, StageEntry, StageError};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use half::f16;
use std::cmp::Ordering;
use std::sync::Arc;

pub(super) const STAGE: StageEntry = StageEntry {
    name: "outliers",
    summary: "keeps extremes apart from the quantizer that follows: share=0.01 (of numbers; at least one on either side of \
              a line), by=channel|token (keys: channel, values: token) or by=error (where the quantizer is worst, over \
              the whole page; for quantizers with calibrated thresholds)",
    build,
    calibrate: None,
};

/// How outliers are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The least and the greatest of every token.
    Token,
    /// The least and the greatest of every channel.
    Channel,
    /// Those that the other part gets most wrong.
    Error,
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let share = args.number("share", 0.01, 0.0..=0.25)?;
    let choices = match context.side {
        Side::Keys => ["channel", "token", "error"],
        Side::Values => ["token", "channel", "error"],
    };
    let by = match args.word("by", &choices)? {
        "token" => By::Token,
        "channel" => By::Channel,
        _ => By::Error,
    };
    args.done()?;
    Ok(Built::Wrap(Box::new(move |inner| Ok(Arc::new(Outliers::new(inner, by, share))))))
}

#[derive(Debug)]
struct Outliers {
    inner: Arc<dyn Part>,
    by: By,
    /// Lines and outliers of each.
    lines: usize,
    each: usize,
    /// Bytes of a place.
    place: usize,
}

impl Outliers {
    /// Adds the entries to a tile.
    fn add_entries(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let Shape { side, tokens, channels } = self.shape();
        let (by_token, by_channel) = if side == Side::Keys { (1, PAGE_TOKENS) } else { (self.shape().width(), 1) };
        let (values, places) = self.apart(isa, page, &mut work.floats);
        let mut add = |token: usize, channel: usize, value: f32| {
            if token < tokens && channel < channels {
                tile[token * by_token + channel * by_channel] += value;
            }
        };
        match (self.by, self.place) {
            (By::Error, 2) => {
                // A division for every outlier would take longer than all else.
                let shift = channels.is_power_of_two().then(|| channels.trailing_zeros());
                for (&value, &place) in values.iter().zip(places.as_chunks::<2>().0) {
                    let place = usize::from(u16::from_le_bytes(place));
                    match shift {
                        Some(shift) => add(place >> shift, place & (channels - 1), value),
                        None => add(place / channels, place % channels, value),
                    }
                }
            }
            _ => self.entries(page).for_each(|(token, channel, value)| add(token, channel, value)),
        }
    }

    /// Differences and places, in the order they are stored.
    fn apart<'a, 'b>(&self, isa: Isa, page: &'a [u8], floats: &'b mut Vec<f32>) -> (&'b [f32], &'a [u8]) {
        let (values, places) = page[self.inner.bytes()..].split_at(2 * self.count());
        floats.resize(self.count().max(floats.len()), 0.0);
        let to = &mut floats[..self.count()];
        Store::F16.read(isa, values, to);
        (to, &places[..self.place * self.count()])
    }

    /// Adds the products of rows with the entries, where `x_lines` are those of the factor: the tokens or channels that the
    /// result has not.
    #[allow(clippy::too_many_arguments)]
    fn add_products(
        &self,
        isa: Isa,
        page: &[u8],
        x: &[f32],
        x_lines: Lines,
        y: &mut [f32],
        y_lines: Lines,
        rows: usize,
        work: &mut Work,
    ) {
        let line_is_factor = match self.shape().side {
            Side::Keys => self.by == By::Channel,
            Side::Values => self.by == By::Token,
        };
        if line_is_factor && self.place == 1 && (1..=FEW).contains(&rows) {
            let (values, places) = self.apart(isa, page, &mut work.floats);
            let entries = LineEntries { values, places, each: self.each };
            return add_line_products(isa, entries, x, x_lines, y, y_lines, rows, &mut work.tile);
        }
        self.products(isa, page, work);
        add_products(isa, &work.entries, x, x_lines, y, y_lines, rows, &mut work.floats);
    }

    fn new(inner: Arc<dyn Part>, by: By, share: f32) -> Outliers {
        let Shape { tokens, channels, .. } = inner.shape();
        let (lines, length) = match by {
            By::Token => (tokens, channels),
            By::Channel => (channels, tokens),
            By::Error => (1, tokens * channels),
        };
        let part = |of: f32| (share * length as f32 / of).round().max(1.0) as usize;
        let each = if by == By::Error { part(1.0) } else { 2 * part(2.0).min(length / 2) };
        let place = if length <= 256 {
            1
        } else if length <= 1 << 16 {
            2
        } else {
            4
        };
        Outliers { inner, by, lines, each, place }
    }

    fn count(&self) -> usize {
        self.lines * self.each
    }

    /// Index of an entry of `[tokens][channels]` by its line and its place within; `None` beyond the page.
    fn index(&self, line: usize, place: usize) -> Option<usize> {
        self.at(line, place).map(|(token, channel)| token * self.shape().channels + channel)
    }

    /// Token and channel of it.
    fn at(&self, line: usize, place: usize) -> Option<(usize, usize)> {
        let Shape { tokens, channels, .. } = self.shape();
        let (token, channel) = match self.by {
            By::Token => (line, place),
            By::Channel => (place, line),
            By::Error => (place / channels, place % channels),
        };
        (token < tokens && channel < channels).then_some((token, channel))
    }

    /// Outliers in the order they are stored: token, channel and what is added to the other part.
    fn entries(&self, page: &[u8]) -> impl Iterator<Item = (usize, usize, f32)> {
        let (values, places) = page[self.inner.bytes()..].split_at(2 * self.count());
        let values = values.as_chunks::<2>().0.iter().map(|value| f16::from_le_bytes(*value).to_f32());
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte));
        let places = places.chunks_exact(self.place).map(number);
        let entries = values.zip(places).take(self.count()).enumerate();
        entries.filter_map(|(i, (value, place))| {
            let (token, channel) = self.at(i / self.each, place)?;
            Some((token, channel, value))
        })
    }

    /// The entries for products with rows of queries (keys) or weights (values).
    fn products(&self, isa: Isa, page: &[u8], work: &mut Work) {
        let (values, places) = self.apart(isa, page, &mut work.floats);
        let Shape { side, tokens, channels } = self.shape();
        let (keys, by) = (side == Side::Keys, self.by);
        let (limit, fixed_is_from) = match by {
            By::Channel => (tokens, keys),
            By::Token | By::Error => (channels, !keys),
        };
        work.entries.clear();
        let lines = values.chunks_exact(self.each).zip(places.chunks_exact(self.each * self.place));
        for (line, (values, places)) in lines.enumerate() {
            if let (1, By::Channel | By::Token) = (self.place, by) {
                // The usual case: one byte that says where on its line an outlier is.
                let one = |(&value, &place): (&f32, &u8)| {
                    let (fixed, place) = (line as u16, u16::from(place));
                    let (from, to) = if fixed_is_from { (fixed, place) } else { (place, fixed) };
                    Entry { from, to, value }
                };
                let known = places.iter().all(|&place| usize::from(place) < limit);
                if known {
                    work.entries.extend(values.iter().zip(places).map(one));
                    continue;
                }
            }
            for (&value, place) in values.iter().zip(places.chunks_exact(self.place)) {
                let place = place.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte));
                if let Some((token, channel)) = self.at(line, place) {
                    let (from, to) = if keys { (channel, token) } else { (token, channel) };
                    work.entries.push(Entry { from: from as u16, to: to as u16, value });
                }
            }
        }
    }

    /// Places of the outliers of a line, ascending: the least and the greatest.
    fn extremes(&self, line: &[f32]) -> Vec<usize> {
        let half = self.each / 2;
        let mut places = first(line.len(), half, |a, b| line[a].total_cmp(&line[b]));
        let greatest = first(line.len(), half, |a, b| line[b].total_cmp(&line[a]).then(b.cmp(&a)));
        places.extend(greatest);
        places.sort_unstable();
        places
    }

    /// Replaces outliers by the mean of the others, and returns their places.
    fn set_apart(&self, x: &mut [f32]) -> Vec<usize> {
        let mut places = Vec::with_capacity(self.count());
        let length = self.shape().elements() / self.lines;
        for line in 0..self.lines {
            let members: Vec<usize> = (0..length).filter_map(|place| self.index(line, place)).collect();
            let numbers: Vec<f32> = members.iter().map(|&i| x[i]).collect();
            let chosen = self.extremes(&numbers);
            let sum = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(f64::from).sum::<f64>();
            let rest = sum(&mut numbers.iter().copied()) - sum(&mut chosen.iter().map(|&place| numbers[place]));
            let mean = (rest / (length - chosen.len()).max(1) as f64) as f32;
            chosen.iter().for_each(|&place| x[members[place]] = mean);
            places.extend(chosen);
        }
        places
    }
}

/// So many of the indices below `len`, those that come first in an order; the lower of equals.
fn first(len: usize, count: usize, order: impl Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut all: Vec<usize> = (0..len).collect();
    if count < len {
        all.select_nth_unstable_by(count, |&a, &b| order(a, b).then(a.cmp(&b)));
    }
    all.truncate(count);
    all
}

impl Part for Outliers {
    fn shape(&self) -> Shape {
        self.inner.shape()
    }

    fn breakdown(&self) -> Vec<Item> {
        let bytes = (2 + self.place) * self.count();
        let mut items = self.inner.breakdown();
        items.push(Item::new("outliers", bytes));
        if !bytes.is_multiple_of(4) {
            items.push(Item::new("padding", bytes.next_multiple_of(4) - bytes));
        }
        items
    }

    fn describe(&self) -> String {
        let by = match self.by {
            By::Token => "of every token",
            By::Channel => "of every channel",
            By::Error => "of the page, where errors are largest",
        };
        format!("{}; {} outliers {by}", self.inner.describe(), self.each)
    }

    fn shared_bytes(&self) -> usize {
        self.inner.shared_bytes()
    }

    fn encode(&self, x: &[f32], hints: Hints<'_>, to: &mut [u8]) {
        let (inner, apart) = to.split_at_mut(self.inner.bytes());
        let mut rest = x.to_vec();
        let mut decoded = vec![0.0; x.len()];
        let places = if self.by == By::Error {
            self.inner.encode(x, hints, inner);
            self.inner.decode(inner, &mut decoded);
            let error = |i: usize| (x[i] - decoded[i]).abs();
            let mut places = first(x.len(), self.each, |a, b| error(b).total_cmp(&error(a)));
            places.sort_unstable();
            places
        } else {
            let places = self.set_apart(&mut rest);
            self.inner.encode(&rest, hints, inner);
            self.inner.decode(inner, &mut decoded);
            places
        };
        apart.fill(0);
        let (values, stored) = apart.split_at_mut(2 * self.count());
        for (i, &place) in places.iter().enumerate() {
            let left = self.index(i / self.each, place).map_or(0.0, |at| x[at] - decoded[at]);
            values[2 * i..][..2].copy_from_slice(&f16::from_f32(left.clamp(-65504.0, 65504.0)).to_le_bytes());
            stored[i * self.place..][..self.place].copy_from_slice(&place.to_le_bytes()[..self.place]);
        }
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        self.inner.decode(&page[..self.inner.bytes()], x);
        let channels = self.shape().channels;
        self.entries(page).for_each(|(token, channel, value)| x[token * channels + channel] += value);
    }

    fn fused(&self) -> bool {
        self.inner.fused()
    }

    fn prepare(&self, isa: Isa, q: &[f32], rows: usize, state: &mut Vec<f32>) {
        self.inner.prepare(isa, q, rows, state);
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        self.inner.score(isa, &page[..self.inner.bytes()], queries, work, scores);
        let Shape { channels, tokens, .. } = self.shape();
        let (x, y) =
            (Lines { columns: channels, stride: self.shape().width() }, Lines { columns: tokens, stride: PAGE_TOKENS });
        self.add_products(isa, page, queries.q, x, scores, y, queries.rows, work);
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        self.inner.accumulate(isa, &page[..self.inner.bytes()], weights, rows, work, out);
        let Shape { channels, tokens, .. } = self.shape();
        let (x, y) =
            (Lines { columns: tokens, stride: PAGE_TOKENS }, Lines { columns: channels, stride: self.shape().width() });
        self.add_products(isa, page, weights, x, out, y, rows, work);
    }

    fn write_tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        self.inner.write_tile(isa, &page[..self.inner.bytes()], work, tile);
        self.add_entries(isa, page, work, tile);
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        self.inner.tile(isa, &page[..self.inner.bytes()], work, tile);
        self.add_entries(isa, page, work, tile);
    }
}

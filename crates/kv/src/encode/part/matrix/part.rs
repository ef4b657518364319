//! Writing pages of a matrix, and reading them by their codes.

use super::{BALANCE, Matrix};
use crate::encode::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use crate::encode::quantizer::{Group, Kept, Offset, Packing};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::codes::{self, Bits, Given, Grid};

impl Matrix {
    /// Whether levels are those whose transform fits bytes.
    fn is_small(&self) -> bool {
        let small = matches!(self.packing, Packing::Planes { bits, table: None } if bits <= Bits::B4);
        small && self.shape.side == Side::Keys && self.shape.channels == self.shape.width()
    }

    /// Keys' and values' channels beyond the real ones hold nothing.
    fn clear_padding(&self, rows: &mut [f32]) {
        let Shape { side, channels, .. } = self.shape;
        let width = self.shape.width();
        match side {
            _ if channels == width => {}
            Side::Keys => rows[channels * PAGE_TOKENS..width * PAGE_TOKENS].fill(0.0),
            Side::Values => rows.chunks_exact_mut(width).for_each(|row| row[channels..].fill(0.0)),
        }
    }
}

impl Part for Matrix {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn breakdown(&self) -> Vec<Item> {
        let offsets = if let Offset::Point(_) = self.offset { "zero points" } else { "offsets" };
        let padding = self.bytes - self.balance.end;
        let items = [("codes", self.codes.len()), ("scales", self.scales.len()), (offsets, self.offsets.len())];
        let items = items.into_iter().chain([("balance", self.balance.len()), ("padding", padding)]);
        items.filter(|&(_, bytes)| bytes > 0).map(|(what, bytes)| Item::new(what, bytes)).collect()
    }

    fn describe(&self) -> String {
        let balance = if self.balance.is_empty() { "" } else { ", channels balanced" };
        format!("{} {}{balance}", self.quantizer.describe(), self.layout.axis)
    }

    fn shared_bytes(&self) -> usize {
        self.quantizer.shared_bytes()
    }

    fn encode(&self, x: &[f32], _: Hints<'_>, to: &mut [u8]) {
        let layout = &self.layout;
        let channels = self.shape.channels;
        let mut balanced = Vec::new();
        let mut x = x;
        to[self.balance.end..].fill(0);
        if !self.balance.is_empty() {
            let balance = self.balance_of(x);
            balanced.extend(x.iter().enumerate().map(|(i, x)| x / balance[i % channels]));
            BALANCE.write(&balance, &mut to[self.balance.clone()]);
            x = &balanced;
        }
        let mut all = vec![0; x.len()];
        let (mut numbers, mut codes) = (Vec::new(), Vec::new());
        for block in 0..layout.blocks {
            for line in 0..layout.lines {
                let group = Group { line, block };
                numbers.clear();
                numbers.extend(layout.members(group).map(|i| x[i]));
                codes.clear();
                codes.resize(numbers.len(), 0);
                let parameters = self.quantizer.quantize(group, &numbers, &mut codes);
                layout.members(group).zip(&codes).for_each(|(i, &code)| all[i] = code);
                if let Kept::Stored(store) = self.scale {
                    store.write(&[parameters.scale], &mut to[self.scale_at(group)]);
                }
                if let Offset::Added(Kept::Stored(store)) | Offset::Point(store) = self.offset {
                    store.write(&[parameters.offset], &mut to[self.offset_at(group)]);
                }
            }
        }
        self.write_codes(&all, to);
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let mut work = Work::default();
        self.unpack(Isa::Portable, page, &mut work.levels, &mut work.floats);
        let grid = self.grid(&work.floats);
        for (i, x) in x.iter_mut().enumerate() {
            let (token, channel) = (i / self.shape.channels, i % self.shape.channels);
            let (r, l) = if self.shape.side == Side::Keys { (channel, token) } else { (token, channel) };
            *x += entry(&grid, work.levels[self.layout.at(token, channel)], r, l);
        }
    }

    fn fused(&self) -> bool {
        true
    }

    fn prepare(&self, isa: Isa, q: &[f32], rows: usize, state: &mut Vec<f32>) {
        state.clear();
        // Where pages have scales of channels, queries are rounded for every page.
        if self.shape.side == Side::Keys && !self.layout.folds && self.balance.is_empty() {
            // Groups and the presence of offsets are all that counts of the grid.
            let parameters = vec![0.0; self.parameters()];
            codes::round(isa, &self.grid(&parameters), q, self.shape.width(), rows, state);
        }
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let Queries { rows, q, state } = queries;
        let plain = Given::Plain { x: q, stride: self.shape.width() };
        let given = if state.is_empty() { plain } else { Given::Rounded(state) };
        self.multiply(isa, page, given, rows, work, scores, PAGE_TOKENS);
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        let given = Given::Plain { x: weights, stride: PAGE_TOKENS };
        self.multiply(isa, page, given, rows, work, out, self.shape.width());
        self.clear_padding(out);
    }

    fn write_tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        if let (Side::Keys, Packing::Planes { bits, table }) = (self.shape.side, &self.packing) {
            self.read_parameters(isa, page, &mut work.floats);
            let (packed, grid) = (&page[self.codes.clone()], self.grid(&work.floats));
            if codes::decode_packed(isa, *bits, packed, table.as_ref(), &grid, tile) {
                self.clear_padding(tile);
                return;
            }
        }
        tile.fill(0.0);
        self.tile(isa, page, work, tile);
    }

    fn write_hadamard_tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) -> bool {
        if !self.is_small() {
            return false;
        }
        self.unpack(isa, page, &mut work.levels, &mut work.floats);
        codes::decode_hadamard(isa, &self.grid(&work.floats), &work.levels, tile)
    }

    fn score_hadamard(
        &self,
        isa: Isa,
        page: &[u8],
        q: &[f32],
        angles: &[f32],
        work: &mut Work,
        scores: &mut [f32],
    ) -> bool {
        if !self.is_small() || angles.len() != self.shape.channels * PAGE_TOKENS {
            return false;
        }
        self.unpack(isa, page, &mut work.levels, &mut work.floats);
        codes::score_hadamard(isa, &self.grid(&work.floats), &work.levels, q, angles, scores)
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        self.unpack(isa, page, &mut work.levels, &mut work.floats);
        let grid = self.grid(&work.floats);
        let levels = &work.levels[..grid.reduce * grid.lanes];
        let stride = if self.shape.side == Side::Keys { PAGE_TOKENS } else { self.shape.width() };
        codes::decode(isa, &grid, levels, tile, stride);
        self.clear_padding(tile);
    }
}

/// One entry of a matrix, as [`cachalot_kernels::codes`] defines it; absent factors are left out.
fn entry(grid: &Grid<'_>, level: u8, r: usize, l: usize) -> f32 {
    let group = |ends: &[usize], at: usize| ends.partition_point(|&end| end <= at);
    let fold = group(grid.lane_groups, l) * grid.reduce + r;
    let lane = group(grid.reduce_groups, r) * grid.lanes + l;
    let level = f32::from(level) - f32::from(grid.zero);
    let folded = grid.fold_scale.get(fold).map_or(level, |scale| scale * level);
    let folded = grid.fold_offset.get(fold).map_or(folded, |offset| folded + offset);
    let x = grid.lane_scale.get(lane).map_or(folded, |scale| scale * folded);
    let Some(&offset) = grid.lane_offset.get(lane) else { return x };
    x + grid.fold_scale.get(fold).map_or(offset, |scale| offset * scale)
}

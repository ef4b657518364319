//! Rows as a matrix of small codes with scales and offsets of groups, read by [`cachalot_kernels::codes`].
//!
//! A page is the packed codes, then the scales, then the offsets, each `[groups of a line][lines]`, then the balance of
//! the channels where there is one.

mod layout;
mod packing;

pub use layout::Axis;

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::quantizer::{Group, GroupQuantizer, Kept, Offset, Packing, Store};
use super::super::stage::{Args, Built, Context, StageError};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::codes::{self, Grid};
use layout::Layout;
use std::ops::Range;
use std::sync::Arc;

/// Codes of a quantizer over one side of a page.
#[derive(Debug)]
pub struct Matrix {
    shape: Shape,
    layout: Layout,
    quantizer: Box<dyn GroupQuantizer>,
    packing: Packing,
    zero: u8,
    scale: Kept,
    offset: Offset,
    codes: Range<usize>,
    scales: Range<usize>,
    offsets: Range<usize>,
    balance: Range<usize>,
    bytes: usize,
}

/// How the balance of channels is stored.
const BALANCE: Store = Store::F16;

impl Matrix {
    /// `balance` divides channels by the root of their largest magnitude in the page before they are quantized (the
    /// channel-separable quantization of ZipCache, arXiv 2405.14256).
    ///
    /// # Errors
    /// Where the groups do not fit what the products of codes can do; says how to mend it.
    pub fn new(
        shape: Shape,
        axis: Axis,
        quantizer: impl GroupQuantizer + 'static,
        balance: bool,
    ) -> Result<Matrix, String> {
        let layout = Layout::new(shape, axis)?;
        if balance && matches!(axis, Axis::Channel { .. }) {
            return Err("balances channels only with `axis=token`; per channel the scales do it already".to_owned());
        }
        let (packing, scale, offset) = (quantizer.packing(), quantizer.scale(), quantizer.offset());
        let groups = layout.blocks * layout.lines;
        let stored = |kept: &Kept| if let Kept::Stored(store) = kept { store.bytes() * groups } else { 0 };
        let of_offset = match &offset {
            Offset::None => 0,
            Offset::Added(kept) => stored(kept),
            Offset::Point(store) => store.bytes() * groups,
        };
        let mut end = 0;
        let mut next = |len: usize| {
            end += len;
            end - len..end
        };
        let codes = next(packing.bytes(layout.levels()));
        let (scales, offsets) = (next(stored(&scale)), next(of_offset));
        let balance = next(if balance { BALANCE.bytes() * shape.channels } else { 0 });
        let (bytes, zero) = (end.next_multiple_of(4), quantizer.zero());
        let quantizer = Box::new(quantizer);
        Ok(Matrix { shape, layout, quantizer, packing, zero, scale, offset, codes, scales, offsets, balance, bytes })
    }

    /// From the arguments `axis` and `group` of a stage: keys by channel and values by token where nothing is said.
    ///
    /// # Errors
    /// As [`Matrix::new`], and of arguments that are not known.
    pub fn build(
        args: &Args,
        context: &Context<'_>,
        group: usize,
        quantizer: impl GroupQuantizer + 'static,
        balance: bool,
    ) -> Result<Built, StageError> {
        let axis = Axis::of_args(args, context.side, group)?;
        Matrix::finish(args, context, axis, quantizer, balance)
    }

    /// With a given axis; see [`Matrix::build`].
    ///
    /// # Errors
    /// As [`Matrix::build`].
    pub fn finish(
        args: &Args,
        context: &Context<'_>,
        axis: Axis,
        quantizer: impl GroupQuantizer + 'static,
        balance: bool,
    ) -> Result<Built, StageError> {
        args.done()?;
        let matrix = Matrix::new(context.shape(), axis, quantizer, balance).map_err(|what| args.error(what))?;
        Ok(Built::Part(Arc::new(matrix)))
    }

    /// The codes of a page, `[tokens][channels]`, before any table.
    pub fn read_codes(&self, page: &[u8]) -> Vec<u8> {
        let Shape { tokens, channels, .. } = self.shape;
        let mut laid = vec![0; self.layout.levels()];
        self.packing.unpack_codes(&page[self.codes.clone()], &mut laid);
        let entry = |i: usize| laid[self.layout.at(i / channels, i % channels)];
        (0..tokens * channels).map(entry).collect()
    }

    /// Writes the codes of a page, `[tokens][channels]`.
    pub fn write_codes(&self, codes: &[u8], page: &mut [u8]) {
        let channels = self.shape.channels;
        let mut laid = vec![0; self.layout.levels()];
        for (i, &code) in codes.iter().enumerate() {
            laid[self.layout.at(i / channels, i % channels)] = code;
        }
        self.packing.pack(&laid, &mut page[self.codes.clone()]);
    }

    /// Where the scale of a group lies in a page; empty where none is stored.
    pub fn scale_at(&self, group: Group) -> Range<usize> {
        self.one_of(&self.scales, group)
    }

    /// Where the offset of a group lies in a page; empty where none is stored.
    pub fn offset_at(&self, group: Group) -> Range<usize> {
        self.one_of(&self.offsets, group)
    }

    fn one_of(&self, all: &Range<usize>, group: Group) -> Range<usize> {
        let size = all.len() / (self.layout.blocks * self.layout.lines);
        let at = all.start + (group.block * self.layout.lines + group.line) * size;
        at..at + size
    }

    /// Levels of a page into `work.levels`, and its parameters into `work.floats` as [`Matrix::grid`] wants them.
    pub fn unpack(&self, isa: Isa, page: &[u8], work: &mut Work) {
        work.levels.resize(self.layout.levels(), 0);
        self.packing.unpack(isa, &page[self.codes.clone()], &mut work.levels);
        let layout = &self.layout;
        let one = layout.parameters();
        let count = one + if self.offset == Offset::None { 0 } else { one };
        let count = count + if self.balance.is_empty() { 0 } else { self.shape.width() };
        work.floats.clear();
        work.floats.resize(count, 0.0);
        let (scales, rest) = work.floats.split_at_mut(one);
        layout.spread(isa, &self.scale, &page[self.scales.clone()], scales);
        let from = &page[self.offsets.clone()];
        let rest = match &self.offset {
            Offset::None => rest,
            Offset::Added(kept) => {
                let (offsets, rest) = rest.split_at_mut(one);
                layout.spread(isa, kept, from, offsets);
                rest
            }
            Offset::Point(store) => {
                let (offsets, rest) = rest.split_at_mut(one);
                layout.spread(isa, &Kept::Stored(*store), from, offsets);
                offsets.iter_mut().zip(&*scales).for_each(|(point, scale)| *point = -(*point * scale));
                rest
            }
        };
        if !self.balance.is_empty() {
            BALANCE.read(isa, &page[self.balance.clone()], &mut rest[..self.shape.channels]);
        }
    }

    /// The matrix that [`Matrix::unpack`] left: keys `[width][tokens]`, values `[tokens][width]`.
    pub fn grid<'a>(&'a self, floats: &'a [f32]) -> Grid<'a> {
        let layout = &self.layout;
        let (scale, rest) = floats.split_at(layout.parameters());
        let (offset, balance) = rest.split_at(if self.offset == Offset::None { 0 } else { layout.parameters() });
        let (fold, lane) =
            if layout.folds { ((scale, offset), (balance, &[][..])) } else { ((balance, &[][..]), (scale, offset)) };
        Grid {
            reduce: layout.reduce,
            lanes: layout.lanes,
            zero: self.zero,
            reduce_groups: &layout.reduce_groups,
            lane_groups: &layout.lane_groups,
            fold_scale: fold.0,
            fold_offset: fold.1,
            lane_scale: lane.0,
            lane_offset: lane.1,
        }
    }

    /// What channels are divided by.
    fn balance_of(&self, x: &[f32]) -> Vec<f32> {
        let root = |c: usize| {
            let column = x.iter().skip(c).step_by(self.shape.channels);
            let root = BALANCE.round(column.fold(0f32, |reach, x| reach.max(x.abs())).sqrt());
            if root > 0.0 { root } else { 1.0 }
        };
        (0..self.shape.channels).map(root).collect()
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
        self.unpack(Isa::Portable, page, &mut work);
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

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        self.unpack(isa, page, work);
        let grid = self.grid(&work.floats);
        let (width, levels) = (self.shape.width(), &work.levels[..grid.reduce * grid.lanes]);
        codes::multiply(isa, &grid, levels, queries.q, width, queries.rows, &mut work.kernel, scores, PAGE_TOKENS);
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        self.unpack(isa, page, work);
        let grid = self.grid(&work.floats);
        let (width, levels) = (self.shape.width(), &work.levels[..grid.reduce * grid.lanes]);
        codes::multiply(isa, &grid, levels, weights, PAGE_TOKENS, rows, &mut work.kernel, out, width);
        self.clear_padding(out);
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        self.unpack(isa, page, work);
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

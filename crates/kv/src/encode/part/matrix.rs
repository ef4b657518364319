//! Rows as a matrix of small codes with scales and offsets of groups, read by [`cachalot_kernels::codes`].
//!
//! A page is the packed codes, then the scales, then the offsets, each `[groups of a line][lines]`, then the balance of
//! the channels where there is one.

mod layout;
mod packing;
mod part;

pub use layout::Axis;

use super::super::codec::{Shape, Work};
use super::super::quantizer::{Group, GroupQuantizer, Kept, Offset, Packing, Store};
use super::super::stage::{Args, Built, Context, StageError};
use cachalot_kernels::Isa;
use cachalot_kernels::codes::{self, Codes, Given, Grid, Levels};
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
        let mut laid = vec![0; self.layout.levels()];
        self.packing.unpack_codes(&page[self.codes.clone()], &mut laid);
        let mut codes = vec![0; self.shape.elements()];
        for (token, row) in codes.chunks_exact_mut(self.shape.channels).enumerate() {
            row.iter_mut().enumerate().for_each(|(channel, code)| *code = laid[self.layout.at(token, channel)]);
        }
        codes
    }

    /// Writes the codes of a page, `[tokens][channels]`.
    pub fn write_codes(&self, codes: &[u8], page: &mut [u8]) {
        let mut laid = vec![0; self.layout.levels()];
        for (token, row) in codes.chunks_exact(self.shape.channels).enumerate() {
            row.iter().enumerate().for_each(|(channel, &code)| laid[self.layout.at(token, channel)] = code);
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

    /// Levels of a page, and its parameters into `floats` as [`Matrix::grid`] wants them.
    pub fn unpack(&self, isa: Isa, page: &[u8], levels: &mut Levels, floats: &mut Vec<f32>) {
        self.unpack_levels(isa, page, levels);
        self.read_parameters(isa, page, floats);
    }

    fn unpack_levels(&self, isa: Isa, page: &[u8], levels: &mut Levels) {
        levels.resize(self.layout.levels(), 0);
        self.packing.unpack(isa, &page[self.codes.clone()], levels);
    }

    /// Floats that [`Matrix::grid`] is made of.
    fn parameters(&self) -> usize {
        let of_offsets = if self.offset == Offset::None { 0 } else { self.layout.parameters() };
        let of_balance = if self.balance.is_empty() { 0 } else { self.shape.width() };
        self.layout.parameters() + of_offsets + of_balance
    }

    /// The parameters of a page as [`Matrix::grid`] wants them.
    fn read_parameters(&self, isa: Isa, page: &[u8], floats: &mut Vec<f32>) {
        let layout = &self.layout;
        let one = layout.parameters();
        // All of it is set below.
        floats.resize(self.parameters(), 0.0);
        if let (Kept::Stored(store), Offset::Added(Kept::Stored(same)), true) =
            (&self.scale, &self.offset, layout.is_plain())
            && store == same
            && (self.balance.is_empty() || *store == BALANCE && self.shape.channels == self.shape.width())
        {
            // They lie as they are wanted, one after the other.
            store.read(isa, &page[self.scales.start..self.balance.end], floats);
            return;
        }
        let (scales, rest) = floats.split_at_mut(one);
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
            let (balance, padding) = rest.split_at_mut(self.shape.channels);
            BALANCE.read(isa, &page[self.balance.clone()], balance);
            padding.fill(0.0);
        }
    }

    /// Adds the product of rows with a page to `out`.
    #[allow(clippy::too_many_arguments)]
    fn multiply(
        &self,
        isa: Isa,
        page: &[u8],
        given: Given<'_>,
        rows: usize,
        work: &mut Work,
        out: &mut [f32],
        stride: usize,
    ) {
        self.read_parameters(isa, page, &mut work.floats);
        let grid = self.grid(&work.floats);
        let packed = self.packing.codes(&page[self.codes.clone()]).filter(|_| codes::reads_packed(isa, &grid, rows));
        let codes = match packed {
            Some(packed) => packed,
            None => {
                self.unpack_levels(isa, page, &mut work.levels);
                Codes::Levels(&work.levels)
            }
        };
        codes::multiply(isa, &grid, codes, given, rows, &mut work.kernel, out, stride);
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
}

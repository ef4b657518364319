//! Which entries of a page form a group, and where the product of codes wants them.

use crate::encode::codec::{Shape, Side};
use crate::encode::quantizer::{Group, Kept};
use crate::encode::stage::{Args, StageError};
use cachalot_kernels::Isa;
use std::fmt;

/// Which way groups run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// Per token: statistics over `group` channels of one token.
    Token {
        /// Channels of a group, zero for all.
        group: usize,
    },
    /// Per channel: statistics over `group` tokens of one channel.
    Channel {
        /// Tokens of a group, zero for all of the page.
        group: usize,
    },
}

impl Axis {
    /// The arguments `axis` and `group`; per channel for keys and per token for values where `axis` is not given.
    ///
    /// # Errors
    /// Of values that are not possible.
    pub fn of_args(args: &Args, side: Side, group: usize) -> Result<Axis, StageError> {
        let choices = if side == Side::Keys { ["channel", "token"] } else { ["token", "channel"] };
        let group = args.integer("group", group, 0..=4096)?;
        Ok(if args.word("axis", &choices)? == "token" { Axis::Token { group } } else { Axis::Channel { group } })
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Axis::Token { group: 0 } => f.write_str("per token"),
            Axis::Token { group } => write!(f, "per token and {group} channels"),
            Axis::Channel { group: 0 } => f.write_str("per channel of the page"),
            Axis::Channel { group } => write!(f, "per channel and {group} tokens"),
        }
    }
}

/// Rows a reduce group may have.
const LONGEST: usize = 256;

/// Groups of one side of a page and the matrix they are in.
#[derive(Debug)]
pub(super) struct Layout {
    pub axis: Axis,
    /// Whether parameters are folded into the vector of a product; else they scale its result.
    pub folds: bool,
    pub reduce: usize,
    pub lanes: usize,
    pub reduce_groups: Vec<usize>,
    pub lane_groups: Vec<usize>,
    /// Tokens where groups run along channels, else channels.
    pub lines: usize,
    /// Groups of a line.
    pub blocks: usize,
    /// Entries of a group, but for the last of a line.
    group: usize,
    /// The block of every group of rows or lanes that has parameters.
    owners: Vec<usize>,
    side: Side,
    channels: usize,
    tokens: usize,
}

impl Layout {
    pub fn new(shape: Shape, axis: Axis) -> Result<Layout, String> {
        let Shape { side, tokens, channels } = shape;
        let width = shape.width();
        let (reduce, lanes) = if side == Side::Keys { (width, tokens) } else { (tokens, width) };
        let (lines, along, padded, group) = match axis {
            Axis::Token { group } => (tokens, channels, width, group),
            Axis::Channel { group } => (channels, tokens, tokens, group),
        };
        let group = if group == 0 || group > along { along } else { group };
        let blocks = along.div_ceil(group);
        let folds = matches!((side, axis), (Side::Keys, Axis::Channel { .. }) | (Side::Values, Axis::Token { .. }));
        let step = if folds { 16 } else { 4 };
        if blocks > 1 && !group.is_multiple_of(step) {
            let what = if matches!(axis, Axis::Token { .. }) { "channels" } else { "tokens" };
            let side = if side == Side::Keys { "keys" } else { "values" };
            return Err(format!(
                "groups of {group} {what} of {side} are not possible; take a multiple of {step}, or 0"
            ));
        }
        let ends = (1..=blocks).map(|block| if block == blocks { padded } else { block * group });
        let (reduce_groups, lane_groups, owners);
        if folds {
            lane_groups = ends.collect();
            reduce_groups = cut(0, reduce).collect();
            owners = (0..blocks).collect();
        } else {
            let starts = (0..blocks).map(|block| block * group);
            let pieces = starts.zip(ends).enumerate().map(|(block, (start, end))| (block, cut(start, end)));
            let pieces: Vec<_> = pieces.flat_map(|(block, ends)| ends.map(move |end| (end, block))).collect();
            (reduce_groups, owners) = pieces.into_iter().unzip();
            lane_groups = vec![lanes];
        }
        Ok(Layout {
            axis,
            folds,
            reduce,
            lanes,
            reduce_groups,
            lane_groups,
            lines,
            blocks,
            group,
            owners,
            side,
            channels,
            tokens,
        })
    }

    /// Levels that are packed: those of the matrix and some that fill the last vector.
    pub fn levels(&self) -> usize {
        (self.reduce * self.lanes).next_multiple_of(512)
    }

    /// Place of an entry among the levels.
    pub fn at(&self, token: usize, channel: usize) -> usize {
        let (r, l) = if self.side == Side::Keys { (channel, token) } else { (token, channel) };
        (r / 4 * self.lanes + l) * 4 + r % 4
    }

    /// Entries of a group, as indices of `[tokens][channels]`.
    pub fn members(&self, Group { line, block }: Group) -> impl Iterator<Item = usize> + use<> {
        let (start, channels) = (block * self.group, self.channels);
        let (count, by_token) = match self.axis {
            Axis::Token { .. } => (channels, true),
            Axis::Channel { .. } => (self.tokens, false),
        };
        let along = start..(start + self.group).min(count);
        along.map(move |i| if by_token { line * channels + i } else { i * channels + line })
    }

    /// Floats of scales, or of offsets, of a grid.
    pub fn parameters(&self) -> usize {
        self.owners.len() * self.padded_lines()
    }

    fn padded_lines(&self) -> usize {
        if self.folds { self.reduce } else { self.lanes }
    }

    /// Whether a page keeps parameters as the grid wants them.
    pub fn is_plain(&self) -> bool {
        self.lines == self.padded_lines() && self.owners.len() == self.blocks
    }

    /// Parameters as a page or a quantizer keeps them, `[blocks][lines]`, as the grid wants them.
    pub fn spread(&self, isa: Isa, kept: &Kept, from: &[u8], to: &mut [f32]) {
        if let (Kept::Stored(store), true) = (kept, self.is_plain()) {
            return store.read(isa, from, to);
        }
        for (row, &block) in to.chunks_exact_mut(self.padded_lines()).zip(&self.owners) {
            match kept {
                Kept::Stored(store) => {
                    store.read(isa, &from[block * self.lines * store.bytes()..], &mut row[..self.lines])
                }
                Kept::Fixed(values) => row.iter_mut().zip(&**values).for_each(|(to, &value)| *to = value),
            }
            row[self.lines..].fill(0.0);
        }
    }
}

/// Ends of pieces that are not too long.
fn cut(start: usize, end: usize) -> impl Iterator<Item = usize> {
    (start..end).step_by(LONGEST).map(move |at| (at + LONGEST).min(end))
}

//! Attention of a few query rows over one page at a time, with an online softmax.
//!
//! A page holds [`PAGE_TOKENS`] tokens of one lane: keys channel by channel (`[width][PAGE_TOKENS]`), so that sixteen
//! keys fill a vector and a score is one chain of fused multiply-adds over the channels; values token by token
//! (`[PAGE_TOKENS][width]`), so that sixteen channels fill a vector and an output is one chain over the tokens.
//! `width` is the head dimension rounded up to sixteen, the rest zero.
//!
//! The arithmetic of one row never depends on which rows travel with it: decode, prefill and any batch return the same
//! bits. Pages are grouped in splits of [`SPLIT_PAGES`], counted from position zero; each split has a softmax of its
//! own ([`Rows`]) and splits are merged in order by log-sum-exp, whoever computed them.

//!
//! [`attend_page`] is three stages, [`score_page`], [`soften`] and [`accumulate_page`], that may be called one by one:
//! encoded keys or values take the place of the first or the last.

mod accumulate;
mod element;
mod page;
mod rows;
mod score;
mod soften;
mod tiles;
mod turned;

pub use accumulate::accumulate_page;
pub use element::Element;
pub use page::{PageView, attend_page, widen, widen_page};
pub use rows::{Rows, Visible};
pub use score::score_page;
pub use soften::soften;
pub(crate) use turned::turned;
pub use turned::{score_turned, turn};

/// Tokens of a page.
pub const PAGE_TOKENS: usize = 64;

/// Pages of a split: the unit that decode hands to different threads.
pub const SPLIT_PAGES: usize = 8;

/// Query rows up to which a page is read in its own format; above it is widened once for all rows (same bits).
pub const DIRECT_ROWS: usize = 8;

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

mod element;
mod page;

pub use element::Element;
pub use page::{PageView, Rows, Visible, attend_page, widen_page};

/// Tokens of a page.
pub const PAGE_TOKENS: usize = 64;

/// Pages of a split: the unit that decode hands to different threads.
pub const SPLIT_PAGES: usize = 8;

/// Query rows up to which a page is read in its own format; above it is widened once for all rows (same bits).
pub const DIRECT_ROWS: usize = 8;

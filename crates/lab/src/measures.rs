//! Two next-token distributions compared, token by token. The engine compares too, so the arithmetic lies below both.

pub use cachalot_kernels::divergence::{Distribution, NonFinite, Row, TOP, TokenMeasure, Top, kl};

//! FastKV (Jo et al., 2025): layers above one see only the rows that its scores put first, which shortens the prefill. What
//! each layer keeps is another matter.

use super::Choose;
use crate::reduce::{Passes, Stage};
use crate::score::Method;

#[derive(Debug)]
pub(crate) struct FastKv {
    /// The last layer that sees all rows; about half of all where `None`.
    pub layer: Option<usize>,
    /// Share of the rows that go on.
    pub rows: f64,
}

impl Choose for FastKv {
    fn passes(&self, _: &dyn Method) -> Passes {
        Passes::Stages(vec![Stage { after: self.layer, fixed: 0, share: self.rows }])
    }

    fn describe(&self) -> String {
        let layer = self.layer.map_or("the middle".to_owned(), |layer| layer.to_string());
        format!("layers beyond {layer} see {} of the rows", self.rows)
    }
}

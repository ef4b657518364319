//! What a thread keeps between its tasks.

use crate::encode::codec::Work;
use crate::encode::pipeline::Prepared;
use cachalot_kernels::attention::Visible;

/// Buffers of one thread: one page decoded, one block's scores and results. Nothing here grows with the context.
#[derive(Default)]
pub(super) struct Local {
    pub(super) total: Vec<f32>,
    pub(super) prepared: Prepared,
    pub(super) part: Vec<f32>,
    pub(super) body: Vec<f32>,
    pub(super) scores: Vec<f32>,
    pub(super) visible: Vec<Visible>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) work: Work,
}

impl Local {
    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        let floats = [&self.total, &self.part, &self.body, &self.scores, &self.k, &self.v];
        4 * floats.map(Vec::capacity).iter().sum::<usize>() + 2 * self.visible.capacity() + self.work.bytes()
    }
}

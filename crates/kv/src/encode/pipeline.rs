//! A format of one side of a page: transforms, then parts that add up.

mod keys;

use super::codec::{Hints, Item, Part, Queries, Shape, Side, Transform, Work};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::ops::Range;
use std::sync::Arc;

/// Transforms in order, then parts; see [`super::codec`].
#[derive(Clone, Debug)]
pub struct Pipeline {
    shape: Shape,
    before_rope: bool,
    transforms: Vec<Arc<dyn Transform>>,
    parts: Vec<Arc<dyn Part>>,
    /// Where each part's bytes lie.
    spans: Vec<Range<usize>>,
}

impl Pipeline {
    /// `shape` is that of the model's rows; every transform takes what the one before gives, every part the last basis.
    pub fn new(
        shape: Shape,
        before_rope: bool,
        transforms: Vec<Arc<dyn Transform>>,
        parts: Vec<Arc<dyn Part>>,
    ) -> Pipeline {
        let mut end = 0;
        let spans = parts.iter().map(|part| {
            end += part.bytes();
            end - part.bytes()..end
        });
        let spans = spans.collect();
        Pipeline { shape, before_rope, transforms, parts, spans }
    }

    /// Rows as the model has them.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Rows as the parts write them.
    pub fn basis(&self) -> Shape {
        let channels = self.transforms.last().map_or(self.shape.channels, |t| t.outputs());
        Shape { channels, ..self.shape }
    }

    /// Whether keys are stored before rotary position.
    pub fn before_rope(&self) -> bool {
        self.before_rope
    }

    /// Bytes of a page's side.
    pub fn bytes(&self) -> usize {
        self.spans.last().map_or(0, |span| span.end)
    }

    /// The bytes by what they hold.
    pub fn breakdown(&self) -> Vec<Item> {
        self.parts.iter().flat_map(|part| part.breakdown()).collect()
    }

    /// Bits per element of the model's rows, everything counted.
    pub fn bits(&self) -> f64 {
        8.0 * self.bytes() as f64 / self.shape.elements() as f64
    }

    /// One line a stage.
    pub fn describe(&self) -> Vec<String> {
        let rope = self.before_rope.then(|| "before rotary position".to_owned());
        let transforms = self.transforms.iter().map(|t| t.describe());
        rope.into_iter().chain(transforms).chain(self.parts.iter().map(|part| part.describe())).collect()
    }

    /// Bytes of tables that all pages share.
    pub fn shared_bytes(&self) -> usize {
        let parts: usize = self.parts.iter().map(|part| part.shared_bytes()).sum();
        parts + self.transforms.iter().map(|t| t.shared_bytes()).sum::<usize>()
    }

    /// Writes `x`, `[tokens][channels]`. NaN is written as zero and infinities as the largest half float; returns how
    /// many there were.
    pub fn encode(&self, x: &[f32], hints: Hints<'_>, to: &mut [u8]) -> usize {
        const LARGEST: f32 = 65504.0;
        let mut odd = 0;
        let mut rows: Vec<f32> = x.iter().map(|&x| if x.is_nan() { 0.0 } else { x.clamp(-LARGEST, LARGEST) }).collect();
        odd += x.iter().filter(|x| !x.is_finite()).count();
        for t in &self.transforms {
            let mut next = vec![0.0; self.shape.tokens * t.outputs()];
            for (x, y) in rows.chunks_exact(t.inputs()).zip(next.chunks_exact_mut(t.outputs())) {
                t.forward(x, y);
            }
            rows = next;
        }
        let last = self.parts.len().saturating_sub(1);
        for (i, (part, span)) in self.parts.iter().zip(&self.spans).enumerate() {
            part.encode(&rows, hints, &mut to[span.clone()]);
            if i < last {
                let mut decoded = vec![0.0; rows.len()];
                part.decode(&to[span.clone()], &mut decoded);
                rows.iter_mut().zip(&decoded).for_each(|(x, d)| *x -= d);
            }
        }
        odd
    }

    /// What the page says, `[tokens][channels]` of the model's rows: the plain scalar definition.
    pub fn decode(&self, page: &[u8], x: &mut [f32]) {
        let mut rows = vec![0.0; self.basis().elements()];
        for (part, span) in self.parts.iter().zip(&self.spans) {
            part.decode(&page[span.clone()], &mut rows);
        }
        for t in self.transforms.iter().rev() {
            let mut next = vec![0.0; self.shape.tokens * t.inputs()];
            for (y, x) in rows.chunks_exact(t.outputs()).zip(next.chunks_exact_mut(t.inputs())) {
                t.inverse(y, x);
            }
            rows = next;
        }
        x.copy_from_slice(&rows);
    }

    /// Whether pages are read by their codes and not through a tile.
    pub fn fused(&self) -> bool {
        !self.before_rope && self.parts.iter().all(|part| part.fused())
    }

    /// Query-side work of keys, once per query: `q` is `[rows][shape.width()]`, scaled and rotated.
    pub fn prepare(&self, isa: Isa, q: &[f32], rows: usize, to: &mut Prepared) {
        let (width, basis) = (self.shape.width(), self.basis());
        to.rows = rows;
        to.constant.clear();
        to.constant.resize(rows, 0.0);
        to.q.clear();
        if self.before_rope {
            // The tile is brought back to the model's basis instead, and rotated there.
            to.q.extend_from_slice(q);
            return;
        }
        to.q.resize(rows * basis.width(), 0.0);
        let widest = self.transforms.iter().map(|t| t.outputs().max(t.inputs())).max().unwrap_or(0);
        let (mut a, mut b) = (vec![0.0; widest], vec![0.0; widest]);
        for row in 0..rows {
            let q = &q[row * width..][..self.shape.channels];
            let out = &mut to.q[row * basis.width()..][..basis.channels];
            if self.transforms.is_empty() {
                out.copy_from_slice(q);
                continue;
            }
            a[..q.len()].copy_from_slice(q);
            for t in &self.transforms {
                to.constant[row] += t.query(&a[..t.inputs()], &mut b[..t.outputs()]);
                std::mem::swap(&mut a, &mut b);
            }
            out.copy_from_slice(&a[..basis.channels]);
        }
        to.states.resize_with(self.parts.len(), Vec::new);
        for (part, state) in self.parts.iter().zip(&mut to.states) {
            part.prepare(isa, &to.q, rows, state);
        }
    }

    /// Keys, where [`Pipeline::fused`]: scores of the page's tokens, `[rows][PAGE_TOKENS]`, overwritten.
    pub fn score(&self, isa: Isa, page: &[u8], queries: &Prepared, work: &mut Work, scores: &mut [f32]) {
        for (scores, &constant) in scores.chunks_exact_mut(PAGE_TOKENS).zip(&queries.constant) {
            scores.fill(constant);
        }
        for ((part, span), state) in self.parts.iter().zip(&self.spans).zip(&queries.states) {
            let queries = Queries { rows: queries.rows, q: &queries.q, state };
            part.score(isa, &page[span.clone()], queries, work, scores);
        }
    }

    /// Values, where [`Pipeline::fused`]: adds to accumulators in the basis, `[rows][basis.width()]`.
    pub fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        for (part, span) in self.parts.iter().zip(&self.spans) {
            part.accumulate(isa, &page[span.clone()], weights, rows, work, out);
        }
    }

    /// The page in the basis of the parts: keys `[basis.width()][PAGE_TOKENS]`, values `[PAGE_TOKENS][basis.width()]`.
    pub fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let mut parts = self.parts.iter().zip(&self.spans);
        match parts.next() {
            Some((part, span)) => part.write_tile(isa, &page[span.clone()], work, tile),
            None => tile.fill(0.0),
        }
        for (part, span) in parts {
            part.tile(isa, &page[span.clone()], work, tile);
        }
    }

    /// A tile of keys brought back to the model's basis, `[shape.width()][PAGE_TOKENS]`; `spare` is scratch.
    pub fn untransform_tile(&self, tile: &mut Vec<f32>, spare: &mut Vec<f32>) {
        debug_assert_eq!(self.shape.side, Side::Keys);
        for t in self.transforms.iter().rev() {
            if t.inverse_in_place(tile) {
                continue;
            }
            spare.clear();
            spare.resize(t.inputs().next_multiple_of(16) * PAGE_TOKENS, 0.0);
            t.inverse_tile(tile, spare);
            std::mem::swap(tile, spare);
        }
    }

    /// Values: one accumulator, `[basis.width()]`, to the model's basis, `[shape.width()]`; `weight` is the sum of the
    /// weights that went in.
    pub fn output(&self, acc: &[f32], weight: f32, out: &mut [f32]) {
        let basis = self.basis().channels;
        if self.transforms.is_empty() {
            out[..basis].copy_from_slice(&acc[..basis]);
            return;
        }
        let mut rows = acc[..basis].to_vec();
        for t in self.transforms.iter().rev() {
            let mut next = vec![0.0; t.inputs()];
            t.output(&rows, weight, &mut next);
            rows = next;
        }
        out[..rows.len()].copy_from_slice(&rows);
    }
}

/// Queries as the parts of one pipeline want them; buffers are reused.
#[derive(Default)]
pub struct Prepared {
    rows: usize,
    q: Vec<f32>,
    /// Per row: what is added to every score.
    constant: Vec<f32>,
    states: Vec<Vec<f32>>,
}

impl Prepared {
    /// The queries in the basis of the parts, `[rows][basis.width()]`.
    pub fn q(&self) -> &[f32] {
        &self.q
    }

    /// Per row: what is added to every score.
    pub fn constant(&self) -> &[f32] {
        &self.constant
    }
}

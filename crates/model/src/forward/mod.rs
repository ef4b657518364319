//! The forward pass.
//!
//! Everything here is computed row by row: no number of one token ever enters a sum for another, except in attention,
//! which the cache owns. That is what makes results independent of batches, chunks and threads.

mod journey;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use cachalot_kernels::{linear::Linear, ops};
use cachalot_kv::{KvCache, KvError, Segment};

use crate::ModelError;
use crate::decoder::Decoder;
use crate::model::{Joint, Layer, Model};
use crate::spec::{Activation, LayerSpec, ModelSpec};
use journey::Journey;

/// Elements below which a row-wise operation is not worth sharing among threads.
const WORTH_SHARING: usize = 1 << 14;
/// Sets of buffers kept between steps; more are made when more steps run at once, and given back after.
const MAX_SCRATCHES: usize = 4;

/// The buffers of one step, kept for the next.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The residual stream, `[rows][hidden]`.
    x: Vec<f32>,
    /// What goes into a linear layer, and what comes out of the last of a block, `[rows][hidden]`.
    h: Vec<f32>,
    y: Vec<f32>,
    /// Outputs of joined layers, `[rows][q + k + v]` or `[rows][gate + up]`.
    joint: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Attention's output, `[rows][heads * head_dim]`.
    attended: Vec<f32>,
    /// Gated activations, `[rows][intermediate]`.
    gated: Vec<f32>,
}

/// Makes a buffer that long. What it holds is written before it is read.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.resize(len, 0.0);
    buffer
}

impl Decoder for Model {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn forward(
        &self,
        cache: &KvCache,
        segments: &mut [Segment<'_>],
        tokens: &[u32],
        logits_rows: &[usize],
    ) -> Result<Vec<f32>, ModelError> {
        self.check(cache, segments, tokens, logits_rows)?;
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let mut scratch = self.lock_scratch().pop().unwrap_or_default();
        let result = self.step(cache, segments, tokens, logits_rows, &mut scratch);
        let mut pool = self.lock_scratch();
        if pool.len() < MAX_SCRATCHES {
            pool.push(scratch);
        }
        result
    }
}

impl Model {
    fn lock_scratch(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(
        &self,
        cache: &KvCache,
        segments: &[Segment<'_>],
        tokens: &[u32],
        logits_rows: &[usize],
    ) -> Result<(), ModelError> {
        let fail = |reason: String| Err(ModelError::Forward { reason });
        let rows = segments.iter().try_fold(0usize, |n, s| n.checked_add(s.rows));
        if rows != Some(tokens.len()) {
            return fail(format!("{} tokens for segments of {rows:?} rows", tokens.len()));
        }
        if let Some(token) = tokens.iter().find(|t| **t as usize >= self.spec.vocab) {
            return fail(format!("token {token} is not among the {} of the vocabulary", self.spec.vocab));
        }
        if let Some(row) = logits_rows.iter().find(|r| **r >= tokens.len()) {
            return fail(format!("logits of row {row} are wanted of {} rows", tokens.len()));
        }
        let layers = cache.config().layers.len();
        if layers != self.spec.layers.len() {
            return fail(format!("a cache of {layers} layers for a model of {}", self.spec.layers.len()));
        }
        Ok(())
    }

    fn step(
        &self,
        cache: &KvCache,
        segments: &mut [Segment<'_>],
        tokens: &[u32],
        logits_rows: &[usize],
        s: &mut Scratch,
    ) -> Result<Vec<f32>, ModelError> {
        let (hidden, last) = (self.spec.hidden, self.layers.len().saturating_sub(1));
        let journey = Journey::new(segments);
        let wanted: Option<Vec<usize>> = logits_rows.iter().map(|&row| journey.row(row, last)).collect();
        let Some(wanted) = wanted else {
            let reason = "logits are wanted of rows that do not reach the last layer in this step".to_owned();
            return Err(ModelError::Forward { reason });
        };
        for (i, (layer, spec)) in self.layers.iter().zip(&self.spec.layers).enumerate() {
            if journey.changes(i) {
                let embed = |rows: Range<usize>, x: &mut [f32]| self.embed(&tokens[rows], x);
                journey.pass(i, hidden, segments, &mut s.x, embed).map_err(refused)?;
            }
            if s.x.is_empty() {
                continue;
            }
            self.attention(cache, &mut journey.of_layer(segments, i), i, layer, spec, s)?;
            if i == last {
                // Beyond the last attention, rows whose logits nobody wants are not needed.
                keep_rows(&mut s.x, hidden, &wanted);
                keep_rows(&mut s.attended, self.spec.q_width(), &wanted);
            }
            self.after_attention(layer, s);
            self.feed_forward(layer, spec, s);
        }
        cache.advance(segments);
        Ok(self.logits(s))
    }

    /// Embeddings of tokens, `[tokens][hidden]`.
    fn embed(&self, tokens: &[u32], x: &mut [f32]) {
        let hidden = self.spec.hidden;
        self.rows(x, hidden, |rows, x| {
            for (token, x) in tokens[rows].iter().zip(x.chunks_exact_mut(hidden)) {
                self.embedding.row(*token as usize, x);
            }
            if let Some(scale) = self.spec.embedding_scale {
                ops::scale_assign(self.isa, x, scale);
            }
        });
    }

    /// From the residual stream to attention's output.
    fn attention(
        &self,
        cache: &KvCache,
        segments: &mut [Segment<'_>],
        index: usize,
        layer: &Layer,
        spec: &LayerSpec,
        s: &mut Scratch,
    ) -> Result<(), ModelError> {
        let rows = s.x.len() / self.spec.hidden;
        show_hidden(segments, index, &s.x, self.spec.hidden);
        let (dim, q_width, kv_width) = (self.spec.head_dim, self.spec.q_width(), self.spec.kv_width());
        self.norm(&s.x, &layer.attention_norm, sized(&mut s.h, rows * self.spec.hidden));
        let (q, k) = (sized(&mut s.q, rows * q_width), sized(&mut s.k, rows * kv_width));
        let v = sized(&mut s.v, rows * kv_width);
        match &layer.qkv {
            Joint::One(one) => {
                let width = q_width + 2 * kv_width;
                let joint = sized(&mut s.joint, rows * width);
                one.forward(self.isa, &self.team, &s.h, joint);
                let joint = &*joint;
                for (out, width_out, from) in
                    [(&mut *q, q_width, 0), (&mut *k, kv_width, q_width), (&mut *v, kv_width, q_width + kv_width)]
                {
                    for (out, row) in out.chunks_exact_mut(width_out).zip(joint.chunks_exact(width)) {
                        out.copy_from_slice(&row[from..from + width_out]);
                    }
                }
            }
            Joint::Parts(parts) => {
                for (part, out) in parts.iter().zip([&mut *q, &mut *k, &mut *v]) {
                    part.forward(self.isa, &self.team, &s.h, out);
                }
            }
        }
        // Heads are rows of their own here. The norm wants another place to write to.
        for (weight, x) in [(&layer.q_norm, &mut s.q), (&layer.k_norm, &mut s.k)] {
            if let Some(weight) = weight {
                debug_assert!(spec.qk_norm && weight.len() == dim);
                self.norm(x, weight, sized(&mut s.joint, x.len()));
                std::mem::swap(x, &mut s.joint);
            }
        }
        let attended = sized(&mut s.attended, rows * q_width);
        cache.attend(index, segments, &s.q, &s.k, &s.v, attended).map_err(refused)
    }

    /// Attention's output projection, into the residual stream.
    fn after_attention(&self, layer: &Layer, s: &mut Scratch) {
        self.project(&layer.output, &s.attended, &mut s.y);
        self.add_to_stream(layer.post_attention_norm.as_deref(), s);
    }

    fn feed_forward(&self, layer: &Layer, spec: &LayerSpec, s: &mut Scratch) {
        let (hidden, width) = (self.spec.hidden, self.spec.intermediate);
        let rows = s.x.len() / hidden;
        self.norm(&s.x, &layer.ffn_norm, sized(&mut s.h, rows * hidden));
        let joint = sized(&mut s.joint, rows * 2 * width);
        let gated = sized(&mut s.gated, rows * width);
        match &layer.gate_up {
            Joint::One(one) => {
                one.forward(self.isa, &self.team, &s.h, joint);
                let joint = &*joint;
                self.rows(gated, width, |rows, gated| {
                    let joint = joint[rows.start * 2 * width..].chunks_exact(2 * width);
                    for (out, row) in gated.chunks_exact_mut(width).zip(joint) {
                        let (gate, up) = row.split_at(width);
                        self.gate(spec.activation, gate, up, out);
                    }
                });
            }
            Joint::Parts(parts) => {
                let (gate, up) = joint.split_at_mut(rows * width);
                for (part, out) in parts.iter().zip([&mut *gate, &mut *up]) {
                    part.forward(self.isa, &self.team, &s.h, out);
                }
                let (gate, up) = (&*gate, &*up);
                self.rows(gated, width, |rows, out| {
                    let at = rows.start * width..rows.end * width;
                    self.gate(spec.activation, &gate[at.clone()], &up[at], out);
                });
            }
        }
        self.project(&layer.down, &s.gated, &mut s.y);
        self.add_to_stream(layer.post_ffn_norm.as_deref(), s);
    }

    fn gate(&self, activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
        match activation {
            Activation::Silu => ops::silu_mul(self.isa, gate, up, out),
            Activation::GeluTanh => ops::gelu_tanh_mul(self.isa, gate, up, out),
            Activation::GeluErf => ops::gelu_erf_mul(self.isa, gate, up, out),
        }
    }

    fn project(&self, linear: &Linear, x: &[f32], y: &mut Vec<f32>) {
        let rows = x.len() / linear.inp();
        linear.forward(self.isa, &self.team, x, sized(y, rows * linear.out()));
    }

    /// `x += y`, or `x += norm(y)`.
    fn add_to_stream(&self, norm: Option<&[f32]>, s: &mut Scratch) {
        if let Some(weight) = norm {
            self.norm(&s.y, weight, sized(&mut s.h, s.y.len()));
            std::mem::swap(&mut s.h, &mut s.y);
        }
        let (y, hidden) = (&s.y, self.spec.hidden);
        self.rows(&mut s.x, hidden, |rows, x| {
            ops::add_assign(self.isa, x, &y[rows.start * hidden..rows.end * hidden]);
        });
    }

    /// Norm of every row of `weight.len()` elements.
    fn norm(&self, x: &[f32], weight: &[f32], out: &mut [f32]) {
        let width = weight.len();
        self.rows(out, width, |rows, out| {
            ops::rms_norm(self.isa, &x[rows.start * width..rows.end * width], weight, self.spec.norm_eps, out);
        });
    }

    /// Logits of the rows that are left in the residual stream.
    fn logits(&self, s: &mut Scratch) -> Vec<f32> {
        let rows = s.x.len() / self.spec.hidden;
        self.norm(&s.x, &self.final_norm, sized(&mut s.h, s.x.len()));
        let mut logits = vec![0.0; rows * self.spec.vocab];
        self.head.forward(self.isa, &self.team, &s.h, &mut logits);
        if let Some(cap) = self.spec.logit_softcap {
            self.rows(&mut logits, self.spec.vocab, |_, out| ops::softcap_assign(self.isa, out, cap));
        }
        logits
    }

    /// Runs `f(range of rows, their part of out)` over rows of `width`, on several threads where that is worth it.
    fn rows(&self, out: &mut [f32], width: usize, f: impl Fn(Range<usize>, &mut [f32]) + Sync) {
        let rows = out.len() / width.max(1);
        let threads = self.team.threads();
        if threads == 1 || out.len() < 2 * WORTH_SHARING {
            return f(0..rows, out);
        }
        let each = rows.div_ceil(threads * 4).max(WORTH_SHARING.div_ceil(width));
        let parts: Vec<Mutex<&mut [f32]>> = out.chunks_mut(each * width).map(Mutex::new).collect();
        self.team.for_each(parts.len(), |i| {
            if let Some(part) = parts.get(i) {
                let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
                f(i * each..i * each + part.len() / width, &mut part);
            }
        });
    }
}

/// Norms of the hidden states that go into a layer, for the sequences whose recipes look at them.
fn show_hidden(segments: &mut [Segment<'_>], layer: usize, x: &[f32], hidden: usize) {
    let mut rest = x;
    for segment in segments {
        let own;
        (own, rest) = rest.split_at(segment.rows * hidden);
        if segment.seq.wants_hidden() {
            let norms = own.chunks_exact(hidden).map(|row| row.iter().map(|x| x * x).sum::<f32>().sqrt());
            segment.seq.saw_hidden(layer, &norms.collect::<Vec<f32>>());
        }
    }
}

/// Keeps the named rows, in that order; one may be named twice.
fn keep_rows(buffer: &mut Vec<f32>, width: usize, rows: &[usize]) {
    let identity = rows.len() * width == buffer.len() && rows.iter().enumerate().all(|(i, r)| i == *r);
    if !identity {
        *buffer = rows.iter().flat_map(|r| buffer[r * width..(r + 1) * width].iter().copied()).collect();
    }
}

fn refused(e: KvError) -> ModelError {
    ModelError::Forward { reason: e.to_string() }
}

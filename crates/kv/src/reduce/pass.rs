//! Passes of the model over a context: methods that look at it again before it is reduced (KVzip), or whose upper layers see
//! only some of its rows (FastKV, UNComp).
//!
//! The cache says which rows are next and which layers they go through; whoever runs the model asks after each step
//! ([`SequenceKv::pass_tokens`], [`SequenceKv::layers`]).

use super::{Pending, Reduction};
use crate::allot::top;
use crate::pool::ledger::{Purpose, Reservation};
use crate::{KvCache, KvError, SequenceKv};
use std::ops::Range;

/// What a method wants computed over a context.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Passes {
    /// It is read once, by all layers.
    #[default]
    Once,
    /// Afterwards it is read again, a chunk of so many tokens at a time, each after a request to repeat it. What these rows
    /// leave in the cache is gone when they are through.
    Repeat {
        /// Tokens of a chunk.
        chunk: usize,
    },
    /// Layers above some see fewer rows.
    Stages(Vec<Stage>),
}

impl Passes {
    /// Rows that lie behind a context while parts of it are read again, where asking for one takes at most so many.
    pub(crate) fn rows_again(&self, context: usize, asking: usize) -> usize {
        match self {
            Passes::Repeat { chunk } => asking + (*chunk).min(context),
            Passes::Once | Passes::Stages(_) => 0,
        }
    }
}

/// From some layer on only the rows that its own scores put first go up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// The last layer that sees more; where `None`, as deep as FastKV's 15 of 32.
    pub after: Option<usize>,
    /// Rows beyond it: a fixed number, and a share of those of the context beyond that number.
    pub fixed: usize,
    /// See [`Stage::fixed`].
    pub share: f64,
}

impl Stage {
    /// For a model of so many layers and a context of so many tokens, at least `least` of which go on.
    fn cut(self, layers: usize, context: usize, least: usize) -> Cut {
        let rows = self.fixed.min(context) + (context.saturating_sub(self.fixed) as f64 * self.share) as usize;
        Cut { after: self.after.unwrap_or(layers * 15 / 32), rows: rows.max(least).max(1) }
    }
}

/// A stage of one model and one context.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// The last layer that sees more rows.
    after: usize,
    /// Rows beyond it.
    rows: usize,
}

/// How a model is asked to repeat a part of what it has read, in its tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Before the first chunk.
    pub first: Vec<u32>,
    /// Before each of the others; the last tokens of the chunk before follow.
    pub further: Vec<u32>,
    /// Between the request and the chunk.
    pub suffix: Vec<u32>,
}

/// Tokens of the chunk before that say where a chunk begins.
const TAIL: usize = 8;

impl Words {
    /// Tokens of a request for the part that begins there.
    fn len(&self, start: usize) -> usize {
        let asked = if start == 0 { self.first.len() } else { self.further.len() + TAIL.min(start) };
        asked + self.suffix.len()
    }

    /// Tokens of the longest request.
    pub(crate) fn longest(&self) -> usize {
        self.len(0).max(self.len(TAIL))
    }

    fn write(&self, context: &[u32], chunk: Range<usize>) -> Vec<u32> {
        let mut tokens = match chunk.start {
            0 => self.first.clone(),
            start => [&self.further[..], &context[start - TAIL.min(start)..start]].concat(),
        };
        tokens.extend_from_slice(&self.suffix);
        tokens.extend_from_slice(&context[chunk]);
        tokens
    }
}

/// Where a sequence is.
#[derive(Debug, Default)]
pub(crate) enum Pass {
    /// The context is read, by all layers.
    #[default]
    Context,
    /// A part of it is read again.
    Repeat(Range<usize>),
    /// Only some layers read it.
    Stage(Above),
}

/// Layers that read some rows of the context.
#[derive(Debug)]
pub(crate) struct Above {
    stages: Vec<Cut>,
    /// Which of the stages ends this pass; past the last where none does.
    stage: usize,
    /// Positions of the rows; all of the context where empty.
    rows: Vec<u32>,
    /// What goes into the first layer, `[rows][hidden]`; embeddings where there is nothing.
    input: Vec<f32>,
    /// What has come out of the last layer so far.
    output: Vec<f32>,
    _bytes: Reservation,
}

impl Above {
    /// For a context of `tokens`, where any stage leaves something out.
    pub(super) fn begin(
        cache: &KvCache,
        stages: &[Stage],
        tokens: usize,
        least: usize,
    ) -> Result<Option<Above>, KvError> {
        let layers = &cache.config().layers;
        let mut chosen = Vec::<Cut>::new();
        for cut in stages.iter().map(|stage| stage.cut(layers.len(), tokens, least)) {
            // A window counts the tokens that a layer has seen, so such layers see them all.
            let scored = layers.get(cut.after..).is_some_and(|above| above.iter().all(|g| g.window.is_none()));
            let fewer = chosen.last().map_or(cut.rows < tokens, |last| last.after < cut.after && cut.rows < last.rows);
            if scored && fewer && cut.after + 1 < layers.len() {
                chosen.push(cut);
            }
        }
        if chosen.is_empty() {
            return Ok(None);
        }
        // Input and output of a pass; the model's width is that of its attention, as far as the cache can know.
        let hidden = layers.iter().map(|g| g.heads * g.head_dim).max();
        let bytes = 2 * 4 * tokens * hidden.unwrap_or(0);
        let _bytes = cache.ledger().reserve(Purpose::Scratch, bytes as u64)?;
        let (rows, input, output) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Some(Above { stages: chosen, stage: 0, rows, input, output, _bytes }))
    }

    /// Layers of this pass, of so many.
    fn layers(&self, layers: usize) -> Range<usize> {
        let first = self.stage.checked_sub(1).map_or(0, |before| self.stages[before].after + 1);
        first..self.stages.get(self.stage).map_or(layers, |cut| cut.after + 1)
    }
}

impl SequenceKv {
    /// What the next steps must read before anything else: the rest of a pass over the `context`, or the next rows that are
    /// mended in it, as tokens; nothing where neither is under way. Rows of a pass through upper layers have tokens too, which
    /// are not looked at.
    pub fn pass_tokens(&self, context: &[u32]) -> Vec<u32> {
        if let Some(rows) = self.mended() {
            return rows.iter().map(|&row| context.get(row as usize).copied().unwrap_or_default()).collect();
        }
        let Some(pending) = &self.pending else { return Vec::new() };
        let left = pending.at - self.len;
        match &pending.pass {
            Pass::Repeat(chunk) => {
                let mut tokens = self.words.write(context, chunk.clone());
                tokens.split_off(tokens.len() - left.min(tokens.len()))
            }
            Pass::Stage(above) if above.stage > 0 => {
                let tokens = |&position: &u32| context.get(position as usize).copied().unwrap_or_default();
                above.rows[above.rows.len() - left..].iter().map(tokens).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Rows that [`SequenceKv::pass_tokens`] has.
    pub fn pass_rows(&self) -> usize {
        if let Some(rows) = self.mended() {
            return rows.len();
        }
        match &self.pending {
            Some(Pending { at, pass: Pass::Repeat(_), .. }) => at - self.len,
            Some(Pending { at, pass: Pass::Stage(above), .. }) if above.stage > 0 => at - self.len,
            _ => 0,
        }
    }

    /// Whether logits of the last of the next `rows` say what follows on all tokens so far: not while a part of the context is
    /// read again or mended, nor where rows end below the last layer.
    pub fn answers(&self, rows: usize) -> bool {
        if self.mend.is_some() {
            return false;
        }
        let layers = self.plan.lanes.len();
        match self.pending.as_ref().map(|pending| (pending.at - self.len, &pending.pass)) {
            Some((_, Pass::Repeat(_))) => false,
            Some((left, Pass::Stage(above))) => above.layers(layers).end == layers && left == rows,
            _ => true,
        }
    }

    /// Rows that passes over its context may add to it for a while.
    pub(crate) fn rows_again(&self) -> usize {
        match &self.pending {
            Some(Pending { keep, pass: Pass::Context, context, at, .. }) if at == context => {
                keep.method.passes().rows_again(*context, self.words.longest())
            }
            _ => 0,
        }
    }

    /// Layers that the next step goes through.
    pub fn layers(&self) -> Range<usize> {
        if let Some(layers) = self.mended_layers() {
            return layers;
        }
        let layers = self.plan.lanes.len();
        match self.pending.as_ref().map(|pending| &pending.pass) {
            Some(Pass::Stage(above)) => above.layers(layers),
            _ => 0..layers,
        }
    }

    /// What goes into the first of its layers in the next step of `rows`, where that is not the embedding: `[rows][hidden]`.
    pub fn carried(&self, rows: usize, hidden: usize) -> Option<&[f32]> {
        if self.mend.is_some() {
            return self.mended_input(rows, hidden);
        }
        match self.pending.as_ref() {
            Some(Pending { at, pass: Pass::Stage(above), .. }) if above.stage > 0 => {
                let first = above.rows.len() - (at - self.len);
                above.input.get(first * hidden..(first + rows) * hidden)
            }
            _ => None,
        }
    }

    /// What came out of the last of its layers, where there are further ones.
    pub fn carry(&mut self, rows: &[f32]) {
        self.mended_output(rows);
        if let Some(Pending { pass: Pass::Stage(above), .. }) = &mut self.pending {
            above.output.extend_from_slice(rows);
        }
    }

    /// The chunk that is read again, if one is, and the tokens of the context.
    pub(crate) fn repeats(&self) -> Option<(Range<usize>, usize)> {
        match &self.pending {
            Some(Pending { pass: Pass::Repeat(chunk), context, .. }) => Some((chunk.clone(), *context)),
            _ => None,
        }
    }

    /// Tokens of the context while parts of it go through some layers only.
    pub(crate) fn staged(&self) -> Option<usize> {
        match &self.pending {
            Some(Pending { pass: Pass::Stage(_), context, .. }) => Some(*context),
            _ => None,
        }
    }
}

impl KvCache {
    /// Goes on to the next pass over the context of a sequence that has reached the end of one. Whether there is one.
    pub(super) fn next_pass(&self, seq: &mut SequenceKv, pending: &mut Pending) -> Result<bool, KvError> {
        match pending.keep.method.passes() {
            Passes::Repeat { chunk } => self.next_chunk(seq, pending, chunk),
            _ => self.next_stage(seq, pending),
        }
    }

    /// The next part of the context that is read again.
    fn next_chunk(&self, seq: &mut SequenceKv, pending: &mut Pending, chunk: usize) -> Result<bool, KvError> {
        let start = match &pending.pass {
            Pass::Repeat(done) => done.end,
            _ => 0,
        };
        self.go_back(seq, pending.context)?;
        let part = start..(start + chunk).min(pending.context);
        let more = !part.is_empty();
        (pending.at, pending.pass) = match more {
            true => (pending.context + seq.words.len(start) + part.len(), Pass::Repeat(part)),
            false => (pending.context, Pass::Context),
        };
        Ok(more)
    }

    /// The layers above those that have read their rows.
    fn next_stage(&self, seq: &mut SequenceKv, pending: &mut Pending) -> Result<bool, KvError> {
        let Pass::Stage(mut above) = std::mem::take(&mut pending.pass) else { return Ok(false) };
        let Some(&cut) = above.stages.get(above.stage) else { return Ok(false) };
        let places = self.rows_above(seq, pending, cut);
        let hidden = above.output.len() / if above.rows.is_empty() { pending.context } else { above.rows.len() };
        let row = |place: &u32| &above.output[*place as usize * hidden..][..hidden];
        above.input = places.iter().flat_map(|place| row(place).iter().copied()).collect();
        above.output = Vec::new();
        above.rows = match above.rows.is_empty() {
            true => places,
            false => places.iter().map(|&place| above.rows[place as usize]).collect(),
        };
        for (layer, g) in self.config().layers.iter().enumerate().skip(cut.after + 1) {
            for head in 0..g.kv_heads {
                seq.lane_mut(layer, head).admit(&above.rows, pending.context, self.pool())?;
            }
        }
        above.stage += 1;
        seq.len = pending.context - above.rows.len();
        pending.pass = Pass::Stage(above);
        Ok(true)
    }

    /// Which rows of the pass go further up: those that all heads of its last layer together put first.
    fn rows_above(&self, seq: &SequenceKv, pending: &Pending, cut: Cut) -> Vec<u32> {
        let layers = &self.config().layers;
        let reduction = Reduction::new(pending, layers, seq.len, &seq.spans, &seq.plan);
        let start = self.layer_start()[cut.after];
        let lanes = &seq.lanes[start..start + layers[cut.after].kv_heads];
        let scores = pending.keep.method.scores(&reduction.scene(self.isa(), cut.after, lanes));
        let slots = scores.first().map_or(0, Vec::len);
        let sums: Vec<f32> = (0..slots).map(|slot| scores.iter().map(|head| head[slot]).sum()).collect();
        top(&sums, cut.rows)
    }
}

//! **observe**: what attention leaves behind for those that score, and only where a recipe asks.
//!
//! A method says what it wants to see ([`Wish`]); a sequence gathers that and nothing else. A sequence whose recipe asks for
//! nothing keeps nothing.

mod chunks;
mod moments;
mod probes;

use crate::pool::ledger::{Ledger, Purpose, Reservation};
use crate::{KvError, LayerGeometry};
use cachalot_kernels::Team;
pub use chunks::ChunkMass;
pub(crate) use chunks::{Chunks, Part};
pub(crate) use moments::Moments;
use probes::probes;
use std::ops::Range;
use std::sync::Mutex;

/// What a method wants to see of the attention before it scores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wish {
    /// The last so many query rows.
    pub rows: usize,
    /// What every token receives.
    pub columns: Option<Columns>,
    /// Mean and covariance of the queries before rotary position.
    pub moments: bool,
    /// Norms of the hidden states that go into each layer.
    pub hidden: bool,
}

impl Wish {
    /// The last `rows` query rows.
    pub fn rows(rows: usize) -> Wish {
        Wish { rows, ..Wish::default() }
    }

    /// What every token receives.
    pub fn columns(gather: Gather, last: Last) -> Wish {
        Wish { columns: Some(Columns { gather, last }), ..Wish::default() }
    }

    /// What both want, where they agree about the columns; the first's columns otherwise.
    pub fn and(self, other: Wish) -> Wish {
        Wish {
            rows: self.rows.max(other.rows),
            columns: self.columns.or(other.columns),
            moments: self.moments || other.moments,
            hidden: self.hidden || other.hidden,
        }
    }

    /// Heads of a layer whose columns are gathered.
    fn lanes(self, g: &LayerGeometry) -> usize {
        if self.columns.is_some() && g.window.is_none() { g.kv_heads } else { 0 }
    }

    /// Whether there is nothing to see.
    pub fn is_nothing(self) -> bool {
        self == Wish::default()
    }
}

/// What is gathered for every token over the query rows that see it, all query heads of its KV head together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Columns {
    /// How.
    pub gather: Gather,
    /// Over which rows.
    pub last: Last,
}

/// How the attention of many rows to one token becomes one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gather {
    /// The sum.
    Sum,
    /// The largest.
    Max,
    /// The largest share of any row that reads a part of the context again, among that part, the first tokens and the rows
    /// themselves.
    Repeated,
    /// The number of rows that give less than an equal share.
    Below,
    /// The sum of softmaxes of logits with Gumbel noise; the temperature is one for the context and grows by `warming` with
    /// every token after it.
    Noisy {
        /// Seed of the noise.
        seed: u64,
        /// What a token adds to the temperature.
        warming: f32,
    },
}

/// Query rows of a context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Last {
    /// All.
    All,
    /// So many at the end.
    Rows(usize),
    /// This share at the end.
    Share(f64),
    /// This share at the end of the context, and of the rows before as large a part, each drawn by its position; all that come
    /// after the context.
    Probes(f64),
}

impl Last {
    /// The first of these rows, of so many.
    fn first(self, rows: usize) -> usize {
        match self {
            Last::All | Last::Probes(_) => 0,
            Last::Rows(last) => rows.saturating_sub(last),
            Last::Share(share) => rows - (rows as f64 * share) as usize,
        }
    }
}

/// What one sequence has gathered.
#[derive(Debug)]
pub(crate) struct Observed {
    wish: Wish,
    /// Tokens of the context.
    context: usize,
    /// Rows before this one are not looked at for columns.
    first: usize,
    /// Positions of the rows of the context that are, where it is not all from there on; ascending.
    probes: Option<Vec<u32>>,
    /// Query rows, `[layer]`, each `[row][kv_head][group][width]`, oldest first, rotated and scaled.
    rows: Vec<Vec<f32>>,
    /// `[layer][kv_head][slot]`.
    columns: Vec<Vec<Vec<f64>>>,
    /// `[layer]`, where asked for.
    moments: Vec<Moments>,
    /// Norms of hidden states, `[layer][position]`, where asked for.
    hidden: Vec<Vec<f32>>,
    /// A number that a method carries from one reduction to the next, `[layer]`.
    memory: Vec<Mutex<f64>>,
    held: Reservation,
}

impl Observed {
    /// Bytes of what a method wants to see of a context of `tokens`, and of `more` after it.
    pub fn bytes(wish: Wish, tokens: usize, more: usize, layers: &[LayerGeometry]) -> usize {
        let all = tokens + more;
        let layer = |g: &LayerGeometry| {
            let moments = if wish.moments { Moments::bytes(g) } else { 0 };
            let hidden = if wish.hidden { 4 * all } else { 0 };
            4 * wish.rows.min(all) * g.heads * g.width() + 8 * wish.lanes(g) * all + moments + hidden
        };
        let probes = match wish.columns.map(|columns| columns.last) {
            Some(Last::Probes(share)) => 4 * probes(tokens, share).len(),
            _ => 0,
        };
        layers.iter().map(layer).sum::<usize>() + probes
    }

    /// Room for what a method wants to see of a context of `tokens`, and of `more` after it.
    pub fn new(
        wish: Wish,
        tokens: usize,
        more: usize,
        layers: &[LayerGeometry],
        ledger: &Ledger,
    ) -> Result<Observed, KvError> {
        let wish = Wish { rows: wish.rows.min(tokens + more), ..wish };
        let held = ledger.reserve(Purpose::Scratch, Observed::bytes(wish, tokens, more, layers) as u64)?;
        let probes = wish.columns.and_then(|columns| match columns.last {
            Last::Probes(share) => Some(probes(tokens, share)),
            _ => None,
        });
        let columns = |g: &LayerGeometry| (0..wish.lanes(g)).map(|_| Vec::with_capacity(tokens + more)).collect();
        let moments = layers.iter().filter(|_| wish.moments).map(Moments::new).collect();
        Ok(Observed {
            wish,
            context: tokens,
            first: wish.columns.map_or(0, |columns| columns.last.first(tokens)),
            probes,
            rows: vec![Vec::new(); layers.len()],
            columns: layers.iter().map(columns).collect(),
            moments,
            hidden: vec![Vec::new(); layers.len()],
            memory: layers.iter().map(|_| Mutex::new(f64::NAN)).collect(),
            held,
        })
    }

    /// The same for a branch of the sequence.
    pub fn copy(&self, ledger: &Ledger) -> Result<Observed, KvError> {
        let held = ledger.reserve(Purpose::Scratch, self.held.bytes())?;
        let memory = self.memory.iter().map(|cell| Mutex::new(*lock(cell))).collect();
        Ok(Observed {
            rows: self.rows.clone(),
            columns: self.columns.clone(),
            moments: self.moments.clone(),
            hidden: self.hidden.clone(),
            probes: self.probes.clone(),
            memory,
            held,
            ..*self
        })
    }

    /// Tokens at the start of a context whose queries and hidden states are not looked at.
    pub fn unobserved(&self, context: usize) -> usize {
        if self.wish.moments || self.wish.hidden {
            return 0;
        }
        let columns = match self.wish.columns {
            Some(Columns { gather: Gather::Repeated, .. }) | None => context,
            Some(_) => self.first,
        };
        columns.min(context.saturating_sub(self.wish.rows))
    }

    /// Of rows at these positions those that columns are gathered over, counted from the first of them.
    pub fn looked_at(&self, positions: Range<usize>) -> Looked<'_> {
        match &self.probes {
            None => Looked::From(self.first.clamp(positions.start, positions.end) - positions.start),
            // Steps do not reach beyond the context.
            Some(_) if positions.start >= self.context => Looked::From(0),
            Some(probes) => {
                let [from, to] = [positions.start, positions.end].map(|end| before(probes, end));
                Looked::Some { first: positions.start, probes: &probes[from..to] }
            }
        }
    }

    /// Rows of `tokens`, counted from the start of the sequence, that see what is at a position and were looked at.
    pub fn observers(&self, position: usize, tokens: usize) -> usize {
        match &self.probes {
            None => tokens - position.max(self.first).min(tokens),
            Some(probes) => {
                let after = tokens - position.max(self.context).min(tokens);
                before(probes, tokens) - before(probes, position.min(tokens)) + after
            }
        }
    }

    /// What is gathered by columns, if anything.
    pub fn gathers(&self) -> Option<Gather> {
        self.wish.columns.map(|columns| columns.gather)
    }

    /// The columns of a layer, to be added to and given back.
    pub fn take_columns(&mut self, layer: usize) -> Vec<Vec<f64>> {
        std::mem::take(&mut self.columns[layer])
    }

    /// See [`Observed::take_columns`].
    pub fn give_columns(&mut self, layer: usize, columns: Vec<Vec<f64>>) {
        self.columns[layer] = columns;
    }

    /// What every slot of a lane has received; nothing where no columns are gathered.
    pub fn column(&self, layer: usize, head: usize) -> &[f64] {
        self.columns[layer].get(head).map_or(&[], Vec::as_slice)
    }

    /// The moments of a layer's queries.
    pub fn moments(&self, layer: usize) -> Option<&Moments> {
        self.moments.get(layer)
    }

    /// Whether norms of hidden states are wanted.
    pub fn wants_hidden(&self) -> bool {
        self.wish.hidden
    }

    /// Takes in norms of the hidden states of the next tokens.
    pub fn push_hidden(&mut self, layer: usize, norms: &[f32]) {
        if let Some(hidden) = self.hidden.get_mut(layer) {
            hidden.extend_from_slice(norms);
        }
    }

    /// Norms of the hidden states that went into a layer, by position; fewer than tokens where nobody gave them.
    pub fn hidden(&self, layer: usize) -> &[f32] {
        self.hidden.get(layer).map_or(&[], Vec::as_slice)
    }

    /// What a method remembers of a layer; not-a-number at first.
    pub fn memory(&self, layer: usize) -> &Mutex<f64> {
        &self.memory[layer]
    }

    /// Takes in the queries of a step: `count` rows from `first` of `q`, `[kv_head][rows][group][width]`.
    pub fn push(&mut self, layer: usize, g: &LayerGeometry, q: &[f32], rows: usize, first: usize, count: usize) {
        let (len, each) = (g.heads * g.width(), g.group() * g.width());
        let kept = &mut self.rows[layer];
        kept.reserve_exact(self.wish.rows * len - kept.len());
        let new = count.min(self.wish.rows);
        let stale = (kept.len() / len + new).saturating_sub(self.wish.rows);
        kept.drain(..stale * len);
        for row in first + count - new..first + count {
            for head in 0..g.kv_heads {
                kept.extend_from_slice(&q[(head * rows + row) * each..][..each]);
            }
        }
    }

    /// Takes in queries before rotary position, `[rows][heads * head_dim]`.
    pub fn push_plain(&mut self, layer: usize, g: &LayerGeometry, q: &[f32], position: usize, team: &Team) {
        if let Some(moments) = self.moments.get_mut(layer) {
            moments.push(g, q, position, team);
        }
    }

    /// The rows of a layer that one KV head answers, `[row][group][width]`.
    pub fn of_head(&self, layer: usize, g: &LayerGeometry, head: usize) -> Vec<f32> {
        let (len, each) = (g.heads * g.width(), g.group() * g.width());
        self.rows[layer].chunks_exact(len).flat_map(|row| row[head * each..][..each].iter().copied()).collect()
    }

    /// After a reduction: what belongs to the slots that stayed, `kept[layer]` for each of its heads.
    pub fn keep(&mut self, layer: usize, head: usize, kept: &[u32]) {
        if let Some(column) = self.columns[layer].get_mut(head).filter(|column| !column.is_empty()) {
            // Tokens that came when nothing was gathered have no number.
            *column = kept.iter().map(|&slot| column.get(slot as usize).copied().unwrap_or(f64::NAN)).collect();
        }
    }
}

pub(crate) fn lock<T>(cell: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    cell.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How many probes are before a position.
fn before(probes: &[u32], position: usize) -> usize {
    probes.partition_point(|&probe| (probe as usize) < position)
}

/// Rows that columns are gathered over.
pub(crate) enum Looked<'a> {
    /// All from this one on.
    From(usize),
    /// Those at the positions of `probes`; row 0 is at `first`.
    Some {
        /// Position of the first row.
        first: usize,
        /// Ascending.
        probes: &'a [u32],
    },
}

//! Making a profile: rows are collected while a model reads a text with an exact cache, then every pipeline is walked
//! stage by stage, each stage seeing its lane's rows as the stages before it leave them.

use super::error::Lane;
use super::plan::{Assembly, Builder};
use super::{Bits, KeepSpec, Measure, Recipe, RecipeError, search};
use crate::allot::heads::TENSOR;
use crate::encode::codec::{Hints, Item, Part, Shape, Side};
use crate::encode::stage::{Args, Built, NamedTensor, Samples, StageSpec, Tensors};
use crate::{CachePlan, LayerGeometry, Recorder, Segment};
use cachalot_kernels::Team;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Every so many positions, queries are kept: neighbours say nearly the same.
const QUERY_STRIDE: usize = 8;

/// Rows of random numbers of a synthetic profile.
const SYNTHETIC_ROWS: usize = 4 * PAGE_TOKENS;

/// Collects what [`calibrate`] needs.
pub struct Collector {
    layers: Vec<LayerGeometry>,
    /// First tokens of a sequence that are left out: a recipe that keeps them exact must not fit them.
    skip: usize,
    rows: Vec<Mutex<LayerRows>>,
}

/// Rows of one layer, all heads side by side as the model gives them, before rotary position.
#[derive(Default)]
struct LayerRows {
    positions: Vec<usize>,
    k: Vec<f32>,
    v: Vec<f32>,
    query_positions: Vec<usize>,
    q: Vec<f32>,
}

/// One lane's rows of the beginning of a text, rotated.
pub(super) struct Beginning {
    pub positions: Vec<usize>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub query_positions: Vec<usize>,
    /// `[query_positions][group][head_dim]`.
    pub q: Vec<f32>,
}

impl Collector {
    /// For a model with these layers; the first `skip` tokens of every sequence are left out.
    pub fn new(layers: Vec<LayerGeometry>, skip: usize) -> Collector {
        let rows = layers.iter().map(|_| Mutex::default()).collect();
        Collector { layers, skip, rows }
    }

    /// Key rows of each lane so far.
    pub fn rows(&self) -> usize {
        let first = self.rows.first();
        first.map_or(0, |rows| rows.lock().unwrap_or_else(PoisonError::into_inner).positions.len())
    }

    pub(super) fn layers(&self) -> &[LayerGeometry] {
        &self.layers
    }

    /// The first tokens of the first text, as one lane has them.
    pub(super) fn beginning(&self, layer: usize, head: usize, most: usize) -> Beginning {
        let (mut k, mut q) = self.samples(Lane { layer, head, side: Side::Keys }, true);
        let (mut v, _) = self.samples(Lane { layer, head, side: Side::Values }, true);
        let g = &self.layers[layer];
        let rows = self.rows[layer].lock().unwrap_or_else(PoisonError::into_inner);
        // Positions grow within a text, and start again with the next.
        let run =
            |positions: &[usize]| positions.windows(2).position(|w| w[1] <= w[0]).map_or(positions.len(), |i| i + 1);
        let positions = rows.positions[..run(&rows.positions).min(most)].to_vec();
        let mut query_positions = rows.query_positions[..run(&rows.query_positions)].to_vec();
        query_positions.retain(|position| positions.last().is_some_and(|last| position <= last));
        k.truncate(positions.len() * g.head_dim);
        v.truncate(positions.len() * g.head_dim);
        q.truncate(query_positions.len() * g.group() * g.head_dim);
        Beginning { positions, k, v, query_positions, q }
    }

    /// Rows and queries of one side of a lane, rotated unless they are wanted before that.
    pub(super) fn samples(&self, lane: Lane, rotated: bool) -> (Vec<f32>, Vec<f32>) {
        let g = &self.layers[lane.layer];
        let rows = self.rows[lane.layer].lock().unwrap_or_else(PoisonError::into_inner);
        let dim = g.head_dim;
        let rope = g.rope.as_ref().filter(|_| rotated && lane.side == Side::Keys);
        let table = rope.map(|rope| rope.table(rows.positions.iter().max().map_or(1, |p| p + 1)));
        let turn = |position: usize, x: &mut [f32]| {
            if let (Some(rope), Some(table)) = (rope, &table) {
                rope.rotate(table, position, x);
            }
        };
        let data = if lane.side == Side::Keys { &rows.k } else { &rows.v };
        let mut own = Vec::with_capacity(rows.positions.len() * dim);
        for (row, &position) in data.chunks_exact(g.kv_heads * dim).zip(&rows.positions) {
            own.extend_from_slice(&row[lane.head * dim..][..dim]);
            let at = own.len() - dim;
            turn(position, &mut own[at..]);
        }
        let mut queries = Vec::new();
        if lane.side == Side::Keys {
            for (row, &position) in rows.q.chunks_exact(g.heads * dim).zip(&rows.query_positions) {
                for query in row[lane.head * g.group() * dim..][..g.group() * dim].chunks_exact(dim) {
                    queries.extend_from_slice(query);
                    let at = queries.len() - dim;
                    turn(position, &mut queries[at..]);
                }
            }
        }
        (own, queries)
    }
}

impl Recorder for Collector {
    fn record(&self, layer: usize, g: &LayerGeometry, segments: &[Segment<'_>], q: &[f32], k: &[f32], v: &[f32]) {
        if layer >= self.rows.len() {
            return;
        }
        let (wide, narrow) = (g.heads * g.head_dim, g.kv_heads * g.head_dim);
        let mut rows = self.rows[layer].lock().unwrap_or_else(PoisonError::into_inner);
        let positions = segments.iter().flat_map(|segment| segment.seq.len()..segment.seq.len() + segment.rows);
        for (row, position) in positions.enumerate().filter(|&(_, position)| position >= self.skip) {
            rows.positions.push(position);
            rows.k.extend_from_slice(&k[row * narrow..][..narrow]);
            rows.v.extend_from_slice(&v[row * narrow..][..narrow]);
            if position % QUERY_STRIDE == QUERY_STRIDE - 1 {
                rows.query_positions.push(position);
                rows.q.extend_from_slice(&q[row * wide..][..wide]);
            }
        }
    }
}

/// What the walk of one lane gives.
type Walked = Result<Vec<NamedTensor>, RecipeError>;

/// Tensors made so far.
#[derive(Default)]
pub(super) struct Made(BTreeMap<String, NamedTensor>);

impl Made {
    pub fn of(tensors: impl IntoIterator<Item = NamedTensor>) -> Made {
        Made(tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect())
    }
}

#[cfg(test)]
impl Made {
    pub fn into_tensors(self) -> impl Iterator<Item = NamedTensor> {
        self.0.into_values()
    }
}

impl Tensors for Made {
    fn tensor(&self, name: &str) -> Option<(&[usize], &[f32])> {
        self.0.get(name).map(|tensor| (tensor.shape.as_slice(), tensor.data.as_slice()))
    }
}

/// The tensors of a recipe's profile, from what was collected. The same for the same seed, whatever the threads.
///
/// `progress` is told lanes done and lanes in all.
///
/// # Errors
/// What makes the recipe impossible on this model, or what a stage says of its samples.
pub fn calibrate(
    recipe: &Recipe,
    collected: &Collector,
    seed: u64,
    team: &Team,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<NamedTensor>, RecipeError> {
    let layers = &collected.layers;
    let bits = (recipe.encode.bits == Bits::Profile).then(|| search::bits(recipe, collected, team)).transpose()?;
    let sides = [Side::Keys, Side::Values];
    let lanes = (0..layers.len()).flat_map(|layer| (0..layers[layer].kv_heads).map(move |head| (layer, head)));
    let lanes: Vec<Lane> = lanes.flat_map(|(layer, head)| sides.map(|side| Lane { layer, head, side })).collect();
    let done = Mutex::new(0);
    let results: Vec<Mutex<Option<Walked>>> = lanes.iter().map(|_| Mutex::default()).collect();
    team.for_each(lanes.len(), |i| {
        let result = walk(recipe, collected, bits.as_ref(), lanes[i], seed);
        *results[i].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        *done += 1;
        progress(*done, lanes.len());
    });
    let mut tensors = Vec::from_iter(bits.clone());
    for result in results {
        if let Some(result) = result.into_inner().unwrap_or_else(PoisonError::into_inner) {
            tensors.extend(result?);
        }
    }
    Ok(tensors)
}

/// What a measure says of every head, from what was collected of a text that repeats itself after `period` tokens where the
/// measure wants that.
pub fn heads(measure: Measure, collected: &Collector, period: usize, team: &Team) -> NamedTensor {
    let layers = &collected.layers;
    let heads: Vec<(usize, usize)> =
        (0..layers.len()).flat_map(|layer| (0..layers[layer].kv_heads).map(move |head| (layer, head))).collect();
    let found: Vec<Mutex<Vec<f32>>> = heads.iter().map(|_| Mutex::default()).collect();
    team.for_each(heads.len(), |i| {
        let (layer, head) = heads[i];
        let rows = collected.beginning(layer, head, usize::MAX);
        let of_head = measure.of_head(&rows, &layers[layer], period);
        *found[i].lock().unwrap_or_else(PoisonError::into_inner) = of_head;
    });
    let found: Vec<Vec<f32>> =
        found.into_iter().map(|f| f.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
    let data = measure.table(&found);
    NamedTensor { name: TENSOR.to_owned(), shape: vec![data.len()], data }
}

/// The plan of a recipe with a profile of random numbers: for what does not depend on the numbers, such as bytes.
///
/// # Errors
/// As [`calibrate`], and what [`Recipe::plan`] finds.
pub fn synthetic(recipe: &Recipe, layers: &[LayerGeometry]) -> Result<CachePlan, RecipeError> {
    recipe.plan_with(layers, Some(&synthetic_tensors(recipe, layers)?))
}

/// Tensors for [`synthetic`].
pub(super) fn synthetic_tensors(recipe: &Recipe, layers: &[LayerGeometry]) -> Result<Made, RecipeError> {
    let collected = synthetic_rows(layers);
    let team = Team::new(std::num::NonZeroUsize::MIN);
    let mut tensors = calibrate(recipe, &collected, 0, &team, &|_, _| {})?;
    if let Some(measure) = recipe.keep.as_ref().and_then(KeepSpec::measures) {
        tensors.push(heads(measure, &collected, PAGE_TOKENS, &team));
    }
    Ok(Made::of(tensors))
}

/// What a model of random numbers would give.
pub(super) fn synthetic_rows(layers: &[LayerGeometry]) -> Collector {
    let collected = Collector::new(layers.to_vec(), 0);
    let mut state = 1u64;
    // A sum of uniform numbers is normal enough.
    let mut normal = move || {
        (0..4).fold(0.0, |sum, _| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            sum + (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        })
    };
    for (g, rows) in layers.iter().zip(&collected.rows) {
        let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fill = |count: usize, width: usize| (0..count * width).map(|_| normal()).collect::<Vec<f32>>();
        rows.positions = (0..SYNTHETIC_ROWS).collect();
        rows.query_positions = (0..SYNTHETIC_ROWS).step_by(QUERY_STRIDE).collect();
        rows.k = fill(SYNTHETIC_ROWS, g.kv_heads * g.head_dim);
        rows.v = fill(SYNTHETIC_ROWS, g.kv_heads * g.head_dim);
        rows.q = fill(SYNTHETIC_ROWS / QUERY_STRIDE, g.heads * g.head_dim);
    }
    collected
}

/// One side of one lane.
fn walk(recipe: &Recipe, collected: &Collector, bits: Option<&NamedTensor>, lane: Lane, seed: u64) -> Walked {
    let bits = bits.map(|bits| Made::of([bits.clone()]));
    let profile = bits.as_ref().map(|made| made as &dyn Tensors);
    let builder = Builder { recipe, layers: &collected.layers, profile, shared: HashMap::new() };
    let stages = builder.stages(lane.side, lane.layer, lane.head)?;
    let calibrated =
        |spec: &StageSpec| crate::encode::registry::stage(&spec.name).is_some_and(|e| e.calibrate.is_some());
    if !stages.iter().any(calibrated) {
        return Ok(Vec::new());
    }
    let seed = mix(seed, lane);
    let mut made = Made::default();
    let mut assembly = Assembly::new(&builder, lane);
    let before_rope = stages.first().is_some_and(|spec| spec.name == "before-rope");
    let (mut rows, mut queries) = collected.samples(lane, !before_rope);
    for spec in &stages {
        let entry = assembly.entry(spec)?;
        if let Some(calibrate) = entry.calibrate {
            let samples = Samples { rows: &rows, queries: &queries, seed };
            let new = calibrate(&Args::new(spec.clone()), &assembly.context(Some(&made)), &samples);
            let new = new.map_err(|error| assembly.stage_error(error))?;
            made.0.extend(new.into_iter().map(|tensor| (tensor.name.clone(), tensor)));
        }
        // A wrap hides some of the rows from the stage that it wraps.
        if let Ok(Built::Wrap(wrap)) = (entry.build)(&Args::new(spec.clone()), &assembly.context(Some(&made))) {
            let probe = Arc::new(Probe { shape: assembly.context(None).shape(), seen: Mutex::default() });
            let wrapped = wrap(probe.clone()).map_err(|error| assembly.stage_error(error))?;
            through(&*wrapped, &rows, |_| {});
            let seen = std::mem::take(&mut *probe.seen.lock().unwrap_or_else(PoisonError::into_inner));
            // One that asks its part for nothing leaves the rows as they are.
            if !seen.is_empty() {
                rows = seen;
            }
        }
        let (transforms, parts) = (assembly.transforms.len(), assembly.parts.len());
        assembly.push(spec, Some(&made))?;
        if let Some(t) = assembly.transforms.get(transforms) {
            rows = apply(&rows, t.inputs(), t.outputs(), |x, y| t.forward(x, y));
            queries = apply(&queries, t.inputs(), t.outputs(), |x, y| {
                // What it adds to every score is no part of the basis.
                t.query(x, y);
            });
        }
        if let Some(part) = assembly.parts.get(parts) {
            let mut left = Vec::with_capacity(rows.len());
            through(&**part, &rows, |residual| left.extend_from_slice(residual));
            rows = left;
        }
    }
    Ok(made.0.into_values().collect())
}

fn apply(rows: &[f32], inputs: usize, outputs: usize, mut map: impl FnMut(&[f32], &mut [f32])) -> Vec<f32> {
    let mut to = vec![0.0; rows.len() / inputs * outputs];
    rows.chunks_exact(inputs).zip(to.chunks_exact_mut(outputs)).for_each(|(x, y)| map(x, y));
    to
}

/// Writes whole pages of `rows`, and hands out what each leaves over.
fn through(part: &dyn Part, rows: &[f32], mut left: impl FnMut(&[f32])) {
    let mut bytes = vec![0; part.bytes()];
    let shape = part.shape();
    // Every token matters alike: what attention would say is not known here.
    let importance = vec![1.0; shape.tokens];
    for (page, rows) in rows.chunks_exact(shape.elements()).enumerate() {
        let hints = Hints { importance: &importance, start: page * PAGE_TOKENS };
        part.encode(rows, hints, &mut bytes);
        let mut decoded = vec![0.0; rows.len()];
        part.decode(&bytes, &mut decoded);
        decoded.iter_mut().zip(rows).for_each(|(d, x)| *d = x - *d);
        left(&decoded);
    }
}

/// A seed of its own for every lane.
fn mix(seed: u64, lane: Lane) -> u64 {
    let side = u64::from(lane.side == Side::Values);
    let mut z = seed ^ ((lane.layer as u64) << 32 | (lane.head as u64) << 1 | side).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Stands in for the part that a wrap wraps, and notes what it is asked to write.
#[derive(Debug)]
struct Probe {
    shape: Shape,
    seen: Mutex<Vec<f32>>,
}

impl Part for Probe {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        Vec::new()
    }

    fn describe(&self) -> String {
        "probe".to_owned()
    }

    fn encode(&self, x: &[f32], _: Hints<'_>, _: &mut [u8]) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(x);
    }

    fn decode(&self, _: &[u8], _: &mut [f32]) {}
}

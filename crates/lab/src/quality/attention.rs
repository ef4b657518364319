//! What a cache makes of the same queries, keys and values as the reference: the error of its attention, layer by layer and
//! head by head, before any of it goes on to the next layer.

use super::Run;
use super::record::{ItemName, Record};
use super::trial::room;
use crate::{Candidate, LabError, Subject};
use cachalot_kv::{KvCache, LayerGeometry, Recorder, Segment, SequenceKv};
use std::sync::{Arc, Mutex, PoisonError};

/// Queries, keys and values of a layer's rows.
type Rows = [Vec<f32>; 3];

/// What the model computed in the last step, by layer.
#[derive(Default)]
struct Tape(Mutex<Vec<Rows>>);

impl Recorder for Tape {
    fn record(&self, layer: usize, _: &LayerGeometry, _: &[Segment<'_>], q: &[f32], k: &[f32], v: &[f32]) {
        let mut layers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if layers.len() <= layer {
            layers.resize_with(layer + 1, Rows::default);
        }
        layers[layer] = [q.to_vec(), k.to_vec(), v.to_vec()];
    }
}

/// A cache that is shown rows.
struct Probe {
    cache: KvCache,
    seq: SequenceKv,
    /// Sums of relative errors, by layer and query head.
    sums: Vec<Vec<f64>>,
}

impl Probe {
    /// `None` where the rows of one reading are not enough: contexts that are read again or in stages, and scores that look at
    /// hidden states.
    fn new(
        subject: &Subject<'_>,
        candidate: &Arc<dyn Candidate>,
        tokens: usize,
        context: usize,
        chunk: usize,
    ) -> Result<Option<Probe>, LabError> {
        let cache = room(subject, candidate, tokens, chunk)?;
        let mut seq = cache.create();
        if context > 0 {
            cache.expect(&mut seq, context)?;
        }
        let sums = subject.layers.iter().map(|layer| vec![0.0; layer.heads]).collect();
        let whole = seq.layers().len() == subject.layers.len() && !seq.wants_hidden();
        Ok(whole.then_some(Probe { cache, seq, sums }))
    }

    /// Attention outputs of a step, by layer; nothing where the context is to be read again.
    fn step(&mut self, layers: &[Rows], rows: usize) -> Result<Option<Vec<Vec<f32>>>, LabError> {
        let Probe { cache, seq, .. } = self;
        let mut outputs: Vec<Vec<f32>> = layers.iter().map(|[q, ..]| vec![0.0; q.len()]).collect();
        let mut done = 0;
        while done < rows {
            let n = (rows - done).min(seq.rows_to_reduction());
            cache.reserve(seq, n)?;
            let segments = &mut [Segment { seq: &mut *seq, rows: n }];
            for (layer, ([q, k, v], out)) in layers.iter().zip(&mut outputs).enumerate() {
                let part = |x: &[f32]| done * x.len() / rows..(done + n) * x.len() / rows;
                let here = part(q);
                cache.attend(layer, segments, &q[here.clone()], &k[part(k)], &v[part(v)], &mut out[here])?;
            }
            cache.advance(segments);
            cache.settle(seq);
            cache.reduce(seq)?;
            if seq.pass_rows() > 0 {
                return Ok(None);
            }
            done += n;
        }
        Ok(Some(outputs))
    }

    fn compare(&mut self, own: &[Vec<f32>], reference: &[Vec<f32>], geometry: &[LayerGeometry]) {
        for (((own, reference), g), sums) in own.iter().zip(reference).zip(geometry).zip(&mut self.sums) {
            for (own, reference) in
                own.chunks_exact(g.head_dim * g.heads).zip(reference.chunks_exact(g.head_dim * g.heads))
            {
                let heads = own.chunks_exact(g.head_dim).zip(reference.chunks_exact(g.head_dim));
                sums.iter_mut().zip(heads).for_each(|(sum, (own, reference))| *sum += relative(own, reference));
            }
        }
    }
}

/// `|own - reference| / |reference|`; 0 for equal ones, also where both are nothing.
fn relative(own: &[f32], reference: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let (mut apart, mut whole) = (0.0, 0.0);
    for (&own, &reference) in own.iter().zip(reference) {
        apart += square(f64::from(own) - f64::from(reference));
        whole += square(f64::from(reference));
    }
    if apart == 0.0 { 0.0 } else { (apart / whole.max(f64::MIN_POSITIVE)).sqrt() }
}

/// One step of the model itself.
fn read_part(subject: &Subject<'_>, cache: &KvCache, seq: &mut SequenceKv, tokens: &[u32]) -> Result<(), LabError> {
    cache.reserve(seq, tokens.len())?;
    subject.decoder.forward(cache, &mut [Segment { seq, rows: tokens.len() }], tokens, &[])?;
    cache.settle(seq);
    Ok(())
}

/// Every recipe on a window's rows; errors are means over the tokens after its context.
pub(super) fn compare(
    run: &mut Run<'_>,
    name: &ItemName,
    tokens: &[u32],
    context: usize,
    recipes: &[Arc<dyn Candidate>],
) -> Result<Vec<Record>, LabError> {
    let (subject, chunk, reference) = (run.subject, run.settings.chunk, run.settings.reference.clone());
    let mut records = run.records(name, recipes);
    let refused = |e: LabError| LabError::Reference { name: reference.name().into(), reason: e.to_string() };
    let tape = Arc::new(Tape::default());
    let reader = room(subject, &reference, tokens.len(), chunk).map_err(refused)?.with_recorder(tape.clone());
    let mut read = reader.create();
    // The reference keeps everything, so there is nothing to announce.
    let exact = Probe::new(subject, &reference, tokens.len(), 0, chunk).map_err(refused)?;
    let Some(mut exact) = exact else {
        return Err(refused(LabError::Settings("it does not keep everything".into())));
    };
    let mut probes: Vec<Option<Probe>> = Vec::with_capacity(recipes.len());
    for (recipe, record) in recipes.iter().zip(&mut records[1..]) {
        probes.push(Probe::new(subject, recipe, tokens.len(), context, chunk).unwrap_or_else(|error| {
            record.failed(&error.to_string());
            None
        }));
    }
    let (mut at, mut counted) = (0, 0);
    let (beginning, rest) = tokens.split_at(context);
    for part in beginning.chunks(chunk).chain(rest.chunks(chunk)) {
        read_part(subject, &reader, &mut read, part).map_err(refused)?;
        let layers = std::mem::take(&mut *tape.0.lock().unwrap_or_else(PoisonError::into_inner));
        let outputs = exact.step(&layers, part.len()).map_err(refused)?.unwrap_or_default();
        run.advance(part.len())?;
        for (slot, record) in probes.iter_mut().zip(&mut records[1..]) {
            if let Some(probe) = slot {
                match probe.step(&layers, part.len()) {
                    Ok(Some(own)) if at >= context => probe.compare(&own, &outputs, &subject.layers),
                    Ok(Some(_)) => {}
                    Ok(None) => *slot = None,
                    Err(error) => {
                        record.failed(&error.to_string());
                        *slot = None;
                    }
                }
            }
            run.advance(part.len())?;
        }
        at += part.len();
        counted += if at > context { part.len() } else { 0 };
    }
    // Nothing was ever added to these.
    records[0].heads = exact.sums;
    for (probe, record) in probes.into_iter().zip(&mut records[1..]) {
        let mean = |sum: f64| sum / counted.max(1) as f64;
        record.heads = probe.map_or_else(Vec::new, |probe| {
            probe.sums.into_iter().map(|heads| heads.into_iter().map(mean).collect()).collect()
        });
    }
    Ok(records)
}

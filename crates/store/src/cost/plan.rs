//! Which blocks of a prompt are loaded and which are computed again.
//!
//! A block can be computed once all before it are there, and loaded at any time. So there are three spans behind what the pool
//! has: a **front** that is computed while a **middle** is loaded, and a **tail** that is computed when both are there. For
//! blocks of one size no other choice of blocks is better: of two that might change places, the later is dearer to compute and
//! as dear to load. Where pages arrive layer by layer, the tail's lower layers are computed while upper ones are still on their
//! way (as in HiCache and CacheBlend).

use super::CostModel;
use std::ops::Range;

/// Where a block can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the pool: it costs nothing.
    Pool,
    /// In a tier, coded.
    Tier {
        /// The tier, as observed.
        name: String,
        /// Bytes it is read as.
        bytes: u64,
        /// Name of its codec.
        codec: String,
        /// Bytes of its pages when decoded.
        pages: u64,
    },
}

/// A prompt to be had in memory.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// Its tokens; the last of them must be computed, as someone wants its logits.
    pub tokens: usize,
    /// Tokens of a block.
    pub block: usize,
    /// Where each of its first blocks can be had; empty for one that cannot.
    pub blocks: Vec<Vec<Source>>,
    /// Seconds until computing can begin: others are before it.
    pub compute_queue: f64,
    /// Bytes that each tier reads for others before.
    pub tier_queues: Vec<(String, u64)>,
    /// Whether a block is decoded while the next is read; else one after the other.
    pub pipelined: bool,
    /// Layers, where they can be computed as they arrive; zero where the whole middle must be there first.
    pub layers: usize,
}

/// What to do, in blocks: `..have` is there, `front` is computed while `load` is read, and the rest is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Blocks that the pool has from the start.
    pub have: usize,
    /// Blocks that are computed while others are read.
    pub front: Range<usize>,
    /// Blocks that are read, and from where.
    pub load: Vec<(Range<usize>, Source)>,
    /// Tokens that are computed at the end.
    pub tail: Range<usize>,
    /// Expected, from now until the last token is computed.
    pub seconds: f64,
    /// What else was possible.
    pub alternatives: Vec<Alternative>,
    /// For people.
    pub why: String,
}

/// A plan that was not the best, or one of its kind that was.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternative {
    /// For people.
    pub name: &'static str,
    /// Expected.
    pub seconds: f64,
}

/// The costs of a demand: seconds from now.
struct Costs<'a> {
    model: &'a CostModel,
    demand: &'a Demand,
    have: usize,
    /// Best source of each block, and seconds until its first byte.
    sources: Vec<Option<(&'a Source, f64)>>,
    /// Seconds to read all blocks before each, without latencies.
    reads: Vec<f64>,
    /// Latencies of all blocks before each that come from another tier than the one before them.
    waits: Vec<f64>,
    /// The first block from which all up to each can be had.
    reach: Vec<usize>,
}

impl<'a> Costs<'a> {
    fn new(model: &'a CostModel, demand: &'a Demand) -> Costs<'a> {
        // At least one token is left to compute.
        let most = demand.tokens.saturating_sub(1) / demand.block.max(1);
        let blocks = &demand.blocks[..demand.blocks.len().min(most)];
        let have = blocks.iter().take_while(|sources| sources.contains(&Source::Pool)).count();
        let cost = |source: &Source| match source {
            Source::Pool => (0.0, 0.0),
            Source::Tier { name, bytes, codec, pages } => {
                let (read, decode) = (model.transfer(name, *bytes), model.decode(codec, *pages));
                let queue = demand.tier_queues.iter().filter(|(tier, _)| tier == name).map(|(_, bytes)| *bytes).sum();
                let first = model.latency(name) + model.transfer(name, queue);
                (first, if demand.pipelined { read.max(decode) } else { read + decode })
            }
        };
        let mut costs =
            Costs { model, demand, have, sources: Vec::new(), reads: vec![0.0], waits: vec![0.0], reach: vec![0] };
        for (at, sources) in blocks.iter().enumerate() {
            let priced = sources.iter().map(|source| (source, cost(source)));
            let best = priced.min_by(|a, b| (a.1.0 + a.1.1).total_cmp(&(b.1.0 + b.1.1)));
            let before = at.checked_sub(1).and_then(|at| costs.sources[at]);
            let (mut read, mut wait, mut reach) = (costs.reads[at], costs.waits[at], costs.reach[at]);
            match best {
                None => reach = at + 1,
                Some((source, (first, more))) => {
                    read += more;
                    wait += if before.is_some_and(|(before, _)| !same_tier(before, source)) { first } else { 0.0 };
                }
            }
            costs.sources.push(best.map(|(source, (first, _))| (source, first)));
            costs.reads.push(read);
            costs.waits.push(wait);
            costs.reach.push(reach);
        }
        costs
    }

    fn compute(&self, from: usize, to: usize) -> f64 {
        self.model.prefill(to.saturating_sub(from), from)
    }

    /// Seconds to read blocks, and of these, latencies.
    fn load(&self, blocks: Range<usize>) -> (f64, f64) {
        if blocks.is_empty() {
            return (0.0, 0.0);
        }
        let first = self.sources[blocks.start].map_or(0.0, |(_, first)| first);
        let waits = first + self.waits[blocks.end] - self.waits[blocks.start + 1];
        (waits + self.reads[blocks.end] - self.reads[blocks.start], waits)
    }

    /// Seconds in all, with the front up to block `c` and the middle up to block `m`.
    fn total(&self, c: usize, m: usize) -> f64 {
        let Demand { tokens, block, compute_queue, layers, .. } = *self.demand;
        let front = compute_queue + self.compute(self.have * block, c * block);
        let (load, waits) = self.load(c..m);
        let tail = self.compute(m * block, tokens);
        if c == m || layers == 0 {
            return front.max(load) + tail;
        }
        let (rest, layers) = (load - waits, layers as f64);
        // Time is linear in the layer that the tail waits for, so that it is the first, the last, or none.
        (front + tail).max(waits + rest / layers + tail).max(load + tail / layers)
    }

    /// The best front for a middle that ends at `m`: computing grows with it and reading shrinks, so it is where they cross.
    fn best_front(&self, m: usize) -> usize {
        let (mut low, mut high) = (self.reach[m].max(self.have).min(m), m);
        let block = self.demand.block;
        while low < high {
            let middle = (low + high) / 2;
            let tail = self.compute(m * block, self.demand.tokens);
            let computed = self.demand.compute_queue + self.compute(self.have * block, middle * block) + tail;
            if computed >= self.total(middle, m) { high = middle } else { low = middle + 1 }
        }
        let before = low.checked_sub(1).filter(|&c| c >= self.reach[m].max(self.have));
        before.filter(|&c| self.total(c, m) < self.total(low, m)).unwrap_or(low)
    }
}

fn same_tier(a: &Source, b: &Source) -> bool {
    match (a, b) {
        (Source::Tier { name: a, .. }, Source::Tier { name: b, .. }) => a == b,
        (Source::Pool, Source::Pool) => true,
        _ => false,
    }
}

/// The fastest way to have a prompt in memory. Where reading gains nothing, nothing is read.
pub fn decide(model: &CostModel, demand: &Demand) -> Plan {
    let costs = Costs::new(model, demand);
    let have = costs.have;
    let ends = have..=costs.sources.len();
    let recompute = costs.total(have, have);
    let (mut best, mut prefix, mut least) = ((have, have), recompute, recompute);
    for m in ends {
        let c = costs.best_front(m);
        let seconds = costs.total(c, m);
        if seconds < least {
            (best, least) = ((c, m), seconds);
        }
        if costs.reach[m] <= have {
            prefix = prefix.min(costs.total(have, m));
        }
    }
    let (c, m) = best;
    let mut load: Vec<(Range<usize>, Source)> = Vec::new();
    for at in c..m {
        let Some((source, _)) = costs.sources[at] else { continue };
        match load.last_mut() {
            Some((range, Source::Tier { name, bytes, codec, pages })) => match source {
                Source::Tier { name: n, bytes: b, codec: k, pages: p } if n == name && k == codec => {
                    (range.end, *bytes, *pages) = (at + 1, *bytes + b, *pages + p);
                }
                _ => load.push((at..at + 1, source.clone())),
            },
            Some((range, Source::Pool)) if *source == Source::Pool => range.end = at + 1,
            _ => load.push((at..at + 1, source.clone())),
        }
    }
    let ms = |seconds: f64| 1e3 * seconds;
    let why = match (load.is_empty(), c > have) {
        (true, _) if costs.sources.len() == have => "there is nothing to read".to_owned(),
        (true, _) => format!("computing takes {:.1} ms, and no read makes it less", ms(recompute)),
        (false, false) => {
            format!("reading takes {:.1} ms and saves {:.1} ms", ms(costs.load(c..m).0), ms(recompute - least))
        }
        (false, true) => {
            let front = ms(costs.compute(have * demand.block, c * demand.block));
            format!(
                "{} blocks are computed in {front:.1} ms while {} are read in {:.1} ms",
                c - have,
                m - c,
                ms(costs.load(c..m).0)
            )
        }
    };
    let alternatives = vec![
        Alternative { name: "compute everything", seconds: recompute },
        Alternative { name: "read a beginning, then compute", seconds: prefix },
        Alternative { name: "compute the front while reading what is behind it", seconds: least },
    ];
    let tail = m * demand.block..demand.tokens;
    Plan { have, front: have..c, load, tail, seconds: least, alternatives, why }
}

/// How many layers must have arrived before computing begins so that it never waits, where a layer takes `compute` and
/// `load` seconds (HiCache): `ceil((L - 1)(1 - compute / load)) + 1`.
pub fn layers_before_start(layers: usize, compute: f64, load: f64) -> usize {
    match layers {
        0 => 0,
        _ if compute >= load => 1,
        _ => ((layers - 1) as f64 * (1.0 - compute / load)).ceil() as usize + 1,
    }
}

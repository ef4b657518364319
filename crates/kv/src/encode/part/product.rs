//! Product quantization: MILLION (Wang et al., 2025), after Jégou et al., 2011.

mod words;

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::math::kmeans;
use super::super::stage::{Args, Built, Context, NamedTensor, Samples, StageEntry, StageError};
use super::{fields, tiled};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::columns::DIRECT_ROWS;
use cachalot_kernels::lookup::{add_looked_up, score_tables, score_tile, tables};
use cachalot_kernels::nearest::{Codebook, Leaves, nearest_each, nearest_in};
use cachalot_kernels::simd::LANES;
use cachalot_kernels::transpose::add_transposed;
use cachalot_kernels::words::{self as side_by_side, Halves, Words};
use std::sync::Arc;
use words::{add_words, by_channel, measured};

/// Registry line.
pub(super) const STAGE: StageEntry = StageEntry {
    name: "product",
    summary: "product quantization with codebooks from a profile; product(subspaces=32 or dims=N (channels of a \
              sub-space), bits=8, iterations=25)",
    build,
    calibrate: Some(calibrate),
};

/// Query rows up to which tables of products are worth their room. They are looked up once a sub-space and row, while a
/// decoded page costs once a channel for all rows.
const TABLE_ROWS: usize = 4;

/// Sub-spaces of as many channels each; per sub-space and token the number of a word. A page is the numbers,
/// `[sub-spaces]` of `tokens` fields.
pub(super) struct Product {
    shape: Shape,
    what: String,
    subspaces: usize,
    dims: usize,
    bits: usize,
    /// Words of a sub-space, padded to vectors.
    count: usize,
    /// `[sub-spaces][words][dims]`.
    words: Vec<f32>,
    /// `[channels][count]`.
    by_channel: Vec<f32>,
    /// Of many short words: the words of every sub-space in boxes, and nothing in `by_channel`.
    leaves: Vec<Leaves>,
    /// Of keys in short words whose numbers fill a byte: the words once more.
    halves: Option<Halves>,
    search: Option<Search>,
}

/// The nearest word in another metric.
struct Search {
    /// Keys to where distances are taken: what each channel adds there, `[channels][channels]`.
    metric: Vec<f32>,
    /// The words there, `[channels][count]`.
    by_channel: Vec<f32>,
}

impl std::fmt::Debug for Product {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Product").field("shape", &self.shape).field("what", &self.what).finish_non_exhaustive()
    }
}

impl Product {
    /// `words` is `[subspaces][1 << bits][channels / subspaces]`; `metric` takes a row to where distances are taken.
    pub(super) fn new(
        shape: Shape,
        what: String,
        subspaces: usize,
        bits: usize,
        words: &[f32],
        metric: Option<&[f32]>,
    ) -> Product {
        let dims = shape.channels / subspaces;
        let count = (1usize << bits).max(LANES);
        let words_by_channel = by_channel(words, dims, 1 << bits);
        let search = metric.map(|metric| {
            let columns = |j: usize| metric.iter().skip(j).step_by(shape.channels).copied();
            let metric: Vec<f32> = (0..shape.channels).flat_map(columns).collect();
            let there: Vec<f32> = words.chunks_exact(dims).flat_map(|word| measured(&metric, word)).collect();
            Search { by_channel: by_channel(&there, dims, 1 << bits), metric }
        });
        let by_channel = words_by_channel;
        let words = words.to_vec();
        let (halves, leaves) = (None, Vec::new());
        let mut part = Product { shape, what, subspaces, dims, bits, count, words, by_channel, leaves, halves, search };
        if part.whole() && part.search.is_none() {
            let leaves = part.words.chunks_exact(dims << bits).map(|words| Leaves::new(words, dims));
            if let Some(leaves) = leaves.collect() {
                (part.leaves, part.by_channel) = (leaves, Vec::new());
            }
        }
        if part.whole() && shape.side == Side::Keys && dims == 2 && bits == 8 {
            part.halves = Some(Halves::new(&part.words, dims));
        }
        part
    }

    /// Whether words are read side by side: of whole pages and vectors of channels.
    fn whole(&self) -> bool {
        let Shape { tokens, channels, .. } = self.shape;
        tokens == PAGE_TOKENS && channels.is_multiple_of(LANES) && matches!(self.dims, 2 | 4 | 8 | 16)
    }

    /// The words of a page, where [`Product::whole`].
    fn side_by_side<'a>(&'a self, isa: Isa, page: &[u8], codes: &'a mut Vec<u16>) -> Words<'a> {
        // What it held does not matter: all of it is set.
        codes.resize(self.subspaces * PAGE_TOKENS, 0);
        fields::unpack_runs(isa, self.bits, &page[..self.subspaces * self.span()], PAGE_TOKENS, codes);
        Words { words: &self.words, each: 1 << self.bits, dims: self.dims, codes, channels: self.shape.channels }
    }

    fn span(&self) -> usize {
        fields::bytes(self.bits, self.shape.tokens)
    }

    fn words_of(&self, subspace: usize) -> &[f32] {
        let words = self.dims << self.bits;
        &self.words[subspace * words..][..words]
    }

    /// Codes of one sub-space.
    fn codes<'a>(&self, page: &[u8], subspace: usize, codes: &'a mut [u16; PAGE_TOKENS]) -> &'a [u16] {
        let codes = &mut codes[..self.shape.tokens];
        fields::unpack(self.bits, &page[subspace * self.span()..][..self.span()], codes);
        codes
    }
}

struct Options {
    subspaces: usize,
    bits: usize,
    iterations: usize,
}

fn options(args: &Args, context: &Context<'_>) -> Result<Options, StageError> {
    let d = context.channels;
    let subspaces = match args.integer("dims", 0, 0..=d)? {
        0 => args.integer("subspaces", 32, 1..=d)?,
        dims if args.spec().args.contains_key("subspaces") => {
            return Err(args.error(format!("`subspaces` and `dims={dims}` clash: both set the number of sub-spaces")));
        }
        dims if !d.is_multiple_of(dims) => {
            return Err(args.error(format!("sub-spaces of {dims} do not divide {d} channels; choose a divisor")));
        }
        dims => d / dims,
    };
    let bits = args.integer("bits", 8, 1..=12)?;
    let iterations = args.integer("iterations", 25, 1..=1000)?;
    args.done()?;
    if !d.is_multiple_of(subspaces) {
        return Err(args.error(format!("{subspaces} sub-spaces do not divide {d} channels; choose a divisor")));
    }
    Ok(Options { subspaces, bits, iterations })
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let Options { subspaces, bits, .. } = options(args, context)?;
    let dims = context.channels / subspaces;
    let words = context.tensor(args, "codebook", &[subspaces, 1 << bits, dims])?;
    let what = format!("product quantization: {subspaces} sub-spaces of {dims} channels, {bits} bits each");
    Ok(Built::Part(Arc::new(Product::new(context.shape(), what, subspaces, bits, words, None))))
}

fn calibrate(args: &Args, context: &Context<'_>, samples: &Samples<'_>) -> Result<Vec<NamedTensor>, StageError> {
    let Options { subspaces, bits, iterations } = options(args, context)?;
    let dims = context.channels / subspaces;
    let mut data = Vec::with_capacity(context.channels << bits);
    for m in 0..subspaces {
        let rows = samples.rows.chunks_exact(context.channels);
        let share: Vec<f32> = rows.flat_map(|row| row[m * dims..][..dims].iter().copied()).collect();
        data.extend(kmeans::train(&share, dims, 1 << bits, iterations, samples.seed.wrapping_add(m as u64)));
    }
    let name = context.tensor_name("codebook");
    Ok(vec![NamedTensor { name, shape: vec![subspaces, 1 << bits, dims], data }])
}

impl Part for Product {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        vec![Item::new("codes", (self.subspaces * self.span()).next_multiple_of(4))]
    }

    fn describe(&self) -> String {
        self.what.clone()
    }

    fn shared_bytes(&self) -> usize {
        let search = self.search.as_ref().map_or(0, |search| search.metric.len() + search.by_channel.len());
        let halves = self.halves.as_ref().map_or(0, Halves::bytes);
        let leaves = self.leaves.iter().map(Leaves::bytes).sum::<usize>();
        4 * (self.words.len() + self.by_channel.len() + search) + halves + leaves
    }

    fn encode(&self, x: &[f32], _hints: Hints<'_>, to: &mut [u8]) {
        to.fill(0);
        let (isa, channels, tokens) = (Isa::detect(), self.shape.channels, self.shape.tokens);
        let there = self.search.as_ref().map(|search| {
            let rows = x.chunks_exact(channels).map(|row| measured(&search.metric, row));
            rows.collect::<Vec<_>>().concat()
        });
        let rows = there.as_deref().unwrap_or(x);
        let mut codes = vec![0u16; self.subspaces * tokens];
        for (m, (leaves, codes)) in self.leaves.iter().zip(codes.chunks_exact_mut(tokens)).enumerate() {
            nearest_in(isa, &rows[m * self.dims..], channels, leaves, codes);
        }
        let by_channel = self.search.as_ref().map_or(&self.by_channel, |search| &search.by_channel);
        let books = by_channel.chunks_exact(self.dims * self.count);
        for (m, (words, codes)) in books.zip(codes.chunks_exact_mut(tokens)).enumerate() {
            let book = Codebook { words, dims: self.dims, stride: self.count, count: 1 << self.bits };
            nearest_each(isa, &rows[m * self.dims..], channels, book, codes);
        }
        for (codes, to) in codes.chunks_exact(self.shape.tokens).zip(to.chunks_exact_mut(self.span())) {
            fields::pack(self.bits, codes, to);
        }
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let mut codes = [0; PAGE_TOKENS];
        for m in 0..self.subspaces {
            let words = self.words_of(m);
            let codes = self.codes(page, m, &mut codes);
            for (&code, row) in codes.iter().zip(x.chunks_exact_mut(self.shape.channels)) {
                let word = &words[usize::from(code) * self.dims..][..self.dims];
                row[m * self.dims..].iter_mut().zip(word).for_each(|(x, word)| *x += word);
            }
        }
    }

    fn fused(&self) -> bool {
        true
    }

    fn prepare(&self, isa: Isa, q: &[f32], rows: usize, state: &mut Vec<f32>) {
        state.clear();
        if rows > TABLE_ROWS.min(self.dims) || self.shape.side == Side::Values || self.whole() {
            return;
        }
        let each = self.subspaces * self.count;
        state.resize(rows * each, 0.0);
        for (q, to) in q.chunks_exact(self.shape.width()).zip(state.chunks_exact_mut(each)) {
            tables(isa, &q[..self.shape.channels], self.dims, &self.by_channel, self.count, to);
        }
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        let Shape { tokens, channels, .. } = self.shape;
        let width = self.shape.width();
        if self.whole() {
            let q = &queries.q[..queries.rows * width];
            match &self.halves {
                _ if queries.rows > DIRECT_ROWS => tiled::score(self, isa, page, queries, work, scores),
                Some(halves) => side_by_side::score_halves(isa, halves, page, q, width, scores),
                None => side_by_side::score(isa, self.side_by_side(isa, page, &mut work.codes), q, width, scores),
            }
            return;
        }
        if queries.state.is_empty() {
            let mut tile = std::mem::take(&mut work.tile);
            tile.clear();
            tile.resize(self.shape.tile_len(), 0.0);
            self.tile(isa, page, work, &mut tile);
            score_tile(isa, queries.q, width, &tile, channels, self.dims, scores);
            work.tile = tile;
            return;
        }
        work.codes.clear();
        work.codes.resize(self.subspaces * PAGE_TOKENS, 0);
        for (m, codes) in work.codes.chunks_exact_mut(PAGE_TOKENS).enumerate() {
            fields::unpack(self.bits, &page[m * self.span()..][..self.span()], &mut codes[..tokens]);
        }
        let rows = queries.state.chunks_exact(self.subspaces * self.count);
        for (tables, scores) in rows.zip(scores.chunks_exact_mut(PAGE_TOKENS)) {
            let mut own = [0.0; PAGE_TOKENS];
            score_tables(isa, tables, self.count, &work.codes, &mut own);
            scores[..tokens].iter_mut().zip(&own).for_each(|(score, own)| *score += own);
        }
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        if self.whole() && rows <= DIRECT_ROWS {
            let words = self.side_by_side(isa, page, &mut work.codes);
            return side_by_side::accumulate(isa, words, weights, rows, self.shape.width(), out);
        }
        tiled::accumulate(self, isa, page, weights, rows, work, out);
    }

    fn write_tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        if !self.whole() {
            tile.fill(0.0);
            return self.tile(isa, page, work, tile);
        }
        if let Some(halves) = &self.halves {
            return side_by_side::write_halves(isa, halves, page, tile);
        }
        let words = self.side_by_side(isa, page, &mut work.codes);
        match self.shape.side {
            Side::Keys => side_by_side::write(isa, words, tile),
            Side::Values => side_by_side::write_rows(isa, words, tile, self.shape.width()),
        }
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        let width = self.shape.width();
        let mut codes = [0; PAGE_TOKENS];
        for m in 0..self.subspaces {
            let words = self.words_of(m);
            let codes = self.codes(page, m, &mut codes);
            let first = m * self.dims;
            match self.shape.side {
                // Few channels: a vector of tokens at a time. Many: a word at a time, which lies side by side.
                Side::Keys if self.dims < LANES && !self.by_channel.is_empty() => {
                    for c in first..first + self.dims {
                        let table = &self.by_channel[c * self.count..][..self.count];
                        add_looked_up(isa, table, codes, &mut tile[c * PAGE_TOKENS..][..codes.len()]);
                    }
                }
                Side::Keys => {
                    let floats = &mut work.floats;
                    floats.clear();
                    for &code in codes {
                        floats.extend_from_slice(&words[usize::from(code) * self.dims..][..self.dims]);
                    }
                    let to = &mut tile[first * PAGE_TOKENS..];
                    add_transposed(isa, floats, self.dims, codes.len(), self.dims, to, PAGE_TOKENS);
                }
                Side::Values => {
                    let tile = &mut tile[first..];
                    match self.dims {
                        1 => add_words::<1>(words, codes, width, tile),
                        2 => add_words::<2>(words, codes, width, tile),
                        4 => add_words::<4>(words, codes, width, tile),
                        8 => add_words::<8>(words, codes, width, tile),
                        dims => {
                            for (token, &code) in codes.iter().enumerate() {
                                let word = &words[usize::from(code) * dims..][..dims];
                                tile[token * width..].iter_mut().zip(word).for_each(|(to, word)| *to += word);
                            }
                        }
                    }
                }
            }
        }
    }
}

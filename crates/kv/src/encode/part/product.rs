//! Product quantization: MILLION (Wang et al., 2025), after Jégou et al., 2011.

mod words;

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::math::kmeans;
use super::super::stage::{Args, Built, Context, NamedTensor, Samples, StageEntry, StageError};
use super::{fields, tiled};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::columns::DIRECT_ROWS;
use cachalot_kernels::lookup::{score_tables, score_tile, tables};
use cachalot_kernels::nearest::{Codebook, Leaves, nearest_each, nearest_in};
use cachalot_kernels::simd::LANES;
use cachalot_kernels::transpose::add_transposed;
use cachalot_kernels::words::{self as side_by_side, Halves, Words};
use half::f16;
use std::sync::Arc;
pub(super) use words::half_words;
use words::{add_words, by_channel, in_vectors, measured, widened};

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
    /// Half floats, `[sub-spaces][words][dims]`.
    words: Vec<u16>,
    /// Of keys that are not read side by side: half floats, `[sub-spaces][count / 16][dims][16]`.
    in_vectors: Vec<u16>,
    /// Of keys in short words whose numbers fill a byte, where registers hold tables: the words once more.
    halves: Option<Halves>,
    nearest: Nearest,
}

/// Where the nearest word is looked for.
enum Nearest {
    /// Among many short words: in the boxes of every sub-space.
    Leaves(Vec<Leaves>),
    /// Among all words, `[channels][count]`.
    All(Vec<f32>),
    /// In another metric: what each channel of a key adds there, `[channels][channels]`, and the words there.
    Measured(Vec<f32>, Vec<f32>),
}

impl std::fmt::Debug for Product {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Product").field("shape", &self.shape).field("what", &self.what).finish_non_exhaustive()
    }
}

impl Product {
    /// `words` is `[subspaces][1 << bits][channels / subspaces]` of half floats; `metric` takes a row to where distances
    /// are taken.
    pub(super) fn new(
        shape: Shape,
        what: String,
        subspaces: usize,
        bits: usize,
        words: Vec<u16>,
        metric: Option<&[f32]>,
    ) -> Product {
        let dims = shape.channels / subspaces;
        let (count, each) = ((1usize << bits).max(LANES), dims << bits);
        let whole = whole(shape, dims);
        let wide = widened(&words);
        let leaves = || wide.chunks_exact(each).map(|words| Leaves::new(words, dims)).collect::<Option<_>>();
        let nearest = match metric {
            Some(metric) => {
                let columns = |j: usize| metric.iter().skip(j).step_by(shape.channels).copied();
                let metric: Vec<f32> = (0..shape.channels).flat_map(columns).collect();
                let there: Vec<f32> = wide.chunks_exact(dims).flat_map(|word| measured(&metric, word)).collect();
                Nearest::Measured(metric, by_channel(&there, dims, 1 << bits))
            }
            None => match if whole { leaves() } else { None } {
                Some(leaves) => Nearest::Leaves(leaves),
                None => Nearest::All(by_channel(&wide, dims, 1 << bits)),
            },
        };
        let tables_in_registers = matches!(Isa::detect(), Isa::Avx512 | Isa::Amx);
        let in_registers = whole && shape.side == Side::Keys && dims == 2 && bits == 8 && tables_in_registers;
        let halves = in_registers.then(|| Halves::new(&words, dims));
        let in_vectors =
            if shape.side == Side::Keys && !whole { in_vectors(&words, dims, 1 << bits) } else { Vec::new() };
        Product { shape, what, subspaces, dims, bits, count, words, in_vectors, halves, nearest }
    }

    fn whole(&self) -> bool {
        whole(self.shape, self.dims)
    }

    /// The words of a page, where [`Product::whole`].
    fn side_by_side<'a>(&'a self, isa: Isa, page: &[u8], codes: &'a mut Vec<u16>) -> Words<'a> {
        // What it held does not matter: all of it is set.
        codes.resize(self.subspaces * PAGE_TOKENS, 0);
        fields::unpack_runs(isa, self.bits, &page[..self.subspaces * self.span()], PAGE_TOKENS, codes);
        Words { words: &self.words, each: 1 << self.bits, dims: self.dims, codes, channels: self.shape.channels }
    }

    /// The nearest of `words`, `[channels][count]`, for every sub-space of every row.
    fn nearest_of(&self, isa: Isa, rows: &[f32], words: &[f32], codes: &mut [u16]) {
        let books = words.chunks_exact(self.dims * self.count).zip(codes.chunks_exact_mut(self.shape.tokens));
        for (m, (words, codes)) in books.enumerate() {
            let book = Codebook { words, dims: self.dims, stride: self.count, count: 1 << self.bits };
            nearest_each(isa, &rows[m * self.dims..], self.shape.channels, book, codes);
        }
    }

    fn span(&self) -> usize {
        fields::bytes(self.bits, self.shape.tokens)
    }

    fn words_of(&self, subspace: usize) -> &[u16] {
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

/// Whether words are read side by side: of whole pages and vectors of channels.
fn whole(shape: Shape, dims: usize) -> bool {
    shape.tokens == PAGE_TOKENS && Words::fit(dims, shape.channels)
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
    let words = half_words(args, context.tensor(args, "codebook", &[subspaces, 1 << bits, dims])?)?;
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
        let nearest = match &self.nearest {
            Nearest::Leaves(leaves) => leaves.iter().map(Leaves::bytes).sum(),
            Nearest::All(words) => 4 * words.len(),
            Nearest::Measured(metric, words) => 4 * (metric.len() + words.len()),
        };
        2 * (self.words.len() + self.in_vectors.len()) + self.halves.as_ref().map_or(0, Halves::bytes) + nearest
    }

    fn encode(&self, x: &[f32], _hints: Hints<'_>, to: &mut [u8]) {
        to.fill(0);
        let (isa, channels, tokens) = (Isa::detect(), self.shape.channels, self.shape.tokens);
        let mut codes = vec![0u16; self.subspaces * tokens];
        match &self.nearest {
            Nearest::Leaves(leaves) => {
                for (m, (leaves, codes)) in leaves.iter().zip(codes.chunks_exact_mut(tokens)).enumerate() {
                    nearest_in(isa, &x[m * self.dims..], channels, leaves, codes);
                }
            }
            Nearest::All(words) => self.nearest_of(isa, x, words, &mut codes),
            Nearest::Measured(metric, words) => {
                let there: Vec<f32> = x.chunks_exact(channels).flat_map(|row| measured(metric, row)).collect();
                self.nearest_of(isa, &there, words, &mut codes);
            }
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
                row[m * self.dims..].iter_mut().zip(word).for_each(|(x, &word)| *x += f16::from_bits(word).to_f32());
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
        tables(
            isa,
            &q[..rows * self.shape.width()],
            self.shape.width(),
            self.dims,
            &self.in_vectors,
            self.count,
            state,
        );
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
                Side::Keys => {
                    let floats = &mut work.floats;
                    floats.clear();
                    for &code in codes {
                        let word = &words[usize::from(code) * self.dims..][..self.dims];
                        floats.extend(word.iter().map(|&x| f16::from_bits(x).to_f32()));
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
                                let row = &mut tile[token * width..];
                                row.iter_mut().zip(word).for_each(|(to, &word)| *to += f16::from_bits(word).to_f32());
                            }
                        }
                    }
                }
            }
        }
    }
}

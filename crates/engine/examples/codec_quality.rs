//! What codecs of blocks at rest cost: bytes of real pages, and the divergence of a model that continues on what is decoded.
//!
//! ```text
//! cargo run --release -p cachalot-engine --example codec_quality -- MODEL PROFILE LEARN.txt[,LEARN.txt…] EVAL.txt[,EVAL.txt…]
//! ```
//! Of each window of 4,096 tokens (`WINDOWS` in all, 2 if absent, spread evenly over the texts) the first 2,048 are read with
//! an f16 cache, whose blocks are encoded, decoded, and begun with; what the other 2,048 are predicted like is compared with
//! the same on the blocks as they were. `q8_0` is ggml's, applied to the same pages. `PROFILE` is read, or if it does not exist,
//! learned from the other texts (`LEARN` windows, 4 if absent) and written: steps of layers are found by writing each layer's
//! keys and values alone, for `TUNE` windows (none if absent).

use cachalot_kernels::attention::{PAGE_TOKENS, PageView, widen_page};
use cachalot_kernels::divergence::Row;
use cachalot_kernels::tile::to_f16;
use cachalot_kernels::{Isa, Team};
use cachalot_kv::encode::codec::{Hints, Part, Shape, Side};
use cachalot_kv::encode::quantizer::ggml::Kind;
use cachalot_kv::page::{HEADER, reseal};
use cachalot_kv::{CacheConfig, Element, KvCache, LayerGeometry, Recorder, Segment, SequenceKv, SharedBlock};
use cachalot_model::tokenizer::Specials;
use cachalot_model::{Decoder, LoadOptions, Loaded};
use cachalot_store::Codec;
use cachalot_store::codec::cachegen::Learner;
use cachalot_store::codec::{CacheGen, Lossless, Profile};
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

type Failure = Box<dyn Error>;

const WINDOW: usize = 4096;
const CONTEXT: usize = 2048;
const CHUNK: usize = 256;

struct Rig {
    loaded: Loaded,
    team: Arc<Team>,
}

/// Queries of every lane, as a profile wants them.
struct Queries(Mutex<Learner>);

impl Recorder for Queries {
    fn record(&self, layer: usize, g: &LayerGeometry, _: &[Segment<'_>], q: &[f32], _: &[f32], _: &[f32]) {
        let mut learner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wide = g.group() * g.head_dim;
        for row in q.chunks_exact(g.heads * g.head_dim).step_by(8) {
            for (head, rows) in row.chunks_exact(wide).enumerate() {
                learner.queries(layer as u16, head as u16, rows, g.head_dim);
            }
        }
    }
}

impl Rig {
    fn cache(&self) -> Result<KvCache, Failure> {
        let config = CacheConfig::new(self.loaded.model.layer_geometry(), 2 << 30, "f16".parse()?);
        Ok(KvCache::new(config, self.team.clone(), self.loaded.model.isa())?)
    }

    /// Windows spread evenly over the texts.
    fn windows(&self, paths: &str, count: usize) -> Result<Vec<Vec<u32>>, Failure> {
        let paths: Vec<&str> = paths.split(',').collect();
        let mut windows = Vec::new();
        for (at, path) in paths.iter().enumerate() {
            let text = std::fs::read_to_string(path)?.replace('\0', "\n");
            let own = (count + paths.len() - 1 - at) / paths.len();
            for window in 0..own {
                let mut start = text.len() / own * window;
                while !text.is_char_boundary(start) {
                    start += 1;
                }
                let mut end = (start + 12 * WINDOW).min(text.len());
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                let mut tokens = self.loaded.tokenizer.encode(&text[start..end], Specials::Plain)?;
                tokens.truncate(WINDOW);
                if tokens.len() == WINDOW {
                    windows.push(tokens);
                }
            }
        }
        Ok(windows)
    }

    /// Reads tokens; `take` gets the logits of each chunk if it wants them.
    fn read(
        &self,
        cache: &KvCache,
        seq: &mut SequenceKv,
        tokens: &[u32],
        mut take: Option<&mut dyn FnMut(Vec<f32>)>,
    ) -> Result<(), Failure> {
        for tokens in tokens.chunks(CHUNK) {
            cache.reserve(seq, tokens.len())?;
            let rows: Vec<usize> = if take.is_some() { (0..tokens.len()).collect() } else { Vec::new() };
            let segments = &mut [Segment { seq, rows: tokens.len() }];
            let logits = self.loaded.model.forward(cache, segments, tokens, &rows)?;
            cache.settle(seq);
            if let Some(take) = &mut take {
                take(logits);
            }
        }
        Ok(())
    }

    /// The pages of a window's context, block by block.
    fn pages(&self, window: &[u32]) -> Result<Vec<Vec<Vec<u8>>>, Failure> {
        let cache = self.cache()?;
        let mut seq = cache.create();
        self.read(&cache, &mut seq, window, None)?;
        let blocks = cache.share(&mut seq, 0..window.len() / PAGE_TOKENS, Some(window.len()));
        Ok(blocks.iter().map(|block| block.pages().map(|page| page.page.bytes().to_vec()).collect()).collect())
    }

    /// Logits of what follows a context of these pages, chunk by chunk.
    fn follow(&self, pages: &[Vec<Vec<u8>>], rest: &[u32], take: &mut dyn FnMut(Vec<f32>)) -> Result<(), Failure> {
        let cache = self.cache()?;
        let mut seq = cache.create();
        let importer = cache.importer(seq.plan())?;
        let blocks: Vec<SharedBlock> = pages
            .iter()
            .map(|block| importer.block(block.iter().map(|page| (false, &page[..]))))
            .collect::<Result<_, _>>()?;
        let blocks: Vec<&SharedBlock> = blocks.iter().collect();
        cache.begin(&mut seq, &blocks, pages.len() * PAGE_TOKENS)?;
        self.read(&cache, &mut seq, rest, Some(take))
    }

    /// Divergences of other pages from `exact`, one sum for each.
    fn divergences(
        &self,
        exact: &[Vec<Vec<u8>>],
        others: &mut dyn Iterator<Item = Result<Vec<Vec<Vec<u8>>>, Failure>>,
        rest: &[u32],
    ) -> Result<Vec<f64>, Failure> {
        let mut logits = Vec::new();
        self.follow(exact, rest, &mut |chunk| logits.push(chunk))?;
        let mut sums = Vec::new();
        for pages in others {
            let (mut at, mut sum) = (0, 0.0);
            self.follow(&pages?, rest, &mut |chunk| {
                sum += self.compare(&logits[at], &chunk);
                at += 1;
            })?;
            sums.push(sum / rest.len() as f64);
        }
        Ok(sums)
    }

    fn compare(&self, exact: &[f32], other: &[f32]) -> f64 {
        let vocab = self.loaded.model.spec.vocab;
        let rows: Vec<(&[f32], &[f32])> = exact.chunks_exact(vocab).zip(other.chunks_exact(vocab)).collect();
        let sums: Vec<Mutex<f64>> = rows.iter().map(|_| Mutex::new(f64::NAN)).collect();
        self.team.for_each(rows.len(), |at| {
            if let (Ok(exact), Ok(other)) = (Row::new(rows[at].0), Row::new(rows[at].1)) {
                *sums[at].lock().unwrap_or_else(PoisonError::into_inner) = other.against(&exact, 0).kl;
            }
        });
        sums.iter().map(|sum| *sum.lock().unwrap_or_else(PoisonError::into_inner)).sum()
    }

    fn learn(&self, windows: &[Vec<u32>]) -> Result<Profile, Failure> {
        let layers = self.loaded.model.layer_geometry();
        let angles = layers[0].rope.as_ref().map_or(Vec::new(), |rope| rope.angles().to_vec());
        let queries = Arc::new(Queries(Mutex::new(Learner::new(&angles))));
        for window in windows {
            let cache = self.cache()?.with_recorder(queries.clone());
            let mut seq = cache.create();
            self.read(&cache, &mut seq, window, None)?;
            let mut learner = queries.0.lock().unwrap_or_else(PoisonError::into_inner);
            for block in cache.share(&mut seq, 0..window.len() / PAGE_TOKENS, Some(window.len())) {
                block.pages().try_for_each(|page| learner.page(page.page.bytes()))?;
            }
        }
        let mut learner = queries.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (layer, g) in layers.iter().enumerate() {
            let Some(output) = &g.output else { continue };
            for head in 0..g.heads {
                learner.outputs(layer as u16, (head / g.group()) as u16, &output.of_head(head), g.head_dim);
            }
        }
        Ok(std::mem::replace(&mut *learner, Learner::new(&[])).finish())
    }

    /// Steps such that every layer's keys, and its values, diverge as much as those of the others.
    fn tune(&self, profile: Profile, windows: &[Vec<u32>]) -> Result<Profile, Failure> {
        let layers = self.loaded.model.layer_geometry().len();
        let mut sums = vec![0.0; 2 * layers];
        let codec = CacheGen::new(1, Some(Arc::new(profile.clone()))).ok_or("no such level")?;
        for window in windows {
            let exact = self.pages(&window[..CONTEXT])?;
            let coded = all(&exact, &codec)?.1;
            let mut one = (0..2 * layers).map(|at| {
                let mixed = exact.iter().zip(&coded).map(|(block, coded)| {
                    block.iter().zip(coded).map(|(page, coded)| part(page, coded, at / 2, at % 2)).collect()
                });
                Ok(mixed.collect())
            });
            let found = self.divergences(&exact, &mut one, &window[CONTEXT..CONTEXT + 1024])?;
            sums.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
        }
        let mean = (sums.iter().map(|sum| sum.ln()).sum::<f64>() / sums.len() as f64).exp();
        let mut tuned = profile;
        for (layer, pair) in sums.chunks_exact(2).enumerate() {
            let [keys, values] = [pair[0], pair[1]].map(|sum| (mean / sum).sqrt().clamp(0.125, 8.0) as f32);
            println!("layer {layer}: divergence of keys {:.2e}, values {:.2e}", pair[0], pair[1]);
            tuned.scale(layer as u16, keys, values);
        }
        Ok(tuned)
    }
}

/// A page with one side of another where it is of this layer.
fn part(page: &[u8], coded: &[u8], layer: usize, side: usize) -> Vec<u8> {
    let mut page = page.to_vec();
    if usize::from(u16::from_le_bytes([page[8], page[9]])) == layer {
        let half = (page.len() - HEADER) / 2;
        let range = HEADER + side * half..HEADER + (side + 1) * half;
        page[range.clone()].copy_from_slice(&coded[range]);
        reseal(&mut page);
    }
    page
}

/// Bytes, decoded pages, and seconds of encoding and decoding.
type Coded = (usize, Vec<Vec<Vec<u8>>>, [f64; 2]);

fn all(exact: &[Vec<Vec<u8>>], codec: &dyn Codec) -> Result<Coded, Failure> {
    let (mut bytes, mut seconds, mut pages) = (0, [0.0; 2], Vec::new());
    for block in exact {
        let mut own = Vec::new();
        for page in block {
            let start = Instant::now();
            let mut coded = Vec::new();
            codec.encode(page, &mut coded)?;
            seconds[0] += start.elapsed().as_secs_f64();
            bytes += coded.len();
            let start = Instant::now();
            own.push(codec.decode(&coded, page.len())?);
            seconds[1] += start.elapsed().as_secs_f64();
        }
        pages.push(own);
    }
    Ok((bytes, pages, seconds))
}

/// ggml's `q8_0` of keys after rotary position, and of values.
fn q8_0(exact: &[Vec<Vec<u8>>], channels: usize) -> Result<Coded, Failure> {
    let matrix = |side| Kind::Q8_0.matrix(Shape { side, tokens: PAGE_TOKENS, channels });
    let sides = [matrix(Side::Keys)?, matrix(Side::Values)?];
    let (mut bytes, mut pages) = (0, Vec::new());
    for block in exact {
        let mut own = Vec::new();
        for page in block {
            let mut page = page.clone();
            let (half, plain) = (PAGE_TOKENS * channels, page[HEADER..].split_at(2 * PAGE_TOKENS * channels));
            let (k_element, v_element) = (Element::F16, Element::F16);
            let (mut keys, mut values) = (vec![0.0; half], vec![0.0; half]);
            let view = PageView { k: plain.0, v: &plain.1[..2 * half], k_element, v_element };
            widen_page(Isa::detect(), view, &mut keys, &mut values);
            for (side, part) in sides.iter().enumerate() {
                let place = |at: usize| if side == 0 { at % channels * PAGE_TOKENS + at / channels } else { at };
                let x = if side == 0 { &mut keys } else { &mut values };
                let rows: Vec<f32> = (0..half).map(|at| x[place(at)]).collect();
                let (mut coded, mut back) = (vec![0; part.bytes()], vec![0.0; half]);
                part.encode(&rows, Hints::default(), &mut coded);
                part.decode(&coded, &mut back);
                back.iter().enumerate().for_each(|(at, &y)| x[place(at)] = y);
                to_f16(Isa::detect(), x, &mut page[HEADER + 2 * side * half..HEADER + 2 * (side + 1) * half]);
                bytes += coded.len();
            }
            reseal(&mut page);
            bytes += HEADER;
            own.push(page);
        }
        pages.push(own);
    }
    Ok((bytes, pages, [f64::INFINITY; 2]))
}

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, profile, learn, eval] = &arguments[..] else { return Err("MODEL PROFILE LEARN EVAL, please".into()) };
    let team = Arc::new(Team::of_all_cores());
    let loaded = cachalot_model::Model::load(Path::new(model), &LoadOptions::new(team.clone()))?;
    let rig = Rig { loaded, team };
    println!("{} threads, {}", rig.team.threads(), Isa::detect());
    let path = Path::new(profile);
    let known = match path.exists() {
        true => Profile::from_bytes(&std::fs::read(path)?)?,
        false => {
            let windows = rig.windows(learn, number("LEARN", 4))?;
            let mut known = rig.learn(&windows)?;
            let tune = number("TUNE", 0);
            if tune > 0 {
                known = rig.tune(known, &rig.windows(learn, 2 * tune)?[tune..])?;
            }
            std::fs::write(path, known.to_bytes())?;
            known
        }
    };
    println!("profile {} of {} bytes", known.digest(), known.to_bytes().len());
    let known = Arc::new(known);
    let levels =
        |profile: Option<Arc<Profile>>| (1..=3).rev().filter_map(move |level| CacheGen::new(level, profile.clone()));
    let mut codecs: Vec<Box<dyn Codec>> = vec![Box::new(Lossless)];
    codecs.extend(levels(None).map(|codec| Box::new(codec) as Box<dyn Codec>));
    codecs.extend(levels(Some(known)).map(|codec| Box::new(codec) as Box<dyn Codec>));
    let windows = rig.windows(eval, number("WINDOWS", 2))?;
    let dim = rig.loaded.model.layer_geometry()[0].head_dim;
    let mut rows: Vec<(String, usize, f64, [f64; 2])> = [("q8_0".to_owned(), 0, 0.0, [0.0; 2])]
        .into_iter()
        .chain(codecs.iter().map(|c| (c.name(), 0, 0.0, [0.0; 2])))
        .collect();
    let mut whole = 0;
    for window in &windows {
        let exact = rig.pages(&window[..CONTEXT])?;
        whole += exact.iter().flatten().map(Vec::len).sum::<usize>();
        let mut coded = vec![q8_0(&exact, dim)?];
        for codec in &codecs {
            coded.push(all(&exact, &**codec)?);
        }
        for (row, (bytes, _, seconds)) in rows.iter_mut().zip(&coded) {
            row.1 += bytes;
            row.3.iter_mut().zip(seconds).for_each(|(sum, seconds)| *sum += seconds);
        }
        // What loses nothing need not be continued on.
        let mut others = coded.into_iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, coded)| Ok(coded.1));
        let found = rig.divergences(&exact, &mut others, &window[CONTEXT..])?;
        rows.iter_mut().enumerate().filter(|(at, _)| *at != 1).zip(found).for_each(|((_, row), kl)| row.2 += kl);
    }
    let q8 = rows[0].2;
    println!(
        "| codec | smaller than f16 | mean KL | to q8_0 | encode MB/s | decode MB/s |\n|---|---:|---:|---:|---:|---:|"
    );
    for (name, bytes, kl, seconds) in &rows {
        let (ratio, kl, to) = (whole as f64 / *bytes as f64, kl / windows.len() as f64, kl / q8);
        let [encode, decode] = seconds.map(|seconds| whole as f64 / seconds / 1e6);
        println!("| {name} | {ratio:.3} | {kl:.2e} | {to:.2} | {encode:.0} | {decode:.0} |");
    }
    Ok(())
}

//! Keys in bands of eight channels, each with as many bits as its share in the scores deserves: ours.
//!
//! It comes after `whiten`, whose components are ordered and of unit variance: an error `ε` of component `i` moves a score
//! by `E[(q_i ε)²]`. Bits go where they lower the sum of those errors most (reverse water-filling with whole bits), from
//! none to eight a band. Up to four bits a band has a table of levels fitted to the samples, above that a uniform grid.
//! Nothing is stored per token: no norm, no scale. Levels are conditional means, so scores would shrink; each table is
//! stretched by `E[y²] / E[y ŷ]`, which makes them unbiased (the correction that TurboQuant's sketch is for).

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::stage::{Args, Built, Context, NamedTensor, Samples, StageEntry, StageError};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::codes::{self, Bits, Codes, Given, Grid, Levels};
use std::ops::Range;
use std::sync::Arc;

pub(super) const STAGE: StageEntry = StageEntry {
    name: "allotted",
    summary: "keys after whiten: bits per band of 8 channels from a profile, mean width `bits`; allotted(bits=2)",
    build,
    calibrate: Some(calibrate),
};

/// Channels of a band: as few as whole vectors of codes allow.
const BAND: usize = 8;
/// Levels of a table.
const TABLE: usize = 16;
/// What levels count from.
const ZERO: u8 = 128;
/// Widths a band can have.
const WIDTHS: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 8];
/// Reaches that are tried for a uniform grid, as parts of the largest sample.
const REACHES: usize = 64;

/// One band.
#[derive(Debug)]
struct Band {
    /// None where the band is left out.
    bits: Option<Bits>,
    /// Levels with their zero point, for at most four bits.
    table: Option<[u8; TABLE]>,
    /// What one step of a level is worth.
    step: f32,
    /// What numbers are multiplied with before they are compared with levels that were stretched.
    stretch: f32,
    /// Where its codes lie in a page.
    codes: Range<usize>,
}

#[derive(Debug)]
struct Allotted {
    shape: Shape,
    bands: Vec<Band>,
    /// The steps of all channels: the fold of the grid.
    steps: Vec<f32>,
    bytes: usize,
}

fn average(args: &Args, context: &Context<'_>) -> Result<f32, StageError> {
    let bits = args.number("bits", 2.0, 0.5..=8.0)?;
    args.done()?;
    if context.side == Side::Values {
        return Err(args.error("is for keys; values keep their norm with `hadamard` and `lloyd(norm=unbiased)`"));
    }
    if !context.channels.is_multiple_of(2 * BAND) || context.tokens != PAGE_TOKENS {
        return Err(args.error(format!(
            "wants whole pages of a multiple of {} channels, not {}; use `hadamard` and `lloyd` there",
            2 * BAND,
            context.channels
        )));
    }
    Ok(bits)
}

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    average(args, context)?;
    let count = context.channels / BAND;
    let widths = context.tensor(args, "widths", &[count])?;
    let tables = context.tensor(args, "tables", &[count, TABLE])?;
    let stretch = context.tensor(args, "stretch", &[count])?;
    let part = Allotted::new(context.shape(), widths, tables, stretch).map_err(|what| args.error(what))?;
    Ok(Built::Part(Arc::new(part)))
}

impl Allotted {
    /// `tables` holds the levels of each band; the reach of the grid in its first place where the band has over four bits.
    fn new(shape: Shape, widths: &[f32], tables: &[f32], stretch: &[f32]) -> Result<Allotted, String> {
        let (mut bands, mut steps, mut end) = (Vec::new(), Vec::new(), 0);
        for ((&width, levels), &stretch) in widths.iter().zip(tables.chunks_exact(TABLE)).zip(stretch) {
            let known = WIDTHS.iter().copied().find(|&known| known as f32 == width);
            let width =
                known.ok_or_else(|| format!("the profile gives a band {width} bits; {WIDTHS:?} are possible"))?;
            let bits = Bits::new(width);
            let reach = levels.iter().fold(0f32, |reach, level| reach.max(level.abs()));
            if !(reach.is_finite() && stretch.is_finite() && (reach > 0.0 || width == 0)) {
                return Err("the profile has levels that are not finite or all zero".to_owned());
            }
            let (table, step) = match width {
                0 => (None, 0.0),
                1..=4 => {
                    let level = |level: &f32| ((level / reach * 127.0).round() + f32::from(ZERO)) as u8;
                    (Some(std::array::from_fn(|i| level(&levels[i.min((1 << width) - 1)]))), reach / 127.0)
                }
                _ => (None, reach / (1 << (width - 1)) as f32),
            };
            let bytes = bits.map_or(0, |bits| codes::packed_bytes(bits, BAND * PAGE_TOKENS));
            bands.push(Band { bits, table, step, stretch, codes: end..end + bytes });
            steps.extend([step; BAND]);
            end += bytes;
        }
        Ok(Allotted { shape, bands, steps, bytes: end })
    }

    /// What is added to the codes of a uniform grid so that its middle is the zero point.
    fn shift(bits: Bits) -> u8 {
        ZERO - (1 << (bits.count() - 1)) as u8
    }

    fn unpack(&self, isa: Isa, page: &[u8], levels: &mut Levels) {
        levels.resize(self.shape.width() * PAGE_TOKENS, ZERO);
        for (band, levels) in self.bands.iter().zip(levels.chunks_exact_mut(BAND * PAGE_TOKENS)) {
            let Some(bits) = band.bits else {
                levels.fill(ZERO);
                continue;
            };
            codes::unpack(isa, bits, &page[band.codes.clone()], band.table.as_ref(), levels);
            if band.table.is_none() && bits != Bits::B8 {
                let shift = Self::shift(bits);
                levels.iter_mut().for_each(|level| *level = level.wrapping_add(shift));
            }
        }
    }

    fn with_grid<T>(&self, run: impl FnOnce(&Grid<'_>) -> T) -> T {
        let width = self.shape.width();
        // Groups of at most 256 rows, so that the sums fit.
        let ends: Vec<usize> = (1..=width.div_ceil(256)).map(|g| (256 * g).min(width)).collect();
        run(&Grid {
            reduce: width,
            lanes: PAGE_TOKENS,
            zero: ZERO,
            reduce_groups: &ends,
            lane_groups: &[PAGE_TOKENS],
            fold_scale: &self.steps,
            fold_offset: &[],
            lane_scale: &[],
            lane_offset: &[],
        })
    }
}

impl Part for Allotted {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn breakdown(&self) -> Vec<Item> {
        vec![Item::new("codes", self.bytes)]
    }

    fn describe(&self) -> String {
        let widths: Vec<_> = self.bands.iter().map(|b| b.bits.map_or(0, Bits::count).to_string()).collect();
        format!("bits by band of {BAND} components: {}", widths.join(" "))
    }

    fn shared_bytes(&self) -> usize {
        self.bands.len() * TABLE + 4 * self.steps.len()
    }

    fn encode(&self, x: &[f32], _: Hints<'_>, to: &mut [u8]) {
        let mut levels = vec![0; BAND * PAGE_TOKENS];
        for (b, band) in self.bands.iter().enumerate() {
            let Some(bits) = band.bits else { continue };
            for (i, code) in levels.iter_mut().enumerate() {
                // `[channels/4][tokens][4]`
                let (quad, token, four) = (i / (4 * PAGE_TOKENS), i / 4 % PAGE_TOKENS, i % 4);
                let x = x[token * self.shape.channels + b * BAND + 4 * quad + four];
                *code = band.code(bits, x);
            }
            codes::pack(bits, &levels, &mut to[band.codes.clone()]);
        }
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let mut levels = Levels::default();
        self.unpack(Isa::Portable, page, &mut levels);
        for (token, row) in x.chunks_exact_mut(self.shape.channels).enumerate() {
            for (channel, x) in row.iter_mut().enumerate() {
                let level = levels[(channel / 4 * PAGE_TOKENS + token) * 4 + channel % 4];
                *x += self.steps[channel] * (f32::from(level) - f32::from(ZERO));
            }
        }
    }

    fn fused(&self) -> bool {
        true
    }

    fn prepare(&self, isa: Isa, q: &[f32], rows: usize, state: &mut Vec<f32>) {
        self.with_grid(|grid| codes::round(isa, grid, q, self.shape.width(), rows, state));
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        self.unpack(isa, page, &mut work.levels);
        let (codes, given) = (Codes::Levels(&work.levels), Given::Rounded(queries.state));
        self.with_grid(|grid| {
            codes::multiply(isa, grid, codes, given, queries.rows, &mut work.kernel, scores, PAGE_TOKENS);
        });
    }

    fn tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut [f32]) {
        self.unpack(isa, page, &mut work.levels);
        self.with_grid(|grid| codes::decode(isa, grid, &work.levels, tile, PAGE_TOKENS));
    }
}

impl Band {
    fn code(&self, bits: Bits, x: f32) -> u8 {
        let x = if self.step > 0.0 { x * self.stretch / self.step } else { 0.0 };
        let Some(table) = &self.table else {
            let half = (1 << (bits.count() - 1)) as f32;
            return (x.round_ties_even().clamp(-half, half - 1.0) + half) as u8;
        };
        let distance = |i: usize| (x - (f32::from(table[i]) - f32::from(ZERO))).abs();
        let mut best = 0;
        for i in 1..1 << bits.count() {
            if distance(i) < distance(best) {
                best = i;
            }
        }
        best as u8
    }
}

fn calibrate(args: &Args, context: &Context<'_>, samples: &Samples<'_>) -> Result<Vec<NamedTensor>, StageError> {
    let average = average(args, context)?;
    if samples.queries.is_empty() || samples.rows.is_empty() {
        return Err(args.error("calibration gave no keys or no queries to measure them with"));
    }
    let d = context.channels;
    let power = |rows: &[f32], channel: usize| {
        let sum: f64 = rows.iter().skip(channel).step_by(d).map(|&x| f64::from(x) * f64::from(x)).sum();
        sum / (rows.len() / d) as f64
    };
    let weights: Vec<f64> = (0..d).map(|c| power(samples.rows, c) * power(samples.queries, c)).collect();
    let weights = weights.chunks_exact(BAND).map(|band| band.iter().sum::<f64>());
    let bands: Vec<[Fit; WIDTHS.len()]> = (0..d / BAND)
        .map(|b| {
            let band = samples.rows.chunks_exact(d).flat_map(|row| &row[b * BAND..(b + 1) * BAND]);
            let mut sorted: Vec<f32> = band.copied().collect();
            sorted.sort_by(f32::total_cmp);
            WIDTHS.map(|width| fit(&sorted, width))
        })
        .collect();
    let errors: Vec<_> =
        weights.zip(&bands).map(|(weight, fits)| std::array::from_fn(|i| weight * fits[i].distortion)).collect();
    let chosen = allot(&errors, (f64::from(average) * (d / BAND) as f64).floor() as usize);
    let (mut tables, mut stretch) = (Vec::new(), Vec::new());
    for (fits, &at) in bands.iter().zip(&chosen) {
        tables.extend(fits[at].table);
        stretch.push(fits[at].stretch);
    }
    let tensor = |what, shape, data| NamedTensor { name: context.tensor_name(what), shape, data };
    Ok(vec![
        tensor("widths", vec![d / BAND], chosen.iter().map(|&at| WIDTHS[at] as f32).collect()),
        tensor("tables", vec![d / BAND, TABLE], tables),
        tensor("stretch", vec![d / BAND], stretch),
    ])
}

/// Which of [`WIDTHS`] each band gets, at most `budget` bits in all, so that the sum of `errors` at the chosen widths is
/// small: always the steps that gain most for their bits, which is best where errors are convex.
fn allot(errors: &[[f64; WIDTHS.len()]], budget: usize) -> Vec<usize> {
    let mut at = vec![0; errors.len()];
    let mut left = budget;
    loop {
        let steps = at
            .iter()
            .enumerate()
            .flat_map(|(band, &now)| (now + 1..WIDTHS.len()).map(move |next| (band, next, WIDTHS[next] - WIDTHS[now])));
        let gain = |&(band, next, cost): &(usize, usize, usize)| -> f64 {
            (errors[band][at[band]] - errors[band][next]) / cost as f64
        };
        // The first of equals, so that bands of one kind take turns.
        let best = steps
            .filter(|step| step.2 <= left && gain(step) > 0.0)
            .reduce(|best, other| if gain(&other) > gain(&best) { other } else { best });
        let Some((band, next, cost)) = best else { return at };
        at[band] = next;
        left -= cost;
    }
}

/// How a band is kept with so many bits.
#[derive(Clone, Copy)]
struct Fit {
    /// Levels, or the reach of a grid in the first place; see [`Allotted::new`].
    table: [f32; TABLE],
    /// By how much the levels were stretched: cells stay where they fit best.
    stretch: f32,
    /// Mean squared error of the samples, as a share of their mean square.
    distortion: f64,
}

/// The best levels for sorted samples: Lloyd-Max ones up to four bits, then a uniform grid of the best reach.
fn fit(sorted: &[f32], width: usize) -> Fit {
    match width {
        0 => Fit { table: [0.0; TABLE], stretch: 1.0, distortion: 1.0 },
        1..=4 => lloyd_max(sorted, width),
        _ => uniform(sorted, width),
    }
}

fn lloyd_max(sorted: &[f32], width: usize) -> Fit {
    let (n, count) = (sorted.len(), 1 << width);
    let mut fitted: Vec<f64> = (0..count).map(|i| f64::from(sorted[(2 * i + 1) * n / (2 * count)])).collect();
    // Sums up to each sample, so that a pass over the cells is a few searches.
    let sums: Vec<f64> = std::iter::once(0.0)
        .chain(sorted.iter().scan(0.0, |sum, &x| {
            *sum += f64::from(x);
            Some(*sum)
        }))
        .collect();
    let mut cells = vec![0; count + 1];
    for _ in 0..100 {
        cells[count] = n;
        for i in 1..count {
            let middle = 0.5 * (fitted[i - 1] + fitted[i]);
            cells[i] = sorted.partition_point(|&x| f64::from(x) < middle);
        }
        for i in 0..count {
            if cells[i + 1] > cells[i] {
                fitted[i] = (sums[cells[i + 1]] - sums[cells[i]]) / (cells[i + 1] - cells[i]) as f64;
            }
        }
    }
    let power: f64 = sorted.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let with: f64 = (0..count).map(|i| fitted[i] * (sums[cells[i + 1]] - sums[cells[i]])).sum();
    let stretch = if with > 0.0 { power / with } else { 1.0 };
    let mut table = [0.0; TABLE];
    fitted.iter().zip(&mut table).for_each(|(level, to)| *to = (level * stretch) as f32);
    if table.iter().all(|&level| level == 0.0) {
        table[0] = f32::MIN_POSITIVE;
    }
    // Levels are the means of their cells, so the error is what they do not carry, and grows as they are stretched.
    let distortion = stretch - 1.0;
    Fit { table, stretch: stretch as f32, distortion }
}

/// Cutting off a few far numbers costs less than steps so wide that they fit: at five bits the best grid for a Gaussian
/// ends at three deviations, where the furthest of many samples lies at five.
fn uniform(sorted: &[f32], width: usize) -> Fit {
    let furthest = sorted.first().map_or(0.0, |x| x.abs()).max(sorted.last().map_or(0.0, |x| x.abs()));
    let half = (1 << (width - 1)) as f32;
    let mut table = [0.0; TABLE];
    if furthest == 0.0 {
        table[0] = 1.0;
        return Fit { table, stretch: 1.0, distortion: 0.0 };
    }
    // Every few samples are enough to tell reaches apart.
    let some: Vec<f32> = sorted.iter().copied().step_by(sorted.len().div_ceil(1 << 14)).collect();
    let power: f64 = some.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let distortion = |reach: f32| -> f64 {
        let step = reach / half;
        let error = |&x: &f32| f64::from(x - step * (x / step).round_ties_even().clamp(-half, half - 1.0)).powi(2);
        some.iter().map(error).sum::<f64>() / power.max(f64::MIN_POSITIVE)
    };
    let reaches = (1..=REACHES).map(|i| 1.1 * furthest * i as f32 / REACHES as f32);
    let best = reaches.map(|reach| (reach, distortion(reach))).min_by(|a, b| a.1.total_cmp(&b.1));
    let (reach, distortion) = best.unwrap_or((1.1 * furthest, 0.0));
    table[0] = reach;
    Fit { table, stretch: 1.0, distortion }
}

#[cfg(test)]
mod tests {
    use super::super::super::math::Rng;
    use super::*;

    #[test]
    fn bits_follow_the_weights_and_meet_the_budget() {
        // The errors of a Gaussian with the best levels, and with the best grid beyond four bits.
        let gaussian = [1.0, 0.36338, 0.11748, 0.03455, 0.0095, 0.0035, 0.00104, 0.0001];
        let allot = |weights: &[f64], budget| -> Vec<usize> {
            let errors: Vec<_> = weights.iter().map(|weight| gaussian.map(|error| weight * error)).collect();
            allot(&errors, budget).into_iter().map(|at| WIDTHS[at]).collect()
        };
        assert_eq!(allot(&[1.0; 8], 16), [2; 8]);
        let widths = allot(&[1000.0, 100.0, 10.0, 1.0, 0.1, 0.01, 0.001, 0.0001], 16);
        assert!(widths.windows(2).all(|w| w[0] >= w[1]), "{widths:?}");
        assert_eq!(widths.iter().sum::<usize>(), 16);
        assert!(widths[7] == 0 && widths[0] >= 4, "{widths:?}");
        assert_eq!(allot(&[1.0; 2], 100), [8, 8]);
    }

    #[test]
    fn levels_of_gaussian_samples_are_the_stretched_lloyd_max_ones() {
        let mut rng = Rng::new(1, 2);
        let mut samples: Vec<f32> = (0..200_000).map(|_| rng.normal() as f32).collect();
        samples.sort_by(f32::total_cmp);
        let Fit { table, stretch, distortion } = fit(&samples, 2);
        assert!((distortion - 0.11748 / (1.0 - 0.11748)).abs() < 0.002, "{distortion}");
        assert!((stretch - 1.0 / (1.0 - 0.11748)).abs() < 0.01, "{stretch}");
        // Lloyd-Max for two bits has levels 0.45278 and 1.51042 and distortion 0.11748.
        for (got, want) in table.iter().zip([-1.51042, -0.45278, 0.45278, 1.51042]) {
            assert!((got - want / (1.0 - 0.11748)).abs() < 0.02, "{table:?}");
        }
    }

    #[test]
    fn the_best_grid_for_gaussian_samples_cuts_off_the_far_ones() {
        let mut rng = Rng::new(1, 2);
        let mut samples: Vec<f32> = (0..200_000).map(|_| rng.normal() as f32).collect();
        samples.sort_by(f32::total_cmp);
        // Max's table of uniform quantizers: step 0.1881 and error 0.003495 with 32 levels, 0.1041 and 0.001041 with 64.
        for (bits, step, error) in [(5, 0.1881, 0.003495), (6, 0.1041, 0.001041)] {
            let fit = fit(&samples, bits);
            let got = fit.table[0] / (1 << (bits - 1)) as f32;
            assert!((got - step).abs() < 0.1 * step, "{bits} bits: step {got}");
            assert!((fit.distortion / error - 1.0).abs() < 0.1, "{bits} bits: error {}", fit.distortion);
        }
    }

    #[test]
    fn what_is_unbiased_stays_unbiased_and_errors_are_as_the_widths_say() {
        let (d, n) = (64, 4096);
        let mut rng = Rng::new(7, 0);
        let rows: Vec<f32> = (0..n * d).map(|_| rng.normal() as f32).collect();
        let shape = Shape { side: Side::Keys, tokens: PAGE_TOKENS, channels: d };
        let widths = [8, 6, 5, 4, 3, 2, 1, 0];
        let (mut tables, mut stretch) = (Vec::new(), Vec::new());
        for (b, &width) in widths.iter().enumerate() {
            let mut band: Vec<f32> =
                rows.chunks_exact(d).flat_map(|row| row[b * BAND..(b + 1) * BAND].to_vec()).collect();
            band.sort_by(f32::total_cmp);
            let fit = fit(&band, width);
            tables.extend(fit.table);
            stretch.push(fit.stretch);
        }
        let part = Allotted::new(shape, &widths.map(|w| w as f32), &tables, &stretch).unwrap();
        assert_eq!(part.bytes(), (8 + 6 + 5 + 4 + 3 + 2 + 1) * BAND * PAGE_TOKENS / 8);
        let mut page = vec![0; part.bytes()];
        let (mut with, mut power) = ([0.0f64; 8], [0.0f64; 8]);
        for rows in rows.chunks_exact(PAGE_TOKENS * d) {
            part.encode(rows, Hints::default(), &mut page);
            let mut decoded = vec![0.0; rows.len()];
            part.decode(&page, &mut decoded);
            for (i, (x, y)) in rows.iter().zip(&decoded).enumerate() {
                with[i % d / BAND] += f64::from(x * y);
                power[i % d / BAND] += f64::from(x * x);
            }
        }
        for b in 0..7 {
            assert!((with[b] / power[b] - 1.0).abs() < 0.01, "band {b}: {}", with[b] / power[b]);
        }
        assert_eq!(with[7], 0.0);
    }
}

//! What a profile expects of every number of a page, as points of its grid.
//!
//! Keys of a channel lie around a mean before rotary position turns them, and around a wave after: where the profile knows the
//! angles, the wave is what is expected. All of it is sums, products and series in a fixed order, so that whoever decodes
//! expects the same.

use super::profile::{Channel, Lane};
use crate::codec::entropy::family::{CLASSES, class_of};
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::encode::math::elementary::sin_cos;

/// The class of a channel of which nothing is known.
const TYPICAL: u8 = 8;

/// Rotary position in the rotate-half pairing: channel `i` turns with channel `i + pairs`.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// Radians a position, by pair.
    angles: Vec<f64>,
    /// Cosine and sine of each pair at the first positions of a page.
    within: Vec<[(f64, f64); PAGE_TOKENS]>,
}

impl Turn {
    /// Of these angles; none for those that do not turn.
    pub fn new(angles: &[f32]) -> Option<Turn> {
        let angles: Vec<f64> = angles.iter().map(|&angle| f64::from(angle)).collect();
        let within = angles.iter().map(|angle| std::array::from_fn(|token| turned(angle * token as f64))).collect();
        (!angles.is_empty()).then_some(Turn { angles, within })
    }

    /// Pairs of channels that turn.
    pub fn pairs(&self) -> usize {
        self.angles.len()
    }

    /// Cosine and sine of a pair at the positions of the page that starts at `start`.
    fn page(&self, pair: usize, start: u64) -> impl Iterator<Item = (f64, f64)> {
        let (c, s) = turned(self.angles[pair] * start as f64);
        self.within[pair].iter().map(move |(cos, sin)| (c * cos - s * sin, s * cos + c * sin))
    }

    /// Keys, `[channels][tokens]`, as they were before.
    pub fn undo(&self, start: u64, keys: &mut [f32]) {
        let half = self.pairs() * PAGE_TOKENS;
        let Some((low, high)) = keys.get_mut(..2 * half).map(|keys| keys.split_at_mut(half)) else { return };
        let rows = low.chunks_exact_mut(PAGE_TOKENS).zip(high.chunks_exact_mut(PAGE_TOKENS));
        for (pair, (low, high)) in rows.enumerate() {
            for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(self.page(pair, start)) {
                let (x, y) = (f64::from(*a), f64::from(*b));
                (*a, *b) = ((x * cos + y * sin) as f32, (y * cos - x * sin) as f32);
            }
        }
    }
}

fn turned(angle: f64) -> (f64, f64) {
    let (sin, cos) = sin_cos(angle);
    (cos, sin)
}

/// What is expected of a side.
pub struct Forecast {
    /// Class of each channel; see `entropy/family.rs`.
    pub classes: Vec<u8>,
    /// Points, `[channels][tokens]`; none for zeros.
    points: Option<Vec<i32>>,
}

impl Forecast {
    /// Of a side about which nothing is known.
    pub fn none(channels: usize) -> Forecast {
        Forecast { classes: vec![TYPICAL; channels], points: None }
    }

    /// Of a lane that was learned, turned if it is one of keys; `usual` is the step of a usual token.
    pub fn of(lane: &Lane, turn: Option<&Turn>, start: u64, steps: &[f32; PAGE_TOKENS], usual: f32) -> Forecast {
        let channels = &lane.channels;
        let mut points = vec![0; channels.len() * PAGE_TOKENS];
        let turning = turn.filter(|turn| 2 * turn.pairs() <= channels.len());
        let pairs = turning.map_or(0, Turn::pairs);
        let (low, rest) = points.split_at_mut(pairs * PAGE_TOKENS);
        let (high, rest) = rest.split_at_mut(pairs * PAGE_TOKENS);
        let inverse: [f64; PAGE_TOKENS] = steps.map(|step| 1.0 / f64::from(step));
        let point = |x: f64| x.round_ties_even().clamp(-4e6, 4e6) as i32;
        if let Some(turn) = turning {
            let rows = low.chunks_exact_mut(PAGE_TOKENS).zip(high.chunks_exact_mut(PAGE_TOKENS));
            for (pair, (low, high)) in rows.enumerate() {
                let (x, y) = (f64::from(channels[pair].mean), f64::from(channels[pair + pairs].mean));
                let page = turn.page(pair, start).zip(&inverse);
                for ((a, b), ((cos, sin), inverse)) in low.iter_mut().zip(high).zip(page) {
                    (*a, *b) = (point((x * cos - y * sin) * inverse), point((y * cos + x * sin) * inverse));
                }
            }
        }
        for (row, channel) in rest.chunks_exact_mut(PAGE_TOKENS).zip(&channels[2 * pairs..]) {
            row.iter_mut().zip(&inverse).for_each(|(to, inverse)| *to = point(f64::from(channel.mean) * inverse));
        }
        // What turns is as wide as both channels are on average.
        let spread = |at: usize| match at < 2 * pairs {
            true => pair_spread(channels[at % pairs], channels[at % pairs + pairs]),
            false => channels[at].spread,
        };
        let classes = (0..channels.len()).map(|at| class_of(spread(at) / usual).min(CLASSES)).collect();
        Forecast { classes, points: Some(points) }
    }

    /// Takes what was expected off.
    pub fn take(&self, points: &mut [i32]) {
        if let Some(expected) = &self.points {
            points.iter_mut().zip(expected).for_each(|(point, expected)| *point -= expected);
        }
    }

    /// Adds it again.
    pub fn add(&self, points: &mut [i32]) {
        if let Some(expected) = &self.points {
            points.iter_mut().zip(expected).for_each(|(point, expected)| *point = point.wrapping_add(*expected));
        }
    }
}

fn pair_spread(a: Channel, b: Channel) -> f32 {
    ((a.spread * a.spread + b.spread * b.spread) / 2.0).sqrt()
}

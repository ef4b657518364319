//! Rotary position taken off keys and put on again, in a fixed order of double-precision sums and products, so that whoever
//! decodes gets the same bits.

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::encode::math::elementary::sin_cos;

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

    /// Keys, `[channels][tokens]`, of the page that starts at `start`, as they were before.
    pub fn undo(&self, start: u64, keys: &mut [f32]) {
        self.turn(start, keys, -1.0);
    }

    /// Turns keys as [`Turn::undo`] has them.
    pub fn redo(&self, start: u64, keys: &mut [f32]) {
        self.turn(start, keys, 1.0);
    }

    fn turn(&self, start: u64, keys: &mut [f32], way: f64) {
        let half = self.pairs() * PAGE_TOKENS;
        let Some((low, high)) = keys.get_mut(..2 * half).map(|keys| keys.split_at_mut(half)) else { return };
        let rows = low.as_chunks_mut::<PAGE_TOKENS>().0.iter_mut().zip(high.as_chunks_mut::<PAGE_TOKENS>().0);
        for (((low, high), within), angle) in rows.zip(&self.within).zip(&self.angles) {
            let (c, s) = turned(angle * start as f64);
            for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(within) {
                let (cos, sin) = (c * cos - s * sin, way * (s * cos + c * sin));
                let (x, y) = (f64::from(*a), f64::from(*b));
                (*a, *b) = ((x * cos - y * sin) as f32, (y * cos + x * sin) as f32);
            }
        }
    }

    /// Turns one vector as if it stood `distance` positions further.
    pub fn further(&self, distance: f64, x: &mut [f64]) {
        let pairs = self.pairs();
        let Some((low, high)) = x.get_mut(..2 * pairs).map(|x| x.split_at_mut(pairs)) else { return };
        for ((a, b), angle) in low.iter_mut().zip(high).zip(&self.angles) {
            let (cos, sin) = turned(angle * distance);
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

fn turned(angle: f64) -> (f64, f64) {
    let (sin, cos) = sin_cos(angle);
    (cos, sin)
}

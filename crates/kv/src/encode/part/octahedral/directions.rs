//! Which direction of the octahedron, and which length, a triplet comes to: eight triplets at a time, since which of the
//! neighbours is best cannot be foretold and each alone would wait for its own comparisons.

use super::map::{length_levels, side_levels, unmap};
use cachalot_kernels::dispatch;
use cachalot_kernels::simd::Simd;

/// Triplets looked at together.
pub(super) const AT_ONCE: usize = 8;

/// The middle one of nine.
const MIDDLE: usize = 4;

/// Levels and the directions they make.
#[derive(Clone, Debug)]
pub(super) struct Directions {
    side_bits: usize,
    /// Levels of a side of the direction, ascending.
    sides: Vec<f64>,
    /// Levels of the length of a triplet of a unit row.
    lengths: Vec<f64>,
    /// The directions, `[coordinate][second side][first side]`.
    units: [Vec<f64>; 3],
}

impl Directions {
    /// Of rows of so many channels.
    pub fn new(channels: usize, side_bits: usize, length_bits: usize) -> Directions {
        let sides = side_levels(1 << side_bits);
        let all: Vec<_> = sides.iter().flat_map(|&eta| sides.iter().map(move |&xi| unmap(xi, eta))).collect();
        let units = [0, 1, 2].map(|c| all.iter().map(|unit| unit[c]).collect());
        Directions { side_bits, sides, lengths: length_levels(channels, 1 << length_bits), units }
    }

    /// Levels of lengths, ascending.
    pub fn lengths(&self) -> &[f64] {
        &self.lengths
    }

    /// The coordinates of each direction and a zero.
    pub fn rows(&self) -> Vec<[f32; 4]> {
        let [x, y, z] = &self.units;
        x.iter().zip(y).zip(z).map(|((&x, &y), &z)| [x as f32, y as f32, z as f32, 0.0]).collect()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        8 * (self.sides.len() + self.lengths.len() + 3 * self.units[0].len())
    }
}

dispatch! {
    /// Codes of triplets of unit rows, `[coordinate][triplet]`: of the nine directions about the nearest of each side, the one
    /// that points furthest along it, then the length nearest to how far.
    pub(super) fn codes(of: &Directions, t: &[[f64; AT_ONCE]; 3]) -> [[u16; AT_ONCE]; 3] = codes_body
}

// The set only says which features the loops are compiled with.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn codes_body<S: Simd>(of: &Directions, t: &[[f64; AT_ONCE]; 3]) -> [[u16; AT_ONCE]; 3] {
    let [xi, eta] = mapped(t);
    let about = [around(&of.sides, &xi), around(&of.sides, &eta)];
    let mut along = [[0.0; AT_ONCE]; 9];
    for (k, along) in along.iter_mut().enumerate() {
        let (first, second) = (&about[0][k / 3], &about[1][k % 3]);
        for i in 0..AT_ONCE {
            let at = (second[i] << of.side_bits | first[i]) as usize;
            // SAFETY: both are numbers of levels, of which there are two to the power of the bits; so many pairs have units.
            let [x, y, z] = unsafe { [0, 1, 2].map(|c| *of.units[c].get_unchecked(at)) };
            along[i] = t[0][i] * x + t[1][i] * y + t[2][i] * z;
        }
    }
    let mut best = along[0];
    for along in &along[1..] {
        for i in 0..AT_ONCE {
            best[i] = if along[i] > best[i] { along[i] } else { best[i] };
        }
    }
    let [mut first, mut second] = [about[0][1], about[1][1]];
    // The first of equals stays, but for the nearest of each side, which comes before all.
    for k in (0..9).rev().chain([MIDDLE]) {
        for i in 0..AT_ONCE {
            let here = along[k][i] == best[i];
            first[i] = if here { about[0][k / 3][i] } else { first[i] };
            second[i] = if here { about[1][k % 3][i] } else { second[i] };
        }
    }
    [first, second, nearest(&of.lengths, &best)].map(|codes| codes.map(|code| code as u16))
}

/// See [`super::map::map`].
#[inline(always)]
fn mapped(n: &[[f64; AT_ONCE]; 3]) -> [[f64; AT_ONCE]; 2] {
    let mut to = [[0.0; AT_ONCE]; 2];
    for i in 0..AT_ONCE {
        let length = n[0][i].abs() + n[1][i].abs() + n[2][i].abs();
        let [x, y, z] = [n[0][i] / length, n[1][i] / length, n[2][i] / length];
        let [across, up] = [1.0 - y.abs(), 1.0 - x.abs()];
        let [across, up] = [if x < 0.0 { -across } else { across }, if y < 0.0 { -up } else { up }];
        let there = length > 0.0;
        to[0][i] = if !there {
            0.0
        } else if z >= 0.0 {
            x
        } else {
            across
        };
        to[1][i] = if !there {
            0.0
        } else if z >= 0.0 {
            y
        } else {
            up
        };
    }
    to
}

/// The nearest level and its neighbours; beyond the last the last once more, as before the first.
#[inline(always)]
fn around(levels: &[f64], x: &[f64; AT_ONCE]) -> [[u64; AT_ONCE]; 3] {
    let (middle, last) = (nearest(levels, x), levels.len() as u64 - 1);
    [middle.map(|code| code.saturating_sub(1)), middle, middle.map(|code| (code + 1).min(last))]
}

/// Numbers of the nearest levels, the lower of equals: as many as there are pairs of neighbours whose upper one is nearer.
#[inline(always)]
fn nearest(levels: &[f64], x: &[f64; AT_ONCE]) -> [u64; AT_ONCE] {
    let mut codes = [0; AT_ONCE];
    for pair in levels.windows(2) {
        for i in 0..AT_ONCE {
            codes[i] += u64::from(x[i] - pair[0] > pair[1] - x[i]);
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::super::super::super::math::{Rng, lloyd};
    use super::super::map::map;
    use super::*;
    use cachalot_kernels::Isa;

    /// One triplet, by the words of the method.
    fn alone(of: &Directions, t: [f64; 3]) -> [u16; 3] {
        let sides = map(t).map(|side| lloyd::nearest(&of.sides, side) as i64);
        let clamped = |code: i64| code.clamp(0, of.sides.len() as i64 - 1) as usize;
        let along = |[xi, eta]: [usize; 2]| {
            let unit = [0, 1, 2].map(|c| of.units[c][eta << of.side_bits | xi]);
            t[0] * unit[0] + t[1] * unit[1] + t[2] * unit[2]
        };
        let mut best = sides.map(clamped);
        for (i, j) in (-1..=1).flat_map(|i| (-1..=1).map(move |j| (i, j))) {
            let other = [clamped(sides[0] + i), clamped(sides[1] + j)];
            if along(other) > along(best) {
                best = other;
            }
        }
        [best[0] as u16, best[1] as u16, lloyd::nearest(&of.lengths, along(best)) as u16]
    }

    #[test]
    fn eight_at_a_time_are_each_alone() {
        let mut rng = Rng::new(9, 0);
        for bits in 2..=4 {
            let of = Directions::new(64, bits + 1, bits - 1);
            for round in 0..200 {
                let scale = if round == 0 { 0.0 } else { 0.1 + 0.3 * rng.uniform() };
                let mut t = [0; 3].map(|_| [0; AT_ONCE].map(|_| scale * rng.normal()));
                // On the edges of the octahedron, too.
                t[round % 3][1] = 0.0;
                t[2][2] = -t[2][2].abs();
                let expected: Vec<[u16; 3]> = (0..AT_ONCE).map(|i| alone(&of, [t[0][i], t[1][i], t[2][i]])).collect();
                for isa in Isa::available() {
                    let got = codes(isa, &of, &t);
                    for (i, expected) in expected.iter().enumerate() {
                        assert_eq!(&[got[0][i], got[1][i], got[2][i]], expected, "{isa} {bits} {round} {i}");
                    }
                }
            }
        }
    }
}

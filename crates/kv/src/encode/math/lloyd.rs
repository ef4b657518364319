//! The best scalar quantizer of a density known at the middles of many equal cells (Lloyd, 1957; Max, 1960).

/// A density on `from..to`, in cells; it need not integrate to one.
pub struct Tabulated {
    from: f64,
    step: f64,
    /// Mass and first moment of all cells before each.
    mass: Vec<f64>,
    moment: Vec<f64>,
}

impl Tabulated {
    /// `cells` values of `density`, taken at the middles of cells.
    pub fn new(from: f64, to: f64, cells: usize, density: impl Fn(f64) -> f64) -> Tabulated {
        let step = (to - from) / cells as f64;
        let (mut mass, mut moment) = (vec![0.0], vec![0.0]);
        for i in 0..cells {
            let x = from + (i as f64 + 0.5) * step;
            let p = density(x);
            mass.push(mass[i] + p);
            moment.push(moment[i] + p * x);
        }
        Tabulated { from, step, mass, moment }
    }

    /// A running sum up to `x`, straight within a cell.
    fn upto(&self, sums: &[f64], x: f64) -> f64 {
        let at = ((x - self.from) / self.step).clamp(0.0, (sums.len() - 1) as f64);
        let i = (at as usize).min(sums.len() - 2);
        sums[i] + (at - i as f64) * (sums[i + 1] - sums[i])
    }

    /// The levels that lose least, ascending: every one the mean of what is nearest to it.
    pub fn levels(&self, count: usize) -> Vec<f64> {
        let total = *self.mass.last().unwrap_or(&0.0);
        // Starts with levels of equal mass.
        let mut cell = 0;
        let mut levels: Vec<f64> = (0..count)
            .map(|i| {
                let wanted = (i as f64 + 0.5) / count as f64 * total;
                while cell + 2 < self.mass.len() && self.mass[cell + 1] < wanted {
                    cell += 1;
                }
                self.from + (cell as f64 + 0.5) * self.step
            })
            .collect();
        for _ in 0..20_000 {
            let mut moved = 0.0f64;
            let before = levels.clone();
            let bound = |i: usize| match i {
                0 => self.from,
                i if i == count => self.from + self.step * (self.mass.len() - 1) as f64,
                i => (before[i - 1] + before[i]) / 2.0,
            };
            for (i, level) in levels.iter_mut().enumerate() {
                let within = |sums: &[f64]| self.upto(sums, bound(i + 1)) - self.upto(sums, bound(i));
                let mass = within(&self.mass);
                if mass > 0.0 {
                    let to = within(&self.moment) / mass;
                    moved = moved.max((to - *level).abs());
                    *level = to;
                }
            }
            if moved < 1e-9 * self.step * self.mass.len() as f64 {
                break;
            }
        }
        levels
    }
}

/// Number of the level nearest to `x`, the lower of equals; `levels` ascend.
pub fn nearest(levels: &[f64], x: f64) -> usize {
    // Halved without branches: which half it is cannot be foretold.
    let (mut above, mut left) = (0, levels.len());
    while left > 1 {
        let half = left / 2;
        above += half * usize::from(levels[above + half - 1] < x);
        left -= half;
    }
    above += usize::from(levels.get(above).is_some_and(|&level| level < x));
    match above {
        0 => 0,
        n if n == levels.len() => n - 1,
        n if x - levels[n - 1] <= levels[n] - x => n - 1,
        n => n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_a_triangle_and_of_a_uniform_density() {
        let uniform = Tabulated::new(-1.0, 1.0, 1000, |_| 3.0).levels(4);
        assert!(uniform.iter().zip([-0.75, -0.25, 0.25, 0.75]).all(|(a, b)| (a - b).abs() < 1e-6), "{uniform:?}");
        // Density 1 - |x|: one level a side is the mean of a side, a third.
        let triangle = Tabulated::new(-1.0, 1.0, 4000, |x: f64| 1.0 - x.abs()).levels(2);
        assert!((triangle[1] - 1.0 / 3.0).abs() < 1e-5 && (triangle[0] + triangle[1]).abs() < 1e-9);
    }

    #[test]
    fn nearest_takes_the_lower_of_equals() {
        let levels = [-1.0, 0.0, 2.0];
        for (x, expected) in [(-9.0, 0), (-0.5, 0), (-0.4, 1), (1.0, 1), (1.1, 2), (9.0, 2)] {
            assert_eq!(nearest(&levels, x), expected, "{x}");
        }
    }
}

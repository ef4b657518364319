//! Which pairs of a unit (a layer, or a head of one) are worth trying, and which units are alike: KVTuner's two reductions of
//! the search (Li et al., 2025).

use super::space::{KEYS, Pair, VALUES};

/// What pairs cost a unit, and what they take.
#[derive(Clone, Debug)]
pub struct Sensitivity {
    /// Squared relative errors of the attention output, `[unit][rung]`, of the keys alone.
    pub keys: Vec<Vec<f64>>,
    /// Of the values alone.
    pub values: Vec<Vec<f64>>,
    /// Bits of the keys, by rung.
    pub key_bits: Vec<f64>,
    /// Bits of the values, by rung.
    pub value_bits: Vec<f64>,
}

impl Sensitivity {
    /// Squared relative error of a unit: errors of keys and values are as good as independent.
    pub fn error(&self, unit: usize, pair: Pair) -> f64 {
        self.keys[unit][pair.keys] + self.values[unit][pair.values]
    }

    /// Bits per key and value.
    pub fn bits(&self, pair: Pair) -> f64 {
        (self.key_bits[pair.keys] + self.value_bits[pair.values]) / 2.0
    }

    /// Pairs of a unit that no other beats in bits without a greater error, from few bits to many.
    fn front(&self, unit: usize) -> Vec<Pair> {
        let mut pairs: Vec<Pair> =
            (0..KEYS.len()).flat_map(|keys| (0..VALUES.len()).map(move |values| Pair { keys, values })).collect();
        pairs.sort_by(|&a, &b| {
            self.bits(a).total_cmp(&self.bits(b)).then(self.error(unit, a).total_cmp(&self.error(unit, b)))
        });
        let mut least = f64::INFINITY;
        pairs.retain(|&pair| {
            let better = self.error(unit, pair) < least;
            least = least.min(self.error(unit, pair));
            better
        });
        pairs
    }
}

/// Units that are set alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The units.
    pub units: Vec<usize>,
    /// Pairs that are worth trying, from few bits to many.
    pub pairs: Vec<Pair>,
}

/// At most `most` groups: units with the same front are together first, then those whose errors are closest.
pub fn groups(sensitivity: &Sensitivity, most: usize) -> Vec<Group> {
    let units = sensitivity.keys.len();
    let mut groups: Vec<Group> =
        (0..units).map(|unit| Group { units: vec![unit], pairs: sensitivity.front(unit) }).collect();
    let curve = |group: &Group| -> Vec<f64> {
        let of = |unit: &usize| {
            let own = sensitivity.keys[*unit].iter().chain(&sensitivity.values[*unit]);
            own.map(|error| (error + 1e-12).ln()).collect::<Vec<f64>>()
        };
        let curves: Vec<Vec<f64>> = group.units.iter().map(of).collect();
        (0..curves[0].len()).map(|i| curves.iter().map(|curve| curve[i]).sum::<f64>() / curves.len() as f64).collect()
    };
    while groups.len() > most.max(1) {
        let curves: Vec<Vec<f64>> = groups.iter().map(curve).collect();
        let mut best = (f64::INFINITY, 0, 1);
        for a in 0..groups.len() {
            for b in a + 1..groups.len() {
                let apart: f64 = curves[a].iter().zip(&curves[b]).map(|(x, y)| (x - y) * (x - y)).sum();
                // Ward's: merging large groups costs more.
                let (m, n) = (groups[a].units.len() as f64, groups[b].units.len() as f64);
                let fronts = if groups[a].pairs == groups[b].pairs { 1.0 } else { 4.0 };
                let cost = fronts * apart * m * n / (m + n);
                if cost < best.0 {
                    best = (cost, a, b);
                }
            }
        }
        let other = groups.remove(best.2);
        let group = &mut groups[best.1];
        group.units.extend(other.units);
        group.units.sort_unstable();
        group.pairs.extend(other.pairs);
        let bits = |pair: &Pair| sensitivity.bits(*pair);
        group.pairs.sort_by(|a, b| bits(a).total_cmp(&bits(b)).then(a.cmp(b)));
        group.pairs.dedup();
    }
    groups
}

/// From the coarsest pairs to the finest, one group at a time: each step takes off the most error for its bits.
pub fn ladder(sensitivity: &Sensitivity, groups: &[Group]) -> Vec<Vec<usize>> {
    let error = |group: &Group, at: usize| -> f64 {
        group.units.iter().map(|&unit| sensitivity.error(unit, group.pairs[at])).sum()
    };
    let bits = |group: &Group, at: usize| sensitivity.bits(group.pairs[at]) * group.units.len() as f64;
    let mut at = vec![0; groups.len()];
    let mut steps = vec![at.clone()];
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for (i, group) in groups.iter().enumerate() {
            for next in at[i] + 1..group.pairs.len() {
                let less = error(group, at[i]) - error(group, next);
                let more = bits(group, next) - bits(group, at[i]);
                let gain = less / more.max(1e-9);
                if less > 0.0 && best.is_none_or(|(known, ..)| gain > known) {
                    best = Some((gain, i, next));
                }
            }
        }
        let Some((_, i, next)) = best else { return steps };
        at[i] = next;
        steps.push(at.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Layers with errors of `scale · 4^-bits`, keys `keys` times worse.
    fn made(scales: &[f64], keys: f64) -> Sensitivity {
        let bits = vec![2.0, 3.0, 4.0, 5.5, 8.5];
        let errors =
            |by: f64| scales.iter().map(|s| bits.iter().map(|b: &f64| by * s * 4f64.powf(-b)).collect()).collect();
        Sensitivity { keys: errors(keys), values: errors(1.0), key_bits: bits.clone(), value_bits: bits.clone() }
    }

    #[test]
    fn fronts_have_no_pair_that_another_beats() {
        let sensitivity = made(&[1.0], 16.0);
        let front = sensitivity.front(0);
        assert!(front.is_sorted_by(
            |&a, &b| sensitivity.bits(a) < sensitivity.bits(b) && sensitivity.error(0, a) > sensitivity.error(0, b)
        ));
        for keys in 0..5 {
            for values in 0..5 {
                let pair = Pair { keys, values };
                let beaten = |&other: &Pair| {
                    sensitivity.bits(other) <= sensitivity.bits(pair)
                        && sensitivity.error(0, other) <= sensitivity.error(0, pair)
                };
                assert!(front.iter().any(beaten), "{pair:?}");
            }
        }
        // Keys that matter sixteen times as much never have fewer bits.
        assert!(front.iter().all(|pair| pair.keys >= pair.values), "{front:?}");
    }

    #[test]
    fn layers_alike_are_together() {
        let groups = groups(&made(&[100.0, 1.0, 1.1, 0.9, 120.0, 1.0], 4.0), 2);
        let mut layers: Vec<Vec<usize>> = groups.into_iter().map(|group| group.units).collect();
        layers.sort();
        assert_eq!(layers, [vec![0, 4], vec![1, 2, 3, 5]]);
    }

    #[test]
    fn bits_go_first_where_errors_are_great() {
        let sensitivity = made(&[100.0, 1.0], 1.0);
        let groups = groups(&sensitivity, 2);
        let ladder = ladder(&sensitivity, &groups);
        let sum = |at: &Vec<usize>, of: &dyn Fn(usize, Pair) -> f64| -> f64 {
            groups.iter().zip(at).map(|(group, &at)| of(group.units[0], group.pairs[at])).sum()
        };
        assert!(ladder.is_sorted_by(|a, b| {
            sum(a, &|layer, pair| sensitivity.error(layer, pair))
                > sum(b, &|layer, pair| sensitivity.error(layer, pair))
                && sum(a, &|_, pair| sensitivity.bits(pair)) < sum(b, &|_, pair| sensitivity.bits(pair))
        }));
        let first = groups.iter().position(|group| group.units == [0]).unwrap();
        // A hundred times the error is worth more than three bits.
        assert!(ladder.iter().all(|at| at[first] >= at[1 - first]), "{ladder:?}");
        let last = ladder.last().unwrap();
        assert!(groups.iter().zip(last).all(|(group, &at)| at + 1 == group.pairs.len()));
    }
}

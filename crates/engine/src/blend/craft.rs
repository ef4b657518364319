//! How far a chunk depends on where it was computed, and how much of it has to be computed again elsewhere (Cache-Craft, Agarwal
//! et al., 2025). Some forms are not confirmed by code: its normalisers, the product for the overhead, and the score of a variant.

use std::cmp::Ordering;
use std::hash::Hash;

use cachalot_kv::observe::ChunkMass;

/// From this share on a chunk is computed whole, and stored as a variant of its own.
pub const NEARLY_ALL: f64 = 0.9;

/// What is known of a chunk that was computed behind others, `K` their names.
#[derive(Clone, Debug, PartialEq)]
pub struct Context<K> {
    /// The chunks that stood before it, in order, each once.
    pub before: Vec<K>,
    /// Attention that its tokens gave each of them.
    pub inter: Vec<f64>,
    /// How much it leans on what stands outside; see [`impact`].
    pub impact: f64,
    /// Its tokens, those that look outside most first.
    pub order: Vec<u32>,
}

impl<K: Clone + Eq + Hash> Context<K> {
    /// Of what was seen of a chunk, behind chunks of these names and lengths.
    pub fn new(mass: &ChunkMass, names: &[K], lengths: &[usize]) -> Context<K> {
        let (mut before, mut inter) = (Vec::<K>::new(), Vec::<f64>::new());
        for (name, share) in names.iter().zip(&mass.inter) {
            match before.iter().position(|known| known == name) {
                Some(i) => inter[i] += share,
                None => {
                    before.push(name.clone());
                    inter.push(*share);
                }
            }
        }
        let mut order: Vec<u32> = (0..mass.outside.len() as u32).collect();
        let outside = |token: &u32| mass.outside[*token as usize];
        order.sort_by(|a, b| outside(b).partial_cmp(&outside(a)).unwrap_or(Ordering::Equal).then(a.cmp(b)));
        let impact = impact(mass.span.len(), &mass.inter, &lengths[..names.len().min(lengths.len())], mass.intra);
        Context { before, inter, impact, order }
    }

    /// The share of its tokens that are computed again behind other chunks, `now` in order: from 0 to 1.
    pub fn overhead(&self, now: &[K], alpha: f64) -> f64 {
        let overlap = overlap(&self.before, &self.inter, now) * (1.0 - disorder(&self.before, now));
        (alpha * self.impact * (1.0 - overlap)).clamp(0.0, 1.0)
    }

    /// The tokens that this overhead stands for, ascending.
    pub fn rows(&self, overhead: f64) -> Vec<u32> {
        let count = (overhead * self.order.len() as f64).ceil() as usize;
        let mut rows = self.order[..count.min(self.order.len())].to_vec();
        rows.sort_unstable();
        rows
    }
}

/// CCI, in `[0.5, 1)`: a sigmoid of the attention that goes outside over that which stays within, both for each pair of tokens.
/// `inter` is what `tokens` give chunks of `lengths` tokens together, `intra` what they give one another.
pub fn impact(tokens: usize, inter: &[f64], lengths: &[usize], intra: f64) -> f64 {
    let pairs = tokens as f64 * lengths.iter().sum::<usize>() as f64;
    let outside = if pairs > 0.0 { inter.iter().sum::<f64>() / pairs } else { 0.0 };
    let within = intra / (tokens as f64 * tokens as f64);
    match (outside > 0.0, within > 0.0) {
        (false, _) => 0.5,
        (true, false) => 1.0,
        (true, true) => 1.0 / (1.0 + (-outside / within).exp()),
    }
}

/// β: of what a chunk gave those `before` it, the share that went to such as stand before it `now`; 1 where there were none.
pub fn overlap<K: Eq>(before: &[K], inter: &[f64], now: &[K]) -> f64 {
    let all: f64 = inter.iter().sum();
    let common: f64 = before.iter().zip(inter).filter(|(name, _)| now.contains(name)).map(|(_, share)| share).sum();
    if all > 0.0 { common / all } else { f64::from(u8::from(before.iter().all(|name| now.contains(name)))) }
}

/// γ: the share of pairs of common chunks that stand in the other order (Kendall's distance); 0 for fewer than two.
pub fn disorder<K: Eq>(before: &[K], now: &[K]) -> f64 {
    let places: Vec<usize> = before.iter().filter_map(|name| now.iter().position(|other| other == name)).collect();
    let n = places.len();
    if n < 2 {
        return 0.0;
    }
    let discordant =
        (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).filter(|&(i, j)| places[i] > places[j]).count();
    discordant as f64 / (n * (n - 1) / 2) as f64
}

/// What a use adds to a variant's score, whose lowest goes first: variants that are cheap to mend gain more. The cheapest has no
/// overhead at all; it counts as one token.
pub fn gain(overhead: f64, tokens: usize) -> f64 {
    1.0 / overhead.max(1.0 / tokens.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mass(outside: &[f64], inter: &[f64], intra: f64) -> ChunkMass {
        ChunkMass { span: 100..100 + outside.len(), inter: inter.to_vec(), intra, outside: outside.to_vec() }
    }

    #[test]
    fn the_same_chunks_in_the_same_order_cost_nothing() {
        let context = Context::new(&mass(&[0.5, 0.1, 0.9, 0.3], &[0.8, 1.0], 2.2), &["a", "b"], &[10, 20]);
        assert_eq!(context.overhead(&["a", "b"], 1.0), 0.0);
        assert!(context.rows(0.0).is_empty());
        // Further ones among them change neither overlap nor order.
        assert_eq!(context.overhead(&["c", "a", "d", "b"], 1.0), 0.0);
        // Nothing stood before it: nothing is wrong.
        let first = Context::new(&mass(&[0.0; 4], &[], 4.0), &[], &[]);
        assert_eq!((first.impact, first.overhead(&["a"], 1.0)), (0.5, 0.0));
    }

    #[test]
    fn other_chunks_cost_the_impact_and_a_turned_order_all_of_it() {
        let context =
            Context::new(&mass(&[0.5, 0.1, 0.9, 0.3], &[0.6, 0.8, 0.4], 2.2), &["a", "b", "c"], &[10, 20, 30]);
        // Disjoint: β' = 0.
        for alpha in [0.3, 1.0] {
            assert_eq!(context.overhead(&["x", "y"], alpha), alpha * context.impact);
        }
        assert_eq!(context.overhead(&["x"], 10.0), 1.0, "clipped");
        assert_eq!(disorder(&["a", "b", "c"], &["c", "b", "a"]), 1.0);
        assert_eq!(context.overhead(&["c", "b", "a"], 1.0), context.impact);
        // One of three pairs.
        assert!((disorder(&["a", "b", "c"], &["b", "a", "c"]) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(disorder(&["a"], &["a"]), 0.0);
        // Two thirds of the attention went to those that stand there still.
        let part = overlap(&context.before, &context.inter, &["a", "x", "b"]);
        assert!((part - 1.4 / 1.8).abs() < 1e-12);
        assert!((context.overhead(&["a", "b"], 1.0) - context.impact * (1.0 - part)).abs() < 1e-12);
    }

    #[test]
    fn impact_is_a_sigmoid_of_outside_over_within() {
        assert_eq!(impact(10, &[0.0, 0.0], &[5, 5], 10.0), 0.5, "nothing goes outside");
        // 4 over 10 * 20 pairs outside, 6 over 10 * 10 within: a third.
        let expected = 1.0 / (1.0 + (-1.0f64 / 3.0).exp());
        assert!((impact(10, &[1.0, 3.0], &[5, 15], 6.0) - expected).abs() < 1e-12);
        assert!((0.99..1.0).contains(&impact(10, &[9.0], &[1], 10.0)));
    }

    #[test]
    fn tokens_that_look_outside_most_are_computed_again() {
        let context = Context::new(&mass(&[0.5, 0.1, 0.9, 0.3, 0.5], &[2.3], 2.7), &["a"], &[10]);
        assert_eq!(context.order, [2, 0, 4, 3, 1]);
        assert_eq!(context.rows(0.21), [0, 2], "as many as 0.21 * 5, rounded up");
        assert_eq!(context.rows(1.0), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_chunk_that_stood_there_twice_counts_once() {
        let context = Context::new(&mass(&[1.0], &[0.2, 0.3, 0.1], 0.4), &["a", "b", "a"], &[5, 5, 5]);
        assert_eq!((context.before.clone(), context.inter.len()), (vec!["a", "b"], 2));
        assert!((context.inter[0] - 0.3).abs() < 1e-12);
        assert_eq!(context.overhead(&["a", "b"], 1.0), 0.0);
    }

    #[test]
    fn cheap_variants_gain_more() {
        assert!(gain(0.0, 100) == 100.0 && gain(0.5, 100) == 2.0 && gain(1.0, 100) == 1.0);
    }
}

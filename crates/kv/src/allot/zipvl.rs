//! ZipVL's ratio (He et al., 2024): as many tokens as hold a share of the attention, layer by layer; the budget is the most.

use super::{Budget, Choose};
use crate::score::{Method, Scored};

/// How much of the attention must stay.
#[derive(Debug)]
pub(crate) struct ZipVl {
    pub share: f64,
}

impl Choose for ZipVl {
    fn allot(&self, of: &dyn Method, layers: &[Scored<'_>], _: Budget, kept: &mut [Vec<usize>]) {
        for (layer, kept) in layers.iter().zip(kept).filter(|(layer, _)| !layer.scores.is_empty()) {
            // What was received, whatever the ranking divides it by; the same for all heads.
            let mut received = layer.scene.received(0);
            for head in 1..kept.len() {
                received.iter_mut().zip(layer.scene.received(head)).for_each(|(sum, x)| *sum += x);
            }
            let count = enough(received, self.share).max(of.least());
            kept.iter_mut().for_each(|kept| *kept = count.min(*kept));
        }
    }

    fn describe(&self) -> String {
        format!("as many as hold {} of the attention, at most the budget", self.share)
    }
}

/// The fewest numbers that add up to a share of all.
fn enough(mut x: Vec<f64>, share: f64) -> usize {
    x.sort_by(|a, b| b.total_cmp(a));
    let target = x.iter().sum::<f64>() * share;
    let mut sum = 0.0;
    // Rounding must not ask for one more.
    let more = |x: &&f64| {
        let open = sum < target * (1.0 - 1e-12);
        sum += **x;
        open
    };
    x.iter().take_while(more).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_attention_needs_its_share_and_one_peak_one_token() {
        assert_eq!(enough(vec![0.5; 200], 0.975), 195);
        assert_eq!(enough(vec![0.0, 3.0, 0.0], 0.975), 1);
        assert_eq!(enough(vec![1.0, 2.0, 3.0], 1.0), 3);
        let x = vec![5.0, 1.0, 0.5, 0.25];
        assert!((1..100).map(|s| enough(x.clone(), f64::from(s) / 100.0)).is_sorted());
    }
}

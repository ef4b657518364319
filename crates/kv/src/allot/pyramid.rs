//! PyramidKV's budgets (Cai et al., 2024), in the arithmetic of kvpress.

use super::Budget;

/// Tokens that a head of a layer keeps, the window of the last queries included: linear from the first layer to the last.
pub(crate) fn tokens(budget: Budget, tokens: usize, window: usize, beta: usize, layer: usize, layers: usize) -> usize {
    let (n, window, last) = (tokens as f64, window as f64, layers.saturating_sub(1).max(1) as f64);
    let mean = match budget {
        Budget::Share(share) => n * share,
        budget => budget.tokens(tokens) as f64,
    };
    let mut least = mean / beta as f64;
    let mut most = 2.0 * mean - least;
    let cap = n - window;
    if most >= cap {
        (most, least) = (cap, 2.0 * mean - cap);
    }
    // Beside the past, the window: `mean` is without it.
    if !(n >= most && most >= least && least >= window) {
        return (mean.round_ties_even() as usize).min(tokens);
    }
    let kept = most - layer as f64 * (most - least) / last;
    (kept.round_ties_even().max(0.0) as usize).min(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_those_of_the_dossier() {
        for (n, r, expected) in
            [(8192, 0.75, [3994, 2697, 1399, 102]), (1024, 0.5, [960, 661, 363, 64]), (512, 0.9, [51, 51, 51, 51])]
        {
            let got: Vec<usize> = (0..4).map(|l| tokens(Budget::Share(1.0 - r), n, 64, 20, l, 4)).collect();
            assert_eq!(got, expected, "{n} {r}");
        }
    }
}

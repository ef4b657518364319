//! Rows that stand for all others where attention is observed: ZipCache (He et al., 2024) looks at the last of a prompt and at
//! some drawn at random.

use crate::encode::math::Rng;

/// Positions of the last `share` of so many rows, at least of one, and of those before that are drawn with that probability.
/// What is drawn depends on the position alone.
pub(super) fn probes(rows: usize, share: f64) -> Vec<u32> {
    let last = ((rows as f64 * share).ceil() as usize).clamp(1, rows.max(1));
    let first = rows.saturating_sub(last);
    let drawn = |&row: &usize| Rng::of_key(row as u64).uniform() < share;
    (0..first).filter(drawn).chain(first..rows).map(|row| row as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rows_and_as_many_of_the_others() {
        let all = probes(20_000, 0.05);
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(all.iter().filter(|&&row| row >= 19_000).count(), 1000);
        // Five deviations of a binomial distribution.
        let drawn = all.len() - 1000;
        assert!((drawn as f64 - 950.0).abs() < 5.0 * (19_000.0f64 * 0.05 * 0.95).sqrt(), "{drawn}");
        // Nothing is drawn again for a longer context.
        let longer = probes(40_000, 0.05);
        assert!(all.iter().take(drawn).eq(longer.iter().take(drawn)));
        assert_eq!((probes(3, 0.05), probes(0, 0.5), probes(2, 1.0)), (vec![2], vec![], vec![0, 1]));
    }

    #[test]
    fn all_rows_after_the_context_are_looked_at() {
        use crate::observe::{Columns, Gather, Last, Looked, Observed, Wish};
        let (share, context) = (0.1, 1000);
        let wish =
            Wish { columns: Some(Columns { gather: Gather::Sum, last: Last::Probes(share) }), ..Wish::default() };
        let ledger = crate::pool::ledger::Ledger::new(1 << 20);
        let Ok(observed) = Observed::new(wish, context, 64, &[], &ledger) else { panic!("no room") };
        let probes = probes(context, share);
        // What is looked at, step by step, is what is counted.
        let mut seen = 0;
        for from in (0..1064).step_by(8) {
            seen += match observed.looked_at(from..from + 8) {
                Looked::From(first) => 8 - first,
                Looked::Some { probes, .. } => probes.len(),
            };
            assert_eq!(observed.observers(0, from + 8), seen, "{from}");
        }
        assert_eq!(seen, probes.len() + 64);
        assert_eq!(observed.observers(1010, 1064), 54);
        assert_eq!(observed.observers(999, 1000), 1);
    }
}

//! Means over tasks, and what may be said of them.

use crate::statistics::Interval;

/// Fewer questions than this never make a difference that is more than chance at 95%: if each of five changes for the
/// worse, a fair coin explains it in 2 of 32 cases (sign test, two-sided), and a bootstrap over them has no spread.
pub const FEWEST: usize = 6;

/// A number with its 95% interval.
///
/// Where it is a mean of cells, it is the mean of cell means: each task at each length counts the same, whatever its
/// number of questions; a cell that was measured with and without the question known counts as one.
///
/// The interval is made of the distances from each mean to the ends of its interval, lower and upper apart (Zou and
/// Donner, "Construction of confidence limits about effect measures: a general approach", 2008): squares are added for
/// different tasks, whose questions are unrelated. Within a task, lengths share their questions' making, so distances
/// are added as they are, which is right if they move together and too wide if they do not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Where it lies; contains `value`.
    pub interval: Interval,
    /// Questions, tokens or generations behind it.
    pub items: usize,
    /// Cells it is the mean of.
    pub cells: usize,
    /// Cells that there are of the kind, of any recipe: where `cells` is less, it does not compare with others.
    pub of: usize,
}

/// What a difference from the reference says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The whole interval lies on the worse side.
    Worse,
    /// The interval contains no difference, or there are too few items for a verdict.
    NotSeen,
    /// The whole interval lies on the better side.
    Better,
}

impl Verdict {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Worse => "worse",
            Verdict::NotSeen => "no difference seen",
            Verdict::Better => "better",
        }
    }

    /// Of a number with an interval from `items` measurements, where `neutral` is no difference. Never a verdict from
    /// noise: an interval that touches `neutral` decides nothing, nor do fewer than [`FEWEST`] items.
    pub fn of(interval: Interval, items: usize, neutral: f64, more_is_better: bool) -> Verdict {
        let above = interval.low > neutral && interval.high > neutral;
        let below = interval.low < neutral && interval.high < neutral;
        match (items >= FEWEST, above, below) {
            (true, true, _) if more_is_better => Verdict::Better,
            (true, _, true) if !more_is_better => Verdict::Better,
            (true, false, false) | (false, ..) => Verdict::NotSeen,
            _ => Verdict::Worse,
        }
    }
}

/// One cell's part in a mean.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The task, for how intervals add up.
    pub task: &'a str,
    /// Parts of one length of one task share that length's weight.
    pub tokens: usize,
    /// The cell's own mean.
    pub value: f64,
    /// Its interval.
    pub interval: Interval,
    /// Its questions.
    pub items: usize,
}

/// The mean of cell means, by the rules of [`Estimate`].
pub fn mean(parts: &[Part<'_>], of: usize) -> Option<Estimate> {
    let mut keys: Vec<(&str, usize)> = parts.iter().map(|part| (part.task, part.tokens)).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut tasks: Vec<&str> = keys.iter().map(|(task, _)| *task).collect();
    tasks.dedup();
    let (mut value, mut low, mut high) = (0.0, 0.0, 0.0);
    for task in &tasks {
        let (mut task_low, mut task_high) = (0.0, 0.0);
        for key in keys.iter().filter(|key| key.0 == *task) {
            let same: Vec<&Part<'_>> = parts.iter().filter(|part| (part.task, part.tokens) == *key).collect();
            let weight = 1.0 / (same.len() * keys.len()) as f64;
            for part in same {
                value += weight * part.value;
                task_low += weight * (part.value - part.interval.low).max(0.0);
                task_high += weight * (part.interval.high - part.value).max(0.0);
            }
        }
        low += task_low * task_low;
        high += task_high * task_high;
    }
    let interval = Interval { low: value - low.sqrt(), high: value + high.sqrt() };
    let items = parts.iter().map(|part| part.items).sum();
    (!keys.is_empty()).then_some(Estimate { value, interval, items, cells: keys.len(), of })
}

impl Estimate {
    /// Whether every cell of the kind is in it.
    pub fn is_complete(&self) -> bool {
        self.cells >= self.of
    }

    /// Whether it can be drawn.
    pub fn is_finite(&self) -> bool {
        self.value.is_finite() && self.interval.low.is_finite() && self.interval.high.is_finite()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(task: &str, tokens: usize, value: f64, half: f64) -> Part<'_> {
        Part { task, tokens, value, interval: Interval { low: value - half, high: value + half }, items: 20 }
    }

    #[test]
    fn tasks_add_in_squares_and_lengths_as_they_are() {
        // Halves 0.3 and 0.4 of two tasks, each with weight ½: sqrt(0.15² + 0.2²) = 0.25.
        let two = mean(&[part("a", 1, -0.2, 0.3), part("b", 1, 0.0, 0.4)], 3).unwrap();
        assert!((two.value + 0.1).abs() < 1e-12 && (two.interval.high - 0.15).abs() < 1e-12, "{two:?}");
        assert!((two.interval.low + 0.35).abs() < 1e-12);
        assert_eq!((two.items, two.cells, two.is_complete()), (40, 2, false));
        // The same of one task at two lengths: ½ · 0.3 + ½ · 0.4.
        let one = mean(&[part("a", 1, -0.2, 0.3), part("a", 2, 0.0, 0.4)], 2).unwrap();
        assert!((one.interval.high - 0.25).abs() < 1e-12 && one.is_complete(), "{one:?}");
        assert_eq!(mean(&[], 2), None);
    }

    #[test]
    fn a_cell_measured_twice_counts_once() {
        // Question known and not known at length 1 average to 0.5; length 2 has 0: (0.5 + 0) / 2.
        let parts = [part("a", 1, 1.0, 0.0), part("a", 1, 0.0, 0.0), part("a", 2, 0.0, 0.0)];
        let mean = mean(&parts, 2).unwrap();
        assert!((mean.value - 0.25).abs() < 1e-12 && mean.cells == 2);
    }

    #[test]
    fn noise_gets_no_verdict() {
        let of = |low, high, items, more| Verdict::of(Interval { low, high }, items, 0.0, more);
        assert_eq!(of(-0.2, 0.1, 100, true), Verdict::NotSeen);
        assert_eq!(of(-0.2, 0.0, 100, true), Verdict::NotSeen, "an end that touches");
        assert_eq!(of(0.0, 0.0, 100, true), Verdict::NotSeen, "always the same answers");
        assert_eq!(of(-0.2, -0.1, 100, true), Verdict::Worse);
        assert_eq!(of(0.1, 0.2, 100, true), Verdict::Better);
        assert_eq!(of(0.1, 0.2, 100, false), Verdict::Worse);
        assert_eq!(of(-0.2, -0.1, 100, false), Verdict::Better);
        assert_eq!(of(-1.0, -1.0, 5, true), Verdict::NotSeen, "five of five");
        assert_eq!(of(-1.0, -1.0, 6, true), Verdict::Worse, "six of six");
        assert_eq!(of(f64::NAN, f64::NAN, 100, true), Verdict::NotSeen);
    }
}

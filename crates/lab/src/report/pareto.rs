//! Who is on the Pareto front, and how sure that is.

use crate::statistics::Interval;

/// A recipe on the plane of costs and quality.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// What it costs; less is better. Taken as exact.
    pub cost: f64,
    /// What it is worth; more is better.
    pub quality: f64,
    /// Of the quality, at 95%.
    pub interval: Interval,
}

/// Where a point stands to the front.
///
/// A point is on the front if no other costs as little and is worth as much, one of the two strictly more: by the
/// estimates alone. Whether noise could have put it there is told apart by whether intervals overlap. Intervals that do
/// not overlap differ for sure (at 95% each); some that do overlap would still differ if recipes had been compared in
/// pairs, so "cannot be told apart" is said too often rather than too seldom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// On the front, and its interval lies above those of all that cost less.
    Front,
    /// On the front by its estimate, but something that costs less may be as good.
    FrontWithinNoise,
    /// Behind the front by its estimate, but no point that costs as little has an interval above its own.
    WithinNoise,
    /// Something that costs no more is better, beyond noise.
    Behind,
}

impl Standing {
    /// Whether the estimate is on the front.
    pub fn is_front(self) -> bool {
        matches!(self, Standing::Front | Standing::FrontWithinNoise)
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Standing::Front => "on the front",
            Standing::FrontWithinNoise => "on the front, within noise of something cheaper",
            Standing::WithinNoise => "behind the front, within noise",
            Standing::Behind => "behind the front",
        }
    }
}

/// The standing of each point, in their order. Numbers must be finite.
pub fn standings(points: &[Point]) -> Vec<Standing> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| points[a].cost.total_cmp(&points[b].cost));
    let mut standings = vec![Standing::Front; points.len()];
    let mut cheaper = Best::default();
    for same in order.chunk_by(|&a, &b| points[a].cost == points[b].cost) {
        let mut here = cheaper;
        same.iter().for_each(|&i| here.add(&points[i]));
        for &i in same {
            let (low, high) = points[i].ends();
            let is_front = points[i].quality > cheaper.quality && points[i].quality >= here.quality;
            standings[i] = match (is_front, cheaper.high < low) {
                (true, true) => Standing::Front,
                (true, false) => Standing::FrontWithinNoise,
                (false, _) if here.low <= high => Standing::WithinNoise,
                (false, _) => Standing::Behind,
            };
        }
        cheaper = here;
    }
    standings
}

impl Point {
    /// A percentile interval need not contain the estimate; here it does.
    fn ends(&self) -> (f64, f64) {
        (self.interval.low.min(self.quality), self.interval.high.max(self.quality))
    }
}

/// The greatest of each number so far.
#[derive(Clone, Copy)]
struct Best {
    quality: f64,
    low: f64,
    high: f64,
}

impl Default for Best {
    fn default() -> Best {
        Best { quality: f64::NEG_INFINITY, low: f64::NEG_INFINITY, high: f64::NEG_INFINITY }
    }
}

impl Best {
    fn add(&mut self, point: &Point) {
        let (low, high) = point.ends();
        self.quality = self.quality.max(point.quality);
        self.low = self.low.max(low);
        self.high = self.high.max(high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definitions, word by word.
    fn by_definition(points: &[Point], i: usize) -> Standing {
        let p = &points[i];
        let dominated = points
            .iter()
            .any(|q| q.cost <= p.cost && q.quality >= p.quality && (q.cost < p.cost || q.quality > p.quality));
        let clearly = points.iter().any(|q| q.cost <= p.cost && q.ends().0 > p.ends().1);
        let doubted = points.iter().any(|q| q.cost < p.cost && q.ends().1 >= p.ends().0);
        match (dominated, clearly, doubted) {
            (false, _, false) => Standing::Front,
            (false, _, true) => Standing::FrontWithinNoise,
            (true, false, _) => Standing::WithinNoise,
            (true, true, _) => Standing::Behind,
        }
    }

    fn point(cost: f64, quality: f64, half: f64) -> Point {
        Point { cost, quality, interval: Interval { low: quality - half, high: quality + half } }
    }

    proptest! {
        #[test]
        fn standings_are_those_of_the_definition(
            // Few values, so that ties are common; intervals that miss their estimate, too.
            raw in proptest::collection::vec((0..6i32, 0..6i32, -1..4i32, -1..4i32), 0..24)
        ) {
            let points: Vec<Point> = raw
                .iter()
                .map(|&(cost, quality, below, above)| {
                    let quality = f64::from(quality);
                    let interval = Interval { low: quality - f64::from(below), high: quality + f64::from(above) };
                    Point { cost: f64::from(cost), quality, interval }
                })
                .collect();
            let standings = standings(&points);
            for (i, standing) in standings.iter().enumerate() {
                prop_assert_eq!(*standing, by_definition(&points, i), "{} of {:?}", i, points);
            }
            prop_assert_eq!(standings.iter().any(|s| s.is_front()), !points.is_empty());
        }
    }

    #[test]
    fn noise_is_told_apart() {
        use Standing::{Behind, Front, FrontWithinNoise, WithinNoise};
        let points = [
            point(0.1, 0.50, 0.02),
            point(0.2, 0.51, 0.02), // better than the first by less than the noise
            point(0.3, 0.90, 0.02), // clearly better than both
            point(0.4, 0.89, 0.02), // dearer, worse, within noise
            point(0.5, 0.60, 0.02), // dearer and clearly worse
            point(0.3, 0.90, 0.10), // the same again, less sure: its interval still lies above the cheaper ones
        ];
        assert_eq!(standings(&points), [Front, FrontWithinNoise, Front, WithinNoise, Behind, Front]);
    }
}

//! Quality against cost: the planes that are drawn, and who stands where on them.

use super::estimate::Estimate;
use super::overall::Overall;
use super::pareto::{Point, Standing, standings};
use super::show;

/// A plane of quality and cost.
pub struct Front {
    /// A short name without blanks, for addresses.
    pub key: &'static str,
    /// Heading.
    pub title: &'static str,
    /// The quality.
    pub quality: Quality,
    /// The cost.
    pub cost: Cost,
    /// The recipes that have both, in the order of rows.
    pub marks: Vec<Mark>,
}

/// A recipe on a plane.
pub struct Mark {
    /// Which of the rows.
    pub row: usize,
    /// The cost: a share of bytes or a ratio of speeds.
    pub x: f64,
    /// The quality.
    pub y: Estimate,
    /// Where it stands; absent where it lacks cells that others have and cannot be compared.
    pub standing: Option<Standing>,
    /// Both numbers in words.
    pub numbers: String,
}

/// Measures of quality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    /// Mean difference of scores; more is better.
    Score,
    /// Divergence; less is better.
    Kl,
    /// Perplexity ratio; less is better.
    Perplexity,
}

/// Measures of cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Share of the reference's bytes; less is better.
    Bytes,
    /// Ratio of decoding speeds; more is better.
    Decode,
}

impl Quality {
    /// All of them with a short name for a choice.
    pub const ALL: [(Quality, &'static str, &'static str); 3] = [
        (Quality::Score, "score", "task scores"),
        (Quality::Kl, "kl", "KL divergence"),
        (Quality::Perplexity, "perplexity", "perplexity"),
    ];

    fn of(self, row: &Overall) -> Option<Estimate> {
        let estimate = match self {
            Quality::Score => row.difference,
            Quality::Kl => row.kl,
            Quality::Perplexity => row.perplexity_ratio,
        };
        estimate.filter(Estimate::is_finite)
    }

    /// Whether more of it is better.
    pub fn more_is_better(self) -> bool {
        self == Quality::Score
    }

    fn show(self, y: &Estimate) -> String {
        match self {
            Quality::Score => format!("score {} points", show::estimate(y, show::points)),
            Quality::Kl => format!("KL {}", show::estimate(y, show::digits)),
            Quality::Perplexity => format!("perplexity {}", show::estimate(y, show::change)),
        }
    }
}

impl Cost {
    fn of(self, row: &Overall) -> Option<f64> {
        let cost = match self {
            Cost::Bytes => row.bytes_share,
            Cost::Decode => row.decode_ratio,
        };
        // Both are drawn on a logarithmic scale.
        cost.filter(|cost| cost.is_finite() && *cost > 0.0)
    }

    /// Whether more of it is better.
    pub fn more_is_better(self) -> bool {
        self == Cost::Decode
    }

    fn show(self, x: f64) -> String {
        match self {
            Cost::Bytes => format!("{} of the bytes", show::percent(x)),
            Cost::Decode => format!("decoding at {}", show::times(x)),
        }
    }
}

/// The planes, all qualities against bytes and then against speed.
pub fn all(rows: &[Overall]) -> [Front; 6] {
    let titles = [
        ("score-bytes", "Task scores against bytes", Quality::Score, Cost::Bytes),
        ("kl-bytes", "KL divergence against bytes", Quality::Kl, Cost::Bytes),
        ("perplexity-bytes", "Perplexity against bytes", Quality::Perplexity, Cost::Bytes),
        ("score-speed", "Task scores against decoding speed", Quality::Score, Cost::Decode),
        ("kl-speed", "KL divergence against decoding speed", Quality::Kl, Cost::Decode),
        ("perplexity-speed", "Perplexity against decoding speed", Quality::Perplexity, Cost::Decode),
    ];
    titles.map(|(key, title, quality, cost)| Front { key, title, quality, cost, marks: marks(rows, quality, cost) })
}

fn marks(rows: &[Overall], quality: Quality, cost: Cost) -> Vec<Mark> {
    let mark = |(row, of): (usize, &Overall)| {
        let (x, y) = (cost.of(of)?, quality.of(of)?);
        Some(Mark { row, x, y, standing: None, numbers: format!("{}, {}", quality.show(&y), cost.show(x)) })
    };
    let mut marks: Vec<Mark> = rows.iter().enumerate().filter_map(mark).collect();
    let mut comparable: Vec<&mut Mark> = marks.iter_mut().filter(|mark| mark.y.is_complete()).collect();
    let points: Vec<Point> = comparable.iter().map(|mark| point(mark, quality, cost)).collect();
    for (mark, standing) in comparable.iter_mut().zip(standings(&points)) {
        mark.standing = Some(standing);
    }
    marks
}

fn point(mark: &Mark, quality: Quality, cost: Cost) -> Point {
    let cost = if cost.more_is_better() { -mark.x } else { mark.x };
    let mut interval = mark.y.interval;
    if quality.more_is_better() {
        return Point { cost, quality: mark.y.value, interval };
    }
    (interval.low, interval.high) = (-interval.high, -interval.low);
    Point { cost, quality: -mark.y.value, interval }
}

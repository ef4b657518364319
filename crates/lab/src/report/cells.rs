//! What a single cell shows in the tables by task and length.

use super::estimate::Verdict;
use super::overall::perplexity_verdict;
use super::show;
use crate::cell::Cell;

/// A cell's number.
pub struct Shown {
    /// To sort by.
    pub value: f64,
    /// With its interval.
    pub text: String,
    /// Where it is a difference from the reference: what may be said of it.
    pub verdict: Option<Verdict>,
    /// Everything else that there is to know.
    pub details: String,
}

/// A kind of table: its heading, and what it shows of a cell, if anything.
pub type Kind = (&'static str, fn(&Cell) -> Option<Shown>);

/// The tables by task and length.
pub const KINDS: [Kind; 7] = [
    ("Score less the reference's, in points", difference),
    ("KL from the reference, in nats", kl),
    ("Perplexity against the reference's", perplexity),
    ("Greedy generations: share before the first token that differs", generation),
    ("Bytes of the cache", memory),
    ("Decoding, tokens per second", decoding),
    ("Prefill, tokens per second", prefill),
];

fn difference(cell: &Cell) -> Option<Shown> {
    let a = cell.answers.as_ref()?;
    let details = format!(
        "score {} {}, {} questions, {} answered with the reference's very words",
        show::percent(a.score),
        show::interval(a.interval, show::percent),
        a.questions,
        show::percent(a.same)
    );
    let verdict = (!cell.is_reference).then(|| Verdict::of(a.difference_interval, a.questions, 0.0, true));
    let text = match cell.is_reference {
        // Its difference from itself is none; its score says what there was to lose.
        true => format!("scores {}", show::percent(a.score)),
        false => format!("{} {}", show::points(a.difference), show::interval(a.difference_interval, show::points)),
    };
    Some(Shown { value: a.difference, text, verdict, details })
}

fn kl(cell: &Cell) -> Option<Shown> {
    let d = cell.divergence.as_ref()?;
    let details = format!(
        "99% of {} tokens at most {}, greatest {}, same most likely token {}, of the top five {}",
        show::count(d.tokens),
        show::digits(d.kl_p99),
        show::digits(d.kl_max),
        show::percent(d.top1),
        show::percent(d.top5)
    );
    let text = format!("{} {}", show::digits(d.kl_mean), show::interval(d.kl_interval, show::digits));
    Some(Shown { value: d.kl_mean, text, verdict: None, details })
}

fn perplexity(cell: &Cell) -> Option<Shown> {
    let d = cell.divergence.as_ref()?;
    let verdict = (!cell.is_reference).then(|| perplexity_verdict(d.perplexity_ratio, d.perplexity_ratio_interval));
    let text = match cell.is_reference {
        true => format!("perplexity {}", show::digits(d.perplexity)),
        false => {
            format!(
                "{} {}",
                show::change(d.perplexity_ratio),
                show::interval(d.perplexity_ratio_interval, show::change)
            )
        }
    };
    let details = format!("perplexity {}", show::digits(d.perplexity));
    Some(Shown { value: d.perplexity_ratio, text, verdict, details })
}

fn generation(cell: &Cell) -> Option<Shown> {
    let g = cell.generation.as_ref()?;
    let details = format!(
        "{} generations of up to {} tokens, median first difference at {}, {} the same to the end",
        g.count,
        g.tokens,
        show::digits(g.first_divergence),
        show::percent(g.same)
    );
    let text = format!("{} {}", show::percent(g.agreement), show::interval(g.agreement_interval, show::percent));
    Some(Shown { value: g.agreement, text, verdict: None, details })
}

fn memory(cell: &Cell) -> Option<Shown> {
    let m = cell.memory?;
    let share = m.bytes as f64 / m.reference_bytes as f64;
    let details = format!(
        "{} bits per key or value, at most {}, a decoding step reads {}, the reference has {}",
        show::digits(m.bits),
        show::bytes(m.peak_bytes),
        show::bytes(m.step_bytes),
        show::bytes(m.reference_bytes)
    );
    let text = match share.is_finite() {
        true => format!("{} ({})", show::bytes(m.bytes), show::percent(share)),
        false => show::bytes(m.bytes),
    };
    Some(Shown { value: m.bytes as f64, text, verdict: None, details })
}

fn decoding(cell: &Cell) -> Option<Shown> {
    Some(speed(cell.speed.decode?, cell.speed.decode_ratio, String::new()))
}

fn prefill(cell: &Cell) -> Option<Shown> {
    let first = cell.speed.ttft.map_or(String::new(), |ttft| format!("first token after {} s", show::digits(ttft)));
    Some(speed(cell.speed.prefill?, cell.speed.prefill_ratio, first))
}

fn speed(speed: f64, ratio: Option<f64>, details: String) -> Shown {
    let ratio = ratio.map_or(String::new(), |ratio| format!(" ({})", show::times(ratio)));
    Shown { value: speed, text: format!("{}{ratio}", show::digits(speed)), verdict: None, details }
}

//! Results as comma-separated values (RFC 4180, lines end in LF), for spreadsheets and data frames.

use super::sheet::Sheet;
use crate::cell::{Cell, CellMemory, CellSpeed};
use crate::statistics::Interval;

/// One row per cell: everything but the single heads and depths, which [`heads_csv`] and [`depths_csv`] have.
///
/// Numbers are written in full and read back to the same bits; what was not measured is empty. Run names are separated
/// by spaces.
pub fn csv(sheet: &Sheet) -> String {
    let mut text = line(COLUMNS.iter().map(|name| (*name).to_owned()));
    sheet.cells.iter().for_each(|cell| text += &line(fields(cell)));
    text
}

/// One row per layer and query head: the relative error of the attention output.
pub fn heads_csv(sheet: &Sheet) -> String {
    let mut text = line(["recipe", "task", "tokens", "question_known", "layer", "head", "error"].map(String::from));
    for cell in &sheet.cells {
        for (layer, heads) in cell.heads.iter().enumerate() {
            for (head, error) in heads.iter().enumerate() {
                let place = [layer.to_string(), head.to_string(), error.to_string()];
                text += &line(key(cell).into_iter().chain(place));
            }
        }
    }
    text
}

/// One row per depth of a task: the mean score there.
pub fn depths_csv(sheet: &Sheet) -> String {
    let mut text =
        line(["recipe", "task", "tokens", "question_known", "depth", "score", "questions"].map(String::from));
    for cell in &sheet.cells {
        for (depth, score, questions) in cell.answers.iter().flat_map(|answers| &answers.by_depth) {
            let place = [depth.to_string(), score.to_string(), questions.to_string()];
            text += &line(key(cell).into_iter().chain(place));
        }
    }
    text
}

const COLUMNS: [&str; 51] = [
    "recipe",
    "task",
    "tokens",
    "question_known",
    "is_reference",
    "items",
    "planned",
    "failure",
    "runs",
    "kl_mean",
    "kl_low",
    "kl_high",
    "kl_p99",
    "kl_max",
    "top1",
    "top5",
    "predictions",
    "perplexity",
    "perplexity_ratio",
    "perplexity_ratio_low",
    "perplexity_ratio_high",
    "questions",
    "score",
    "score_low",
    "score_high",
    "score_difference",
    "score_difference_low",
    "score_difference_high",
    "same_answers",
    "generations",
    "generated_tokens",
    "agreement",
    "agreement_low",
    "agreement_high",
    "first_divergence",
    "same_generations",
    "bytes",
    "peak_bytes",
    "reference_bytes",
    "bytes_share",
    "bits",
    "step_bytes",
    "ttft_seconds",
    "prefill_tokens_per_second",
    "prefill_ratio",
    "decode_tokens_per_second",
    "decode_ratio",
    "layers",
    "heads",
    "head_error_mean",
    "head_error_max",
];

fn key(cell: &Cell) -> [String; 4] {
    let known = cell.known.map(|known| known.to_string()).unwrap_or_default();
    [cell.recipe.clone(), cell.task.clone(), cell.tokens.to_string(), known]
}

fn fields(cell: &Cell) -> Vec<String> {
    let mut row = Vec::from(key(cell));
    row.extend([cell.is_reference.to_string(), cell.items.to_string(), cell.planned.to_string()]);
    row.extend([cell.failure.clone().unwrap_or_default(), cell.runs.join(" ")]);
    let ends = |interval: Interval| [interval.low.to_string(), interval.high.to_string()];
    match &cell.divergence {
        None => row.extend(none(12)),
        Some(d) => {
            row.push(d.kl_mean.to_string());
            row.extend(ends(d.kl_interval));
            row.extend([d.kl_p99, d.kl_max, d.top1, d.top5].map(|value| value.to_string()));
            row.extend([d.tokens.to_string(), d.perplexity.to_string(), d.perplexity_ratio.to_string()]);
            row.extend(ends(d.perplexity_ratio_interval));
        }
    }
    match &cell.answers {
        None => row.extend(none(8)),
        Some(a) => {
            row.extend([a.questions.to_string(), a.score.to_string()]);
            row.extend(ends(a.interval));
            row.push(a.difference.to_string());
            row.extend(ends(a.difference_interval));
            row.push(a.same.to_string());
        }
    }
    match &cell.generation {
        None => row.extend(none(7)),
        Some(g) => {
            row.extend([g.count.to_string(), g.tokens.to_string(), g.agreement.to_string()]);
            row.extend(ends(g.agreement_interval));
            row.extend([g.first_divergence.to_string(), g.same.to_string()]);
        }
    }
    match cell.memory {
        None => row.extend(none(6)),
        Some(CellMemory { bytes, peak_bytes, reference_bytes, bits, step_bytes }) => {
            row.extend([bytes, peak_bytes, reference_bytes].map(|value| value.to_string()));
            let share = bytes as f64 / reference_bytes as f64;
            row.extend([if share.is_finite() { share.to_string() } else { String::new() }, bits.to_string()]);
            row.push(step_bytes.to_string());
        }
    }
    let CellSpeed { ttft, prefill, prefill_ratio, decode, decode_ratio } = cell.speed;
    row.extend([ttft, prefill, prefill_ratio, decode, decode_ratio].map(|speed| optional(speed.as_ref())));
    let errors: Vec<f64> = cell.heads.iter().flatten().copied().collect();
    let mean = (!errors.is_empty()).then(|| errors.iter().sum::<f64>() / errors.len() as f64);
    let widest = cell.heads.iter().map(Vec::len).max();
    row.extend([cell.heads.len().to_string(), widest.unwrap_or_default().to_string()]);
    row.extend([optional(mean.as_ref()), optional(errors.iter().max_by(|a, b| a.total_cmp(b)))]);
    row
}

fn optional(value: Option<&f64>) -> String {
    value.map(f64::to_string).unwrap_or_default()
}

fn none(fields: usize) -> impl Iterator<Item = String> {
    std::iter::repeat_n(String::new(), fields)
}

fn line(fields: impl IntoIterator<Item = String>) -> String {
    let quote = |field: String| match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field,
    };
    let fields: Vec<String> = fields.into_iter().map(quote).collect();
    fields.join(",") + "\n"
}

//! A table of outcomes.

use crate::quality::Outcome;
use crate::statistics::Interval;

/// Outcomes as a Markdown table, in their order, with a line about what the columns mean.
pub fn table(outcomes: &[Outcome]) -> String {
    let reference = outcomes.iter().find(|outcome| outcome.is_reference);
    let name = reference.map_or("the reference", |outcome| &outcome.recipe);
    let tasks: Vec<&str> =
        reference.iter().flat_map(|outcome| &outcome.answers).map(|answers| &answers.task[..]).collect();
    let heads: String = tasks.iter().map(|task| format!(" | {task} [95%]")).collect();
    let rules: String = tasks.iter().map(|_| "---:|").collect();
    let mut text = format!(
        "| KV | bits | long | KV MiB | mean KL [95%] | p99 KL | max KL | top-1 % [95%] | top-5 % | perplexity | ratio [95%]{heads} \
         | prefill tok/s | ratio | decode tok/s | ratio |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|{rules}---:|---:|---:|---:|\n",
    );
    for outcome in outcomes {
        text += &row(outcome, reference, &tasks);
    }
    text += &format!(
        "\nBits per key or value, everything included: after a window, and of one more token of a long text. KL in nats, agreement and perplexity ratio against {name}; top-5 is the share of the five most likely tokens \
         that both have. Intervals of KL, agreement and perplexity: bootstrap over blocks of tokens, paired; of questions answered in full: \
         Wilson. Speed ratios against {name} in the same run.\n"
    );
    text
}

fn row(outcome: &Outcome, reference: Option<&Outcome>, tasks: &[&str]) -> String {
    let name = if outcome.is_reference { format!("{} (reference)", outcome.recipe) } else { outcome.recipe.clone() };
    if let Some(failure) = &outcome.failure {
        let failure = failure.replace('|', "\\|").replace('\n', " ");
        return format!("| {name} | failed: {failure} |{}\n", " |".repeat(13 + tasks.len()));
    }
    let mut cells = vec![name];
    match &outcome.memory {
        Some(m) => cells.extend([
            format!("{:.2}", m.bits_per_element),
            format!("{:.2}", m.bits_per_element_long),
            format!("{:.1}", m.bytes as f64 / 1048576.0),
        ]),
        None => cells.extend(none(3)),
    }
    match &outcome.scores {
        Some(s) => cells.extend([
            format!("{} {}", tiny(s.kl_mean), interval(s.kl_interval, tiny)),
            tiny(s.kl_p99),
            tiny(s.kl_max),
            format!("{} {}", percent(s.top1), interval(s.top1_interval, percent)),
            percent(s.top5),
            format!("{:.3}", s.perplexity),
            format!("{} {}", ratio(s.perplexity_ratio), interval(s.perplexity_ratio_interval, ratio)),
        ]),
        None => cells.extend(none(7)),
    }
    for task in tasks {
        match outcome.answers.iter().find(|answers| answers.task == **task) {
            Some(a) => {
                let share = interval(a.interval, |share| format!("{:.0}%", 100.0 * share));
                // Answers may be right in part.
                let partly = match a.accuracy * a.of as f64 > a.right as f64 {
                    true => format!(" (mean {:.0}%)", 100.0 * a.accuracy),
                    false => String::new(),
                };
                cells.push(format!("{}/{}{partly} {share}", a.right, a.of));
            }
            None => cells.extend(none(1)),
        }
    }
    let prefill = |outcome: &Outcome| outcome.speed.prefill.or(outcome.speed.scoring);
    for of in [&prefill as &dyn Fn(&Outcome) -> Option<f64>, &|outcome| outcome.speed.decode] {
        match of(outcome) {
            Some(speed) => {
                let base = reference.and_then(of);
                cells.push(format!("{speed:.1}"));
                cells.push(base.map_or("–".into(), |base| format!("{:.2}", speed / base)));
            }
            None => cells.extend(none(2)),
        }
    }
    format!("| {} |\n", cells.join(" | "))
}

fn none(cells: usize) -> impl Iterator<Item = String> {
    std::iter::repeat_n("–".to_owned(), cells)
}

fn interval(interval: Interval, show: impl Fn(f64) -> String) -> String {
    format!("[{}, {}]", show(interval.low), show(interval.high))
}

/// Three digits, however small.
fn tiny(value: f64) -> String {
    if value == 0.0 {
        "0".into()
    } else if value < 1e-3 {
        format!("{value:.2e}")
    } else {
        format!("{value:.4}")
    }
}

fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

fn ratio(value: f64) -> String {
    format!("{value:.4}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::{AnswerScore, Memory, Speed};
    use crate::statistics::wilson;

    #[test]
    fn rows_have_as_many_cells_as_the_head() {
        let speed = Speed { scoring: Some(50.0), prefill: None, decode: Some(10.0) };
        let whole = Outcome {
            recipe: "f16".into(),
            is_reference: true,
            failure: None,
            scores: None,
            answers: vec![AnswerScore {
                task: "needle".to_owned(),
                of: 20,
                right: 19,
                accuracy: 0.95,
                interval: wilson(19, 20),
                same_as_reference: 20,
            }],
            memory: Some(Memory {
                tokens: 64,
                bytes: 1 << 20,
                predicted_bytes: 1 << 20,
                peak_bytes: 1 << 20,
                bits_per_element: 16.0,
                bits_per_element_long: 15.5,
            }),
            speed,
        };
        let failed =
            Outcome { is_reference: false, failure: Some("a | b".into()), recipe: "x".into(), ..whole.clone() };
        let text = table(&[whole, failed]);
        let cells = |line: &str| line.replace("\\|", "").matches('|').count();
        let lines: Vec<&str> = text.lines().take(4).collect();
        assert!(lines.iter().all(|line| cells(line) == cells(lines[0])), "{text}");
        assert!(
            lines[2].contains("f16 (reference) | 16.00 | 15.50 | 1.0 |") && lines[2].contains("19/20 [76%, 99%]"),
            "{text}"
        );
        assert!(lines[2].ends_with("50.0 | 1.00 | 10.0 | 1.00 |"), "{text}");
    }
}

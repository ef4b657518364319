//! A report for places that show Markdown.

use super::estimate::{Estimate, Verdict};
use super::overall::{Overall, recipes};
use super::sheet::{Column, Sheet, column, columns};
use super::show::{self, NONE};
use super::summary::Summary;
use super::{cells, fronts};

/// Everything but the pictures: what was measured, all recipes, who is on the fronts, tasks by length, failures, runs.
pub fn markdown(sheet: &Sheet) -> String {
    let rows = recipes(&sheet.cells);
    let mut text = format!("# {}\n\n", inline(&sheet.title));
    for (name, value) in Summary::of(sheet).lines() {
        text += &format!("- {name}: {}\n", inline(&value));
    }
    text += "\n## All recipes\n\n";
    text += &table(&HEAD, rows.iter().map(row));
    text += &format!("\n{}\n", super::summary::rules(&sheet.reference));
    for front in fronts::all(&rows) {
        text += &format!("\n## {}\n\n", inline(front.title));
        if front.marks.is_empty() {
            text += "Nothing to show.\n";
        }
        let on = front.marks.iter().filter(|mark| mark.standing.is_some_and(|standing| standing.is_front()));
        for mark in on {
            let noise = mark.standing.map_or("", |standing| standing.name());
            text += &format!("- {}: {} ({noise})\n", code(&rows[mark.row].recipe), inline(&mark.numbers));
        }
    }
    for (title, kind) in cells::KINDS {
        let columns = columns(&sheet.cells, |cell| kind(cell).is_some());
        if columns.is_empty() {
            continue;
        }
        let names: Vec<String> = columns.iter().map(Column::name).collect();
        let head: Vec<&str> = std::iter::once("recipe").chain(names.iter().map(String::as_str)).collect();
        let body = rows.iter().map(|row| {
            let cell = |of: &Column<'_>| {
                let mut own = sheet.cells.iter().filter(|cell| cell.recipe == row.recipe && column(cell) == *of);
                own.next().map_or(NONE.into(), |cell| match (&cell.failure, kind(cell)) {
                    (Some(_), _) => "failed".into(),
                    (None, Some(shown)) => shown.text,
                    (None, None) => NONE.into(),
                })
            };
            std::iter::once(code_cell(&row.recipe)).chain(columns.iter().map(cell)).collect()
        });
        text += &format!("\n## {title}\n\n{}", table(&head, body));
    }
    text += "\n## Failures\n\n";
    let failures = rows.iter().flat_map(|row| row.failures.iter().map(move |failed| (row, failed)));
    let failures: String = failures
        .map(|(row, failed)| format!("- {} ({}): {}\n", code(&row.recipe), inline(&failed.at), inline(&failed.reason)))
        .collect();
    text += if failures.is_empty() { "None.\n" } else { &failures };
    text += "\n## Runs\n\n";
    for (id, run) in &sheet.runs {
        let begun = show::time(run.started);
        text += &format!(
            "- {}, {begun}, version {}: {}\n",
            code(id),
            inline(&run.version),
            code(&show::command(&run.command))
        );
    }
    text
}

const HEAD: [&str; 12] = [
    "recipe",
    "score difference, points [95%]",
    "answers",
    "KL, nats [95%]",
    "perplexity [95%]",
    "bytes",
    "bits",
    "decode",
    "prefill",
    "agreement [95%]",
    "measured",
    "failed",
];

fn row(row: &Overall) -> Vec<String> {
    let name =
        if row.is_reference { format!("{} (reference)", code_cell(&row.recipe)) } else { code_cell(&row.recipe) };
    let optional = |value: Option<f64>, show: &dyn Fn(f64) -> String| value.map_or(NONE.into(), show);
    let estimate = |value: &Option<Estimate>, show: &dyn Fn(f64) -> String| match value {
        Some(e) if e.is_complete() => show::estimate(e, show),
        Some(e) => format!("{} ({} of {} cells)", show::estimate(e, show), e.cells, e.of),
        None => NONE.into(),
    };
    let verdict = match (row.is_reference, row.verdict()) {
        (false, Some(verdict)) => verdict.name(),
        _ => NONE,
    };
    let perplexity = match row.perplexity_verdict() {
        Some(Verdict::NotSeen) if !row.is_reference => ", no difference seen",
        _ => "",
    };
    vec![
        name,
        estimate(&row.difference, &show::points),
        verdict.into(),
        estimate(&row.kl, &show::digits),
        estimate(&row.perplexity_ratio, &show::change) + perplexity,
        optional(row.bytes_share, &show::percent),
        optional(row.bits, &show::digits),
        optional(row.decode_ratio, &show::times),
        optional(row.prefill_ratio, &show::times),
        estimate(&row.agreement, &show::percent),
        format!("{} of {}", row.items, row.planned),
        if row.failures.is_empty() { "".into() } else { format!("{} of {}", row.failures.len(), row.cells) },
    ]
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let head_cells = head.iter().map(|cell| inline(cell)).collect();
    let rule = (0..head.len()).map(|i| if i == 0 { "---" } else { "---:" }.to_owned()).collect();
    let mut text = line(head_cells) + &line(rule);
    rows.for_each(|row| text += &line(row));
    text
}

/// Text that Markdown, and HTML in it, shows as it is, also within a table.
fn inline(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => safe.push(' '),
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '~' | '$' => safe.extend(['\\', c]),
            c => safe.push(c),
        }
    }
    safe
}

/// Text as code within a table, where a bar needs a stroke even there.
fn code_cell(text: &str) -> String {
    code(text).replace('|', "\\|")
}

/// Text as code: within more backticks than it has in a row.
fn code(text: &str) -> String {
    let text = text.replace(['\n', '\r', '\t'], " ");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    // A blank at each end belongs to the fence.
    if longest > 0 || text.trim().is_empty() {
        format!("{fence} {text} {fence}")
    } else {
        format!("{fence}{text}{fence}")
    }
}

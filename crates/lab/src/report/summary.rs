//! What was measured, on what, and how much of it is there.

use super::sheet::{Sheet, in_order};
use super::show;
use serde_json::Value;

/// The head of a report.
pub struct Summary {
    /// Models by name.
    pub models: Vec<String>,
    /// Texts by path.
    pub texts: Vec<String>,
    /// Machines: processor, instruction set, threads, system.
    pub machines: Vec<String>,
    /// Versions of the program.
    pub versions: Vec<String>,
    /// When runs began.
    pub when: String,
    /// Recipes, tasks and lengths.
    pub extent: String,
    /// Windows and questions measured, and those planned.
    pub items: usize,
    /// See `items`.
    pub planned: usize,
    /// Cells, and those that failed.
    pub cells: usize,
    /// See `cells`.
    pub failed: usize,
    /// Name of the reference.
    pub reference: String,
}

impl Summary {
    /// Of a sheet.
    pub fn of(sheet: &Sheet) -> Summary {
        let runs = || sheet.runs.iter().map(|(_, run)| run);
        let distinct = |texts: Vec<String>| -> Vec<String> {
            let texts: Vec<&str> = texts.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
            in_order(texts.into_iter()).iter().map(|&text| text.to_owned()).collect()
        };
        let times = || runs().map(|run| run.started);
        let when = match (times().min(), times().max()) {
            (Some(first), Some(last)) if first == last => show::time(first),
            (Some(first), Some(last)) => format!("{} to {}", show::time(first), show::time(last)),
            _ => String::new(),
        };
        let tasks = in_order(sheet.cells.iter().map(|cell| cell.task.as_str()));
        let mut lengths: Vec<usize> = sheet.cells.iter().map(|cell| cell.tokens).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let recipes = in_order(sheet.cells.iter().map(|cell| cell.recipe.as_str())).len();
        let lengths: Vec<String> = lengths.iter().map(|&tokens| show::count(tokens)).collect();
        let name = |value: &Value, key: &str| value.get(key).map(plain).unwrap_or_default();
        Summary {
            models: distinct(runs().map(|run| name(&run.model, "name")).collect()),
            texts: distinct(runs().map(|run| name(&run.text, "path")).collect()),
            machines: distinct(runs().map(|run| flat(&run.machine)).collect()),
            versions: distinct(runs().map(|run| run.version.clone()).collect()),
            when,
            extent: match recipes {
                0 => "nothing".into(),
                1 => format!("1 recipe on {} at {} tokens", tasks.join(", "), lengths.join(", ")),
                _ => format!("{recipes} recipes on {} at {} tokens", tasks.join(", "), lengths.join(", ")),
            },
            items: sheet.cells.iter().map(|cell| cell.items).sum(),
            planned: sheet.cells.iter().map(|cell| cell.planned).sum(),
            cells: sheet.cells.len(),
            failed: sheet.cells.iter().filter(|cell| cell.failure.is_some()).count(),
            reference: sheet.reference.clone(),
        }
    }

    /// Names and values, those that there are.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let complete = match self.planned {
            0 => "nothing planned".into(),
            planned => format!(
                "{} of {} windows and questions ({}), {} of {} cells failed",
                show::count(self.items),
                show::count(planned),
                whole_percent(self.items, planned),
                self.failed,
                self.cells
            ),
        };
        let lines = [
            ("Model", self.models.join("; ")),
            ("Text", self.texts.join("; ")),
            ("Machine", self.machines.join("; ")),
            ("Version", self.versions.join("; ")),
            ("Measured", self.when.clone()),
            ("Extent", self.extent.clone()),
            ("Complete", complete),
            ("Reference", self.reference.clone()),
        ];
        lines.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }
}

/// How the numbers were come by, in Markdown and HTML the same.
pub fn rules(reference: &str) -> String {
    format!(
        "Every number is against {} on the same items; intervals are at 95%, those of differences paired. \
         Scores are means of cell means: each task at each length counts the same. \
         A difference whose interval contains none, or that rests on fewer than {} questions, is no difference seen, \
         neither better nor worse; of a hundred recipes that change nothing, up to two or three would still be called \
         worse by chance. KL and perplexity are those of the longest perplexity cell. Bytes and bits are means of \
         cells; speed ratios are geometric means of cells. Failed cells are in no mean; a mean that lacks cells says so \
         and is not compared.",
        if reference.is_empty() { "the reference" } else { reference },
        super::estimate::FEWEST,
    )
}

/// Never 100% of what is not whole.
fn whole_percent(part: usize, whole: usize) -> String {
    let percent = part as f64 / whole as f64 * 100.0;
    if part < whole { format!("{:.0}%", percent.min(99.0).floor()) } else { "100%".into() }
}

/// A value without quotes.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// An object's values; those that are numbers or switches say nothing without their names.
fn flat(value: &Value) -> String {
    let is_bare = |value: &str| value.parse::<f64>().is_ok() || value.parse::<bool>().is_ok();
    let words = pairs(value).into_iter().map(|(key, value)| match is_bare(&value) {
        true => format!("{value} {key}"),
        false => value,
    });
    words.collect::<Vec<_>>().join(", ")
}

/// An object's entries; of objects within, with the path in front.
pub fn pairs(value: &Value) -> Vec<(String, String)> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| match value {
                Value::Object(_) => pairs(value).into_iter().map(|(k, v)| (format!("{key}.{k}"), v)).collect(),
                Value::Null => Vec::new(),
                _ => vec![(key.clone(), plain(value))],
            })
            .collect(),
        Value::Null => Vec::new(),
        other => vec![(String::new(), plain(other))],
    }
}

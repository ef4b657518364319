//! The rows that reports are made of, and the reports that are read by programs.

use cachalot_lab::cell::{Answered, Cell, CellMemory, CellSpeed, Generated};
use cachalot_lab::quality::Scores;
use cachalot_lab::report::{Sheet, Verdict, csv, depths_csv, heads_csv, markdown, recipes};
use cachalot_lab::statistics::Interval;

mod sample;

fn cell(recipe: &str, task: &str, tokens: usize) -> Cell {
    Cell { recipe: recipe.into(), task: task.into(), tokens, items: 10, planned: 10, ..Cell::default() }
}

fn around(value: f64, half: f64) -> Interval {
    Interval { low: value - half, high: value + half }
}

fn answered(recipe: &str, task: &str, tokens: usize, difference: f64, half: f64) -> Cell {
    let answers = Answered {
        questions: 10,
        score: 0.9 + difference,
        interval: around(0.9 + difference, 0.1),
        difference,
        difference_interval: around(difference, half),
        ..Answered::default()
    };
    Cell { answers: Some(answers), ..cell(recipe, task, tokens) }
}

#[test]
fn rows_are_means_of_cells() {
    let of = |bytes, decode| {
        let memory =
            CellMemory { bytes, reference_bytes: 1000, bits: 16.0 * bytes as f64 / 1000.0, ..CellMemory::default() };
        (Some(memory), CellSpeed { decode_ratio: Some(decode), ..CellSpeed::default() })
    };
    let mut short = answered("a", "needle", 1024, -0.1, 0.05);
    (short.memory, short.speed) = of(500, 2.0);
    let mut long = answered("a", "needle", 2048, -0.3, 0.05);
    (long.memory, long.speed) = of(250, 0.5);
    long.runs = vec!["r1".into(), "r2".into()];
    short.runs = vec!["r1".into()];
    let other = answered("a", "summary", 1024, 0.1, 0.12);
    let row = recipes(&[short, long, other]).remove(0);
    let difference = row.difference.unwrap();
    // (-0.1 - 0.3 + 0.1) / 3, each cell with a third; halves: needle 0.1 / 3, summary 0.12 / 3, in squares.
    assert!((difference.value + 0.1).abs() < 1e-12);
    let half = (0.1f64.powi(2) + 0.12f64.powi(2)).sqrt() / 3.0;
    assert!((difference.interval.high - (-0.1 + half)).abs() < 1e-12, "{difference:?}");
    assert_eq!((difference.items, difference.cells, difference.of), (30, 3, 3));
    assert_eq!(row.verdict(), Some(Verdict::Worse));
    assert_eq!((row.bytes_share, row.bits), (Some(0.375), Some(6.0)));
    assert!((row.decode_ratio.unwrap() - 1.0).abs() < 1e-12, "twice and half is neither");
    assert_eq!((row.items, row.planned, row.runs), (30, 30, vec!["r1".into(), "r2".into()]));
}

#[test]
fn noise_is_no_difference() {
    let verdict = |difference, half| recipes(&[answered("a", "needle", 1, difference, half)])[0].verdict();
    assert_eq!(verdict(-0.1, 0.2), Some(Verdict::NotSeen));
    assert_eq!(verdict(0.1, 0.2), Some(Verdict::NotSeen));
    assert_eq!(verdict(0.3, 0.2), Some(Verdict::Better));
    let page = markdown(&Sheet { cells: vec![answered("a", "needle", 1, -0.1, 0.2)], ..Sheet::default() });
    assert!(page.contains("no difference seen") && !page.contains("| worse |"), "{page}");
}

#[test]
fn what_lacks_cells_says_so() {
    let failed = Cell { failure: Some("no".into()), ..answered("b", "needle", 2048, -0.9, 0.0) };
    let cells = [
        answered("a", "needle", 1024, 0.0, 0.1),
        answered("a", "needle", 2048, 0.0, 0.1),
        answered("b", "needle", 1024, -0.5, 0.1),
        failed,
    ];
    let rows = recipes(&cells);
    let b = rows[1].difference.unwrap();
    assert_eq!((b.value, b.cells, b.of, b.is_complete()), (-0.5, 1, 2, false), "a failed cell is in no mean");
    assert_eq!((rows[1].failures.len(), rows[1].cells), (1, 2));
    assert!(rows[0].difference.unwrap().is_complete());
}

#[test]
fn a_question_known_or_not_is_one_cell_and_two_numbers() {
    let mut known = answered("a", "needle", 1024, 0.0, 0.0);
    known.known = Some(true);
    let mut not = answered("a", "needle", 1024, -0.4, 0.0);
    not.known = Some(false);
    let row = recipes(&[known, not, answered("b", "needle", 1024, 0.0, 0.0)]).remove(0);
    let value = |estimate: Option<cachalot_lab::report::Estimate>| estimate.unwrap().value;
    assert_eq!((value(row.difference), value(row.difference_known), value(row.difference_unknown)), (-0.2, 0.0, -0.4));
    assert!(row.difference.unwrap().is_complete());
}

#[test]
fn kl_is_of_the_longest_cell_and_of_no_other() {
    let of = |recipe, tokens, kl_mean| {
        let divergence = Scores { tokens: 100, kl_mean, perplexity_ratio: 1.0, ..Scores::default() };
        Cell { divergence: Some(divergence), ..cell(recipe, "perplexity", tokens) }
    };
    let reference = Cell { is_reference: true, ..of("f16", 4096, 0.3) };
    let rows = recipes(&[of("a", 1024, 0.1), of("a", 4096, 0.2), of("b", 1024, 0.1), reference]);
    assert_eq!(rows[0].kl.map(|kl| kl.value), Some(0.2));
    assert_eq!(rows[1].kl, None, "shorter texts do not compare");
    assert_eq!(rows[2].kl.map(|kl| kl.value), Some(0.0), "the reference is itself");
}

#[test]
fn spreadsheets_read_what_was_written() {
    let mut sheet = sample::sheet(2);
    let name = "a, \"b\"\nc\r\n";
    sheet.cells[7].recipe = name.into();
    sheet.cells[8].failure = Some("=1+1,\"".into());
    let text = csv(&sheet);
    assert!(text.contains("\"a, \"\"b\"\"\nc\r\n\","), "RFC 4180, by hand");
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    let head = reader.headers().unwrap().clone();
    let records: Vec<::csv::StringRecord> = reader.records().collect::<Result<_, _>>().expect("rows of equal length");
    assert_eq!(records.len(), sheet.cells.len());
    let at = |name: &str| head.iter().position(|column| column == name).unwrap();
    for (record, cell) in records.iter().zip(&sheet.cells) {
        let number = |name: &str| record[at(name)].parse::<f64>().ok();
        assert_eq!((&record[at("recipe")], &record[at("task")]), (cell.recipe.as_str(), cell.task.as_str()));
        assert_eq!(record[at("failure")], *cell.failure.as_deref().unwrap_or_default());
        assert_eq!(record[at("runs")], cell.runs.join(" "));
        assert_eq!(number("tokens"), Some(cell.tokens as f64));
        let d = cell.divergence.as_ref();
        assert_eq!(number("kl_mean"), d.map(|d| d.kl_mean));
        assert_eq!(number("perplexity_ratio_high"), d.map(|d| d.perplexity_ratio_interval.high));
        let a = cell.answers.as_ref();
        assert_eq!(number("score_difference_low"), a.map(|a| a.difference_interval.low));
        assert_eq!(number("same_answers"), a.map(|a| a.same));
        let g: Option<&Generated> = cell.generation.as_ref();
        assert_eq!(number("same_generations"), g.map(|g| g.same));
        assert_eq!(number("step_bytes"), cell.memory.map(|m| m.step_bytes as f64));
        assert_eq!(number("decode_ratio"), cell.speed.decode_ratio);
        let greatest = cell.heads.iter().flatten().copied().max_by(f64::total_cmp);
        assert_eq!((number("layers"), number("head_error_max")), (Some(cell.heads.len() as f64), greatest));
    }
    let rows = |text: &str| ::csv::Reader::from_reader(text.as_bytes()).records().map(Result::unwrap).count();
    assert_eq!(rows(&heads_csv(&sheet)), sheet.cells.iter().flat_map(|cell| &cell.heads).map(Vec::len).sum::<usize>());
    let depths = sheet.cells.iter().flat_map(|cell| &cell.answers).map(|answers| answers.by_depth.len()).sum::<usize>();
    assert_eq!(rows(&depths_csv(&sheet)), depths);
}

/// Cells of a line of a table, as GitHub counts them: a bar with a stroke before it separates nothing.
fn width(line: &str) -> usize {
    line.replace("\\|", "").matches('|').count()
}

#[test]
fn markdown_tables_are_even() {
    for sheet in [sample::sheet(1), sample::hostile(), Sheet::default()] {
        let page = markdown(&sheet);
        let mut before: Option<usize> = None;
        let mut tables = 0;
        for line in page.lines() {
            let is_table = line.starts_with('|');
            match before.filter(|_| is_table) {
                Some(width_before) => assert_eq!(width(line), width_before, "{line}"),
                None => tables += usize::from(is_table),
            }
            before = is_table.then(|| width(line));
        }
        assert!(tables >= 1, "{page}");
        let rows = recipes(&sheet.cells);
        let (all, _) = page.split_once("## All recipes").unwrap().1.split_once("\n\nEvery number").unwrap();
        assert_eq!(all.lines().filter(|line| line.starts_with('|')).count(), rows.len() + 2);
    }
    let page = markdown(&sample::hostile());
    assert!(!page.lines().any(|line| line.starts_with("# <") || line.contains(": <script")), "{page}");
}

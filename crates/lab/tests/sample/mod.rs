//! A sheet of made-up numbers: every recipe on six tasks at three lengths, with the gaps and failures that sweeps have.

use cachalot_kv::recipe::Registry;
use cachalot_lab::cell::{Answered, Cell, CellMemory, CellSpeed, Generated};
use cachalot_lab::quality::Scores;
use cachalot_lab::report::{RecipeInfo, Run, Sheet};
use cachalot_lab::statistics::{Interval, Random, wilson};
use serde_json::json;

const LENGTHS: [usize; 3] = [4096, 8192, 16384];
const QUESTIONS: usize = 40;

/// The sheet; the same for the same seed.
pub fn sheet(seed: u64) -> Sheet {
    let runs = [run(seed), run(seed + 1)];
    let names: Vec<String> = runs.iter().map(Run::id).collect();
    let mut cells = Vec::new();
    for (i, recipe) in Registry::all().iter().enumerate() {
        let random = &mut Random::of_item(seed, i as u64);
        let is_reference = recipe.name == "f16";
        let keeps = recipe.keep.is_some();
        let share = if is_reference { 1.0 } else { 0.06 + 0.7 * uniform(random) * uniform(random) };
        // Fewer bytes cost more, some recipes spend them better.
        let harm = if is_reference { 0.0 } else { 0.006 / share.powf(1.6) * (0.2 + 2.0 * uniform(random)) };
        let speed = if is_reference { 1.0 } else { 0.7 + 0.9 * (1.0 - share) * uniform(random) };
        let all = Made { harm, share, speed, is_reference };
        for tokens in LENGTHS {
            // The longest text is only half done.
            let planned = if tokens == 16384 && i % 9 == 4 { 0.5 } else { 1.0 };
            for task in ["perplexity", "needle", "multi-needle", "kv-retrieval", "summary", "generation"] {
                let has_question = !matches!(task, "perplexity" | "generation");
                let known: &[Option<bool>] = if keeps && has_question { &[Some(true), Some(false)] } else { &[None] };
                for &known in known {
                    let mut cell = all.cell(task, tokens, known, random);
                    cell.recipe = recipe.name.clone();
                    cell.items = (cell.planned as f64 * planned) as usize;
                    cell.runs = if i % 2 == 0 { names[..1].to_vec() } else { names.clone() };
                    if i % 17 == 5 && tokens == 16384 && has_question {
                        let failure = "the pool has 1.9 GiB, 2.4 GiB are wanted: raise --kv-budget or ask for less";
                        cell = Cell { failure: Some(failure.into()), items: 0, ..empty(cell) };
                    }
                    cells.push(cell);
                }
            }
        }
    }
    let recipes = Registry::all().iter().map(|recipe| RecipeInfo {
        name: recipe.name.clone(),
        paper: recipe.paper.clone(),
        line: recipe.summary.clone(),
        family: if recipe.keep.is_some() { "score, reduce".into() } else { "encode".into() },
        needs: recipe.needs.to_string(),
    });
    Sheet {
        title: "Made-up numbers on a model that is none".into(),
        reference: "f16".into(),
        recipes: recipes.collect(),
        runs: names.into_iter().zip(runs).collect(),
        cells,
    }
}

struct Made {
    harm: f64,
    share: f64,
    speed: f64,
    is_reference: bool,
}

impl Made {
    fn cell(&self, task: &str, tokens: usize, known: Option<bool>, random: &mut Random) -> Cell {
        let harm = self.harm * (0.7 + 0.6 * uniform(random)) * if known == Some(false) { 3.0 } else { 1.0 };
        let bytes = tokens as u64 * 23040;
        let mut cell = Cell {
            task: task.into(),
            tokens,
            known,
            is_reference: self.is_reference,
            planned: if task == "perplexity" { 16 } else { QUESTIONS },
            memory: Some(CellMemory {
                bytes: (bytes as f64 * self.share) as u64,
                peak_bytes: bytes,
                reference_bytes: bytes,
                bits: 16.0 * self.share,
                step_bytes: (bytes as f64 * self.share) as u64,
            }),
            speed: CellSpeed {
                ttft: Some(tokens as f64 / 900.0),
                prefill: Some(900.0 * (0.9 + 0.1 * self.speed)),
                prefill_ratio: Some(0.9 + 0.1 * self.speed),
                decode: Some(31.0 * self.speed),
                decode_ratio: Some(self.speed),
            },
            ..Cell::default()
        };
        match task {
            "perplexity" => {
                let kl = 0.4 * harm;
                let ratio = (0.5 * kl + 0.002 * (uniform(random) - 0.5)).exp();
                let (kl, ratio) = if self.is_reference { (0.0, 1.0) } else { (kl, ratio) };
                let noise = if self.is_reference { 0.0 } else { 0.0015 };
                cell.divergence = Some(Scores {
                    tokens: 8192,
                    kl_mean: kl,
                    kl_interval: Interval { low: 0.85 * kl, high: 1.2 * kl },
                    kl_p99: 12.0 * kl,
                    kl_max: 60.0 * kl,
                    top1: 1.0 / (1.0 + kl),
                    top5: 1.0 / (1.0 + 0.7 * kl),
                    perplexity: 12.3 * ratio,
                    perplexity_ratio: ratio,
                    perplexity_ratio_interval: Interval { low: ratio - noise, high: ratio + 1.3 * noise },
                    ..Scores::default()
                });
                let head = |layer: usize| {
                    let base = harm.sqrt() * (0.3 + (layer as f64 / 9.0).sin().abs());
                    (0..9).map(|_| base * (0.5 + uniform(random))).collect()
                };
                cell.heads =
                    if tokens == 4096 && !self.is_reference { (0..30).map(head).collect() } else { Vec::new() };
            }
            "generation" => {
                let agreement = if self.is_reference { 1.0 } else { 1.0 / (1.0 + 3.0 * harm) };
                cell.generation = Some(Generated {
                    count: QUESTIONS,
                    tokens: 256,
                    agreement,
                    agreement_interval: Interval { low: (agreement - 0.1).max(0.0), high: (agreement + 0.08).min(1.0) },
                    first_divergence: (256.0 * agreement).round(),
                    same: agreement * agreement,
                });
            }
            _ => cell.answers = Some(self.answers(harm, random)),
        }
        cell
    }

    fn answers(&self, harm: f64, random: &mut Random) -> Answered {
        let of_depth = QUESTIONS / 10;
        let mut right = 0;
        let mut by_depth = Vec::new();
        for depth in 0..10 {
            let chance = 0.95 - (harm * (1.5 - depth as f64 / 10.0)).min(0.95);
            let here = (0..of_depth).filter(|_| uniform(random) < chance).count();
            by_depth.push((depth as f64 / 9.0, here as f64 / of_depth as f64, of_depth));
            right += here;
        }
        let score = right as f64 / QUESTIONS as f64;
        let (difference, half) = if self.is_reference { (0.0, 0.0) } else { (score - 0.93, 0.07) };
        Answered {
            questions: QUESTIONS,
            score,
            interval: wilson(right, QUESTIONS),
            difference,
            difference_interval: Interval { low: difference - half, high: difference + half },
            same: score * score,
            by_depth,
        }
    }
}

fn empty(cell: Cell) -> Cell {
    let Cell { recipe, is_reference, task, tokens, known, planned, runs, .. } = cell;
    Cell { recipe, is_reference, task, tokens, known, planned, runs, ..Cell::default() }
}

fn run(seed: u64) -> Run {
    Run {
        command: ["cachalot", "lab", "sweep", "--recipes", "all, k=q8_0 + v=q4_0", "--seed", &seed.to_string()]
            .map(String::from)
            .to_vec(),
        started: 1_785_542_399 + 3600 * seed,
        version: "0.1.0".into(),
        program_digest: Some("5f1c".repeat(16)),
        model: json!({ "name": "none-135M", "source": "models/none.gguf", "digest": "09ab".repeat(16), "context": 32768 }),
        text: json!({ "path": "texts/none.txt", "bytes": 3_141_592, "digest": "77de".repeat(16) }),
        settings: json!({ "lengths": LENGTHS, "seed": seed, "questions": QUESTIONS, "chunk": 512 }),
        machine: json!({ "processor": "a processor, 2 cores", "isa": "avx512", "threads": 2, "os": "linux" }),
    }
}

fn uniform(random: &mut Random) -> f64 {
    random.below(1 << 24) as f64 / f64::from(1 << 24)
}

/// What nobody should call a recipe.
pub const HOSTILE: [&str; 7] = [
    "<script>alert(1)</script>",
    "\"onmouseover=\"alert(2)",
    "</script><script>alert(3)</script>",
    "</style></title></svg><img src=x onerror=alert(4)>",
    "a|b\nc `d` [e](javascript:alert(5))",
    "{{ 7 * 7 }}{% raw %}<!--",
    "'><a href='javascript:alert(6)'>",
];

/// A sheet that has these everywhere where text comes from outside.
pub fn hostile() -> Sheet {
    let good = sheet(1);
    let at = |i: usize| HOSTILE[i % HOSTILE.len()].to_owned();
    let mut runs = good.runs;
    for (i, (id, run)) in runs.iter_mut().enumerate() {
        *id = at(i);
        run.command = HOSTILE.map(String::from).to_vec();
        run.version = at(i + 1);
        run.model = json!({ "name": at(i + 2), at(i + 3): at(i + 4) });
        run.text = json!({ "path": at(i + 5) });
        run.settings = json!({ at(i + 6): HOSTILE });
    }
    let mut cells: Vec<Cell> = good.cells.into_iter().filter(|cell| cell.tokens == 4096).collect();
    let names: Vec<String> = cells.iter().map(|cell| cell.recipe.clone()).collect();
    let mut different = names.clone();
    different.dedup();
    cells.retain(|cell| different.iter().take(HOSTILE.len()).any(|name| *name == cell.recipe));
    for cell in &mut cells {
        let i = different.iter().position(|name| *name == cell.recipe).unwrap_or_default();
        cell.recipe = at(i);
        cell.is_reference = i == 0;
        cell.runs = HOSTILE.map(String::from).to_vec();
        if cell.task == "summary" {
            cell.task = at(i);
            cell.failure = Some(at(i + 1));
        }
    }
    let info =
        |i: usize| RecipeInfo { name: at(i), paper: at(i + 1), line: at(i + 2), family: at(i + 3), needs: at(i + 4) };
    Sheet { title: at(0), reference: at(0), recipes: (0..HOSTILE.len()).map(info).collect(), runs, cells }
}

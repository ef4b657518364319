//! `cachalot kv`: the recipes there are, and what each does and costs.

use crate::Failure;
use crate::args::ModelArgs;
use crate::forget::{ForgetArgs, forget};
use crate::load;
use cachalot_kv::allot::Budget;
use cachalot_kv::encode::codec::Side;
use cachalot_kv::encode::registry::stages;
use cachalot_kv::observe::{Gather, Last, Wish};
use cachalot_kv::recipe::calibrate::synthetic;
use cachalot_kv::recipe::expression::Files;
use cachalot_kv::recipe::{Card, Needs};
use cachalot_kv::reduce::When;
use cachalot_kv::reduce::merge::registry::MERGES;
use cachalot_kv::score::registry::METHODS;
use cachalot_kv::{CachePlan, LanePlan, LayerGeometry, Profile, Recipe, Registry, Rope};
use clap::{Args, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Args)]
pub struct KvCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the recipes with their bits per element.
    List(ListArgs),
    /// Show what a recipe does, what it keeps exact, what each bit is spent on, and where it differs from its paper.
    Show(ShowArgs),
    /// List the stages that recipes are made of.
    Stages,
    /// List the methods that choose what to keep of a context.
    Methods,
    /// Remove everything of an API key's holder from the folders of a server that does not run, and prove it.
    Forget(ForgetArgs),
}

#[derive(Args)]
struct ListArgs {
    /// Channels of a head to count bits for.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4096))]
    head_dim: u16,
    /// Print a JSON array instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ShowArgs {
    /// A recipe: a name, an expression or a .toml file.
    #[arg(value_name = "RECIPE")]
    recipe: String,
    #[command(flatten)]
    model: ModelArgs,
    /// The calibration profile, for recipes that need one; without, its numbers are made up and only the sizes are real.
    #[arg(long, value_name = "FILE")]
    kv_profile: Option<PathBuf>,
    /// Channels of a head, where no model is given.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4096))]
    head_dim: u16,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

pub fn kv(args: KvCommand) -> Result<(), Failure> {
    // Not println!, which panics where the reader has had enough.
    let mut out = std::io::stdout().lock();
    match args.command {
        Command::List(args) => list(&mut out, &args),
        Command::Show(args) => show(&mut out, &args),
        Command::Forget(args) => forget(&mut out, args),
        Command::Stages => {
            for entry in stages() {
                let profile = if entry.calibrate.is_some() { " [profile]" } else { "" };
                writeln!(out, "{:<12} {}{profile}", entry.name, entry.summary)?;
            }
            Ok(())
        }
        Command::Methods => {
            for entry in METHODS {
                let profile = if entry.measures.is_some() { " [profile]" } else { "" };
                writeln!(out, "{:<18} {}{profile}", entry.name, entry.summary)?;
            }
            writeln!(out, "\nwhat becomes of the others (`merge`):")?;
            for entry in MERGES {
                writeln!(out, "{:<18} {}", entry.name, entry.summary)?;
            }
            Ok(())
        }
    }
}

fn list(out: &mut impl Write, args: &ListArgs) -> Result<(), Failure> {
    let layers = example(args.head_dim.into(), EXAMPLE_LAYERS);
    let cards: Vec<Card> = Registry::all().iter().map(|recipe| Card::of(recipe, &layers, None)).collect();
    if args.json {
        writeln!(out, "{:#}", serde_json::to_value(&cards)?)?;
        return Ok(());
    }
    let width = cards.iter().map(|card| card.name.chars().count()).max().unwrap_or(0);
    writeln!(out, "{:<width$}  {:>6}  {:>6}  {:>5}  {:<8} WHAT", "NAME", "K BITS", "V BITS", "KEEPS", "NEEDS")?;
    for card in &cards {
        let bits = |bits: Option<f64>| bits.map_or("-".to_owned(), |bits| format!("{bits:.2}"));
        let (k, v, needs) = (bits(card.k_bits), bits(card.v_bits), card.needs);
        let needs = if needs == Needs::Nothing { String::new() } else { needs.to_string() };
        let keeps = card.keeps.as_deref().unwrap_or("all");
        writeln!(
            out,
            "{:<width$}  {k:>6}  {v:>6}  {keeps:>5}  {needs:<8} {} [{}]",
            card.name, card.summary, card.paper
        )?;
    }
    writeln!(out, "\nbits per element with everything counted, for heads of {} channels and 32 layers", args.head_dim)?;
    Ok(())
}

/// Layers of a common model.
const EXAMPLE_LAYERS: usize = 32;

/// Layers like those of common models, where no model is given.
fn example(head_dim: usize, layers: usize) -> Vec<LayerGeometry> {
    let frequency = |i: usize| 10_000f32.powf(-2.0 * i as f32 / head_dim as f32);
    let rope = Arc::new(Rope::new((0..head_dim / 2).map(frequency).collect(), 1.0));
    let layer = LayerGeometry {
        heads: 4,
        kv_heads: 1,
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
        softcap: None,
        window: None,
        rope: Some(rope),
        output: None,
    };
    vec![layer; layers]
}

/// Lanes that are kept in the same way.
struct Kind<'a> {
    lanes: Vec<(usize, usize)>,
    plan: &'a LanePlan,
    text: [Vec<String>; 2],
}

fn show(out: &mut impl Write, args: &ShowArgs) -> Result<(), Failure> {
    let recipe = Recipe::parse(&args.recipe, Files::Allowed)?;
    let profile = args.kv_profile.as_deref().map(Profile::read).transpose()?;
    let layers = match &args.model.model {
        None => example(args.head_dim.into(), EXAMPLE_LAYERS),
        Some(_) => {
            let ready = load::load(&args.model)?;
            if let Some(profile) = &profile {
                profile.check_model(&ready.loaded.digest)?;
            }
            ready.loaded.model.layer_geometry()
        }
    };
    let made_up = recipe.needs == Needs::Profile && profile.is_none();
    let plan = if made_up { synthetic(&recipe, &layers)? } else { recipe.plan(&layers, profile.as_ref())? };
    let kinds = kinds(&plan);
    if args.json {
        writeln!(out, "{:#}", json(&recipe, &plan, &kinds))?;
        return Ok(());
    }
    writeln!(out, "{}\n  {}\n  {}", recipe.name, recipe.summary, recipe.paper)?;
    writeln!(out, "needs      {}", recipe.needs)?;
    if made_up {
        writeln!(out, "           (no profile given: sizes are real, contents are not)")?;
    }
    writeln!(out, "bits       K {:.3}, V {:.3} per element", plan.bits(Side::Keys), plan.bits(Side::Values))?;
    let exact = recipe.encode.exact;
    match (plan.lanes.iter().flatten().any(|lane| lane.body.is_some()), recipe.encode.window, recipe.encode.sinks) {
        (false, ..) => writeln!(out, "exact      everything, in {exact}")?,
        (true, window, sinks) => {
            writeln!(out, "exact      {}, in {exact}", kept(sinks, window))?;
        }
    }
    if let Some(keep) = &plan.keep {
        writeln!(out, "keeps      {}", amount(keep.budget))?;
        writeln!(out, "score      {}", keep.method.describe())?;
        let when = match keep.when {
            When::Prompt => "at the end of the context".to_owned(),
            When::Decode => format!("every {} tokens after the context", keep.every),
            When::Both => format!("at the end of the context, and every {} tokens after it", keep.every),
        };
        writeln!(out, "reduces    {when}")?;
        let rest = keep.merge.as_ref().map_or("they are dropped".to_owned(), |merge| merge.describe());
        writeln!(out, "others     {rest}")?;
        for line in observed(keep.wish()) {
            writeln!(out, "observe    {line}")?;
        }
    }
    if recipe.encode.importance {
        writeln!(out, "observe    how much attention each token gets")?;
    }
    for kind in &kinds {
        if kinds.len() > 1 {
            writeln!(out, "\nlayers {}", lanes(&kind.lanes, &plan))?;
        }
        for (side, name) in [(Side::Keys, "keys"), (Side::Values, "values")] {
            writeln!(out, "{name:<10} {:.3} bits", kind.plan.bits(side))?;
            for line in &kind.text[usize::from(side == Side::Values)] {
                writeln!(out, "           {line}")?;
            }
        }
    }
    if !recipe.deviations.is_empty() {
        writeln!(out, "\nwhere this differs from the paper")?;
        for deviation in &recipe.deviations {
            writeln!(out, "  - {deviation}")?;
        }
    }
    Ok(())
}

fn amount(budget: Budget) -> String {
    match budget {
        Budget::Share(share) => format!("{share} of the tokens"),
        Budget::Tokens(tokens) => format!("{tokens} tokens"),
        Budget::Bytes(bytes) => format!("as many tokens as take {}", crate::size::show(bytes)),
        Budget::Free(share) => format!("as many tokens as take {share} of what is free when the context begins"),
    }
}

/// What attention leaves behind for a method.
fn observed(wish: Wish) -> Vec<String> {
    let rows = (wish.rows > 0).then(|| format!("the queries of the last {} tokens", wish.rows));
    let columns = wish.columns.map(|columns| {
        let what = match columns.gather {
            Gather::Sum => "attention that every token receives",
            Gather::Repeated => "the largest attention that every token receives while the context is read again",
            Gather::Max => "the largest attention that every token receives",
            Gather::Below => "how often a token receives less than an equal share",
            Gather::Noisy { .. } => "attention that every token receives, with noise",
        };
        match columns.last {
            Last::All => what.to_owned(),
            Last::Rows(rows) => format!("{what}, from the last {rows} rows"),
            Last::Share(share) => format!("{what}, from the last {share} of the rows"),
            Last::Probes(share) => {
                format!("{what}, from the last {share} of the rows and as many of the others, drawn")
            }
        }
    });
    let moments = wish.moments.then(|| "mean and covariance of the queries before rotary position".to_owned());
    let hidden = wish.hidden.then(|| "norms of the hidden states of every token".to_owned());
    rows.into_iter().chain(columns).chain(moments).chain(hidden).collect()
}

fn kept(sinks: usize, window: usize) -> String {
    let sinks = match sinks {
        0 => String::new(),
        1 => "the page of 64 tokens with the first, ".to_owned(),
        n => format!("the pages of 64 tokens with the first {n}, "),
    };
    match window {
        0 => format!("{sinks}the page being filled"),
        n => format!("{sinks}the last {n} tokens and what shares their pages"),
    }
}

/// The lanes of a plan, those that read alike together.
fn kinds(plan: &CachePlan) -> Vec<Kind<'_>> {
    let mut kinds: Vec<Kind<'_>> = Vec::new();
    for (layer, lanes) in plan.lanes.iter().enumerate() {
        for (head, lane) in lanes.iter().enumerate() {
            let text = [Side::Keys, Side::Values].map(|side| lines(lane, side));
            match kinds.iter_mut().find(|kind| kind.text == text && kind.plan.window == lane.window) {
                Some(kind) => kind.lanes.push((layer, head)),
                None => kinds.push(Kind { lanes: vec![(layer, head)], plan: lane, text }),
            }
        }
    }
    kinds
}

fn lines(lane: &LanePlan, side: Side) -> Vec<String> {
    let (stages, items, shared) = lane.explain(side);
    let elements = match &lane.body {
        None => return vec!["exact".to_owned()],
        Some(body) => body.k.shape().elements(),
    };
    let mut lines = stages;
    for item in items {
        lines.push(format!("{:>7.3} bits  {}", 8.0 * item.bytes as f64 / elements as f64, item.what));
    }
    if shared > 0 {
        lines.push(format!("tables that all pages share: {shared} bytes"));
    }
    lines
}

/// `0-3, 7`, with heads where not all are meant.
fn lanes(list: &[(usize, usize)], plan: &CachePlan) -> String {
    let mut layers: Vec<usize> = list.iter().map(|&(layer, _)| layer).collect();
    layers.dedup();
    let whole = layers.iter().map(|&layer| plan.lanes[layer].len()).sum::<usize>() == list.len();
    if !whole {
        return list.iter().map(|(layer, head)| format!("{layer}:{head}")).collect::<Vec<_>>().join(", ")
            + " (layer:head)";
    }
    let runs = layers.chunk_by(|a, b| b - a == 1);
    let run = |run: &[usize]| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    };
    runs.map(run).collect::<Vec<_>>().join(", ")
}

fn json(recipe: &Recipe, plan: &CachePlan, kinds: &[Kind<'_>]) -> serde_json::Value {
    let side = |kind: &Kind<'_>, side: Side| {
        let (stages, items, shared) = kind.plan.explain(side);
        let items: Vec<_> =
            items.iter().map(|item| serde_json::json!({ "what": item.what, "page_bytes": item.bytes })).collect();
        serde_json::json!({
            "bits": kind.plan.bits(side), "stages": stages, "breakdown": items, "shared_bytes": shared,
        })
    };
    let groups: Vec<_> = kinds
        .iter()
        .map(|kind| {
            serde_json::json!({
                "lanes": kind.lanes, "window": kind.plan.window,
                "keys": side(kind, Side::Keys), "values": side(kind, Side::Values),
            })
        })
        .collect();
    serde_json::json!({
        "name": recipe.name, "paper": recipe.paper, "summary": recipe.summary, "needs": recipe.needs,
        "deviations": recipe.deviations, "sinks": recipe.encode.sinks, "window": recipe.encode.window,
        "exact": recipe.encode.exact.to_string(), "importance": recipe.encode.importance,
        "keep": plan.keep.as_ref().map(|keep| serde_json::json!({
            "budget": keep.budget.to_string(), "score": keep.method.describe(), "when": keep.when.to_string(),
            "every": keep.every, "others": keep.merge.as_ref().map(|merge| merge.describe()),
            "observes": observed(keep.wish()),
        })),
        "k_bits": plan.bits(Side::Keys), "v_bits": plan.bits(Side::Values), "lanes": groups,
    })
}

//! Every method by name.

use super::Method;
use super::attention::Pool;
use super::expected::ExpectedAttention;
use super::guikv::{AudioKv, GuiKv};
use super::keydiff::KeyDiff;
use super::kvzip::KvZip;
use super::mpcache::MpCache;
use super::norm::Knorm;
use super::positional::StreamingLlm;
use super::rkv::Rkv;
use super::snapkv::SnapKv;
use super::sums::{Heavy, Norm, Recent};
use super::tova::Tova;
use super::treekv::TreeKv;
use super::windowkv::{Strategy, WindowKv};
use crate::allot::ada::AdaKv;
use crate::allot::chunk::ChunkKv;
use crate::allot::critical::Critical;
use crate::allot::crush::KvCrush;
use crate::allot::fastkv::FastKv;
use crate::allot::heads::{ByHead, Rule, Table};
use crate::allot::prefix::PrefixKv;
use crate::allot::variance::Variance;
use crate::allot::zipvl::ZipVl;
use crate::allot::{Choose, Over};
use crate::encode::stage::{Args, StageError, StageSpec};
use crate::observe::{Columns, Gather, Last};
use crate::recipe::measure::Measure;
use crate::recipe::{RecipeError, nearest};
use crate::reduce::{Merge, Passes, Stage, When};
use std::sync::Arc;

/// A line of the registry.
pub struct MethodEntry {
    /// As recipes name it.
    pub name: &'static str,
    /// One line, arguments included.
    pub summary: &'static str,
    /// What calibration measures of every head, where budgets come from a profile.
    pub measures: Option<Measure>,
    build: Build,
}

type Build = fn(&Args, Option<&Table>) -> Result<Arc<dyn Method>, StageError>;

const fn entry(name: &'static str, summary: &'static str, build: Build) -> MethodEntry {
    MethodEntry { name, summary, measures: None, build }
}

const fn measured(name: &'static str, summary: &'static str, measure: Measure, build: Build) -> MethodEntry {
    MethodEntry { name, summary, measures: Some(measure), build }
}

/// Sums over all rows, or over probes.
fn probed(args: &Args) -> Result<Columns, StageError> {
    let probes = args.share("probes", 1.0, 1e-6..=1.0)?;
    Ok(Columns { gather: Gather::Sum, last: if probes < 1.0 { Last::Probes(probes) } else { Last::All } })
}

/// All methods.
pub const METHODS: &[MethodEntry] = &[
    entry("streamingllm", "the first tokens and the last ones; streamingllm(sinks=4)", |args, _| {
        Ok(Arc::new(StreamingLlm { sinks: args.integer("sinks", 4, 0..=1024)? }))
    }),
    entry("knorm", "keys of small norm", |_, _| Ok(Arc::new(Knorm))),
    entry("keydiff", "keys unlike the mean direction", |_, _| Ok(Arc::new(KeyDiff))),
    entry("tova", "attention of the last query, one set for all heads", |_, _| Ok(Arc::new(Tova))),
    entry(
        "snapkv",
        "attention of the last queries, smoothed; snapkv(window=64, kernel=5, pool=average|largest)",
        |args, _| Ok(Arc::new(snapkv(args, None)?)),
    ),
    entry(
        "pyramidkv",
        "snapkv with budgets that shrink with depth; pyramidkv(window=64, kernel=5, beta=20)",
        |args, _| Ok(Arc::new(snapkv(args, Some(args.integer("beta", 20, 1..=1000)?))?)),
    ),
    entry(
        "h2o",
        "attention received in all, and recent tokens; h2o(recent=0.5, sinks=0, probes=1): probes as in observedattention",
        |args, _| {
            let recent = Recent::Share(args.share("recent", 0.5, 0.0..=1.0)?);
            let sinks = args.integer("sinks", 0, 0..=1024)?;
            Ok(Arc::new(Heavy { columns: probed(args)?, recent, sinks, ..Heavy::of(Gather::Sum) }))
        },
    ),
    entry(
        "observedattention",
        "attention received, per row that could give it (kvpress); observedattention(probes=1): 0.05 looks at the last \
         twentieth of the rows and at a random twentieth of the others (ZipCache)",
        |args, _| {
            Ok(Arc::new(Heavy {
                columns: probed(args)?,
                norm: Norm::Mean,
                when: When::Prompt,
                ..Heavy::of(Gather::Sum)
            }))
        },
    ),
    entry("scissorhands", "rows that give less than an equal share; scissorhands(rows=400, recent=10)", |args, _| {
        let last = Last::Rows(args.integer("rows", 400, 1..=1 << 20)?);
        let recent = Recent::Tokens(args.integer("recent", 10, 0..=1 << 20)?);
        let columns = Columns { gather: Gather::Below, last };
        Ok(Arc::new(Heavy { columns, norm: Norm::Negative, recent, ..Heavy::of(Gather::Below) }))
    }),
    entry("keyformer", "attention with Gumbel noise; keyformer(recent=0.3, warming=0.01, seed=0)", |args, _| {
        let seed = args.integer("seed", 0, 0..=u32::MAX as usize)? as u64;
        let gather = Gather::Noisy { seed, warming: args.number("warming", 0.01, 0.0..=1.0)? };
        Ok(Arc::new(Heavy { recent: Recent::Share(args.share("recent", 0.3, 0.0..=1.0)?), ..Heavy::of(gather) }))
    }),
    entry("treekv", "neighbours compared by a cursor that goes round; treekv(sinks=0)", |args, _| {
        Ok(Arc::new(TreeKv { sinks: args.integer("sinks", 0, 0..=1024)? }))
    }),
    entry(
        "windowkv",
        "windows of neighbours, chosen once for several layers; windowkv(suffix=32, size=8, share=8, beta=14, strategy=average|max)",
        |args, _| {
            let strategy = match args.word("strategy", &["average", "max"])? {
                "max" => Strategy::Max,
                _ => Strategy::Average,
            };
            Ok(Arc::new(WindowKv {
                suffix: args.integer("suffix", 32, 1..=1024)?,
                size: args.integer("size", 8, 1..=1024)?,
                share: args.integer("share", 8, 1..=1024)?,
                beta: args.integer("beta", 14, 1..=1000)?,
                strategy,
            }))
        },
    ),
    entry("mpcache", "the largest attention of any of the last queries; mpcache(rows=0.2)", |args, _| {
        Ok(Arc::new(MpCache { share: args.share("rows", 0.2, 0.0..=1.0)? }))
    }),
    entry(
        "expectedattention",
        "attention expected of queries to come; expectedattention(future=512, epsilon=0, values=true)",
        |args, _| {
            Ok(Arc::new(ExpectedAttention {
                future: args.integer("future", 512, 1..=1 << 16)?,
                epsilon: args.number("epsilon", 0.0, 0.0..=1.0)?,
                values: args.flag("values", true)?,
            }))
        },
    ),
    entry(
        "kvzip",
        "attention while the context is repeated on request; heads of all layers share; kvzip(chunk=2048, layerwise=false)",
        |args, _| {
            let chunk = args.integer("chunk", 2048, 16..=1 << 16)?;
            Ok(Arc::new(KvZip { chunk, layerwise: args.flag("layerwise", false)? }))
        },
    ),
    entry(
        "fastkv",
        "layers beyond one read only the rows that another method's scores put first; fastkv(of=snapkv(window=8, kernel=7, pool=largest), layer=LAYER, rows=0.2)",
        |args, _| {
            let of = match args.text("of") {
                Some(_) => of(args)?,
                None => Arc::new(SnapKv { window: 8, kernel: 7, pool: Pool::Largest, beta: None }),
            };
            sees_the_last(args, &*of)?;
            let layer = match args.text("layer") {
                None => None,
                Some(_) => Some(args.integer("layer", 15, 0..=1 << 16)?),
            };
            Ok(Arc::new(Over { of, how: FastKv { layer, rows: args.share("rows", 0.2, 0.01..=1.0)? } }))
        },
    ),
    entry(
        "rkv",
        "attention of the last queries less redundancy; rkv(window=8, kernel=7, balance=0.07, same=0.5)",
        |args, _| {
            Ok(Arc::new(Rkv {
                window: args.integer("window", 8, 1..=1024)?,
                kernel: odd(args, 7)?,
                balance: args.number("balance", 0.07, 0.0..=1.0)?,
                same: args.number("same", 0.5, -1.0..=1.0)?,
            }))
        },
    ),
    entry(
        "guikv",
        "snapkv without what earlier spans share with the last; guikv(window=8, kernel=5, rank=32, keep=0.5, alpha=2, temperature=3.5)",
        |args, _| {
            Ok(Arc::new(GuiKv {
                window: args.integer("window", 8, 1..=1024)?,
                kernel: odd(args, 5)?,
                rank: args.integer("rank", 32, 1..=4096)?,
                keep: args.share("keep", 0.5, 0.0..=1.0)?,
                alpha: args.number("alpha", 2.0, 0.0..=100.0)?,
                temperature: args.number("temperature", 3.5, 0.01..=100.0)?,
            }))
        },
    ),
    entry(
        "audiokv",
        "snapkv smoothed over spans by their spectrum; audiokv(window=64, alpha=0.5, gamma=0.25)",
        |args, _| {
            Ok(Arc::new(AudioKv {
                window: args.integer("window", 64, 1..=1024)?,
                alpha: args.number("alpha", 0.5, 0.0..=1.0)?,
                gamma: args.share("gamma", 0.25, 0.0..=1.0)?,
            }))
        },
    ),
    entry("ems", "recent and overall attention, and merging; ems(window=32, kernel=5)", |args, _| {
        Ok(Arc::new(super::ems::Ems { window: args.integer("window", 32, 1..=1024)?, kernel: odd(args, 5)? }))
    }),
    entry("d2o", "h2o with four sinks, budgets of layers by spread, and merging; d2o(recent=0.5)", |args, _| {
        let recent = Recent::Share(args.share("recent", 0.5, 0.0..=1.0)?);
        let of = Heavy { sinks: 4, recent, merge: Some(merge("d2o", args)?), ..Heavy::of(Gather::Sum) };
        Ok(Arc::new(Over { of: Arc::new(of), how: Variance }))
    }),
    entry(
        "elasticcache",
        "attention received, one set for all heads, and merging by position; elasticcache(start=1)",
        |args, _| Ok(Arc::new(Heavy { merge: Some(merge("elastic", args)?), ..layerwise(args)? })),
    ),
    entry("prefixkv", "layers keep the same share of what was received; prefixkv(start=1)", |args, _| {
        Ok(Arc::new(Over { of: Arc::new(layerwise(args)?), how: PrefixKv }))
    }),
    entry("zipvl", "as many as hold a share of the attention, layer by layer; zipvl(share=0.975)", |args, _| {
        let of = Heavy { norm: Norm::Mean, shared: true, when: When::Prompt, ..Heavy::of(Gather::Sum) };
        Ok(Arc::new(Over { of: Arc::new(of), how: ZipVl { share: args.share("share", 0.975, 0.0..=1.0)? } }))
    }),
    entry("kvmerger", "runs of similar neighbours become one; kvmerger(recent=0.3)", |args, _| {
        let recent = Recent::Share(args.share("recent", 0.3, 0.0..=1.0)?);
        let of = Heavy { recent, when: When::Prompt, merge: Some(merge("kvmerger", args)?), ..Heavy::of(Gather::Sum) };
        Ok(Arc::new(of))
    }),
    entry("chelsea", "clusters within chunks of neighbours", |args, _| {
        Ok(Arc::new(super::positional::Merged { merge: merge("chelsea", args)? }))
    }),
    measured(
        "duoattention",
        "some heads keep everything, the others the first and the last; duoattention(sinks=16, recent=256, heads=SHARE)",
        Measure::Area,
        |args, table| {
            let sinks = args.integer("sinks", 16, 0..=1024)?;
            let others = sinks + args.integer("recent", 256, 1..=1 << 20)?;
            let full = match args.text("heads") {
                None => None,
                Some(_) => Some(args.share("heads", 0.5, 0.0..=1.0)?),
            };
            by_head(table, Rule::Full { full, others }, None, Arc::new(StreamingLlm { sinks }))
        },
    ),
    measured(
        "razorattention",
        "retrieval heads keep everything, the others the first, the last and a token for the rest; razorattention(sinks=4, heads=0.15, of=streamingllm)",
        Measure::Induction,
        |args, table| {
            let sinks = args.integer("sinks", 4, 0..=1024)?;
            let rule = Rule::Rest { full: args.share("heads", 0.15, 0.0..=1.0)?, least: sinks + 64 };
            let own: Arc<dyn Method> = Arc::new(StreamingLlm { sinks });
            let of = if args.text("of").is_some() { of(args)? } else { own };
            by_head(table, rule, Some(merge("compensation", args)?), of)
        },
    ),
    measured(
        "headkv",
        "heads keep by need, the best of another method; headkv(of=snapkv, floor=0.1)",
        Measure::Induction,
        |args, table| {
            let of = of(args)?;
            let rule = Rule::Share { floor: args.share("floor", 0.1, 0.0..=1.0)?, window: of.least() };
            by_head(table, rule, None, of)
        },
    ),
    measured(
        "tangram",
        "heads keep in proportion to a profile, the best of another method; tangram(of=snapkv)",
        Measure::Retention,
        |args, table| by_head(table, Rule::Proportional, None, of(args)?),
    ),
    measured(
        "uncomp",
        "the half of the heads with more entropy keeps twice as much, and layers beyond some read fewer rows; uncomp(of=snapkv, stages=LAYER/LAYER/..)",
        Measure::Entropy,
        |args, table| {
            let (of, stages) = (of(args)?, stages(args)?);
            if !stages.is_empty() {
                sees_the_last(args, &*of)?;
            }
            Ok(Arc::new(Over { of, how: ByHead { table: table.cloned(), rule: Rule::Halves, merge: None, stages } }))
        },
    ),
    entry(
        "adakv",
        "heads of a layer share their budget by scores of another method; adakv(of=snapkv, floor=0.2)",
        |args, _| over(args, AdaKv { floor: args.share("floor", 0.2, 0.0..=1.0)? }),
    ),
    entry(
        "criticalkv",
        "half by another method, the rest also by what values do to the output; criticalkv(of=snapkv, first=0.5)",
        |args, _| over(args, Critical { first: args.share("first", 0.5, 0.0..=1.0)?, ada: None }),
    ),
    entry(
        "criticaladakv",
        "criticalkv whose heads share the budget of a layer; criticaladakv(of=snapkv, first=0.5, floor=0.2)",
        |args, _| {
            let ada = Some(AdaKv { floor: args.share("floor", 0.2, 0.0..=1.0)? });
            over(args, Critical { first: args.share("first", 0.5, 0.0..=1.0)?, ada })
        },
    ),
    entry(
        "chunkkv",
        "whole chunks by scores of another method, one set for all heads; chunkkv(of=snapkv, chunk=20)",
        |args, _| over(args, ChunkKv { chunk: args.integer("chunk", 20, 1..=4096)? }),
    ),
    entry(
        "kvcrush",
        "some of the budget for tokens that stand for others; kvcrush(of=snapkv, share=0.25)",
        |args, _| over(args, KvCrush { share: args.share("share", 0.25, 0.0..=1.0)? }),
    ),
];

fn odd(args: &Args, default: usize) -> Result<usize, StageError> {
    let kernel = args.integer("kernel", default, 1..=63)?;
    match kernel % 2 {
        0 => Err(args.error(format!("`kernel={kernel}` has no middle; take an odd number"))),
        _ => Ok(kernel),
    }
}

fn snapkv(args: &Args, beta: Option<usize>) -> Result<SnapKv, StageError> {
    let pool = match args.word("pool", &["average", "largest"])? {
        "largest" => Pool::Largest,
        _ => Pool::Average,
    };
    Ok(SnapKv { window: args.integer("window", 64, 1..=1024)?, kernel: odd(args, 5)?, pool, beta })
}

/// Attention received, one ranking for all heads of a layer; the first tokens and the last stay.
fn layerwise(args: &Args) -> Result<Heavy, StageError> {
    let sinks = args.integer("start", 1, 0..=1024)?;
    Ok(Heavy { sinks, recent: Recent::Tokens(1), shared: true, ..Heavy::of(Gather::Sum) })
}

fn merge(name: &str, args: &Args) -> Result<Arc<dyn Merge>, StageError> {
    let spec = StageSpec { name: name.to_owned(), args: [].into() };
    crate::reduce::merge::registry::build(&spec).map_err(|error| args.error(error.what))
}

/// Layers that see only some of the rows cannot tell what all rows look at.
fn sees_the_last(args: &Args, of: &dyn Method) -> Result<(), StageError> {
    let wish = of.wish();
    match wish.columns.is_some() || wish.moments || wish.hidden || of.passes() != Passes::Once {
        true => Err(args.error("`of` looks at all rows, which some layers never see; take one that looks at the last")),
        false => Ok(()),
    }
}

/// UNComp's stages: 1536 rows and, beyond each of the layers named, a smaller share of the others, none in the end.
fn stages(args: &Args) -> Result<Vec<Stage>, StageError> {
    let Some(text) = args.text("stages") else { return Ok(Vec::new()) };
    let layers: Result<Vec<usize>, _> = text.split('/').map(str::parse).collect();
    let layers = layers.map_err(|_| args.error(format!("`stages={text}` is no list of layers such as 1/14/25/30")))?;
    if !layers.is_sorted_by(|a, b| a < b) {
        return Err(args.error(format!("`stages={text}`: layers come in ascending order")));
    }
    let of = layers.len() as f64;
    let share = |i: usize| (of - 1.0 - i as f64) / of;
    Ok(layers
        .iter()
        .enumerate()
        .map(|(i, &after)| Stage { after: Some(after), fixed: 1536, share: share(i) })
        .collect())
}

/// Budgets of heads over a method.
fn by_head(
    table: Option<&Table>,
    rule: Rule,
    merge: Option<Arc<dyn Merge>>,
    of: Arc<dyn Method>,
) -> Result<Arc<dyn Method>, StageError> {
    Ok(Arc::new(Over { of, how: ByHead { table: table.cloned(), rule, merge, stages: Vec::new() } }))
}

/// The method `of`, with its usual arguments.
fn of(args: &Args) -> Result<Arc<dyn Method>, StageError> {
    let spec: StageSpec =
        args.text("of").unwrap_or("snapkv").parse().map_err(|e: RecipeError| args.error(e.to_string()))?;
    let of = build(&spec, None).map_err(|error| args.error(error.to_string()))?;
    if method(&spec.name).is_some_and(|entry| entry.measures.is_some()) {
        return Err(args.error(format!("`{}` needs a profile of heads; nothing can be built on it", spec.name)));
    }
    Ok(of)
}

/// A way of choosing by the scores of the method `of`.
fn over(args: &Args, how: impl Choose + 'static) -> Result<Arc<dyn Method>, StageError> {
    Ok(Arc::new(Over { of: of(args)?, how }))
}

/// The entry of a name.
pub fn method(name: &str) -> Option<&'static MethodEntry> {
    METHODS.iter().find(|entry| entry.name == name)
}

/// The method that a call stands for.
///
/// # Errors
/// Names that are not known and arguments that are not possible.
pub fn build(spec: &StageSpec, table: Option<&Table>) -> Result<Arc<dyn Method>, StageError> {
    let args = Args::new(spec.clone());
    let Some(entry) = method(&spec.name) else {
        let meant = nearest(&spec.name, METHODS.iter().map(|entry| entry.name));
        let meant = meant.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
        return Err(args.error(format!("no method has this name{meant}")));
    };
    let method = (entry.build)(&args, table)?;
    args.done()?;
    Ok(method)
}

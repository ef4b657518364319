//! What holds for every recipe of the registry.

use super::calibrate::{synthetic, synthetic_rows, synthetic_tensors};
use super::error::Lane;
use super::expression::Files;
use super::*;
use crate::encode::codec::Hints;
use crate::encode::registry::stage;
use crate::encode::stage::StageSpec;
use crate::profile::{Origin, Profile};
use crate::{CachePlan, LayerGeometry, Rope};
use cachalot_kernels::attention::PAGE_TOKENS;
use std::sync::Arc;

fn layers(head_dim: usize) -> Vec<LayerGeometry> {
    let rope = Arc::new(Rope::new((0..head_dim / 2).map(|i| 0.9f32.powi(i as i32)).collect(), 1.0));
    let layer = LayerGeometry {
        heads: 4,
        kv_heads: 2,
        head_dim,
        scale: 0.1,
        softcap: None,
        window: None,
        rope: Some(rope),
        output: None,
    };
    vec![layer; 2]
}

fn plan(recipe: &Recipe, head_dim: usize) -> CachePlan {
    let layers = layers(head_dim);
    let plan = match recipe.needs {
        Needs::Nothing => recipe.plan(&layers, None),
        Needs::Profile => synthetic(recipe, &layers),
    };
    plan.unwrap_or_else(|error| panic!("{recipe}, {head_dim} channels: {error}"))
}

#[test]
fn every_file_is_a_recipe_of_its_name() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml"))
        .map(|name| format!("recipes/{name}"))
        .collect();
    files.sort();
    let mut listed: Vec<&str> = Registry::files().iter().map(|(path, _)| *path).collect();
    listed.sort_unstable();
    assert_eq!(files, listed);
    for (path, text) in Registry::files() {
        let recipe = Recipe::from_toml(text, path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(format!("recipes/{}.toml", recipe.name), *path);
        assert!(!text.contains("name = ") || text.starts_with("name = "), "{path}: the name comes first");
    }
    let mut names: Vec<&str> = Registry::all().iter().map(|recipe| recipe.name.as_str()).collect();
    assert_eq!(names.len(), listed.len() + 4, "files, and the shorthands");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), listed.len() + 4, "no name twice");
}

#[test]
fn every_recipe_says_where_it_comes_from_and_prints_as_it_parses() {
    for recipe in Registry::all() {
        assert!(!recipe.paper.is_empty() && !recipe.summary.is_empty(), "{recipe}");
        assert!(recipe.summary.chars().count() <= 110, "{recipe}: one line");
        assert!(!recipe.summary.ends_with('.'), "{recipe}: a phrase, no sentence");
        assert!(recipe.deviations.iter().all(|deviation| deviation.ends_with('.')), "{recipe}: sentences");
        assert_eq!(Recipe::parse(&recipe.to_string(), Files::Refused).as_ref(), Ok(recipe));
        for side in [Side::Keys, Side::Values] {
            for spec in recipe.encode.all_stages(side) {
                assert_eq!(spec.to_string().parse::<StageSpec>().as_ref(), Ok(spec));
            }
        }
    }
}

#[test]
fn every_recipe_needs_a_profile_exactly_if_it_says_so() {
    for recipe in Registry::all() {
        let alone = recipe.plan(&layers(64), None);
        match recipe.needs {
            Needs::Nothing => assert!(alone.is_ok(), "{recipe}: {alone:?}"),
            Needs::Profile => {
                assert!(matches!(alone, Err(RecipeError::NeedsProfile { .. })), "{recipe}");
                let mut bold = recipe.clone();
                bold.needs = Needs::Nothing;
                // Widths and heads are all alike without.
                let uses_bits = recipe.encode.bits == Bits::Profile || recipe.keep.is_some();
                assert!(uses_bits || bold.plan(&layers(64), None).is_err(), "{recipe} needs no profile");
            }
        }
    }
}

#[test]
fn every_recipe_plans_and_its_bits_are_its_bytes() {
    for recipe in Registry::all() {
        for head_dim in [64, 128] {
            let plan = plan(recipe, head_dim);
            assert_eq!(plan.name, recipe.name);
            plan.check(&layers(head_dim)).unwrap();
            for side in [Side::Keys, Side::Values] {
                let lanes: Vec<_> = plan.lanes.iter().flatten().collect();
                let mut sum = 0.0;
                for lane in &lanes {
                    let bytes: usize = match &lane.body {
                        Some(_) => lane.explain(side).1.iter().map(|item| item.bytes).sum(),
                        None => PAGE_TOKENS * head_dim * 16 / 8 * if recipe.name == "f32" { 2 } else { 1 },
                    };
                    let bits = 8.0 * bytes as f64 / (PAGE_TOKENS * head_dim) as f64;
                    assert_eq!(lane.bits(side), bits, "{recipe} {side:?}");
                    // Nobody stores more than plain floats do.
                    assert!(bits > 0.0 && bits <= 32.0, "{recipe} {side:?}: {bits} bits");
                    sum += bits;
                }
                assert!((plan.bits(side) - sum / lanes.len() as f64).abs() < 1e-9);
            }
        }
    }
}

#[test]
fn every_recipe_writes_pages_that_it_reads() {
    // The rows that profiles are made from: a codebook knows nothing else.
    let samples = synthetic_rows(&layers(64));
    for recipe in Registry::all() {
        let plan = plan(recipe, 64);
        for (layer, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let Some(body) = &plan.lanes[layer][head].body else { continue };
            for (side, pipeline) in [(Side::Keys, &body.k), (Side::Values, &body.v)] {
                let n = pipeline.shape().elements();
                let rows = samples.samples(Lane { layer, head, side }, !pipeline.before_rope()).0;
                let rows = &rows[..n];
                let importance: Vec<f32> = (0..PAGE_TOKENS).map(|i| (i * 37 % 64) as f32).collect();
                let mut page = vec![0xa5; pipeline.bytes()];
                let odd = pipeline.encode(rows, Hints { importance: &importance, start: 64 }, &mut page);
                let mut read = vec![f32::NAN; n];
                pipeline.decode(&page, &mut read);
                let energy: f32 = rows.iter().map(|x| x * x).sum();
                let error: f32 = rows.iter().zip(&read).map(|(a, b)| (a - b) * (a - b)).sum();
                // Closer than writing nothing: what is read has to do with what was written.
                assert!(odd == 0 && error.is_finite() && error < energy, "{recipe}: {} of {energy}", error);
            }
        }
    }
}

/// Lanes share pipelines that nothing was calibrated for, so such stages must not depend on the lane.
#[test]
fn stages_without_calibration_do_not_depend_on_the_lane() {
    use crate::encode::stage::{Args, Built, Context};
    let g = &layers(64)[0];
    for recipe in Registry::all() {
        for side in [Side::Keys, Side::Values] {
            for spec in recipe.encode.all_stages(side) {
                let entry = stage(&spec.name).unwrap();
                if entry.calibrate.is_some() {
                    continue;
                }
                let build = |layer: usize, head: usize| {
                    let context = Context {
                        side,
                        tokens: PAGE_TOKENS,
                        channels: 64,
                        layer,
                        layers: 4,
                        head,
                        heads: 2,
                        rope: g.rope.as_deref(),
                        profile: None,
                        // Some stages must come first.
                        stage: 0,
                    };
                    (entry.build)(&Args::new(spec.clone()), &context)
                };
                let rows: Vec<f32> = (0..64 * PAGE_TOKENS).map(|i| ((i * 7919) % 613) as f32 / 300.0 - 1.0).collect();
                match (build(0, 0), build(3, 1)) {
                    (Ok(Built::Part(a)), Ok(Built::Part(b))) => {
                        let (mut x, mut y) = (vec![0; a.bytes()], vec![1; b.bytes()]);
                        a.encode(&rows, Hints::default(), &mut x);
                        b.encode(&rows, Hints::default(), &mut y);
                        assert_eq!(x, y, "{spec}");
                    }
                    (Ok(Built::Transform(a)), Ok(Built::Transform(b))) => {
                        let (mut x, mut y) = (vec![0.0; a.outputs()], vec![1.0; b.outputs()]);
                        a.forward(&rows[..64], &mut x);
                        b.forward(&rows[..64], &mut y);
                        assert_eq!(x, y, "{spec}");
                    }
                    (Ok(_), Ok(_)) => {}
                    (a, b) => panic!("{spec}: {:?} {:?}", a.err(), b.err()),
                }
            }
        }
    }
}

fn profile(recipe: &Recipe, head_dim: usize) -> Profile {
    let origin = Origin {
        heads: recipe.keep.as_ref().and_then(KeepSpec::measures).map(|measure| measure.name().to_owned()),
        model: String::new(),
        model_name: String::new(),
        recipe: recipe.name.clone(),
        keys: recipe.encode.digest(Side::Keys),
        values: recipe.encode.digest(Side::Values),
        seed: 0,
        text: String::new(),
        tokens: 0,
    };
    Profile::new(origin, synthetic_tensors(recipe, &layers(head_dim)).unwrap().into_tensors())
}

#[test]
fn profiles_serve_their_recipe_whatever_is_kept_exact_and_no_other() {
    let formats = |recipe: &&Recipe| recipe.encode.needs() == Needs::Profile;
    let calibrated: Vec<&Recipe> = Registry::all().iter().filter(formats).collect();
    for recipe in &calibrated {
        let profile = profile(recipe, 64);
        // The same numbers again, for a seed.
        assert_eq!(profile, self::profile(recipe, 64), "{recipe}");
        recipe.plan(&layers(64), Some(&profile)).unwrap_or_else(|error| panic!("{error}"));
        let wider = Recipe::parse(&format!("{recipe}(window=4096, sinks=64)"), Files::Refused).unwrap();
        wider.plan(&layers(64), Some(&profile)).unwrap();
        // One side of it, too.
        let side = Recipe::parse(&format!("k={recipe},v=f16"), Files::Refused).unwrap();
        side.plan(&layers(64), Some(&profile)).unwrap();
        for other in calibrated.iter().filter(|other| other.name != recipe.name) {
            let same =
                [Side::Keys, Side::Values].iter().all(|&side| other.encode.digest(side) == recipe.encode.digest(side));
            let planned = other.plan(&layers(64), Some(&profile));
            assert!(same || matches!(planned, Err(RecipeError::Profile(_))), "{other} with the profile of {recipe}");
        }
    }
}

#[test]
fn profiles_of_heads_serve_all_that_measure_the_same() {
    let of = |name: &str| Registry::find(name).unwrap();
    let profile = profile(of("razorattention"), 64);
    for (name, fits) in [("headkv", true), ("razorattention", true), ("duoattention", false), ("tangram", false)] {
        assert_eq!(of(name).plan(&layers(64), Some(&profile)).is_ok(), fits, "{name}");
    }
    let both = Recipe::parse("headkv(budget=0.3) + turboquant-3", Files::Refused).unwrap();
    assert!(both.plan(&layers(64), Some(&profile)).is_ok());
    let error = of("uncomp").plan(&layers(64), Some(&profile)).unwrap_err().to_string();
    assert!(error.contains("without the entropy of heads"), "{error}");
}

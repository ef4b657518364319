//! Recipes as users write them: what is understood, and what is said of the rest.

use super::expression::Files;
use super::*;
use crate::{Element, LayerGeometry, Rope};
use std::sync::Arc;

fn layers(count: usize, head_dim: usize) -> Vec<LayerGeometry> {
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
    vec![layer; count]
}

fn parse(text: &str) -> Result<Recipe, RecipeError> {
    Recipe::parse(text, Files::Refused)
}

fn toml(encode: &str) -> Result<Recipe, RecipeError> {
    Recipe::from_toml(&format!("name = \"test\"\n[encode]\n{encode}"), "test.toml")
}

#[test]
fn plain_formats_need_no_body() {
    for (text, k, v) in [
        ("f16", Element::F16, Element::F16),
        ("f32", Element::F32, Element::F32),
        ("k=f16,v=bf16", Element::F16, Element::Bf16),
        ("v=bf16, k=f32", Element::F32, Element::Bf16),
    ] {
        let recipe = parse(text).unwrap();
        assert_eq!(recipe.encode.exact, KvFormat { k, v }, "{text}");
        assert!(recipe.plan(&layers(2, 64), None).unwrap().lanes.iter().flatten().all(|lane| lane.body.is_none()));
    }
    assert_eq!(parse("v=bf16").unwrap().encode.exact, KvFormat { k: Element::F16, v: Element::Bf16 });
}

#[test]
fn expressions_print_as_they_parse() {
    for text in [
        "f16",
        "k=f16,v=bf16",
        "f16(sinks=4, window=64)",
        "k=f32",
        "k=[f16],v=[before-rope, bf16]",
        "int4(rotate=hadamard)",
    ] {
        let recipe = parse(text).unwrap();
        assert_eq!(recipe.to_string(), text);
        assert_eq!(parse(&recipe.to_string()).unwrap(), recipe);
    }
    let recipe = parse(" k = f16 + v = bf16 ( window = 7 ) ").unwrap();
    assert_eq!(recipe.to_string(), "k=f16 + v=bf16(window=7)");
    assert_eq!((recipe.encode.window, parse(&recipe.to_string()).unwrap()), (7, recipe));
}

#[test]
fn what_a_side_keeps_exact_the_other_keeps_too() {
    let recipe = parse("k=f16(window=7, sinks=4),v=bf16(window=64)").unwrap();
    assert_eq!((recipe.encode.window, recipe.encode.sinks), (64, 4));
}

#[test]
fn wrong_expressions_say_what_and_where() {
    for (text, said) in [
        ("", "column 1: expected the name of a recipe"),
        ("f16 +", "column 6: expected the name of a recipe, found the end"),
        ("f16 f32", "column 5: expected `+` or the end"),
        ("f17", "unknown recipe `f17`, did you mean `f16`? (`cachalot kv list` shows"),
        ("snapkw(budget=0.25) + f16", "unknown recipe `snapkw`, did you mean `snapkv`?"),
        ("f16 + bf16", "`f16` and `bf16` clash: both set the format of the keys"),
        ("k=f16,k=f32", "`k=f16` and `k=f32` clash: both set the format of the keys"),
        ("f16(window=3) + v=f32", "`f16(window=3)` and `v=f32` clash: both set the format of the values"),
        ("k=f16,f32", "after `k=…,` comes `v=…`"),
        ("f16(windw=3)", "it has no argument `windw`, did you mean `window`?"),
        ("f16(window=-1)", "`window=-1` is not a whole number"),
        ("f16(window=99999999)", "is out of range; 0 to 16777216"),
        ("int4(rotate=sideways)", "`rotate=sideways` is not one of none, hadamard"),
        ("int5", "did you mean `int2`?"),
        ("k=[f16, bf61]", "unknown stage `bf61`, did you mean `bf16`?"),
        ("k=[f16", "expected `,`, found the end"),
        ("f16(exact=q9)", "unknown KV format `q9`"),
        // A file is not read for whoever asks from afar.
        ("../../recipes/f16.toml", "unknown recipe"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    assert!(parse(&"f16+".repeat(10_000)).unwrap_err().to_string().len() < 500);
}

#[test]
fn wrong_files_say_line_and_column() {
    for (encode, at, said) in [
        ("windw = 3", "3:1", "did you mean `window`?"),
        ("window = \"many\"", "3:10", "expected i64"),
        ("window = -1", "3:10", "`window` is -1; 0 to"),
        ("k = [\"f16\"]\nsinks = 5000", "4:9", "`sinks` is 5000; 0 to 1024 are possible"),
        ("k = \"f16\"", "3:5", "expected a sequence"),
        ("k = [\"bf16\",\n  \"hadamrad(block=\"]", "4:19", "expected a value"),
        ("k = [\"f61\"]", "3:6", "unknown stage `f61`, did you mean `f16`?"),
        ("exact = \"q3\"", "3:9", "unknown KV format `q3`"),
        ("bits = \"many\"", "3:8", "`bits` is `written` or `profile`"),
        ("[[encode.rules]]\nlayers = \"5..2\"\nk = []", "4:10", "the range `5..2` is empty"),
        ("[[encode.rules]]\nlayers = \"5\"", "3:1", "changes nothing"),
        ("[[encode.rules]]\nheads = \"5\"\nwindow = 3", "5:10", "all heads of a layer share one `window`"),
        ("k = [", "3:6", "array"),
    ] {
        let error = toml(encode).unwrap_err().to_string();
        assert!(error.starts_with(&format!("test.toml:{at}: ")), "{encode}: {error}");
        assert!(error.contains(said), "{encode}: {error}");
    }
    let error = Recipe::from_toml("name = \"a b\"\n[encode]", "x").unwrap_err().to_string();
    assert!(error.starts_with("x:1:8: a name has"), "{error}");
    let error = Recipe::from_toml("name = \"a\"", "x").unwrap_err().to_string();
    assert!(error.contains("missing field `encode`"), "{error}");
    let error = Recipe::read(std::path::Path::new("/nowhere/a.toml")).unwrap_err();
    assert!(matches!(error, RecipeError::Read { .. }));
}

#[test]
fn a_path_is_read_where_files_are_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine, really + odd.toml");
    std::fs::write(&path, "summary = \"mine\"\n[encode]\nwindow = 5\nk = [\"bf16\"]").unwrap();
    let path = path.to_str().unwrap();
    let recipe = Recipe::parse(path, Files::Allowed).unwrap();
    assert_eq!((recipe.name.as_str(), recipe.encode.window), (path, 5));
    assert!(matches!(
        Recipe::parse(path, Files::Refused),
        Err(RecipeError::Syntax { .. } | RecipeError::Unknown { .. })
    ));
}

#[test]
fn rules_choose_layers_and_heads() {
    let recipe = toml(
        "window = 64\nk = [\"f16\"]\n\
         [[encode.rules]]\nlayers = \"0..2\"\nk = []\nwindow = 9\n\
         [[encode.rules]]\nlayers = \"last\"\nheads = \"1\"\nv = [\"f32\"]",
    );
    let plan = recipe.unwrap().plan(&layers(5, 64), None).unwrap();
    let described = |layer: usize, head: usize| {
        let lane = &plan.lanes[layer][head];
        let body = lane.body.as_ref().map(|body| (body.k.describe().join(" "), body.v.describe().join(" ")));
        (lane.window, body)
    };
    assert_eq!(described(0, 1), (9, None));
    let half = "f16 elements".to_owned();
    assert_eq!(described(2, 0), (64, Some((half.clone(), half.clone()))));
    assert_eq!(described(4, 0), (64, Some((half.clone(), half.clone()))));
    assert_eq!(described(4, 1), (64, Some((half, "f32 elements".to_owned()))));
}

#[test]
fn lanes_share_what_does_not_depend_on_them() {
    let plan = parse("k=[f16],v=[f16]").unwrap().plan(&layers(3, 64), None).unwrap();
    let body = |layer: usize, head: usize| plan.lanes[layer][head].body.clone().unwrap();
    assert!(Arc::ptr_eq(&body(0, 0).k, &body(2, 1).k));
    // Keys and values write other bytes.
    assert!(!Arc::ptr_eq(&body(0, 0).k, &body(0, 0).v));
}

#[test]
fn impossible_pipelines_name_the_lane_and_the_stage() {
    for (encode, said) in [
        (
            "v = [\"before-rope\", \"f16\"]",
            "test.toml:3:6: recipe test, values of layer 0, head 0: before-rope: only keys",
        ),
        ("k = [\"before-rope\"]", "recipe test, keys of layer 0, head 0: no stage writes anything"),
        (
            "k = [\"f16\", \"before-rope\"]",
            "test.toml:3:13: recipe test, keys of layer 0, head 0: before-rope: must be the first",
        ),
        (
            "k = [\"f16(bits=3)\"]",
            "test.toml:3:6: recipe test, keys of layer 0, head 0: f16(bits=3): takes no arguments",
        ),
    ] {
        let error = toml(encode).unwrap().plan(&layers(2, 64), None).unwrap_err().to_string();
        assert!(error.starts_with(said) || error.contains(said), "{encode}: {error}");
    }
}

#[test]
fn keys_before_rope_are_kept_so_only_where_there_is_one() {
    let mut layers = layers(2, 64);
    layers[1].rope = None;
    let plan = parse("k=[before-rope, f16]").unwrap().plan(&layers, None).unwrap();
    let before = |layer: usize| plan.lanes[layer][0].body.as_ref().unwrap().k.before_rope();
    assert_eq!((before(0), before(1)), (true, false));
}

#[test]
fn a_recipe_that_needs_a_profile_says_how_to_make_one() {
    let recipe = Recipe::from_toml("name = \"test\"\nneeds = \"profile\"\n[encode]\nk = [\"f16\"]", "x").unwrap();
    let error = recipe.plan(&layers(1, 64), None).unwrap_err().to_string();
    assert!(error.contains("cachalot calibrate --recipe test"), "{error}");
}

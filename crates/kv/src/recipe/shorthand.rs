//! `int2`, `int3`, `int4`, `int8`: plain group quantization with the choices that everybody tries first.

use super::expression::Arguments;
use super::{Encode, Needs, Places, Recipe, RecipeError};
use crate::encode::stage::StageSpec;

/// Their names.
pub(super) const NAMES: &[&str] = &["int2", "int3", "int4", "int8"];

/// `intB(axis=token|channel, group=, rotate=none|hadamard)`: unsigned levels between the smallest and the largest value
/// of a group. `axis=channel` is for keys only, whose channels differ in size; values go by token.
pub(super) fn recipe(name: &str, args: &Arguments<'_>) -> Result<Option<Recipe>, RecipeError> {
    let Some(bits) = NAMES.iter().find(|&&known| known == name).map(|known| &known[3..]) else { return Ok(None) };
    let axis = args.word("axis", &["token", "channel"])?;
    let group = args.number("group", 8, 256)?.unwrap_or(32);
    let rotate = args.word("rotate", &["none", "hadamard"])?;
    let uniform = |axis: &str| {
        let args = [("bits", bits.to_owned()), ("axis", axis.to_owned()), ("group", group.to_string())];
        StageSpec {
            name: "uniform".to_owned(),
            args: args.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        }
    };
    let stages = |axis: &str| {
        let rotation = (rotate == "hadamard").then(|| StageSpec { name: "hadamard".to_owned(), args: [].into() });
        rotation.into_iter().chain([uniform(axis)]).collect()
    };
    Ok(Some(Recipe {
        name: name.to_owned(),
        paper: "folklore".to_owned(),
        summary: format!("{bits} bits in groups between minimum and maximum; takes axis, group and rotate"),
        needs: Needs::Nothing,
        deviations: Vec::new(),
        encode: Encode { k: stages(axis), v: stages("token"), ..Encode::default() },
        keep: None,
        places: Places::default(),
    }))
}

//! RoPE in `config.json`: the older style (`rope_theta`, `rope_scaling`) and the newer one (`rope_parameters`, possibly
//! one per kind of layer).

use super::json::Object;
use super::rope::{KNOWN_SCHEMES, RopeScaling, RopeSpec, yarn_mscale};
use crate::ModelError;

/// Which layers a scheme is for, where a configuration has one for each kind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Layers that see everything, and all layers of models with one scheme.
    Full,
    /// Layers with a sliding window.
    Sliding,
}

/// What a family assumes where the configuration says nothing.
pub(super) struct Defaults {
    pub(super) theta: f64,
    /// The older key of the base.
    pub(super) theta_key: &'static str,
    /// Whether the older `rope_scaling` speaks of these layers.
    pub(super) scaled: bool,
    pub(super) head_dim: usize,
    pub(super) context: usize,
}

/// The scheme of one kind of layer.
pub(super) fn read(config: &Object<'_>, kind: Kind, defaults: &Defaults) -> Result<RopeSpec, ModelError> {
    let parameters = match config.object("rope_parameters")? {
        Some(all) => {
            let nested = match kind {
                Kind::Full => all.object("full_attention")?,
                Kind::Sliding => all.object("sliding_attention")?,
            };
            Some(nested.unwrap_or(all))
        }
        None => None,
    };
    let older = if defaults.scaled { config.object("rope_scaling")? } else { None };
    let theta = match parameters.map(|p| p.number("rope_theta")).transpose()?.flatten() {
        Some(theta) => theta,
        None => config.number(defaults.theta_key)?.unwrap_or(defaults.theta),
    };
    let partial = match parameters.map(|p| p.number("partial_rotary_factor")).transpose()?.flatten() {
        Some(partial) => partial,
        None => config.number("partial_rotary_factor")?.unwrap_or(1.0),
    };
    if !(partial > 0.0 && partial <= 1.0) {
        return Err(config.error("partial_rotary_factor", format!("{partial} is not above 0 and at most 1")));
    }
    let rotary_dim = (defaults.head_dim as f64 * partial) as usize;
    let scaling = match older.or(parameters) {
        Some(object) => scaling(&object, config, defaults)?,
        None => RopeScaling::Default,
    };
    Ok(RopeSpec { theta, rotary_dim, scaling })
}

fn scaling(o: &Object<'_>, config: &Object<'_>, defaults: &Defaults) -> Result<RopeScaling, ModelError> {
    // "type" is the oldest name of the key.
    let name = match o.string("rope_type")? {
        Some(name) => Some(name),
        None => o.string("type")?,
    };
    let required = |key: &str| o.number(key)?.ok_or_else(|| o.error(key, "the key is missing"));
    let original = || -> Result<f64, ModelError> {
        let given = match o.number("original_max_position_embeddings")? {
            Some(n) => Some(n),
            None => config.number("original_max_position_embeddings")?,
        };
        Ok(given.unwrap_or(defaults.context as f64))
    };
    match name {
        None | Some("default") => Ok(RopeScaling::Default),
        Some("linear") => Ok(RopeScaling::Linear { factor: required("factor")? }),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: required("low_freq_factor")?,
            high_freq_factor: required("high_freq_factor")?,
            original: original()?,
        }),
        Some("yarn") => {
            let original = original()?;
            let factor = o.number("factor")?.unwrap_or(defaults.context as f64 / original);
            Ok(RopeScaling::Yarn {
                factor,
                original,
                // Zero counts as absent, as in transformers.
                beta_fast: o.number("beta_fast")?.filter(|b| *b != 0.0).unwrap_or(32.0),
                beta_slow: o.number("beta_slow")?.filter(|b| *b != 0.0).unwrap_or(1.0),
                truncate: o.boolean("truncate")?.unwrap_or(true),
                attention_factor: yarn_attention_factor(o, factor)?,
            })
        }
        Some(other @ ("longrope" | "su")) => Err(ModelError::unsupported(
            format!("{}: RoPE scheme {other} (frequencies that change with the prompt's length)", o.path.display()),
            format!("{KNOWN_SCHEMES}; use the model's short-context variant (4k)"),
        )),
        Some(other) => {
            Err(ModelError::unsupported(format!("{}: RoPE scheme {other}", o.path.display()), KNOWN_SCHEMES))
        }
    }
}

fn yarn_attention_factor(o: &Object<'_>, factor: f64) -> Result<f64, ModelError> {
    if let Some(given) = o.number("attention_factor")? {
        return Ok(given);
    }
    let (mscale, all_dim) = (o.number("mscale")?, o.number("mscale_all_dim")?);
    Ok(match (mscale.filter(|m| *m != 0.0), all_dim.filter(|m| *m != 0.0)) {
        (Some(mscale), Some(all_dim)) => yarn_mscale(factor, mscale) / yarn_mscale(factor, all_dim),
        _ => yarn_mscale(factor, 1.0),
    })
}

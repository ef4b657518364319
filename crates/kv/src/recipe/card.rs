//! What a recipe costs on a model, for lists and for `kv show`.

use super::{Bits, Needs, Recipe, RecipeError, calibrate::synthetic};
use crate::LayerGeometry;
use crate::encode::codec::{Item, Side};
use crate::plan::{CachePlan, LanePlan};
use crate::profile::Profile;

/// One line of a list of recipes.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Card {
    /// Name.
    pub name: String,
    /// Where the method comes from.
    pub paper: String,
    /// One line.
    pub summary: String,
    /// What must be there before it works.
    pub needs: Needs,
    /// Bits per element of the keys, everything counted; `None` where they are not known.
    pub k_bits: Option<f64>,
    /// Bits per element of the values, everything counted.
    pub v_bits: Option<f64>,
    /// What it keeps of a context, a share or a number of tokens; `None` for everything.
    pub keeps: Option<String>,
    /// Whether it can be used as things are.
    pub available: bool,
    /// Why it cannot.
    pub reason: Option<String>,
}

impl Card {
    /// For a model with these layers. A recipe whose profile is missing is not available; its bits are those it would
    /// have on average: the widths it is written with, where a profile chooses them.
    pub fn of(recipe: &Recipe, layers: &[LayerGeometry], profile: Option<&Profile>) -> Card {
        let plan = recipe.plan(layers, profile);
        let reason = plan.as_ref().err().map(RecipeError::to_string);
        let plan = match plan {
            // One layer tells the bits, and takes less time than all; widths that are to be chosen are as written.
            Err(_) if recipe.needs == Needs::Profile => {
                let mut written = recipe.clone();
                written.encode.bits = Bits::Written;
                synthetic(&written, layers.get(..1).unwrap_or(layers))
            }
            plan => plan,
        };
        let bits = |side| plan.as_ref().ok().map(|plan| plan.bits(side));
        Card {
            name: recipe.name.clone(),
            paper: recipe.paper.clone(),
            summary: recipe.summary.clone(),
            needs: recipe.needs,
            k_bits: bits(Side::Keys),
            v_bits: bits(Side::Values),
            keeps: recipe.keep.as_ref().map(|keep| keep.budget.to_string()),
            available: reason.is_none(),
            reason,
        }
    }
}

impl CachePlan {
    /// Bits per element of a side, everything counted, mean of all lanes: what tokens beyond sinks and window take.
    pub fn bits(&self, side: Side) -> f64 {
        let (sum, lanes) = self.lanes.iter().flatten().fold((0.0, 0), |(sum, n), lane| (sum + lane.bits(side), n + 1));
        sum / f64::from(lanes.max(1))
    }
}

impl LanePlan {
    /// Bits per element of a side, everything counted.
    pub fn bits(&self, side: Side) -> f64 {
        match (&self.body, side) {
            (Some(body), Side::Keys) => body.k.bits(),
            (Some(body), Side::Values) => body.v.bits(),
            (None, Side::Keys) => 8.0 * self.exact.k.bytes() as f64,
            (None, Side::Values) => 8.0 * self.exact.v.bytes() as f64,
        }
    }

    /// The bytes of a page's side by what they hold, stages in one line each, and bytes of tables that all pages share.
    pub fn explain(&self, side: Side) -> (Vec<String>, Vec<Item>, usize) {
        let Some(body) = &self.body else { return Default::default() };
        let pipeline = if side == Side::Keys { &body.k } else { &body.v };
        (pipeline.describe(), pipeline.breakdown(), pipeline.shared_bytes())
    }
}

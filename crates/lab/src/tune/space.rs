//! What can be set: how many bits keys and values of each layer get, and how many tokens stay.

use serde::Serialize;
use std::fmt::Write;

/// Stages of the keys, from coarse to fine.
pub const KEYS: [&[&str]; 5] = [
    &["hadamard", "mean(bits=8)", "lloyd(bits=2, norm=unbiased)"],
    &["hadamard", "mean(bits=8)", "lloyd(bits=3, norm=unbiased)"],
    &["hadamard", "mean(bits=8)", "lloyd(bits=4, norm=unbiased)"],
    &["q5_0"],
    &["q8_0"],
];

/// Stages of the values, from coarse to fine.
pub const VALUES: [&[&str]; 5] = [
    &["hadamard", "lloyd(bits=2, norm=unbiased)"],
    &["hadamard", "lloyd(bits=3, norm=unbiased)"],
    &["hadamard", "lloyd(bits=4, norm=unbiased)"],
    &["q5_0"],
    &["q8_0"],
];

/// Shares of a context that stay, from few to all.
pub const BUDGETS: [f64; 8] = [0.15, 0.25, 0.34, 0.46, 0.6, 0.75, 0.9, 1.0];

/// Rungs of one layer: of [`KEYS`] and of [`VALUES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Pair {
    /// Index into [`KEYS`].
    pub keys: usize,
    /// Index into [`VALUES`].
    pub values: usize,
}

/// The same for both.
pub const fn even(rung: usize) -> Pair {
    Pair { keys: rung, values: rung }
}

/// One point of the space.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Setting {
    /// Of each layer.
    pub layers: Vec<Pair>,
    /// Index into [`BUDGETS`].
    pub budget: usize,
}

impl Setting {
    /// The same for all layers.
    pub fn uniform(layers: usize, pair: Pair, budget: usize) -> Setting {
        Setting { layers: vec![pair; layers], budget }
    }

    /// Whether all of a context stays.
    pub fn keeps_all(&self) -> bool {
        self.budget + 1 == BUDGETS.len()
    }

    /// A name that is the same for the same setting.
    pub fn name(&self) -> String {
        format!("tuned-{}", &blake3::hash(format!("{self:?}").as_bytes()).to_hex()[..8])
    }

    /// As the text of a recipe file; tokens are chosen by `method` where not all stay, and `notes` are its deviations.
    pub fn recipe(&self, method: &str, name: &str, summary: &str, notes: &[String]) -> String {
        let mut text = String::new();
        let list = |stages: &[&str]| stages.iter().map(|stage| format!("{stage:?}")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "name = {name:?}");
        let _ = writeln!(text, "paper = \"Cachalot's own: found by `cachalot lab tune`\"\nsummary = {summary:?}");
        if !notes.is_empty() {
            let notes: String = notes.iter().map(|note| format!("    {note:?},\n")).collect();
            let _ = writeln!(text, "deviations = [\n{notes}]");
        }
        if !self.keeps_all() {
            let _ = writeln!(text, "\n[keep]\nmethod = {method:?}\nbudget = {}", BUDGETS[self.budget]);
        }
        let most = self.most_common();
        let stages = |pair: Pair| format!("k = [{}]\nv = [{}]", list(KEYS[pair.keys]), list(VALUES[pair.values]));
        let _ = writeln!(text, "\n[encode]\n{}", stages(most));
        let mut others: Vec<Pair> = self.layers.iter().copied().filter(|pair| *pair != most).collect();
        others.sort();
        others.dedup();
        for pair in others {
            let of = self.layers.iter().enumerate().filter(|(_, own)| **own == pair);
            let layers = of.map(|(layer, _)| layer.to_string()).collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "\n[[encode.rules]]\nlayers = {layers:?}\n{}", stages(pair));
        }
        text
    }

    /// In words, for people.
    pub fn words(&self) -> String {
        let mean = |bits: &dyn Fn(usize) -> usize| {
            (0..self.layers.len()).map(bits).sum::<usize>() as f64 / self.layers.len().max(1) as f64
        };
        let (keys, values) = (mean(&|layer| self.layers[layer].keys), mean(&|layer| self.layers[layer].values));
        format!(
            "{:.0}% of the tokens; keys on rung {keys:.1} and values on rung {values:.1} of {} and {} in the mean",
            100.0 * BUDGETS[self.budget],
            KEYS.len() - 1,
            VALUES.len() - 1
        )
    }

    fn most_common(&self) -> Pair {
        let count = |pair: &Pair| self.layers.iter().filter(|other| *other == pair).count();
        self.layers.iter().copied().max_by_key(|pair| (count(pair), *pair)).unwrap_or(even(KEYS.len() - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cachalot_kv::recipe::Recipe;

    #[test]
    fn settings_are_recipes() {
        let mut setting = Setting::uniform(6, even(2), 7);
        setting.layers[0] = even(4);
        setting.layers[5] = even(4);
        setting.layers[3] = Pair { keys: 1, values: 0 };
        let parse = |setting: &Setting| {
            Recipe::from_toml(&setting.recipe("kvzip", "tuned", "a \"test\"", &["Found.".into()]), "x").unwrap()
        };
        let recipe = parse(&setting);
        assert!(recipe.keep.is_none() && recipe.encode.rules.len() == 2);
        assert_eq!(recipe.summary, "a \"test\"");
        assert_eq!(parse(&Setting { budget: 2, ..setting.clone() }).keep.unwrap().budget.to_string(), "0.34");
        assert_ne!(setting.name(), Setting { budget: 2, ..setting.clone() }.name());
        for rung in 0..KEYS.len() {
            parse(&Setting::uniform(2, even(rung), 0));
        }
    }
}

//! What can be set: how many bits keys and values of each layer or head get, and how many tokens stay.

use serde::Serialize;
use std::collections::BTreeMap;
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

/// What has widths of its own: layers, or single KV heads of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Units(Vec<(usize, Option<usize>)>);

impl Units {
    /// Whole layers.
    pub fn layers(layers: usize) -> Units {
        Units((0..layers).map(|layer| (layer, None)).collect())
    }

    /// Single heads, of which each layer has so many.
    pub fn heads(of_layers: impl IntoIterator<Item = usize>) -> Units {
        let layers = of_layers.into_iter().enumerate();
        Units(layers.flat_map(|(layer, heads)| (0..heads).map(move |head| (layer, Some(head)))).collect())
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Layer of each, and head where they are heads.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Option<usize>)> + '_ {
        self.0.iter().copied()
    }
}

/// One point of the space.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Setting {
    /// Of each unit.
    pub pairs: Vec<Pair>,
    /// Index into [`BUDGETS`].
    pub budget: usize,
}

impl Setting {
    /// The same for all units.
    pub fn uniform(units: usize, pair: Pair, budget: usize) -> Setting {
        Setting { pairs: vec![pair; units], budget }
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
    pub fn recipe(&self, units: &Units, method: &str, name: &str, summary: &str, notes: &[String]) -> String {
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
        for (pair, layers, heads) in self.rules(units, most) {
            let numbers = |list: &[usize]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "\n[[encode.rules]]\nlayers = {:?}", numbers(&layers));
            if !heads.is_empty() {
                let _ = writeln!(text, "heads = {:?}", numbers(&heads));
            }
            let _ = writeln!(text, "{}", stages(pair));
        }
        text
    }

    /// Layers, and heads of them where they are not set as wholes, that have another pair than most.
    fn rules(&self, units: &Units, most: Pair) -> Vec<(Pair, Vec<usize>, Vec<usize>)> {
        // Heads of each layer by pair; the same heads of several layers stand in one rule.
        let mut of: BTreeMap<(Pair, usize), Vec<usize>> = BTreeMap::new();
        for ((layer, head), &pair) in units.iter().zip(&self.pairs) {
            if pair != most {
                of.entry((pair, layer)).or_default().extend(head);
            }
        }
        let mut rules: BTreeMap<(Pair, Vec<usize>), Vec<usize>> = BTreeMap::new();
        for ((pair, layer), heads) in of {
            rules.entry((pair, heads)).or_default().push(layer);
        }
        rules.into_iter().map(|((pair, heads), layers)| (pair, layers, heads)).collect()
    }

    /// In words, for people.
    pub fn words(&self) -> String {
        let mean = |bits: &dyn Fn(&Pair) -> usize| {
            self.pairs.iter().map(bits).sum::<usize>() as f64 / self.pairs.len().max(1) as f64
        };
        let (keys, values) = (mean(&|pair| pair.keys), mean(&|pair| pair.values));
        format!(
            "{:.0}% of the tokens; keys on rung {keys:.1} and values on rung {values:.1} of {} and {} in the mean",
            100.0 * BUDGETS[self.budget],
            KEYS.len() - 1,
            VALUES.len() - 1
        )
    }

    fn most_common(&self) -> Pair {
        let count = |pair: &Pair| self.pairs.iter().filter(|other| *other == pair).count();
        self.pairs.iter().copied().max_by_key(|pair| (count(pair), *pair)).unwrap_or(even(KEYS.len() - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cachalot_kv::recipe::Recipe;

    #[test]
    fn settings_are_recipes() {
        let mut setting = Setting::uniform(6, even(2), 7);
        setting.pairs[0] = even(4);
        setting.pairs[5] = even(4);
        setting.pairs[3] = Pair { keys: 1, values: 0 };
        let parse = |setting: &Setting| {
            Recipe::from_toml(
                &setting.recipe(&Units::layers(6), "kvzip", "tuned", "a \"test\"", &["Found.".into()]),
                "x",
            )
            .unwrap()
        };
        let recipe = parse(&setting);
        assert!(recipe.keep.is_none() && recipe.encode.rules.len() == 2);
        assert_eq!(recipe.summary, "a \"test\"");
        assert_eq!(parse(&Setting { budget: 2, ..setting.clone() }).keep.unwrap().budget.to_string(), "0.34");
        assert_ne!(setting.name(), Setting { budget: 2, ..setting.clone() }.name());
        for rung in 0..KEYS.len() {
            parse(&Setting::uniform(6, even(rung), 0));
        }
    }

    #[test]
    fn heads_have_rules_of_their_own() {
        let units = Units::heads([2, 2, 6]);
        let mut setting = Setting::uniform(units.count(), even(2), 7);
        // Head 1 of the first two layers, heads 0 and 3 of the third.
        for unit in [1, 3, 4, 7] {
            setting.pairs[unit] = Pair { keys: 3, values: 2 };
        }
        let recipe = Recipe::from_toml(&setting.recipe(&units, "kvzip", "tuned", "a test", &[]), "x").unwrap();
        let rules: Vec<(String, String)> =
            recipe.encode.rules.iter().map(|rule| (rule.layers.to_string(), rule.heads.to_string())).collect();
        assert_eq!(rules, [("2".into(), "0, 3".into()), ("0, 1".into(), "1".into())], "{rules:?}");
    }
}

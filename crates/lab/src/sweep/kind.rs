//! Kinds of items.

use crate::LabError;
use crate::tasks::{self, Source};
use std::sync::Arc;

/// A kind of item.
#[derive(Clone)]
pub enum Kind {
    /// Windows of the text: divergence and perplexity after a context that is half of them.
    Perplexity,
    /// Greedy generations after a prompt of the text.
    Generation,
    /// The error of the attention output, layer by layer and head by head.
    Attention,
    /// Questions.
    Questions(Arc<dyn Source>),
}

impl Kind {
    /// As results are filed.
    pub fn name(&self) -> &str {
        match self {
            Kind::Perplexity => "perplexity",
            Kind::Generation => "generation",
            Kind::Attention => "attention",
            Kind::Questions(source) => source.name(),
        }
    }

    /// Kinds by their names, separated by commas: the three that need no questions, and everything that [`tasks::named`]
    /// knows.
    ///
    /// # Errors
    /// As [`tasks::named`]; also for an empty list.
    pub fn named(list: &str) -> Result<Vec<Kind>, LabError> {
        let mut kinds: Vec<Kind> = Vec::new();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let found = match name {
                "perplexity" => vec![Kind::Perplexity],
                "generation" => vec![Kind::Generation],
                "attention" => vec![Kind::Attention],
                _ => tasks::named(name).map_err(with_own)?.into_iter().map(Kind::Questions).collect(),
            };
            for kind in found {
                if kinds.iter().all(|other| other.name() != kind.name()) {
                    kinds.push(kind);
                }
            }
        }
        match kinds.is_empty() {
            true => Err(LabError::Settings("no task is named; give for example --tasks perplexity,needle".into())),
            false => Ok(kinds),
        }
    }
}

/// Names the three as well.
fn with_own(error: LabError) -> LabError {
    match error {
        LabError::Settings(reason) => {
            LabError::Settings(reason.replace("choose from ", "choose from perplexity, generation, attention, "))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_every_kind_once() {
        let names = |list: &str| -> Vec<String> {
            Kind::named(list).unwrap().iter().map(|kind| kind.name().to_owned()).collect()
        };
        assert_eq!(names("needle,perplexity, generation,needle"), ["needle", "perplexity", "generation"]);
        let error = Kind::named("perplexty").err().unwrap().to_string();
        assert!(error.contains("`perplexty`") && error.contains("choose from perplexity, generation"), "{error}");
        assert!(Kind::named(",").is_err());
    }
}

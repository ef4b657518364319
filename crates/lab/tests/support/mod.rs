//! What the laboratory's tests share: the embedded model, a text of our own, caches that someone got wrong.
#![allow(dead_code, clippy::unwrap_used)]

pub mod solve;

use cachalot_kernels::Team;
use cachalot_kv::{CacheConfig, KvCache, KvFormat, Segment};
use cachalot_lab::quality::{Outcome, QualitySettings, measure};
use cachalot_lab::{Candidate, LabError, Subject, Text, candidate};
use cachalot_model::spec::ModelSpec;
use cachalot_model::{Decoder, LoadOptions, Loaded, Model, ModelError};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, LazyLock};

pub fn team() -> Arc<Team> {
    Arc::new(Team::new(NonZeroUsize::new(2).unwrap()))
}

pub fn loaded() -> &'static Loaded {
    static CALF: LazyLock<Loaded> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf");
        Model::load(&path, &LoadOptions::new(team())).unwrap()
    });
    &CALF
}

pub fn subject() -> Subject<'static> {
    Subject::new(loaded(), team())
}

pub fn text(sentences: usize) -> Text {
    Text::made_up(sentences, 9).unwrap()
}

pub fn settings() -> QualitySettings {
    QualitySettings {
        window: 300,
        windows: 2,
        chunk: 128,
        decode: 2,
        questions: 0,
        question_tokens: 400,
        resamples: 200,
        ..QualitySettings::new(candidate::resolve("f16", &[]).unwrap(), 1 << 30)
    }
}

pub fn run(subject: &Subject<'_>, recipes: &[Arc<dyn Candidate>], settings: &QualitySettings) -> Vec<Outcome> {
    measure(subject, &text(400), recipes, settings, &mut |_| Ok(())).unwrap()
}

pub fn named(list: &str) -> Vec<Arc<dyn Candidate>> {
    candidate::resolve_list(list, &[]).unwrap()
}

/// A cache that someone got wrong: its geometry is not the model's.
pub struct Planted(pub &'static str, pub fn(&mut CacheConfig));

impl Candidate for Planted {
    fn name(&self) -> &str {
        self.0
    }

    fn cache(&self, subject: &Subject<'_>, budget_bytes: u64) -> Result<KvCache, LabError> {
        let mut config = CacheConfig::new(subject.layers.clone(), budget_bytes, "f16".parse::<KvFormat>()?);
        (self.1)(&mut config);
        Ok(KvCache::new(config, subject.team.clone(), subject.isa)?)
    }
}

/// Sentences, then lines without any full stop. No question marks.
pub fn log(lines: usize) -> Text {
    let ends = |i: usize| if i.is_multiple_of(3) { "ends." } else { "goes on" };
    let text: String = (0..lines).map(|i| format!("Line {i} of the log {}\n", ends(i))).collect();
    Text::new(Path::new("log.txt"), text.into_bytes()).unwrap()
}

/// The model, through a function that may meddle with the cache, or with what comes out.
pub struct Meddler<F>(pub F);

impl<F> Decoder for Meddler<F>
where
    F: Fn(&KvCache, &mut [Segment<'_>], &[u32], &[usize]) -> Result<Vec<f32>, ModelError> + Send + Sync,
{
    fn spec(&self) -> &ModelSpec {
        loaded().model.spec()
    }

    fn forward(
        &self,
        cache: &KvCache,
        segments: &mut [Segment<'_>],
        tokens: &[u32],
        rows: &[usize],
    ) -> Result<Vec<f32>, ModelError> {
        (self.0)(cache, segments, tokens, rows)
    }
}

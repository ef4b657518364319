//! What tests over the embedded model share.
#![allow(clippy::unwrap_used)]

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use cachalot_kernels::Team;
use cachalot_model::{LoadOptions, Loaded, Model};

pub fn team(threads: usize) -> Arc<Team> {
    Arc::new(Team::new(NonZeroUsize::new(threads).unwrap()))
}

pub fn loaded() -> &'static Loaded {
    static CALF: LazyLock<Loaded> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf");
        Model::load(&path, &LoadOptions::new(team(2))).unwrap()
    });
    &CALF
}

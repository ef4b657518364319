//! EMS's Global-Local score (Li et al., 2024): what recent rows give, and what all rows give, freed of seniority.

use super::attention::{average, looked_at, with_window};
use super::{Method, Scene};
use crate::observe::{Gather, Last, Wish};
use crate::reduce::{Merge, merge::registry};
use std::sync::Arc;

/// The sum of both, at the same mean, smoothed; those that go are merged.
#[derive(Debug)]
pub(super) struct Ems {
    pub window: usize,
    pub kernel: usize,
}

impl Method for Ems {
    fn wish(&self) -> Wish {
        Wish { rows: self.window, ..Wish::columns(Gather::Sum, Last::All) }
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        with_window(scene, self.window, |head, past| {
            let mut local = looked_at(scene, head, self.window, past);
            let received = scene.received(head).into_iter().take(past).enumerate();
            let global: Vec<f32> =
                received.map(|(slot, x)| (x / scene.observers(head, slot).max(1) as f64) as f32).collect();
            let mean = |x: &[f32]| x.iter().sum::<f32>() / x.len().max(1) as f32;
            let scale = mean(&local) / mean(&global).max(f32::MIN_POSITIVE);
            local.iter_mut().zip(&global).for_each(|(l, g)| *l += scale * g);
            average(&local, self.kernel)
        })
    }

    fn least(&self) -> usize {
        self.window
    }

    fn merge(&self) -> Option<Arc<dyn Merge>> {
        "ems".parse().ok().and_then(|spec| registry::build(&spec).ok())
    }

    fn describe(&self) -> String {
        format!("attention of the last {} queries and of all, at the same mean", self.window)
    }
}

//! The most likely tokens of a row.

/// How many are looked at.
pub const TOP: usize = 5;

/// The [`TOP`] most likely tokens, best first, lowest id first among equals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top {
    ids: Vec<u32>,
}

impl Top {
    /// Of finite logits; fewer than [`TOP`] where the vocabulary is smaller.
    pub fn of(logits: &[f32]) -> Top {
        let mut best: Vec<(f32, u32)> = Vec::with_capacity(TOP + 1);
        // What a logit must exceed: ids ascend, so an equal one comes later and loses.
        let mut bar = f32::NEG_INFINITY;
        for (&logit, id) in logits.iter().zip(0u32..) {
            if logit > bar || best.len() < TOP {
                let place = best.partition_point(|&(other, _)| other >= logit);
                best.insert(place, (logit, id));
                best.truncate(TOP);
                if best.len() == TOP {
                    bar = best[TOP - 1].0;
                }
            }
        }
        Top { ids: best.into_iter().map(|(_, id)| id).collect() }
    }

    /// The most likely one.
    pub fn first(&self) -> Option<u32> {
        self.ids.first().copied()
    }

    /// How many are among the other's, whatever the order.
    pub fn shared(&self, other: &Top) -> u8 {
        self.ids.iter().filter(|id| other.ids.contains(id)).count() as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_matters_only_for_the_first() {
        let (a, b) = (Top::of(&[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]), Top::of(&[0.0, 4.0, 5.0, 2.0, 1.0, 3.0]));
        assert_eq!((a.first(), b.first()), (Some(0), Some(2)));
        assert_eq!(a.shared(&b), 4);
        assert_eq!(Top::of(&[1.0, 1.0]).ids, [0, 1]);
        assert_eq!(Top::of(&[]).first(), None);
    }

    proptest! {
        #[test]
        fn agrees_with_sorting(logits in prop::collection::vec(-6i8..6, 0..80)) {
            // Few distinct values, so that ties are frequent.
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let mut order: Vec<u32> = (0..logits.len() as u32).collect();
            order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
            order.truncate(TOP);
            prop_assert_eq!(Top::of(&logits).ids, order);
        }
    }
}

//! The rows of logits that are kept of a choice while it is generated.

use std::collections::VecDeque;

use cachalot_kv::Ledger;
use cachalot_kv::pool::ledger::{Purpose, Reservation};

use crate::sampling::Stream;

/// Steps that are kept in any case: the first comes from the prompt as it was read, the second is the first that reads
/// what a reduction at the prompt's end has left.
const ALWAYS: usize = 2;

/// One step as the lossy cache made it.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// Tokens of the answer before it.
    pub step: usize,
    /// `[vocab]`, before penalties, bias, masks and sampling.
    pub logits: Box<[f32]>,
    /// Its lot; the lowest stay.
    lot: f64,
    _bytes: Reservation,
}

/// Keeps a share of the steps of one choice, and no more rows than it may. Which ones is decided by lots that depend on
/// seed, choice and step alone, so that every step is as likely to be kept as any other, however long the answer becomes.
#[derive(Debug)]
pub(crate) struct Record {
    share: f64,
    most: usize,
    lots: Stream,
    /// Bytes of the rows of all requests.
    account: Ledger,
    /// Ascending.
    rows: VecDeque<Recorded>,
}

impl Record {
    pub fn new(share: f64, most: usize, seed: u64, choice: usize, account: &Ledger) -> Record {
        // Other lots than those that choose the tokens.
        let lots = Stream::new(seed ^ 0x7ec0_7d1e_5c0d_e000, choice as u64);
        Record { share, most: most.max(ALWAYS), lots, account: account.clone(), rows: VecDeque::new() }
    }

    /// The logits of a step. A row for which there is no room is not kept.
    pub fn see(&mut self, step: usize, logits: &[f32]) {
        let lot = if step < ALWAYS { -1.0 } else { self.lots.uniform(step as u64) };
        if lot >= self.share && step >= ALWAYS {
            return;
        }
        if self.rows.len() >= self.most {
            let highest = self.rows.iter().enumerate().max_by(|(_, a), (_, b)| a.lot.total_cmp(&b.lot));
            let Some((place, _)) = highest.filter(|(_, row)| row.lot > lot) else { return };
            self.rows.remove(place);
        }
        let Ok(_bytes) = self.account.reserve(Purpose::Pages, size_of_val(logits) as u64) else { return };
        self.rows.push_back(Recorded { step, logits: logits.into(), lot, _bytes });
    }

    /// What was kept, by step.
    pub fn into_rows(self) -> VecDeque<Recorded> {
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(share: f64, most: usize, seed: u64, steps: usize) -> Vec<usize> {
        let account = Ledger::new(1 << 20);
        let mut record = Record::new(share, most, seed, 0, &account);
        (0..steps).for_each(|step| record.see(step, &[step as f32; 3]));
        assert_eq!(account.used(), 12 * record.rows.len() as u64);
        let rows = record.into_rows();
        assert!(rows.iter().all(|row| row.logits[..] == [row.step as f32; 3]), "each row is its step's");
        let steps = rows.iter().map(|row| row.step).collect();
        drop(rows);
        assert_eq!(account.used(), 0);
        steps
    }

    #[test]
    fn the_first_two_always_and_a_share_of_the_others() {
        assert_eq!(kept(0.0, 64, 1, 500), [0, 1]);
        assert_eq!(kept(1.0, 64, 1, 40), (0..40).collect::<Vec<_>>());
        assert_eq!(kept(0.5, 64, 1, 1), [0]);
        let some = kept(0.125, 1000, 3, 4002);
        // 500 of 4000 are expected, with a deviation of 21.
        assert!((400..600).contains(&some.len()) && some.is_sorted() && some[..2] == [0, 1], "{}", some.len());
        assert_eq!(some, kept(0.125, 1000, 3, 4002));
        assert_ne!(some, kept(0.125, 1000, 4, 4002));
    }

    #[test]
    fn a_long_answer_is_sampled_throughout() {
        let (mut early, mut late) = (0, 0);
        for seed in 0..200 {
            let steps = kept(0.5, 12, seed, 1002);
            assert!(steps.len() == 12 && steps[..2] == [0, 1] && steps.is_sorted());
            early += steps[2..].iter().filter(|&&step| step < 502).count();
            late += steps[2..].iter().filter(|&&step| step >= 502).count();
        }
        // Halves of 2000 rows: 1000 each, with a deviation of 22.
        assert!(early.abs_diff(late) < 200, "{early} {late}");
    }

    #[test]
    fn rows_without_room_are_not_kept() {
        let account = Ledger::new(12 * 5);
        let (mut one, mut other) = (Record::new(1.0, 64, 1, 0, &account), Record::new(1.0, 64, 1, 1, &account));
        for step in 0..4 {
            one.see(step, &[0.0; 3]);
            other.see(step, &[0.0; 3]);
        }
        assert_eq!((one.into_rows().len(), other.into_rows().len()), (3, 2));
        assert_eq!((account.used(), account.peak()), (0, 60));
    }
}

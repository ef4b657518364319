//! Memory that is read soon, asked for line by line: a processor that is asked for more lines at once than it can have under
//! way waits.

use crate::linear::memory::{LINE, lines, prefetch_line};

/// Lines of memory that are still to be asked for; never read.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    next: *const u8,
    lines: usize,
}

// SAFETY: an address that is not read.
unsafe impl Send for Ahead {}
// SAFETY: as above.
unsafe impl Sync for Ahead {}

impl Default for Ahead {
    fn default() -> Ahead {
        Ahead { next: std::ptr::null(), lines: 0 }
    }
}

impl Ahead {
    /// Those of `bytes`.
    pub(super) fn of(bytes: &[u8]) -> Ahead {
        let (next, lines) = lines(bytes);
        Ahead { next, lines }
    }

    /// How many there are.
    pub(super) fn lines(&self) -> usize {
        self.lines
    }

    /// The next lines, so many at most.
    #[inline(always)]
    pub(super) fn take(&mut self, lines: usize) -> Ahead {
        let taken = Ahead { next: self.next, lines: lines.min(self.lines) };
        self.next = self.next.wrapping_add(taken.lines * LINE);
        self.lines -= taken.lines;
        taken
    }

    /// Asks for line `i`, where it is one of these.
    #[inline(always)]
    pub(super) fn line(&self, i: usize) {
        if i < self.lines {
            prefetch_line(self.next.wrapping_add(i * LINE));
        }
    }

    /// Asks for all of them.
    pub(super) fn all(&self) {
        (0..self.lines).for_each(|i| self.line(i));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_that_bytes_touch_is_asked_for() {
        let buffer = [0u8; 8 * LINE];
        for from in 0..2 * LINE {
            for len in [0, 1, LINE - 1, LINE, LINE + 1, 3 * LINE] {
                let bytes = &buffer[from..from + len];
                let touched: std::collections::BTreeSet<usize> =
                    bytes.iter().map(|byte| std::ptr::from_ref(byte).addr() / LINE).collect();
                let ahead = Ahead::of(bytes);
                let asked = (0..ahead.lines()).map(|i| (ahead.next.addr() + i * LINE) / LINE);
                assert!(asked.eq(touched.iter().copied()), "{from} {len}");
            }
        }
    }
}

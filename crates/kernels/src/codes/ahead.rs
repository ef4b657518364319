//! Memory that is read soon, asked for line by line: a processor that is asked for more lines at once than it can have under
//! way waits.

use crate::linear::memory::{LINE, prefetch_line};

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
        Ahead { next: bytes.as_ptr(), lines: bytes.len().div_ceil(LINE) }
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

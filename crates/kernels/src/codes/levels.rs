//! Where unpacked levels lie.

use super::pack::VECTOR;
use std::ops::{Deref, DerefMut};

/// A buffer of levels from a cache line's boundary on: elsewhere every load and store of a vector touches two lines.
#[derive(Default)]
pub struct Levels {
    buffer: Vec<u8>,
    len: usize,
}

impl Levels {
    /// Room for `len` levels. Those that were there keep their values while the buffer need not grow; all are `value`
    /// where it does.
    pub fn resize(&mut self, len: usize, value: u8) {
        if self.buffer.len() < len + VECTOR - 1 {
            self.buffer = vec![value; len + VECTOR - 1];
        }
        self.len = len;
    }

    /// Bytes held.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    fn start(&self) -> usize {
        self.buffer.as_ptr().align_offset(VECTOR).min(VECTOR - 1)
    }
}

impl Deref for Levels {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let at = if self.len == 0 { 0 } else { self.start() };
        &self.buffer[at..at + self.len]
    }
}

impl DerefMut for Levels {
    fn deref_mut(&mut self) -> &mut [u8] {
        let at = if self.len == 0 { 0 } else { self.start() };
        &mut self.buffer[at..at + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_begins_on_a_line() {
        let mut levels = Levels::default();
        assert!(levels.is_empty());
        for len in [1, 64, 4096, 100, 5000] {
            levels.resize(len, 7);
            assert_eq!((levels.len(), levels.as_ptr().addr() % VECTOR), (len, 0));
            levels.fill(9);
            assert!(levels.capacity() >= len);
        }
    }
}

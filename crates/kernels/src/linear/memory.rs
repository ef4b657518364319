//! Bytes on cache-line boundaries, for packed weights and scratch.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Cache line and vector width.
pub(crate) const LINE: usize = 64;
/// Allocations from here on lie on huge-page boundaries, and huge pages are asked for: a decode step reads all
/// weights once, and with 4 KiB pages it would spend its time on address translation.
const HUGE: usize = 2 << 20;

/// A zeroed allocation on a 64-byte boundary, never empty.
pub(crate) struct Aligned {
    start: NonNull<u8>,
    bytes: usize,
    align: usize,
}

// SAFETY: it owns its bytes, like a `Box<[u8]>`.
unsafe impl Send for Aligned {}
// SAFETY: shared access only reads.
unsafe impl Sync for Aligned {}

impl Aligned {
    /// `bytes` zeroes. Aborts where memory is refused, as `Vec` does.
    pub(crate) fn zeroed(bytes: usize) -> Aligned {
        let bytes = bytes.max(LINE);
        let align = if bytes >= 2 * HUGE { HUGE } else { LINE };
        let Ok(layout) = Layout::from_size_align(bytes, align) else {
            handle_alloc_error(Layout::new::<u8>());
        };
        // SAFETY: the layout is not empty.
        let Some(start) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            handle_alloc_error(layout);
        };
        #[cfg(target_os = "linux")]
        if align == HUGE {
            // SAFETY: the range is ours; it is advice, and a refusal changes nothing.
            unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Aligned { start, bytes, align }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and zeroed with this length.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// At least `bytes`; what was inside is lost when it has to grow.
    pub(crate) fn at_least(&mut self, bytes: usize) {
        if self.bytes < bytes {
            *self = Aligned::zeroed(bytes.next_power_of_two());
        }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated with this very layout, which was valid then.
        unsafe { dealloc(self.start.as_ptr(), Layout::from_size_align_unchecked(self.bytes, self.align)) }
    }
}

impl Default for Aligned {
    fn default() -> Aligned {
        Aligned::zeroed(LINE)
    }
}

/// Asks for bytes that are read soon. Pages of a cache lie apart, where the processor does not guess what comes next.
pub fn prefetch(bytes: &[u8]) {
    let (first, count) = lines(bytes);
    (0..count).for_each(|line| prefetch_line(first.wrapping_add(line * LINE)));
}

/// Where the first line that bytes lie in begins, and how many there are: one more than their length says where they begin
/// within a line.
pub(crate) fn lines(bytes: &[u8]) -> (*const u8, usize) {
    let before = if bytes.is_empty() { 0 } else { bytes.as_ptr().addr() % LINE };
    (bytes.as_ptr().wrapping_sub(before), (before + bytes.len()).div_ceil(LINE))
}

/// Asks for the line at an address, into the second cache: the first one holds what is being worked on.
#[inline(always)]
pub(crate) fn prefetch_line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of the base instruction set; an address that cannot be read is ignored.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks for the first line of a value that is read soon.
pub fn prefetch_value<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of the base instruction set, and of memory that is there.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(value).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// A pointer to the output that several tasks write, each its own elements.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub(crate) start: *mut f32,
    /// Elements from one row to the next.
    pub(crate) stride: usize,
}

// SAFETY: the tasks that share it write disjoint elements.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// From row `row` on; it has to exist.
    pub(crate) fn at_row(self, row: usize) -> Output {
        // SAFETY: the output has this row, by the caller's promise.
        Output { start: unsafe { self.start.add(row * self.stride) }, ..self }
    }
}

/// Part `i` of `parts` of `0..total`, sizes differing by one at most.
pub(crate) fn part(total: usize, parts: usize, i: usize) -> std::ops::Range<usize> {
    total * i / parts..total * (i + 1) / parts
}

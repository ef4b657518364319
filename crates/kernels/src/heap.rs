//! The allocator of the C library, which keeps large buffers that were given back for the next ones of that size.

/// Gives the operating system what the allocator keeps of freed memory, where it can be asked to. Worth milliseconds, so for
/// the end of work that took large buffers once.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes a number and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

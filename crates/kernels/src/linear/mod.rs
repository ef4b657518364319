//! Linear layers over packed weights.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod amx;

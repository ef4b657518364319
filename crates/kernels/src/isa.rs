//! Which instruction sets this machine has, and the dispatch of a generic kernel to one of them.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// A bit for each [`Isa`] that this machine can run; zero before it was asked.
static AVAILABLE: AtomicU8 = AtomicU8::new(0);

/// An instruction set a kernel can be run with, from the plainest to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust the compiler may vectorize; the oracle, and what ARM gets.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// AVX-512 as above, plus AMX tiles (`amx-tile`, `amx-int8`, `amx-bf16`) that the kernel has granted us.
    Amx,
}

impl Isa {
    /// Every instruction set this machine can run, plainest first. Never empty.
    pub fn available() -> Vec<Isa> {
        let all = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx];
        all.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The widest instruction set this machine can run.
    pub fn detect() -> Isa {
        Isa::available().into_iter().max().unwrap_or(Isa::Portable)
    }

    /// Whether this machine can run it. Asked once; then it is one load.
    #[inline]
    pub fn is_available(self) -> bool {
        let known = AVAILABLE.load(Ordering::Relaxed);
        if known == 0 { self.ask_all() } else { known >> self as u8 & 1 == 1 }
    }

    #[cold]
    fn ask_all(self) -> bool {
        let all = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx];
        let known = all.into_iter().fold(0, |known, isa| known | u8::from(isa.ask()) << isa as u8);
        AVAILABLE.store(known, Ordering::Relaxed);
        known >> self as u8 & 1 == 1
    }

    fn ask(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.ask()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => Isa::Avx512.ask() && crate::linear::amx::granted(),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The name users write, as in `CACHALOT_ISA=avx2`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The named instruction set does not exist, or not on this machine.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("instruction set `{0}` is not one of those this machine has: {1}")]
pub struct UnknownIsa(pub String, pub String);

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(s: &str) -> Result<Isa, UnknownIsa> {
        let available = Isa::available();
        available.iter().copied().find(|isa| isa.name() == s).ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
            UnknownIsa(s.to_owned(), names.join(", "))
        })
    }
}

/// Defines a safe function that runs a generic kernel `unsafe fn body<S: Simd>(args)` with the given [`Isa`].
///
/// ```ignore
/// dispatch! { /// docs
///     pub fn add_assign(x: &mut [f32], y: &[f32]) = add_assign_body }
/// // defines: pub fn add_assign(isa: Isa, x: &mut [f32], y: &[f32])
/// ```
/// The body must be `#[inline(always)]`, so that it is compiled with the features of the function that calls it.
/// Asking for an instruction set that the machine lacks falls back to the portable one (a `debug_assert` tells).
#[macro_export]
#[doc(hidden)]
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(isa: $crate::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,popcnt")]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function is only called where these features are present.
                unsafe { $body::<$crate::simd::Avx2>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,popcnt")]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function is only called where these features are present.
                unsafe { $body::<$crate::simd::Avx512>($($arg),*) }
            }
            match isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `Isa` values beyond `Portable` are handed out by `Isa::available` and `Isa::from_str`,
                // which ask the processor; the guard asks again (cached, one load).
                $crate::Isa::Avx512 | $crate::Isa::Amx if $crate::Isa::Avx512.is_available() => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::Isa::Avx2 if $crate::Isa::Avx2.is_available() => unsafe { avx2($($arg),*) },
                // SAFETY: the portable set needs nothing of the processor.
                _ => unsafe { $body::<$crate::simd::Portable>($($arg),*) },
            }
        }
    };
}

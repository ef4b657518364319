//! AMX tiles: asked of the operating system once, used through inline assembly.
//!
//! A tile product takes sixteen rows, sixteen outputs and one weight group at a time and yields the exact integer dot
//! products; they go through a little memory in the first-level cache into the same floating-point steps as
//! everywhere, so the results are those of [`super::integer`] to the bit. The steps, not the products, are what takes
//! the time: some six vector operations per row and group.

use super::activations::{Activations, BLOCK, HEIGHT, PLANES, RowBlock};
use super::integer::{self, Store, Task, with_scratch};
use super::memory::LINE;
use super::quant::PanelShape;
use crate::Isa;
use crate::simd::{Avx512, LANES};
use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// Whether the processor has AMX and the operating system lets this process use it.
///
/// Linux gives the tiles' state only to processes that ask; the permission then holds for all threads.
pub(crate) fn granted() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| {
        const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_ulong = 18;
        const TILE_INT8_BF16: u32 = 1 << 24 | 1 << 25 | 1 << 22;
        const TILE_STATE: u64 = 3 << 17;
        if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & TILE_INT8_BF16 != TILE_INT8_BF16 {
            return false;
        }
        // XGETBV exists where the operating system saves extended state at all.
        if __cpuid(1).ecx & 1 << 27 == 0 || xcr0() & TILE_STATE != TILE_STATE {
            return false;
        }
        // SAFETY: a request without pointers; where the call is unknown or refused it returns an error.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    })
}

/// The extended states the operating system saves.
fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller checked that the instruction is enabled; it reads one register.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Rows from which a tile, which always takes sixteen, beats dot products row by row.
pub(crate) const WORTH: usize = 10;
/// Integers of one product: sixteen rows of sixteen outputs.
const PRODUCT: usize = HEIGHT * LANES;
/// Integers of the products of both planes.
const PAIR: usize = PLANES * PRODUCT;

/// Whether activations were laid out for tiles.
pub(crate) fn takes(activations: &Activations) -> bool {
    activations.rows() >= WORTH && activations.height() == HEIGHT
}

/// Tile shapes as LDTILECFG reads them.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    columns: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Tiles 0 and 1 hold the products of the high and low plane, 4 and 5 the planes, 6 the weights of one group.
    fn new(group: usize) -> Config {
        let (mut columns, mut rows) = ([0; 16], [0; 16]);
        for plane in 0..PLANES {
            (columns[plane], rows[plane]) = (LINE as u16, HEIGHT as u8);
            (columns[4 + plane], rows[4 + plane]) = (group as u16, HEIGHT as u8);
        }
        (columns[6], rows[6]) = (LINE as u16, (group / 4) as u8);
        Config { palette: 1, start_row: 0, reserved: [0; 14], columns, rows }
    }
}

/// Tiles of this thread in use; released when dropped, also by a panic, so that the thread's state stays small.
struct Tiles;

impl Tiles {
    fn new(group: usize) -> Tiles {
        let config = Config::new(group);
        // SAFETY: the permission was granted, the configuration is valid and lives through the instruction.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly, preserves_flags)) };
        Tiles
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the permission was granted.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// Runs a task for which [`takes`] holds, on a machine that has [`Isa::Amx`].
pub(crate) fn run(task: &Task) {
    debug_assert!(Isa::Amx.is_available() && takes(task.activations));
    let shape = task.weights.unpacked();
    let products = 2 * PAIR * size_of::<i32>();
    with_scratch(products + shape.panel_bytes, |scratch| {
        let spec = task.weights.spec;
        let _tiles = Tiles::new(spec.group);
        let panel = scratch.wrapping_add(products);
        // SAFETY: the instruction sets are there, and the scratch holds two pairs of products and a panel.
        unsafe {
            match (spec.min, spec.group) {
                (true, 32) => panels::<true, 32>(task, shape, scratch.cast(), panel),
                (true, _) => panels::<true, 16>(task, shape, scratch.cast(), panel),
                (false, 32) => panels::<false, 32>(task, shape, scratch.cast(), panel),
                (false, _) => panels::<false, 16>(task, shape, scratch.cast(), panel),
            }
        }
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn panels<const MIN: bool, const GROUP: usize>(
    task: &Task,
    shape: PanelShape,
    products: *mut i32,
    panel: *mut u8,
) {
    // SAFETY: the caller's promise; rows and panels are the task's.
    unsafe {
        for p in task.panels.clone() {
            integer::unpack::<Avx512>(task.weights, task.weights.panel(p), panel);
            make_signed(task, shape, panel);
            let store = Store::new(task, p);
            for (i, b) in task.blocks.clone().enumerate() {
                let block = task.activations.block(b);
                if block.rows < WORTH {
                    // The last rows of the batch.
                    integer::panel_direct::<Avx512>(task, p, b..b + 1);
                    continue;
                }
                let acc = tile::<MIN, GROUP>(shape, panel, block, products);
                for (r, acc) in acc.into_iter().enumerate() {
                    if r < block.rows {
                        store.put::<Avx512>(i * HEIGHT + r, acc);
                    }
                }
            }
        }
    }
}

/// Takes the zero point off the codes of an unpacked panel, which makes signed bytes of them.
#[inline(always)]
unsafe fn make_signed(task: &Task, shape: PanelShape, panel: *mut u8) {
    let zero = task.weights.spec.zero;
    if zero == 0 {
        return;
    }
    // SAFETY: the codes are whole lines, on line boundaries.
    unsafe {
        let zero = _mm512_set1_epi8(zero as u8 as i8);
        for line in 0..shape.scale_at / LINE {
            let at = panel.add(line * LINE).cast();
            _mm512_store_si512(at, _mm512_sub_epi8(_mm512_load_si512(at), zero));
        }
    }
}

/// Sixteen rows against an unpacked panel: sixteen outputs of each.
#[inline(always)]
unsafe fn tile<const MIN: bool, const GROUP: usize>(
    shape: PanelShape,
    panel: *const u8,
    x: RowBlock,
    products: *mut i32,
) -> [__m512; HEIGHT] {
    // SAFETY: the caller's promise: `groups` groups on both sides, two pairs of products.
    unsafe {
        let mut acc = [_mm512_setzero_ps(); HEIGHT];
        let codes = |g: usize| x.codes.add(g * GROUP / BLOCK * PLANES * HEIGHT * BLOCK + g * GROUP % BLOCK);
        let weights = |g: usize| panel.add(g * shape.code_step);
        let product = |g: usize| products.add(g % 2 * PAIR);
        multiply(codes(0), weights(0), product(0));
        let last = shape.groups - 1;
        for g in 0..last {
            // The next product is under way while this one is summed.
            multiply(codes(g + 1), weights(g + 1), product(g + 1));
            accumulate::<MIN, GROUP>(&mut acc, shape, panel, x, g, product(g));
        }
        accumulate::<MIN, GROUP>(&mut acc, shape, panel, x, last, product(last));
        acc
    }
}

/// The integer products of one group: sixteen rows of codes of each plane, a block apart, with sixteen outputs' weights.
#[inline(always)]
unsafe fn multiply(codes: *const i8, weights: *const u8, to: *mut i32) {
    // SAFETY: as much as the configured tiles say lies at each place. The tiles are this thread's, and only this
    // function uses them.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tileloadd tmm6, [{weights} + {line}]",
            "tileloadd tmm4, [{high} + {row}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{low} + {row}]",
            "tdpbssd tmm1, tmm5, tmm6",
            "tilestored [{to} + {line}], tmm0",
            "tilestored [{to_low} + {line}], tmm1",
            high = in(reg) codes,
            low = in(reg) codes.add(HEIGHT * BLOCK),
            weights = in(reg) weights,
            to = in(reg) to,
            to_low = in(reg) to.add(PRODUCT),
            row = in(reg) BLOCK,
            line = in(reg) LINE,
            options(nostack, preserves_flags)
        );
    }
}

/// The floating-point steps of one group, as in [`super::integer`].
#[inline(always)]
unsafe fn accumulate<const MIN: bool, const GROUP: usize>(
    acc: &mut [__m512; HEIGHT],
    shape: PanelShape,
    panel: *const u8,
    x: RowBlock,
    g: usize,
    dots: *const i32,
) {
    // SAFETY: the group exists on both sides.
    unsafe {
        let scales = panel.add(shape.scale_at + g * shape.scale_step).cast::<f32>();
        let d = _mm512_load_ps(scales);
        let d_x = x.scales.add(g * GROUP / BLOCK * HEIGHT);
        let m = if MIN { _mm512_load_ps(scales.add(LANES)) } else { d };
        let s_x = x.sums.add(g * HEIGHT);
        for (r, acc) in acc.iter_mut().enumerate() {
            let high = _mm512_slli_epi32::<8>(_mm512_load_si512(dots.add(r * LANES).cast()));
            let low = _mm512_load_si512(dots.add(PRODUCT + r * LANES).cast());
            let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(high, low));
            *acc = _mm512_fmadd_ps(dot, _mm512_mul_ps(d, _mm512_set1_ps(*d_x.add(r))), *acc);
            if MIN {
                *acc = _mm512_fmadd_ps(m, _mm512_set1_ps(*s_x.add(r)), *acc);
            }
        }
    }
}

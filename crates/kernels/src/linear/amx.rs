//! AMX tiles: asked of the operating system once, used through inline assembly.
//!
//! A tile product takes sixteen rows, sixteen outputs and one weight group at a time and yields the exact integer dot
//! products; they go through a little memory in the first-level cache into the same floating-point steps as
//! everywhere, so the results are those of [`super::integer`] to the bit. The steps, not the products, are what takes
//! the time: four vector operations per row and group.

use super::activations::{Activations, BLOCK, HEIGHT, RowBlock};
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

/// Rows from which tiles are worth their setting up.
const WORTH: usize = 8;
/// Groups whose products are in flight together.
const BATCH: usize = 4;
/// Integers of one product: sixteen rows of sixteen outputs.
const PRODUCT: usize = HEIGHT * LANES;

/// Whether a task of this many rows goes through tiles.
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
    /// Tiles 0 to 3 hold products, 4 and 5 activations, 6 and 7 weights of a group.
    fn new(group: usize) -> Config {
        let (mut columns, mut rows) = ([0; 16], [0; 16]);
        for tile in 0..8 {
            columns[tile] = if matches!(tile, 4 | 5) { group as u16 } else { LINE as u16 };
            rows[tile] = if tile >= 6 { (group / 4) as u8 } else { HEIGHT as u8 };
        }
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
    let products = 2 * BATCH * PRODUCT * size_of::<i32>();
    with_scratch(products + shape.panel_bytes, |scratch| {
        let spec = task.weights.spec;
        let _tiles = Tiles::new(spec.group);
        let panel = scratch.wrapping_add(products);
        // SAFETY: the instruction sets are there, and the scratch holds two batches of products and a panel.
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
    // SAFETY: the caller's promise: `groups` groups on both sides, two batches of products.
    unsafe {
        let mut acc = [_mm512_setzero_ps(); HEIGHT];
        let batch = |b: usize| products.add(b % 2 * BATCH * PRODUCT);
        // The products of one batch are under way while those of the one before are summed.
        let whole = shape.groups / BATCH;
        if whole > 0 {
            multiply_batch::<GROUP>(panel, x, 0, batch(0));
        }
        for b in 0..whole {
            if b + 1 < whole {
                multiply_batch::<GROUP>(panel, x, (b + 1) * BATCH, batch(b + 1));
            }
            for i in 0..BATCH {
                accumulate::<MIN, GROUP>(&mut acc, shape, panel, x, b * BATCH + i, batch(b).add(i * PRODUCT));
            }
        }
        for g in whole * BATCH..shape.groups {
            multiply_one::<GROUP>(panel, x, g, products);
            accumulate::<MIN, GROUP>(&mut acc, shape, panel, x, g, products);
        }
        acc
    }
}

/// Where the codes of group `g` of all sixteen rows start, counted from the block's.
const fn codes_at(group: usize, g: usize) -> usize {
    g * group / BLOCK * HEIGHT * BLOCK + g * group % BLOCK
}

/// Integer products of [`BATCH`] groups from `first` on, which is a multiple of it.
#[inline(always)]
unsafe fn multiply_batch<const GROUP: usize>(panel: *const u8, x: RowBlock, first: usize, to: *mut i32) {
    // SAFETY: the groups exist. The tiles were configured by this thread, and only this file uses them.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tileloadd tmm4, [{x} + {row}]",
            "tileloadd tmm6, [{w} + {line}]",
            "tilezero tmm1",
            "tileloadd tmm5, [{x} + {row} + {x1}]",
            "tileloadd tmm7, [{w} + {line} + {w1}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm5, tmm7",
            "tilezero tmm2",
            "tileloadd tmm4, [{x} + {row} + {x2}]",
            "tileloadd tmm6, [{w} + {line} + {w2}]",
            "tilezero tmm3",
            "tileloadd tmm5, [{x} + {row} + {x3}]",
            "tileloadd tmm7, [{w} + {line} + {w3}]",
            "tdpbssd tmm2, tmm4, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "tilestored [{to} + {line}], tmm0",
            "tilestored [{to} + {line} + {t1}], tmm1",
            "tilestored [{to} + {line} + {t2}], tmm2",
            "tilestored [{to} + {line} + {t3}], tmm3",
            x = in(reg) x.codes.add(codes_at(GROUP, first)),
            w = in(reg) panel.add(first * GROUP * LANES),
            to = in(reg) to,
            row = in(reg) BLOCK,
            line = in(reg) LINE,
            x1 = const codes_at(GROUP, 1),
            x2 = const codes_at(GROUP, 2),
            x3 = const codes_at(GROUP, 3),
            w1 = const GROUP * LANES,
            w2 = const 2 * GROUP * LANES,
            w3 = const 3 * GROUP * LANES,
            t1 = const PRODUCT * 4,
            t2 = const 2 * PRODUCT * 4,
            t3 = const 3 * PRODUCT * 4,
            options(nostack, preserves_flags)
        );
    }
}

/// The integer product of one group.
#[inline(always)]
unsafe fn multiply_one<const GROUP: usize>(panel: *const u8, x: RowBlock, g: usize, to: *mut i32) {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tileloadd tmm4, [{x} + {row}]",
            "tileloadd tmm6, [{w} + {line}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tilestored [{to} + {line}], tmm0",
            x = in(reg) x.codes.add(codes_at(GROUP, g)),
            w = in(reg) panel.add(g * GROUP * LANES),
            to = in(reg) to,
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
            let dot = _mm512_cvtepi32_ps(_mm512_load_si512(dots.add(r * LANES).cast()));
            *acc = _mm512_fmadd_ps(dot, _mm512_mul_ps(d, _mm512_set1_ps(*d_x.add(r))), *acc);
            if MIN {
                *acc = _mm512_fmadd_ps(m, _mm512_set1_ps(*s_x.add(r)), *acc);
            }
        }
    }
}

//! Products of many rows on AMX tiles: the exact integers of sixteen rows and sixteen lanes at once, finished in the
//! same floating-point steps as everywhere.
//!
//! Levels already lie as a tile wants its right side, `[reduce/4][lanes][4]`; the planes of the codes are the left one.

use super::dot::Dot;
use super::grid::Grid;
use super::product::HEIGHT;
use super::tiles::{Lanes, Task};
use crate::Isa;
use crate::linear::amx::WORTH;
use crate::linear::memory::{Aligned, LINE};
use crate::simd::{Avx512, LANES};
use std::arch::asm;
use std::arch::x86_64::_mm512_load_si512;
use std::marker::PhantomData;
use std::ops::Range;

/// Rows of levels a tile takes.
const DEPTH: usize = 64;
/// Integers of one tile of products.
const PRODUCT: usize = HEIGHT * LANES;
/// Vectors of lanes multiplied at once.
const VECTORS: usize = 2;
/// Integers of one step: both planes of so many vectors.
const STEP: usize = 2 * VECTORS * PRODUCT;

/// Configured tiles of this thread; released when dropped, also by a panic.
pub(super) struct Tiles<'a> {
    /// Rows of levels in a tile, a part of every reduce group.
    depth: usize,
    /// Two steps.
    products: *mut i32,
    buffer: PhantomData<&'a mut Aligned>,
}

/// The tiles for such a product, where they are there and worth it.
pub(super) fn tiles<'a>(isa: Isa, grid: &Grid<'_>, rows: usize, products: &'a mut Aligned) -> Option<Tiles<'a>> {
    if isa != Isa::Amx || rows < WORTH || !isa.is_available() {
        return None;
    }
    let depth = depth(grid)?;
    products.at_least(2 * STEP * size_of::<i32>());
    let config = Config::new(depth);
    // SAFETY: the permission was granted, the configuration is valid and lives through the instruction.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly, preserves_flags)) };
    Some(Tiles { depth, products: products.as_mut_ptr().cast(), buffer: PhantomData })
}

/// The largest depth that divides all reduce groups; none where it is so small that tiles run mostly empty.
fn depth(grid: &Grid<'_>) -> Option<usize> {
    let mut from = 0;
    let mut sizes = grid.reduce_groups.iter().map(|end| end - std::mem::replace(&mut from, *end));
    let first = sizes.next()?;
    if sizes.any(|size| size != first) {
        return None;
    }
    (LANES..=DEPTH).rev().step_by(4).find(|depth| first % depth == 0)
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
    /// Tiles 0 to 3 hold products, of the high and low plane with one vector of lanes and then the next; 4 and 5 the
    /// planes, 6 and 7 the levels of both vectors.
    fn new(depth: usize) -> Config {
        let (mut columns, mut rows) = ([0; 16], [0; 16]);
        columns[..8].copy_from_slice(&[LINE as u16; 8]);
        columns[4..6].fill(depth as u16);
        rows[..6].fill(HEIGHT as u8);
        rows[6..8].fill((depth / 4) as u8);
        Config { palette: 1, start_row: 0, reserved: [0; 14], columns, rows }
    }
}

impl Drop for Tiles<'_> {
    fn drop(&mut self) {
        // SAFETY: the permission was granted.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

impl Tiles<'_> {
    /// Whether so many rows are worth a tile of sixteen.
    pub(super) fn takes(&self, rows: usize) -> bool {
        rows >= WORTH
    }

    /// Multiplies rounded rows with the lanes of one fold; the codes have room for sixteen rows.
    pub(super) fn run(&self, task: &Task, levels: *const u8, lanes: Range<usize>) {
        // SAFETY: AMX is there, and AVX-512 with it.
        unsafe { self.fold(task, levels, lanes) }
    }

    /// All rows against the lanes of one fold.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn fold(&self, task: &Task, levels: *const u8, lanes: Range<usize>) {
        let groups = task.grid.reduce_groups.len();
        let steps = lanes.len().div_ceil(VECTORS * LANES) * groups;
        let place = |step: usize| {
            let lane = lanes.start + step / groups * VECTORS * LANES;
            (lane, ((lanes.end - lane) / LANES).min(VECTORS), step % groups)
        };
        // SAFETY: lanes and groups are the task's; there is room for two steps.
        unsafe {
            let product = |step: usize| self.products.add(step % 2 * STEP);
            let (lane, vectors, g) = place(0);
            self.multiply(task, levels, lane, vectors, g, product(0));
            for step in 0..steps {
                if step + 1 < steps {
                    // The next product is under way while this one is finished.
                    let (lane, vectors, g) = place(step + 1);
                    self.multiply(task, levels, lane, vectors, g, product(step + 1));
                }
                let (lane, vectors, g) = place(step);
                for v in 0..vectors {
                    finish(task, lane + v * LANES, g, product(step).add(v * 2 * PRODUCT));
                }
            }
        }
    }

    /// The products of one reduce group with one or two vectors of lanes.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn multiply(&self, task: &Task, levels: *const u8, lane: usize, vectors: usize, g: usize, to: *mut i32) {
        let grid = task.grid;
        let from = if g == 0 { 0 } else { grid.reduce_groups[g - 1] };
        let (plane, stride) = (task.vectors.plane, 4 * grid.lanes);
        // SAFETY: as much as the configured tiles say lies at each place: sixteen rows of `depth` codes, `depth / 4`
        // quads of sixteen lanes, sixteen lines of products. Only this function uses the tiles.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem, preserves_flags)
            );
            for row in (from..grid.reduce_groups[g]).step_by(self.depth) {
                let codes = task.vectors.codes.add(row);
                let levels = levels.add((row / 4 * grid.lanes + lane) * 4);
                asm!(
                    "tileloadd tmm6, [{levels} + {stride}]",
                    "tileloadd tmm4, [{high} + {row}]",
                    "tdpbsud tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{low} + {row}]",
                    "tdpbsud tmm1, tmm5, tmm6",
                    levels = in(reg) levels,
                    stride = in(reg) stride,
                    high = in(reg) codes,
                    low = in(reg) codes.add(plane),
                    row = in(reg) 2 * plane,
                    options(nostack, readonly, preserves_flags)
                );
                if vectors == VECTORS {
                    asm!(
                        "tileloadd tmm7, [{levels} + {stride}]",
                        "tdpbsud tmm2, tmm4, tmm7",
                        "tdpbsud tmm3, tmm5, tmm7",
                        levels = in(reg) levels.add(4 * LANES),
                        stride = in(reg) stride,
                        options(nostack, readonly, preserves_flags)
                    );
                }
            }
            asm!(
                "tilestored [{to} + {line}], tmm0",
                "tilestored [{to} + {line} + {product}], tmm1",
                to = in(reg) to,
                line = in(reg) LINE,
                product = const PRODUCT * 4,
                options(nostack, preserves_flags)
            );
            if vectors == VECTORS {
                asm!(
                    "tilestored [{to} + {line}], tmm2",
                    "tilestored [{to} + {line} + {product}], tmm3",
                    to = in(reg) to.add(2 * PRODUCT),
                    line = in(reg) LINE,
                    product = const PRODUCT * 4,
                    options(nostack, preserves_flags)
                );
            }
        }
    }
}

/// The floating-point steps of sixteen lanes.
#[inline(always)]
unsafe fn finish(task: &Task, lane: usize, g: usize, products: *const i32) {
    let groups = task.grid.reduce_groups.len();
    // SAFETY: sixteen rows of sixteen products of each plane lie there; rows and lanes are the task's.
    unsafe {
        let place = Lanes::new(task.grid, g, lane);
        let offset = place.has_offset();
        for row in 0..task.rows {
            let high = _mm512_load_si512(products.add(row * LANES).cast());
            let low = _mm512_load_si512(products.add(PRODUCT + row * LANES).cast());
            let finish = &*task.vectors.finish.add(row * groups + g);
            let (products, out) = (Avx512::total([high, low]), task.out.add(row * task.out_stride + lane));
            if offset {
                place.add::<Avx512, true>(0, products, finish, out);
            } else {
                place.add::<Avx512, false>(0, products, finish, out);
            }
        }
    }
}

//! Dense weights, held in their own type and widened exactly to `f32` on the way into the registers.
//!
//! A panel is `[inp][16 outputs]`. Each output is one chain `acc = fma(x[k], w[k], acc)` with `k` ascending; several
//! rows and panels run side by side to keep the multipliers busy, which changes no chain. With many rows a stretch of
//! the panels is widened once into cache and used for all rows, the chains resting in scratch between stretches.

use super::integer::with_scratch;
use super::memory::{Aligned, LINE, Output};
use crate::simd::{LANES, Simd};
use crate::{Isa, dispatch};
use half::{bf16, f16};
use std::ops::Range;

/// How a dense weight is held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseType {
    /// Four bytes, as it is.
    F32,
    /// IEEE half floats.
    F16,
    /// The upper half of an `f32`.
    Bf16,
}

impl DenseType {
    pub(crate) fn size(self) -> usize {
        match self {
            DenseType::F32 => 4,
            DenseType::F16 | DenseType::Bf16 => 2,
        }
    }
}

/// A packed matrix; see the module.
pub(crate) struct Dense {
    pub(crate) kind: DenseType,
    pub(crate) out: usize,
    pub(crate) inp: usize,
    data: Aligned,
}

/// Panels that are computed side by side.
pub(crate) const WIDE: usize = 4;
/// Rows of one task, so that their chains and the widened stretch stay in the first-level cache.
pub(crate) const TALL: usize = 48;
/// Inputs of one widened stretch.
const STRETCH: usize = 64;
/// Rows from which stretches are widened.
const WIDEN: usize = 6;

impl Dense {
    /// Packs `w[out][inp]`, each weight as little-endian bytes of its type.
    pub(crate) fn pack<const B: usize>(
        kind: DenseType,
        out: usize,
        inp: usize,
        w: impl Fn(usize, usize) -> [u8; B],
    ) -> Dense {
        assert!(B == kind.size() && inp > 0, "a weight matrix needs inputs");
        let stride = Dense::stride(kind, inp);
        let mut data = Aligned::zeroed(out.div_ceil(LANES) * stride);
        for (panel, bytes) in data.bytes_mut().chunks_exact_mut(stride).take(out.div_ceil(LANES)).enumerate() {
            for lane in 0..LANES.min(out - panel * LANES) {
                let to = bytes.chunks_exact_mut(LANES * B).map(|k| &mut k[lane * B..(lane + 1) * B]);
                for (k, to) in to.take(inp).enumerate() {
                    to.copy_from_slice(&w(panel * LANES + lane, k));
                }
            }
        }
        Dense { kind, out, inp, data }
    }

    /// Bytes from one panel to the next.
    fn stride(kind: DenseType, inp: usize) -> usize {
        (inp * LANES * kind.size()).next_multiple_of(LINE)
    }

    pub(crate) fn panels(&self) -> usize {
        self.out.div_ceil(LANES)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.len()
    }

    fn weight<const B: usize>(&self, row: usize, k: usize) -> [u8; B] {
        let at = row / LANES * Dense::stride(self.kind, self.inp) + (k * LANES + row % LANES) * B;
        std::array::from_fn(|i| self.data.bytes()[at + i])
    }

    /// One row as `f32`.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        for (k, out) in out.iter_mut().enumerate() {
            *out = match self.kind {
                DenseType::F32 => f32::from_le_bytes(self.weight(row, k)),
                DenseType::F16 => f16::from_le_bytes(self.weight(row, k)).to_f32(),
                DenseType::Bf16 => bf16::from_le_bytes(self.weight(row, k)).to_f32(),
            };
        }
    }

    /// The rows of all parts, one below the other; they have the same type and width.
    pub(crate) fn concat(parts: &[&Dense]) -> Option<Dense> {
        let first = parts.first()?;
        let out = parts.iter().map(|part| part.out).sum();
        let rows: Vec<_> = parts.iter().flat_map(|part| (0..part.out).map(move |row| (*part, row))).collect();
        let (kind, inp) = (first.kind, first.inp);
        Some(match kind {
            DenseType::F32 => Dense::pack(kind, out, inp, |row, k| rows[row].0.weight::<4>(rows[row].1, k)),
            DenseType::F16 | DenseType::Bf16 => {
                Dense::pack(kind, out, inp, |row, k| rows[row].0.weight::<2>(rows[row].1, k))
            }
        })
    }
}

/// One task: these panels for all `rows` rows of `x`.
pub(crate) struct Task<'a> {
    pub(crate) weights: &'a Dense,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) panels: Range<usize>,
    /// `[rows][inp]`, at most [`TALL`] rows.
    pub(crate) x: &'a [f32],
    pub(crate) y: Output,
}

/// Runs a task with this instruction set.
pub(crate) fn run(isa: Isa, task: &Task) {
    let floats = WIDE * LANES * (STRETCH + TALL);
    with_scratch(floats * 4, |scratch| run_task(isa, task, scratch.cast()));
}

dispatch! {
    fn run_task(task: &Task, scratch: *mut f32) = run_task_body
}

/// A type weights are held in, sixteen at a time.
trait Element: Copy {
    unsafe fn load<S: Simd>(p: *const Self) -> S::F;
}
#[derive(Clone, Copy)]
struct Half(#[allow(dead_code)] u16);
#[derive(Clone, Copy)]
struct Brain(#[allow(dead_code)] u16);
impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const f32) -> S::F {
        // SAFETY: sixteen lie there by the caller's promise.
        unsafe { S::load(p) }
    }
}
impl Element for Half {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Half) -> S::F {
        // SAFETY: as above.
        unsafe { S::load_f16(p.cast()) }
    }
}
impl Element for Brain {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Brain) -> S::F {
        // SAFETY: as above.
        unsafe { S::load_bf16(p.cast()) }
    }
}

#[inline(always)]
unsafe fn run_task_body<S: Simd>(task: &Task, scratch: *mut f32) {
    // SAFETY: the weights hold elements of their kind; the scratch is as large as `run` makes it.
    unsafe {
        match task.weights.kind {
            DenseType::F32 => panels::<S, f32>(task, scratch),
            DenseType::F16 => panels::<S, Half>(task, scratch),
            DenseType::Bf16 => panels::<S, Brain>(task, scratch),
        }
    }
}

#[inline(always)]
unsafe fn panels<S: Simd, E: Element>(task: &Task, scratch: *mut f32) {
    let (inp, rows) = (task.weights.inp, task.x.len() / task.weights.inp);
    let stride = Dense::stride(task.weights.kind, inp) / size_of::<E>();
    // SAFETY: pointers stay within the weights, `x`, the scratch and this task's part of the output.
    unsafe {
        let start = task.weights.data.as_ptr().cast::<E>();
        let mut panel = task.panels.start;
        while panel < task.panels.end {
            let w = Side { start: start.add(panel * stride), stride };
            let wide = task.panels.end - panel >= WIDE;
            let count = if wide { WIDE } else { 1 };
            if rows >= WIDEN {
                tall::<S, E>(task, w, panel, count, rows, scratch);
            } else {
                let mut row = 0;
                while row < rows {
                    let x = task.x.as_ptr().add(row * inp);
                    let left = rows - row;
                    row += if wide && left >= 4 && S::REGISTERS >= 32 {
                        direct::<S, E, 4, WIDE>(task, w, x, panel, row)
                    } else if wide && left >= 2 && S::REGISTERS >= 32 {
                        direct::<S, E, 2, WIDE>(task, w, x, panel, row)
                    } else if wide {
                        direct::<S, E, 1, WIDE>(task, w, x, panel, row)
                    } else if left >= 4 {
                        direct::<S, E, 4, 1>(task, w, x, panel, row)
                    } else {
                        direct::<S, E, 1, 1>(task, w, x, panel, row)
                    };
                }
            }
            panel += count;
        }
    }
}

/// Panels side by side: element `[p][k][16]` at `start + p * stride + k * 16`.
#[derive(Clone, Copy)]
struct Side<E> {
    start: *const E,
    stride: usize,
}

/// `acc[r][p] = fma(x[r][k], w[p][k], acc[r][p])` for `k` in `0..n`.
#[inline(always)]
unsafe fn chains<S: Simd, E: Element, const R: usize, const P: usize>(
    acc: &mut [[S::F; P]; R],
    w: Side<E>,
    x: *const f32,
    x_stride: usize,
    n: usize,
) {
    // SAFETY: `n` inputs of `P` panels and `R` rows by the caller's promise.
    unsafe {
        for k in 0..n {
            let w: [S::F; P] = std::array::from_fn(|p| E::load::<S>(w.start.add(p * w.stride + k * LANES)));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = S::splat(*x.add(r * x_stride + k));
                for (acc, w) in acc.iter_mut().zip(w) {
                    *acc = S::fma(x, w, *acc);
                }
            }
        }
    }
}

/// Few rows: the whole chains in registers, straight from the packed weights. Returns `R`.
#[inline(always)]
unsafe fn direct<S: Simd, E: Element, const R: usize, const P: usize>(
    task: &Task,
    w: Side<E>,
    x: *const f32,
    panel: usize,
    row: usize,
) -> usize {
    // SAFETY: the caller checked that `R` rows and `P` panels are there.
    unsafe {
        let mut acc = [[S::splat(0.0); P]; R];
        chains::<S, E, R, P>(&mut acc, w, x, task.weights.inp, task.weights.inp);
        for (r, acc) in acc.into_iter().enumerate() {
            for (p, acc) in acc.into_iter().enumerate() {
                put::<S>(task, panel + p, row + r, acc);
            }
        }
        R
    }
}

/// Many rows, `count` panels ([`WIDE`] or 1): stretch by stretch of the inputs.
#[inline(always)]
unsafe fn tall<S: Simd, E: Element>(
    task: &Task,
    w: Side<E>,
    panel: usize,
    count: usize,
    rows: usize,
    scratch: *mut f32,
) {
    let inp = task.weights.inp;
    // SAFETY: the scratch holds a stretch of `WIDE` panels, then `TALL` rows of `WIDE` vectors.
    unsafe {
        let sums = scratch.add(WIDE * LANES * STRETCH);
        for i in 0..rows * count {
            S::store(sums.add(i * LANES), S::splat(0.0));
        }
        let mut k = 0;
        while k < inp {
            let n = STRETCH.min(inp - k);
            for p in 0..count {
                for i in 0..n {
                    let wide = E::load::<S>(w.start.add(p * w.stride + (k + i) * LANES));
                    S::store(scratch.add((p * STRETCH + i) * LANES), wide);
                }
            }
            let side = Side { start: scratch.cast_const(), stride: STRETCH * LANES };
            let mut row = 0;
            while row < rows {
                let x = task.x.as_ptr().add(row * inp + k);
                let left = rows - row;
                let at = sums.add(row * count * LANES);
                row += if count == WIDE && S::REGISTERS >= 32 {
                    if left >= 6 {
                        resumed::<S, 6, WIDE>(side, x, inp, n, at, count)
                    } else if left >= 4 {
                        resumed::<S, 4, WIDE>(side, x, inp, n, at, count)
                    } else if left >= 2 {
                        resumed::<S, 2, WIDE>(side, x, inp, n, at, count)
                    } else {
                        resumed::<S, 1, WIDE>(side, x, inp, n, at, count)
                    }
                } else {
                    // One panel at a time: six vectors of two registers each.
                    let step = if left >= 6 { 6 } else { 1 };
                    for p in 0..count {
                        let side = Side { start: side.start.add(p * side.stride), ..side };
                        let at = at.add(p * LANES);
                        if step == 6 {
                            resumed::<S, 6, 1>(side, x, inp, n, at, count);
                        } else {
                            resumed::<S, 1, 1>(side, x, inp, n, at, count);
                        }
                    }
                    step
                };
            }
            k += n;
        }
        for row in 0..rows {
            for p in 0..count {
                put::<S>(task, panel + p, row, S::load(sums.add((row * count + p) * LANES)));
            }
        }
    }
}

/// Goes on with `R x P` chains that rest at `at[r][count][16]`. Returns `R`.
#[inline(always)]
unsafe fn resumed<S: Simd, const R: usize, const P: usize>(
    w: Side<f32>,
    x: *const f32,
    x_stride: usize,
    n: usize,
    at: *mut f32,
    count: usize,
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let place = |r: usize, p: usize| at.add((r * count + p) * LANES);
        let mut acc: [[S::F; P]; R] = std::array::from_fn(|r| std::array::from_fn(|p| S::load(place(r, p))));
        chains::<S, f32, R, P>(&mut acc, w, x, x_stride, n);
        for (r, acc) in acc.into_iter().enumerate() {
            for (p, acc) in acc.into_iter().enumerate() {
                S::store(place(r, p), acc);
            }
        }
        R
    }
}

/// Adds the bias and writes the columns of one panel that exist.
#[inline(always)]
unsafe fn put<S: Simd>(task: &Task, panel: usize, row: usize, acc: S::F) {
    let first = panel * LANES;
    let lanes = LANES.min(task.weights.out - first);
    // SAFETY: the row and the columns are this task's.
    unsafe {
        let to = task.y.start.add(row * task.y.stride + first);
        if lanes == LANES {
            let acc = task.bias.map_or(acc, |bias| S::add(acc, S::load(bias.as_ptr().add(first))));
            S::store(to, acc);
        } else {
            let mut all = [0.0f32; LANES];
            S::store(all.as_mut_ptr(), acc);
            if let Some(bias) = task.bias {
                all.iter_mut().zip(&bias[first..]).for_each(|(y, b)| *y += b);
            }
            to.copy_from_nonoverlapping(all.as_ptr(), lanes);
        }
    }
}

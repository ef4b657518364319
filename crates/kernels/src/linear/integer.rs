//! The integer dot-product kernel of quantized weights, for every instruction set with vectors.
//!
//! For each output, groups in ascending order: the integer dot product of codes, exact, then
//! `acc = fma(dot, d_w * d_x, acc)` and, with minima, `acc = fma(m_w, s_x, acc)`. Every path through this file and
//! through the AMX one performs just that, so they return the same bits.

use super::activations::{Activations, BLOCK, HEIGHT, PASS, PLANES, RowBlock};
use super::memory::{Aligned, LINE, Output};
use super::quant::{PanelShape, Quant};
use crate::dispatch;
use crate::simd::{LANES, Simd};
use std::cell::Cell;
use std::ops::Range;

/// One task: all these panels for all rows of these blocks.
pub(crate) struct Task<'a> {
    pub(crate) weights: &'a Quant,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) panels: Range<usize>,
    pub(crate) activations: &'a Activations,
    pub(crate) blocks: Range<usize>,
    /// Starts at the first row of the first block.
    pub(crate) y: Output,
}

impl Task<'_> {
    pub(crate) fn rows(&self) -> usize {
        let height = self.activations.height();
        (self.blocks.end * height).min(self.activations.rows()) - self.blocks.start * height
    }
}

/// Rows from which a panel is unpacked to bytes and `f32` scales once instead of in every pass.
const UNPACK: usize = 16;

/// Packed nibbles, as stored.
const NIBBLES: u8 = 0;
/// Bytes below sixteen.
const TINY: u8 = 3;
/// Bytes no larger than 128.
const SMALL: u8 = 1;
/// Any bytes.
const BYTES: u8 = 2;

thread_local! {
    static UNPACKED: Cell<Option<Aligned>> = const { Cell::new(None) };
}

/// Lends this thread's scratch, grown to `bytes`.
pub(crate) fn with_scratch<R>(bytes: usize, f: impl FnOnce(*mut u8) -> R) -> R {
    UNPACKED.with(|cell| {
        let mut scratch = cell.take().unwrap_or_default();
        scratch.at_least(bytes);
        let result = f(scratch.as_mut_ptr());
        cell.set(Some(scratch));
        result
    })
}

/// Runs a task with this instruction set.
pub(crate) fn run(isa: crate::Isa, task: &Task) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if isa == crate::Isa::Amx && super::amx::takes(task.activations) && isa.is_available() {
        return super::amx::run(task);
    }
    let rows = task.rows();
    let bytes = if rows >= UNPACK { task.weights.unpacked().panel_bytes } else { 0 };
    with_scratch(bytes, |scratch| run_task(isa, task, rows, scratch));
}

dispatch! {
    fn run_task(task: &Task, rows: usize, scratch: *mut u8) = run_task_body
}

#[inline(always)]
unsafe fn run_task_body<S: Simd>(task: &Task, rows: usize, scratch: *mut u8) {
    let weights = task.weights;
    // SAFETY: the caller made the scratch large enough for one unpacked panel where `rows` asks for it.
    unsafe {
        for panel in task.panels.clone() {
            if rows < UNPACK {
                panel_direct::<S>(task, panel, task.blocks.clone());
                continue;
            }
            unpack::<S>(weights, weights.panel(panel), scratch);
            let unpacked = Panel { start: scratch, shape: weights.unpacked(), half: false, min: weights.spec.min };
            let store = Store::new(task, panel);
            match (weights.small, weights.spec.group) {
                (_, 32) if weights.spec.bits == 4 => {
                    blocks::<S, TINY, 32>(unpacked, task, task.blocks.clone(), store);
                }
                (_, _) if weights.spec.bits == 4 => {
                    blocks::<S, TINY, 16>(unpacked, task, task.blocks.clone(), store);
                }
                (true, 32) => blocks::<S, SMALL, 32>(unpacked, task, task.blocks.clone(), store),
                (true, _) => blocks::<S, SMALL, 16>(unpacked, task, task.blocks.clone(), store),
                (false, 32) => blocks::<S, BYTES, 32>(unpacked, task, task.blocks.clone(), store),
                (false, _) => blocks::<S, BYTES, 16>(unpacked, task, task.blocks.clone(), store),
            }
        }
    }
}

/// The rows of some of a task's blocks against one panel as it is stored.
#[inline(always)]
pub(crate) unsafe fn panel_direct<S: Simd>(task: &Task, panel: usize, range: Range<usize>) {
    let weights = task.weights;
    let (half, min) = (weights.half, weights.spec.min);
    let stored = Panel { start: weights.panel(panel), shape: weights.shape(), half, min };
    let store = Store::new(task, panel);
    // SAFETY: the panel is stored in the way that its spec and flags say.
    unsafe {
        match (weights.spec.bits, weights.small, weights.spec.group) {
            (4, _, 32) => blocks::<S, NIBBLES, 32>(stored, task, range, store),
            (4, _, _) => blocks::<S, NIBBLES, 16>(stored, task, range, store),
            (_, true, 32) => blocks::<S, SMALL, 32>(stored, task, range, store),
            (_, true, _) => blocks::<S, SMALL, 16>(stored, task, range, store),
            (_, false, 32) => blocks::<S, BYTES, 32>(stored, task, range, store),
            (_, false, _) => blocks::<S, BYTES, 16>(stored, task, range, store),
        }
    }
}

/// A panel in either layout.
#[derive(Clone, Copy)]
struct Panel {
    start: *const u8,
    shape: PanelShape,
    /// Scales are half floats.
    half: bool,
    min: bool,
}

/// Where the sixteen outputs of one panel go.
#[derive(Clone, Copy)]
pub(crate) struct Store {
    to: *mut f32,
    stride: usize,
    lanes: usize,
    bias: [f32; LANES],
    biased: bool,
}

impl Store {
    pub(crate) fn new(task: &Task, panel: usize) -> Store {
        let first = panel * LANES;
        let lanes = LANES.min(task.weights.out - first);
        let mut bias = [0.0; LANES];
        if let Some(all) = task.bias {
            bias[..lanes].copy_from_slice(&all[first..first + lanes]);
        }
        // SAFETY: the output has `out` columns, and the panel's first is one of them.
        Store {
            to: unsafe { task.y.start.add(first) },
            stride: task.y.stride,
            lanes,
            bias,
            biased: task.bias.is_some(),
        }
    }

    #[inline(always)]
    pub(crate) unsafe fn put<S: Simd>(&self, row: usize, acc: S::F) {
        // SAFETY: the row is one of the output's; only the panel's own columns are written.
        unsafe {
            let acc = if self.biased { S::add(acc, S::load(self.bias.as_ptr())) } else { acc };
            let to = self.to.add(row * self.stride);
            if self.lanes == LANES {
                S::store(to, acc);
            } else {
                let mut all = [0.0f32; LANES];
                S::store(all.as_mut_ptr(), acc);
                to.copy_from_nonoverlapping(all.as_ptr(), self.lanes);
            }
        }
    }
}

/// Unpacks a panel to bytes (codes as they are) and `f32` scales.
#[inline(always)]
pub(crate) unsafe fn unpack<S: Simd>(weights: &Quant, panel: *const u8, scratch: *mut u8) {
    let (from, to) = (weights.shape(), weights.unpacked());
    let lines = from.code_bytes / LINE;
    // SAFETY: both panels have `groups` groups of these shapes.
    unsafe {
        for g in 0..from.groups {
            let (src, dst) = (panel.add(g * from.code_step), scratch.add(g * to.code_step));
            for j in 0..lines {
                let packed = S::load_bytes(src.add(j * LINE));
                if weights.spec.bits == 4 {
                    S::istore(dst.add(j * LINE).cast(), S::low_nibbles(packed));
                    S::istore(dst.add((j + lines) * LINE).cast(), S::high_nibbles(packed));
                } else {
                    S::istore(dst.add(j * LINE).cast(), packed);
                }
            }
            let parts = if weights.spec.min { 2 } else { 1 };
            let src = panel.add(from.scale_at + g * from.scale_step);
            let dst = scratch.add(to.scale_at + g * to.scale_step);
            for part in 0..parts {
                let scale = load_scale::<S>(src.add(part * from.scale_bytes), weights.half);
                S::store(dst.add(part * to.scale_bytes).cast(), scale);
            }
        }
    }
}

#[inline(always)]
unsafe fn load_scale<S: Simd>(p: *const u8, half: bool) -> S::F {
    // SAFETY: sixteen half floats or sixteen `f32` lie there, as `half` says.
    unsafe { if half { S::load_f16(p.cast()) } else { S::load(p.cast()) } }
}

/// All rows of these blocks against one panel, several rows per pass.
#[inline(always)]
unsafe fn blocks<S: Simd, const KIND: u8, const GROUP: usize>(
    panel: Panel,
    task: &Task,
    range: Range<usize>,
    store: Store,
) {
    // SAFETY: rows beyond `block.rows` are never asked for.
    unsafe {
        for b in range {
            let block = task.activations.block(b);
            let row = (b - task.blocks.start) * task.activations.height();
            let mut r = 0;
            while r < block.rows {
                let left = block.rows - r;
                let x = block.starting_at(r);
                let at = row + r;
                if S::REGISTERS >= 32 && left >= PASS {
                    rows::<S, KIND, GROUP, PASS>(panel, x, at, store);
                    r += PASS;
                } else if S::REGISTERS >= 32 && left >= 8 {
                    rows::<S, KIND, GROUP, 8>(panel, x, at, store);
                    r += 8;
                } else if S::REGISTERS >= 32 && left >= 4 {
                    rows::<S, KIND, GROUP, 4>(panel, x, at, store);
                    r += 4;
                } else if left >= 2 {
                    rows::<S, KIND, GROUP, 2>(panel, x, at, store);
                    r += 2;
                } else {
                    rows::<S, KIND, GROUP, 1>(panel, x, at, store);
                    r += 1;
                }
            }
        }
    }
}

/// Products of levels below sixteen, both planes in one pass: the levels of a group do not stay in fewer registers until the
/// second.
#[inline(always)]
unsafe fn tiny_dots<S: Simd, const KIND: u8, const GROUP: usize, const R: usize>(
    codes: *const u8,
    planes: *const i8,
    height: usize,
    starts: *const i32,
) -> [S::I; R] {
    // SAFETY: as for `rows`.
    unsafe {
        let quads = GROUP / 4;
        let mut partial = [[S::isplat(0); PLANES]; R];
        for j in 0..quads / 2 {
            let (low, high) = if KIND == NIBBLES {
                let packed = S::load_bytes(codes.add(j * LINE));
                (S::low_nibbles(packed), S::high_nibbles(packed))
            } else {
                (S::load_bytes(codes.add(j * LINE)), S::load_bytes(codes.add((j + quads / 2) * LINE)))
            };
            for (r, partial) in partial.iter_mut().enumerate() {
                for (plane, partial) in partial.iter_mut().enumerate() {
                    let at = planes.add((plane * height + r) * BLOCK + j * 4).cast::<i32>();
                    *partial = S::dot_tiny(*partial, low, S::isplat(at.read_unaligned()));
                    *partial = S::dot_tiny(*partial, high, S::isplat(at.add(quads / 2).read_unaligned()));
                }
            }
        }
        let mut dots = [S::isplat(0); R];
        for (r, (dot, partial)) in dots.iter_mut().zip(&partial).enumerate() {
            *dot = S::shl8(S::add_tiny(*dot, partial[0]));
            *dot = S::add_tiny(S::iadd(*dot, S::isplat(*starts.add(r))), partial[1]);
        }
        dots
    }
}

/// `R` rows against one panel.
#[inline(always)]
unsafe fn rows<S: Simd, const KIND: u8, const GROUP: usize, const R: usize>(
    panel: Panel,
    x: RowBlock,
    first: usize,
    store: Store,
) {
    // SAFETY: the panel has `groups` groups of its shape, the block at least `R` rows of as many.
    unsafe {
        let shape = panel.shape;
        let mut acc = [S::splat(0.0); R];
        for g in 0..shape.groups {
            let codes = panel.start.add(g * shape.code_step);
            let scale_of = panel.start.add(shape.scale_at + g * shape.scale_step);
            let block = g * GROUP / BLOCK;
            let planes = x.codes.add(block * PLANES * x.height * BLOCK + g * GROUP % BLOCK);
            let starts = x.starts.add(g * x.height);
            let mut dots = [S::isplat(0); R];
            let quads = GROUP / 4;
            let tiny = KIND == NIBBLES || KIND == TINY;
            if tiny && S::REGISTERS < 32 {
                dots = tiny_dots::<S, KIND, GROUP, R>(codes, planes, x.height, starts);
            } else {
                for plane in 0..PLANES {
                    if plane == 1 {
                        for (r, dot) in dots.iter_mut().enumerate() {
                            *dot = S::iadd(S::shl8(*dot), S::isplat(*starts.add(r)));
                        }
                    }
                    let xs = planes.add(plane * x.height * BLOCK);
                    if KIND == NIBBLES {
                        for j in 0..quads / 2 {
                            let packed = S::load_bytes(codes.add(j * LINE));
                            let (low, high) = (S::low_nibbles(packed), S::high_nibbles(packed));
                            for (r, dot) in dots.iter_mut().enumerate() {
                                let quad =
                                    |j: usize| S::isplat(xs.add(r * BLOCK + j * 4).cast::<i32>().read_unaligned());
                                *dot = S::dot_small(*dot, low, quad(j));
                                *dot = S::dot_small(*dot, high, quad(j + quads / 2));
                            }
                        }
                    } else {
                        for j in 0..quads {
                            let w = S::load_bytes(codes.add(j * LINE));
                            for (r, dot) in dots.iter_mut().enumerate() {
                                let quad = S::isplat(xs.add(r * BLOCK + j * 4).cast::<i32>().read_unaligned());
                                *dot = if KIND != BYTES {
                                    S::dot_small(*dot, w, quad)
                                } else {
                                    S::dot_u8i8(*dot, w, quad)
                                };
                            }
                        }
                    }
                }
            }
            let d = load_scale::<S>(scale_of, panel.half);
            let scales = x.scales.add(block * x.height);
            for r in 0..R {
                acc[r] = S::fma(S::to_f32(dots[r]), S::mul(d, S::splat(*scales.add(r))), acc[r]);
            }
            if panel.min {
                let m = load_scale::<S>(scale_of.add(shape.scale_bytes), panel.half);
                let sums = x.sums.add(g * x.height);
                for (r, acc) in acc.iter_mut().enumerate() {
                    *acc = S::fma(m, S::splat(*sums.add(r)), *acc);
                }
            }
        }
        for (r, acc) in acc.into_iter().enumerate() {
            store.put::<S>(first + r, acc);
        }
    }
}

const _: () = assert!(HEIGHT == LANES);

//! Group-quantized weights in panels of sixteen outputs.
//!
//! A panel is, group after group: codes, then scales, then minima of sixteen outputs. Codes lie in quads of four
//! inputs: 64 bytes hold quad `j` of all sixteen outputs, output by output, as the dot-product instructions and the
//! AMX tiles want it. Four-bit codes share 64 bytes between quad `j` (low nibbles) and quad `j + group/8` (high).
//! Scales and minima are half floats where all of the matrix are exactly that, else `f32`. Decoding one row reads a
//! panel from front to back once.

use super::activations::BLOCK;
use super::memory::{Aligned, LINE};
use crate::simd::LANES;
use half::f16;

/// How quantized weights are stored: `w = d * (code - zero) + m`, with one `d` and `m` per group of inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantSpec {
    /// Bits a code is stored in: 4 or 8.
    pub bits: u8,
    /// Inputs that share a scale: 16 or 32.
    pub group: usize,
    /// The integer that stands for zero, `0..=128`; codes lie within `-128..=127` of it.
    pub zero: i32,
    /// Whether groups have a minimum `m`.
    pub min: bool,
}

/// A packed matrix; see the module.
pub(crate) struct Quant {
    pub(crate) spec: QuantSpec,
    pub(crate) out: usize,
    pub(crate) inp: usize,
    /// Scales and minima are half floats.
    pub(crate) half: bool,
    /// No code exceeds 128.
    pub(crate) small: bool,
    data: Aligned,
}

/// Where things lie in a panel: codes of group `g` at `g * code_step`, its scales at `scale_at + g * scale_step`, and
/// its minima `scale_bytes` behind them.
#[derive(Clone, Copy)]
pub(crate) struct PanelShape {
    pub(crate) groups: usize,
    /// Bytes of the codes of one group.
    pub(crate) code_bytes: usize,
    pub(crate) code_step: usize,
    /// Bytes of the scales of one group.
    pub(crate) scale_bytes: usize,
    pub(crate) scale_at: usize,
    pub(crate) scale_step: usize,
    /// Bytes from one panel to the next.
    pub(crate) panel_bytes: usize,
}

impl PanelShape {
    /// As stored: scales beside their codes, so that the memory of a panel is read from front to back.
    pub(crate) fn packed(spec: QuantSpec, inp: usize, half: bool) -> PanelShape {
        let groups = inp / spec.group;
        let code_bytes = spec.group * LANES * usize::from(spec.bits) / 8;
        let scale_bytes = LANES * if half { 2 } else { 4 };
        let step = code_bytes + scale_bytes * if spec.min { 2 } else { 1 };
        let panel_bytes = (groups * step).next_multiple_of(LINE);
        let (code_step, scale_at, scale_step) = (step, code_bytes, step);
        PanelShape { groups, code_bytes, code_step, scale_bytes, scale_at, scale_step, panel_bytes }
    }

    /// Unpacked for many rows: byte codes, then `f32` scales and minima, each on line boundaries.
    pub(crate) fn unpacked(spec: QuantSpec, inp: usize) -> PanelShape {
        let groups = inp / spec.group;
        let (code_bytes, scale_bytes) = (spec.group * LANES, LANES * size_of::<f32>());
        let (scale_at, scale_step) = (groups * code_bytes, scale_bytes * if spec.min { 2 } else { 1 });
        let panel_bytes = scale_at + groups * scale_step;
        PanelShape { groups, code_bytes, code_step: code_bytes, scale_bytes, scale_at, scale_step, panel_bytes }
    }
}

fn is_half(x: f32) -> bool {
    f16::from_f32(x).to_f32().to_bits() == x.to_bits()
}

impl Quant {
    /// Packs rows that `fill(row, codes, d, m)` writes one after the other.
    ///
    /// # Panics
    /// On a spec or width that no format has, and on a code the spec cannot hold.
    pub(crate) fn pack(
        spec: QuantSpec,
        out: usize,
        inp: usize,
        mut fill: impl FnMut(usize, &mut [u8], &mut [f32], &mut [f32]),
    ) -> Quant {
        assert!(matches!(spec.bits, 4 | 8) && matches!(spec.group, 16 | 32), "unsupported quantization {spec:?}");
        assert!((0..=128).contains(&spec.zero), "unsupported quantization {spec:?}");
        assert!(inp > 0 && inp.is_multiple_of(BLOCK), "a width of {inp} is not whole blocks of {BLOCK}");
        let groups = inp / spec.group;
        let (mut codes, mut d) = (vec![0u8; inp], vec![0f32; groups]);
        let mut m = vec![0f32; if spec.min { groups } else { 0 }];
        let bytes = out.div_ceil(LANES) * PanelShape::packed(spec, inp, true).panel_bytes;
        let mut packed = Quant { spec, out, inp, half: true, small: true, data: Aligned::zeroed(bytes) };
        let limit = if spec.bits == 4 { 15 } else { (spec.zero + 127).min(255) };
        for row in 0..out {
            fill(row, &mut codes, &mut d, &mut m);
            let largest = codes.iter().copied().max().unwrap_or(0);
            assert!(i32::from(largest) <= limit, "row {row} has the code {largest}, beyond {limit} of {spec:?}");
            packed.small &= largest <= 128;
            if packed.half && !d.iter().chain(&m).all(|x| is_half(*x)) {
                packed = packed.with_wide_scales(row);
            }
            packed.set_row(row, &codes, &d, &m);
        }
        packed
    }

    pub(crate) fn shape(&self) -> PanelShape {
        PanelShape::packed(self.spec, self.inp, self.half)
    }

    /// The layout kernels unpack a panel to.
    pub(crate) fn unpacked(&self) -> PanelShape {
        PanelShape::unpacked(self.spec, self.inp)
    }

    pub(crate) fn panels(&self) -> usize {
        self.out.div_ceil(LANES)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.len()
    }

    /// The first byte of a panel.
    pub(crate) fn panel(&self, panel: usize) -> *const u8 {
        assert!(panel < self.panels());
        // SAFETY: the panel exists, and the data holds all of them.
        unsafe { self.data.as_ptr().add(panel * self.shape().panel_bytes) }
    }

    /// The same matrix with `f32` scales, as far as its first `rows` rows are written.
    fn with_wide_scales(self, rows: usize) -> Quant {
        let bytes = self.panels() * PanelShape::packed(self.spec, self.inp, false).panel_bytes;
        let mut wide = Quant {
            spec: self.spec,
            out: self.out,
            inp: self.inp,
            half: false,
            small: self.small,
            data: Aligned::zeroed(bytes),
        };
        let groups = self.inp / self.spec.group;
        let (mut codes, mut d) = (vec![0u8; self.inp], vec![0f32; groups]);
        let mut m = vec![0f32; if self.spec.min { groups } else { 0 }];
        for row in 0..rows {
            self.get_row(row, &mut codes, &mut d, &mut m);
            wide.set_row(row, &codes, &d, &m);
        }
        wide
    }

    /// Where output `lane`'s code of input `k` of a group lies within the group, and whether in the high nibble.
    fn place(&self, lane: usize, k: usize) -> (usize, bool) {
        let (quad, byte) = (k / 4, k % 4);
        let lines = self.spec.group / 8;
        let high = self.spec.bits == 4 && quad >= lines;
        ((if high { quad - lines } else { quad }) * LINE + lane * 4 + byte, high)
    }

    fn set_row(&mut self, row: usize, codes: &[u8], d: &[f32], m: &[f32]) {
        let (shape, lane) = (self.shape(), row % LANES);
        let places: Vec<_> = (0..self.spec.group).map(|k| self.place(lane, k)).collect();
        let half = self.half;
        let put = |to: &mut [u8], x: f32| match half {
            true => to[lane * 2..][..2].copy_from_slice(&f16::from_f32(x).to_le_bytes()),
            false => to[lane * 4..][..4].copy_from_slice(&x.to_le_bytes()),
        };
        let panel = &mut self.data.bytes_mut()[row / LANES * shape.panel_bytes..][..shape.panel_bytes];
        for (g, group) in panel.chunks_exact_mut(shape.code_step).take(shape.groups).enumerate() {
            for ((at, high), code) in places.iter().zip(&codes[g * self.spec.group..]) {
                group[*at] |= if *high { code << 4 } else { *code };
            }
            put(&mut group[shape.scale_at..], d[g]);
            if let Some(m) = m.get(g) {
                put(&mut group[shape.scale_at + shape.scale_bytes..], *m);
            }
        }
    }

    /// Reads back what was packed: codes `[inp]`, scales and minima `[inp/group]` (no minima: `m` stays as it is).
    pub(crate) fn get_row(&self, row: usize, codes: &mut [u8], d: &mut [f32], m: &mut [f32]) {
        let (shape, lane) = (self.shape(), row % LANES);
        let places: Vec<_> = (0..self.spec.group).map(|k| self.place(lane, k)).collect();
        let get = |from: &[u8]| match self.half {
            true => f16::from_le_bytes([from[lane * 2], from[lane * 2 + 1]]).to_f32(),
            false => f32::from_le_bytes(std::array::from_fn(|i| from[lane * 4 + i])),
        };
        let panel = &self.data.bytes()[row / LANES * shape.panel_bytes..][..shape.panel_bytes];
        for (g, group) in panel.chunks_exact(shape.code_step).take(shape.groups).enumerate() {
            for ((at, high), code) in places.iter().zip(&mut codes[g * self.spec.group..]) {
                *code = match (self.spec.bits, high) {
                    (4, false) => group[*at] & 15,
                    (4, true) => group[*at] >> 4,
                    _ => group[*at],
                };
            }
            d[g] = get(&group[shape.scale_at..]);
            if self.spec.min {
                m[g] = get(&group[shape.scale_at + shape.scale_bytes..]);
            }
        }
    }

    /// One row as `f32`: `d * (code - zero) + m`, the product and the sum each rounded, as ggml decodes it.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let groups = self.shape().groups;
        let (mut codes, mut d, mut m) = (vec![0u8; self.inp], vec![0f32; groups], vec![0f32; groups]);
        self.get_row(row, &mut codes, &mut d, &mut m);
        for (k, (out, code)) in out.iter_mut().zip(&codes).enumerate() {
            let g = k / self.spec.group;
            let scaled = d[g] * (i32::from(*code) - self.spec.zero) as f32;
            *out = if self.spec.min { scaled + m[g] } else { scaled };
        }
    }

    /// The rows of all parts, one below the other; they have the same spec and width.
    pub(crate) fn concat(parts: &[&Quant]) -> Option<Quant> {
        let first = parts.first()?;
        let mut rows = parts.iter().flat_map(|part| (0..part.out).map(move |row| (part, row)));
        let out = parts.iter().map(|part| part.out).sum();
        Some(Quant::pack(first.spec, out, first.inp, |_, codes, d, m| {
            if let Some((part, row)) = rows.next() {
                part.get_row(row, codes, d, m);
            }
        }))
    }
}

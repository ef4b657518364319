//! Tensors to what the forward pass computes with: packed matrices, and vectors of `f32`.

use std::borrow::Cow;
use std::sync::Mutex;

use cachalot_kernels::linear::Linear;
use candle_core::Device;
use candle_core::quantized::{QStorage, QTensor};
use half::{bf16, f16};

use super::WeightMode;
use super::blocks::{quant_spec, unpack_row};
use super::checkpoint::{Checkpoint, Raw};
use crate::ModelError;
use crate::gguf::GgmlType;

/// A tensor with numbers that are not finite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// Its name in the file.
    pub tensor: String,
    /// How many of its numbers (of a quantized tensor: scales and minima) are NaN or infinite.
    pub count: usize,
}

/// Reads tensors and notes what is odd about them.
pub(super) struct Weights<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) mode: WeightMode,
    pub(super) odd: Mutex<Vec<NonFinite>>,
}

/// From which row of the file each row comes.
pub(super) type Order<'o> = Option<&'o (dyn Fn(usize) -> usize + Sync)>;

impl Weights<'_> {
    /// A vector of `n` numbers.
    pub(super) fn vector(&self, name: &str, n: usize) -> Result<Vec<f32>, ModelError> {
        let raw = self.checkpoint.read(name, &[n])?;
        let values = self.floats(name, &raw, n)?;
        self.note(name, values.iter().filter(|v| !v.is_finite()).count());
        Ok(values)
    }

    /// A norm's weight.
    pub(super) fn norm(&self, name: &str, n: usize, plus_one: bool) -> Result<Vec<f32>, ModelError> {
        let mut values = self.vector(name, n)?;
        if plus_one {
            values.iter_mut().for_each(|v| *v += 1.0);
        }
        Ok(values)
    }

    /// A matrix `[out][inp]`, with the vector `bias` added where one is named.
    pub(super) fn matrix(
        &self,
        name: &str,
        bias: Option<&str>,
        out: usize,
        inp: usize,
        order: Order<'_>,
    ) -> Result<Linear, ModelError> {
        let raw = self.checkpoint.read(name, &[out, inp])?;
        let linear = match (self.mode, raw.kind) {
            (WeightMode::F32, _) | (_, GgmlType::F32) => {
                let w = reorder(self.floats(name, &raw, out * inp)?, inp, order);
                self.note(name, w.iter().filter(|v| !v.is_finite()).count());
                Linear::dense_f32(out, inp, &w)
            }
            (_, GgmlType::F16) => {
                let w = reorder(halves(&raw.bytes, f16::from_le_bytes), inp, order);
                self.note(name, w.iter().filter(|v| !v.is_finite()).count());
                Linear::dense_f16(out, inp, &w)
            }
            (_, GgmlType::Bf16) => {
                let w = reorder(halves(&raw.bytes, bf16::from_le_bytes), inp, order);
                self.note(name, w.iter().filter(|v| !v.is_finite()).count());
                Linear::dense_bf16(out, inp, &w)
            }
            (_, kind) => self.quantized(name, kind, &raw.bytes, out, inp, order)?,
        };
        match bias {
            None => Ok(linear),
            Some(bias) => Ok(linear.with_bias(reorder(self.vector(bias, out)?, 1, order))),
        }
    }

    fn quantized(
        &self,
        name: &str,
        kind: GgmlType,
        bytes: &[u8],
        out: usize,
        inp: usize,
        order: Order<'_>,
    ) -> Result<Linear, ModelError> {
        let spec = quant_spec(kind).filter(|_| inp > 0).ok_or_else(|| ModelError::Mismatch {
            tensor: name.into(),
            expected: "a quantized matrix".into(),
            found: format!("{} with rows of {inp}", kind.name()),
            path: self.checkpoint.path_of(name).into(),
        })?;
        let row_bytes = inp / kind.block_elements() * kind.block_bytes();
        let mut odd = 0;
        let linear = Linear::quantized(spec, out, inp, |row, codes, d, m| {
            let from = order.map_or(row, |o| o(row));
            let row = bytes.get(from * row_bytes..(from + 1) * row_bytes).unwrap_or_default();
            unpack_row(kind, row, codes, d, m);
            odd += d.iter().chain(m.iter()).filter(|v| !v.is_finite()).count();
        });
        self.note(name, odd);
        Ok(linear)
    }

    /// All numbers of a tensor, in the order of the file.
    fn floats(&self, name: &str, raw: &Raw, n: usize) -> Result<Vec<f32>, ModelError> {
        let bytes = &raw.bytes;
        Ok(match raw.kind {
            GgmlType::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            GgmlType::F16 => halves(bytes, |b| f16::from_le_bytes(b).to_f32()),
            GgmlType::Bf16 => halves(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            kind => {
                let read = || -> candle_core::Result<Vec<f32>> {
                    let storage = QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, kind.candle())?;
                    QTensor::new(storage, n)?.dequantize(&Device::Cpu)?.to_vec1()
                };
                read().map_err(|e| ModelError::Malformed {
                    path: self.checkpoint.path_of(name).into(),
                    section: format!("tensor data ({name})"),
                    offset: 0,
                    reason: e.to_string(),
                })?
            }
        })
    }

    /// Warns of numbers that will spoil every answer, but lets the model load: they may lie where nobody looks.
    fn note(&self, name: &str, count: usize) {
        if count == 0 {
            return;
        }
        let file = self.checkpoint.path_of(name).display();
        tracing::warn!(tensor = name, count, %file, "weights are NaN or infinite; answers may be nonsense");
        let mut odd = self.odd.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        odd.push(NonFinite { tensor: name.into(), count });
    }
}

fn halves<T>(bytes: &[u8], read: impl Fn([u8; 2]) -> T) -> Vec<T> {
    bytes.as_chunks::<2>().0.iter().map(|b| read(*b)).collect()
}

/// Rows of `width` in another order.
fn reorder<T: Copy>(values: Vec<T>, width: usize, order: Order<'_>) -> Vec<T> {
    let Some(order) = order else { return values };
    let rows = values.len() / width.max(1);
    (0..rows).flat_map(|row| values.iter().skip(order(row) * width).take(width).copied()).collect()
}

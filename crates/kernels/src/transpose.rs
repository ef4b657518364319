//! Rows to columns: what is decoded a channel at a time becomes a tile of tokens, and the other way round.

use crate::dispatch;
use crate::simd::{LANES, Portable, Simd};

/// Sixteen vectors, element by element.
type Square<S> = [<S as Simd>::F; LANES];

/// Turns a square.
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Turn: Simd {
    /// Lane `i` of vector `j` is lane `j` of vector `i` of `rows`.
    unsafe fn turn(rows: Square<Self>) -> Square<Self>;
}

impl Turn for Portable {
    #[inline(always)]
    unsafe fn turn(rows: Square<Portable>) -> Square<Portable> {
        std::array::from_fn(|j| std::array::from_fn(|i| rows[i][j]))
    }
}

#[cfg(target_arch = "x86_64")]
impl Turn for crate::simd::Avx2 {
    #[inline(always)]
    unsafe fn turn(rows: Square<Self>) -> Square<Self> {
        use std::arch::x86_64::*;
        // SAFETY: the features are the dispatcher's business.
        unsafe {
            let mut to = rows;
            for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                // No closures: they would be compiled without the features.
                let mut two = [_mm256_setzero_pd(); 8];
                for k in 0..4 {
                    let (x, y) = (rows[8 * i + 2 * k][j], rows[8 * i + 2 * k + 1][j]);
                    two[2 * k] = _mm256_castps_pd(_mm256_unpacklo_ps(x, y));
                    two[2 * k + 1] = _mm256_castps_pd(_mm256_unpackhi_ps(x, y));
                }
                let mut four = [_mm256_setzero_ps(); 8];
                for k in 0..4 {
                    let (x, y) = (two[4 * (k / 2) + k % 2], two[4 * (k / 2) + 2 + k % 2]);
                    four[4 * (k / 2) + 2 * (k % 2)] = _mm256_castpd_ps(_mm256_unpacklo_pd(x, y));
                    four[4 * (k / 2) + 2 * (k % 2) + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(x, y));
                }
                for k in 0..4 {
                    to[8 * j + k][i] = _mm256_permute2f128_ps::<0x20>(four[k], four[4 + k]);
                    to[8 * j + 4 + k][i] = _mm256_permute2f128_ps::<0x31>(four[k], four[4 + k]);
                }
            }
            to
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Turn for crate::simd::Avx512 {
    #[inline(always)]
    unsafe fn turn(rows: Square<Self>) -> Square<Self> {
        use std::arch::x86_64::*;
        // SAFETY: the features are the dispatcher's business.
        unsafe {
            // No closures: they would be compiled without the features.
            let mut two = [_mm512_setzero_pd(); LANES];
            for k in 0..LANES / 2 {
                let (x, y) = (rows[2 * k], rows[2 * k + 1]);
                two[2 * k] = _mm512_castps_pd(_mm512_unpacklo_ps(x, y));
                two[2 * k + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(x, y));
            }
            // Quarter `q` of vector `4 i + j` has column `4 q + j` of rows from `4 i`.
            let mut four = rows;
            for i in 0..LANES / 4 {
                for j in 0..2 {
                    let (x, y) = (two[4 * i + j], two[4 * i + 2 + j]);
                    four[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
                    four[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
                }
            }
            let mut to = rows;
            for j in 0..4 {
                let even = _mm512_shuffle_f32x4::<0x88>(four[j], four[4 + j]);
                let odd = _mm512_shuffle_f32x4::<0xdd>(four[j], four[4 + j]);
                let even_on = _mm512_shuffle_f32x4::<0x88>(four[8 + j], four[12 + j]);
                let odd_on = _mm512_shuffle_f32x4::<0xdd>(four[8 + j], four[12 + j]);
                to[j] = _mm512_shuffle_f32x4::<0x88>(even, even_on);
                to[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd, odd_on);
                to[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even, even_on);
                to[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_on);
            }
            to
        }
    }
}

dispatch! {
    /// `to[c * to_stride + r] += from[r * from_stride + c]` for `rows` and `columns`.
    ///
    /// # Panics
    /// If the slices are too short.
    pub fn add_transposed(from: &[f32], from_stride: usize, rows: usize, columns: usize, to: &mut [f32],
        to_stride: usize) = add_transposed_body
}

dispatch! {
    /// `to[c * to_stride + r] = from[r * from_stride + c] + 0.0` for `rows` and `columns`, both multiples of sixteen: as
    /// [`add_transposed`] to zeros.
    ///
    /// # Panics
    /// If they are not, or the slices are too short.
    pub fn write_transposed(from: &[f32], from_stride: usize, rows: usize, columns: usize, to: &mut [f32],
        to_stride: usize) = write_transposed_body
}

#[inline(always)]
unsafe fn write_transposed_body<S: Turn>(
    from: &[f32],
    from_stride: usize,
    rows: usize,
    columns: usize,
    to: &mut [f32],
    to_stride: usize,
) {
    assert!(rows.is_multiple_of(LANES) && columns.is_multiple_of(LANES));
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(from.len() >= (rows - 1) * from_stride + columns && to.len() >= (columns - 1) * to_stride + rows);
    // SAFETY: lengths asserted above.
    unsafe { squares::<S, false>(from.as_ptr(), from_stride, rows, columns, to.as_mut_ptr(), to_stride) };
}

/// Whole squares of sixteen rows and columns: added where `ADD`, else written as if added to zeros.
#[inline(always)]
unsafe fn squares<S: Turn, const ADD: bool>(
    from: *const f32,
    from_stride: usize,
    rows: usize,
    columns: usize,
    to: *mut f32,
    to_stride: usize,
) {
    for c in (0..columns).step_by(LANES) {
        for r in (0..rows).step_by(LANES) {
            // SAFETY: the caller's promise: the places of all rows and columns are there.
            unsafe {
                let from = from.add(r * from_stride + c);
                let mut square = [S::splat(0.0); LANES];
                for (i, row) in square.iter_mut().enumerate() {
                    *row = S::load(from.add(i * from_stride));
                }
                let turned = S::turn(square);
                for (j, &column) in turned.iter().enumerate() {
                    let to = to.add((c + j) * to_stride + r);
                    let before = if ADD { S::load(to) } else { S::splat(0.0) };
                    S::store(to, S::add(before, column));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn add_transposed_body<S: Turn>(
    from: &[f32],
    from_stride: usize,
    rows: usize,
    columns: usize,
    to: &mut [f32],
    to_stride: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(from.len() >= (rows - 1) * from_stride + columns && to.len() >= (columns - 1) * to_stride + rows);
    let (whole_rows, whole_columns) = (rows / LANES * LANES, columns / LANES * LANES);
    let (whole_from, whole_to) = (from.as_ptr(), to.as_mut_ptr());
    // SAFETY: lengths asserted above.
    unsafe { squares::<S, true>(whole_from, from_stride, whole_rows, whole_columns, whole_to, to_stride) };
    for r in 0..rows {
        let first = if r < whole_rows { whole_columns } else { 0 };
        for c in first..columns {
            to[c * to_stride + r] += from[r * from_stride + c];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn rows_become_columns() {
        for (rows, columns) in [(16, 16), (64, 64), (64, 72), (48, 21), (3, 5), (20, 33), (0, 4)] {
            let (from_stride, to_stride) = (columns + 2, rows + 3);
            let from: Vec<f32> = (0..rows * from_stride).map(|i| i as f32).collect();
            for isa in Isa::available() {
                let mut to = vec![0.5; columns * to_stride];
                add_transposed(isa, &from, from_stride, rows, columns, &mut to, to_stride);
                for (i, &x) in to.iter().enumerate() {
                    let (c, r) = (i / to_stride, i % to_stride);
                    let expected = if r < rows { (r * from_stride + c) as f32 } else { 0.0 };
                    assert_eq!(x, expected + 0.5, "{isa} {rows} {columns}: {r} {c}");
                }
                if rows % LANES == 0 && columns % LANES == 0 && rows > 0 {
                    let mut written = vec![0.5; columns * to_stride];
                    write_transposed(isa, &from, from_stride, rows, columns, &mut written, to_stride);
                    let same = written
                        .iter()
                        .zip(&to)
                        .enumerate()
                        .all(|(i, (a, b))| if i % to_stride < rows { a + 0.5 == *b } else { a == b });
                    assert!(same, "{isa} {rows} {columns}");
                }
            }
        }
    }
}

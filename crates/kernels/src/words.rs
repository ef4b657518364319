//! Rows of words from codebooks (product quantization), sixteen channels of a token at a time, or a channel of a page's
//! tokens at a time where words are few: see [`crate::lookup`] for tables of products.

use crate::attention::PAGE_TOKENS;
use crate::columns::{DIRECT_ROWS, Scores, Sink, Tile, VECTORS};
use crate::dispatch;
use crate::planes::Planes;
use crate::simd::{LANES, Portable, Simd};
use crate::transpose::Turn;

/// Words of a sub-space whose numbers fill a byte.
const BYTE: usize = 256;

/// A page's words.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// `[sub-spaces][each][dims]`.
    pub words: &'a [f32],
    /// Words of a sub-space.
    pub each: usize,
    /// Channels of a sub-space: two, four, eight or sixteen.
    pub dims: usize,
    /// Which, `[sub-spaces][PAGE_TOKENS]`.
    pub codes: &'a [u16],
    /// Channels, a multiple of sixteen.
    pub channels: usize,
}

impl Words<'_> {
    fn assert(&self, width: usize) {
        let subspaces = self.channels / self.dims;
        assert!(matches!(self.dims, 2 | 4 | 8 | 16) && self.channels.is_multiple_of(LANES) && self.channels <= width);
        assert!(self.words.len() >= self.each * self.channels && self.codes.len() == subspaces * PAGE_TOKENS);
        let last = self.codes.iter().fold(0, |last, &code| code.max(last));
        assert!(usize::from(last) < self.each, "word {last} of {}", self.each);
    }
}

/// Puts words side by side.
#[allow(clippy::missing_safety_doc)]
trait Row: Turn {
    /// Words of `D` channels, sixteen in all, of sub-spaces `stride` elements apart, by numbers [`PAGE_TOKENS`] apart.
    unsafe fn row<const D: usize>(words: *const f32, stride: usize, codes: *const u16) -> Self::F;
}

/// The `i`-th word of a row.
#[inline(always)]
unsafe fn word<const D: usize>(words: *const f32, stride: usize, codes: *const u16, i: usize) -> *const f32 {
    // SAFETY: by the contract.
    unsafe { words.add(i * stride + D * usize::from(*codes.add(i * PAGE_TOKENS))) }
}

impl Row for Portable {
    #[inline(always)]
    unsafe fn row<const D: usize>(words: *const f32, stride: usize, codes: *const u16) -> Self::F {
        // SAFETY: by the contract.
        std::array::from_fn(|c| unsafe { *word::<D>(words, stride, codes, c / D).add(c % D) })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Row, word};
    use crate::simd::{Avx2, Avx512};
    use std::arch::x86_64::*;

    /// Four channels, the `i`-th of a row.
    #[inline(always)]
    unsafe fn four<const D: usize>(words: *const f32, stride: usize, codes: *const u16, i: usize) -> __m128 {
        // SAFETY: by the contract.
        unsafe {
            if D == 2 {
                let low = _mm_load_sd(word::<D>(words, stride, codes, 2 * i).cast());
                return _mm_castpd_ps(_mm_loadh_pd(low, word::<D>(words, stride, codes, 2 * i + 1).cast()));
            }
            _mm_loadu_ps(word::<D>(words, stride, codes, 4 * i / D).add(4 * i % D))
        }
    }

    /// Eight channels.
    #[inline(always)]
    unsafe fn eight<const D: usize>(words: *const f32, stride: usize, codes: *const u16, i: usize) -> __m256 {
        // SAFETY: by the contract.
        unsafe {
            if D >= 8 {
                return _mm256_loadu_ps(word::<D>(words, stride, codes, 8 * i / D).add(8 * i % D));
            }
            let low = _mm256_castps128_ps256(four::<D>(words, stride, codes, 2 * i));
            _mm256_insertf128_ps::<1>(low, four::<D>(words, stride, codes, 2 * i + 1))
        }
    }

    impl Row for Avx2 {
        #[inline(always)]
        unsafe fn row<const D: usize>(words: *const f32, stride: usize, codes: *const u16) -> Self::F {
            // SAFETY: by the contract.
            unsafe { [eight::<D>(words, stride, codes, 0), eight::<D>(words, stride, codes, 1)] }
        }
    }

    impl Row for Avx512 {
        #[inline(always)]
        unsafe fn row<const D: usize>(words: *const f32, stride: usize, codes: *const u16) -> Self::F {
            // SAFETY: by the contract.
            unsafe {
                if D == 16 {
                    return _mm512_loadu_ps(word::<D>(words, stride, codes, 0));
                }
                let low = _mm512_castps256_ps512(eight::<D>(words, stride, codes, 0));
                _mm512_insertf32x8::<1>(low, eight::<D>(words, stride, codes, 1))
            }
        }
    }
}

/// Sixteen channels of the token `t`, from the channel `c`, as sums that begin with zero.
#[inline(always)]
unsafe fn row<S: Row, const D: usize>(words: &Words<'_>, c: usize, t: usize) -> S::F {
    // SAFETY: `Words::assert` says that all words are there.
    unsafe {
        let codes = words.codes.as_ptr().add(c / D * PAGE_TOKENS + t);
        S::add(S::row::<D>(words.words.as_ptr().add(c * words.each), D * words.each, codes), S::splat(0.0))
    }
}

/// Calls a function of `D`.
macro_rules! of_dims {
    ($words:expr, $f:ident::<S $(, $r:tt)?>($($arg:expr),*)) => {
        // SAFETY: lengths were asserted.
        unsafe {
            match $words.dims {
                2 => $f::<S, 2 $(, $r)?>($($arg),*),
                4 => $f::<S, 4 $(, $r)?>($($arg),*),
                8 => $f::<S, 8 $(, $r)?>($($arg),*),
                _ => $f::<S, 16 $(, $r)?>($($arg),*),
            }
        }
    };
}

dispatch! {
    /// **Adds** `Σ weight · value` to `out`, `[rows][width]`, for at most [`DIRECT_ROWS`] rows of `weights`,
    /// `[rows][PAGE_TOKENS]`: the sums of [`crate::attention::accumulate_page`] over what [`write_rows`] writes.
    ///
    /// # Panics
    /// If the slices are too short, the rows too many or a number is beyond the words.
    pub fn accumulate(words: Words<'_>, weights: &[f32], rows: usize, width: usize, out: &mut [f32]) = accumulate_body
}

#[inline(always)]
unsafe fn accumulate_body<S: Row>(words: Words<'_>, weights: &[f32], rows: usize, width: usize, out: &mut [f32]) {
    words.assert(width);
    assert!(rows <= DIRECT_ROWS && weights.len() >= rows * PAGE_TOKENS && out.len() >= rows * width);
    match rows {
        0 => {}
        1 => of_dims!(words, accumulate_rows::<S, 1>(&words, weights, width, out)),
        2 => of_dims!(words, accumulate_rows::<S, 2>(&words, weights, width, out)),
        3 => of_dims!(words, accumulate_rows::<S, 3>(&words, weights, width, out)),
        _ => of_dims!(words, accumulate_rows::<S, 4>(&words, weights, width, out)),
    }
}

#[inline(always)]
unsafe fn accumulate_rows<S: Row, const D: usize, const R: usize>(
    words: &Words<'_>,
    weights: &[f32],
    width: usize,
    out: &mut [f32],
) {
    for c in (0..words.channels).step_by(LANES) {
        // SAFETY: there are R rows.
        unsafe {
            let mut sums = [S::splat(0.0); R];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = S::load(out.as_ptr().add(r * width + c));
            }
            for t in 0..PAGE_TOKENS {
                let x = row::<S, D>(words, c, t);
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(S::splat(*weights.as_ptr().add(r * PAGE_TOKENS + t)), x, *sum);
                }
            }
            for (r, &sum) in sums.iter().enumerate() {
                S::store(out.as_mut_ptr().add(r * width + c), sum);
            }
        }
    }
}

dispatch! {
    /// Writes `[PAGE_TOKENS][width]`, zeros and the words.
    ///
    /// # Panics
    /// As [`accumulate`].
    pub fn write_rows(words: Words<'_>, to: &mut [f32], width: usize) = write_rows_body
}

#[inline(always)]
unsafe fn write_rows_body<S: Row>(words: Words<'_>, to: &mut [f32], width: usize) {
    words.assert(width);
    assert!(to.len() >= PAGE_TOKENS * width);
    of_dims!(words, write_rows_of::<S>(&words, to, width));
}

#[inline(always)]
unsafe fn write_rows_of<S: Row, const D: usize>(words: &Words<'_>, to: &mut [f32], width: usize) {
    for c in (0..words.channels).step_by(LANES) {
        for t in 0..PAGE_TOKENS {
            // SAFETY: there is room for all tokens.
            unsafe { S::store(to.as_mut_ptr().add(t * width + c), row::<S, D>(words, c, t)) };
        }
    }
}

/// Gives every channel.
#[inline(always)]
unsafe fn each<S: Row, const D: usize, K: Sink<S>>(words: &Words<'_>, sink: &mut K) {
    for c in (0..words.channels).step_by(LANES) {
        for v in 0..VECTORS {
            // SAFETY: by the contract.
            unsafe {
                let mut square = [S::splat(0.0); LANES];
                for (i, x) in square.iter_mut().enumerate() {
                    *x = row::<S, D>(words, c, v * LANES + i);
                }
                sink.take(v, c, &S::turn(square));
            }
        }
    }
}

dispatch! {
    /// **Adds** to `scores`, `[rows][PAGE_TOKENS]`, the products with queries `[rows][width]`, at most [`DIRECT_ROWS`]: those of
    /// [`crate::columns::score`] with what [`write`] writes.
    ///
    /// # Panics
    /// As [`accumulate`].
    pub fn score(words: Words<'_>, q: &[f32], width: usize, scores: &mut [f32]) = score_body
}

#[inline(always)]
unsafe fn score_body<S: Row>(words: Words<'_>, q: &[f32], width: usize, scores: &mut [f32]) {
    let rows = q.len() / width;
    words.assert(width);
    assert!(rows <= DIRECT_ROWS && scores.len() >= rows * PAGE_TOKENS);
    match rows {
        0 => {}
        1 => of_dims!(words, score_rows::<S, 1>(&words, q, width, scores)),
        2 => of_dims!(words, score_rows::<S, 2>(&words, q, width, scores)),
        3 => of_dims!(words, score_rows::<S, 3>(&words, q, width, scores)),
        _ => of_dims!(words, score_rows::<S, 4>(&words, q, width, scores)),
    }
}

#[inline(always)]
unsafe fn score_rows<S: Row, const D: usize, const R: usize>(
    words: &Words<'_>,
    q: &[f32],
    width: usize,
    scores: &mut [f32],
) {
    // SAFETY: there are R rows.
    unsafe {
        let mut sink = Scores::<S, R>::new(q.as_ptr(), width);
        each::<S, D, _>(words, &mut sink);
        sink.add_to(scores.as_mut_ptr());
    }
}

dispatch! {
    /// Writes `[channels][PAGE_TOKENS]`, zeros and the words.
    ///
    /// # Panics
    /// As [`accumulate`].
    pub fn write(words: Words<'_>, to: &mut [f32]) = write_body
}

#[inline(always)]
unsafe fn write_body<S: Row>(words: Words<'_>, to: &mut [f32]) {
    words.assert(to.len() / PAGE_TOKENS);
    of_dims!(words, write_of::<S>(&words, to));
}

#[inline(always)]
unsafe fn write_of<S: Row, const D: usize>(words: &Words<'_>, to: &mut [f32]) {
    // SAFETY: there is room for all channels.
    unsafe { each::<S, D, _>(words, &mut Tile(to.as_mut_ptr())) }
}

/// Elements of 256 words, channel by channel, in halves of sixteen bits that are looked up within registers.
#[derive(Clone, Debug)]
pub struct Halves {
    /// `[channels][high, low][256]`.
    halves: Vec<[[u16; BYTE]; 2]>,
    dims: usize,
}

impl Halves {
    /// From words `[sub-spaces][256][dims]`.
    pub fn new(words: &[f32], dims: usize) -> Halves {
        let of = |share: &[f32], j: usize| {
            let bits: [u32; BYTE] = std::array::from_fn(|i| share[i * dims + j].to_bits());
            [bits.map(|x| (x >> 16) as u16), bits.map(|x| x as u16)]
        };
        let halves = words.chunks_exact(BYTE * dims).flat_map(|share| (0..dims).map(move |j| of(share, j))).collect();
        Halves { halves, dims }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        4 * BYTE * self.halves.len()
    }

    fn channels(&self) -> usize {
        self.halves.len()
    }
}

/// Looks elements up.
#[allow(clippy::missing_safety_doc)]
trait Look: Planes {
    /// What [`Look::look`] makes of numbers once.
    type At: Copy;
    /// The numbers of a page's tokens.
    unsafe fn at(codes: *const u8) -> Self::At;
    /// Elements of a page's tokens.
    unsafe fn look(halves: &[[u16; BYTE]; 2], at: Self::At) -> [Self::F; VECTORS];
}

impl Look for Portable {
    type At = [u8; PAGE_TOKENS];
    #[inline(always)]
    unsafe fn at(codes: *const u8) -> Self::At {
        // SAFETY: by the contract.
        unsafe { codes.cast::<Self::At>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn look([high, low]: &[[u16; BYTE]; 2], at: Self::At) -> [Self::F; VECTORS] {
        let element =
            |code: u8| f32::from_bits(u32::from(high[usize::from(code)]) << 16 | u32::from(low[usize::from(code)]));
        std::array::from_fn(|v| std::array::from_fn(|i| element(at[v * LANES + i])))
    }
}

#[cfg(target_arch = "x86_64")]
impl Look for crate::simd::Avx2 {
    type At = [u8; PAGE_TOKENS];
    #[inline(always)]
    unsafe fn at(codes: *const u8) -> Self::At {
        // SAFETY: by the contract.
        unsafe { codes.cast::<Self::At>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn look([high, low]: &[[u16; BYTE]; 2], at: Self::At) -> [Self::F; VECTORS] {
        let mut whole = [0u32; PAGE_TOKENS];
        for (to, &code) in whole.iter_mut().zip(&at) {
            *to = u32::from(high[usize::from(code)]) << 16 | u32::from(low[usize::from(code)]);
        }
        // SAFETY: there are four vectors of elements.
        unsafe {
            let mut vectors = [Self::splat(0.0); VECTORS];
            for (v, to) in vectors.iter_mut().enumerate() {
                *to = Self::load(whole.as_ptr().add(v * LANES).cast());
            }
            vectors
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{BYTE, Look};
    use crate::simd::Avx512;
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub struct At {
        /// Numbers as words, of which six bits are looked at.
        words: [__m512i; 2],
        /// The two bits above them.
        bits: [[__mmask32; 2]; 2],
    }

    impl Look for Avx512 {
        type At = At;
        #[inline(always)]
        unsafe fn at(codes: *const u8) -> At {
            // SAFETY: by the contract.
            unsafe {
                // In such an order that words of one half, unpacked, are sixteen tokens and the sixteen after them.
                let order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
                let codes = _mm512_permutexvar_epi32(order, _mm512_loadu_si512(codes.cast()));
                let low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(codes));
                let high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64::<1>(codes));
                let six = _mm512_test_epi8_mask(codes, _mm512_set1_epi8(64));
                let seven = _mm512_movepi8_mask(codes);
                let bits = [[six as u32, seven as u32], [(six >> 32) as u32, (seven >> 32) as u32]];
                At { words: [low, high], bits }
            }
        }
        #[inline(always)]
        unsafe fn look(halves: &[[u16; BYTE]; 2], at: At) -> [__m512; 4] {
            // SAFETY: there are eight vectors of words in each half.
            unsafe {
                let mut found = [[_mm512_setzero_si512(); 2]; 2];
                for (table, found) in halves.iter().zip(&mut found) {
                    let mut four = [[_mm512_setzero_si512(); 2]; 4];
                    for (i, four) in four.iter_mut().enumerate() {
                        let low = _mm512_loadu_si512(table.as_ptr().add(64 * i).cast());
                        let high = _mm512_loadu_si512(table.as_ptr().add(64 * i + 32).cast());
                        *four = [
                            _mm512_permutex2var_epi16(low, at.words[0], high),
                            _mm512_permutex2var_epi16(low, at.words[1], high),
                        ];
                    }
                    for h in 0..2 {
                        let low = _mm512_mask_blend_epi16(at.bits[h][0], four[0][h], four[1][h]);
                        let high = _mm512_mask_blend_epi16(at.bits[h][0], four[2][h], four[3][h]);
                        found[h] = _mm512_mask_blend_epi16(at.bits[h][1], low, high);
                    }
                }
                let mut whole = [_mm512_setzero_ps(); 4];
                for h in 0..2 {
                    whole[2 * h] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(found[1][h], found[0][h]));
                    whole[2 * h + 1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(found[1][h], found[0][h]));
                }
                whole
            }
        }
    }
}

/// Gives every channel of numbers `[sub-spaces][PAGE_TOKENS]`.
#[inline(always)]
unsafe fn each_half<S: Look, K: Sink<S>>(halves: &Halves, codes: &[u8], sink: &mut K) {
    assert!(codes.len() >= halves.channels() / halves.dims * PAGE_TOKENS);
    for (m, share) in halves.halves.chunks_exact(halves.dims).enumerate() {
        // SAFETY: there are numbers of all sub-spaces.
        unsafe {
            let at = S::at(codes.as_ptr().add(m * PAGE_TOKENS));
            for (j, halves) in share.iter().enumerate() {
                let found = S::look(halves, at);
                let (zero, c) = (S::splat(0.0), m * share.len() + j);
                // One by one: where sums are kept in registers depends on it.
                sink.take(0, c, &[S::add(found[0], zero)]);
                sink.take(1, c, &[S::add(found[1], zero)]);
                sink.take(2, c, &[S::add(found[2], zero)]);
                sink.take(3, c, &[S::add(found[3], zero)]);
            }
        }
    }
}

dispatch! {
    /// As [`score`], by numbers of a byte, `[sub-spaces][PAGE_TOKENS]`.
    ///
    /// # Panics
    /// If the slices are too short or the rows too many.
    pub fn score_halves(halves: &Halves, codes: &[u8], q: &[f32], width: usize, scores: &mut [f32]) = score_halves_body
}

#[inline(always)]
unsafe fn score_halves_body<S: Look>(halves: &Halves, codes: &[u8], q: &[f32], width: usize, scores: &mut [f32]) {
    let rows = q.len() / width;
    assert!(halves.channels() <= width && rows <= DIRECT_ROWS && scores.len() >= rows * PAGE_TOKENS);
    // SAFETY: lengths asserted above.
    unsafe {
        match rows {
            0 => {}
            1 => score_half_rows::<S, 1>(halves, codes, q, width, scores),
            2 => score_half_rows::<S, 2>(halves, codes, q, width, scores),
            3 => score_half_rows::<S, 3>(halves, codes, q, width, scores),
            _ => score_half_rows::<S, 4>(halves, codes, q, width, scores),
        }
    }
}

#[inline(always)]
unsafe fn score_half_rows<S: Look, const R: usize>(
    halves: &Halves,
    codes: &[u8],
    q: &[f32],
    width: usize,
    scores: &mut [f32],
) {
    // SAFETY: there are R rows.
    unsafe {
        let mut sink = Scores::<S, R>::new(q.as_ptr(), width);
        each_half::<S, _>(halves, codes, &mut sink);
        sink.add_to(scores.as_mut_ptr());
    }
}

dispatch! {
    /// As [`write`], by numbers of a byte, `[sub-spaces][PAGE_TOKENS]`.
    ///
    /// # Panics
    /// If the slices are too short.
    pub fn write_halves(halves: &Halves, codes: &[u8], to: &mut [f32]) = write_halves_body
}

#[inline(always)]
unsafe fn write_halves_body<S: Look>(halves: &Halves, codes: &[u8], to: &mut [f32]) {
    assert!(to.len() >= halves.channels() * PAGE_TOKENS);
    // SAFETY: lengths asserted above.
    unsafe { each_half::<S, _>(halves, codes, &mut Tile(to.as_mut_ptr())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::attention::{Element, Visible, accumulate_page};
    use crate::columns;

    #[test]
    fn words_lie_where_their_numbers_say() {
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (dims, each, channels) in
            [(2usize, 256usize, 64usize), (4, 256, 48), (4, 4096, 16), (8, 16, 64), (16, 40, 32)]
        {
            let words: Vec<f32> = (0..each * channels).map(|i| (i * 7919 % 1009) as f32 / 500.0 - 1.0).collect();
            let codes: Vec<u16> = (0..channels / dims * PAGE_TOKENS).map(|i| (i * i * 31 % each) as u16).collect();
            let width = channels + LANES;
            let mut rows = vec![0.0; PAGE_TOKENS * width];
            let mut columns = vec![0.0; channels * PAGE_TOKENS];
            for (t, row) in rows.chunks_exact_mut(width).enumerate() {
                for (c, x) in row[..channels].iter_mut().enumerate() {
                    let code = usize::from(codes[c / dims * PAGE_TOKENS + t]);
                    *x = words[(c / dims * each + code) * dims + c % dims] + 0.0;
                    columns[c * PAGE_TOKENS + t] = *x;
                }
            }
            let x: Vec<f32> = (0..4 * PAGE_TOKENS + 4 * width).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
            let mut products = vec![0.5; 4 * PAGE_TOKENS];
            columns::score(Isa::Portable, &x[..4 * width], width, &columns, channels, &mut products);
            let mut sums = vec![0.5; 4 * width];
            let bytes: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
            let visible = [Visible { from: 0, to: 64 }; 4];
            accumulate_page(Isa::Portable, &x, &bytes, Element::F32, width, &visible, &mut sums);
            let of = Words { words: &words, each, dims, codes: &codes, channels };
            for isa in Isa::available() {
                let mut to = vec![0.0; PAGE_TOKENS * width];
                write_rows(isa, of, &mut to, width);
                assert_eq!(bits(&to), bits(&rows), "{isa} {dims}");
                let mut to = vec![f32::NAN; PAGE_TOKENS * channels];
                write(isa, of, &mut to);
                assert_eq!(bits(&to), bits(&columns), "{isa} {dims}");
                for n in 1..=4 {
                    let mut out = vec![0.5; n * width];
                    accumulate(isa, of, &x, n, width, &mut out);
                    assert_eq!(bits(&out), bits(&sums[..n * width]), "{isa} {dims} {n}");
                    let mut scores = vec![0.5; n * PAGE_TOKENS];
                    score(isa, of, &x[..n * width], width, &mut scores);
                    assert_eq!(bits(&scores), bits(&products[..n * PAGE_TOKENS]), "{isa} {dims} {n}");
                }
                if each == BYTE {
                    let halves = Halves::new(&words, dims);
                    let codes: Vec<u8> = codes.iter().map(|&code| code as u8).collect();
                    let mut to = vec![f32::NAN; PAGE_TOKENS * channels];
                    write_halves(isa, &halves, &codes, &mut to);
                    assert_eq!(bits(&to), bits(&columns), "{isa} {dims}");
                    for n in 1..=4 {
                        let mut scores = vec![0.5; n * PAGE_TOKENS];
                        score_halves(isa, &halves, &codes, &x[..n * width], width, &mut scores);
                        assert_eq!(bits(&scores), bits(&products[..n * PAGE_TOKENS]), "{isa} {dims} {n}");
                    }
                }
            }
        }
    }
}

//! Products with packed codes against f64 arithmetic of the documented formula, and their promise: the same bits for a
//! row on every instruction set, whatever rows travel with it.

use cachalot_kernels::Isa;
use cachalot_kernels::codes::*;
use proptest::prelude::*;

/// A matrix with everything a grid may have; `None` leaves a part of the grid out.
#[derive(Clone, Debug)]
struct Matrix {
    reduce_groups: Vec<usize>,
    lane_groups: Vec<usize>,
    zero: u8,
    levels: Vec<u8>,
    fold_scale: Vec<f32>,
    fold_offset: Vec<f32>,
    lane_scale: Vec<f32>,
    lane_offset: Vec<f32>,
}

impl Matrix {
    fn grid(&self) -> Grid<'_> {
        Grid {
            reduce: self.reduce(),
            lanes: self.lanes(),
            zero: self.zero,
            reduce_groups: &self.reduce_groups,
            lane_groups: &self.lane_groups,
            fold_scale: &self.fold_scale,
            fold_offset: &self.fold_offset,
            lane_scale: &self.lane_scale,
            lane_offset: &self.lane_offset,
        }
    }

    fn reduce(&self) -> usize {
        self.reduce_groups.last().copied().unwrap_or(0)
    }

    fn lanes(&self) -> usize {
        self.lane_groups.last().copied().unwrap_or(0)
    }

    fn level(&self, r: usize, l: usize) -> f64 {
        f64::from(self.levels[(r / 4 * self.lanes() + l) * 4 + r % 4]) - f64::from(self.zero)
    }

    fn group(ends: &[usize], i: usize) -> usize {
        ends.iter().take_while(|end| **end <= i).count()
    }

    /// Row `x` times lane `l` in f64, and how far sixteen-bit arithmetic may be from it.
    ///
    /// With `u = 2^-24`: `y` is rounded once, `d` and `1/d` once each, the quotient once and then to an integer, so
    /// `|code * d - y| <= max|y| (1/65024 + 4u)`, or `max|y|` itself where that is below `32512 / f32::MAX` and the codes
    /// are zero. Each such error is multiplied with one level. The integer sum is exact; bringing it to `f32`, the sums
    /// of offsets (at most 16 steps and a tree of 4) and the last steps round at most 32 times, each by `u` of what is
    /// summed, in absolute values.
    fn product(&self, x: &[f32], l: usize, start: f32) -> (f64, f64) {
        let u = 2f64.powi(-24);
        let fold_group = Self::group(&self.lane_groups, l);
        let (mut total, mut slack, mut size) = (f64::from(start), 0.0, f64::from(start).abs());
        let mut from = 0;
        for (rg, &end) in self.reduce_groups.iter().enumerate() {
            let part = |of: &[f32], at: usize, none: f64| of.get(at).map_or(none, |s| f64::from(*s));
            let lane_scale = part(&self.lane_scale, rg * self.lanes() + l, 1.0);
            let lane_offset = part(&self.lane_offset, rg * self.lanes() + l, 0.0);
            let (mut largest, mut levels) = (0f64, 0.0);
            for r in from..end {
                let scale = part(&self.fold_scale, fold_group * self.reduce() + r, 1.0);
                let offset = part(&self.fold_offset, fold_group * self.reduce() + r, 0.0);
                let (x, level) = (f64::from(x[r]), self.level(r, l));
                let terms = [lane_scale * scale * level * x, lane_scale * offset * x, lane_offset * scale * x];
                total += terms.iter().sum::<f64>();
                size += terms.iter().map(|t| t.abs()).sum::<f64>();
                largest = largest.max((x * scale).abs());
                levels += level.abs();
            }
            let rounding = if largest < 1e-34 { largest } else { largest * (1.0 / 65024.0 + 4.0 * u) };
            slack += lane_scale.abs() * levels * rounding;
            from = end;
        }
        // Sums of subnormal numbers are rounded to multiples of 2^-149.
        (total, slack + (32 + 3 * self.reduce_groups.len()) as f64 * (u * size + 2f64.powi(-149)))
    }
}

/// Deterministic values in -1..1.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Ends of groups of `size`; of sizes that differ where it is zero.
fn ends(total: usize, unit: usize, size: usize, seed: u64) -> Vec<usize> {
    let (mut end, mut ends) = (0, Vec::new());
    while end < total {
        let odd = unit * (1 + (seed as usize + 7 * ends.len()) % 9);
        end = (end + if size == 0 { odd } else { size }).min(total);
        ends.push(end);
    }
    ends
}

fn matrix() -> impl Strategy<Value = Matrix> {
    let bits = prop_oneof![Just(1u32), Just(2), Just(3), Just(4), Just(8)];
    let reduce = prop_oneof![Just(64usize), Just(128), (4usize..=64).prop_map(|q| 4 * q), Just(320)];
    let (group_r, group_l) = (0usize..5, 0usize..4);
    (reduce, 1usize..=16, group_r, group_l, bits, 0u8..16, any::<u8>(), any::<u64>()).prop_map(
        |(reduce, vectors, group_r, group_l, bits, present, zero, seed)| {
            let lanes = 16 * vectors;
            let reduce_groups = ends(reduce, 4, [256, 64, 32, 16, 0][group_r], seed % 1000);
            let lane_groups = ends(lanes, 16, [256, 32, 16, 0][group_l], seed % 997);
            let (fold, lane) = (lane_groups.len() * reduce, reduce_groups.len() * lanes);
            let part = |bit: u8, n: usize, scale: f32| {
                let n = if present >> bit & 1 == 1 { n } else { 0 };
                noise(seed ^ u64::from(bit) << 40, n).iter().map(|x| x * scale).collect()
            };
            let mask = u8::MAX >> (8 - bits);
            let levels = noise(seed ^ 77, reduce * lanes).iter().map(|x| ((x + 1.0) * 128.0) as u8 & mask).collect();
            Matrix {
                fold_scale: part(0, fold, 0.1),
                fold_offset: part(1, fold, 2.0),
                lane_scale: part(2, lane, 0.3),
                lane_offset: part(3, lane, 5.0),
                zero: zero & mask,
                reduce_groups,
                lane_groups,
                levels,
            }
        },
    )
}

/// Rows of many kinds: ordinary, zero, constant, huge, tiny, subnormal, with one outlier.
fn vectors(seed: u64, rows: usize, reduce: usize) -> Vec<f32> {
    let row = |row: usize| {
        let mut x = noise(seed ^ (row as u64) << 32, reduce);
        match (row + seed as usize) % 8 {
            3 => x.fill(0.0),
            4 => x.fill(-0.7),
            5 => x.iter_mut().for_each(|x| *x *= 1e25),
            6 => x.iter_mut().for_each(|x| *x *= [1e-30, 1e-36, 1e-40][seed as usize / 8 % 3]),
            7 => x[reduce / 2] = 3e4,
            _ => {}
        }
        x
    };
    (0..rows).flat_map(row).collect()
}

fn product(isa: Isa, m: &Matrix, x: &[f32], out: &[f32]) -> Vec<f32> {
    multiplied(isa, m, Codes::Levels(&m.levels), Given::Plain { x, stride: m.reduce() }, x.len() / m.reduce(), out)
}

fn multiplied(isa: Isa, m: &Matrix, codes: Codes<'_>, given: Given<'_>, rows: usize, out: &[f32]) -> Vec<f32> {
    let mut out = out.to_vec();
    multiply(isa, &m.grid(), codes, given, rows, &mut Scratch::default(), &mut out, m.lanes());
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn products_are_those_of_the_formula_and_the_same_bits_everywhere(
        m in matrix(), rows in prop_oneof![1usize..9, 9usize..40], seed in any::<u64>(),
    ) {
        let x = vectors(seed, rows, m.reduce());
        let start = noise(seed ^ 5, rows * m.lanes());
        let oracle = product(Isa::Portable, &m, &x, &start);
        for (i, got) in oracle.iter().enumerate() {
            let (row, l) = (i / m.lanes(), i % m.lanes());
            let (want, bound) = m.product(&x[row * m.reduce()..][..m.reduce()], l, start[i]);
            prop_assert!((f64::from(*got) - want).abs() <= bound, "row {} lane {}: {} {} {}", row, l, got, want, bound);
        }
        for isa in Isa::available() {
            prop_assert!(bits(&product(isa, &m, &x, &start)) == bits(&oracle), "{}", isa);
            for row in 0..rows {
                let own = row * m.lanes()..(row + 1) * m.lanes();
                let alone = product(isa, &m, &x[row * m.reduce()..][..m.reduce()], &start[own.clone()]);
                prop_assert!(bits(&alone) == bits(&oracle[own]), "row {} alone on {}", row, isa);
            }
        }
    }

    #[test]
    fn packed_codes_and_rounded_rows_give_the_same_bits(
        m in matrix(), width in 0usize..7, table in any::<Option<[u8; 16]>>(), rows in prop_oneof![1usize..9, 9usize..40],
        seed in any::<u64>(),
    ) {
        let bits_of = [Bits::B1, Bits::B2, Bits::B3, Bits::B4, Bits::B5, Bits::B6, Bits::B8][width];
        let table = table.as_ref().filter(|_| bits_of <= Bits::B4);
        let count = m.levels.len().next_multiple_of(512);
        let mask = u8::MAX >> (8 - bits_of.count());
        let codes: Vec<u8> = noise(seed ^ 9, count).iter().map(|x| ((x + 1.0) * 128.0) as u8 & mask).collect();
        let mut packed = vec![0; packed_bytes(bits_of, count)];
        pack(bits_of, &codes, &mut packed);
        let level = |&code: &u8| table.map_or(code, |table| table[usize::from(code)]);
        let m = Matrix { levels: codes[..m.levels.len()].iter().map(level).collect(), ..m };
        let x = vectors(seed, rows, m.reduce());
        let start = noise(seed ^ 5, rows * m.lanes());
        let oracle = product(Isa::Portable, &m, &x, &start);
        let plain = Given::Plain { x: &x, stride: m.reduce() };
        for isa in Isa::available() {
            let packed = Codes::Packed { bits: bits_of, packed: &packed, table };
            let read = reads_packed(isa, &m.grid(), rows);
            if read {
                prop_assert!(bits(&multiplied(isa, &m, packed, plain, rows, &start)) == bits(&oracle), "{}", isa);
            }
            if m.lane_groups.len() == 1 || m.fold_scale.is_empty() && m.fold_offset.is_empty() {
                let mut state = Vec::new();
                round(isa, &m.grid(), &x, m.reduce(), rows, &mut state);
                let given = Given::Rounded(&state);
                let levels = Codes::Levels(&m.levels);
                prop_assert!(bits(&multiplied(isa, &m, levels, given, rows, &start)) == bits(&oracle), "{}", isa);
                if read {
                    prop_assert!(bits(&multiplied(isa, &m, packed, given, rows, &start)) == bits(&oracle), "{}", isa);
                }
            }
        }
    }

    #[test]
    fn codes_of_pairs_give_the_bits_of_their_levels(
        m in matrix(), apart in any::<bool>(), normal in any::<[u8; 16]>(), outlier in any::<[u8; 16]>(), victim in 0u8..16,
        rows in 1usize..9, seed in any::<u64>(),
    ) {
        let distance = if apart { 4 } else { 1 };
        let count = m.levels.len().next_multiple_of(512);
        let codes: Vec<u8> = noise(seed ^ 9, count).iter().map(|x| ((x + 1.0) * 128.0) as u8 & 15).collect();
        let mut packed = vec![0; packed_bytes(Bits::B4, count)];
        pack(Bits::B4, &codes, &mut packed);
        let level = |i: usize| if codes[i ^ distance] == victim { outlier } else { normal }[usize::from(codes[i])];
        let m = Matrix { levels: (0..m.levels.len()).map(level).collect(), ..m };
        let x = vectors(seed, rows, m.reduce());
        let start = noise(seed ^ 5, rows * m.lanes());
        let oracle = product(Isa::Portable, &m, &x, &start);
        for isa in Isa::available() {
            if reads_packed(isa, &m.grid(), rows) {
                let pairs = Codes::Pairs { packed: &packed, distance, normal: &normal, outlier: &outlier, victim };
                let given = Given::Plain { x: &x, stride: m.reduce() };
                prop_assert!(bits(&multiplied(isa, &m, pairs, given, rows, &start)) == bits(&oracle), "{}", isa);
            }
        }
    }

    #[test]
    fn what_is_not_finite_shows_in_its_row_and_no_other(
        m in matrix(), rows in 1usize..20, seed in any::<u64>(), bad in prop_oneof![Just(f32::NAN), Just(f32::INFINITY)],
    ) {
        let mut x = vectors(seed, rows, m.reduce());
        let start = vec![1.0; rows * m.lanes()];
        let before = product(Isa::Portable, &m, &x, &start);
        let at = seed as usize % x.len();
        x[at] = bad;
        let hit = at / m.reduce();
        for isa in Isa::available() {
            let after = product(isa, &m, &x, &start);
            for row in 0..rows {
                let own = row * m.lanes()..(row + 1) * m.lanes();
                if row == hit {
                    prop_assert!(after[own].iter().all(|x| x.is_nan()), "{}", isa);
                } else {
                    prop_assert!(bits(&after[own.clone()]) == bits(&before[own]), "{}", isa);
                }
            }
        }
    }

    #[test]
    fn decoding_rounds_every_step_as_documented(m in matrix(), spare in 0usize..20, seed in any::<u64>()) {
        let stride = m.lanes() + spare;
        let start = noise(seed, m.reduce() * stride);
        let mut want = start.clone();
        for r in 0..m.reduce() {
            for l in 0..m.lanes() {
                let lane = Matrix::group(&m.reduce_groups, r) * m.lanes() + l;
                let fold = Matrix::group(&m.lane_groups, l) * m.reduce() + r;
                let or = |of: &[f32], at: usize, none: f32| of.get(at).copied().unwrap_or(none);
                let scale = or(&m.fold_scale, fold, 1.0);
                // Adding zero and multiplying with one round nothing.
                let inner = scale * m.level(r, l) as f32 + or(&m.fold_offset, fold, 0.0);
                let x = or(&m.lane_scale, lane, 1.0) * inner + or(&m.lane_offset, lane, 0.0) * scale;
                want[r * stride + l] += x;
            }
        }
        for isa in Isa::available() {
            let mut got = start.clone();
            decode(isa, &m.grid(), &m.levels, &mut got, stride);
            prop_assert!(got == want, "{}", isa);
        }
    }

    #[test]
    fn unpacking_brings_back_what_was_packed(blocks in 1usize..5, seed in any::<u64>(), table in any::<[u8; 16]>()) {
        let random: Vec<u8> = noise(seed, 512 * blocks).iter().map(|x| ((x + 1.0) * 128.0) as u8).collect();
        for bits in (1..=8).filter_map(Bits::new) {
            let codes: Vec<u8> = random.iter().map(|c| c & (u8::MAX >> (8 - bits.count()))).collect();
            let mut packed = vec![0xa5; packed_bytes(bits, codes.len())];
            pack(bits, &codes, &mut packed);
            prop_assert_eq!(packed.len() * 8, codes.len() * bits.count());
            for isa in Isa::available() {
                let mut levels = vec![0x5a; codes.len()];
                unpack(isa, bits, &packed, None, &mut levels);
                prop_assert!(levels == codes, "{:?} on {}", bits, isa);
                if bits <= Bits::B4 {
                    unpack(isa, bits, &packed, Some(&table), &mut levels);
                    let same = levels.iter().zip(&codes).all(|(l, c)| *l == table[usize::from(*c)]);
                    prop_assert!(same, "{:?} with a table on {}", bits, isa);
                }
            }
        }
    }
}

/// The largest sums there are: 256 levels of 255 and codes of 32512, both signs, from both ends of the levels.
#[test]
fn the_largest_integer_sums_do_not_overflow() {
    for (level, zero, x) in [(255, 0, 1.0), (255, 0, -1.0), (0, 255, 1.0), (0, 255, -1.0)] {
        let m = Matrix {
            reduce_groups: vec![256],
            lane_groups: vec![32],
            zero,
            levels: vec![level; 256 * 32],
            fold_scale: Vec::new(),
            fold_offset: Vec::new(),
            lane_scale: Vec::new(),
            lane_offset: Vec::new(),
        };
        let want = 256.0 * (f32::from(level) - f32::from(zero)) * x;
        for isa in Isa::available() {
            let out = product(isa, &m, &vec![x; 256 * 12], &vec![0.0; 12 * 32]);
            assert!(out.iter().all(|got| (got / want - 1.0).abs() < 2e-7), "{isa}: {} {want}", out[0]);
        }
    }
}

use super::super::layout::Reader;
use super::huffman::{LIMIT, Lengths};
use super::plane;
use proptest::prelude::*;

fn round(bytes: &[u8]) -> usize {
    let mut out = vec![7];
    plane::put(bytes, &mut out);
    let mut from = Reader::new(&out[1..]);
    assert_eq!(plane::take(&mut from, bytes.len()).unwrap().as_ref(), bytes);
    from.end().unwrap();
    out.len() - 1
}

/// Bits a symbol of the empirical distribution.
fn entropy(bytes: &[u8]) -> f64 {
    let n = bytes.len() as f64;
    let counts = plane::count(bytes);
    counts.iter().filter(|&&count| count > 0).map(|&count| f64::from(count)).map(|c| c * (n / c).log2()).sum::<f64>()
        / n
}

fn geometric(n: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let step = |x: &mut u64| {
        *x ^= *x << 13;
        *x ^= *x >> 7;
        *x ^= *x << 17;
        *x
    };
    (0..n).map(|_| (step(&mut x) | 1 << 63).trailing_zeros() as u8 * 3).collect()
}

#[test]
fn lengths_are_those_of_an_optimal_tree() {
    // Halves, quarters and eighths have a code without loss; equal counts have equal lengths.
    let mut counts = [0; 256];
    (counts[9], counts[8], counts[200], counts[3]) = (4, 2, 1, 1);
    assert_eq!(Lengths::of(&counts).unwrap().bits(&counts), 4 + 2 * 2 + 3 + 3);
    assert_eq!(Lengths::of(&[5; 256]).unwrap().bits(&[5; 256]), 8 * 5 * 256);
    // Counts of Fibonacci would have codes of 19 bits and 1.043 times the entropy; with eleven it is hardly more.
    let mut counts = [0; 256];
    let (mut a, mut b) = (1, 1);
    for count in &mut counts[..20] {
        *count = a;
        (a, b) = (b, a + b);
    }
    let lengths = Lengths::of(&counts).unwrap();
    let bytes: Vec<u8> = (0..20).flat_map(|s| vec![s; counts[usize::from(s)] as usize]).collect();
    let (bits, ideal) = (lengths.bits(&counts) as f64, entropy(&bytes) * bytes.len() as f64);
    assert!(bits >= ideal && bits < 1.05 * ideal, "{bits} {ideal}");
    assert!(bytes.len() * LIMIT > bits as usize);
    round(&bytes);
    let mut one = [0; 256];
    one[4] = 9;
    assert_eq!(Lengths::of(&one), None);
}

#[test]
fn planes_come_back_and_are_as_small_as_their_entropy_says() {
    for n in [0, 1, 2, 31, 32, 33, 63, 64, 100, 1000, 4096, 5000, 65_536, 400_000] {
        let bytes = geometric(n, 99);
        let size = round(&bytes);
        assert!(size <= n + 1);
        // Two bits a symbol, of which the code loses nothing but its last lengths.
        if (4096..400_000).contains(&n) {
            assert!((size as f64) < (entropy(&bytes) * 1.005 + 0.02) / 8.0 * n as f64 + 40.0, "{n}: {size}");
        }
    }
    assert_eq!(round(&[3; 100_000]), 2);
}

#[test]
fn what_is_cut_or_changed_is_an_error_or_other_bytes_and_never_a_panic() {
    let bytes = geometric(700, 5);
    let mut out = Vec::new();
    plane::put(&bytes, &mut out);
    for len in 0..out.len() {
        let mut from = Reader::new(&out[..len]);
        assert!(plane::take(&mut from, bytes.len()).is_err(), "{len}");
    }
    for bit in 0..8 * out.len() {
        let mut out = out.clone();
        out[bit / 8] ^= 1 << (bit % 8);
        let _ = plane::take(&mut Reader::new(&out), bytes.len());
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..3000),
        proptest::collection::vec(0_u8..3, 0..3000),
        proptest::collection::vec((any::<u8>(), any::<u8>()).prop_map(|(a, b)| a & b & 0x51), 0..5000),
    ]) {
        prop_assert!(round(&bytes) <= bytes.len() + 1);
    }
}

mod ranges {
    use super::super::super::layout::Reader;
    use super::super::family::{CLASSES, class_of, cost};
    use super::super::rans::{Decoder, Encoder};
    use proptest::prelude::*;

    fn round(rows: &[(u8, Vec<i32>)]) -> usize {
        let mut coder = Encoder::default();
        rows.iter().for_each(|(class, row)| coder.row(*class, row));
        let mut out = Vec::new();
        coder.finish(&mut out);
        let mut from = Reader::new(&out);
        let mut decoder = Decoder::new(&mut from).unwrap();
        for (class, row) in rows {
            let mut found = vec![7; 64];
            decoder.row(*class, &mut found).unwrap();
            assert_eq!(&found, row, "class {class}");
        }
        decoder.end().unwrap();
        out.len()
    }

    /// Sums of four bytes, as wide as asked for.
    fn noise(spread: f64, seed: u64) -> Vec<i32> {
        let mut x = seed | 1;
        (0..64)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                let sum: f64 = (0..4).map(|i| ((x >> (8 * i)) & 255) as f64 - 127.5).sum();
                (sum / 147.8 * spread).round() as i32
            })
            .collect()
    }

    #[test]
    fn every_class_codes_its_spread_within_a_few_hundredths_of_the_entropy() {
        for class in 4..=CLASSES.min(30) {
            let spread = 2_f64.powf((f64::from(class) - 4.0) / 2.0);
            assert_eq!(class_of(spread as f32), class);
            let rows: Vec<(u8, Vec<i32>)> = (1..200_u64).map(|seed| (class, noise(spread, seed * 7919))).collect();
            let bits = 8.0 * round(&rows) as f64 / (64.0 * rows.len() as f64);
            // A normal distribution on a grid of one; what is coded here is nearly one.
            let entropy = (spread * spread + 1.0 / 12.0).log2() / 2.0 + 2.047;
            assert!(bits > entropy - 0.1 && bits < entropy + 0.12, "class {class}: {bits} for {entropy}");
            let said: f32 = rows.iter().map(|(class, row)| cost(*class, row)).sum();
            let said = f64::from(said) / (64.0 * rows.len() as f64);
            assert!((said - bits).abs() < 0.01 * bits + 0.02, "{said} {bits}");
        }
    }

    #[test]
    fn anything_can_be_coded_in_any_class() {
        for class in 1..=CLASSES {
            let mut row = noise(3.0, 5);
            (row[0], row[13], row[63], row[20]) = (i32::MAX, i32::MIN, -1, 1 << 22);
            round(&[(class, row), (0, vec![0; 64]), (class, vec![0; 64])]);
        }
        assert_eq!(cost(0, &[0, 0]), 0.0);
        assert_eq!(cost(0, &[0, 1]), f32::INFINITY);
    }

    proptest! {
        #[test]
        fn any_rows(rows in proptest::collection::vec((1..=CLASSES, proptest::collection::vec(-300..300_i32, 64)), 0..6)) {
            round(&rows);
        }
    }
}

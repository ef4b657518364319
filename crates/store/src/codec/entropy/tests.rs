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

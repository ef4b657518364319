use super::*;
use crate::Isa;
use crate::columns;
use crate::triplets::{Triplets, add_triplets};

/// Directions as numbers that are alike in all octants, exactly.
fn directions(bits: usize) -> Vec<[f32; 4]> {
    let half = 1i32 << (bits - 1);
    let side = |code: i32| if code < half { code - half } else { code - half + 1 };
    let at = |a: i32, b: i32| a as f32 / 7.0 + (b * b) as f32 / 300.0 * a.signum() as f32;
    let all = (0..1 << (2 * bits)).map(|i| (side(i & (2 * half - 1)), side(i >> bits)));
    all.map(|(a, b)| [at(a, b), at(b, a), 1.0 - (a * a + b * b) as f32 / 90.0, 0.0]).collect()
}

#[test]
fn octants_need_directions_that_are_alike() {
    let mut all = directions(4);
    assert!(Octants::new(&all, 4).is_some() && Octants::new(&all, 5).is_none());
    all[77][1] += 1e-3;
    assert!(Octants::new(&all, 4).is_none());
}

/// What is read from the codes is what the unpacked triplets say, to the bit, and so are products with it.
#[test]
fn packed_triplets_are_the_unpacked_ones() {
    for (bits, channels) in [(3usize, 64usize), (4, 80), (5, 64), (5, 21)] {
        let directions = directions(bits);
        let octants = Octants::new(&directions, bits).unwrap();
        let (n, stride, each) = (channels.div_ceil(3), 8 * (3 * bits - 2), PAGE_TOKENS);
        let codes: Vec<u8> = (0..n * stride).map(|i| (i * i * 7 + i * 131 + i / 9) as u8).collect();
        let (mut direction, mut part) = (vec![0u16; n * each], vec![0u16; n * each]);
        let field = |run: &[u8], bits: usize, t: usize| {
            let (mut at, mut shift, mut field) = (0, 0, 0);
            for plane in [4, 2, 1].into_iter().filter(|plane| bits & plane != 0) {
                let byte = run[at + t % (8 * plane)] >> (t / (8 * plane) * plane);
                field |= u16::from(byte & ((1 << plane) - 1)) << shift;
                (at, shift) = (at + 8 * plane, shift + plane);
            }
            field
        };
        for (i, run) in codes.chunks_exact(stride).enumerate() {
            for t in 0..each {
                let sides = [field(run, bits, t), field(&run[8 * bits..], bits, t)];
                direction[i * each + t] = sides[1] << bits | sides[0];
                part[i * each + t] = field(&run[16 * bits..], bits - 2, t);
            }
        }
        let parts = std::array::from_fn(|i| i as f32 * 0.5 + 0.25);
        let lengths: [f32; PAGE_TOKENS] = std::array::from_fn(|t| if t % 9 == 0 { 0.0 } else { t as f32 - 3.5 });
        let of =
            Triplets { directions: &directions, parts: &parts, lengths: &lengths, direction: &direction, part: &part };
        let mut expected = vec![0.0; channels * each];
        add_triplets(Isa::Portable, of, channels, &mut expected);
        let q: Vec<f32> = (0..4 * channels).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let mut products = vec![0.5; 4 * each];
        columns::score(Isa::Portable, &q, channels, &expected, channels, &mut products);
        let packed = Packed { octants: &octants, parts: &parts, lengths: &lengths, codes: &codes, channels };
        let bits_of = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for isa in Isa::available() {
            let mut to = vec![f32::NAN; channels * each];
            write(isa, packed, &mut to);
            assert_eq!(bits_of(&to), bits_of(&expected), "{isa} {bits} {channels}");
            for rows in 1..=4 {
                let mut scores = vec![0.5; rows * each];
                score(isa, packed, &q[..rows * channels], channels, &mut scores);
                assert_eq!(bits_of(&scores), bits_of(&products[..rows * each]), "{isa} {bits} {channels} {rows}");
            }
        }
    }
}

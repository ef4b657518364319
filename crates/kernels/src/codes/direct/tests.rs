//! Packed codes against their levels.

use super::super::{decode, pack, unpack};
use super::*;
use crate::Isa;

#[test]
fn packed_codes_decode_to_the_bits_of_their_levels_on_every_isa() {
    let number = |i: usize| if i.is_multiple_of(9) { -0.0 } else { (i as f32 * 0.37).sin() };
    let mut table = std::array::from_fn(|i| (i * 17) as u8);
    table[3] = 128;
    for bits in [Bits::B2, Bits::B3, Bits::B4] {
        for reduce in [16, 64, 80] {
            let count = reduce * PAGE_TOKENS;
            let codes: Vec<u8> = (0..count).map(|i| ((i * 7 + i / 5) % (1 << bits.count())) as u8).collect();
            let mut packed = vec![0; packed_bytes(bits, count)];
            pack(bits, &codes, &mut packed);
            let (rows, lanes): (Vec<_>, Vec<_>) = ((0..reduce).map(number).collect(), (0..64).map(number).collect());
            let bare = Grid {
                reduce,
                lanes: PAGE_TOKENS,
                zero: 0,
                reduce_groups: &[reduce],
                lane_groups: &[PAGE_TOKENS],
                fold_scale: &[],
                fold_offset: &[],
                lane_scale: &[],
                lane_offset: &[],
            };
            let grids = [
                bare,
                Grid { zero: 128, fold_scale: &rows, fold_offset: &rows, ..bare },
                Grid { zero: 2, fold_scale: &rows, ..bare },
                Grid { zero: 128, lane_scale: &lanes, lane_offset: &lanes, ..bare },
                Grid { zero: 3, lane_scale: &lanes, ..bare },
            ];
            for (i, grid) in grids.iter().enumerate() {
                for table in [None, Some(&table)] {
                    let mut levels = vec![0; count];
                    unpack(Isa::Portable, bits, &packed, table, &mut levels);
                    let mut expected = vec![0.0; count];
                    decode(Isa::Portable, grid, &levels, &mut expected, PAGE_TOKENS);
                    for isa in Isa::available() {
                        let mut out = vec![f32::NAN; count];
                        assert!(decode_packed(isa, bits, &packed, table, grid, &mut out));
                        let differ = out.iter().zip(&expected).position(|(a, b)| a.to_bits() != b.to_bits());
                        assert_eq!(differ, None, "{isa} {bits:?} {reduce} grid {i}");
                    }
                }
            }
            let both = Grid { fold_scale: &rows, lane_scale: &lanes, ..bare };
            assert!(!decode_packed(Isa::Portable, bits, &packed, None, &both, &mut vec![0.0; count]));
        }
    }
}

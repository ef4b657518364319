use super::*;
use crate::Isa;
use crate::{attention, columns};

#[test]
fn sines_are_close_and_the_same_everywhere() {
    let grid: Vec<[f32; 2]> = (0..200).map(|i| [i as f32 * 0.1 - 9.0, 0.4]).collect();
    let mut portable = vec![0.0; grid.len() * 32];
    tables(Isa::Portable, &grid, &mut portable);
    for (&[first, step], table) in grid.iter().zip(portable.chunks_exact(32)) {
        for i in 0..16 {
            let angle = f64::from((i as f32 + 0.5).mul_add(step, first));
            assert!((f64::from(table[i]) - angle.cos()).abs() < 3e-7, "cos {angle}");
            assert!((f64::from(table[16 + i]) - angle.sin()).abs() < 3e-7, "sin {angle}");
        }
    }
    for isa in Isa::available() {
        let mut found = vec![0.0; grid.len() * 32];
        tables(isa, &grid, &mut found);
        let same = found.iter().zip(&portable).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{isa}");
    }
}

#[test]
fn scores_are_products_with_the_pairs() {
    let channels: Vec<[usize; 2]> = (0..24).map(|i| [i, i + 24]).collect();
    let grid: Vec<[f32; 2]> = (0..24).map(|i| [i as f32 * 0.2, 0.3]).collect();
    let mut table = vec![0.0; 24 * 32];
    tables(Isa::Portable, &grid, &mut table);
    let angles: Vec<u16> = (0..24 * 64).map(|i| (i * 7 % 16) as u16).collect();
    let radii: Vec<f32> = (0..24 * 64).map(|i| (i * 13 % 29) as f32 / 10.0).collect();
    let q: Vec<f32> = (0..5 * 48).map(|i| (i * 11 % 31) as f32 / 15.0 - 1.0).collect();
    let pairs = Pairs { channels: &channels, tables: &table, radii: &radii, angles: &angles };
    let mut expected = vec![0.25f32; 5 * 64];
    score_pairs(Isa::Portable, &q, 48, pairs, &mut expected);
    for (row, q) in q.chunks_exact(48).enumerate() {
        for t in 0..64 {
            let exact: f64 = (0..24)
                .map(|p| {
                    let i = p * 64 + t;
                    let angle = f64::from((f32::from(angles[i]) + 0.5).mul_add(grid[p][1], grid[p][0]));
                    f64::from(radii[i]) * (f64::from(q[p]) * angle.cos() + f64::from(q[p + 24]) * angle.sin())
                })
                .sum();
            assert!((f64::from(expected[row * 64 + t]) - exact - 0.25).abs() < 2e-5);
        }
    }
    for isa in Isa::available() {
        let mut scores = vec![0.25; 5 * 64];
        score_pairs(isa, &q, 48, pairs, &mut scores);
        assert_eq!(scores, expected, "{isa}");
    }
}

#[test]
fn spread_and_middles_agree_everywhere() {
    let codes: Vec<u16> = (0..48).map(|i| i * 5 % 16).collect();
    let table: [f32; 16] = std::array::from_fn(|i| i as f32 * 1.5 - 3.0);
    let scale: Vec<f32> = (0..48).map(|i| i as f32).collect();
    for isa in Isa::available() {
        let mut out = vec![0.0; 48];
        spread(isa, &table, &codes, &scale, &mut out);
        assert!((0..48).all(|i| out[i] == scale[i] * table[usize::from(codes[i])]), "{isa}");
        middles(isa, &codes, 1.0, 0.5, &mut out);
        assert!((0..48).all(|i| out[i] == (f32::from(codes[i]) + 0.5) * 0.5 + 1.0), "{isa}");
    }
}

/// Read from the codes, blocks are what they are unpacked, to the bit, and so are products with them.
#[test]
fn packed_blocks_are_the_unpacked_ones() {
    let table = |seed: usize| [0, 1].map(|k| std::array::from_fn(|i| ((i * 7 + seed + k) % 17) as f32 / 8.0 - 1.0));
    let tables = [0, 1, 2, 3].map(table);
    let (width, n) = (48, 3);
    let codes: Vec<u8> = (0..n * Blocks::STRIDE).map(|i| (i * i * 7 + i * 131 + i / 9) as u8).collect();
    let radii: Vec<f32> = (0..n * PAGE_TOKENS).map(|i| (i % 23) as f32 / 9.0).collect();
    let mut expected = vec![0.0; width * PAGE_TOKENS];
    for b in 0..n {
        let mut angles = vec![0u16; 15 * PAGE_TOKENS];
        for (i, angle) in angles.iter_mut().enumerate() {
            let (node, t) = (i / PAGE_TOKENS, i % PAGE_TOKENS);
            let (plane, at) = if node < 8 { (4, 32 * node) } else { (2, 256 + 16 * (node - 8)) };
            let byte = codes[b * Blocks::STRIDE + at + t % (8 * plane)];
            *angle = u16::from(byte >> (t / (8 * plane) * plane) & ((1 << plane) - 1));
        }
        let radii = &radii[b * PAGE_TOKENS..][..PAGE_TOKENS];
        add_block(Isa::Portable, &tables, &angles, radii, &mut expected[b * LANES * PAGE_TOKENS..]);
    }
    let mut turned = vec![0.0; PAGE_TOKENS * width];
    (0..turned.len()).for_each(|i| turned[i] = expected[i % width * PAGE_TOKENS + i / width]);
    let blocks = Blocks { tables: &tables, codes: &codes, radii: &radii };
    let x: Vec<f32> = (0..4 * PAGE_TOKENS).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let mut products = vec![0.5; 4 * PAGE_TOKENS];
    columns::score(Isa::Portable, &x[..4 * width], width, &expected, width, &mut products);
    let mut sums = vec![0.5; 4 * width];
    let bytes: Vec<u8> = turned.iter().flat_map(|x| x.to_le_bytes()).collect();
    let visible = [attention::Visible { from: 0, to: 64 }; 4];
    attention::accumulate_page(Isa::Portable, &x, &bytes, attention::Element::F32, width, &visible, &mut sums);
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for isa in Isa::available() {
        let mut tile = vec![f32::NAN; width * PAGE_TOKENS];
        write_blocks(isa, blocks, &mut tile);
        assert_eq!(bits(&tile), bits(&expected), "{isa}");
        write_block_rows(isa, blocks, &mut tile, width);
        assert_eq!(bits(&tile), bits(&turned), "{isa}");
        for rows in 1..=4 {
            let mut scores = vec![0.5; rows * PAGE_TOKENS];
            score_blocks(isa, blocks, &x[..rows * width], width, &mut scores);
            assert_eq!(bits(&scores), bits(&products[..rows * PAGE_TOKENS]), "{isa} {rows}");
            let mut out = vec![0.5; rows * width];
            accumulate_blocks(isa, blocks, &x, rows, width, &mut out);
            assert_eq!(bits(&out), bits(&sums[..rows * width]), "{isa} {rows}");
            let mut out = vec![0.5; rows * width];
            columns::accumulate(isa, &expected, &x, rows, width, &mut out);
            assert_eq!(bits(&out), bits(&sums[..rows * width]), "{isa} {rows}, a tile");
        }
    }
}

use super::*;
use crate::Isa;
use crate::attention::{Element, Visible, accumulate_page};
use crate::columns;

#[test]
fn words_lie_where_their_numbers_say() {
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for (dims, each, channels) in
        [(2usize, 256usize, 64usize), (4, 256, 48), (4, 4096, 16), (8, 16, 64), (16, 40, 32), (32, 7, 96)]
    {
        let words = (0..each * channels).map(|i| f16::from_f32((i * 7919 % 1009) as f32 / 500.0 - 1.0));
        let words: Vec<u16> = words.map(f16::to_bits).collect();
        let codes: Vec<u16> = (0..channels / dims * PAGE_TOKENS).map(|i| (i * i * 31 % each) as u16).collect();
        let width = channels + LANES;
        let mut rows = vec![0.0; PAGE_TOKENS * width];
        let mut columns = vec![0.0; channels * PAGE_TOKENS];
        for (t, row) in rows.chunks_exact_mut(width).enumerate() {
            for (c, x) in row[..channels].iter_mut().enumerate() {
                let code = usize::from(codes[c / dims * PAGE_TOKENS + t]);
                *x = f16::from_bits(words[(c / dims * each + code) * dims + c % dims]).to_f32() + 0.0;
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

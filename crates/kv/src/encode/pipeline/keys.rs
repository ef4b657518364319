//! Keys that are kept before rotary position, as tiles of the model's basis.

use super::Pipeline;
use crate::encode::codec::Work;
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;

impl Pipeline {
    /// Scores of few rows with the page, turned by its angles, where that needs no tile: the bits of
    /// [`Pipeline::key_tile`], turned and scored. Whether it did; else `scores` are as they were.
    pub fn score_keys(
        &self,
        isa: Isa,
        page: &[u8],
        q: &[f32],
        angles: &[f32],
        work: &mut Work,
        scores: &mut [f32],
    ) -> bool {
        let ([transform], [part]) = (&self.transforms[..], &self.parts[..]) else { return false };
        transform.is_hadamard() && part.score_hadamard(isa, &page[self.spans[0].clone()], q, angles, work, scores)
    }

    /// The page in the model's basis, `[shape.width()][PAGE_TOKENS]`.
    pub fn key_tile(&self, isa: Isa, page: &[u8], work: &mut Work, tile: &mut Vec<f32>) {
        tile.resize(self.basis().width() * PAGE_TOKENS, 0.0);
        if let ([transform], [part]) = (&self.transforms[..], &self.parts[..])
            && transform.is_hadamard()
            && part.write_hadamard_tile(isa, &page[self.spans[0].clone()], work, tile)
        {
            return;
        }
        self.tile(isa, page, work, tile);
        let mut spare = std::mem::take(&mut work.tile);
        self.untransform_tile(tile, &mut spare);
        work.tile = spare;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::codec::{Hints, Shape, Side};
    use crate::encode::math::sample::{part, rows, transform};

    #[test]
    fn a_tile_is_the_decoded_page_in_the_basis_of_the_model_to_the_same_bits_on_every_isa() {
        let quantizers = [
            "uniform(bits=2, axis=token, group=0, clip=0.8)",
            "uniform(bits=3, axis=token, group=0)",
            "uniform(bits=4, axis=token, group=0)",
            "uniform(bits=4, axis=token, group=32)",
            "uniform(bits=6, axis=token, group=0)",
        ];
        for d in [64, 96, 128, 256] {
            for (text, hadamard) in quantizers.iter().flat_map(|text| [(text, false), (text, true)]) {
                let shape = Shape { side: Side::Keys, tokens: PAGE_TOKENS, channels: d };
                let transforms = if hadamard { vec![transform("hadamard", Side::Keys, d)] } else { Vec::new() };
                let pipeline = Pipeline::new(shape, true, transforms, vec![part(text, Side::Keys, d)]);
                let mut page = vec![0; pipeline.bytes()];
                pipeline.encode(&rows(PAGE_TOKENS, d, 72), Hints::default(), &mut page);
                let mut decoded = vec![0.0; PAGE_TOKENS * d];
                pipeline.decode(&page, &mut decoded);
                let largest = decoded.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                let mut first = Vec::new();
                for isa in Isa::available() {
                    let mut tile = vec![f32::NAN; 7];
                    pipeline.key_tile(isa, &page, &mut Work::default(), &mut tile);
                    for (i, x) in decoded.iter().enumerate() {
                        let got = tile[i % d * PAGE_TOKENS + i / d];
                        assert!(
                            (got - x).abs() <= 4.0 * f32::EPSILON * largest,
                            "{text} {d} {hadamard} {isa}: {got} {x}"
                        );
                    }
                    let bits: Vec<u32> = tile.iter().map(|x| x.to_bits()).collect();
                    assert!(first.is_empty() || first == bits, "{text} {d} {isa}");
                    first = bits;
                }
            }
        }
    }
}

//! Keys that are kept before rotary position, as tiles of the model's basis.

use super::Pipeline;
use crate::encode::codec::Work;
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;

impl Pipeline {
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

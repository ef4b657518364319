//! What holds for every part, and the published facts of each method.

mod commvq;
mod everywhere;
mod octahedral;
mod polar;
mod sets;
mod sketches;
mod sparse;
mod spectral;
mod vectors;

use super::super::codec::{Hints, Part};

fn encoded(part: &dyn Part, x: &[f32]) -> Vec<u8> {
    let mut page = vec![0xaa; part.bytes()];
    part.encode(x, Hints::default(), &mut page);
    page
}

fn decoded(part: &dyn Part, page: &[u8]) -> Vec<f32> {
    let mut x = vec![0.0; part.shape().elements()];
    part.decode(page, &mut x);
    x
}

/// Encoded and decoded.
fn through(part: &dyn Part, x: &[f32]) -> Vec<f32> {
    decoded(part, &encoded(part, x))
}

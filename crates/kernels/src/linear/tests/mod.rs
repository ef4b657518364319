//! Linear layers against plain loops: the same bits on every instruction set, whatever rows travel together.

mod dense;
mod parts;
mod quantized;
mod sample;

use crate::{Isa, Team};
use std::num::NonZeroUsize;

fn team(threads: usize) -> Team {
    Team::new(NonZeroUsize::new(threads).unwrap())
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn forward(linear: &super::Linear, isa: Isa, team: &Team, x: &[f32]) -> Vec<f32> {
    // Whatever was there before must not matter.
    let mut y = vec![f32::NAN; x.len() / linear.inp() * linear.out()];
    linear.forward(isa, team, x, &mut y);
    y
}

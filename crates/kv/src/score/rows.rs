//! Arithmetic on rows of keys.

/// Dot product, in four sums so that it may be a vector's.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a, b) = (a.chunks(8), b.chunks(8));
    for (a, b) in a.zip(b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum()
}

/// Euclidean length.
pub(super) fn norm(x: &[f32]) -> f32 {
    dot(x, x).sqrt()
}

/// `to += factor * x`.
pub(super) fn add(to: &mut [f32], factor: f32, x: &[f32]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += factor * x);
}

//! The octahedral map of directions to a square, and the densities it leads to.

use super::super::super::math::lloyd::Tabulated;
use std::f64::consts::PI;

/// `1` for zero and above, as the map wants it.
fn sign(x: f64) -> f64 {
    if x < 0.0 { -1.0 } else { 1.0 }
}

/// What [`super::directions`] does for several at once: where the direction of `n` lies in the square `[-1, 1]²`; a vector of zero is at its middle.
#[cfg(test)]
pub(super) fn map(n: [f64; 3]) -> [f64; 2] {
    let length = n[0].abs() + n[1].abs() + n[2].abs();
    if length == 0.0 {
        return [0.0, 0.0];
    }
    let [x, y, z] = n.map(|n| n / length);
    if z >= 0.0 { [x, y] } else { [sign(x) * (1.0 - y.abs()), sign(y) * (1.0 - x.abs())] }
}

/// The point of the octahedron above a point of the square.
fn lifted(xi: f64, eta: f64) -> [f64; 3] {
    let z = 1.0 - xi.abs() - eta.abs();
    if z >= 0.0 { [xi, eta, z] } else { [sign(xi) * (1.0 - eta.abs()), sign(eta) * (1.0 - xi.abs()), z] }
}

/// The unit vector at a point of the square.
pub(super) fn unmap(xi: f64, eta: f64) -> [f64; 3] {
    let n = lifted(xi, eta);
    let length = (n[0] * n[0] + n[1] * n[1] + n[2] * n[2]).sqrt();
    n.map(|n| n / length)
}

/// Density of a side of the square for directions that are uniform on the sphere: the area that the map makes of a
/// direction shrinks with the third power of the point's distance.
fn side_density(xi: f64) -> f64 {
    const STEPS: usize = 512;
    let at = |i: usize| {
        let n = lifted(xi, (i as f64 + 0.5) / STEPS as f64);
        let square = n[0] * n[0] + n[1] * n[1] + n[2] * n[2];
        1.0 / (square * square.sqrt())
    };
    // Both halves of the other side are alike.
    2.0 * (0..STEPS).map(at).sum::<f64>() / STEPS as f64 / (4.0 * PI)
}

/// Levels of a side, ascending and symmetric about zero.
pub(super) fn side_levels(count: usize) -> Vec<f64> {
    let upper = Tabulated::new(0.0, 1.0, 2048, side_density).levels(count / 2);
    upper.iter().rev().map(|x| -x).chain(upper.iter().copied()).collect()
}

/// Levels of the length of three of `d` coordinates of a random unit vector: its square is Beta(3/2, (d-3)/2).
pub(super) fn length_levels(d: usize, count: usize) -> Vec<f64> {
    let density = |r: f64| {
        // (1 - r²)^((d-5)/2), by a root so that the exponent is whole.
        let root = (1.0 - r * r).max(0.0).sqrt();
        (0..d.saturating_sub(5)).fold(r * r, |product, _| product * root)
    };
    Tabulated::new(0.0, 1.0, 8192, density).levels(count)
}

#[cfg(test)]
mod tests {
    use super::super::super::super::math::Rng;
    use super::*;

    #[test]
    fn directions_come_back() {
        let mut rng = Rng::new(3, 0);
        let corners = (0..8).map(|i| [0, 1, 2].map(|axis| if i >> axis & 1 == 0 { 1.0 } else { -1.0 }));
        let axes = (0..6).map(|i| {
            let mut n = [0.0; 3];
            n[i / 2] = if i % 2 == 0 { 1.0 } else { -1.0 };
            n
        });
        let random: Vec<[f64; 3]> = (0..1000).map(|_| [0; 3].map(|_| rng.normal())).collect();
        for n in corners.chain(axes).chain(random) {
            let length = n.iter().map(|x| x * x).sum::<f64>().sqrt();
            let [xi, eta] = map(n);
            assert!(xi.abs() <= 1.0 && eta.abs() <= 1.0);
            assert!(unmap(xi, eta).iter().zip(n).all(|(a, b)| (a - b / length).abs() < 1e-12), "{n:?}");
        }
        assert_eq!(map([0.0, 0.0, 1.0]), [0.0, 0.0]);
        assert_eq!(map([0.0, 0.0, -1.0]), [1.0, 1.0]);
        assert_eq!(map([0.0; 3]), [0.0, 0.0]);
    }

    #[test]
    fn densities_and_levels_are_those_of_the_sphere() {
        assert!((side_density(0.0) - 1.0 / PI).abs() < 1e-4 && (side_density(0.5) - 0.600).abs() < 1e-3);
        assert!((side_density(0.2) - side_density(0.8)).abs() < 1e-4);
        let close = |levels: &[f64], expected: &[f64]| {
            assert!(levels.iter().zip(expected).all(|(a, b)| (a - b).abs() < 2e-4), "{levels:?} {expected:?}");
        };
        close(&side_levels(4)[2..], &[0.27506, 0.72494]);
        close(&side_levels(8)[4..], &[0.14301, 0.38398, 0.61602, 0.85699]);
        close(&side_levels(16)[8..], &[0.07216, 0.20219, 0.32377, 0.44156, 0.55844, 0.67623, 0.79781, 0.92784]);
        close(&side_levels(32)[16..], &[0.03616, 0.10452, 0.16969, 0.23240, 0.29333, 0.35306, 0.41207, 0.47073]);
        let lengths = |d: usize, count| {
            let scale = (d as f64).sqrt();
            length_levels(d, count).iter().map(|x| x * scale).collect::<Vec<_>>()
        };
        close(&lengths(128, 2), &[1.13969, 2.23044]);
        close(&lengths(128, 4), &[0.79283, 1.41041, 2.02089, 2.79848]);
        close(&lengths(64, 8), &[0.54029, 0.92514, 1.25335, 1.56711, 1.88846, 2.23957, 2.65754, 3.24428]);
    }
}

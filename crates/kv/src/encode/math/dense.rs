//! Small dense matrices in `f64`, row by row.

use super::Rng;

/// Makes the rows of `a`, `[n][d]`, orthonormal in order (Gram and Schmidt, each row twice). A row that lies within
/// the span of those before it becomes zero. Returns how many did not.
pub fn orthonormalise(a: &mut [f64], d: usize) -> usize {
    let rows = a.len() / d.max(1);
    let mut kept = 0;
    for row in 0..rows {
        let (before, rest) = a.split_at_mut(row * d);
        let x = &mut rest[..d];
        let start = dot(x, x).sqrt();
        for _ in 0..2 {
            for b in before.chunks_exact(d) {
                let along = dot(x, b);
                x.iter_mut().zip(b).for_each(|(x, b)| *x -= along * b);
            }
        }
        let length = dot(x, x).sqrt();
        if length > 1e-10 * start {
            x.iter_mut().for_each(|x| *x /= length);
            kept += 1;
        } else {
            x.fill(0.0);
        }
    }
    kept
}

/// A random orthonormal matrix `[d][d]`, uniform over all of them.
pub fn random_rotation(d: usize, rng: &mut Rng) -> Vec<f64> {
    loop {
        let mut a: Vec<f64> = (0..d * d).map(|_| rng.normal()).collect();
        if orthonormalise(&mut a, d) == d {
            return a;
        }
    }
}

/// Inner product.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Four running sums, so that the additions do not wait for each other.
    let mut sums = [0.0; 4];
    let (a4, b4) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = a4.remainder().iter().zip(b4.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a4.zip(b4) {
        (0..4).for_each(|i| sums[i] += a[i] * b[i]);
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
}

/// Mean of the rows `[n][d]`; zeros where there are none.
pub fn mean(rows: &[f32], d: usize) -> Vec<f64> {
    let mut mean = vec![0.0; d];
    for row in rows.chunks_exact(d) {
        mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x));
    }
    let n = (rows.len() / d).max(1) as f64;
    mean.iter_mut().for_each(|m| *m /= n);
    mean
}

/// Mean of `(x - centre)(x - centre)ᵀ` over the rows, `[d][d]`.
pub fn second_moment(rows: &[f32], centre: &[f64]) -> Vec<f64> {
    let d = centre.len();
    let mut sum = vec![0.0; d * d];
    let mut x = vec![0.0; d];
    for row in rows.chunks_exact(d) {
        x.iter_mut().zip(row).zip(centre).for_each(|((x, &row), c)| *x = f64::from(row) - c);
        for i in 0..d {
            let xi = x[i];
            sum[i * d..i * d + i + 1].iter_mut().zip(&x).for_each(|(s, x)| *s += xi * x);
        }
    }
    let n = (rows.len() / d).max(1) as f64;
    for i in 0..d {
        for j in 0..=i {
            sum[i * d + j] /= n;
            sum[j * d + i] = sum[i * d + j];
        }
    }
    sum
}

/// Eigenvalues of a symmetric matrix `[n][n]`, largest first, and the eigenvectors as rows (cyclic Jacobi). The largest
/// entry of an eigenvector is positive.
pub fn eigen(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut v = vec![0.0; n * n];
    (0..n).for_each(|i| v[i * n + i] = 1.0);
    let scale: f64 = a.iter().map(|x| x * x).sum();
    for _ in 0..60 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * n + j].powi(2)).sum();
        if off <= 1e-26 * scale {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut v, n, p, q);
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[j * n + j].total_cmp(&a[i * n + i]));
    let values = order.iter().map(|&i| a[i * n + i]).collect();
    let mut vectors = Vec::with_capacity(n * n);
    for &i in &order {
        let row = &v[i * n..(i + 1) * n];
        let largest = row.iter().fold(0.0f64, |top, &x| if x.abs() > top.abs() { x } else { top });
        let sign = if largest < 0.0 { -1.0 } else { 1.0 };
        vectors.extend(row.iter().map(|x| sign * x));
    }
    (values, vectors)
}

/// One Jacobi rotation that makes `a[p][q]` zero; eigenvectors are the rows of `v`.
fn rotate(a: &mut [f64], v: &mut [f64], n: usize, p: usize, q: usize) {
    let apq = a[p * n + q];
    if apq == 0.0 {
        return;
    }
    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let c = 1.0 / (t * t + 1.0).sqrt();
    let s = t * c;
    let turn = |x: &mut [f64]| {
        let (low, high) = x.split_at_mut(q * n);
        for (x, y) in low[p * n..][..n].iter_mut().zip(&mut high[..n]) {
            (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
        }
    };
    turn(a);
    for row in a.chunks_exact_mut(n) {
        (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
    }
    turn(v);
}

/// Lower triangular `l` with `l lᵀ = a`, `[n][n]`; `None` where `a` is not positive definite.
pub fn cholesky(a: &[f64], n: usize) -> Option<Vec<f64>> {
    let mut l = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let sum = a[i * n + j] - dot(&l[i * n..i * n + j], &l[j * n..j * n + j]);
            if i == j {
                if !sum.is_finite() || sum <= 0.0 {
                    return None;
                }
                l[i * n + i] = sum.sqrt();
            } else {
                l[i * n + j] = sum / l[j * n + j];
            }
        }
    }
    Some(l)
}

/// Inverse of a lower triangular matrix with no zero on its diagonal.
pub fn invert_lower(l: &[f64], n: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; n * n];
    for j in 0..n {
        inverse[j * n + j] = 1.0 / l[j * n + j];
        for i in j + 1..n {
            let sum: f64 = (j..i).map(|k| l[i * n + k] * inverse[k * n + j]).sum();
            inverse[i * n + j] = -sum / l[i * n + i];
        }
    }
    inverse
}

/// `a b` for `a` of `[n][m]` and `b` of `[m][p]`.
pub fn multiply(a: &[f64], b: &[f64], m: usize, p: usize) -> Vec<f64> {
    let mut out = vec![0.0; a.len() / m * p];
    for (a, out) in a.chunks_exact(m).zip(out.chunks_exact_mut(p)) {
        for (&a, b) in a.iter().zip(b.chunks_exact(p)) {
            out.iter_mut().zip(b).for_each(|(out, b)| *out += a * b);
        }
    }
    out
}

/// `aᵀ` of `[n][m]`.
pub fn transpose(a: &[f64], m: usize) -> Vec<f64> {
    let n = a.len() / m;
    (0..m).flat_map(|j| (0..n).map(move |i| a[i * m + j])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(n: usize, rng: &mut Rng) -> Vec<f64> {
        (0..n).map(|_| rng.normal()).collect()
    }

    fn is_identity(a: &[f64], n: usize) -> bool {
        a.iter().enumerate().all(|(i, x)| (x - f64::from(u8::from(i % n == i / n))).abs() < 1e-9)
    }

    #[test]
    fn rotations_are_orthonormal_and_dependent_rows_vanish() {
        let mut rng = Rng::new(1, 0);
        let q = random_rotation(80, &mut rng);
        assert!(is_identity(&multiply(&q, &transpose(&q, 80), 80, 80), 80));
        let mut a = random(3 * 5, &mut rng);
        a.copy_within(0..5, 5);
        assert_eq!(orthonormalise(&mut a, 5), 2);
        assert!(a[5..10].iter().all(|&x| x == 0.0));
    }

    #[test]
    fn eigenvectors_diagonalise() {
        let mut rng = Rng::new(2, 0);
        let n = 48;
        let b = random(n * n, &mut rng);
        let a = multiply(&b, &transpose(&b, n), n, n);
        let (values, vectors) = eigen(a.clone(), n);
        assert!(values.is_sorted_by(|a, b| a >= b));
        assert!(is_identity(&multiply(&vectors, &transpose(&vectors, n), n, n), n));
        let av = multiply(&vectors, &a, n, n);
        for (i, &value) in values.iter().enumerate() {
            let off = (0..n).map(|j| (av[i * n + j] - value * vectors[i * n + j]).abs()).fold(0.0, f64::max);
            assert!(off < 1e-9 * values[0], "{i}: {off}");
        }
        let (zeros, basis) = eigen(vec![0.0; 9], 3);
        assert!(zeros == [0.0; 3] && is_identity(&basis, 3));
    }

    #[test]
    fn cholesky_factors_and_refuses() {
        let mut rng = Rng::new(3, 0);
        let n = 20;
        let b = random(n * n, &mut rng);
        let a = multiply(&b, &transpose(&b, n), n, n);
        let l = cholesky(&a, n).unwrap();
        let back = multiply(&l, &transpose(&l, n), n, n);
        assert!(a.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-9));
        assert!(is_identity(&multiply(&l, &invert_lower(&l, n), n, n), n));
        assert!(cholesky(&[1.0, 2.0, 2.0, 1.0], 2).is_none());
    }

    #[test]
    fn moments_of_rows() {
        let rows = [1.0, 2.0, 3.0, 6.0];
        assert_eq!(mean(&rows, 2), [2.0, 4.0]);
        assert_eq!(second_moment(&rows, &[2.0, 4.0]), [1.0, 2.0, 2.0, 4.0]);
        assert_eq!(mean(&[], 2), [0.0, 0.0]);
    }
}

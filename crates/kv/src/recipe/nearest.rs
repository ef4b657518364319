//! Which known name somebody may have meant.

/// The known name nearest to `name` (insertions, deletions, substitutions and swaps of neighbours, case ignored), if one
/// is near enough to be worth naming.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A long name is no slip of the pen, and the distance of two long texts takes long to compute.
    if name.len() > 64 {
        return None;
    }
    let name: Vec<char> = name.to_lowercase().chars().collect();
    let near = known.into_iter().map(|candidate| {
        let other: Vec<char> = candidate.to_lowercase().chars().collect();
        (distance(&name, &other), candidate)
    });
    near.min_by_key(|&(distance, _)| distance).filter(|&(d, _)| d <= 1 + name.len() / 3).map(|(_, candidate)| candidate)
}

/// Optimal string alignment.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substituted = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substituted.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["kivi-2", "kivi-4", "turboquant-3.5", "q8_0", "fp8-e4m3"];
        for (slip, meant) in
            [("kivi2", "kivi-2"), ("KIVI-4", "kivi-4"), ("trubo quant-3.5", "turboquant-3.5"), ("q80", "q8_0")]
        {
            assert_eq!(nearest(slip, known), Some(meant), "{slip}");
        }
        for stranger in ["", "snapkv", "a completely different thing", &"x".repeat(10_000)] {
            assert_eq!(nearest(stranger, known), None, "{stranger}");
        }
    }

    #[test]
    fn a_swap_of_neighbours_is_one_slip() {
        let chars = |s: &str| s.chars().collect::<Vec<_>>();
        assert_eq!(distance(&chars("hadamrad"), &chars("hadamard")), 1);
        assert_eq!(distance(&chars("kitten"), &chars("sitting")), 3);
        assert_eq!(distance(&[], &chars("abc")), 3);
    }
}

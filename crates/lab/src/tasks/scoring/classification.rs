//! Classes that an answer names (LongBench's `classification_score`).

/// One over the number of classes named where `right` is among them.
///
/// A class whose name is part of the right one's is not counted. LongBench takes such names from the list while it
/// walks along it, so that the one behind each is not looked at; so does this.
pub(super) fn score(answer: &str, right: &str, classes: &[String]) -> f64 {
    let mut named: Vec<&str> = classes.iter().map(String::as_str).filter(|class| answer.contains(class)).collect();
    let mut at = 0;
    while at < named.len() {
        let class = named[at];
        if right.contains(class) && class != right {
            // Of classes of one name the first goes.
            let first = named.iter().position(|other| *other == class).unwrap_or(at);
            named.remove(first);
        }
        at += 1;
    }
    if named.contains(&right) { 1.0 / named.len() as f64 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_share_the_point() {
        let classes = ["Date", "Number of something", "Number", "Other number", "City"].map(String::from);
        assert_eq!(score("City", "City", &classes), 1.0);
        assert_eq!(score("City or Date", "City", &classes), 0.5);
        assert_eq!(score("Date", "City", &classes), 0.0);
        // `Number` is part of the right one.
        assert_eq!(score("Type: Number of something", "Number of something", &classes), 1.0);
        // Here it is not: the answer names two classes.
        assert_eq!(score("Number of something", "Number", &classes), 0.5);
        assert_eq!(score("", "City", &classes), 0.0);
    }

    #[test]
    fn the_one_behind_a_removed_class_stays() {
        let classes = ["ab", "bc", "abc"].map(String::from);
        // `ab` goes, `bc` moves to its place and is not looked at.
        assert_eq!(score("abc", "abc", &classes), 0.5);
    }
}

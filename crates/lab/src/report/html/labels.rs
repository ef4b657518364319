//! Names beside marks, none on top of another.

use super::Size;

/// A name that wants to stand beside its mark, in pixels.
pub struct Wish {
    /// The mark.
    pub at: (i32, i32),
    /// The name's width.
    pub width: i32,
}

/// Where a name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Left end of the name.
    pub left: i32,
    /// Its middle, vertically.
    pub middle: i32,
    /// Whether it is so far from its mark that a line should lead there.
    pub is_far: bool,
}

/// Places for names in order of importance, in a field from (0, 0) to `field`; some find none.
///
/// Each tries positions around its mark, near ones first, and takes the one that hides fewest of the `marks`.
pub fn place(wishes: &[Wish], marks: &[(i32, i32)], field: (i32, i32), size: &Size) -> Vec<Option<Place>> {
    let height = size.font as i32 + 1;
    let mut taken: Vec<Field> = Vec::new();
    let mut places = Vec::with_capacity(wishes.len());
    for wish in wishes {
        let mut best: Option<(usize, Place, Field)> = None;
        let distances = [8, 14, 22, 32, 44, 58].into_iter().filter(|distance| *distance <= size.reach);
        for (i, distance) in distances.enumerate() {
            for (right, down) in [(1, 0), (-1, 0), (1, -1), (-1, -1), (0, -1), (1, 1), (-1, 1), (0, 1)] {
                let middle = wish.at.1 + down * (distance + if right == 0 { height / 2 } else { 0 });
                let left = wish.at.0
                    + match right {
                        1 => distance,
                        -1 => -distance - wish.width,
                        _ => -wish.width / 2,
                    };
                let here =
                    Field { left, right: left + wish.width, top: middle - height / 2, bottom: middle + height / 2 };
                let is_outside = here.left < 0 || here.top < 0 || here.right > field.0 || here.bottom > field.1;
                if is_outside || taken.iter().any(|other| other.meets(&here)) {
                    continue;
                }
                let hidden = marks.iter().filter(|mark| here.holds(**mark)).count();
                let cost = 4 * hidden + i;
                if best.as_ref().is_none_or(|(least, ..)| cost < *least) {
                    best = Some((cost, Place { left, middle, is_far: distance > 14 }, here));
                }
            }
        }
        // A name on top of a crowd is read by nobody.
        let best = best.filter(|(cost, ..)| *cost < 16);
        places.push(best.map(|(_, place, field)| {
            taken.push(field);
            place
        }));
    }
    places
}

struct Field {
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
}

impl Field {
    fn meets(&self, other: &Field) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    fn holds(&self, (x, y): (i32, i32)) -> bool {
        // A mark has a size.
        (self.left - 4..self.right + 4).contains(&x) && (self.top - 4..self.bottom + 4).contains(&y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_never_overlap_or_leave_the_field(
            marks in proptest::collection::vec((0..400i32, 0..300i32, 10..120i32), 0..60)
        ) {
            let wishes: Vec<Wish> = marks.iter().map(|&(x, y, width)| Wish { at: (x, y), width }).collect();
            let points: Vec<_> = marks.iter().map(|&(x, y, _)| (x, y)).collect();
            let places = place(&wishes, &points, (400, 300), &super::super::WIDE);
            let fields: Vec<_> = places
                .iter()
                .zip(&wishes)
                .filter_map(|(place, wish)| place.map(|p| (p.left, p.left + wish.width, p.middle)))
                .collect();
            for (i, a) in fields.iter().enumerate() {
                prop_assert!(a.0 >= 0 && a.1 <= 400 && a.2 >= 7 && a.2 <= 293);
                for b in &fields[..i] {
                    prop_assert!(a.1 <= b.0 || b.1 <= a.0 || (a.2 - b.2).abs() >= 13, "{:?} {:?}", a, b);
                }
            }
            prop_assert!(marks.len() != 1 || fields.len() == 1 || marks[0].2 > 100);
        }
    }
}

//! Axes: where a number goes, and which numbers are written.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;

/// How numbers are spread over an axis. A *place* is where a number goes, in no unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By their logarithm; everything up to the floor is at the floor, which is written as 0.
    Log {
        /// Greater than 0.
        floor: f64,
    },
    /// Evenly near 0 and by the logarithm beyond the unit, on both sides.
    Symmetric {
        /// Greater than 0.
        unit: f64,
    },
}

impl Scale {
    /// Where a number goes.
    pub fn place(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log { floor } => value.max(floor).log10(),
            Scale::Symmetric { unit } => value.signum() * (value.abs() / unit).ln_1p() / std::f64::consts::LN_10,
        }
    }

    fn value(self, place: f64) -> f64 {
        match self {
            Scale::Linear => place,
            Scale::Log { .. } => 10f64.powf(place),
            Scale::Symmetric { unit } => place.signum() * (10f64.powf(place.abs()) - 1.0) * unit,
        }
    }

    /// A logarithmic scale that shows all numbers; those that are not positive stand apart, below the smallest.
    pub fn log(values: impl Iterator<Item = f64> + Clone) -> Scale {
        let least = values.clone().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        let least = if least.is_finite() { least } else { 1.0 };
        let has_zero = values.into_iter().any(|value| value <= 0.0);
        Scale::Log { floor: if has_zero { least / 4.0 } else { least.min(f64::MAX) / 1e3 } }
    }
}

/// An axis over the places `low..high`.
pub struct Axis {
    /// How numbers are spread.
    pub scale: Scale,
    /// The first place.
    pub low: f64,
    /// The last place.
    pub high: f64,
    /// The numbers that are written.
    pub ticks: Vec<f64>,
    /// How they are.
    pub show: fn(f64) -> String,
}

impl Axis {
    /// An axis on which all values lie, with some room around them and about `most` numbers.
    pub fn over(scale: Scale, values: impl Iterator<Item = f64>, most: usize, show: fn(f64) -> String) -> Axis {
        let places = values.map(|value| scale.place(value)).filter(|place| place.is_finite());
        let (least, greatest) =
            places.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), place| (low.min(place), high.max(place)));
        let (least, greatest) = if least <= greatest { (least, greatest) } else { (0.0, 0.0) };
        let room = ((greatest - least) * 0.06).max(match scale {
            Scale::Linear => 0.01,
            _ => 0.02,
        });
        let (low, high) = (least - room, greatest + room);
        let inside = |value: &f64| (low..=high).contains(&scale.place(*value));
        let even = || even(scale.value(low), scale.value(high), most).into_iter().filter(inside).collect::<Vec<_>>();
        let mut numbers = match scale {
            Scale::Linear => even(),
            Scale::Log { floor } => {
                let numbers = thinned(|digits| decades(low, high, digits).into_iter().filter(inside).collect(), most);
                let mut numbers = if numbers.len() < 3 { even() } else { numbers };
                // Nothing else is written near the floor, which stands for 0.
                let gap = (high - low) / (2 * most) as f64;
                numbers.retain(|number| *number > 0.0 && (least > floor.log10() || number.log10() - least > gap));
                numbers
            }
            Scale::Symmetric { unit } => {
                let side = scale.place(scale.value(high).abs().max(scale.value(low).abs())) + unit.log10();
                let sides = |digits: &[f64]| {
                    let positive = decades(unit.log10(), side, digits);
                    let negative = positive.iter().rev().map(|number| -number);
                    negative.chain([0.0]).chain(positive.iter().copied()).filter(inside).collect()
                };
                thinned(sides, most)
            }
        };
        numbers.sort_by(f64::total_cmp);
        if let Scale::Log { floor } = scale
            && least <= floor.log10()
        {
            numbers.insert(0, 0.0);
        }
        Axis { scale, low, high, ticks: numbers, show }
    }

    /// The numbers at both ends.
    pub fn ends(&self) -> (f64, f64) {
        (self.scale.value(self.low), self.scale.value(self.high))
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    /// What lies beyond the axis is at its border.
    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (self.scale.place(*value).clamp(self.low, self.high) - self.low) / (self.high - self.low);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.ends().0..self.ends().1
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        (self.show)(*value)
    }
}

/// Multiples of 1, 2 or 5 times a power of ten, at most about `most`.
fn even(low: f64, high: f64, most: usize) -> Vec<f64> {
    let raw = (high - low) / most.max(1) as f64;
    if !(raw > 0.0 && raw.is_finite()) {
        return vec![low];
    }
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0].iter().map(|digit| digit * power).find(|step| *step >= raw).unwrap_or(10.0 * power);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// The digits times powers of ten between two powers.
fn decades(low: f64, high: f64, digits: &[f64]) -> Vec<f64> {
    let (low, high) = (low.floor().max(-300.0) as i32, high.ceil().min(300.0) as i32);
    (low..=high).flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power))).collect()
}

/// As many digits of each decade as leave at most `most` numbers, or each second decade, or third.
fn thinned(numbers: impl Fn(&[f64]) -> Vec<f64>, most: usize) -> Vec<f64> {
    for digits in [&[1.0, 2.0, 5.0] as &[f64], &[1.0, 3.0], &[1.0]] {
        let numbers = numbers(digits);
        if numbers.len() <= most {
            return numbers;
        }
    }
    let all = numbers(&[1.0]);
    let every = all.len().div_ceil(most.max(1));
    // 0 stays where there is one.
    let zero = all.iter().position(|number| *number == 0.0).unwrap_or(0);
    all.iter().enumerate().filter(|(i, _)| i.abs_diff(zero) % every == 0).map(|(_, number)| *number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(value: f64) -> String {
        value.to_string()
    }

    fn numbers(axis: &Axis) -> Vec<f64> {
        axis.ticks.iter().map(|tick| (tick * 1e9).round() / 1e9).collect()
    }

    #[test]
    fn ticks_are_round_numbers_within_the_axis() {
        let linear = Axis::over(Scale::Linear, [-0.83, 0.04].into_iter(), 6, show);
        assert_eq!(numbers(&linear), [-0.8, -0.6, -0.4, -0.2, 0.0]);
        let values = [0.03, 0.25, 1.0];
        let log = Axis::over(Scale::log(values.into_iter()), values.into_iter(), 8, show);
        assert_eq!(numbers(&log), [0.05, 0.1, 0.2, 0.5, 1.0]);
        let narrow = [0.9, 1.1];
        let narrow = Axis::over(Scale::log(narrow.into_iter()), narrow.into_iter(), 6, show);
        assert_eq!(numbers(&narrow), [0.9, 0.95, 1.0, 1.05, 1.1, 1.15]);
        let symmetric = Axis::over(Scale::Symmetric { unit: 0.001 }, [-0.01, 30.0].into_iter(), 8, show);
        assert_eq!(numbers(&symmetric), [-0.01, -0.001, 0.0, 0.001, 0.01, 0.1, 1.0, 10.0]);
    }

    #[test]
    fn zeros_stand_apart_on_a_logarithmic_scale() {
        let values = [0.0, 0.001, 2.0];
        let axis = Axis::over(Scale::log(values.into_iter()), values.into_iter(), 8, show);
        assert_eq!(axis.ticks[0], 0.0);
        assert!(axis.ticks[1] >= 0.001, "{:?}", axis.ticks);
        // Apart from the least, and on the axis.
        let pixel = |value: f64| axis.map(&value, (0, 1000));
        assert!(0 < pixel(0.0) && pixel(0.0) + 50 < pixel(0.001) && pixel(2.0) < 1000);
    }

    #[test]
    fn anything_makes_an_axis() {
        let odd: [&[f64]; 6] = [&[], &[0.0], &[5.0], &[f64::NAN], &[1e-300, 1e300], &[-1e308, 1e308]];
        for values in odd {
            let all = || values.iter().copied();
            for scale in [Scale::Linear, Scale::log(all()), Scale::Symmetric { unit: 0.001 }] {
                let axis = Axis::over(scale, all(), 6, show);
                assert!(axis.low < axis.high && axis.ticks.len() < 30, "{scale:?} {values:?}");
                assert!(
                    axis.ticks.iter().all(|tick| (axis.low..=axis.high).contains(&axis.scale.place(*tick))),
                    "{scale:?} {values:?}"
                );
            }
        }
    }
}

//! Numbers for people.

use super::estimate::Estimate;
use crate::statistics::Interval;

/// What stands where there is nothing.
pub const NONE: &str = "–";

/// About three digits, however small or great.
pub fn digits(value: f64) -> String {
    let size = value.abs();
    match () {
        () if !value.is_finite() => value.to_string(),
        () if value == 0.0 => "0".into(),
        () if !(1e-3..1e6).contains(&size) => minus(format!("{value:.1e}")),
        () if size >= 99.95 => minus(format!("{value:.0}")),
        () if size >= 9.995 => minus(format!("{value:.1}")),
        () if size >= 0.9995 => minus(format!("{value:.2}")),
        () => minus(format!("{value:.*}", (2.0 - size.log10().floor()).clamp(0.0, 6.0) as usize)),
    }
}

/// A share in percent.
pub fn percent(share: f64) -> String {
    format!("{}%", digits(100.0 * share))
}

/// A difference of two shares, in points of a hundred, with its sign.
pub fn points(difference: f64) -> String {
    signed(100.0 * difference, 1)
}

/// A ratio as a change in percent, with its sign; as a multiple where that is shorter.
pub fn change(ratio: f64) -> String {
    match (ratio - 1.0).abs() {
        _ if ratio >= 10.0 || !ratio.is_finite() => format!("×{}", digits(ratio)),
        far if far >= 0.1 => format!("{}%", signed(100.0 * (ratio - 1.0), 1)),
        _ => format!("{}%", signed(100.0 * (ratio - 1.0), 2)),
    }
}

/// A ratio as a multiple.
pub fn times(ratio: f64) -> String {
    if (0.1..100.0).contains(&ratio) { format!("{ratio:.2}×") } else { format!("{}×", digits(ratio)) }
}

/// `[low, high]`.
pub fn interval(interval: Interval, show: impl Fn(f64) -> String) -> String {
    format!("[{}, {}]", show(interval.low), show(interval.high))
}

/// `value [low, high]`.
pub fn estimate(estimate: &Estimate, show: impl Fn(f64) -> String) -> String {
    format!("{} {}", show(estimate.value), interval(estimate.interval, show))
}

/// Thousands in groups.
pub fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the unit that suits them.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{} {}", digits(value), units[unit]) }
}

/// Seconds since 1970 as a date and time, UTC.
pub fn time(seconds: u64) -> String {
    // Days from 1 March of year 0 fall into eras of 400 years, whose last day is the leap day.
    let days = (seconds / 86400).saturating_add(719_468);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (400 * era + year, if month < 10 { month + 3 } else { month - 9 });
    let year = year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{date:02} {:02}:{:02} UTC", seconds / 3600 % 24, seconds / 60 % 60)
}

/// A command line that a POSIX shell takes apart as it was.
pub fn command(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    let quote = |word: &String| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

fn signed(value: f64, digits: usize) -> String {
    let text = format!("{value:+.digits$}");
    // No sign where nothing is left of the number.
    if text.chars().any(|c| ('1'..='9').contains(&c)) || !value.is_finite() { minus(text) } else { text[1..].into() }
}

fn minus(text: String) -> String {
    text.replacen('-', "\u{2212}", 1).replace("e\u{2212}", "e-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [(0.0, "0"), (0.00012, "1.2e-4"), (0.0123456, "0.0123"), (0.5, "0.500"), (2.34567, "2.35")];
        cases.iter().for_each(|&(value, expected)| assert_eq!(digits(value), expected));
        let cases = [(23.4567, "23.5"), (234.567, "235"), (99.96, "100"), (-2.5, "\u{2212}2.50"), (3e7, "3.0e7")];
        cases.iter().for_each(|&(value, expected)| assert_eq!(digits(value), expected));
        assert_eq!(
            (points(-0.0345), points(0.0001), points(0.02)),
            ("\u{2212}3.5".into(), "0.0".into(), "+2.0".into())
        );
        assert_eq!((change(1.0123), change(0.998)), ("+1.23%".into(), "\u{2212}0.20%".into()));
        assert_eq!((change(2.5), change(31.0)), ("+150.0%".into(), "×31.0".into()));
        assert_eq!((count(1234567), count(123), bytes(1536)), ("1,234,567".into(), "123".into(), "1.50 KiB".into()));
    }

    #[test]
    fn times_are_those_of_date() {
        // date -u -d @…
        let cases = [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_785_542_399, "2026-07-31 23:59 UTC"),
        ];
        cases.iter().for_each(|&(seconds, expected)| assert_eq!(time(seconds), expected));
        assert_eq!(time(4_107_542_400), "2100-03-01 00:00 UTC", "2100 has no leap day");
    }

    #[test]
    fn commands_can_be_pasted() {
        let words = ["cachalot", "--kv", "snapkv(budget=0.25) + int4", "it's", ""].map(String::from);
        assert_eq!(command(&words), r"cachalot --kv 'snapkv(budget=0.25) + int4' 'it'\''s' ''");
    }
}

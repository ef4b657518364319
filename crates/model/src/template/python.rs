//! What chat templates expect of Python: how values print, `json.dumps`, `strftime`.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// `str(value)`: what `{{ value }}` prints.
pub(super) fn to_str(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_undefined() => String::new(),
        None => {
            let mut out = String::new();
            repr(value, &mut out);
            out
        }
    }
}

/// `repr(value)`.
fn repr(value: &Value, out: &mut String) {
    match value.kind() {
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::None | ValueKind::Undefined => out.push_str("None"),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => sequence(value, out, ('[', ']'), repr),
        ValueKind::Map => sequence(value, out, ('{', '}'), |key, out| {
            repr(key, out);
            out.push_str(": ");
            repr(&value.get_item(key).unwrap_or_default(), out);
        }),
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

fn sequence(value: &Value, out: &mut String, (open, close): (char, char), each: impl Fn(&Value, &mut String)) {
    out.push(open);
    for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        each(&item, out);
    }
    out.push(close);
}

fn quote(text: &str, out: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == mark => out.extend(['\\', c]),
            c if (c as u32) < 0x20 || c == '\x7f' => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(mark);
}

/// The filter `tojson` as transformers defines it: `json.dumps` without escapes for HTML.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = match indent.filter(|v| !v.is_none()) {
        Some(v) => Some(usize::try_from(v)?.min(32)),
        None => None,
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two strings")),
        None => (if indent.is_some() { "," } else { ", " }.into(), ": ".into()),
    };
    let json = Json {
        indent,
        item,
        key,
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut out = String::new();
    json.write(value, 0, &mut out)?;
    Ok(out)
}

struct Json {
    indent: Option<usize>,
    item: String,
    key: String,
    ascii: bool,
    sort: bool,
}

impl Json {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => {
                let _ = write!(out, "{value}");
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out)?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(('[', ']'), &items, depth, out, |item, out| self.write(item, depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                self.list(('{', '}'), &keys, depth, out, |key, out| {
                    match key.as_str() {
                        Some(text) => self.string(text, out)?,
                        None => self.string(&to_str(key), out)?,
                    }
                    out.push_str(&self.key);
                    self.write(&value.get_item(key)?, depth + 1, out)
                })?;
            }
            other => {
                return Err(Error::new(ErrorKind::InvalidOperation, format!("{other} cannot be written as JSON")));
            }
        }
        Ok(())
    }

    fn list(
        &self,
        (open, close): (char, char),
        items: &[Value],
        depth: usize,
        out: &mut String,
        each: impl Fn(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let newline = |depth: usize, out: &mut String| {
            if let Some(width) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', width * depth));
            }
        };
        out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(&self.item);
            }
            newline(depth + 1, out);
            each(item, out)?;
        }
        if !items.is_empty() {
            newline(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) -> Result<(), Error> {
        let quoted =
            serde_json::to_string(text).map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}")))?;
        if !self.ascii {
            out.push_str(&quoted);
            return Ok(());
        }
        for unit in quoted.encode_utf16() {
            match u8::try_from(unit).ok().filter(u8::is_ascii) {
                Some(ascii) => out.push(ascii as char),
                None => {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
        Ok(())
    }
}

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// `strftime` for the directives that templates use, in UTC. Unknown directives stay as they are.
pub(super) fn strftime(format: &str, now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let (year, month, day) = civil(days);
    let weekday = ((days + 4) % 7) as usize;
    let of_year = days - days_before(year) + 1;
    let (month_name, day_name) = (MONTHS[(month as usize - 1) % 12], DAYS[weekday]);
    let half = (hour + 11) % 12 + 1;

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let mut two = |n: u64| {
            let _ = if bare { write!(out, "{n}") } else { write!(out, "{n:02}") };
        };
        match directive {
            Some('d') => two(day),
            Some('m') => two(month),
            Some('H') => two(hour),
            Some('I') => two(half),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('y') => two(year % 100),
            Some('j') if !bare => out.push_str(&format!("{of_year:03}")),
            Some('j') => two(of_year),
            Some('e') => out.push_str(&format!("{day:2}")),
            Some('Y') => out.push_str(&year.to_string()),
            Some('B') => out.push_str(month_name),
            Some('b' | 'h') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('w') => out.push_str(&weekday.to_string()),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('T') => out.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
            Some('Z') => out.push_str("UTC"),
            Some('z') => out.push_str("+0000"),
            Some('%') => out.push('%'),
            other => {
                out.push('%');
                if bare {
                    out.push('-');
                }
                out.extend(other);
            }
        }
    }
    out
}

/// Days from 1970-01-01 to the first of January of `year`.
fn days_before(year: u64) -> u64 {
    let y = year - 1;
    y * 365 + y / 4 - y / 100 + y / 400 - 719_162
}

/// Year, month and day of the day so many days after 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let mut year = 1970 + days / 366;
    while days_before(year + 1) <= days {
        year += 1;
    }
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut day = days - days_before(year);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    for (month, length) in (1..).zip(lengths) {
        if day < length {
            return (year, month, day + 1);
        }
        day -= length;
    }
    (year, 12, 31)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn strftime_knows_the_calendar() {
        // Expected values from Python's datetime (UTC).
        let cases = [
            (0, "%Y-%m-%d %H:%M:%S %A %j", "1970-01-01 00:00:00 Thursday 001"),
            (951_782_399, "%d %b %Y %a %p %I", "28 Feb 2000 Mon PM 11"),
            (951_782_400, "%d %B %y %-d %-m", "29 February 00 29 2"),
            (1_735_689_599, "%F %T %w %j", "2024-12-31 23:59:59 2 366"),
            (4_107_542_400, "%Y%m%d %q %% %", "21000301 %q % %"),
        ];
        for (seconds, format, expected) in cases {
            assert_eq!(strftime(format, UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn values_print_as_in_python() {
        let value: Value =
            [Value::from("it's"), Value::from(true), Value::from(()), Value::from(1.0)].into_iter().collect();
        assert_eq!(to_str(&value), r#"["it's", True, None, 1.0]"#);
        let map = Value::from_pairs([("a", Value::from("x\n'\"")), ("b", Value::from(2))]);
        assert_eq!(to_str(&map), r#"{'a': 'x\n\'"', 'b': 2}"#);
        assert_eq!((to_str(&Value::UNDEFINED), to_str(&Value::from(()))), (String::new(), "None".into()));
    }
}

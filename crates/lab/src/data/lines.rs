//! JSON lines, of which some may be broken.

use super::Item;
use super::fields::Fields;
use crate::LabError;
use crate::tasks::Posed;
use std::path::Path;

/// The good lines of a file, and what is wrong with the others.
///
/// # Errors
/// [`LabError::Io`] for a file that cannot be read, [`LabError::Text`] for one without a good line.
pub(super) fn read(
    path: &Path,
    parse: &dyn Fn(&Fields) -> Result<Posed, String>,
) -> Result<(Vec<Item>, Vec<String>), LabError> {
    let wrap = |source| LabError::Io { what: "read", path: path.into(), source };
    let bytes = std::fs::read(path).map_err(wrap)?;
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    let (mut items, mut warnings) = (Vec::new(), Vec::new());
    for (at, bytes) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let line = at + 1;
        match object(bytes).and_then(|fields| Ok((fields.id()?, parse(&fields)?))) {
            Ok((id, posed)) => items.push(Item { line, id: id.unwrap_or_else(|| line.to_string()), posed }),
            Err(reason) => warnings.push(format!("{}, line {line}: {reason}", path.display())),
        }
    }
    if items.is_empty() {
        let reason = match warnings.first() {
            Some(first) => format!("has no line that can be used; {first}"),
            None => "is empty; give a file with a JSON object in each line".into(),
        };
        return Err(LabError::Text { path: path.into(), reason });
    }
    Ok((items, warnings))
}

fn object(line: &[u8]) -> Result<Fields, String> {
    let text = std::str::from_utf8(line).map_err(|e| format!("is not UTF-8: byte {} is wrong", e.valid_up_to()))?;
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(fields)) => Ok(Fields(fields)),
        Ok(_) => Err("is no JSON object".into()),
        // The line of the message would always be the first.
        Err(e) => Err(format!("is broken JSON: {}", e.to_string().replace("line 1 column", "column"))),
    }
}

//! Safetensors: the header of one file, and folders of one or many.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::path::{Component, Path};

use safetensors::tensor::{Dtype, Metadata};
use serde_json::Value;

use super::checkpoint::{Checkpoint, Entry};
use super::source::Source;
use crate::ModelError;
use crate::gguf::GgmlType;

/// Headers above this are refused; the largest published ones are a few megabytes.
const MAX_HEADER: u64 = 100_000_000;

/// A parsed header and where the data begins.
#[derive(Debug)]
pub struct SafetensorsHeader {
    metadata: Metadata,
    data_offset: u64,
}

impl SafetensorsHeader {
    /// Number of tensors.
    pub fn tensors(&self) -> usize {
        self.metadata.tensors().len()
    }
}

/// Parses the header of a safetensors file of `len` bytes; `path` is for messages.
///
/// The declared length is compared with `len` before memory is taken. Names, types, shapes and offsets are checked by
/// the safetensors crate; that the data reaches exactly to the end of the file is checked here.
///
/// # Errors
/// `BadMagic`, `Truncated` (with the section and offset) and `Malformed`.
pub fn header<R: Read>(mut reader: R, len: u64, path: &Path) -> Result<SafetensorsHeader, ModelError> {
    let truncated =
        |section: &str, offset: u64| ModelError::Truncated { path: path.into(), section: section.into(), offset, len };
    let malformed = |section: &str, offset: u64, reason: String| ModelError::Malformed {
        path: path.into(),
        section: section.into(),
        offset,
        reason,
    };
    let mut read = |out: &mut [u8]| {
        reader.read_exact(out).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => ModelError::Changed { path: path.into() },
            _ => ModelError::io(path, e),
        })
    };
    if len < 8 {
        return Err(truncated("header length", 8));
    }
    let mut size = [0; 8];
    read(&mut size)?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER {
        let found = format!("a header length of {size}");
        return Err(ModelError::BadMagic { path: path.into(), kind: "safetensors", found });
    }
    if size > len - 8 {
        return Err(truncated("header", 8 + size));
    }
    let mut text = vec![0; size as usize];
    read(&mut text)?;
    if text.first() != Some(&b'{') {
        let start: String = text.iter().take(8).flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
        let found = format!("\"{start}\" where its header should be");
        return Err(ModelError::BadMagic { path: path.into(), kind: "safetensors", found });
    }
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|e| malformed("header", 8, e.to_string()))?;
    let data_offset = 8 + size;
    let mut end = data_offset;
    for (name, info) in metadata.tensors() {
        let Some(stop) = data_offset.checked_add(info.data_offsets.1 as u64) else {
            return Err(malformed("header", 8, format!("tensor {name:.64} ends beyond any file")));
        };
        if stop > len {
            return Err(truncated(&format!("tensor data ({name:.64})"), stop));
        }
        end = end.max(stop);
    }
    if end != len {
        let reason = format!("{} bytes follow the last tensor", len - end);
        return Err(malformed("tensor data", end, reason));
    }
    Ok(SafetensorsHeader { metadata, data_offset })
}

/// Opens the weights of a Hugging Face folder.
pub(super) fn open_folder(dir: &Path) -> Result<Checkpoint, ModelError> {
    let index = dir.join("model.safetensors.index.json");
    let single = dir.join("model.safetensors");
    if single.is_file() {
        let mut all = Checkpoint::new(dir);
        add_file(&mut all, &single, None)?;
        return Ok(all);
    }
    if !index.is_file() {
        let others = ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors"];
        let mend = match others.iter().find(|f| dir.join(f).is_file()) {
            Some(found) => format!("the folder has {found} instead; convert it with transformers' save_pretrained"),
            None => "neither that nor model.safetensors.index.json is there; download the folder again".into(),
        };
        return Err(ModelError::NotFound { what: "model.safetensors".into(), path: dir.into(), mend });
    }
    let map = weight_map(&index)?;
    let mut all = Checkpoint::new(dir);
    for (file, names) in &map {
        let path = dir.join(file);
        if !path.is_file() {
            let mend = format!("{} lists it; download the folder again", index.display());
            return Err(ModelError::NotFound { what: "weights".into(), path, mend });
        }
        add_file(&mut all, &path, Some(names))?;
    }
    Ok(all)
}

/// File name to the tensors that the index says it holds.
fn weight_map(index: &Path) -> Result<BTreeMap<String, BTreeSet<String>>, ModelError> {
    let config = |key: &str, reason: String| ModelError::config(index, key, reason);
    let value: Value = super::json_file(index)?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| config("weight_map", "an object of tensor names and file names is needed".into()))?;
    let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (tensor, file) in map {
        let Some(file) = file.as_str() else {
            return Err(config(&format!("weight_map.{tensor:.64}"), "a file name is needed".into()));
        };
        // An index must not lead out of its folder.
        let mut parts = Path::new(file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(config(&format!("weight_map.{tensor:.64}"), format!("{file:?} is not a plain file name")));
        }
        files.entry(file.to_owned()).or_default().insert(tensor.clone());
    }
    if files.is_empty() {
        return Err(config("weight_map", "it is empty".into()));
    }
    Ok(files)
}

fn add_file(all: &mut Checkpoint, path: &Path, wanted: Option<&BTreeSet<String>>) -> Result<(), ModelError> {
    let source = Source::open(path)?;
    let header = header(std::io::BufReader::new(source.reader()?), source.len(), path)?;
    let tensors: HashMap<String, _> = header.metadata.tensors();
    if let Some(name) = wanted.into_iter().flatten().find(|name| !tensors.contains_key(*name)) {
        return Err(ModelError::MissingTensor { tensor: name.clone(), path: path.into() });
    }
    let file = all.add_source(source);
    for (name, info) in tensors {
        if wanted.is_some_and(|w| !w.contains(&name)) {
            continue;
        }
        let kind = match info.dtype {
            Dtype::F32 => Ok(GgmlType::F32),
            Dtype::F16 => Ok(GgmlType::F16),
            Dtype::BF16 => Ok(GgmlType::Bf16),
            other => Err(format!("{other:?}")),
        };
        let offset = header.data_offset + info.data_offsets.0 as u64;
        all.add(name, Entry { shape: info.shape.clone(), kind, file, offset });
    }
    Ok(())
}

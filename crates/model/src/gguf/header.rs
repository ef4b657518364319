//! Everything of a GGUF file before its tensor data.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::kind::GgmlType;
use super::metadata::Metadata;
use super::reader::Reader;
use super::value::{Array, Value};
use crate::ModelError;

/// Where one tensor lies and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, e.g. "blk.0.attn_q.weight".
    pub name: String,
    /// Its shape, outermost first (the reverse of the file's order): a matrix is `[out, in]`.
    pub shape: Vec<usize>,
    /// The type's number in the file; see [`GgmlType::from_code`].
    pub code: u32,
    /// First byte in the file.
    pub offset: u64,
}

/// The parsed head of a file.
#[derive(Clone, Debug)]
pub struct Header {
    /// The format's version, 2 or 3.
    pub version: u32,
    /// The key-value section.
    pub metadata: Metadata,
    /// The tensors, in the order of the file; names are unique and data lies inside the file.
    pub tensors: Vec<TensorInfo>,
    /// Offset of the first byte of tensor data.
    pub data_offset: u64,
    index: HashMap<String, usize>,
}

impl Header {
    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).and_then(|i| self.tensors.get(*i))
    }
}

/// Opens a file and parses its header.
pub fn open(path: &Path) -> Result<Header, ModelError> {
    let file = File::open(path).map_err(|e| ModelError::io(path, e))?;
    let len = file.metadata().map_err(|e| ModelError::io(path, e))?.len();
    parse(BufReader::with_capacity(1 << 16, file), len, path)
}

/// Parses a header from `reader`, whose file has `len` bytes; `path` is for messages.
///
/// # Errors
/// `BadMagic`, `Truncated` (with the section and offset), `Malformed`, `Unsupported` (version, big-endian, sharded).
pub fn parse<R: Read>(reader: R, len: u64, path: &Path) -> Result<Header, ModelError> {
    let mut r = Reader::new(reader, len, path);
    magic(&mut r)?;
    let version = version(&mut r)?;
    r.enter("header");
    // Lower bounds of what one entry takes: key length, a byte of key, type and a byte of value; name length, a byte of
    // name, dimensions, one of them, type and offset.
    let tensors = r.count(8 + 1 + 4 + 8 + 4 + 8, "tensors")?;
    let pairs = r.count(8 + 1 + 4 + 1, "metadata keys")?;
    let metadata = metadata(&mut r, pairs)?;
    if metadata.unsigned("split.count")?.is_some_and(|n| n > 1) {
        return Err(ModelError::unsupported(
            format!("{}: a GGUF model split over several files", path.display()),
            "join the parts with `llama-gguf-split --merge` first",
        ));
    }
    let alignment = alignment(&metadata)?;
    let mut list = tensor_list(&mut r, tensors)?;
    r.enter("padding before the tensor data");
    let data_offset = r.offset().next_multiple_of(alignment);
    place(&r, &mut list, data_offset, alignment)?;
    let mut index = HashMap::with_capacity(list.len());
    for (i, t) in list.iter().enumerate() {
        if index.insert(t.name.clone(), i).is_some() {
            r.enter("tensor list");
            return Err(r.malformed(t.offset, format!("tensor {} is listed twice", t.name)));
        }
    }
    Ok(Header { version, metadata, tensors: list, data_offset, index })
}

fn magic<R: Read>(r: &mut Reader<'_, R>) -> Result<(), ModelError> {
    let found: [u8; 4] = r.bytes()?;
    if &found == b"GGUF" {
        return Ok(());
    }
    let text: String = found.iter().flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
    Err(ModelError::BadMagic { path: r.path().into(), kind: "GGUF", found: format!("\"{text}\"") })
}

fn version<R: Read>(r: &mut Reader<'_, R>) -> Result<u32, ModelError> {
    r.enter("version");
    let version = r.u32()?;
    if version == 2 || version == 3 {
        return Ok(version);
    }
    let what = if matches!(version.swap_bytes(), 1..=3) {
        format!("{}: a big-endian GGUF file", r.path().display())
    } else {
        format!("{}: GGUF version {version}", r.path().display())
    };
    Err(ModelError::unsupported(what, "versions 2 and 3, little-endian, can be read"))
}

fn metadata<R: Read>(r: &mut Reader<'_, R>, pairs: usize) -> Result<Metadata, ModelError> {
    let mut values = BTreeMap::new();
    for i in 0..pairs {
        r.enter(format!("metadata, key {} of {pairs}", i + 1));
        let at = r.offset();
        let key = r.string()?;
        r.enter(format!("metadata, key {} of {pairs} ({key:.64})", i + 1));
        let value = value(r)?;
        if values.contains_key(&key) {
            return Err(r.malformed(at, format!("key {key:.64} is given twice")));
        }
        values.insert(key, value);
    }
    Ok(Metadata::new(r.path(), values))
}

/// Value types of the format, by number.
mod code {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}

fn value<R: Read>(r: &mut Reader<'_, R>) -> Result<Value, ModelError> {
    let at = r.offset();
    Ok(match r.u32()? {
        c @ (code::U8 | code::U16 | code::U32 | code::U64) => Value::Unsigned(unsigned(r, c)?),
        c @ (code::I8 | code::I16 | code::I32 | code::I64) => Value::Signed(signed(r, c)?),
        code::F32 => Value::Float(f32::from_le_bytes(r.bytes()?).into()),
        code::F64 => Value::Float(f64::from_le_bytes(r.bytes()?)),
        code::BOOL => Value::Bool(boolean(r)?),
        code::STRING => Value::String(r.string()?),
        code::ARRAY => Value::Array(array(r)?),
        other => return Err(r.malformed(at, format!("value type {other} does not exist"))),
    })
}

fn unsigned<R: Read>(r: &mut Reader<'_, R>, c: u32) -> Result<u64, ModelError> {
    Ok(match c {
        code::U8 => u64::from(r.bytes::<1>()?[0]),
        code::U16 => u64::from(u16::from_le_bytes(r.bytes()?)),
        code::U32 => u64::from(r.u32()?),
        _ => r.u64()?,
    })
}

fn signed<R: Read>(r: &mut Reader<'_, R>, c: u32) -> Result<i64, ModelError> {
    Ok(match c {
        code::I8 => i64::from(i8::from_le_bytes(r.bytes()?)),
        code::I16 => i64::from(i16::from_le_bytes(r.bytes()?)),
        code::I32 => i64::from(i32::from_le_bytes(r.bytes()?)),
        _ => i64::from_le_bytes(r.bytes()?),
    })
}

fn boolean<R: Read>(r: &mut Reader<'_, R>) -> Result<bool, ModelError> {
    let at = r.offset();
    match r.bytes::<1>()?[0] {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(r.malformed(at, format!("a boolean has the value {other}"))),
    }
}

fn array<R: Read>(r: &mut Reader<'_, R>) -> Result<Array, ModelError> {
    let at = r.offset();
    let c = r.u32()?;
    let each = match c {
        code::U8 | code::I8 | code::BOOL => 1,
        code::U16 | code::I16 => 2,
        code::U32 | code::I32 | code::F32 => 4,
        code::U64 | code::I64 | code::F64 | code::STRING => 8,
        code::ARRAY => return Err(r.malformed(at, "an array of arrays")),
        other => return Err(r.malformed(at, format!("array type {other} does not exist"))),
    };
    let n = r.count_here(each, "array elements")?;
    Ok(match c {
        code::U8 | code::U16 | code::U32 | code::U64 => Array::Unsigned(many(n, || unsigned(r, c))?),
        code::I8 | code::I16 | code::I32 | code::I64 => Array::Signed(many(n, || signed(r, c))?),
        code::F32 => Array::Float(many(n, || Ok(f32::from_le_bytes(r.bytes()?)))?),
        code::F64 => Array::Float(many(n, || Ok(f64::from_le_bytes(r.bytes()?) as f32))?),
        code::BOOL => Array::Bool(many(n, || boolean(r))?),
        _ => Array::String(many(n, || r.string())?),
    })
}

/// `n` was checked against the file, but an element may be wider in memory: the list grows as elements arrive.
fn many<T>(n: usize, mut next: impl FnMut() -> Result<T, ModelError>) -> Result<Vec<T>, ModelError> {
    let mut out = Vec::with_capacity(n.min(256));
    for _ in 0..n {
        out.push(next()?);
    }
    Ok(out)
}

fn alignment(metadata: &Metadata) -> Result<u64, ModelError> {
    let key = "general.alignment";
    match metadata.unsigned(key)? {
        None => Ok(32),
        Some(a) if a.is_power_of_two() && a <= 1 << 20 => Ok(a),
        Some(a) => Err(metadata.bad(key, format!("{a} is not a power of two up to a mebibyte"))),
    }
}

fn tensor_list<R: Read>(r: &mut Reader<'_, R>, tensors: usize) -> Result<Vec<TensorInfo>, ModelError> {
    let mut list = Vec::with_capacity(tensors.min(256));
    for i in 0..tensors {
        r.enter(format!("tensor list, entry {} of {tensors}", i + 1));
        let name = r.string()?;
        r.enter(format!("tensor list, entry {} of {tensors} ({name:.64})", i + 1));
        let at = r.offset();
        let dims = r.u32()?;
        if !(1..=4).contains(&dims) {
            return Err(r.malformed(at, format!("{dims} dimensions; 1 to 4 are possible")));
        }
        let mut shape = Vec::with_capacity(4);
        for _ in 0..dims {
            let at = r.offset();
            let d = r.u64()?;
            shape.push(usize::try_from(d).map_err(|_| r.malformed(at, format!("a dimension of {d}")))?);
        }
        shape.reverse();
        let code = r.u32()?;
        let offset = r.u64()?;
        list.push(TensorInfo { name, shape, code, offset });
    }
    Ok(list)
}

/// Turns offsets within the data into offsets within the file, checking that everything known lies inside it.
fn place<R: Read>(
    r: &Reader<'_, R>,
    list: &mut [TensorInfo],
    data_offset: u64,
    alignment: u64,
) -> Result<(), ModelError> {
    let mut spans = Vec::with_capacity(list.len());
    for t in list.iter_mut() {
        let section = || format!("tensor data ({:.64})", t.name);
        let malformed = |offset: u64, reason: String| ModelError::Malformed {
            path: r.path().into(),
            section: section(),
            offset,
            reason,
        };
        if t.offset % alignment != 0 {
            return Err(malformed(t.offset, format!("its offset is not a multiple of {alignment}")));
        }
        let Some(start) = data_offset.checked_add(t.offset) else {
            return Err(malformed(t.offset, "its offset is beyond any file".into()));
        };
        t.offset = start;
        // A type that cannot be loaded has no size known here; loading it is refused by name later.
        let Some(kind) = GgmlType::from_code(t.code) else { continue };
        let elements = t.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64));
        let row = t.shape.last().copied().unwrap_or(0);
        if row % kind.block_elements() != 0 {
            let block = kind.block_elements();
            return Err(malformed(start, format!("rows of {row} elements are not whole blocks of {block}")));
        }
        let bytes = elements.and_then(|n| (n / kind.block_elements() as u64).checked_mul(kind.block_bytes() as u64));
        let Some(end) = bytes.and_then(|b| start.checked_add(b)) else {
            return Err(malformed(start, format!("its shape {:?} is beyond any file", t.shape)));
        };
        if end > r.len() {
            return Err(ModelError::Truncated { path: r.path().into(), section: section(), offset: end, len: r.len() });
        }
        if end > start {
            spans.push((start, end, t.name.as_str()));
        }
    }
    spans.sort_unstable();
    for pair in spans.windows(2) {
        if let [(_, end, first), (start, _, second)] = pair
            && start < end
        {
            return Err(ModelError::Malformed {
                path: r.path().into(),
                section: format!("tensor data ({second:.64})"),
                offset: *start,
                reason: format!("it overlaps tensor {first:.64}"),
            });
        }
    }
    Ok(())
}

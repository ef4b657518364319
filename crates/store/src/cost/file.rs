//! What was learned about a machine, kept over a restart: a small file beside the disk tier.
//!
//! Three lines and then JSON: the name and version of the format, BLAKE3 of all that follows, and the scope, a digest of all that
//! costs depend on (machine, model, codecs). Whatever is wrong with the file, nothing is lost but what was learned.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::CostModel;
use crate::StoreError;

/// Its name in the folder of the disk tier.
pub const NAME: &str = "cost";
/// The same while it is written.
pub const TEMPORARY: &str = "cost.tmp";

const FORMAT: &str = "cachalot cost model v1";
/// A file of ours has a few kilobytes.
const MOST: u64 = 1 << 20;

/// Where a cost model is kept.
#[derive(Clone, Debug)]
pub struct CostFile {
    path: PathBuf,
    scope: String,
}

impl CostFile {
    /// In this folder; for a machine and a model that these fields tell from others.
    pub fn new(folder: PathBuf, fields: &[&[u8]]) -> CostFile {
        let mut hasher = blake3::Hasher::new_derive_key("cachalot cost scope v1");
        for field in fields {
            hasher.update(&(field.len() as u64).to_le_bytes()).update(field);
        }
        CostFile { path: folder.join(NAME), scope: hasher.finalize().to_hex().to_string() }
    }

    /// What was learned; `None` where there is nothing, or of another machine or model.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where the file is not what was written, or of another version; [`StoreError::Io`].
    pub fn read(&self) -> Result<Option<CostModel>, StoreError> {
        let text = match std::fs::metadata(&self.path).and_then(|meta| match meta.len() > MOST {
            true => Err(ErrorKind::FileTooLarge.into()),
            false => std::fs::read_to_string(&self.path),
        }) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| self.io(error))?,
        };
        let corrupt =
            |what: &str| StoreError::Corrupt { place: self.path.display().to_string(), what: what.to_owned() };
        let (format, rest) = text.split_once('\n').ok_or_else(|| corrupt("no cost model"))?;
        if format != FORMAT {
            return Err(corrupt("no cost model, or one of another version"));
        }
        let (digest, rest) = rest.split_once('\n').ok_or_else(|| corrupt("cut short"))?;
        if digest != blake3::hash(rest.as_bytes()).to_hex().as_str() {
            return Err(corrupt("its checksum is wrong"));
        }
        let (scope, json) = rest.split_once('\n').ok_or_else(|| corrupt("cut short"))?;
        if scope != self.scope {
            return Ok(None);
        }
        CostModel::from_json(json).map(Some)
    }

    /// Writes it whole or not at all. It is not synced: what a power failure breaks the checksum finds.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::Corrupt`] for numbers that are none.
    pub fn write(&self, model: &CostModel) -> Result<(), StoreError> {
        let rest = format!("{}\n{}", self.scope, model.to_json()?);
        let text = format!("{FORMAT}\n{}\n{rest}", blake3::hash(rest.as_bytes()).to_hex());
        let temporary = self.path.with_file_name(TEMPORARY);
        std::fs::write(&temporary, text).map_err(|error| self.io(error))?;
        std::fs::rename(&temporary, &self.path).map_err(|error| self.io(error))
    }

    fn io(&self, source: std::io::Error) -> StoreError {
        StoreError::Io { place: self.path.display().to_string(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_and_never_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let file = |model: &str| CostFile::new(folder.path().to_owned(), &[b"machine", model.as_bytes()]);
        assert_eq!(file("a").read().unwrap(), None);
        let mut model = CostModel::default();
        (1..50).for_each(|n| model.observe_tier("disk", n * 1000, n as f64 * 1e-3));
        file("a").write(&model).unwrap();
        // Numbers come back but for their last bit.
        let read = file("a").read().unwrap().unwrap();
        assert_eq!(read.observations(), model.observations());
        assert!((read.transfer("disk", 1000) / model.transfer("disk", 1000) - 1.0).abs() < 1e-12);
        assert_eq!(file("b").read().unwrap(), None, "another model's");
        assert_eq!(CostFile::new(folder.path().to_owned(), &[b"machinea"]).read().unwrap(), None, "fields have ends");
        let path = folder.path().join(NAME);
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(file("a").read().is_err(), "bit of byte {at}");
            std::fs::write(&path, &bytes[..at]).unwrap();
            assert!(file("a").read().is_err(), "cut at {at}");
        }
        // Written over what is broken.
        file("a").write(&model).unwrap();
        assert!(file("a").read().unwrap().is_some());
    }
}

//! Profiles: what calibration learned about one model for one recipe, as a safetensors file.
//!
//! The file's metadata has one entry, `cachalot-profile`: a JSON object with [`Origin`], the version of the format and
//! a BLAKE3 checksum of everything. Tensors are 32-bit floats named as [`crate::encode::stage::Context::tensor_name`]
//! names them.

use crate::encode::codec::Side;
use crate::encode::stage::{NamedTensor, Tensors};
use crate::recipe::Measure;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

/// The version this program writes and reads.
pub const VERSION: u32 = 1;
const KEY: &str = "cachalot-profile";

/// What a profile was made from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Origin {
    /// BLAKE3 of the model's weights and configuration, in hexadecimal.
    pub model: String,
    /// The model's name, for people.
    pub model_name: String,
    /// The recipe it was made for.
    pub recipe: String,
    /// [`crate::recipe::Encode::digest`] of the keys.
    pub keys: String,
    /// [`crate::recipe::Encode::digest`] of the values.
    pub values: String,
    /// What was measured of heads, if anything: a [`crate::recipe::Measure`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<String>,
    /// Seed of everything random.
    pub seed: u64,
    /// BLAKE3 of the text, in hexadecimal.
    pub text: String,
    /// Tokens of the text that were used.
    pub tokens: usize,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    version: u32,
    #[serde(flatten)]
    origin: Origin,
    checksum: String,
}

/// Only what every version has.
#[derive(serde::Deserialize)]
struct AnyHeader {
    version: u32,
}

/// A calibration of one model for one recipe.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    origin: Origin,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

/// Why a profile cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be read or written.
    #[error("cannot {verb} the profile {path}: {reason}")]
    Io {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// Some other kind of file.
    #[error("{path} is no calibration profile: {reason}; make one with `cachalot calibrate`")]
    NotAProfile {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// A file that ends too early, or whose bytes changed.
    #[error("the profile {path} is damaged: {reason}; copy it again, or make it again with `cachalot calibrate`")]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Written by another version of this program.
    #[error(
        "the profile {path} has format version {found}, and this program reads {VERSION}; make it again with `cachalot calibrate`"
    )]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: u32,
    },
    /// Made for another model.
    #[error(
        "the profile was made for the model {name} ({made_for:.12}…), and this one is {model:.12}…; make one for this \
         model with `cachalot calibrate`"
    )]
    Model {
        /// Name of the model it was made for.
        name: String,
        /// Digest of the model it was made for.
        made_for: String,
        /// Digest of the model at hand.
        model: String,
    },
    /// Made without what budgets of heads need.
    #[error(
        "the profile was made for the recipe {made_for}, without the {measure} of heads that {recipe} needs; make one with \
         `cachalot calibrate --recipe {recipe}`"
    )]
    Heads {
        /// The recipe it was made for.
        made_for: String,
        /// The recipe at hand.
        recipe: String,
        /// A [`crate::recipe::Measure`].
        measure: &'static str,
    },
    /// Made for other stages.
    #[error(
        "the profile was made for the recipe {made_for}, whose {side} differ from those of {recipe}; make one with \
         `cachalot calibrate --recipe {recipe}`"
    )]
    Recipe {
        /// The recipe it was made for.
        made_for: String,
        /// The recipe at hand.
        recipe: String,
        /// `keys` or `values`.
        side: &'static str,
    },
}

impl Profile {
    /// A profile of these tensors.
    pub fn new(origin: Origin, tensors: impl IntoIterator<Item = NamedTensor>) -> Profile {
        let tensors = tensors.into_iter().map(|tensor| (tensor.name, (tensor.shape, tensor.data)));
        Profile { origin, tensors: tensors.collect() }
    }

    /// What it was made from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Bytes of its tensors.
    pub fn bytes(&self) -> usize {
        self.tensors.values().map(|(_, data)| 4 * data.len()).sum()
    }

    /// Names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ProfileError::Io`], [`ProfileError::NotAProfile`], [`ProfileError::Corrupt`], [`ProfileError::Version`].
    pub fn read(path: &Path) -> Result<Profile, ProfileError> {
        let shown = path.display().to_string();
        let bytes = std::fs::read(path);
        let bytes = bytes.map_err(|e| ProfileError::Io { verb: "read", path: shown.clone(), reason: e.to_string() })?;
        Profile::from_bytes(&bytes, &shown)
    }

    /// [`Profile::read`] of bytes that are there already; `path` is for messages.
    ///
    /// # Errors
    /// As [`Profile::read`].
    pub fn from_bytes(bytes: &[u8], path: &str) -> Result<Profile, ProfileError> {
        let path = path.to_owned();
        let corrupt = |reason: String| ProfileError::Corrupt { path: path.clone(), reason };
        let other = |reason: &str| ProfileError::NotAProfile { path: path.clone(), reason: reason.to_owned() };
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| corrupt(error.to_string()))?;
        let header = metadata.metadata().as_ref().and_then(|map| map.get(KEY));
        let header = header.ok_or_else(|| other("its metadata has no entry `cachalot-profile`"))?;
        let AnyHeader { version } = serde_json::from_str(header).map_err(|e| corrupt(format!("its metadata: {e}")))?;
        if version != VERSION {
            return Err(ProfileError::Version { path: path.clone(), found: version });
        }
        let header: Header = serde_json::from_str(header).map_err(|e| corrupt(format!("its metadata: {e}")))?;
        let file = SafeTensors::deserialize(bytes).map_err(|error| corrupt(error.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(corrupt(format!("its tensor `{name}` is {:?} and not F32", view.dtype())));
            }
            let data: Vec<f32> = view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            if data.iter().any(|x| !x.is_finite()) {
                return Err(corrupt(format!("its tensor `{name}` has values that are no finite numbers")));
            }
            tensors.insert(name.to_owned(), (view.shape().to_vec(), data));
        }
        let profile = Profile { origin: header.origin, tensors };
        if profile.checksum() != header.checksum {
            return Err(corrupt("its checksum does not match its contents".to_owned()));
        }
        Ok(profile)
    }

    /// The bytes of the file: the same for the same profile.
    ///
    /// # Errors
    /// [`ProfileError::Io`] where something does not fit the format.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ProfileError> {
        let fail = |reason: String| ProfileError::Io { verb: "write", path: "(in memory)".to_owned(), reason };
        let header = Header { version: VERSION, origin: self.origin.clone(), checksum: self.checksum() };
        let header = serde_json::to_string(&header).map_err(|e| fail(e.to_string()))?;
        let data: Vec<(&String, Vec<u8>)> =
            self.tensors.iter().map(|(name, (_, data))| (name, bytes_of(data))).collect();
        let views = data.iter().zip(self.tensors.values());
        let views =
            views.map(|((name, data), (shape, _))| Ok((*name, TensorView::new(Dtype::F32, shape.clone(), data)?)));
        let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>().map_err(|e| fail(e.to_string()))?;
        // One entry, since several would come in any order.
        let metadata = HashMap::from([(KEY.to_owned(), header)]);
        safetensors::serialize(views, Some(metadata)).map_err(|e| fail(e.to_string()))
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    /// [`ProfileError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), ProfileError> {
        let fail = |e: std::io::Error| ProfileError::Io {
            verb: "write",
            path: path.display().to_string(),
            reason: e.to_string(),
        };
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let bytes = self.to_bytes()?;
        let written = std::fs::File::create(&partial).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        written.and_then(|()| std::fs::rename(&partial, path)).map_err(|error| {
            // What is left of a failed attempt is of no use; that it cannot be removed either changes nothing.
            let _ = std::fs::remove_file(&partial);
            fail(error)
        })
    }

    /// A profile only describes the model it was made for.
    ///
    /// # Errors
    /// [`ProfileError::Model`].
    pub fn check_model(&self, digest: &[u8]) -> Result<(), ProfileError> {
        let model = hex(digest);
        if model == self.origin.model {
            return Ok(());
        }
        let Origin { model: made_for, model_name: name, .. } = self.origin.clone();
        Err(ProfileError::Model { name, made_for, model })
    }

    /// A profile only serves the stages it was made for.
    pub(crate) fn check_recipe(&self, recipe: &str, side: Side, digest: &str) -> Result<(), ProfileError> {
        let (made_for, side) = match side {
            Side::Keys => (&self.origin.keys, "keys"),
            Side::Values => (&self.origin.values, "values"),
        };
        if digest == made_for {
            return Ok(());
        }
        Err(ProfileError::Recipe { made_for: self.origin.recipe.clone(), recipe: recipe.to_owned(), side })
    }

    /// Budgets of heads need what they are made of.
    pub(crate) fn check_heads(&self, recipe: &str, measure: Measure) -> Result<(), ProfileError> {
        if self.origin.heads.as_deref() == Some(measure.name()) {
            return Ok(());
        }
        let (made_for, recipe) = (self.origin.recipe.clone(), recipe.to_owned());
        Err(ProfileError::Heads { made_for, recipe, measure: measure.name() })
    }

    /// BLAKE3 of everything in it, in hexadecimal.
    pub fn checksum(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            // Lengths keep the fields apart.
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        let Origin { model, model_name, recipe, keys, values, heads, seed, text, tokens } = &self.origin;
        [model, model_name, recipe, keys, values, text].into_iter().for_each(|text| field(text.as_bytes()));
        heads.iter().for_each(|heads| field(heads.as_bytes()));
        field(&seed.to_le_bytes());
        field(&(*tokens as u64).to_le_bytes());
        for (name, (shape, data)) in &self.tensors {
            field(name.as_bytes());
            field(&shape.iter().flat_map(|&n| (n as u64).to_le_bytes()).collect::<Vec<u8>>());
            field(&bytes_of(data));
        }
        hasher.finalize().to_hex().to_string()
    }
}

impl Tensors for Profile {
    fn tensor(&self, name: &str) -> Option<(&[usize], &[f32])> {
        self.tensors.get(name).map(|(shape, data)| (shape.as_slice(), data.as_slice()))
    }
}

/// Digests as profiles keep them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(data: &[f32]) -> Vec<u8> {
    data.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let origin = Origin {
            model: hex(&[7; 32]),
            model_name: "toy".to_owned(),
            recipe: "toy-2".to_owned(),
            keys: "k".repeat(64),
            values: "v".repeat(64),
            heads: None,
            seed: 42,
            text: hex(&[9; 32]),
            tokens: 512,
        };
        let tensor = |name: &str, shape: &[usize], data: &[f32]| NamedTensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            data: data.to_vec(),
        };
        let tensors = [
            tensor("layer.0.head.0.k.0.codebook", &[2, 3], &[1.0, -2.5, 3.0, f32::MIN_POSITIVE, 0.0, -0.0]),
            tensor("bits", &[1, 2], &[4.0, 2.0]),
            tensor("nothing", &[0, 3], &[]),
        ];
        Profile::new(origin, tensors)
    }

    #[test]
    fn what_is_written_is_read_and_the_bytes_are_always_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("toy.safetensors");
        profile().write(&path).unwrap();
        let read = Profile::read(&path).unwrap();
        assert_eq!(read, profile());
        assert_eq!(read.tensor("bits"), Some((&[1, 2][..], &[4.0, 2.0][..])));
        assert_eq!(read.tensor("bit"), None);
        assert_eq!(std::fs::read(&path).unwrap(), profile().to_bytes().unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        let bytes = profile().to_bytes().unwrap();
        for len in 0..bytes.len() {
            let error = Profile::from_bytes(&bytes[..len], "p").unwrap_err();
            assert!(matches!(error, ProfileError::Corrupt { .. }), "{len}: {error}");
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            // What a flip leaves readable (spaces, the order of keys) says the same as before.
            if let Ok(read) = Profile::from_bytes(&bytes, "p") {
                assert_eq!(read, profile(), "byte {at}");
            }
        }
        let mut longer = bytes;
        longer.extend_from_slice(&[0; 4]);
        assert!(matches!(Profile::from_bytes(&longer, "p"), Err(ProfileError::Corrupt { .. })));
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            let tensor = NamedTensor { name: "x".to_owned(), shape: vec![1], data: vec![bad] };
            let bytes = Profile::new(profile().origin, [tensor]).to_bytes().unwrap();
            let error = Profile::from_bytes(&bytes, "p").unwrap_err().to_string();
            assert!(error.contains("tensor `x` has values that are no finite numbers"), "{error}");
        }
    }

    #[test]
    fn other_files_other_versions_other_models_and_other_recipes_are_told_apart() {
        let weights = [("w", TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap())];
        let weights = safetensors::serialize(weights, None).unwrap();
        assert!(matches!(Profile::from_bytes(&weights, "p"), Err(ProfileError::NotAProfile { .. })));

        let none: [(&str, TensorView<'_>); 0] = [];
        let next = HashMap::from([(KEY.to_owned(), "{\"version\": 2, \"shape\": \"unheard of\"}".to_owned())]);
        let next = safetensors::serialize(none, Some(next)).unwrap();
        let error = Profile::from_bytes(&next, "p").unwrap_err();
        assert_eq!(error, ProfileError::Version { path: "p".to_owned(), found: 2 });

        assert_eq!(profile().check_model(&[7; 32]), Ok(()));
        let error = profile().check_model(&[8; 32]).unwrap_err();
        assert!(matches!(error, ProfileError::Model { .. }));
        assert!(error.to_string().contains("toy (070707070707…), and this one is 080808080808…"), "{error}");

        assert_eq!(profile().check_recipe("toy-2", Side::Keys, &"k".repeat(64)), Ok(()));
        let error = profile().check_recipe("toy-3", Side::Values, &"k".repeat(64)).unwrap_err();
        assert!(error.to_string().contains("the recipe toy-2, whose values differ from those of toy-3"), "{error}");

        let missing = Profile::read(Path::new("/nowhere/p")).unwrap_err();
        assert!(matches!(missing, ProfileError::Io { verb: "read", .. }));
    }
}

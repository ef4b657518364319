//! The embedded model, calf: its files are part of the program and are laid out in the cache folder when first used.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

macro_rules! file {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../../models/calf/", $name)))
    };
}

const FILES: &[(&str, &[u8])] = &[
    file!("config.json"),
    file!("generation_config.json"),
    file!("tokenizer.json"),
    file!("tokenizer_config.json"),
    file!("model.safetensors"),
];

/// The folder of the embedded model, written if it is not there yet.
///
/// # Errors
/// Where neither the cache folder nor the temporary folder can be written.
pub fn folder() -> io::Result<PathBuf> {
    let digest = FILES.iter().fold(blake3::Hasher::new(), |mut hasher, (name, bytes)| {
        hasher.update(name.as_bytes()).update(bytes);
        hasher
    });
    // The digest comes first, so that the folder itself has the model's name.
    let name = Path::new(&digest.finalize().to_hex()[..16]).join("calf");
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home).map(|dir| dir.join("cachalot"));
    let places = cache.into_iter().chain([std::env::temp_dir().join("cachalot")]);
    let mut error = io::Error::other("no cache folder");
    for place in places {
        match lay_out(&place.join(&name)) {
            Ok(folder) => return Ok(folder),
            Err(e) => error = io::Error::new(e.kind(), format!("{}: {e}", place.display())),
        }
    }
    Err(error)
}

fn lay_out(folder: &Path) -> io::Result<PathBuf> {
    // Read back and compared: a file cut short by a full disk or changed by someone must not become the model.
    let differs = |(name, bytes): &&(&str, &[u8])| !fs::read(folder.join(name)).is_ok_and(|have| have == *bytes);
    if FILES.iter().any(|file| differs(&file)) {
        let draft = folder.with_extension(std::process::id().to_string());
        fs::create_dir_all(&draft)?;
        for (name, bytes) in FILES {
            fs::write(draft.join(name), bytes)?;
        }
        // The whole folder at once, and only where there is none: of two programs that start together, the second must
        // not replace files that the first is already reading.
        if fs::rename(&draft, folder).is_err() {
            for (name, _) in FILES.iter().filter(differs) {
                fs::rename(draft.join(name), folder.join(name))?;
            }
            fs::remove_dir_all(&draft)?;
        }
    }
    Ok(folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_right_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = lay_out(&dir.path().join("calf")).unwrap();
        let written = |name: &str| fs::metadata(folder.join(name)).unwrap().modified().unwrap();
        let before = written("model.safetensors");
        fs::remove_file(folder.join("config.json")).unwrap();
        lay_out(&folder).unwrap();
        assert_eq!(written("model.safetensors"), before);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "drafts are cleared away");
    }

    #[test]
    fn a_damaged_copy_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let folder = lay_out(&dir.path().join("calf")).unwrap();
        fs::write(folder.join("config.json"), "{").unwrap();
        lay_out(&folder).unwrap();
        for (name, bytes) in FILES {
            assert_eq!(&fs::read(folder.join(name)).unwrap(), bytes, "{name}");
        }
    }
}

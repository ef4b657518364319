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
    // Last: a folder that has the weights has everything.
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
    fs::create_dir_all(folder)?;
    for (name, bytes) in FILES {
        let path = folder.join(name);
        // Read back and compared: a file cut short by a full disk or changed by someone must not become the model.
        if fs::read(&path).is_ok_and(|have| have == *bytes) {
            continue;
        }
        // Renamed into place, so that two programs starting together do not see half a file.
        let draft = folder.join(format!("{name}.{}", std::process::id()));
        fs::write(&draft, bytes)?;
        fs::rename(&draft, &path)?;
    }
    Ok(folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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

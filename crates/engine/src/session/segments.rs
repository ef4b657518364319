//! Files behind a session's own.
//!
//! A turn adds little to a long conversation, and writing all of it again wears out disks. So what is saved already stays where it
//! is: the session's file gets another name, and a new one is written with what is new and with the names of those behind it.
//! Files are still written whole or not at all, and never changed. When there are many, all is written into one again.

use std::fs;
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};

use cachalot_kernels::attention::PAGE_TOKENS;
use serde_json::{Map, Value};

use super::wipe::sync;
use super::{Guard, Kept, Session, Shelf};
use crate::reuse::Parcel;

/// Files that may be behind a session's own.
const MOST: usize = 16;
const EXTENSION: &str = "seg";

/// Names of files behind a session's own, in the same folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Segments(Vec<String>);

impl Segments {
    /// As the metadata of the session's file have them. What no such file can be called is left out, so that no path comes from
    /// a file's content.
    pub(super) fn from_meta(meta: &Map<String, Value>) -> Segments {
        let names = meta.get("segments").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let fits = |name: &&str| {
            let stem = name.strip_suffix(EXTENSION).and_then(|name| name.strip_suffix('.'));
            stem.is_some_and(|stem| stem.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'))
        };
        Segments(names.filter(fits).take(MOST).map(str::to_owned).collect())
    }

    pub(super) fn to_meta(&self, meta: &mut Map<String, Value>) {
        if !self.0.is_empty() {
            meta.insert("segments".to_owned(), self.0.clone().into());
        }
    }

    pub(super) fn paths<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
        self.0.iter().map(|name| folder.join(name))
    }

    /// Removes the files behind the session's own at `path` that are not among these. What cannot be removed is tried again when
    /// the session is saved the next time.
    pub(super) fn sweep(&self, path: &Path) {
        let (Some(folder), Some(stem)) = (path.parent(), path.file_stem().and_then(|stem| stem.to_str())) else {
            return;
        };
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let behind = name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('-') && rest.ends_with(EXTENSION));
            if behind && !self.0.contains(&name) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Shelf {
    /// See [`Kept::set_aside`].
    pub(super) fn set_aside(&self, guard: &Guard, kept: &Kept, staying: usize) -> Option<Segments> {
        kept.set_aside(&self.path(&guard.tenant, &guard.name), staying)
    }

    /// Bytes of the files behind a session's own.
    pub(super) fn bytes_behind(&self, guard: &Guard, segments: &Segments) -> u64 {
        let bytes = |path| fs::metadata(path).map_or(0, |about| about.len());
        segments.paths(&self.folder(&guard.tenant)).map(bytes).sum()
    }
}

impl Kept {
    /// How many of the session's first blocks can stay where they are: those that are whole and have all pages that the engine
    /// has. None where something is in the files that the session does not say any more (it was taken back, and goes), where they
    /// are damaged, or are many or mostly of no use any more.
    pub(super) fn staying(&self, session: &Session, parcels: &[Parcel]) -> usize {
        let stays = |(&place, parcel): (_, &Parcel)| {
            let info = self.info(place);
            info.key == parcel.key()
                && info.tokens.len() == PAGE_TOKENS
                && self.pages(place) >= parcel.block.pages().count()
        };
        let staying = self.chain.iter().zip(parcels).take_while(|&pair| stays(pair)).count();
        let grown = session.tokens.starts_with(&self.session.tokens);
        let tidy = self.segments.0.len() < MOST && self.live_bytes() >= self.bytes / 2;
        if grown && tidy && self.is_sound() { staying } else { 0 }
    }

    /// Gives the session's own file, at `path`, another name where any of the first `staying` blocks are in it, and says which
    /// files these are in. It keeps the old name beside it until that is given to another file. `None` where the file
    /// system gives no file two names.
    fn set_aside(&self, path: &Path, staying: usize) -> Option<Segments> {
        let (folder, stem) = (path.parent()?, path.file_stem()?.to_str()?);
        let chain = &self.chain[..staying];
        let used = |file: usize| chain.iter().any(|place| place.file == file);
        let free = |name: &String| !self.segments.0.contains(name);
        let own = (1..).map(|number| format!("{stem}-{number}.{EXTENSION}")).find(free).filter(|_| used(0));
        if let Some(own) = &own {
            let to = folder.join(own);
            // From a save that did not come to its end; no session's file names it.
            match fs::remove_file(&to) {
                Err(error) if error.kind() != NotFound => return None,
                _ => fs::hard_link(path, &to).ok()?,
            }
            sync(folder).ok()?;
        }
        let behind = self.segments.0.iter().zip(1..).filter(|&(_, file)| used(file)).map(|(name, _)| name.clone());
        Some(Segments(behind.chain(own).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_path_comes_from_a_file() {
        let names =
            json!(["ab01-1.seg", "../ab-1.seg", "/etc/passwd", "ab-1.seg/..", "ab.ckv", ".seg", 7, "a\\b-1.seg"]);
        let meta = Map::from_iter([("segments".to_owned(), names)]);
        assert_eq!(Segments::from_meta(&meta).0, ["ab01-1.seg", ".seg"]);
        let many = (0..100).map(|i| format!("a-{i}.seg")).collect::<Vec<_>>();
        assert_eq!(Segments::from_meta(&Map::from_iter([("segments".to_owned(), json!(many))])).0.len(), MOST);
        assert_eq!(Segments::from_meta(&Map::new()), Segments::default());
    }
}

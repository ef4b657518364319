//! A file system in memory that forgets at a crash what was not synced, and fails in every call it is told to.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cachalot_store::tier::backend::disk::{DirEntry, Disk, Kind, Sink};

use super::rng::Rng;

#[derive(Clone, Copy, PartialEq)]
enum Node {
    File(u64),
    Folder,
}

enum Change {
    Set(String, Node),
    Remove(String),
    Rename(String, String),
}

#[derive(Default)]
struct Folder {
    live: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    /// What was done since the last sync, in order.
    pending: Vec<Change>,
}

#[derive(Default)]
struct Contents {
    live: Vec<u8>,
    durable: Vec<u8>,
}

struct State {
    rng: Rng,
    folders: BTreeMap<PathBuf, Folder>,
    files: HashMap<u64, Contents>,
    next: u64,
    /// Share of calls that fail.
    faults: f64,
    /// Calls until the power goes.
    fuse: Option<usize>,
}

#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

fn apply(names: &mut BTreeMap<String, Node>, change: &Change) {
    match change {
        Change::Set(name, node) => drop(names.insert(name.clone(), *node)),
        Change::Remove(name) => drop(names.remove(name)),
        Change::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

fn split(path: &Path) -> (PathBuf, String) {
    (path.parent().unwrap().to_owned(), path.file_name().unwrap().to_str().unwrap().to_owned())
}

impl State {
    /// Every call goes through here.
    fn call(&mut self) -> io::Result<()> {
        if let Some(fuse) = &mut self.fuse {
            if *fuse == 0 {
                return Err(io::Error::other("no power"));
            }
            *fuse -= 1;
        }
        if self.rng.chance(self.faults) {
            let kinds = [ErrorKind::PermissionDenied, ErrorKind::StorageFull, ErrorKind::TimedOut, ErrorKind::Other];
            return Err(kinds[self.rng.below(kinds.len())].into());
        }
        Ok(())
    }

    fn folder(&mut self, path: &Path) -> io::Result<&mut Folder> {
        self.folders.get_mut(path).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn change(&mut self, folder: &Path, change: Change) -> io::Result<()> {
        let folder = self.folder(folder)?;
        apply(&mut folder.live, &change);
        folder.pending.push(change);
        Ok(())
    }

    fn file(&mut self, path: &Path) -> io::Result<u64> {
        let (folder, name) = split(path);
        match self.folder(&folder)?.live.get(&name) {
            Some(Node::File(id)) => Ok(*id),
            _ => Err(ErrorKind::NotFound.into()),
        }
    }

    fn is_root(&self, path: &Path) -> bool {
        path.parent().is_none_or(|parent| !self.folders.contains_key(parent)) && self.folders.contains_key(path)
    }

    fn is_there(&self, path: &Path) -> bool {
        let (parent, name) = split(path);
        self.folders.get(&parent).is_some_and(|folder| folder.live.get(&name) == Some(&Node::Folder))
    }
}

impl SimDisk {
    pub fn new(seed: u64, root: &Path) -> SimDisk {
        let mut folders = BTreeMap::new();
        folders.insert(root.to_owned(), Folder::default());
        let rng = Rng(seed);
        SimDisk(Arc::new(Mutex::new(State { rng, folders, files: HashMap::new(), next: 0, faults: 0.0, fuse: None })))
    }

    pub fn set_faults(&self, share: f64) {
        self.0.lock().unwrap().faults = share;
    }

    /// The power goes after so many calls; all later ones fail until [`SimDisk::crash`].
    pub fn set_fuse(&self, calls: usize) {
        self.0.lock().unwrap().fuse = Some(calls);
    }

    /// The power goes and comes back. Of what was not synced any part may be there: of changes of names each by itself, of contents
    /// the old, the new, a part of the new, or zeros.
    pub fn crash(&self, root: &Path) {
        let mut state = self.0.lock().unwrap();
        let State { rng, folders, files, fuse, .. } = &mut *state;
        *fuse = None;
        for folder in folders.values_mut() {
            for change in std::mem::take(&mut folder.pending) {
                if rng.chance(0.5) {
                    apply(&mut folder.durable, &change);
                }
            }
            folder.live = folder.durable.clone();
        }
        let mut ids: Vec<_> = files.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let file = files.get_mut(&id).unwrap();
            if file.live != file.durable {
                let len = file.live.len();
                match rng.below(4) {
                    0 => file.live = file.durable.clone(),
                    1 => file.live.truncate(rng.below(len + 1)),
                    2 => file.live.fill(0),
                    _ => (),
                }
                file.durable = file.live.clone();
            }
        }
        // What no name leads to is gone.
        let mut reachable = vec![root.to_owned()];
        let mut at = 0;
        while at < reachable.len() {
            let path = reachable[at].clone();
            let inner = folders.get(&path).into_iter().flat_map(|folder| folder.live.iter());
            reachable.extend(inner.filter(|(_, node)| **node == Node::Folder).map(|(name, _)| path.join(name)));
            at += 1;
        }
        folders.retain(|path, _| reachable.contains(path));
        for path in &reachable {
            folders.entry(path.clone()).or_default();
        }
    }

    /// All files, with their lengths.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.0.lock().unwrap();
        let mut all = Vec::new();
        for (path, folder) in &state.folders {
            for (name, node) in &folder.live {
                if let Node::File(id) = node {
                    all.push((path.join(name), state.files[id].live.len() as u64));
                }
            }
        }
        all
    }

    /// Spoils a file as a disk does: nobody is told.
    pub fn damage(&self, path: &Path, rng: &mut Rng) {
        let mut state = self.0.lock().unwrap();
        let Ok(id) = state.file(path) else { return };
        let file = state.files.get_mut(&id).unwrap();
        let len = file.live.len();
        if len > 0 {
            match rng.below(3) {
                0 => file.live.truncate(rng.below(len)),
                1 => file.live.fill(0),
                _ => file.live[rng.below(len)] ^= 1 << rng.below(8),
            }
            file.durable = file.live.clone();
        }
    }
}

struct SimSink {
    disk: SimDisk,
    id: u64,
}

impl Sink for SimSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let called = state.call();
        // What fails may have written some of it.
        let part = if called.is_ok() { bytes.len() } else { state.rng.below(bytes.len() + 1) };
        state.files.get_mut(&self.id).unwrap().live.extend_from_slice(&bytes[..part]);
        called
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        state.call()?;
        let file = state.files.get_mut(&self.id).unwrap();
        file.durable = file.live.clone();
        Ok(())
    }
}

impl Disk for SimDisk {
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut state = self.0.lock().unwrap();
        state.call()?;
        let names = state.folder(path)?.live.clone();
        let entry = |(name, node): (String, Node)| {
            let (kind, bytes) = match node {
                Node::File(id) => (Kind::File, state.files[&id].live.len() as u64),
                Node::Folder => (Kind::Folder, 0),
            };
            DirEntry { name, kind, bytes, age: 0 }
        };
        Ok(names.into_iter().map(entry).collect())
    }

    fn make_folder(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.0.lock().unwrap();
        state.call()?;
        if state.is_root(path) || state.is_there(path) {
            return Ok(false);
        }
        let (parent, name) = split(path);
        state.change(&parent, Change::Set(name, Node::Folder))?;
        state.folders.entry(path.to_owned()).or_default();
        Ok(true)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        let mut state = self.0.lock().unwrap();
        state.call()?;
        let (folder, name) = split(path);
        if !state.is_there(&folder) {
            return Err(ErrorKind::NotFound.into());
        }
        state.next += 1;
        let id = state.next;
        state.files.insert(id, Contents::default());
        state.change(&folder, Change::Set(name, Node::File(id)))?;
        drop(state);
        Ok(Box::new(SimSink { disk: self.clone(), id }))
    }

    fn read(&self, path: &Path, len: u64) -> io::Result<Vec<u8>> {
        let mut state = self.0.lock().unwrap();
        state.call()?;
        let id = state.file(path)?;
        let mut bytes = state.files[&id].live.clone();
        if (bytes.len() as u64) < len {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if bytes.len() as u64 > len {
            return Err(ErrorKind::InvalidData.into());
        }
        let faults = state.faults;
        if state.rng.chance(faults) && !bytes.is_empty() {
            // A bit that flips on the way.
            let at = state.rng.below(bytes.len());
            bytes[at] ^= 1 << state.rng.below(8);
        }
        Ok(bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.call()?;
        state.file(from)?;
        let ((folder, from), (other, to)) = (split(from), split(to));
        assert_eq!(folder, other, "renaming between folders is not atomic here");
        state.change(&folder, Change::Rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.call()?;
        state.file(path)?;
        let (folder, name) = split(path);
        state.change(&folder, Change::Remove(name))
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.call()?;
        if !state.is_there(path) {
            return Err(ErrorKind::NotFound.into());
        }
        if !state.folder(path)?.live.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        let (parent, name) = split(path);
        state.change(&parent, Change::Remove(name))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.call()?;
        if !state.is_root(path) && !state.is_there(path) {
            return Err(ErrorKind::NotFound.into());
        }
        let folder = state.folder(path)?;
        folder.durable = folder.live.clone();
        folder.pending.clear();
        Ok(())
    }
}

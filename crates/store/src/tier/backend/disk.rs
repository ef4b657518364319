//! What a [`Folder`](super::Folder) needs of a file system. Small, so that a simulation can have crashes and faults in every call.

use std::io;
use std::path::Path;

/// What an entry of a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A plain file.
    File,
    /// A folder.
    Folder,
    /// A link, a socket or the like; never followed.
    Other,
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name, where that is text; names of ours always are.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its length.
    pub bytes: u64,
    /// Seconds since 1970 of its last change; 0 where unknown.
    pub age: u64,
}

/// A file that is being written.
pub trait Sink: Send {
    /// Appends.
    ///
    /// # Errors
    /// As the system says.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// All that was written survives a crash after this, once the file's name does.
    ///
    /// # Errors
    /// As the system says.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file system. Errors are as the system says.
#[allow(clippy::missing_errors_doc)]
pub trait Disk: Send + Sync {
    /// All entries of a folder, in any order.
    fn list(&self, folder: &Path) -> io::Result<Vec<DirEntry>>;

    /// Makes a folder in one that exists. False where it was there.
    fn make_folder(&self, folder: &Path) -> io::Result<bool>;

    /// Makes an empty file, or empties one.
    fn create(&self, file: &Path) -> io::Result<Box<dyn Sink>>;

    /// All bytes of a file that has this length; `UnexpectedEof` where it is shorter, `InvalidData` where it is longer.
    fn read(&self, file: &Path, len: u64) -> io::Result<Vec<u8>>;

    /// Gives a file another name in the same folder, replacing what has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, file: &Path) -> io::Result<()>;

    /// Removes an empty folder.
    fn remove_folder(&self, folder: &Path) -> io::Result<()>;

    /// Names made, changed and removed in a folder survive a crash after this.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

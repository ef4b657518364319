//! The operating system's files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::disk::{DirEntry, Disk, Kind, Sink};

/// Blocks that direct reads begin and end at; a multiple of what any disk asks for.
const ALIGNMENT: usize = 4096;

/// Files of the operating system.
///
/// Objects are read into a buffer and never mapped: a mapped file that somebody cuts short ends the process, not the read.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk {
    /// Reads past the system's page cache, where the file system can: memory for objects is then the memory tier's alone. Linux only.
    pub direct: bool,
}

impl RealDisk {
    #[cfg(target_os = "linux")]
    fn open_direct(file: &Path) -> Option<File> {
        use std::os::unix::fs::OpenOptionsExt;
        // A file system without direct reads refuses to open; then it is an ordinary one.
        OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(file).ok()
    }

    #[cfg(not(target_os = "linux"))]
    fn open_direct(_file: &Path) -> Option<File> {
        None
    }

    /// All of a file in whole aligned blocks.
    fn read_direct(mut file: File, len: usize) -> io::Result<Vec<u8>> {
        let blocks = len.div_ceil(ALIGNMENT).max(1) * ALIGNMENT;
        let mut buffer = vec![0; blocks + ALIGNMENT];
        let start = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        let mut got = 0;
        while got < len {
            match file.read(&mut buffer[start + got..start + blocks]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        buffer.copy_within(start..start + len, 0);
        buffer.truncate(len);
        Ok(buffer)
    }
}

/// Compares before anything is allocated: a length that somebody made up is not believed.
fn checked_len(file: &File, len: u64) -> io::Result<usize> {
    match file.metadata()?.len() {
        now if now < len => Err(io::ErrorKind::UnexpectedEof.into()),
        now if now > len => Err(io::ErrorKind::InvalidData.into()),
        now => usize::try_from(now).map_err(|_| io::ErrorKind::FileTooLarge.into()),
    }
}

struct RealSink(File);

impl Sink for RealSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

impl Disk for RealDisk {
    fn list(&self, folder: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let file_type = entry.file_type()?;
            let kind = match file_type {
                t if t.is_file() => Kind::File,
                t if t.is_dir() => Kind::Folder,
                _ => Kind::Other,
            };
            let (mut bytes, mut age) = (0, 0);
            if kind == Kind::File {
                let metadata = match entry.metadata() {
                    // Gone since it was listed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    metadata => metadata?,
                };
                bytes = metadata.len();
                let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                age = changed.map_or(0, |since| since.as_secs());
            }
            entries.push(DirEntry { name, kind, bytes, age });
        }
        Ok(entries)
    }

    fn make_folder(&self, folder: &Path) -> io::Result<bool> {
        match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(false),
            made => made.map(|()| true),
        }
    }

    fn create(&self, file: &Path) -> io::Result<Box<dyn Sink>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        // What people asked a model is nobody else's.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(Box::new(RealSink(options.open(file)?)))
    }

    fn read(&self, file: &Path, len: u64) -> io::Result<Vec<u8>> {
        if self.direct
            && let Some(open) = RealDisk::open_direct(file)
        {
            let len = checked_len(&open, len)?;
            // Some file systems open for direct reads and then refuse them.
            match RealDisk::read_direct(open, len) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => (),
                read => return read,
            }
        }
        let mut open = File::open(file)?;
        let len = checked_len(&open, len)?;
        let mut bytes = vec![0; len];
        open.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        fs::remove_file(file)
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        fs::remove_dir(folder)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        // Windows has no such thing; there names are as durable as the file system makes them.
        if cfg!(windows) { Ok(()) } else { File::open(folder)?.sync_all() }
    }
}

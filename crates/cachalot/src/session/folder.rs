//! Where sessions are kept.

use crate::Failure;
use cachalot_engine::session::Shelf;
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Args, Clone)]
pub struct FolderArgs {
    /// Folder of the sessions; `cachalot/sessions` in the user's data folder if absent.
    #[arg(long, value_name = "FOLDER", env = "CACHALOT_SESSIONS")]
    dir: Option<PathBuf>,
}

impl FolderArgs {
    pub fn shelf(&self) -> Result<Shelf, Failure> {
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
        let data = || std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(home);
        let folder = self.dir.clone().or_else(|| data().map(|data| data.join("cachalot/sessions")));
        let folder = folder.ok_or("there is no folder for sessions: set HOME or XDG_DATA_HOME, or give --dir")?;
        Ok(Shelf::open(folder, Shelf::MOST, now())?)
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

//! A session as its file has it.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind::NotFound;
use std::path::Path;
use std::time::UNIX_EPOCH;

use cachalot_store::codec::Plain;
use cachalot_store::file::{BlockInfo, FileIdentity, KvFile};
use cachalot_store::{Block, BlockKey, Codec, Identity, StoreError};

use super::segments::Segments;
use super::{Session, SessionError};

/// A session with its open files.
pub struct Kept {
    /// The conversation.
    pub session: Session,
    /// Bytes of its files.
    pub bytes: u64,
    /// How the folder is called, which is nothing for others to know.
    folder: String,
    /// Its own, then those behind it that can be read.
    files: Vec<KvFile>,
    /// How those behind it are called.
    pub(super) segments: Segments,
    pub(super) identity: FileIdentity,
    /// Blocks of the files from the first token on, as far as they follow each other.
    pub(super) chain: Vec<Place>,
    /// What was found broken when the files were opened.
    damage: Vec<String>,
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Which of the files.
    pub(super) file: usize,
    /// Which of its blocks.
    pub(super) block: usize,
}

/// A session, as a list has it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The conversation.
    pub session: Session,
    /// Tokens that its file has blocks for.
    pub saved_tokens: usize,
    /// Bytes of its files.
    pub bytes: u64,
}

impl Kept {
    /// Tokens that the files have blocks for.
    pub fn saved_tokens(&self) -> usize {
        self.infos().map(|info| info.tokens.len()).sum()
    }

    /// The blocks in order, without their pages.
    pub(super) fn infos(&self) -> impl Iterator<Item = &BlockInfo> + '_ {
        self.chain.iter().map(|&place| self.info(place))
    }

    /// The blocks in order, as far as they can be read.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Result<Block, StoreError>> + '_ {
        self.chain.iter().map(|&place| self.read(place))
    }

    pub(super) fn info(&self, place: Place) -> &BlockInfo {
        &self.files[place.file].blocks()[place.block]
    }

    pub(super) fn read(&self, place: Place) -> Result<Block, StoreError> {
        self.files[place.file].read(place.block, &[&Plain as &dyn Codec])
    }

    /// Pages that the file says a block has; none where its head is damaged.
    pub(super) fn pages(&self, place: Place) -> usize {
        self.files[place.file].head(place.block).map_or(0, |head| head.pages.len())
    }

    /// What is wrong with a file, without its path.
    pub(super) fn note(&self, what: &impl ToString) -> String {
        what.to_string().replace(&self.folder, "the session's folder")
    }

    /// Bytes of the files that the session's blocks take.
    pub(super) fn live_bytes(&self) -> u64 {
        self.infos().map(|info| info.len).sum()
    }

    /// Whether nothing was found broken when the files were opened.
    pub(super) fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }

    /// What was found broken when the files were opened.
    pub(super) fn damage(&self) -> impl Iterator<Item = String> + '_ {
        self.damage.iter().map(|damage| self.note(damage))
    }

    /// For lists.
    pub fn listed(&self) -> Listed {
        Listed { session: self.session.clone(), saved_tokens: self.saved_tokens(), bytes: self.bytes }
    }

    /// Whose its blocks are, for a tenant that is said to own them.
    pub(super) fn identity_of(&self, tenant: &str) -> Result<Identity, SessionError> {
        let FileIdentity { model, tokenizer, adapter, rope, dtype, recipe, plan, .. } = self.identity.clone();
        let identity = Identity { model, tokenizer, adapter, rope, dtype, recipe, plan, tenant: tenant.to_owned() };
        self.check(&identity).map(|()| identity)
    }

    /// Whether its blocks are of this identity.
    pub(super) fn check(&self, identity: &Identity) -> Result<(), SessionError> {
        let what = self.identity.differences(identity);
        let Session { name, model, recipe, .. } = self.session.clone();
        if what.is_empty() { Ok(()) } else { Err(SessionError::Different { name, model, recipe, what }) }
    }
}

/// A session that somebody else saves meanwhile may lose a file behind it that it does not need any more: it is looked at twice.
pub(super) fn open(path: &Path, name: &str) -> Result<Kept, SessionError> {
    let kept = open_once(path, name)?;
    if kept.is_sound() { Ok(kept) } else { open_once(path, name) }
}

fn open_once(path: &Path, name: &str) -> Result<Kept, SessionError> {
    let about = match fs::metadata(path) {
        Ok(about) => about,
        Err(error) if error.kind() == NotFound => return Err(SessionError::Unknown { name: name.to_owned() }),
        Err(source) => return Err(SessionError::Io { path: path.to_owned(), what: "look at the file", source }),
    };
    let file = KvFile::open(path)?;
    let Some(identity) = file.identity().cloned() else {
        let what = file.damage().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        return Err(damaged(name, what));
    };
    let session = Session::from_meta(&identity.about.meta);
    let mut session = session.ok_or_else(|| damaged(name, "the file is not that of a session".to_owned()))?;
    (session.model, session.recipe) = (identity.about.model.clone(), identity.recipe.clone());
    let used = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    session.used = used.map_or(session.created, |used| used.as_secs());
    session.pinned_until = fs::read_to_string(path.with_extension("pin")).ok().and_then(|text| text.parse().ok());
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let segments = Segments::from_meta(&identity.about.meta);
    let (mut files, mut bytes) = (vec![file], about.len());
    let mut damage: Vec<String> = files[0].damage().iter().map(ToString::to_string).collect();
    for segment in segments.paths(&folder) {
        // One that is damaged costs its blocks, as any damage does.
        match KvFile::open(&segment) {
            Ok(file) if file.domain() == files[0].domain() => {
                damage.extend(file.damage().iter().map(ToString::to_string));
                files.push(file);
            }
            Ok(_) => damage.push(format!("{}: its blocks belong to something else", segment.display())),
            Err(error) => damage.push(error.to_string()),
        }
        bytes += fs::metadata(&segment).map_or(0, |about| about.len());
    }
    let chain = chain(&files, &session.tokens);
    Ok(Kept { session, bytes, folder: folder.display().to_string(), files, segments, identity, chain, damage })
}

/// The blocks of files that `tokens` begins with, in order; of equals what was written last, which has all pages there are.
fn chain(files: &[KvFile], tokens: &[u32]) -> Vec<Place> {
    let mut by_parent = HashMap::<Option<BlockKey>, Vec<Place>>::new();
    let oldest_first = (1..files.len()).chain([0]);
    for file in oldest_first {
        for (block, info) in files[file].blocks().iter().enumerate() {
            by_parent.entry(info.parent).or_default().push(Place { file, block });
        }
    }
    let info = |place: Place| &files[place.file].blocks()[place.block];
    let (mut chain, mut parent, mut at) = (Vec::new(), None, 0);
    loop {
        let next = by_parent.get(&parent).into_iter().flatten().copied();
        let fits = |&place: &Place| {
            let block = info(place);
            block.start == at as u64 && tokens[at..].starts_with(&block.tokens)
        };
        let Some(place) = next.filter(fits).max_by_key(|&place| info(place).tokens.len()) else { return chain };
        chain.push(place);
        (parent, at) = (Some(info(place).key), at + info(place).tokens.len());
    }
}

pub(super) fn damaged(name: &str, what: String) -> SessionError {
    SessionError::Damaged { name: name.to_owned(), what }
}

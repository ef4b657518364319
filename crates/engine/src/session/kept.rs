//! A session as its file has it.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind::NotFound;
use std::path::Path;
use std::time::UNIX_EPOCH;

use cachalot_store::codec::Plain;
use cachalot_store::file::{FileIdentity, KvFile};
use cachalot_store::{Block, BlockKey, Codec, Identity, StoreError};

use super::{Session, SessionError};

/// A session with its open file.
pub struct Kept {
    /// The conversation.
    pub session: Session,
    /// Bytes of the file.
    pub bytes: u64,
    /// How the file is called, which is nothing for others to know.
    path: String,
    pub(super) file: KvFile,
    pub(super) identity: FileIdentity,
    /// Blocks of the file from the first token on, as far as they follow each other.
    pub(super) chain: Vec<usize>,
}

/// A session, as a list has it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The conversation.
    pub session: Session,
    /// Tokens that its file has blocks for.
    pub saved_tokens: usize,
    /// Bytes of the file.
    pub bytes: u64,
}

impl Kept {
    /// Tokens that the file has blocks for.
    pub fn saved_tokens(&self) -> usize {
        self.chain.iter().map(|&i| self.file.blocks()[i].tokens.len()).sum()
    }

    /// The blocks in order, as far as they can be read.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Result<Block, StoreError>> + '_ {
        self.chain.iter().map(|&i| self.file.read(i, &[&Plain as &dyn Codec]))
    }

    /// What is wrong with the file, without its path.
    pub(super) fn note(&self, what: &impl ToString) -> String {
        what.to_string().replace(&self.path, "the file")
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

pub(super) fn open(path: &Path, name: &str) -> Result<Kept, SessionError> {
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
    let chain = chain(&file, &session.tokens);
    Ok(Kept { session, bytes: about.len(), path: path.display().to_string(), file, identity, chain })
}

/// The blocks of a file that `tokens` begins with, in order.
fn chain(file: &KvFile, tokens: &[u32]) -> Vec<usize> {
    let mut by_parent = HashMap::<Option<BlockKey>, Vec<usize>>::new();
    for (i, block) in file.blocks().iter().enumerate() {
        by_parent.entry(block.parent).or_default().push(i);
    }
    let (mut chain, mut parent, mut at) = (Vec::new(), None, 0);
    loop {
        let next = by_parent.get(&parent).into_iter().flatten().copied();
        let fits = |&i: &usize| {
            let block = &file.blocks()[i];
            block.start == at as u64 && tokens[at..].starts_with(&block.tokens)
        };
        let Some(i) = next.filter(fits).max_by_key(|&i| file.blocks()[i].tokens.len()) else { return chain };
        let block = &file.blocks()[i];
        chain.push(i);
        (parent, at) = (Some(block.key), at + block.tokens.len());
    }
}

pub(super) fn damaged(name: &str, what: String) -> SessionError {
    SessionError::Damaged { name: name.to_owned(), what }
}

//! Bringing a session back into the engine.

use cachalot_store::{Block, StoreError};

use super::{Guard, Kept, Session, SessionError, Sessions};
use crate::{EngineError, Scope};

/// Blocks that are read and handed to the engine at a time.
const BATCH: usize = 16;

/// What a session's tokens cost now. `restored_tokens` and `recompute_tokens` add up to `tokens`: the first are those that a
/// request which begins with the session will not compute, as the engine's own index says after everything is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// Tokens of the session.
    pub tokens: usize,
    /// Of them, those that need not be computed.
    pub restored_tokens: usize,
    /// Of them, those that have to be.
    pub recompute_tokens: usize,
    /// Tokens whose blocks were read from the file; the others were in memory, or are not in the file.
    pub read_tokens: usize,
    /// What was wrong with the file, or why not all of it found its place; empty where nothing was.
    pub notes: Vec<String>,
}

impl Sessions {
    /// Brings a session into memory, as far as it is not there. `kv` is the recipe that it is wanted for; its own if absent. May
    /// block on the disk.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], [`SessionError::Damaged`]; [`SessionError::Different`] where its blocks belong to another
    /// model, recipe or program.
    pub async fn load(&self, guard: &Guard, kv: Option<&str>, now: u64) -> Result<(Session, Restored), SessionError> {
        let kept = self.shelf.read(&guard.tenant, &guard.name)?;
        let mut restored = self.bring_back(guard, &kept, kv).await?;
        let mut session = kept.session;
        self.shelf.touch(&guard.tenant, &guard.name, now);
        session.used = now;
        if let Some(until) = session.pinned_until.filter(|&until| until > now)
            && let Err(error) = self.hold(guard, &session, until).await
        {
            restored.notes.push(format!("not pinned again: {error}"));
        }
        Ok((session, restored))
    }

    async fn bring_back(&self, guard: &Guard, kept: &Kept, kv: Option<&str>) -> Result<Restored, SessionError> {
        let (session, tenant) = (&kept.session, guard.tenant.as_str());
        let recipe = kv.unwrap_or(&session.recipe);
        let identity = self.handle.identity(Scope { kv: Some(recipe), ..session.scope(tenant) })?;
        kept.check(&identity)?;
        let tokens = session.tokens.len();
        let mut restored = Restored { tokens, ..Restored::default() };
        restored.notes = kept.damage().collect();
        if self.reusable(session, tenant).await? < kept.saved_tokens() {
            self.read_in(guard, kept, &mut restored).await?;
        }
        restored.restored_tokens = self.reusable(session, tenant).await?;
        restored.recompute_tokens = tokens - restored.restored_tokens;
        Ok(restored)
    }

    async fn read_in(&self, guard: &Guard, kept: &Kept, restored: &mut Restored) -> Result<(), SessionError> {
        let tenant = guard.tenant.as_str();
        let scope = kept.session.scope(tenant);
        let mut blocks = kept.blocks();
        loop {
            let mut batch: Vec<Block> = Vec::with_capacity(BATCH);
            let mut damaged = None;
            while batch.len() < BATCH && damaged.is_none() {
                match blocks.next() {
                    None => break,
                    Some(Ok(block)) => batch.push(block),
                    Some(Err(error @ StoreError::Io { .. })) => return Err(error.into()),
                    Some(Err(error)) => {
                        damaged = Some(kept.note(&error));
                        self.damaged().insert((tenant.to_owned(), guard.name.clone()));
                    }
                }
            }
            let wanted: usize = batch.iter().map(|block| block.tokens.len()).sum();
            let last = damaged.is_some() || batch.len() < BATCH;
            restored.notes.extend(damaged);
            if wanted > 0 {
                match self.handle.import(batch, scope).await {
                    Ok(taken) => restored.read_tokens += taken,
                    Err(error @ EngineError::Cache(_)) => {
                        restored.notes.push(error.to_string());
                        return Ok(());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if last {
                return Ok(());
            }
        }
    }

    /// Tokens of a session that a request which goes on from it would not compute, as things are.
    ///
    /// # Errors
    /// Of the recipe, or that the engine is going down.
    pub async fn reusable(&self, session: &Session, tenant: &str) -> Result<usize, SessionError> {
        // The last token of a prompt is always computed; a session is gone on from, so it is asked about with one more.
        let mut prompt = session.tokens.clone();
        let Some(&next) = prompt.last() else { return Ok(0) };
        prompt.push(next);
        let explanation = self.handle.explain(prompt, session.scope(tenant)).await?;
        Ok(explanation.reusable_tokens.min(session.tokens.len()))
    }
}

//! Sessions of an engine.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cachalot_store::Block;
use cachalot_store::file::About;

use super::layers::layers;
use super::locks::Locks;
use super::pins::Pins;
use super::{Guard, Restored, Session, SessionError, SessionName, Shelf, Written};
use crate::blend::Wish;
use crate::{EngineError, EngineHandle, Event, Request, Usage};

/// What sessions are told about the engine they belong to.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Name of the model.
    pub model: String,
    /// Name of the tokenizer.
    pub tokenizer: String,
    /// The share of the engine's KV budget that pinned sessions may hold together.
    pub pin_share: f64,
}

/// What was saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Saved {
    /// Tokens of the session.
    pub tokens: usize,
    /// Of them, those that the file has blocks for. The last token of an answer is never among them: nobody has computed it.
    pub saved_tokens: usize,
    /// Bytes of the session's files.
    pub bytes: u64,
    /// Bytes of them that were written; the others were there.
    pub written_bytes: u64,
    /// Whether the recipe reduces its context: then only the blocks that are exact still can be saved.
    pub reduces: bool,
}

/// Sessions on disk and in an engine.
pub struct Sessions {
    pub(super) handle: EngineHandle,
    pub(super) shelf: Shelf,
    config: SessionConfig,
    pins: Mutex<Pins>,
    /// Sessions whose files turned out damaged when they were read.
    damaged: Mutex<HashSet<(String, SessionName)>>,
    pub(super) locks: Locks,
}

impl Sessions {
    /// Sessions of an engine, kept in a folder.
    pub fn new(handle: EngineHandle, shelf: Shelf, config: SessionConfig) -> Sessions {
        Sessions { handle, shelf, config, pins: Mutex::default(), damaged: Mutex::default(), locks: Locks::default() }
    }

    /// The files.
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// The engine.
    pub fn handle(&self) -> &EngineHandle {
        &self.handle
    }

    /// Waits until nobody else is about to change a session.
    pub async fn lock(&self, tenant: &str, name: &SessionName) -> Guard {
        self.locks.session(tenant, name).await
    }

    /// Whether somebody has, or waits for, the right to change a session: an answer is being generated or saved.
    pub fn is_busy(&self, tenant: &str, name: &SessionName) -> bool {
        self.locks.is_busy(tenant, name)
    }

    /// Computes what is not there yet of some tokens.
    ///
    /// # Errors
    /// The engine's.
    pub async fn compute(&self, tokens: &[u32], kv: &str, tenant: &str) -> Result<Usage, EngineError> {
        self.compute_with(tokens, kv, tenant, Wish::default()).await
    }

    /// The same, with what is wanted of stretches that were computed elsewhere.
    ///
    /// # Errors
    /// The engine's.
    pub async fn compute_with(&self, tokens: &[u32], kv: &str, tenant: &str, wish: Wish) -> Result<Usage, EngineError> {
        let request = Request {
            prompt: tokens.to_vec(),
            max_tokens: Some(0),
            kv: Some(kv.to_owned()),
            tenant: tenant.to_owned(),
            wish,
            ..Request::default()
        };
        let mut generation = self.handle.submit(request)?;
        loop {
            match generation.next().await {
                Some(Event::Done(usage)) => return Ok(usage),
                Some(Event::Error(error)) => return Err(error),
                Some(_) => {}
                None => return Err(EngineError::Stopped),
            }
        }
    }

    /// Saves a session: what the engine has of its tokens, and what its file has of them beyond that. May block on the disk.
    ///
    /// # Errors
    /// Of the recipe, the engine or the disk; what was saved before is there still.
    pub async fn save(&self, guard: &Guard, session: &Session) -> Result<Saved, SessionError> {
        let (tenant, kv) = (guard.tenant.as_str(), Some(session.recipe.as_str()));
        let plan = self.handle.recipes().plan(kv).map_err(EngineError::from)?;
        let identity = self.handle.identity(session.scope(tenant))?;
        let parcels = self.handle.export(session.tokens.clone(), session.scope(tenant)).await?;
        let mut end = parcels.last().map(|parcel| (parcel.key(), parcel.start + parcel.tokens.len()));
        let before = self.shelf.read(tenant, &guard.name).ok().filter(|kept| kept.check(&identity).is_ok());
        // What was let go meanwhile is in the files still.
        let mut rest = Vec::new();
        for (place, block) in before.iter().flat_map(|kept| kept.chain.iter().copied().zip(kept.infos())) {
            let at = end.map_or(0, |(_, at)| at);
            let follows = block.parent == end.map(|(key, _)| key) && block.start == at as u64;
            if follows && session.tokens[at..].starts_with(&block.tokens) {
                rest.push(place);
                end = Some((block.key, at + block.tokens.len()));
            }
        }
        // What was found damaged is mended: all of it is written again.
        let sound = before.as_ref().filter(|_| !self.damaged().remove(&(tenant.to_owned(), guard.name.clone())));
        let staying = sound.map_or(0, |kept| kept.staying(session, &parcels));
        let segments = sound.filter(|_| staying > 0).and_then(|kept| self.shelf.set_aside(guard, kept, staying));
        let new = &parcels[if segments.is_some() { staying } else { 0 }..];
        let rest = before.iter().flat_map(|kept| rest.iter().map(|&place| kept.read(place)));
        let blocks = new.iter().map(|parcel| Ok::<Block, _>(parcel.to_block())).chain(rest);
        let about = About {
            model: self.config.model.clone(),
            tokenizer: self.config.tokenizer.clone(),
            layers: layers(&plan, self.handle.recipes().layers()),
            ..About::default()
        };
        let pinned_until = session.pinned_until.filter(|&until| until > session.used);
        let session = Session { name: guard.name.to_string(), pinned_until, ..session.clone() };
        let segments = segments.unwrap_or_default();
        let written = self.shelf.write(tenant, &session, &identity, about, &segments, blocks)?;
        let stayed: usize = parcels[..parcels.len() - new.len()].iter().map(|parcel| parcel.tokens.len()).sum();
        match pinned_until {
            None => self.pins().release(tenant, &guard.name, 0),
            Some(until) => {
                if let Err(error) = self.hold(guard, &session, until).await {
                    tracing::warn!(session = %guard.name, %error, "what is new of a pinned session may be evicted");
                }
            }
        }
        Ok(Saved {
            tokens: session.tokens.len(),
            saved_tokens: stayed + written.tokens,
            bytes: written.bytes + self.shelf.bytes_behind(guard, &segments),
            written_bytes: written.bytes,
            reduces: plan.keep.is_some(),
        })
    }

    /// Takes a session back to its first `turn` turns; see [`Shelf::rewind`].
    ///
    /// # Errors
    /// As [`Shelf::rewind`].
    pub fn rewind(&self, guard: &Guard, turn: usize, now: u64) -> Result<Written, SessionError> {
        let written = self.shelf.rewind(&guard.tenant, &guard.name, turn, now)?;
        self.pins().release(&guard.tenant, &guard.name, written.tokens);
        Ok(written)
    }

    /// Removes a session. Its blocks stay in the engine's index until they are evicted, for nobody but its tenant.
    ///
    /// # Errors
    /// As [`Shelf::remove`].
    pub fn remove(&self, guard: &Guard) -> Result<(), SessionError> {
        self.pins().release(&guard.tenant, &guard.name, 0);
        self.damaged().remove(&(guard.tenant.clone(), guard.name.clone()));
        self.shelf.remove(&guard.tenant, &guard.name)
    }

    /// Loads a session and keeps it in memory for some seconds; for none, it may be evicted from now on. Gives its bytes.
    ///
    /// # Errors
    /// As [`Sessions::load`]; [`SessionError::PinTooLarge`].
    pub async fn pin(&self, guard: &Guard, seconds: u64, now: u64) -> Result<(Restored, u64), SessionError> {
        if seconds == 0 {
            self.pins().release(&guard.tenant, &guard.name, 0);
            self.shelf.pin(&guard.tenant, &guard.name, None)?;
        }
        let (session, restored) = self.load(guard, None, now).await?;
        if seconds == 0 {
            return Ok((restored, 0));
        }
        let until = now.saturating_add(seconds);
        let bytes = self.hold(guard, &session, until).await?;
        self.shelf.pin(&guard.tenant, &guard.name, Some(until))?;
        Ok((restored, bytes))
    }

    pub(super) async fn hold(&self, guard: &Guard, session: &Session, until: u64) -> Result<u64, SessionError> {
        let parcels = self.handle.export(session.tokens.clone(), session.scope(&guard.tenant)).await?;
        let limit = self.pin_limit();
        let held = self.pins().hold((guard.tenant.clone(), guard.name.clone()), parcels, until, limit);
        let name = guard.name.to_string();
        held.map_err(|room| SessionError::PinTooLarge { name, needed: room.needed, free: room.free, limit })
    }

    /// Bytes that pinned sessions may hold.
    pub fn pin_limit(&self) -> u64 {
        (self.handle.stats().kv_budget_bytes as f64 * self.config.pin_share.clamp(0.0, 1.0)) as u64
    }

    /// Bytes that pinned sessions hold.
    pub fn pinned_bytes(&self) -> u64 {
        self.pins().bytes()
    }

    /// Lets go of pins whose time is over. How many there were.
    pub fn expire(&self, now: u64) -> usize {
        self.pins().expire(now).len()
    }

    /// Lets go of one pin, that whose time is over first: for a request that could otherwise never run.
    pub fn yield_pin(&self) -> Option<SessionName> {
        self.pins().yield_one().map(|(_, name)| name)
    }

    /// Of which all is to be written anew.
    pub(super) fn damaged(&self) -> MutexGuard<'_, HashSet<(String, SessionName)>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pins(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

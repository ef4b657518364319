//! Sessions made of others: forks, and what is left when turns are taken back.

use cachalot_store::{Block, StoreError};

use super::segments::Segments;
use super::{Kept, Session, SessionError, SessionName, Shelf, Written};

impl Shelf {
    /// A second session with the first `turn` turns of another, or all.
    ///
    /// # Errors
    /// As [`Shelf::read`] and [`Shelf::write`]; [`SessionError::Exists`], [`SessionError::Turn`].
    pub fn fork(
        &self,
        tenant: &str,
        of: &SessionName,
        name: &SessionName,
        turn: Option<usize>,
        now: u64,
    ) -> Result<Written, SessionError> {
        if self.has(tenant, name) {
            return Err(SessionError::Exists { name: name.to_string() });
        }
        let kept = self.read(tenant, of)?;
        let mut session = kept.session.clone();
        session.name = name.to_string();
        (session.created, session.used, session.pinned_until) = (now, now, None);
        self.rewrite(tenant, &kept, session, turn)
    }

    /// Takes a session back to its first `turn` turns. The file is written anew without what came later: a block that turns
    /// behind the new end have a part of goes too, since its pages hold their keys and values, so up to 63 tokens before the
    /// end are computed again.
    ///
    /// # Errors
    /// As [`Shelf::read`] and [`Shelf::write`]; [`SessionError::Turn`].
    pub fn rewind(&self, tenant: &str, name: &SessionName, turn: usize, now: u64) -> Result<Written, SessionError> {
        let kept = self.read(tenant, name)?;
        let session = Session { used: now, ..kept.session.clone() };
        self.rewrite(tenant, &kept, session, Some(turn))
    }

    fn rewrite(
        &self,
        tenant: &str,
        kept: &Kept,
        mut session: Session,
        turn: Option<usize>,
    ) -> Result<Written, SessionError> {
        if let Some(turn) = turn {
            let turns = session.turns.len();
            if turn > turns {
                return Err(SessionError::Turn { name: kept.session.name.clone(), turn, turns });
            }
            session.rewind(turn);
        }
        let end = session.tokens.len();
        let within = |block: &Result<Block, StoreError>| {
            block.as_ref().is_ok_and(|block| block.start as usize + block.tokens.len() <= end)
        };
        let identity = kept.identity_of(tenant)?;
        self.write(
            tenant,
            &session,
            &identity,
            kept.identity.about.clone(),
            &Segments::default(),
            kept.blocks().take_while(within),
        )
    }
}

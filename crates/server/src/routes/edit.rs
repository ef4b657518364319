//! `POST /v1/kv/edit`: a span of a session is cut, replaced, or something put in its place, and of what follows only the rows
//! that deviate are computed again.

use axum::Json;
use axum::extract::{Request, State};
use cachalot_engine::blend::{Before, Blend, EditId, Method, Wish};
use cachalot_engine::session::{Guard, Restored, Session, SessionError};
use serde_json::{Value, json};
use std::ops::Range;
use std::sync::Arc;

use crate::auth::Tenant;
use crate::body::read_json;
use crate::error::ApiError;
use crate::generate::{Clock, prepare, refusal};
use crate::request::{Fields, parse_json, reuse};
use crate::session::{SessionService, blocking, failure, lock, name, service};
use crate::state::AppState;

/// What is to be done.
struct Edit {
    session: String,
    /// The turn that is edited; the only one that has the text if absent.
    turn: Option<usize>,
    place: Place,
    with: String,
    blend: Blend,
}

/// What is replaced: nothing where it is empty.
enum Place {
    /// A text that stands in one place only.
    Text(String),
    /// Characters of the turn.
    Span(Range<usize>),
}

pub(crate) async fn edit(State(state): State<AppState>, request: Request) -> Result<Json<Value>, ApiError> {
    let (clock, tenant) = (Clock::start(&state), Tenant::of(&request).0);
    let service = service(&state, "session")?;
    let body = read_json(&state, request).await?;
    let edit = prepare(&state, clock, move |_| parse(&body)).await?;
    let called = name("session", &edit.session)?;
    let guard = lock(&service, clock, &tenant, &called).await?;
    let (of_files, of_guard) = (service.clone(), guard);
    let loaded = blocking(&state, clock, async move {
        let loaded = of_files.sessions.load(&of_guard, None, crate::ids::unix_seconds()).await;
        loaded.map(|(session, restored)| (of_guard, session, restored)).map_err(failure)
    });
    let (guard, before, restored) = loaded.await?;
    let (of_model, of_state) = (service.clone(), state.clone());
    let (after, edit, before) = prepare(&state, clock, move |_| {
        let after = apply(&of_state, &of_model, &before, &edit)?;
        Ok((after, edit, before))
    })
    .await?;
    compute(&state, clock, service, (guard, tenant), (before, restored), after, edit).await
}

/// Computes what is new and what deviates, and saves the session.
async fn compute(
    state: &AppState,
    clock: Clock,
    service: Arc<SessionService>,
    (guard, tenant): (Guard, String),
    (before, restored): (Session, Restored),
    mut after: Session,
    edit: Edit,
) -> Result<Json<Value>, ApiError> {
    let exact = edit.blend.method == Method::Exact;
    let method = edit.blend.to_string();
    after.edit = match exact {
        true => None,
        false => Some(EditId::of(&before.tokens, before.edit, &after.tokens, &method)),
    };
    let was = Before { tokens: before.tokens.clone(), edit: before.edit };
    let wish = Wish { before: (!exact).then_some(was), edit: after.edit, blend: Some(edit.blend), ..Wish::default() };
    let begun = std::time::Instant::now();
    let computed = service.sessions.compute_with(&after.tokens, &after.recipe, &tenant, wish);
    let computed = tokio::time::timeout_at(clock.deadline, computed).await;
    let computed = computed.map_err(|_| ApiError::timeout(clock.limit))?;
    let usage = computed.map_err(|error| refusal(&error, "session"))?;
    let seconds = begun.elapsed().as_secs_f64();
    if usage.moved_tokens == 0 && usage.cached_tokens == 0 {
        // All of it was computed: it is what its tokens say.
        after.edit = None;
    }
    after.used = crate::ids::unix_seconds();
    blocking(state, clock, async move {
        let saved = service.sessions.save(&guard, &after).await.map_err(failure)?;
        let computed = after.tokens.len().saturating_sub(usage.cached_tokens + usage.moved_tokens);
        Ok(Json(json!({
            "object": "kv.session.edit", "name": after.name, "recipe": after.recipe, "reuse": method,
            "tokens": after.tokens.len(), "tokens_before": before.tokens.len(),
            "restored_tokens": restored.restored_tokens,
            "cached_tokens": usage.cached_tokens, "moved_tokens": usage.moved_tokens,
            "recomputed_tokens": usage.recomputed_tokens, "computed_tokens": computed,
            "exact": after.edit.is_none(), "saved_tokens": saved.saved_tokens, "seconds": seconds,
        })))
    })
    .await
}

fn parse(body: &[u8]) -> Result<Edit, ApiError> {
    let value = parse_json(body)?;
    let fields = Fields::of(&value, "")?;
    for name in ["session", "replace"] {
        fields.require(name)?;
    }
    let turn = fields.count("turn", 0, u32::MAX)?;
    let place = match (fields.string("find")?, fields.count("from", 0, u32::MAX)?, fields.count("to", 0, u32::MAX)?) {
        (Some(""), ..) => return Err(ApiError::invalid("find", "'find' is empty; say 'from' and 'to' instead.")),
        (Some(text), None, None) => Place::Text(text.to_owned()),
        (None, Some(from), Some(to)) if from <= to && turn.is_some() => Place::Span(from..to),
        (None, Some(_), Some(_)) => {
            return Err(ApiError::invalid("to", "'from' and 'to' are characters of one 'turn', in order."));
        }
        _ => {
            let what = "Send 'find', a text of the session, or 'turn', 'from' and 'to'.";
            return Err(ApiError { message: what.to_owned(), ..ApiError::missing("find") });
        }
    };
    let blend = reuse(&fields, "")?.unwrap_or_default();
    if blend.method.wants_chunks() {
        let what = "is for the marked parts of a prompt; edits take the others.";
        return Err(ApiError::invalid("reuse", format!("'{}' {what}", blend.method.name())));
    }
    let text = |name| Ok::<String, ApiError>(fields.string(name)?.unwrap_or_default().to_owned());
    Ok(Edit { session: text("session")?, turn, place, with: text("replace")?, blend })
}

/// The session as it is meant to be.
fn apply(state: &AppState, service: &SessionService, before: &Session, edit: &Edit) -> Result<Session, ApiError> {
    let (turn, bytes) = find(before, edit)?;
    let mut after = before.clone();
    after.turns[turn].text.replace_range(bytes, &edit.with);
    if before.is_text() {
        let text = after.turns[0].text.clone();
        after.tokens = state.backend.encode_text(&text).map_err(|reason| {
            ApiError::invalid("replace", format!("The text cannot be given to this model: {reason}."))
        })?;
        after.turns = Session::turns_of_text(text, after.tokens.len());
        return Ok(after);
    }
    let messages = after.messages();
    after.tokens = service.encode(&after, &messages)?;
    let ends = service.ends(&after, &messages, &after.tokens, &[])?;
    // A session ends with its last turn, or with the beginning of an answer if that is how it was saved.
    if before.turns.last().is_some_and(|turn| turn.tokens.end == before.tokens.len()) {
        after.tokens.truncate(ends.last().copied().unwrap_or_default());
    }
    after.turns = Session::turns_of(&messages, &ends);
    Ok(after)
}

/// The turn and the bytes of its text that are replaced.
fn find(session: &Session, edit: &Edit) -> Result<(usize, Range<usize>), ApiError> {
    let turns = session.turns.len();
    if let Some(turn) = edit.turn.filter(|turn| *turn >= turns) {
        return Err(failure(SessionError::Turn { name: session.name.clone(), turn, turns }));
    }
    match &edit.place {
        Place::Span(span) => {
            let turn = edit.turn.unwrap_or_default();
            let text = &session.turns[turn].text;
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            let ends: Vec<usize> = ends.collect();
            match (ends.get(span.start), ends.get(span.end)) {
                (Some(&from), Some(&to)) => Ok((turn, from..to)),
                _ => {
                    let most = ends.len() - 1;
                    Err(ApiError::invalid("to", format!("Turn {turn} has {most} characters; 'to' is {}.", span.end)))
                }
            }
        }
        Place::Text(text) => {
            let among = session.turns.iter().enumerate().filter(|(i, _)| edit.turn.is_none_or(|turn| turn == *i));
            let places: Vec<(usize, usize)> =
                among.flat_map(|(i, turn)| turn.text.match_indices(text).map(move |(at, _)| (i, at))).collect();
            match places[..] {
                [(turn, at)] => Ok((turn, at..at + text.len())),
                [] => Err(ApiError::invalid("find", "The session has no such text.")),
                _ => {
                    let message =
                        format!("The text stands in {} places; name its 'turn', or more of it.", places.len());
                    Err(ApiError::invalid("find", message))
                }
            }
        }
    }
}

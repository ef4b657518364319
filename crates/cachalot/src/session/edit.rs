//! `edit`: a text of a session replaced; what follows is moved, and what deviates computed again.

use super::TENANT;
use super::desk::{Desk, DeskArgs, bytes_of};
use super::engine::say;
use super::folder::now;
use crate::Failure;
use cachalot_engine::blend::{Before, Blend, EditId, Method, Wish};
use cachalot_engine::session::{Session, SessionName, encode, ends, splice};
use cachalot_model::template::ChatTemplate;
use cachalot_model::tokenizer::Specials;
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::ops::Range;
use std::time::Instant;

#[derive(Args)]
pub struct EditArgs {
    /// The session.
    name: SessionName,
    #[command(flatten)]
    desk: DeskArgs,
    /// The text that is replaced: it stands in one place of the session, or of --turn.
    #[arg(long, value_name = "TEXT")]
    find: String,
    /// What takes its place; nothing where it is empty.
    #[arg(long, value_name = "TEXT")]
    replace: String,
    /// The message that is edited, counted from 0.
    #[arg(long, value_name = "N")]
    turn: Option<usize>,
    /// Which rows of what follows are computed again, as in a request's `kv.reuse`; `exact` computes all of it.
    #[arg(long, default_value = "cacheblend", value_name = "METHOD")]
    reuse: Blend,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn edit(args: EditArgs) -> Result<(), Failure> {
    let desk = Desk::open(&args.desk, &args.name)?;
    let guard = desk.lock(&args.name);
    let (before, restored) = desk.load(&guard)?;
    let (turn, span) = place(&before, &args.find, args.turn)?;
    let mut after = before.clone();
    after.turns[turn].text.replace_range(span, &args.replace);
    desk.encode_again(&before, &mut after)?;
    let (method, exact) = (args.reuse.to_string(), args.reuse.method == Method::Exact);
    after.edit = (!exact).then(|| EditId::of(&before.tokens, before.edit, &after.tokens, &method));
    let was = Before { tokens: before.tokens.clone(), edit: before.edit };
    let wish = Wish { before: (!exact).then_some(was), edit: after.edit, blend: Some(args.reuse), ..Wish::default() };
    let begun = Instant::now();
    let usage = desk.wait(desk.sessions.compute_with(&after.tokens, &after.recipe, TENANT, wish))?;
    let seconds = begun.elapsed().as_secs_f64();
    if usage.moved_tokens == 0 && usage.cached_tokens == 0 {
        // All of it was computed: it is what its tokens say.
        after.edit = None;
    }
    after.used = now();
    let saved = desk.wait(desk.sessions.save(&guard, &after))?;
    let (tokens, cached, moved) = (after.tokens.len(), usage.cached_tokens, usage.moved_tokens);
    let computed = tokens.saturating_sub(cached + moved);
    if args.json {
        let json = json!({
            "name": args.name.as_str(), "recipe": after.recipe, "reuse": method, "turn": turn, "tokens": tokens,
            "tokens_before": before.tokens.len(), "restored_tokens": restored.restored_tokens, "cached_tokens": cached,
            "moved_tokens": moved, "recomputed_tokens": usage.recomputed_tokens, "computed_tokens": computed,
            "exact": after.edit.is_none(), "saved_tokens": saved.saved_tokens, "seconds": seconds,
        });
        writeln!(std::io::stdout(), "{json:#}")?;
        return Ok(());
    }
    eprintln!("{}", say(args.name.as_str(), &restored, seconds));
    let kept = if after.edit.is_none() { "exact" } else { "not exact from there on" };
    eprintln!(
        "{tokens} tokens after the edit of turn {turn}: {cached} as they were, {moved} moved ({} of them computed again), \
         {computed} computed; {kept}; {} saved",
        usage.recomputed_tokens, saved.saved_tokens
    );
    Ok(())
}

/// The turn and the bytes of its text where a text stands.
fn place(session: &Session, text: &str, turn: Option<usize>) -> Result<(usize, Range<usize>), Failure> {
    if text.is_empty() {
        return Err("--find is empty".into());
    }
    let turns = session.turns.len();
    if let Some(turn) = turn.filter(|turn| *turn >= turns) {
        return Err(format!("the session has {turns} turns, so there is no turn {turn}; they count from 0").into());
    }
    let among = session.turns.iter().enumerate().filter(|(i, _)| turn.is_none_or(|turn| turn == *i));
    let places = among.flat_map(|(i, turn)| turn.text.match_indices(text).map(move |(at, _)| (i, at)));
    match places.collect::<Vec<_>>()[..] {
        [(turn, at)] => Ok((turn, at..at + text.len())),
        [] => Err("the session has no such text".into()),
        ref places => Err(format!("the text stands in {} places; name its --turn, or more of it", places.len()).into()),
    }
}

impl Desk {
    /// The tokens of a session whose text was changed, and where its turns end.
    fn encode_again(&self, before: &Session, after: &mut Session) -> Result<(), Failure> {
        let tokenizer = &*self.ready.loaded.tokenizer;
        if before.is_text() {
            let text = after.turns[0].text.clone();
            after.tokens = tokenizer.encode(&text, Specials::Parse)?;
            if tokenizer.add_bos() && after.tokens.first().copied() != tokenizer.bos() {
                after.tokens.splice(..0, tokenizer.bos());
            }
            after.turns = Session::turns_of_text(text, after.tokens.len());
            return Ok(());
        }
        let template = ChatTemplate::require(self.ready.loaded.template.as_ref())?;
        let (messages, tools, arguments) = (after.messages(), after.tools.as_ref(), after.arguments.as_ref());
        let rendered = encode(template, tokenizer, &messages, tools, arguments)?;
        // Answers keep the tokens that were chosen, as far as the text before the edit goes.
        let spliced = splice(&before.tokens, &rendered, |id| bytes_of(tokenizer, id));
        let known = before.turns.iter().map(|turn| turn.tokens.end).take_while(|&end| end <= spliced.kept);
        let (known, mut tokens) = (known.collect::<Vec<usize>>(), spliced.tokens);
        let places = ends(template, tokenizer, &messages, tools, arguments, &tokens, &known)?;
        // A session ends with its last turn, or with the beginning of an answer if that is how it was saved.
        if before.turns.last().is_some_and(|turn| turn.tokens.end == before.tokens.len()) {
            tokens.truncate(places.last().copied().unwrap_or_default());
        }
        after.turns = Session::turns_of(&messages, &places);
        after.tokens = tokens;
        Ok(())
    }
}

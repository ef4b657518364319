//! `cachalot chat`: a chat in the terminal that may be gone on with another day.

use super::desk::{Desk, DeskArgs};
use super::engine::say;
use super::folder::now;
use crate::Failure;
use crate::args::SamplingArgs;
use crate::chat::line;
use crate::run::timings;
use cachalot_engine::Request;
use cachalot_engine::session::{Session, SessionError, SessionName};
use cachalot_model::template::{ChatTemplate, Message};
use clap::Args;
use std::io::Write;
use std::time::Instant;

const HELP: &str = "/quit (or Ctrl-D) ends the chat; it is saved after every answer";

#[derive(Args)]
pub struct ChatArgs {
    /// Go on with this session, or begin it.
    #[arg(long, value_name = "NAME")]
    session: SessionName,
    #[command(flatten)]
    desk: DeskArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// The system's turn, where the session is new.
    #[arg(long)]
    system: Option<String>,
    /// Most tokens of an answer; to the end of the turn if absent.
    #[arg(short = 'n', long)]
    max_tokens: Option<usize>,
    /// Print no timings.
    #[arg(short, long)]
    quiet: bool,
}

pub fn chat(args: ChatArgs) -> Result<(), Failure> {
    let desk = Desk::open(&args.desk, &args.session)?;
    ChatTemplate::require(desk.ready.loaded.template.as_ref())?;
    let guard = desk.lock(&args.session);
    let begun = Instant::now();
    let mut session = match desk.load(&guard) {
        Ok((session, restored)) => {
            eprintln!("{}", say(args.session.as_str(), &restored, begun.elapsed().as_secs_f64()));
            session
        }
        Err(SessionError::Unknown { .. }) => {
            eprintln!("{}: a new session", args.session);
            Session { recipe: desk.recipe.clone(), created: now(), ..Session::default() }
        }
        Err(error) => return Err(error.into()),
    };
    if session.is_text() {
        let what = "is a prompt and no conversation; `cachalot session load --prompt` goes on with it".to_owned();
        return Err(SessionError::Unsuited { name: args.session.to_string(), what }.into());
    }
    eprintln!("{}; {HELP}", desk.ready.loaded.name);
    let request = Request {
        sampling: args.sampling.over(&desk.ready.loaded.generation),
        beam: args.sampling.beam(),
        max_tokens: args.max_tokens,
        starts_text: true,
        ..Request::default()
    };
    let mut editor = rustyline::DefaultEditor::new()?;
    loop {
        let Some(line) = line(&mut editor)? else { return Ok(()) };
        let text = match line.trim() {
            "" => continue,
            "/quit" | "/exit" => return Ok(()),
            "/help" => {
                eprintln!("{HELP}");
                continue;
            }
            text => text,
        };
        // Not remembered by the editor is not worth ending a chat for.
        let _ = editor.add_history_entry(text);
        let before = session.clone();
        let system = args.system.iter().filter(|_| session.turns.is_empty()).map(|text| Message::new("system", text));
        let said: Vec<Message> = system.chain([Message::new("user", text)]).collect();
        let mut out = std::io::stdout().lock();
        let show = |piece: &str| {
            out.write_all(piece.as_bytes())?;
            out.flush()
        };
        let answer = desk.go_on(&mut session, &said).and_then(|()| desk.answer(&mut session, request.clone(), show));
        match answer {
            Ok(answer) => {
                writeln!(out)?;
                if !args.quiet {
                    eprintln!("{}, {} not computed again", timings(&answer.usage), answer.usage.cached_tokens);
                }
                if let Err(error) = desk.wait(desk.sessions.save(&guard, &session)) {
                    eprintln!("error: not saved: {error}");
                }
            }
            // A conversation that became too long, say.
            Err(error) => {
                session = before;
                eprintln!("error: {error}");
            }
        }
    }
}

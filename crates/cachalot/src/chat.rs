//! `cachalot run` without a prompt: a chat in the terminal.

use crate::Failure;
use crate::load::Ready;
use crate::run::{answer, timings};
use cachalot_engine::{EngineHandle, Request};
use cachalot_model::template::{ChatTemplate, Message};
use rustyline::error::ReadlineError;
use std::io::Write;

const HELP: &str = "/clear forgets the conversation, /quit (or Ctrl-D) ends it";

/// Reads turns and answers them until the person leaves.
pub fn chat(
    ready: &Ready,
    handle: &EngineHandle,
    request: Request,
    system: Option<&str>,
    quiet: bool,
) -> Result<(), Failure> {
    let template = ChatTemplate::require(ready.loaded.template.as_ref())?;
    let first: Vec<Message> = system.iter().map(|text| Message::new("system", *text)).collect();
    let mut messages = first.clone();
    eprintln!("{}; {HELP}", ready.loaded.name);
    let mut editor = rustyline::DefaultEditor::new()?;
    loop {
        let Some(line) = line(&mut editor)? else { return Ok(()) };
        match line.trim() {
            "" => continue,
            "/quit" | "/exit" => return Ok(()),
            "/help" => eprintln!("{HELP}"),
            "/clear" => messages.clone_from(&first),
            text => {
                // Not remembered by the editor is not worth ending a chat for.
                let _ = editor.add_history_entry(text);
                messages.push(Message::new("user", text));
                let prompt = template.encode(&ready.loaded.tokenizer, &messages, true, None, None)?;
                let mut out = std::io::stdout().lock();
                let show = |piece: &str| {
                    out.write_all(piece.as_bytes())?;
                    out.flush()
                };
                match answer(handle, Request { prompt, starts_text: true, ..request.clone() }, show) {
                    Ok(answer) => {
                        writeln!(out)?;
                        if !quiet {
                            eprintln!("{}", timings(&answer.usage));
                        }
                        messages.push(Message::new("assistant", answer.text));
                    }
                    // A conversation that became too long, say: the person can clear it and go on.
                    Err(error) => {
                        messages.pop();
                        eprintln!("error: {error}");
                    }
                }
            }
        }
    }
}

/// What is typed next; `None` at the end of the input. An interrupt empties the line.
pub fn line(editor: &mut rustyline::DefaultEditor) -> Result<Option<String>, Failure> {
    loop {
        match editor.readline("> ") {
            Ok(line) => return Ok(Some(line)),
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

//! Running the program.
#![allow(dead_code, clippy::unwrap_used)]

use serde_json::Value;
use std::process::{Command, Output, Stdio};

pub fn cachalot(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cachalot"));
    command.args(arguments).stdin(Stdio::null());
    // The embedded model is laid out in a folder of the tests', and nobody's settings leak in.
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    for name in ["CACHALOT_MODEL", "CACHALOT_ISA", "CACHALOT_LOG", "CACHALOT_KV_PROFILE"] {
        command.env_remove(name);
    }
    command
}

pub fn run(arguments: &[&str]) -> Output {
    cachalot(arguments).output().unwrap()
}

/// Standard output of a run that must succeed.
pub fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(arguments)).unwrap()
}

/// Standard error of a run that must fail with this code, and say nothing on standard output.
pub fn stderr_of_failure(arguments: &[&str], code: i32) -> String {
    failure(run(arguments), code)
}

pub fn failure(output: Output, code: i32) -> String {
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    message
}

/// Sentences that differ, enough for a few windows.
pub fn prose(dir: &std::path::Path) -> String {
    let line = |i: usize| {
        format!("Ship {i} came into the harbour with {} sailors and a cargo of {}.\n\n", i % 37, i * i % 101)
    };
    let path = dir.join("prose.txt");
    std::fs::write(&path, (0..200).map(line).collect::<String>()).unwrap();
    path.display().to_string()
}

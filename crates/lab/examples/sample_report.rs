//! Writes a report of made-up numbers, to look at: `cargo run -p cachalot-lab --example sample_report FOLDER`.

use cachalot_lab::report;
use std::error::Error;
use std::path::PathBuf;

#[path = "../tests/sample/mod.rs"]
mod sample;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("name the folder to write to")?);
    let sheet = sample::sheet(1);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("report.html"), report::html(&sheet)?)?;
    std::fs::write(folder.join("hostile.html"), report::html(&sample::hostile())?)?;
    std::fs::write(folder.join("report.md"), report::markdown(&sheet))?;
    std::fs::write(folder.join("report.csv"), report::csv(&sheet))?;
    std::fs::write(folder.join("heads.csv"), report::heads_csv(&sheet))?;
    std::fs::write(folder.join("depths.csv"), report::depths_csv(&sheet))?;
    println!("{}", folder.join("report.html").display());
    Ok(())
}

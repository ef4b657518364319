//! What every recipe of the registry writes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use cachalot_kv::encode::codec::{Hints, Side};
use cachalot_kv::recipe::{Registry, calibrate};
use common::{Rows, plain};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/formats/recipes.golden");

/// A recipe that writes otherwise than before cannot read what it wrote. Where that is meant, run the test with
/// `CACHALOT_BLESS=1` and commit the file. Tables of recipes with a profile come from the same random numbers each time.
#[test]
fn pages_of_every_recipe_are_the_bytes_they_were() {
    let geometry = plain(4, 2, 64);
    let rows = Rows::random(&geometry, 64, 11);
    let importance: Vec<f32> = (0..64).map(|i| ((i * 37) % 64) as f32).collect();
    let mut lines = String::new();
    for recipe in Registry::all() {
        let plan = calibrate::synthetic(recipe, std::slice::from_ref(&geometry)).expect(&recipe.name);
        let Some(body) = &plan.lanes[0][1].body else { continue };
        for (side, pipeline, rows) in [(Side::Keys, &body.k, &rows.k), (Side::Values, &body.v, &rows.v)] {
            // The second head's rows, some of them larger, as keys are.
            let mut x: Vec<f32> = rows.chunks_exact(128).flat_map(|row| row[64..].to_vec()).collect();
            x.iter_mut().skip(5).step_by(64).for_each(|x| *x *= 9.0);
            let mut page = vec![0; pipeline.bytes()];
            assert_eq!(pipeline.encode(&x, Hints { importance: &importance, start: 64 }, &mut page), 0);
            let hash = &blake3::hash(&page).to_hex()[..32];
            lines.push_str(&format!("{hash} {:5} {} {}\n", page.len(), side.letter(), recipe.name));
        }
    }
    if std::env::var_os("CACHALOT_BLESS").is_some() {
        std::fs::write(FILE, &lines).unwrap();
    }
    let golden = std::fs::read_to_string(FILE).unwrap();
    for (now, before) in lines.lines().zip(golden.lines()) {
        assert_eq!(now, before);
    }
    assert_eq!(lines.lines().count(), golden.lines().count());
}

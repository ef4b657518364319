//! The page of a report: complete, closed to the outside, and safe from what is written in it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cachalot_lab::cell::Cell;
use cachalot_lab::quality::Scores;
use cachalot_lab::report::{Sheet, html, recipes};
use std::collections::{BTreeMap, BTreeSet};

mod sample;

/// A start tag: its name and attributes, values as they are written.
type Tag<'a> = (&'a str, Vec<(&'a str, &'a str)>);

/// The start tags of a page, by HTML's rules for well-formed ones: within a script or style only its end counts.
fn tags(mut page: &str) -> Vec<Tag<'_>> {
    let mut tags = Vec::new();
    while let Some(at) = page.find('<') {
        page = &page[at + 1..];
        if !page.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let end = page.find(|c: char| c.is_whitespace() || c == '>' || c == '/').unwrap();
        let name = &page[..end];
        page = &page[end..];
        let mut attributes = Vec::new();
        loop {
            page = page.trim_start_matches(|c: char| c.is_whitespace() || c == '/');
            if let Some(rest) = page.strip_prefix('>') {
                page = rest;
                break;
            }
            let end = page.find(|c: char| c.is_whitespace() || "=>/".contains(c)).unwrap();
            let attribute = &page[..end];
            page = &page[end..];
            let mut value = "";
            if let Some(rest) = page.strip_prefix('=') {
                let rest = rest.strip_prefix('"').expect("every value is quoted");
                let end = rest.find('"').unwrap();
                (value, page) = (&rest[..end], &rest[end + 1..]);
            }
            attributes.push((attribute, value));
        }
        tags.push((name, attributes));
        if name == "script" || name == "style" {
            page = &page[page.find(&format!("</{name}")).unwrap()..];
        }
    }
    tags
}

fn values<'a>(tags: &[Tag<'a>], name: &str) -> Vec<&'a str> {
    tags.iter().flat_map(|tag| &tag.1).filter(|attribute| attribute.0 == name).map(|attribute| attribute.1).collect()
}

/// What holds of every page.
fn check(page: &str) {
    let tags = tags(page);
    let ids = values(&tags, "id");
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), unique.len(), "anchors are unique");
    for link in values(&tags, "href") {
        let target = link.strip_prefix('#').unwrap_or_else(|| panic!("{link} leads out of the page"));
        assert!(unique.contains(target), "{link} leads nowhere");
    }
    for reference in ["aria-labelledby", "data-filters", "data-count"] {
        let targets = values(&tags, reference);
        targets.iter().flat_map(|ids| ids.split(' ')).for_each(|id| assert!(unique.contains(id), "{reference} {id}"));
    }
    // Nothing that loads, and nothing that runs but the page's own scripts.
    let names: BTreeSet<&str> = tags.iter().map(|tag| tag.0).collect();
    for loads in ["link", "img", "iframe", "object", "embed", "audio", "video", "image", "use", "form", "base"] {
        assert!(!names.contains(loads), "<{loads}>");
    }
    for tag in &tags {
        for (name, _) in &tag.1 {
            assert!(!name.starts_with("on") && !["src", "srcset", "style", "action"].contains(name), "{tag:?}");
        }
    }
    for loads in ["@import", "url(", "fetch(", "XMLHttpRequest", "import("] {
        assert!(!page.contains(loads), "{loads}");
    }
    // The policy names the word that the scripts and styles carry.
    let policy = values(&tags, "content").into_iter().find(|value| value.contains("default-src 'none'")).unwrap();
    let carriers = tags.iter().filter(|tag| ["script", "style"].contains(&tag.0));
    for tag in carriers {
        let nonce = tag.1.iter().find(|attribute| attribute.0 == "nonce").unwrap().1;
        assert!(policy.contains(&format!("script-src 'nonce-{nonce}'")), "{policy}");
    }
}

#[test]
fn every_recipe_has_a_row_and_every_mark_a_target() {
    let sheet = sample::sheet(3);
    let page = html(&sheet).unwrap();
    check(&page);
    let rows = recipes(&sheet.cells);
    assert!(rows.len() > 90);
    let tags = tags(&page);
    let anchors = values(&tags, "id");
    assert_eq!(anchors.iter().filter(|id| id.starts_with("recipe-")).count(), rows.len());
    for (i, row) in rows.iter().enumerate() {
        let start = page.find(&format!("<tr id=\"recipe-{i}\"")).unwrap();
        let text = &page[start..start + page[start..].find("</tr>").unwrap()];
        assert!(text.contains(&format!("<span class=\"name\">{}</span>", row.recipe)), "{text}");
        // Traceable: the row leads to each of its runs.
        assert_eq!(text.matches("href=\"#run-").count(), row.runs.len(), "{text}");
    }
    // Every recipe is a mark on each of the planes that it has numbers for, twice: on wide pages and on narrow ones.
    let marks =
        tags.iter().filter(|tag| tag.0 == "a" && tag.1.iter().any(|a| a.0 == "class" && a.1.starts_with("mark ")));
    assert_eq!(marks.count(), 2 * 6 * rows.len());
    assert_eq!(page.matches("snapkv</a>").count(), 4 * 2 + 7 + 1, "maps of four tasks, seven tables, heads");
    assert_eq!(page.matches("<article id=\"run-").count(), 2);
    assert!(page.contains("cachalot lab sweep --recipes &#x27;all, k=q8_0 + v=q4_0&#x27; --seed 3"));
    assert_eq!(html(&sheet).unwrap(), page, "the same sheet makes the same page");
}

#[test]
fn what_is_written_in_a_sheet_stays_text() {
    let sheet = sample::hostile();
    let page = html(&sheet).unwrap();
    check(&page);
    // What has no sign of HTML in it may stand there as it is.
    for harm in sample::HOSTILE.iter().filter(|harm| harm.contains(['<', '"', '\''])) {
        assert!(!page.contains(*harm), "{harm} stands there as it is");
    }
    // The sheet's own scripts: the class, the page's, and one block of numbers for each cell with heads.
    let scripts = tags(&page).iter().filter(|tag| tag.0 == "script").count();
    assert_eq!(scripts, 2 + sheet.cells.iter().filter(|cell| !cell.heads.is_empty()).count());
    assert!(page.contains("&lt;script&gt;alert(1)&lt;&#x2f;script&gt;"), "and is shown");
}

#[test]
fn sheets_without_results_make_pages() {
    let page = html(&Sheet::default()).unwrap();
    check(&page);
    assert!(page.contains("There are no results.") && page.contains("The sheet names no runs."));
    let mut sheet = sample::sheet(1);
    for cell in &mut sheet.cells {
        *cell = Cell {
            failure: Some(format!("no memory for {}", cell.recipe)),
            recipe: cell.recipe.clone(),
            task: cell.task.clone(),
            tokens: cell.tokens,
            planned: 7,
            ..Cell::default()
        };
    }
    let page = html(&sheet).unwrap();
    check(&page);
    let reasons = page.matches("<span class=\"reason\">no memory for ").count();
    assert_eq!(reasons, recipes(&sheet.cells).len(), "one reason a recipe");
    let first = recipes(&sheet.cells).remove(0);
    first.failures.iter().for_each(|failed| assert!(page.contains(&failed.at), "{}", failed.at));
    assert!(page.contains("No recipe has both a quality and a cost yet."));
}

#[test]
fn numbers_that_are_none_are_not_drawn() {
    let mut sheet = sample::sheet(1);
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, -1e300];
    let names: BTreeMap<String, f64> = recipes(&sheet.cells).into_iter().map(|row| row.recipe).zip(odd).collect();
    for cell in &mut sheet.cells {
        let Some(&odd) = names.get(&cell.recipe) else { continue };
        cell.divergence = Some(Scores { kl_mean: odd, perplexity_ratio: odd, ..Scores::default() });
        cell.heads = vec![vec![odd, 1.0], vec![]];
        cell.speed.decode_ratio = Some(odd);
        cell.answers.iter_mut().for_each(|answers| (answers.difference, answers.by_depth[0].1) = (odd, odd));
    }
    check(&html(&sheet).unwrap());
}

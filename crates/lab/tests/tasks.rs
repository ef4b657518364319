//! Made-up questions on a real vocabulary: their length, their seed, and that the text has the answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use cachalot_lab::Subject;
use cachalot_lab::tasks::{self, Case, Mode, Source, Wanted};
use support::solve::solve;
use support::{loaded, log, subject};

fn wanted(text: &cachalot_lab::Text, tokens: usize, questions: usize) -> Wanted<'_> {
    Wanted { text, tokens, questions, per_text: 4, mode: Mode::Shared, seed: 1, cut: false }
}

fn decode(case: &Case) -> String {
    loaded().tokenizer.decode(&case.prompt)
}

fn all() -> Vec<std::sync::Arc<dyn Source>> {
    let names: Vec<&str> = tasks::TASKS.iter().map(|task| task.name()).collect();
    tasks::named(&names.join(",")).unwrap()
}

#[test]
fn every_answer_can_be_found_in_its_prompt() {
    let text = log(3000);
    // In the chat template and as plain text.
    for subject in [subject(), Subject { template: None, ..subject() }] {
        for source in all() {
            for tokens in [700, 1900] {
                let cases = source.cases(&subject, &wanted(&text, tokens, 6)).unwrap();
                assert_eq!(cases.len(), 6, "{}", source.name());
                for case in &cases {
                    let prompt = decode(case);
                    assert!(case.prompt.len() <= tokens && case.prompt.len() + 80 > tokens, "{}", case.prompt.len());
                    let context = loaded().tokenizer.decode(&case.prompt[..case.context]);
                    let mut solved = solve(source.name(), &context, &prompt[context.len()..]);
                    let mut expected = case.expected.clone();
                    solved.sort();
                    expected.sort();
                    assert_eq!(solved, expected, "{}: {prompt}", source.name());
                    assert_eq!(case.score(&solved.join(" ")), 1.0, "{}", source.name());
                    assert_eq!(case.score("None of them."), 0.0, "{}", source.name());
                }
            }
        }
    }
}

#[test]
fn the_seed_decides_everything() {
    let text = log(3000);
    for source in all() {
        let make = |seed| source.cases(&subject(), &Wanted { seed, ..wanted(&text, 900, 5) }).unwrap();
        let (one, other) = (make(1), make(2));
        assert_eq!(one, make(1));
        for (a, b) in one.iter().zip(&other) {
            assert_ne!(a.prompt, b.prompt, "{}", source.name());
        }
        // Classes and words of objects may be the same by chance.
        let same = one.iter().zip(&other).filter(|(a, b)| a.expected == b.expected).count();
        assert!(same <= 1, "{}: {same}", source.name());
    }
}

#[test]
fn contexts_end_before_the_first_question() {
    let text = log(3000);
    for subject in [subject(), Subject { template: None, ..subject() }] {
        for source in all() {
            for mode in [Mode::Single, Mode::Shared, Mode::Turns] {
                let cases = source.cases(&subject, &Wanted { mode, ..wanted(&text, 900, 8) }).unwrap();
                for case in &cases {
                    let context = loaded().tokenizer.decode(&case.prompt[..case.context]);
                    let rest = loaded().tokenizer.decode(&case.prompt[case.context..]);
                    // What asks is behind it, and nothing else is but what ends the text.
                    assert!(
                        case.turn > 0 || rest.len() < 500 && context.len() > 2 * rest.len(),
                        "{}: {rest}",
                        source.name()
                    );
                    assert!(!context.contains('?'), "{}: {context}", source.name());
                    assert!(rest.contains('?'), "{}: {rest}", source.name());
                }
            }
        }
    }
}

#[test]
fn turns_go_on_from_the_turns_before() {
    let text = log(3000);
    for subject in [subject(), Subject { template: None, ..subject() }] {
        for source in all() {
            let wanted = Wanted { mode: Mode::Turns, ..wanted(&text, 1200, 8) };
            let cases = source.cases(&subject, &wanted).unwrap();
            for pair in cases.windows(2).filter(|pair| pair[1].turn > 0) {
                assert_eq!(pair[1].turn, pair[0].turn + 1);
                assert_eq!(pair[1].context, pair[0].context);
                let (before, after) = (decode(&pair[0]), decode(&pair[1]));
                let gone_on = after.strip_prefix(before.trim_end()).unwrap_or_else(|| panic!("{before}\n---\n{after}"));
                // The right answer comes first.
                let places: Vec<usize> = pair[0].expected.iter().filter_map(|e| gone_on.find(&e[..])).collect();
                assert_eq!(places.len(), pair[0].expected.len(), "{gone_on}");
                assert!(places.iter().all(|at| *at < gone_on.find('?').unwrap()), "{gone_on}");
                // All but what the next text does to the last token, and a prefix that is written apart.
                assert!(pair[0].common(&pair[1]) + 2 >= pair[0].prompt.len(), "{}", source.name());
                // Also with it, the last turn has its own answer nowhere but in the text.
                assert!(pair[1].prompt.len() <= 1200);
            }
            let turns = cases.iter().map(|case| case.turn).max().unwrap();
            assert_eq!(turns, if cases[1].turn == 0 { 0 } else { 3 }, "{}", source.name());
        }
    }
}

#[test]
fn modes_share_texts_as_they_say() {
    let text = log(3000);
    let texts = |mode| {
        let source = tasks::named("multi-key").unwrap().remove(0);
        let cases = source.cases(&subject(), &Wanted { mode, ..wanted(&text, 900, 8) }).unwrap();
        let mut texts: Vec<_> = cases.iter().map(|case| case.prompt[..case.context].to_vec()).collect();
        texts.sort();
        texts.dedup();
        let mut depths: Vec<f64> = cases.iter().map(|case| case.depth.unwrap()).collect();
        depths.sort_by(f64::total_cmp);
        assert_eq!(depths, (0..8).map(|i| (f64::from(i) + 0.5) / 8.0).collect::<Vec<_>>());
        texts.len()
    };
    assert_eq!((texts(Mode::Single), texts(Mode::Shared), texts(Mode::Turns)), (8, 2, 2));
}

#[test]
fn facts_lie_at_their_depths() {
    let text = log(3000);
    for name in ["needle", "multi-key", "passkey", "copy"] {
        let source = tasks::named(name).unwrap().remove(0);
        for tokens in [500, 1900] {
            for case in source.cases(&subject(), &wanted(&text, tokens, 5)).unwrap() {
                let prompt = decode(&case);
                assert_eq!(prompt.matches(&case.expected[0]).count(), 1, "{prompt}");
                let (at, depth) = (prompt.find(&case.expected[0]).unwrap() as f64, case.depth.unwrap());
                assert!((at / prompt.len() as f64 - depth).abs() < 0.1 + 110.0 / tokens as f64, "{at} {depth}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_says_what_would() {
    let text = log(3000);
    for source in all() {
        let error = source.cases(&subject(), &wanted(&text, 30, 1)).unwrap_err().to_string();
        assert!(error.contains(source.name()) && error.contains("at least") && error.contains("30"), "{error}");
        // As much as it says does.
        let least = error.split(' ').find_map(|word| word.parse::<usize>().ok()).unwrap();
        let cases = source.cases(&subject(), &wanted(&text, least, 1));
        assert!(cases.is_ok_and(|cases| cases.iter().all(|case| case.prompt.len() <= least)), "{}", source.name());
    }
    let short = log(5);
    let source = tasks::named("needle").unwrap().remove(0);
    let error = source.cases(&subject(), &wanted(&short, 900, 4)).err().unwrap().to_string();
    assert!(error.contains("too short to fill"), "{error}");
    // What is made up needs no text.
    let source = tasks::named("kv-retrieval").unwrap().remove(0);
    assert_eq!(source.cases(&subject(), &wanted(&short, 900, 4)).unwrap().len(), 4);
}

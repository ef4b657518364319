//! Prompts on real vocabularies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cachalot_kernels::Team;
use cachalot_lab::tasks::{Needles, cases};
use cachalot_lab::{Subject, Text};
use cachalot_model::{LoadOptions, Model};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

#[test]
fn prompts_are_decided_by_the_seed_and_have_their_length() {
    let team = Arc::new(Team::new(NonZeroUsize::MIN));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf");
    let loaded = Model::load(&path, &LoadOptions::new(team.clone())).unwrap();
    let subject = Subject::new(&loaded, team);
    // Sentences, then lines without any full stop.
    let text: String =
        (0..3000).map(|i| format!("Line {i} of the log {}\n", if i % 3 == 0 { "ends." } else { "goes on" })).collect();
    let text = Text::new(Path::new("log.txt"), text.into_bytes()).unwrap();
    for tokens in [220, 400, 1900] {
        let make = |seed| cases(&Needles, &subject, &text, tokens, 5, 5, seed).unwrap();
        let (one, other) = (make(1), make(2));
        assert_eq!(one, make(1));
        assert!(one.iter().zip(&other).all(|(a, b)| a.prompt != b.prompt && a.expected != b.expected));
        for case in &one {
            assert!(case.prompt.len() <= tokens && case.prompt.len() + 60 > tokens, "{} {tokens}", case.prompt.len());
            let text = loaded.tokenizer.decode(&case.prompt);
            assert_eq!(text.matches(&case.expected[0]).count(), 1, "{text}");
            assert_eq!(text.matches("barrels of oil").count(), if case.index == 1 { 2 } else { 1 }, "{text}");
            // The fact lies where it should, to within a sentence.
            let at = text.find(&case.expected[0]).unwrap() as f64 / text.len() as f64;
            assert!((at - case.depth).abs() < 0.1 + 60.0 / tokens as f64, "{at} {}", case.depth);
        }
    }
}

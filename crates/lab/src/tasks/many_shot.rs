//! Classification by examples: what SCBench's many-shot learning asks (Li et al., 2024), with classes that no model has
//! learned.

use super::{Posed, Question, Scoring, Task, lexicon};
use crate::statistics::Random;
use std::sync::Arc;

/// Classes.
const CLASSES: usize = 5;
/// Nouns that decide the class.
const THINGS: usize = 24;

const INTRODUCTION: &str = "Each of the following lines has a thing and the group that it belongs to. Things of the same noun belong to \
     the same group. Learn from them. You will be asked for the group of another thing afterwards.";

/// Examples of adjective, noun and class, where the noun decides; a question is about a pair that has no example, but
/// its noun has one at the question's depth and perhaps others.
pub struct ManyShot;

impl Task for ManyShot {
    fn name(&self) -> &'static str {
        "many-shot"
    }

    fn answer_tokens(&self) -> usize {
        16
    }

    fn made_up(&self) -> bool {
        true
    }

    fn questions_of_a_text(&self) -> usize {
        THINGS
    }

    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed {
        let mut nouns = lexicon::NOUNS;
        random.shuffle(&mut nouns);
        let classes = labels(random);
        // Every class has as many nouns as the next, or one more.
        let mut class: Vec<usize> = (0..THINGS).map(|i| i % CLASSES).collect();
        random.shuffle(&mut class);
        let mut adjectives = lexicon::ADJECTIVES;
        random.shuffle(&mut adjectives);
        // Question i is about noun i with adjective i, which no example has.
        let example = |noun: usize, random: &mut Random| {
            let mut adjective = random.below(adjectives.len() - 1);
            adjective += usize::from(adjective >= noun);
            format!("{} {}: {}", adjectives[adjective], nouns[noun], classes[class[noun]])
        };
        let sure: Vec<String> = (0..depths.len().min(THINGS)).map(|noun| example(noun, random)).collect();
        let others = sentences.len().max(CLASSES);
        let mut lines: Vec<String> = (0..others).map(|_| example(random.below(THINGS), random)).collect();
        let mut order: Vec<usize> = (0..sure.len()).collect();
        order.sort_by(|a, b| depths[*a].total_cmp(&depths[*b]));
        for at in order {
            let place = (depths[at].clamp(0.0, 1.0) * others as f64).round() as usize;
            lines.insert(place.min(lines.len()), sure[at].clone());
        }
        let known: Arc<[String]> = classes.clone().into();
        let questions = depths.iter().take(THINGS).enumerate().map(|(at, &depth)| {
            let (adjective, noun) = (adjectives[at], nouns[at]);
            let text = format!("To which group does \"{adjective} {noun}\" belong?");
            let mut question = Question::new(text, vec![classes[class[at]].clone()], depth);
            question = question.prefix(format!("{adjective} {noun}:"));
            question.scoring = Scoring::Classification { classes: known.clone() };
            question
        });
        Posed {
            introduction: INTRODUCTION.into(),
            text: lines.join("\n"),
            questions: questions.collect(),
            instruction: "Answer with the group only.".into(),
            ..Posed::default()
        }
    }
}

/// Names without a meaning, of which none is part of another.
fn labels(random: &mut Random) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    while labels.len() < CLASSES {
        let mut syllable = || {
            let (consonants, vowels) = (b"bdfgklmnprstvz", b"aeiou");
            let pick = |of: &[u8], random: &mut Random| char::from(of[random.below(of.len())]);
            [pick(consonants, random), pick(vowels, random)]
        };
        let label: String = (0..3).flat_map(|_| syllable()).collect();
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    labels
}

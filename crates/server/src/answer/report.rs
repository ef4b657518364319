//! `kv` of an answer: what the cache did to it, where the request asked.

use cachalot_engine::{Divergence, KvReport, Skipped};
use serde_json::{Value, json};

use crate::generate::Totals;

/// Adds `kv`, with all choices together in `report` and, where there are several, each by itself in `choices`.
pub(crate) fn add(document: &mut Value, totals: &Totals) {
    add_reports(document, totals);
    if let Some(session) = &totals.session {
        document["kv"]["session"] = session.clone();
    }
}

fn add_reports(document: &mut Value, totals: &Totals) {
    let (Value::Object(map), Some(recipe)) = (document, &totals.recipe) else { return };
    let mut reports: Vec<&(usize, KvReport)> = totals.reports.iter().collect();
    reports.sort_by_key(|(index, _)| *index);
    let mut kv = json!({"recipe": recipe, "report": together(&reports).as_ref().map(one)});
    if let (Value::Object(kv), [_, _, ..]) = (&mut kv, &reports[..]) {
        let choices = reports.iter().map(|(index, report)| json!({"index": index, "report": one(report)}));
        kv.insert("choices".into(), choices.collect());
    }
    map.insert("kv".into(), kv);
}

/// One report of several. Choices that were not compared count with their steps only, unless none was.
fn together(reports: &[&(usize, KvReport)]) -> Option<KvReport> {
    let mut sum = reports.first()?.1.clone();
    for (_, report) in &reports[1..] {
        sum.of += report.of;
        sum.exact_tokens += report.exact_tokens;
        // They are made one after the other.
        sum.seconds = sum.seconds.max(report.seconds);
        match (&mut sum.outcome, &report.outcome) {
            (Ok(sum), Ok(other)) => sum.merge(other),
            (outcome @ Err(_), Ok(_)) => *outcome = report.outcome.clone(),
            (_, Err(_)) => {}
        }
    }
    Some(sum)
}

fn one(report: &KvReport) -> Value {
    let mut document = match &report.outcome {
        Ok(divergence) => measured(divergence),
        Err(why) => skipped(why),
    };
    if let Value::Object(map) = &mut document {
        map.insert("of".into(), json!(report.of));
        map.insert("share".into(), json!(report.share));
        map.insert("exact_recipe".into(), json!(report.exact.to_string()));
        map.insert("exact_tokens".into(), json!(report.exact_tokens));
        map.insert("seconds".into(), json!(report.seconds));
    }
    document
}

fn measured(d: &Divergence) -> Value {
    json!({
        "steps": d.steps,
        "kl_mean": d.kl_mean(),
        "kl_max": d.kl_max,
        "kl_max_step": d.kl_max_step,
        "kl_first": d.kl_first(),
        "top1_agreement": d.top1_agreement(),
        "chosen_top1": d.chosen_top1 as f64 / d.steps.max(1) as f64,
        "perplexity_ratio": d.perplexity_ratio(),
    })
}

fn skipped(why: &Skipped) -> Value {
    json!({"skipped": why.code(), "message": why.to_string()})
}

//! What `fixtures/kv-file/read.py` prints of a file, from our own reader.

use cachalot_store::file::{FileIdentity, KvFile, Missing};
use cachalot_store::{Form, Page};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

pub fn report(path: &Path) -> String {
    let file = KvFile::open(path).unwrap();
    let mut out = String::new();
    if let Some(identity) = file.identity() {
        fields(identity, &mut out);
    }
    let mut last = None;
    for (i, block) in file.blocks().iter().enumerate() {
        // The index may know of blocks that the file has lost.
        let Ok(head) = file.head(i) else { continue };
        last = Some(i);
        let parent = block.parent.map_or("none".to_owned(), |key| key.to_string());
        let tokens: Vec<String> = block.tokens.iter().map(u32::to_string).collect();
        let tokens = tokens.join(" ");
        writeln!(out, "block {} at {}, parent {parent}, tokens {tokens}", block.key, block.start).unwrap();
        for entry in &head.pages {
            let text = match (entry.codec, file.page(i, (entry.layer, entry.head, entry.form), &[])) {
                (0, Ok(page)) => sums(&page.unwrap(), block.tokens.len()),
                (0, Err(_)) => "damaged".to_owned(),
                (n, _) => format!("codec {}", head.codecs[usize::from(n) - 1]),
            };
            writeln!(out, "  layer {} head {} {}: {text}", entry.layer, entry.head, form(entry.form)).unwrap();
        }
    }
    for lack in last.and_then(|last| file.missing(last).unwrap()).unwrap_or_default() {
        let lack = match lack {
            Missing::Block(key) => format!("block {key}"),
            Missing::Page { start, layer, head, form: f } => {
                format!("page at {start} of layer {layer} head {head} {}", form(f))
            }
        };
        writeln!(out, "missing behind the last block: {lack}").unwrap();
    }
    for damage in file.check(&[]).unwrap() {
        writeln!(out, "damage at byte {}", damage.at).unwrap();
    }
    out
}

fn form(form: Form) -> &'static str {
    match form {
        Form::Kept => "kept",
        Form::Exact => "exact",
    }
}

fn fields(identity: &FileIdentity, out: &mut String) {
    let hex = |digest: &[u8; 32]| blake3::Hash::from(*digest).to_hex().to_string();
    let about = &identity.about;
    let layer = |layer: &cachalot_store::file::Layer| {
        json!({
            "dim": layer.dim, "sliding": layer.sliding, "sinks": layer.sinks, "exact": layer.exact,
            "encoded": layer.encoded,
        })
    };
    let template = about.template.as_ref().map(hex);
    let fields: [(&str, Value); 13] = [
        ("domain", hex(&identity.domain.0).into()),
        ("model", hex(&identity.model).into()),
        ("tokenizer", hex(&identity.tokenizer).into()),
        ("adapter", identity.adapter.as_ref().map(hex).into()),
        ("rope", identity.rope.as_str().into()),
        ("dtype", identity.dtype.as_str().into()),
        ("recipe", identity.recipe.as_str().into()),
        ("plan", hex(&identity.plan).into()),
        ("arithmetic", identity.arithmetic.into()),
        ("tenant", identity.tenant.as_ref().map(hex).into()),
        ("names", json!({"model": about.model, "tokenizer": about.tokenizer, "template": template})),
        ("layers", about.layers.iter().map(layer).collect::<Vec<Value>>().into()),
        ("meta", Value::Object(about.meta.clone())),
    ];
    fields.iter().for_each(|(name, value)| writeln!(out, "{name}: {value}").unwrap());
}

fn sums(page: &Page, tokens: usize) -> String {
    let header = page.header().unwrap();
    if header.body {
        return "written by a recipe".to_owned();
    }
    let (dim, [k, v]) = (header.dim as usize, [header.format[0], header.format[1]]);
    let size = |kind| if kind == 0 { 4 } else { 2 };
    let width = dim.next_multiple_of(16);
    let (keys, values) = page.bytes[64..].split_at(64 * width * size(k));
    let number = |bytes: &[u8], kind, at: usize| match kind {
        0 => f64::from(f32::from_le_bytes(bytes[4 * at..][..4].try_into().unwrap())),
        1 => half::f16::from_le_bytes(bytes[2 * at..][..2].try_into().unwrap()).to_f64(),
        _ => half::bf16::from_le_bytes(bytes[2 * at..][..2].try_into().unwrap()).to_f64(),
    };
    let slots = || (0..tokens).flat_map(|token| (0..dim).map(move |channel| (token, channel)));
    let key_sum: f64 = slots().map(|(token, channel)| number(keys, k, channel * 64 + token)).sum();
    let value_sum: f64 = slots().map(|(token, channel)| number(values, v, token * width + channel)).sum();
    let name = |kind: u8| ["f32", "f16", "bf16"][usize::from(kind)];
    format!("keys {} sum {key_sum:.4}, values {} sum {value_sum:.4}", name(k), name(v))
}

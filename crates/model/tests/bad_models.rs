//! Models whose files are well-formed and still wrong: each gets an error that names the thing and the place.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cachalot_model::{LoadOptions, Model, ModelError, load_weights, read_spec};
use common::gguf_file::{llama, text};
use common::{Rig, fixtures, options};
use serde_json::{Value, json};

fn load(path: &Path) -> Result<Model, ModelError> {
    load_weights(path, &options()).map(|(model, _)| model)
}

fn config(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join(name).join("config.json")).unwrap()).unwrap()
}

/// The error for a configuration.
fn refused(config: &Value) -> ModelError {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    read_spec(folder.path()).unwrap_err()
}

type Tensors = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

/// A fixture with its tensors changed, in a folder of its own.
fn altered(name: &str, change: impl FnOnce(&mut Tensors)) -> tempfile::TempDir {
    let source = fixtures().join(name);
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    change(&mut tensors);
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| {
            (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    std::fs::copy(source.join("config.json"), folder.path().join("config.json")).unwrap();
    folder
}

#[test]
fn unknown_architectures_list_the_known_ones() {
    let mut other = config("llama");
    other["model_type"] = json!("mamba");
    let error = refused(&other).to_string();
    for word in ["mamba", "llama", "mistral", "qwen2", "qwen3", "phi3", "gemma3"] {
        assert!(error.contains(word), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, llama(32, 2, 2, 32, 1).set("general.architecture", text("rwkv7")).to_bytes()).unwrap();
    let error = load(&path).map(|_| ()).unwrap_err();
    assert!(matches!(error, ModelError::Unsupported { .. }));
    for word in ["rwkv7", "llama", "qwen2", "qwen3", "phi3", "gemma3"] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn absurd_configurations_name_the_key() {
    let cases = [
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(u64::MAX)),
        ("num_hidden_layers", json!(-2)),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("num_key_value_heads", json!(0)),
        ("head_dim", json!(1u64 << 40)),
        ("head_dim", json!(0)),
        ("head_dim", json!(15)),
        ("hidden_size", json!("48")),
        ("hidden_size", json!(10_000_000)),
        ("intermediate_size", json!(1e12)),
        ("vocab_size", json!(0)),
        ("vocab_size", json!(4_000_000_000u64)),
        ("vocab_size", Value::Null),
        ("max_position_embeddings", json!(0)),
        ("rms_norm_eps", json!(-1.0)),
        ("hidden_act", json!("tanhshrink")),
        ("rope_parameters", json!({"rope_type": "default", "rope_theta": 0})),
        ("rope_parameters", json!({"rope_type": "linear", "rope_theta": 1e4, "factor": 0})),
        ("rope_parameters", json!({"rope_type": "linear", "rope_theta": 1e4})),
        ("rope_parameters", json!({"rope_type": "spiral", "rope_theta": 1e4})),
        ("rope_parameters", json!({"rope_type": "default", "partial_rotary_factor": 7})),
        ("rope_parameters", json!([1, 2])),
        ("tie_word_embeddings", json!("yes")),
        ("quantization_config", json!({"bits": 4})),
        ("model_type", Value::Null),
    ];
    for (key, value) in cases {
        let mut config = config("llama");
        config[key] = value.clone();
        let error = refused(&config);
        assert!(
            matches!(error, ModelError::Config { .. } | ModelError::Unsupported { .. }),
            "{key} = {value}: {error}"
        );
        assert!(error.to_string().contains("config.json"), "{key} = {value}: {error}");
    }
    let mut mistral = config("mistral");
    mistral["sliding_window"] = json!(0);
    assert!(refused(&mistral).to_string().contains("sliding window"));
    let mut gemma = config("gemma3");
    gemma["layer_types"] = json!(["full_attention"]);
    assert!(refused(&gemma).to_string().contains("layer_types"));
    gemma["layer_types"] = json!(["full_attention", "linear_attention", "full_attention", "full_attention"]);
    assert!(refused(&gemma).to_string().contains("linear_attention"));
}

#[test]
fn longrope_says_what_to_use_instead() {
    let mut phi = config("phi3");
    phi["rope_parameters"] =
        json!({"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [1.0], "short_factor": [1.0]});
    let error = refused(&phi);
    assert!(matches!(error, ModelError::Unsupported { .. }) && error.to_string().contains("4k"), "{error}");
    let mut older: Value =
        serde_json::from_slice(&std::fs::read(fixtures().join("phi3/config.v4.json")).unwrap()).unwrap();
    older["rope_scaling"] = json!({"type": "su", "long_factor": [1.0], "short_factor": [1.0]});
    assert!(refused(&older).to_string().contains("su"));
}

#[test]
fn configurations_that_are_not_json_objects_are_refused() {
    for bad in ["", "[1]", "{\"model_type\": ", "\u{0}\u{1}", "nul", "{\"a\": 1e999}"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), bad).unwrap();
        assert!(matches!(read_spec(folder.path()), Err(ModelError::Config { .. })), "{bad:?}");
    }
}

#[test]
fn a_missing_tensor_is_named_with_its_file() {
    let name = "model.layers.1.mlp.down_proj.weight";
    let folder = altered("llama", |t| drop(t.remove(name)));
    match load(folder.path()).map(|_| ()).unwrap_err() {
        ModelError::MissingTensor { tensor, path } => {
            assert_eq!(tensor, name);
            assert_eq!(path, folder.path());
        }
        other => panic!("{other}"),
    }
    // Embeddings are not tied here, so the head must be there.
    let folder = altered("llama", |t| drop(t.remove("lm_head.weight")));
    assert!(load(folder.path()).map(|_| ()).unwrap_err().to_string().contains("lm_head.weight"));
}

#[test]
fn shapes_and_types_are_checked_by_name() {
    let name = "model.layers.0.self_attn.k_proj.weight";
    let folder = altered("llama", |t| t.get_mut(name).unwrap().1 = vec![48, 32]);
    match load(folder.path()).map(|_| ()).unwrap_err() {
        ModelError::Mismatch { tensor, expected, found, .. } => {
            assert_eq!(tensor, name);
            assert!(expected.contains("[32, 48]") && found.contains("[48, 32]"), "{expected} {found}");
        }
        other => panic!("{other}"),
    }
    let folder = altered("llama", |t| {
        let tensor = t.get_mut(name).unwrap();
        (tensor.0, tensor.2) = (safetensors::Dtype::I32, tensor.2.clone());
    });
    let error = load(folder.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, ModelError::Unsupported { .. }));
    assert!(error.to_string().contains(name) && error.to_string().contains("I32"), "{error}");
    // A GGUF type that cannot be loaded, by its name.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut file = llama(256, 4, 4, 256, 1);
    file.tensor("token_embd.weight", &[4, 256], 10, vec![0; 84 * 4]);
    std::fs::write(&path, file.to_bytes()).unwrap();
    let error = load(&path).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("token_embd.weight") && error.contains("Q2_K") && error.contains("Q6_K"), "{error}");
}

/// Collects the warnings of one thread as text.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn weights_that_are_not_numbers_warn_and_do_not_panic() {
    let (embedding, inner) = ("model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight");
    let folder = altered("llama", |t| {
        let poison = |data: &mut Vec<u8>, at: usize, value: f32| {
            data[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
        };
        let data = &mut t.get_mut(embedding).unwrap().2;
        poison(data, 48 * 5, f32::NAN);
        poison(data, 48 * 5 + 7, f32::NEG_INFINITY);
        poison(&mut t.get_mut(inner).unwrap().2, 100, f32::INFINITY);
    });
    let warnings = Warnings::default();
    let model = tracing::subscriber::with_default(warnings.clone(), || load(folder.path())).unwrap();
    let found: Vec<_> = model.non_finite().iter().map(|n| (n.tensor.as_str(), n.count)).collect();
    assert_eq!(found, [(embedding, 2), (inner, 1)]);
    let told = warnings.0.lock().unwrap().join("\n");
    assert!(told.contains(embedding) && told.contains("count=2"), "{told}");
    let rig = Rig::new(model, 2, cachalot_kernels::Isa::detect());
    let logits = rig.chunked(&[5, 6, 7, 5], 2);
    assert!(logits.iter().any(|l| l.is_nan()));
}

#[test]
fn a_file_that_changes_while_it_loads_is_noticed() {
    let spoil: [fn(&Path); 3] = [
        |path| std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap(),
        |path| std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1000).unwrap(),
        // The same length, by way of another file: what a download does.
        |path| {
            let copy = path.with_extension("part");
            let mut bytes = std::fs::read(path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(&copy, bytes).unwrap();
            std::fs::rename(copy, path).unwrap();
        },
    ];
    for spoil in spoil {
        let folder = altered("llama", |_| ());
        let path = folder.path().join("model.safetensors");
        let progress = move |p: cachalot_model::LoadProgress| {
            if p.done == 1 {
                spoil(&path);
            }
        };
        let options = LoadOptions { progress: Some(Arc::new(progress)), ..options() };
        let error = load_weights(folder.path(), &options).map(|_| ()).unwrap_err();
        assert!(matches!(error, ModelError::Changed { .. }), "{error}");
    }
}

#[test]
fn shards_are_checked_against_their_index() {
    let source = fixtures().join("gemma3-nested");
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&source).unwrap().flatten() {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let index = folder.path().join("model.safetensors.index.json");
    let original: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    let with = |tensor: &str, file: &str| {
        let mut changed = original.clone();
        changed["weight_map"][tensor] = json!(file);
        std::fs::write(&index, changed.to_string()).unwrap();
        load(folder.path()).map(|_| ()).unwrap_err()
    };
    for path in ["../model.safetensors", "/etc/passwd", "a/b", ".."] {
        assert!(with("x", path).to_string().contains("plain file name"), "{path}");
    }
    let missing = with("x", "model-00003-of-00002.safetensors");
    assert!(matches!(missing, ModelError::NotFound { .. }) && missing.to_string().contains("00003"), "{missing}");
    let absent = with("no.such.tensor", "model-00001-of-00002.safetensors");
    assert!(matches!(absent, ModelError::MissingTensor { .. }), "{absent}");
    std::fs::write(&index, original.to_string()).unwrap();
    load(folder.path()).unwrap();
    std::fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert!(matches!(load(folder.path()), Err(ModelError::NotFound { .. })));
}

#[test]
fn paths_that_hold_no_model_say_what_to_give() {
    let folder = tempfile::tempdir().unwrap();
    let says = |path: &Path, named: &str| {
        let error = load(path).map(|_| ()).unwrap_err();
        assert!(matches!(error, ModelError::NotFound { .. }) && error.to_string().contains(named), "{error}");
    };
    says(&folder.path().join("nothing"), "folder or a .gguf");
    says(folder.path(), "config.json");
    std::fs::copy(fixtures().join("llama/config.json"), folder.path().join("config.json")).unwrap();
    says(folder.path(), "model.safetensors");
    says(&folder.path().join("config.json"), "folder");
    std::fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
    says(folder.path(), "pytorch_model.bin");
}

#[test]
fn the_digest_depends_on_every_weight_and_on_how_they_are_held() {
    let digest = |path: &Path, weights| load_weights(path, &LoadOptions { weights, ..options() }).unwrap().1;
    let native = cachalot_model::WeightMode::Native;
    let folder = altered("llama", |_| ());
    let same = digest(folder.path(), native);
    assert_eq!(digest(folder.path(), native), same);
    assert_ne!(digest(folder.path(), cachalot_model::WeightMode::F32), same);
    let other = altered("llama", |t| t.get_mut("model.norm.weight").unwrap().2[0] ^= 1);
    assert_ne!(digest(other.path(), native), same);
    let mut config = config("llama");
    config["rms_norm_eps"] = json!(2e-5);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    assert_ne!(digest(folder.path(), native), same);
}

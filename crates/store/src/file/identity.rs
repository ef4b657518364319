//! Whose blocks a file holds, and what is known of their model: the JSON of its second part.

use super::Layer;
use crate::key::ARITHMETIC;
use crate::{Domain, Identity};
use serde_json::{Map, Value, json};

/// What goes into a file for people and other programs; no key depends on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// Name of the model.
    pub model: String,
    /// Name of the tokenizer.
    pub tokenizer: String,
    /// Digest of the chat template alone.
    pub template: Option<[u8; 32]>,
    /// What has to be there for a sequence to go on; empty where it is not known.
    pub layers: Vec<Layer>,
    /// The user's own: session, turns, time of creation.
    pub meta: Map<String, Value>,
}

/// An [`Identity`] as a file has it: the tenant is not in clear.
#[derive(Clone, Debug, PartialEq)]
pub struct FileIdentity {
    /// Of the identity: decides.
    pub domain: Domain,
    /// See [`Identity::model`].
    pub model: [u8; 32],
    /// See [`Identity::tokenizer`].
    pub tokenizer: [u8; 32],
    /// See [`Identity::adapter`].
    pub adapter: Option<[u8; 32]>,
    /// See [`Identity::rope`].
    pub rope: String,
    /// See [`Identity::dtype`].
    pub dtype: String,
    /// See [`Identity::recipe`].
    pub recipe: String,
    /// See [`Identity::plan`].
    pub plan: [u8; 32],
    /// See [`ARITHMETIC`].
    pub arithmetic: u32,
    /// Digest of [`Identity::tenant`]; `None` where it is empty.
    pub tenant: Option<[u8; 32]>,
    /// The rest.
    pub about: About,
}

impl FileIdentity {
    /// What a file of these blocks says.
    pub fn new(id: &Identity, about: About) -> FileIdentity {
        FileIdentity {
            domain: id.domain(),
            model: id.model,
            tokenizer: id.tokenizer,
            adapter: id.adapter,
            rope: id.rope.clone(),
            dtype: id.dtype.clone(),
            recipe: id.recipe.clone(),
            plan: id.plan,
            arithmetic: ARITHMETIC,
            tenant: (!id.tenant.is_empty()).then(|| blake3::derive_key("cachalot tenant v1", id.tenant.as_bytes())),
            about,
        }
    }

    /// In what the blocks of the file are not those of `id`, in words; empty where they are.
    pub fn differences(&self, id: &Identity) -> Vec<&'static str> {
        let other = FileIdentity::new(id, About::default());
        let fields = [
            ("model", self.model == other.model),
            ("tokenizer or chat template", self.tokenizer == other.tokenizer),
            ("adapter", self.adapter == other.adapter),
            ("rotary position", self.rope == other.rope),
            ("element types", self.dtype == other.dtype),
            ("recipe or profile", self.plan == other.plan),
            ("arithmetic of the program", self.arithmetic == other.arithmetic),
            ("tenant", self.tenant == other.tenant),
        ];
        let mut different: Vec<_> = fields.iter().filter(|(_, same)| !same).map(|(name, _)| *name).collect();
        if different.is_empty() && self.domain != other.domain {
            different.push("domain");
        }
        different
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let about = &self.about;
        let layers: Vec<Value> = about.layers.iter().map(Layer::to_json).collect();
        let json = json!({
            "domain": hex(&self.domain.0),
            "model": hex(&self.model),
            "tokenizer": hex(&self.tokenizer),
            "adapter": self.adapter.as_ref().map(hex),
            "rope": self.rope,
            "dtype": self.dtype,
            "recipe": self.recipe,
            "plan": hex(&self.plan),
            "arithmetic": self.arithmetic,
            "tenant": self.tenant.as_ref().map(hex),
            "names": {
                "model": about.model,
                "tokenizer": about.tokenizer,
                "template": about.template.as_ref().map(hex),
            },
            "layers": layers,
            "meta": about.meta,
        });
        json.to_string().into_bytes()
    }

    /// `None` names no field: the checksum is right, so another program wrote what the document does not say.
    pub(super) fn read(bytes: &[u8]) -> Option<FileIdentity> {
        let json: Value = serde_json::from_slice(bytes).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let names = &json["names"];
        Some(FileIdentity {
            domain: Domain(digest(&json["domain"])?),
            model: digest(&json["model"])?,
            tokenizer: digest(&json["tokenizer"])?,
            adapter: optional(&json["adapter"])?,
            rope: text(&json["rope"])?,
            dtype: text(&json["dtype"])?,
            recipe: text(&json["recipe"])?,
            plan: digest(&json["plan"])?,
            arithmetic: json["arithmetic"].as_u64()?.try_into().ok()?,
            tenant: optional(&json["tenant"])?,
            about: About {
                model: text(&names["model"])?,
                tokenizer: text(&names["tokenizer"])?,
                template: optional(&names["template"])?,
                layers: json["layers"].as_array()?.iter().map(Layer::from_json).collect::<Option<_>>()?,
                meta: json["meta"].as_object()?.clone(),
            },
        })
    }
}

fn hex(digest: &[u8; 32]) -> String {
    Domain(*digest).to_string()
}

fn digest(value: &Value) -> Option<[u8; 32]> {
    let text =
        value.as_str().filter(|text| text.len() == 64 && text.bytes().all(|b| b"0123456789abcdef".contains(&b)))?;
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

/// A digest or null; `None` for anything else.
fn optional(value: &Value) -> Option<Option<[u8; 32]>> {
    match value {
        Value::Null => Some(None),
        value => digest(value).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenant_is_not_in_clear_and_every_field_comes_back() {
        let id = Identity {
            model: [0xab; 32],
            adapter: Some([7; 32]),
            tenant: "somebody".to_owned(),
            recipe: "\"quoted\"".to_owned(),
            ..Identity::default()
        };
        let layer = Layer { dim: 64, sliding: Some(512), sinks: 64, exact: 128, encoded: vec![true, false] };
        let about = About { model: "m".to_owned(), template: Some([1; 32]), layers: vec![layer], ..About::default() };
        let written = FileIdentity::new(&id, about);
        let bytes = written.write();
        assert!(!String::from_utf8_lossy(&bytes).contains("somebody"));
        assert_eq!(FileIdentity::read(&bytes), Some(written.clone()));
        assert_eq!(written.differences(&id), Vec::<&str>::new());
        let other = Identity { tenant: "else".to_owned(), rope: "x".to_owned(), ..id };
        assert_eq!(written.differences(&other), ["rotary position", "tenant"]);
        assert_eq!(FileIdentity::read(b"{}"), None);
        assert_eq!(FileIdentity::read(&bytes[..bytes.len() - 1]), None);
    }
}

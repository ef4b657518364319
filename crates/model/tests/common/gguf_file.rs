//! A writer of GGUF files for tests, with every liberty to write wrong ones.

#[path = "../../../store/tests/tiers_simulation/rng.rs"]
mod rng;

// Not every test that writes files wants them random.
#[allow(unused_imports)]
pub use rng::Rng as Random;

/// A metadata value: its type's number and its bytes.
pub struct Meta(pub u32, pub Vec<u8>);

pub fn text(s: &str) -> Meta {
    Meta(8, string(s))
}

pub fn unsigned(v: u32) -> Meta {
    Meta(4, v.to_le_bytes().to_vec())
}

pub fn float(v: f32) -> Meta {
    Meta(6, v.to_le_bytes().to_vec())
}

pub fn string(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
}

pub struct Tensor {
    pub name: String,
    /// Outermost first.
    pub shape: Vec<u64>,
    pub code: u32,
    pub bytes: Vec<u8>,
}

#[derive(Default)]
pub struct GgufFile {
    pub meta: Vec<(String, Meta)>,
    pub tensors: Vec<Tensor>,
}

impl GgufFile {
    pub fn set(&mut self, key: &str, value: Meta) -> &mut Self {
        self.meta.retain(|(k, _)| k != key);
        self.meta.push((key.to_owned(), value));
        self
    }

    pub fn tensor(&mut self, name: &str, shape: &[u64], code: u32, bytes: Vec<u8>) -> &mut Self {
        self.tensors.push(Tensor { name: name.to_owned(), shape: shape.to_vec(), code, bytes });
        self
    }

    pub fn floats(&mut self, name: &str, shape: &[u64], values: &[f32]) -> &mut Self {
        self.tensor(name, shape, 0, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.meta.len() as u64).to_le_bytes());
        for (key, Meta(kind, value)) in &self.meta {
            out.extend(string(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        let mut offset = 0u64;
        for t in &self.tensors {
            out.extend(string(&t.name));
            out.extend((t.shape.len() as u32).to_le_bytes());
            t.shape.iter().rev().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(t.code.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += (t.bytes.len() as u64).next_multiple_of(32);
        }
        for t in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&t.bytes);
        }
        out
    }
}

/// Metadata of a tiny llama.
pub fn llama(hidden: u32, heads: u32, kv_heads: u32, intermediate: u32, layers: u32) -> GgufFile {
    let mut file = GgufFile::default();
    file.set("general.architecture", text("llama"))
        .set("llama.embedding_length", unsigned(hidden))
        .set("llama.attention.head_count", unsigned(heads))
        .set("llama.attention.head_count_kv", unsigned(kv_heads))
        .set("llama.feed_forward_length", unsigned(intermediate))
        .set("llama.block_count", unsigned(layers))
        .set("llama.context_length", unsigned(128))
        .set("llama.attention.layer_norm_rms_epsilon", float(1e-5));
    file
}

//! Pages of a made-up model, put together from `docs/kv-file.md` alone, and blocks of them.

use cachalot_store::{Block, BlockKey, Codec, Domain, Form, Identity, Page, StoreError};

/// Plain types, by the numbers of the document.
pub const F32: u8 = 0;
pub const F16: u8 = 1;
pub const BF16: u8 = 2;

/// A number that every type but the smallest holds exactly: of eighths, below 4.
pub fn element(key: bool, layer: u16, head: u16, position: u64, channel: usize) -> f32 {
    let n = position * 7 + channel as u64 * 3 + u64::from(layer) * 5 + u64::from(head) * 11 + u64::from(key);
    (n % 61) as f32 / 8.0 - 3.5
}

fn put(kind: u8, x: f32, out: &mut Vec<u8>) {
    match kind {
        F32 => out.extend_from_slice(&x.to_le_bytes()),
        F16 => out.extend_from_slice(&half::f16::from_f32(x).to_le_bytes()),
        BF16 => out.extend_from_slice(&half::bf16::from_f32(x).to_le_bytes()),
        _ => panic!("no plain type of this model"),
    }
}

/// A plain page; `kinds` of keys and values.
pub fn page(layer: u16, head: u16, dim: usize, start: u64, kinds: [u8; 2]) -> Vec<u8> {
    let width = dim.next_multiple_of(16);
    let mut format = [0; 12];
    format[..2].copy_from_slice(&kinds);
    let mut body = Vec::new();
    for channel in 0..width {
        for slot in 0..64 {
            let x = if channel < dim { element(true, layer, head, start + slot, channel) } else { 0.0 };
            put(kinds[0], x, &mut body);
        }
    }
    for slot in 0..64 {
        for channel in 0..width {
            let x = if channel < dim { element(false, layer, head, start + slot, channel) } else { 0.0 };
            put(kinds[1], x, &mut body);
        }
    }
    sealed(false, layer, head, dim, start, format, &body)
}

/// What stands for a page of a recipe: any bytes.
pub fn encoded(layer: u16, head: u16, dim: usize, start: u64) -> Vec<u8> {
    let body: Vec<u8> = (0..128).map(|i| (i * 31 + start / 64 + u64::from(head)) as u8).collect();
    sealed(true, layer, head, dim, start, *b"made-up code", &body)
}

fn sealed(body: bool, layer: u16, head: u16, dim: usize, start: u64, format: [u8; 12], bytes: &[u8]) -> Vec<u8> {
    let mut page = b"KVPG\x02".to_vec();
    page.extend_from_slice(&[u8::from(body), 0, 0]);
    page.extend_from_slice(&layer.to_le_bytes());
    page.extend_from_slice(&head.to_le_bytes());
    page.extend_from_slice(&(dim as u32).to_le_bytes());
    page.extend_from_slice(&start.to_le_bytes());
    page.extend_from_slice(&64_u32.to_le_bytes());
    page.resize(32, 0);
    page.extend_from_slice(&format);
    page.resize(48, 0);
    let sum = *blake3::Hasher::new().update(&page).update(bytes).finalize().as_bytes();
    page.extend_from_slice(&sum[..16]);
    page.extend_from_slice(bytes);
    page
}

pub fn identity() -> Identity {
    Identity {
        model: [0x11; 32],
        tokenizer: [0x22; 32],
        adapter: None,
        rope: "base=10000 channels=6".into(),
        dtype: "k=f16,v=f16".into(),
        recipe: "f16".into(),
        plan: [0x33; 32],
        tenant: "Ada".into(),
    }
}

/// Which pages a block of the model has.
pub type Pages<'a> = &'a dyn Fn(u64) -> Vec<Page>;

/// A chain of blocks with `tokens` in all.
pub fn chain(domain: Domain, tokens: u32, pages: Pages<'_>) -> Vec<Block> {
    let (mut blocks, mut parent): (Vec<Block>, Option<BlockKey>) = (Vec::new(), None);
    for start in (0..tokens).step_by(64) {
        let words = (start..tokens.min(start + 64)).map(|i| i.wrapping_mul(2_654_435_761) % 50_000).collect();
        let block = Block { domain, parent, start: start.into(), tokens: words, pages: pages(start.into()) };
        parent = Some(block.key());
        blocks.push(block);
    }
    blocks
}

/// Plain pages of layers of `heads` and `dim`.
pub fn plain(start: u64, layers: &[(u16, usize)], kinds: [u8; 2]) -> Vec<Page> {
    let lanes = layers.iter().enumerate().flat_map(|(layer, &(heads, dim))| (0..heads).map(move |h| (layer, h, dim)));
    let page = |(layer, head, dim)| Page { form: Form::Kept, bytes: page(layer as u16, head, dim, start, kinds) };
    lanes.map(page).collect()
}

/// A codec for tests: bytes that repeat, counted.
pub struct Runs {
    pub lossless: bool,
}

impl Codec for Runs {
    fn name(&self) -> String {
        format!("runs({})", self.lossless)
    }

    fn is_lossless(&self) -> bool {
        self.lossless
    }

    fn encode(&self, page: &[u8], out: &mut Vec<u8>) -> Result<(), StoreError> {
        for run in page.chunk_by(|a, b| a == b) {
            for run in run.chunks(255) {
                out.extend_from_slice(&[run.len() as u8, run[0]]);
            }
        }
        Ok(())
    }

    fn decode(&self, coded: &[u8], len: usize) -> Result<Vec<u8>, StoreError> {
        let mut page = Vec::new();
        for pair in coded.chunks(2) {
            page.resize(page.len() + usize::from(pair[0]), pair[pair.len() - 1]);
        }
        match page.len() == len {
            true => Ok(page),
            false => Err(StoreError::Corrupt { place: "runs".into(), what: format!("{} bytes", page.len()) }),
        }
    }
}

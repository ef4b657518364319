//! Where blocks are kept below the pool: memory, disk, object stores.

use crate::{Failure, size};
use cachalot_engine::reuse::NOTE_MAGIC;
use cachalot_engine::reuse::below::{TierOptions, TierStore};
use cachalot_engine::{EngineHandle, ReuseConfig, Scope};
use cachalot_kernels::Isa;
use cachalot_store::codec::{Plain, named};
use cachalot_store::cost::CostFile;
use cachalot_store::file::record;
use cachalot_store::tier::backend::BucketConfig;
use cachalot_store::tier::{Coding, DiskConfig, PolicyKind, RemoteConfig, ShelfConfig, TierConfig, WritePolicy};
use cachalot_store::{Codec, StoreError};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::sync::Arc;

/// Blocks of prompts in tiers below the pool. What is found there is not computed again, also after a restart; what is damaged,
/// late or slower than computing is.
#[derive(Args)]
pub struct TierArgs {
    /// Memory for blocks beside the pool.
    #[arg(long, value_parser = size::parse, value_name = "BYTES")]
    kv_ram: Option<u64>,
    /// Folder for blocks on a local disk.
    #[arg(long, value_name = "DIR")]
    kv_disk: Option<PathBuf>,
    /// Most bytes in that folder.
    #[arg(long, default_value = "16GiB", value_parser = size::parse, value_name = "BYTES", requires = "kv_disk")]
    kv_disk_size: u64,
    /// Object store for blocks: file:///folder; in builds with the feature `cloud` also s3://bucket/prefix, gs:// and az://, whose
    /// credentials come from the environment.
    #[arg(long, value_name = "URL")]
    kv_store: Option<String>,
    /// How blocks are written on disk: none, lossless, zstd or zstd-LEVEL.
    #[arg(long, default_value = "none", value_name = "CODEC", value_parser = lossless)]
    kv_disk_codec: String,
    /// The same in the object store.
    #[arg(long, default_value = "lossless", value_name = "CODEC", value_parser = lossless)]
    kv_store_codec: String,
    /// Write blocks below the pool so that they do not come back bit for bit, as cachegen-1 (smallest) to cachegen-3 (finest) do.
    /// Only requests that allow it get them; others compute. Takes the place of the other two codecs. Several, finest first, as in
    /// cachegen-3,cachegen-1, are all written; a request with a time gets what is in time.
    #[arg(long, value_name = "CODEC", value_parser = lossy)]
    pub kv_lossy: Option<String>,
    /// Allow that to requests that do not say.
    #[arg(long, requires = "kv_lossy")]
    pub kv_lossy_default: bool,
    /// What goes first where the pool or a tier is full.
    #[arg(long, value_enum, default_value = "s3-fifo")]
    kv_evict: Evict,
    /// When blocks go to slower tiers: at once, or when the faster one has no room.
    #[arg(long, value_enum, default_value = "through")]
    kv_write: Write,
    /// Most bytes of one API key in memory, and on disk, each.
    #[arg(long, value_parser = size::parse, value_name = "BYTES")]
    kv_tenant_quota: Option<u64>,
    /// Read past the system's page cache.
    #[arg(long, requires = "kv_disk")]
    kv_disk_direct: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Evict {
    /// What was of use longest ago.
    Lru,
    /// What was of use once (S3-FIFO).
    #[value(name = "s3-fifo")]
    S3Fifo,
}

#[derive(Clone, Copy, ValueEnum)]
enum Write {
    Through,
    Back,
}

/// A codec that gives back what it was given. Others would break the promise that a hit changes no bit.
fn lossless(name: &str) -> Result<String, String> {
    let codec = named(name, &[]).map_err(|error| error.to_string())?;
    match codec.is_lossless() {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "`{name}` changes bytes, and a block that is found must be what was computed; use none, lossless or zstd"
        )),
    }
}

/// Codecs that do not, the finest first.
fn lossy(names: &str) -> Result<String, String> {
    let list: Vec<&str> = names.split(',').collect();
    if list.len() > usize::from(ReuseConfig::MOST_LEVELS) || !list.is_sorted_by(|a, b| a > b) {
        let most = ReuseConfig::MOST_LEVELS;
        return Err(format!(
            "`{names}` is not a list of at most {most} codecs, finest first, such as cachegen-3,cachegen-1"
        ));
    }
    list.into_iter().try_for_each(one_lossy).map(|()| names.to_owned())
}

fn one_lossy(name: &str) -> Result<(), String> {
    let codec = named(name, &[]).map_err(|error| error.to_string())?;
    match codec.is_lossless() {
        false => Ok(()),
        true => Err(format!("`{name}` changes no byte: name it for --kv-disk-codec or --kv-store-codec")),
    }
}

/// A codec of pages for tiers, which keep records of plain pages, and notes of chunks that it leaves as they are.
struct OfRecords {
    name: String,
    codec: Box<dyn Codec>,
}

impl Coding for OfRecords {
    fn name(&self) -> &str {
        &self.name
    }

    fn most(&self, len: usize) -> usize {
        // Pages that do not become smaller stay as they are.
        len + len / 16 + 4096
    }

    fn encode(&self, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
        if bytes.starts_with(&NOTE_MAGIC) {
            return Ok(bytes.to_vec());
        }
        let mut out = Vec::with_capacity(bytes.len());
        record::write(&record::read(bytes, &[&Plain])?, &*self.codec, &mut out)?;
        Ok(out)
    }

    fn decode(&self, coded: &[u8]) -> Result<Vec<u8>, StoreError> {
        if coded.starts_with(&NOTE_MAGIC) {
            return Ok(coded.to_vec());
        }
        let mut out = Vec::with_capacity(2 * coded.len());
        record::write(&record::read(coded, &[&*self.codec, &Plain])?, &Plain, &mut out)?;
        Ok(out)
    }
}

fn coding(name: &str) -> Result<Option<Arc<dyn Coding>>, Failure> {
    if name == "none" {
        return Ok(None);
    }
    Ok(Some(Arc::new(OfRecords { name: name.to_owned(), codec: named(name, &[])? })))
}

impl TierArgs {
    /// Which blocks go first, in the pool and in every tier.
    pub fn policy(&self) -> PolicyKind {
        match self.kv_evict {
            Evict::Lru => PolicyKind::Lru,
            Evict::S3Fifo => PolicyKind::S3Fifo,
        }
    }

    /// Opens the tiers that were asked for and puts them below the engine's pool.
    pub fn attach(&self, engine: &EngineHandle) -> Result<(), Failure> {
        if self.kv_ram.is_none() && self.kv_disk.is_none() && self.kv_store.is_none() {
            return Ok(());
        }
        let policy = self.policy();
        let shelf = |capacity| ShelfConfig { policy, quota: self.kv_tenant_quota, ..ShelfConfig::new(capacity) };
        let mut tiers = TierConfig { ram: self.kv_ram.map(shelf), ..TierConfig::default() };
        tiers.rules.write = match self.kv_write {
            Write::Through => WritePolicy::Through,
            Write::Back => WritePolicy::Back,
        };
        // What is coded already is kept as it is.
        let coding = |name: &str| if self.kv_lossy.is_some() { Ok(None) } else { coding(name) };
        if let Some(folder) = self.kv_disk.clone() {
            let shelf = ShelfConfig { coding: coding(&self.kv_disk_codec)?, ..shelf(self.kv_disk_size) };
            tiers.disk = Some(DiskConfig { folder, direct: self.kv_disk_direct, shelf });
        }
        if let Some(url) = &self.kv_store {
            let options = std::env::vars().map(|(name, value)| (name.to_lowercase(), value)).collect();
            let bucket = BucketConfig { options, coding: coding(&self.kv_store_codec)?, ..BucketConfig::new(url) };
            tiers.remote = Some((bucket, RemoteConfig::default()));
        }
        let queue = engine.stats().kv_budget_bytes / 4;
        let cost = self.kv_disk.clone().map(|folder| self.cost_file(folder, engine)).transpose()?;
        let names = self.kv_lossy.as_deref().unwrap_or("none").split(',');
        let codecs: Vec<Arc<dyn Codec>> =
            names.map(|name| named(name, &[]).map(Arc::from)).collect::<Result<_, _>>()?;
        let store =
            TierStore::open(TierOptions { tiers, threads: 2, queue, codecs: codecs.into(), cost }, engine.cache())?;
        engine.attach(Box::new(store))?;
        Ok(())
    }
}

impl TierArgs {
    /// Where it is kept what things cost with this model, these tiers and this machine.
    fn cost_file(&self, folder: PathBuf, engine: &EngineHandle) -> Result<CostFile, Failure> {
        let host = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from).to_string();
        let isa = Isa::detect().to_string();
        let identity = engine.identity(Scope::default())?;
        let store = self.kv_store.as_deref().unwrap_or_default();
        let texts = [
            &cores,
            std::env::consts::ARCH,
            &isa,
            &identity.dtype,
            &self.kv_disk_codec,
            &self.kv_store_codec,
            self.kv_lossy.as_deref().unwrap_or_default(),
            store,
        ];
        let mut fields: Vec<&[u8]> = vec![&host, &identity.model, &identity.plan];
        fields.extend(texts.map(str::as_bytes));
        Ok(CostFile::new(folder, &fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_at_rest_change_no_byte() {
        for good in ["none", "lossless", "zstd", "zstd-9"] {
            assert_eq!(lossless(good).unwrap(), good);
        }
        assert!(lossless("cachegen-1").unwrap_err().contains("changes bytes"));
        assert!(lossy("zstd").unwrap_err().contains("--kv-disk-codec") && lossy("cachegen-2").is_ok());
        assert!(lossy("cachegen-3,cachegen-1").is_ok());
        for bad in ["cachegen-1,cachegen-3", "cachegen-2,cachegen-2", "cachegen-3,", "cachegen-3,none"] {
            assert!(lossy(bad).is_err(), "{bad}");
        }
        assert!(lossless("lz4").unwrap_err().contains("lossless"));
    }

    #[test]
    fn notes_of_chunks_pass_a_codec_of_blocks() {
        let coding = coding("lossless").unwrap().unwrap();
        let note = [&NOTE_MAGIC[..], &[1, 2, 3]].concat();
        let coded = coding.encode(&note).unwrap();
        assert!(coded.len() <= coding.most(note.len()));
        assert_eq!(coding.decode(&coded).unwrap(), note);
        assert!(coding.encode(b"neither").is_err() && coding.decode(b"neither").is_err());
    }
}

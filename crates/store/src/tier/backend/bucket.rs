//! The remote tier: any URL of the crate `object_store`. One thread runs its requests; those who wait for them are others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future, stream};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutPayload};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::Backend;
use super::layout::{Named, file_of, shard_name, tenant_name};
use crate::BlockKey;
use crate::tier::fault::{Fault, FaultKind};
use crate::tier::machine::Purged;
use crate::tier::object::{Level, Parcel, Tenant};
use crate::tier::{Coding, seal};

/// Objects that are asked for at one time.
const AT_ONCE: usize = 16;

/// Where and how.
#[derive(Clone)]
pub struct BucketConfig {
    /// `file:///folder`, `memory:///`, and with the feature `cloud` `s3://bucket/prefix`, `gs://`, `az://`, `https://`.
    pub url: String,
    /// Credentials and settings by the names of `object_store`, as in `aws_access_key_id`; others are ignored, so the environment will do.
    pub options: Vec<(String, String)>,
    /// How objects are written.
    pub coding: Option<Arc<dyn Coding>>,
    /// How long one request may take.
    pub timeout: Duration,
    /// Largest object that is read, at rest.
    pub largest: u64,
}

impl BucketConfig {
    /// A URL, without options; ten seconds for a request; objects up to 1 GiB.
    pub fn new(url: impl Into<String>) -> BucketConfig {
        BucketConfig {
            url: url.into(),
            options: Vec::new(),
            coding: None,
            timeout: Duration::from_secs(10),
            largest: 1 << 30,
        }
    }
}

/// Objects of an object store, under the same names as files of the disk tier.
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    coding: Option<Arc<dyn Coding>>,
    timeout: Duration,
    largest: u64,
    /// Taken when it is dropped: a runtime may not be where others are asynchronous.
    runtime: Option<Runtime>,
}

impl Bucket {
    /// A store by its URL. Asks nothing of it yet.
    ///
    /// # Errors
    /// For a URL that is none or that this build does not know, and settings that do not make sense to the store.
    pub fn open(config: BucketConfig) -> Result<Bucket, Fault> {
        let fault = |what: String| Fault { kind: FaultKind::Io, level: Level::Remote, place: config.url.clone(), what };
        let url = Url::parse(&config.url)
            .map_err(|e| fault(format!("no URL: {e}; write file:///folder or s3://bucket/prefix")))?;
        let (scheme, path) = ObjectStoreScheme::parse(&url).map_err(|e| fault(e.to_string()))?;
        let (store, prefix): (Arc<dyn ObjectStore>, Path) = match scheme {
            // A file is published by renaming it here, too, and synced before.
            ObjectStoreScheme::Local => (Arc::new(object_store::local::LocalFileSystem::new().with_fsync(true)), path),
            _ => {
                let (store, prefix) = object_store::parse_url_opts(&url, config.options.clone()).map_err(|e| {
                    let cloud = if cfg!(feature = "cloud") {
                        ""
                    } else {
                        "; this build knows file and memory, others need the feature `cloud`"
                    };
                    fault(format!("{e}{cloud}"))
                })?;
                (Arc::from(store), prefix)
            }
        };
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("kv-store").enable_all().build();
        let runtime = Some(runtime.map_err(|e| fault(format!("no thread for its requests: {e}")))?);
        let BucketConfig { coding, timeout, largest, .. } = config;
        Ok(Bucket { store, prefix, coding, timeout, largest, runtime })
    }

    fn folder(&self, tenant: &Tenant) -> Path {
        self.prefix.clone().join(tenant_name(tenant))
    }

    fn path(&self, tenant: &Tenant, key: &BlockKey) -> Path {
        self.folder(tenant).join(shard_name(key)).join(key.to_string())
    }

    /// Waits for a request, not for ever.
    fn wait<T>(&self, place: &Path, request: impl Future<Output = Result<T, Error>>) -> Result<T, Fault> {
        let fault = |kind, what: String| Fault { kind, level: Level::Remote, place: place.to_string(), what };
        let Some(runtime) = &self.runtime else { return Err(fault(FaultKind::Io, "is shut down".to_owned())) };
        match runtime.block_on(async { tokio::time::timeout(self.timeout, request).await }) {
            Ok(result) => result.map_err(|error| refused(place, &error)),
            Err(_) => Err(fault(FaultKind::Slow, format!("no answer within {:?}", self.timeout))),
        }
    }

    fn put_one(&self, parcel: &Parcel) -> Result<u64, Fault> {
        let object = parcel.object();
        let path = self.path(&object.tenant, &object.key);
        let fault = |(kind, what)| Fault { kind, level: Level::Remote, place: path.to_string(), what };
        let sealed = seal::seal(parcel, self.coding.as_deref()).map_err(fault)?;
        let bytes = seal::size(sealed.bytes.len());
        let parts = [Bytes::copy_from_slice(&sealed.header), Bytes::from_owner(sealed.bytes)];
        self.wait(&path, self.store.put(&path, PutPayload::from_iter(parts)))?;
        Ok(bytes)
    }

    /// Objects under a tenant's name with their bytes.
    fn list(&self, tenant: &Tenant) -> Result<Vec<(Path, u64)>, Fault> {
        let folder = self.folder(tenant);
        let mut all = Vec::new();
        let mut listed = self.store.list(Some(&folder));
        while let Some(meta) = self.wait(&folder, async { listed.try_next().await }).or_else(missing_is_end)? {
            all.push((meta.location, meta.size));
        }
        Ok(all)
    }
}

/// A folder that is not there is an empty one.
fn missing_is_end<T>(fault: Fault) -> Result<Option<T>, Fault> {
    if fault.kind == FaultKind::Missing { Ok(None) } else { Err(fault) }
}

fn refused(place: &Path, error: &Error) -> Fault {
    Fault { kind: kind_of(error), level: Level::Remote, place: place.to_string(), what: error.to_string() }
}

fn kind_of(error: &Error) -> FaultKind {
    match error {
        Error::NotFound { .. } => FaultKind::Missing,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => FaultKind::Denied,
        other => {
            let mut source = std::error::Error::source(other);
            while let Some(error) = source {
                if let Some(error) = error.downcast_ref::<std::io::Error>() {
                    return Fault::of_io("", error).kind;
                }
                source = error.source();
            }
            FaultKind::Io
        }
    }
}

/// The key that an object's path is of, where it is one of ours.
fn key_of(path: &Path) -> Option<BlockKey> {
    let mut parts = path.as_ref().rsplit('/');
    let (name, shard) = (parts.next()?, parts.next()?);
    match file_of(shard, name) {
        Named::Object(key) => Some(key),
        Named::Leftover | Named::Foreign => None,
    }
}

impl Backend for Bucket {
    fn put(&self, parcels: &[Parcel]) -> Vec<Result<u64, Fault>> {
        parcels.iter().map(|parcel| self.put_one(parcel)).collect()
    }

    fn get(&self, tenant: Tenant, key: BlockKey, bytes: u64) -> Result<Parcel, Fault> {
        let path = self.path(&tenant, &key);
        let fault = |kind, what| Fault { kind, level: Level::Remote, place: path.to_string(), what };
        let request = async {
            let got = self.store.get(&path).await?;
            let size = got.meta.size;
            // Another machine may have written it again, in another coding.
            if size != bytes || size > self.largest {
                return Ok(Err(fault(FaultKind::Missing, format!("{size} bytes, where {bytes} were said to be"))));
            }
            got.bytes().await.map(Ok)
        };
        let stored = self.wait(&path, request)??;
        seal::open(tenant, key, &stored, self.coding.as_deref()).map_err(|(kind, what)| fault(kind, what))
    }

    fn remove(&self, tenant: Tenant, key: BlockKey) -> Result<(), Fault> {
        let path = self.path(&tenant, &key);
        match self.wait(&path, self.store.delete(&path)) {
            Err(fault) if fault.kind != FaultKind::Missing => Err(fault),
            _ => Ok(()),
        }
    }

    fn probe(&self, tenant: Tenant, keys: &[BlockKey]) -> Vec<Result<Option<u64>, Fault>> {
        let mut answers = Vec::with_capacity(keys.len());
        for keys in keys.chunks(AT_ONCE) {
            let paths: Vec<_> = keys.iter().map(|key| self.path(&tenant, key)).collect();
            let asked = future::join_all(paths.iter().map(|path| self.store.head(path)));
            let heads = match self.wait(&self.folder(&tenant), async { Ok(asked.await) }) {
                Ok(heads) => heads,
                Err(fault) => {
                    answers.push(Err(fault));
                    return answers;
                }
            };
            for (path, head) in paths.iter().zip(heads) {
                let answer = match head {
                    Ok(meta) => Ok((meta.size <= self.largest).then_some(meta.size)),
                    Err(Error::NotFound { .. }) => Ok(None),
                    Err(error) => Err(refused(path, &error)),
                };
                let found = matches!(answer, Ok(Some(_)));
                answers.push(answer);
                // A run ends at its first gap, so what is behind one does not matter.
                if !found {
                    return answers;
                }
            }
        }
        answers
    }

    fn purge(&self, tenant: Tenant) -> Result<Purged, Fault> {
        let mut purged = Purged::default();
        let ours = |(path, _): &(Path, u64)| key_of(path).is_some();
        let sizes: HashMap<Path, u64> = self.list(&tenant)?.into_iter().filter(ours).collect();
        let paths: Vec<_> = sizes.keys().cloned().map(Ok).collect();
        // Stores that can delete many at once do.
        let mut deleted = self.store.delete_stream(stream::iter(paths).boxed());
        let folder = self.folder(&tenant);
        loop {
            match self.wait(&folder, async { deleted.try_next().await }) {
                Ok(Some(path)) => {
                    purged.objects += 1;
                    purged.bytes += sizes.get(&path).copied().unwrap_or(0);
                }
                Ok(None) => break,
                Err(fault) if fault.kind == FaultKind::Missing => (),
                Err(fault) => {
                    let slow = fault.kind == FaultKind::Slow;
                    purged.fault = purged.fault.or(Some(fault));
                    if slow {
                        break;
                    }
                }
            }
        }
        for (path, bytes) in self.list(&tenant)? {
            match key_of(&path) {
                Some(key) => purged.left.push((key, bytes)),
                None => purged.foreign += 1,
            }
        }
        Ok(purged)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

//! `cachalot kv forget`: everything of an API key's holder goes from the folders of a server that does not run.

use crate::Failure;
use crate::session::now;
use cachalot_engine::Deletion;
use cachalot_engine::session::Shelf;
use cachalot_store::tier::backend::BucketConfig;
use cachalot_store::tier::{DiskConfig, RemoteConfig, ShelfConfig, Tenant, TierConfig, Tiers};
use clap::Args;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
pub struct ForgetArgs {
    /// The key whose holder is to be forgotten.
    #[arg(long, env = "CACHALOT_API_KEY", hide_env_values = true, value_name = "KEY")]
    #[arg(required_unless_present_any = ["no_api_key", "tenant"], conflicts_with = "no_api_key")]
    api_key: Option<String>,
    /// The name of a tenant of the server's file of keys.
    #[arg(long, value_name = "NAME", conflicts_with = "no_api_key")]
    tenant: Option<String>,
    /// What was kept by a server that asked for no key.
    #[arg(long)]
    no_api_key: bool,
    /// The server's folder for blocks.
    #[arg(long, value_name = "DIR")]
    kv_disk: Option<PathBuf>,
    /// The server's object store.
    #[arg(long, value_name = "URL")]
    kv_store: Option<String>,
    /// The server's folder for named sessions.
    #[arg(long, value_name = "FOLDER")]
    kv_sessions: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// How long removing and looking again may take.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

pub fn forget(out: &mut impl Write, args: ForgetArgs) -> Result<(), Failure> {
    // A key may come from the environment; a name was typed.
    let name = match (&args.tenant, &args.api_key) {
        (Some(name), _) => cachalot_server::tenant_of_name(name),
        (None, Some(key)) => cachalot_server::tenant_of_key(key.trim().as_bytes()),
        (None, None) => String::new(),
    };
    let mut deletion = Deletion::default();
    let mut tiers = TierConfig::default();
    if let Some(folder) = args.kv_disk {
        require(&folder)?;
        // Nothing of others goes for want of room.
        tiers.disk = Some(DiskConfig { folder, direct: false, shelf: ShelfConfig::new(u64::MAX) });
    }
    if let Some(url) = &args.kv_store {
        let options = std::env::vars().map(|(name, value)| (name.to_lowercase(), value)).collect();
        tiers.remote = Some((BucketConfig { options, ..BucketConfig::new(url) }, RemoteConfig::default()));
    }
    if tiers.disk.is_none() && tiers.remote.is_none() && args.kv_sessions.is_none() {
        return Err("give the folders to forget in: --kv-disk, --kv-store, --kv-sessions".into());
    }
    if tiers.disk.is_some() || tiers.remote.is_some() {
        let (mut tiers, _) = Tiers::open(tiers)?;
        deletion.tiers = tiers.delete_tenant_now(Tenant::named(&name), PATIENCE, drop);
        if deletion.tiers.is_none() {
            return Err("the tiers did not come to an end".into());
        }
    }
    if let Some(folder) = args.kv_sessions {
        require(&folder)?;
        deletion.sessions = Some(Shelf::open(folder, Shelf::MOST, now())?.remove_tenant(&name));
    }
    // The pool went with the server.
    let places: Vec<_> = deletion.places().into_iter().filter(|(place, _)| *place != "pool").collect();
    if args.json {
        let place = |(place, removed): &(&str, &cachalot_store::tier::Removed)| {
            json!({
                "place": place, "removed": removed.objects, "removed_bytes": removed.bytes, "left": removed.left_objects,
                "left_bytes": removed.left_bytes, "foreign_files": removed.foreign, "fault": removed.fault,
            })
        };
        let places: Vec<Value> = places.iter().map(place).collect();
        writeln!(out, "{:#}", json!({"deleted": deletion.is_complete(), "places": places}))?;
    } else {
        writeln!(out, "{:<10} {:>9} {:>14} {:>6} {:>12}", "PLACE", "REMOVED", "BYTES", "LEFT", "LEFT BYTES")?;
        for (place, removed) in &places {
            let (objects, bytes) = (removed.objects, removed.bytes);
            let (left, left_bytes) = (removed.left_objects, removed.left_bytes);
            writeln!(out, "{place:<10} {objects:>9} {bytes:>14} {left:>6} {left_bytes:>12}")?;
            if removed.foreign > 0 {
                writeln!(out, "           {} files there are not ours and stay", removed.foreign)?;
            }
            if let Some(fault) = &removed.fault {
                writeln!(out, "           {fault}")?;
            }
        }
    }
    if deletion.is_complete() { Ok(()) } else { Err("not everything could be removed; try again".into()) }
}

/// A folder that is made by looking into it would prove that nothing is left of it.
fn require(folder: &std::path::Path) -> Result<(), Failure> {
    if folder.is_dir() { Ok(()) } else { Err(format!("{}: there is no such folder", folder.display()).into()) }
}

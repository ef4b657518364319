//! `cachalot serve`: the HTTP server.

use crate::args::{KvArgs, ModelArgs};
use crate::{Failure, load};
use clap::Args;

#[derive(Args)]
pub struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    kv: KvArgs,
}

pub fn serve(args: ServeArgs) -> Result<(), Failure> {
    let ready = load::load(&args.model)?;
    let _engine = load::engine(&ready, &args.kv, 32, 256)?;
    Ok(())
}

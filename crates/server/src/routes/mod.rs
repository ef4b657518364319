//! One file per group of routes.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod edit;
pub(crate) mod explain;
pub(crate) mod kv;
pub(crate) mod models;
pub(crate) mod sessions;
pub(crate) mod status;
pub(crate) mod tenant;

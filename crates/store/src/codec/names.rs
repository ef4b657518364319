//! Codecs by name.

use super::{CacheGen, Codec, Lossless, Plain, Profile, Zstd};
use std::sync::Arc;

/// A name that no codec has, or one with a profile that is not at hand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownCodec {
    /// No such name.
    #[error(
        "there is no codec `{name}`; known are none, lossless, zstd, zstd-1 to zstd-22, and cachegen-1 to cachegen-3, which \
         may have a profile, as in cachegen-2@1a2b3c4d"
    )]
    Name {
        /// As it was given.
        name: String,
    },
    /// The codec exists, and its profile is missing.
    #[error("the codec `{name}` needs the profile {digest}, which was not given; what it wrote cannot be read without")]
    Profile {
        /// As it was given.
        name: String,
        /// [`Profile::digest`] of the missing one.
        digest: String,
    },
}

/// The codec of a name as [`Codec::name`] gives it; `profiles` are those at hand.
///
/// # Errors
/// [`UnknownCodec`].
pub fn named(name: &str, profiles: &[Arc<Profile>]) -> Result<Box<dyn Codec>, UnknownCodec> {
    let unknown = || UnknownCodec::Name { name: name.to_owned() };
    match name.split_once('-').unwrap_or((name, "")) {
        ("none", "") => Ok(Box::new(Plain)),
        ("lossless", "") => Ok(Box::new(Lossless)),
        ("zstd", level) => {
            let level = if name == "zstd" { Ok(Zstd::DEFAULT) } else { level.parse() };
            let codec = level.ok().and_then(Zstd::new).ok_or_else(unknown)?;
            Ok(Box::new(codec))
        }
        ("cachegen", rest) => {
            let (level, digest) = rest.split_once('@').map_or((rest, None), |(level, digest)| (level, Some(digest)));
            let level = level.parse().map_err(|_| unknown())?;
            let profile = match digest {
                None => None,
                Some(digest) => {
                    let missing = || UnknownCodec::Profile { name: name.to_owned(), digest: digest.to_owned() };
                    let found = profiles.iter().find(|profile| profile.digest() == digest);
                    Some(found.cloned().ok_or_else(missing)?)
                }
            };
            let codec = CacheGen::new(level, profile).ok_or_else(unknown)?;
            Ok(Box::new(codec))
        }
        _ => Err(unknown()),
    }
}

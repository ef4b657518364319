//! Model names: `org/name`, `org/name@revision`, `org/name:file.gguf`.

use crate::ModelError;

/// A model on the hub, and what of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSpec {
    /// `org/name`.
    pub repo: String,
    /// Branch, tag or commit; `main` unless given.
    pub revision: String,
    /// One file (GGUF); otherwise the folder with configuration, tokenizer and safetensors.
    pub file: Option<String>,
}

impl HubSpec {
    /// Reads `org/name[@revision][:file.gguf]`.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] for anything else: it was meant as a path, and there is nothing there.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        let (rest, file) = match text.split_once(':') {
            Some((rest, file)) => (rest, Some(file)),
            None => (text, None),
        };
        let (repo, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let parts: Vec<&str> = repo.split('/').collect();
        let good = parts.len() == 2
            && parts.iter().all(|p| is_name(p))
            && revision.split('/').all(is_name)
            && file.is_none_or(|f| f.split('/').all(is_name) && f.ends_with(".gguf"));
        if !good {
            return Err(ModelError::NotFound {
                what: "model".into(),
                path: text.into(),
                mend: "give a Hugging Face folder, a .gguf file, or a name on the hub \
                       (org/name, org/name@revision, org/name:file.gguf)"
                    .into(),
            });
        }
        Ok(HubSpec { repo: repo.into(), revision: revision.into(), file: file.map(str::to_owned) })
    }
}

/// Whether a part of a name is safe as a file name: no separators, not hidden, not a way up.
pub(super) fn is_name(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty() && part.len() <= 128 && !part.starts_with('.') && part.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let spec = |t: &str| HubSpec::parse(t).map(|s| (s.repo, s.revision, s.file));
        assert_eq!(spec("a/b").unwrap(), ("a/b".into(), "main".into(), None));
        assert_eq!(spec("a/b.c@refs/pr/1").unwrap(), ("a/b.c".into(), "refs/pr/1".into(), None));
        assert_eq!(spec("a/b@v1:q/x.gguf").unwrap(), ("a/b".into(), "v1".into(), Some("q/x.gguf".into())));
        for bad in [
            "a",
            "a/b/c",
            "./a/b",
            "../b",
            "a/..",
            "a/b@",
            "a/b@../x",
            "a/b:x.bin",
            "a/b:../x.gguf",
            "/a/b",
            "",
            "a/b c",
        ] {
            assert!(matches!(HubSpec::parse(bad), Err(ModelError::NotFound { .. })), "{bad}");
        }
    }
}

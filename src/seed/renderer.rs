//! The rendered files of a declared seed: values are read, templates rendered. Values are read again each time, and what
//! they say stands in no error and no log.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::render::{Context, render};
use crate::fs::{self, RelPath};
use crate::intent::{Digest, SeedTarget, SeedValue, TemplateError};
use crate::store::ManifestHead;

/// The most bytes of a value's file.
const VALUE_LIMIT: u64 = 64 << 10;

/// Why a declared seed's files cannot be rendered; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The file of a value.
    #[error("value {name:?} of {target} cannot be read")]
    Value {
        /// Which value.
        name: Box<str>,
        /// Of which seed.
        target: RelPath,
        /// Why not.
        #[source]
        source: fs::Error,
    },
    /// The file of a value holds bytes that are no text.
    #[error("value {name:?} of {target} is no text in UTF-8: {}", path.display())]
    NotText {
        /// Which value.
        name: Box<str>,
        /// Of which seed.
        target: RelPath,
        /// The file.
        path: PathBuf,
    },
    /// The template.
    #[error("{path} of {target} cannot be rendered")]
    Template {
        /// Which file.
        path: RelPath,
        /// Of which seed.
        target: RelPath,
        /// What is wrong, and where.
        #[source]
        source: TemplateError,
    },
}

/// One file as it is to stand in a target.
#[derive(Clone, PartialEq)]
pub struct Rendered {
    /// Below the target.
    pub path: RelPath,
    /// Its rights.
    pub mode: u32,
    /// What it says.
    pub content: Vec<u8>,
}

/// Content may hold secrets: it is not shown.
impl fmt::Debug for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:o}, {} bytes)", self.path, self.mode, self.content.len())
    }
}

/// Renders for one node.
#[derive(Debug)]
pub struct Renderer {
    node: String,
    env: BTreeMap<String, Option<String>>,
}

impl Renderer {
    /// For a node of that name. `env`: the variables that templates may read; `None` where one is not set.
    pub fn new(node: String, env: BTreeMap<String, Option<String>>) -> Self {
        Self { node, env }
    }

    /// Renders what `seed` declares for that version; and the print of the values that it was rendered with.
    pub fn render(
        &self,
        seed: &SeedTarget,
        head: &ManifestHead,
    ) -> Result<(Vec<Rendered>, Option<Digest>), RenderError> {
        let values = read_values(seed)?;
        let context = Context {
            artifact: head.artifact.as_str(),
            version: head.version.as_str(),
            digest: head.archive.digest.to_string(),
            tree_digest: head.tree_digest.to_string(),
            published_at: head.published_at.to_string(),
            node: &self.node,
            env: &self.env,
            values: &values,
        };
        let file = |declared: &crate::intent::Render| {
            let fail =
                |source| RenderError::Template { path: declared.path.clone(), target: seed.target.clone(), source };
            let content = render(&declared.template, &context).map_err(fail)?;
            Ok(Rendered { path: declared.path.clone(), mode: declared.mode.0, content })
        };
        let files = seed.render.iter().map(file).collect::<Result<Vec<_>, RenderError>>()?;
        Ok((files, changes(seed).then(|| print(&values))))
    }

    /// A print of the values as they are now: another one, and the files are to be rendered again. `None` when nothing
    /// of them can change while the document stays.
    pub fn values_print(&self, seed: &SeedTarget) -> Option<Digest> {
        changes(seed).then(|| match read_values(seed) {
            Ok(values) => print(&values),
            // Rendering will say what is wrong.
            Err(error) => Digest::sha256(error.to_string().as_bytes()),
        })
    }
}

/// Whether a seed's files depend on what is read from other files.
fn changes(seed: &SeedTarget) -> bool {
    !seed.render.is_empty() && seed.values.values().any(|value| matches!(value, SeedValue::File { .. }))
}

fn read_values(seed: &SeedTarget) -> Result<BTreeMap<String, String>, RenderError> {
    // Without a template nobody reads them.
    let declared = seed.values.iter().filter(|_| !seed.render.is_empty());
    declared.map(|(name, value)| Ok((name.clone(), read_value(&seed.target, name, value)?))).collect()
}

fn read_value(target: &RelPath, name: &str, value: &SeedValue) -> Result<String, RenderError> {
    let from_file = match value {
        SeedValue::Text(text) => return Ok(text.clone()),
        SeedValue::File { from_file } => from_file,
    };
    let bytes = fs::read_limited(from_file, VALUE_LIMIT).map_err(|source| RenderError::Value {
        name: name.into(),
        target: target.clone(),
        source,
    })?;
    let mut text = String::from_utf8(bytes).map_err(|_| RenderError::NotText {
        name: name.into(),
        target: target.clone(),
        path: from_file.clone(),
    })?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

fn print(values: &BTreeMap<String, String>) -> Digest {
    let json = serde_json::to_vec(values).unwrap_or_else(|e| unreachable!("texts under text keys serialise: {e}"));
    Digest::sha256(&json)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn values_are_read_each_time_without_their_last_newline() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let seed: SeedTarget = serde_json::from_value(serde_json::json!({
            "target": "t",
            "values": { "token": { "fromFile": file }, "plain": "x" },
            "render": [{ "path": "f", "template": "" }],
        }))
        .unwrap();
        let renderer = Renderer::new("n".into(), BTreeMap::new());
        let unreadable = renderer.values_print(&seed);
        let error = crate::intent::error_chain(&read_values(&seed).unwrap_err());
        assert!(error.starts_with("value \"token\" of t cannot be read: ") && error.contains("token"), "{error}");
        std::fs::write(&file, "one\r\n").unwrap();
        let one = renderer.values_print(&seed);
        assert_eq!(read_values(&seed).unwrap()["token"], "one");
        std::fs::write(&file, "two").unwrap();
        let two = renderer.values_print(&seed);
        assert!(unreadable != one && one != two && two.is_some());
        std::fs::write(&file, [0xff]).unwrap();
        assert!(matches!(read_values(&seed), Err(RenderError::NotText { .. })));
        std::fs::write(&file, vec![b'x'; 65_537]).unwrap();
        assert!(matches!(read_values(&seed), Err(RenderError::Value { .. })));
        let without = SeedTarget { render: Vec::new(), ..seed };
        assert_eq!(renderer.values_print(&without), None, "nobody reads them");
    }
}

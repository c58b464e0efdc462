//! This room's fuzz targets.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "it fails by panicking, and looks at the disk from outside"
)]

use super::recent::Recent;
use super::record::{Line, Records};
use super::render::{Context, render};
use crate::fs::Dir;
use crate::fuzzing::Scratch;

/// A template, rendered.
pub(crate) fn templates(bytes: &[u8]) {
    const SECRET: &str = "s3cr3t-of-the-values";
    let Ok(template) = std::str::from_utf8(bytes) else { return };
    // What is constant is worked out before anybody counts its cost: a list repeated by a number may take any memory
    // (SECURITY.md, "known to be weak"; found here with minijinja 3.1).
    if template.contains('*') {
        return;
    }
    let env = [("PROXY".to_owned(), Some("proxy:3128".to_owned())), ("UNSET".to_owned(), None)].into();
    let values = [("token".to_owned(), SECRET.to_owned())].into();
    let context = Context {
        artifact: "os",
        version: "20260101T000000Z",
        digest: "sha256:aa".into(),
        tree_digest: "sha256:bb".into(),
        published_at: "2026-01-02T03:04:05Z".into(),
        node: "node-7",
        env: &env,
        values: &values,
    };
    match render(template, &context) {
        Ok(rendered) => assert!(rendered.len() <= 1 << 20),
        Err(error) => assert!(!error.to_string().contains(SECRET), "a value is told: {error}"),
    }
}

/// `seeds.recent` and, read as the same bytes, `seeds.json`: what is whole is kept, what follows is cut off, and what is
/// added then is read.
pub(crate) fn records(bytes: &[u8]) {
    let scratch = Scratch::new();
    let file = scratch.path().join("seeds.recent");
    std::fs::write(&file, bytes).unwrap();
    let dir = Dir::open(scratch.path()).unwrap();
    let recent = Recent::new(&dir);
    let whole = recent.read::<Line>().unwrap().len();
    let kept = std::fs::read(&file).unwrap();
    assert!(bytes.starts_with(&kept) && (kept.is_empty() || kept.ends_with(b"\n")));
    recent.add(&Line::default());
    assert_eq!(Recent::new(&dir).read::<Line>().unwrap().len(), whole + 1, "a line added is lost");
    std::fs::write(scratch.path().join("seeds.json"), bytes).unwrap();
    drop(Records::open(&dir));
}

//! `seedcache check`: says what is wrong with documents and settings, without a daemon.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::fs;
use crate::intent::{Builder, DocumentError, error_chain, is_settings, parse_documents, parse_settings, read};

/// Checks files and directories, a line for each document. True when all is well. The documents of a directory are held
/// against each other, as the daemon that reads it would; so are those of all the files that are named one by one.
pub(super) fn run(paths: &[PathBuf], out: &mut impl Write) -> io::Result<bool> {
    let mut check = Check { out, builder: Builder::default(), good: 0, bad: 0 };
    for path in paths {
        match fs::documents_in(path) {
            Ok(files) if files == [path.as_path()] => check.file(path)?,
            Ok(files) => {
                let single_files = std::mem::take(&mut check.builder);
                files.iter().try_for_each(|file| check.file(file))?;
                check.builder = single_files;
            }
            Err(error) => check.refuse(&error.into())?,
        }
    }
    let Check { good, bad, .. } = check;
    let (goods, bads) = (if good == 1 { "" } else { "s" }, if bad == 1 { "" } else { "s" });
    match bad {
        0 => writeln!(out, "{good} document{goods}: all well")?,
        _ => writeln!(out, "{good} document{goods} well, {bad} problem{bads}")?,
    }
    Ok(bad == 0)
}

struct Check<'a, W> {
    out: &'a mut W,
    builder: Builder,
    good: usize,
    bad: usize,
}

impl<W: Write> Check<'_, W> {
    fn file(&mut self, file: &Path) -> io::Result<()> {
        let text = match read(file) {
            Ok(text) => text,
            Err(error) => return self.refuse(&error),
        };
        if is_settings(file) {
            return match parse_settings(file, &text) {
                Ok(_) => self.accept(file, "settings"),
                Err(error) => self.refuse(&error),
            };
        }
        let parsed = match parse_documents(file, &text) {
            Ok(parsed) => parsed,
            Err(error) => return self.refuse(&error),
        };
        for parsed in parsed {
            let name = parsed.name.clone();
            match self.builder.add(file, parsed) {
                Some(error) => self.refuse(&error)?,
                None => self.accept(file, name.as_ref().map_or("document", |name| name.as_str()))?,
            }
        }
        Ok(())
    }

    fn accept(&mut self, file: &Path, what: &str) -> io::Result<()> {
        self.good += 1;
        writeln!(self.out, "{}: {what}: ok", file.display())
    }

    fn refuse(&mut self, error: &DocumentError) -> io::Result<()> {
        self.bad += 1;
        writeln!(self.out, "{}", error_chain(error))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    fn check(paths: &[PathBuf]) -> (bool, String) {
        let mut out = Vec::new();
        let good = run(paths, &mut out).unwrap();
        (good, String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_shipped_configuration_is_well() {
        let (good, said) = check(&[Path::new(env!("CARGO_MANIFEST_DIR")).join("config/node")]);
        assert!(good && said.contains("smartos-platform: ok") && said.ends_with("all well\n"), "{said}");
    }

    #[test]
    fn only_what_one_daemon_would_read_is_held_against_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).join("a.yaml");
        for name in ["one", "other"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            let document = "apiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {name: a}\nspec:\n  \
                            source: {file: {path: x}}\n";
            std::fs::write(file(name), document).unwrap();
        }
        let (good, said) = check(&[dir.path().join("one"), file("one"), dir.path().join("other")]);
        assert!(good, "{said}");
        let (good, said) = check(&[file("one"), dir.path().join("one"), file("other")]);
        assert!(!good && said.contains("other/a.yaml:3:12: metadata.name: "), "{said}");
    }

    #[test]
    fn each_problem_is_a_line_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let document = "apiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {name: a}\nspec:\n  \
                        source: {file: {path: x}}\n";
        std::fs::write(dir.path().join("a.yaml"), format!("{document}---\n{document}")).unwrap();
        std::fs::write(dir.path().join("b.yaml"), document.replace("path", "pth")).unwrap();
        std::fs::write(dir.path().join("seedcache.yaml"), "logs: {}").unwrap();
        let (good, said) = check(&[dir.path().into(), dir.path().join("missing.yaml")]);
        assert!(!good);
        for part in [
            "a.yaml: a: ok",
            "a.yaml:9:12: metadata.name: ",
            "b.yaml:5:19: spec.source.file.pth: ",
            "seedcache.yaml:1:1: logs: ",
            "missing.yaml",
            "1 document well, 4 problems",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}

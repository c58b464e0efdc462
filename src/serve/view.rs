//! What of the node a caller is shown: operators all of it, everyone else no path of the host and no directory that is
//! some pod's own.

use std::borrow::Cow;

use crate::reconcile::ArtifactState;

/// What stands in the place of a directory of a pod, and of what leads to a file of the host.
const HIDDEN: &str = "…";
/// Directories of pods that readers are shown of each artifact. They cannot tell one from another, and each connection that does not
/// read keeps what it was answered in memory.
const DIRECTORIES: usize = 64;

/// Who is looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// The daemon's owner on the socket, or the bearer token's holder.
    Operator,
    /// Everyone else.
    Reader,
}

impl View {
    /// A text that may tell of files of the host.
    pub(super) fn text(self, text: &str) -> Cow<'_, str> {
        match self {
            View::Operator => text.into(),
            View::Reader => without_paths(text).into(),
        }
    }

    /// An artifact's state.
    pub(super) fn state(self, mut state: ArtifactState) -> ArtifactState {
        if self == View::Operator {
            return state;
        }
        let hide = |text: &mut Option<String>| *text = text.take().map(|text| without_paths(&text));
        hide(&mut state.last_error);
        let mut directories = 0;
        state.seeds.retain(|seed| {
            directories += usize::from(seed.by_handle);
            !seed.by_handle || directories <= DIRECTORIES
        });
        for seed in &mut state.seeds {
            hide(&mut seed.reason);
            if seed.by_handle {
                seed.target = HIDDEN.into();
            }
        }
        state
    }

    /// The states of artifacts.
    pub(super) fn states(self, states: Vec<ArtifactState>) -> Vec<ArtifactState> {
        states.into_iter().map(|state| self.state(state)).collect()
    }
}

/// The text with `…/NAME` in the place of each absolute path: which file of the host it is about is still told, not
/// where that lies. Addresses of http stay.
fn without_paths(text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(found) = next_path(rest) {
        let (before, path, after) = found;
        told.push_str(before);
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        // The root alone leads nowhere.
        told.push_str(if name.is_empty() { "" } else { HIDDEN });
        told.push('/');
        told.push_str(name);
        rest = after;
    }
    told.push_str(rest);
    told
}

/// What stands before the first absolute path, it, and the rest.
fn next_path(text: &str) -> Option<(&str, &str, &str)> {
    let mut at = 0;
    loop {
        let slash = at + text[at..].find('/')?;
        let (before, from) = text.split_at(slash);
        if is_web(before) && from.starts_with("//") {
            at = slash + word(from);
        } else if before.chars().next_back().is_some_and(belongs) {
            at = slash + 1;
        } else {
            let (path, after) = from.split_at(length(before.chars().next_back(), from));
            return Some((before, path, after));
        }
    }
}

/// A slash after this goes on with what it is in: a relative path, a fraction, the daemon's own `…/wait`.
fn belongs(c: char) -> bool {
    c.is_alphanumeric() || "._-+%@~*$}])>…".contains(c)
}

fn is_web(before: &str) -> bool {
    before.ends_with("http:") || before.ends_with("https:")
}

/// Bytes of the absolute path that `text` begins with. In quotes it goes to their end, else to where a sentence would go
/// on; blanks in it are told by the slashes after them.
fn length(quote: Option<char>, text: &str) -> usize {
    if let Some(quote @ ('"' | '\'' | '`')) = quote
        && let Some(end) = closing(quote, text)
    {
        return end;
    }
    let mut end = word(text);
    let mut at = end;
    while text[at..].starts_with(' ') && !ends_clause(&text[..at]) {
        let next = at + 1 + word(&text[at + 1..]);
        let passed = &text[at + 1..next];
        if passed.starts_with('/') || passed.contains("://") {
            break;
        }
        if passed.contains('/') {
            end = next;
        }
        at = next;
    }
    text[..end].trim_end_matches([':', ';', ',', '.']).len()
}

/// Bytes up to what ends a word.
fn word(text: &str) -> usize {
    text.find(|c: char| c.is_whitespace() || "\"'`()<>[]{}".contains(c)).unwrap_or(text.len())
}

fn ends_clause(text: &str) -> bool {
    text.ends_with([':', ';', ','])
}

fn closing(quote: char, text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if c == quote && !escaped {
            return Some(at);
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::super::fixture::state;
    use super::*;
    use crate::reconcile::{SeedState, State};

    #[test]
    fn a_text_keeps_all_but_where_files_lie() {
        for (text, told) in [
            ("cannot open /mnt/a/b.tgz: No such file (os error 2)", "cannot open …/b.tgz: No such file (os error 2)"),
            ("\"/srv/x y\" is not below seed.root (/mnt/kube-data)", "\"…/x y\" is not below seed.root (…/kube-data)"),
            ("/etc/seedcache/app.yaml:3:4: spec: it is empty", "…/app.yaml:3:4: spec: it is empty"),
            ("file:///srv/x.tgz is gone, and fromFile /run/t", "file:…/x.tgz is gone, and fromFile …/t"),
            ("cannot open /my files/of mine/x: no", "cannot open …/x: no"),
            ("rename /a/b to /c/d.", "rename …/b to …/d."),
            ("https://origin/a/b (see `/a/b`): 404", "https://origin/a/b (see `…/b`): 404"),
            ("GET http://o/x/y?z=/w gave 3/4; …/wait tells", "GET http://o/x/y?z=/w gave 3/4; …/wait tells"),
            ("a/b of app@v1 and ../c stay", "a/b of app@v1 and ../c stay"),
            ("\"/a\\\"/b\" ends", "\"…/b\" ends"),
            ("the root / and /x/", "the root / and …/x"),
            ("", ""),
        ] {
            assert_eq!(View::Reader.text(text), told, "{text}");
            assert_eq!(View::Operator.text(text), text);
        }
    }

    #[test]
    fn a_state_tells_readers_neither_host_paths_nor_directories_of_pods() {
        let seed = |by_handle, target: &str, reason: &str| SeedState {
            target: target.into(),
            by_handle,
            declared: !by_handle,
            version: None,
            mode: None,
            reason: Some(reason.into()),
            state: State::Failed,
            progress: None,
        };
        let seeds = vec![seed(false, "boot/smartos", "/mnt/boot is a file"), seed(true, "/data/secret", "no")];
        let full = ArtifactState { last_error: Some("cannot open /srv/x".into()), seeds, ..state("a", State::Failed) };
        assert_eq!(View::Operator.state(full.clone()), full);
        let shown = View::Reader.state(full);
        assert_eq!(shown.last_error.as_deref(), Some("cannot open …/x"));
        assert_eq!(
            (&*shown.seeds[0].target, shown.seeds[0].reason.as_deref()),
            ("boot/smartos", Some("…/boot is a file"))
        );
        assert_eq!(shown.seeds[1].target, "…");
    }

    #[test]
    fn readers_are_shown_some_of_many_directories_and_all_targets() {
        let seed = |by_handle| SeedState {
            target: "t".into(),
            by_handle,
            declared: !by_handle,
            version: None,
            mode: None,
            reason: None,
            state: State::Ready,
            progress: None,
        };
        let seeds: Vec<SeedState> = (0..1000).map(|i| seed(i % 2 == 0)).collect();
        let full = ArtifactState { seeds, ..state("a", State::Ready) };
        let directories = |state: &ArtifactState| state.seeds.iter().filter(|seed| seed.by_handle).count();
        let shown = View::Reader.state(full.clone());
        assert_eq!((directories(&shown), shown.seeds.len()), (DIRECTORIES, DIRECTORIES + 500));
        assert_eq!(View::Operator.state(full.clone()), full);
    }

    proptest! {
        #[test]
        fn no_directory_survives(
            directories in prop::collection::vec("[A-Z][A-Za-z0-9._ -]{0,8}[A-Z]", 1..5), name in "[a-z]{1,8}", form in 0..5usize,
        ) {
            let path = format!("/{}/{name}", directories.join("/"));
            let text = match form {
                0 => format!("cannot open {path}: permission denied"),
                1 => format!("{path} is a file that nobody made; move it away"),
                2 => format!("it lies in the store ({path})"),
                3 => format!("{path:?} is no target"),
                _ => format!("file://{path}"),
            };
            let told = without_paths(&text);
            for directory in &directories {
                prop_assert!(!told.contains(directory.as_str()), "{told}");
            }
            prop_assert!(told.contains(&format!("…/{name}")), "{told}");
        }

        #[test]
        fn any_text_is_taken(text in "\\PC{0,40}") {
            let told = without_paths(&text);
            prop_assert!(!told.contains(" /a"), "{told}");
        }
    }
}

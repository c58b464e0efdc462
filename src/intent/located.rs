//! Where each field of a YAML text stands: what turns a field into a line.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Bytes of a name that is kept: an alias repeats a longer one in few bytes, and none of ours is near that.
const LONGEST_NAME: usize = 512;

/// Every field of one document. Paths are told when they are asked for: all of them together may be thousands of times as long
/// as the text.
#[derive(Debug, Default)]
pub(super) struct Fields(Option<Tree>);

impl Fields {
    /// Finds the fields of a document; none where the text is no YAML (its error is told when it is read).
    pub(super) fn of(text: &str) -> Self {
        Self(super::yaml::read_loosely(text))
    }

    /// The line and column of a field; of the nearest one above it that is written down, else the first line.
    pub(super) fn place_of(&self, path: &str) -> (u64, u64) {
        let Some(tree) = &self.0 else { return (1, 1) };
        let mut path = path;
        loop {
            if let Some(place) = tree.place_of(path) {
                return place;
            }
            match path.rfind(['.', '[']) {
                Some(at) => path = &path[..at],
                None => return (1, 1),
            }
        }
    }
}

fn place(location: &serde_saphyr::Location) -> (u64, u64) {
    (location.line(), location.column())
}

/// A YAML value with nothing kept but where its parts stand.
#[derive(Debug)]
enum Tree {
    Scalar,
    Map(Vec<(Spanned<String>, Spanned<Tree>)>),
    List(Vec<Spanned<Tree>>),
}

impl Tree {
    /// The place of the first field with this path, which is `a.b[1].c`; a name may have dots in it.
    fn place_of(&self, path: &str) -> Option<(u64, u64)> {
        match self {
            Tree::Scalar => None,
            Tree::Map(entries) => entries.iter().find_map(|(name, value)| {
                let rest = path.strip_prefix(&*name.value)?;
                here_or_below(rest, &name.referenced, value)
            }),
            Tree::List(items) => {
                let (at, rest) = path.strip_prefix('[')?.split_once(']')?;
                let item = items.get(at.parse::<usize>().ok()?)?;
                here_or_below(rest, &item.referenced, item)
            }
        }
    }
}

fn here_or_below(rest: &str, here: &serde_saphyr::Location, value: &Spanned<Tree>) -> Option<(u64, u64)> {
    match rest.as_bytes() {
        [] => Some(place(here)),
        [b'.', ..] => value.value.place_of(&rest[1..]),
        [b'[', ..] => value.value.place_of(rest),
        _ => None,
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

macro_rules! scalars {
    ($($visit:ident: $kind:ty),* $(,)?) => {
        $(fn $visit<E>(self, _: $kind) -> Result<Tree, E> {
            Ok(Tree::Scalar)
        })*
    };
}

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    scalars!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64,
        visit_str: &str, visit_bytes: &[u8]);

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(name) = entries.next_key::<Spanned<String>>()? {
            let value = entries.next_value()?;
            if name.value.len() <= LONGEST_NAME {
                map.push((name, value));
            }
        }
        Ok(Tree::Map(map))
    }

    fn visit_enum<A: serde::de::EnumAccess<'de>>(self, data: A) -> Result<Tree, A::Error> {
        let (IgnoredAny, _) = data.variant()?;
        Ok(Tree::Scalar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a: 1\nb:\n  c: {d: x, e: [1, 2]}\n  f:\n    - g: 1\n    - g: 2\n";

    #[test]
    fn every_field_has_its_place() {
        let fields = Fields::of(TEXT);
        for (path, place) in [("a", (1, 1)), ("b", (2, 1)), ("b.c", (3, 3)), ("b.c.d", (3, 7)), ("b.f[1].g", (6, 7))] {
            assert_eq!(fields.place_of(path), place, "{path}");
        }
        assert_eq!(fields.place_of("b.c.missing"), (3, 3));
        assert_eq!(fields.place_of("missing"), (1, 1));
        let dotted = Fields::of("a.b:\n  c: 1\na:\n  b: 2\n  d: [[1], {e: 3}]\n");
        for (path, place) in [("a.b.c", (2, 3)), ("a.b", (1, 1)), ("a.d[1].e", (5, 13)), ("a.d[0][0]", (5, 8))] {
            assert_eq!(dotted.place_of(path), place, "{path}");
        }
        assert_eq!(dotted.place_of("a.d[1].e.f[2].g"), (5, 13));
    }

    #[test]
    fn what_is_kept_is_no_longer_than_the_text() {
        let (mut text, mut path) = (String::new(), String::new());
        for depth in 0..10 {
            let name = "n".repeat(LONGEST_NAME);
            text += &format!("{}? {name}\n{}:\n", " ".repeat(depth), " ".repeat(depth));
            path += &format!("{name}.");
        }
        text += &format!("{}last: [{}]\n", " ".repeat(10), "1, ".repeat(10_000));
        let fields = Fields::of(&text);
        assert_eq!(fields.place_of(&format!("{path}last[9999]")).0, 21);
        let long = Fields::of(&format!("a: 1\n? {}\n: b: 2\n", "n".repeat(LONGEST_NAME + 1)));
        assert_eq!(long.place_of(&format!("{}.b", "n".repeat(LONGEST_NAME + 1))), (1, 1));
    }
}

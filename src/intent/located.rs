//! Where each field of a YAML text stands: what turns a field into a line.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A field's dotted path with the place of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    path: String,
    /// Line and column, both from 1.
    name: (u64, u64),
}

/// Every field of one document, in the order of the text.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<Field>);

impl Fields {
    /// Finds the fields of a document; none where the text is no YAML (its error is told when it is read).
    pub(super) fn of(text: &str) -> Self {
        let mut fields = Fields::default();
        if let Some(tree) = super::yaml::read_loosely::<Tree>(text) {
            fields.collect(&tree, "");
        }
        fields
    }

    fn collect(&mut self, tree: &Tree, path: &str) {
        let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match tree {
            Tree::Scalar => {}
            Tree::Map(entries) => {
                for (name, value) in entries {
                    self.add(join(&name.value), place(&name.referenced), value);
                }
            }
            Tree::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.add(format!("{path}[{i}]"), place(&item.referenced), item);
                }
            }
        }
    }

    fn add(&mut self, path: String, name: (u64, u64), value: &Spanned<Tree>) {
        self.0.push(Field { path: path.clone(), name });
        self.collect(&value.value, &path);
    }

    /// The line and column of a field; of the nearest one above it that is written down, else the first line.
    pub(super) fn place_of(&self, path: &str) -> (u64, u64) {
        let mut path = path;
        loop {
            if let Some(field) = self.0.iter().find(|field| field.path == path) {
                return field.name;
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
        while let Some(name) = entries.next_key()? {
            map.push((name, entries.next_value()?));
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
    }
}

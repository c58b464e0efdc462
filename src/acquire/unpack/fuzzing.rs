//! The fuzz target for what is pure here.

use super::pax::Pax;

/// The content of an extended header, of one entry and of all.
pub(crate) fn pax_headers(bytes: &[u8]) {
    let own = Pax::parse(bytes);
    if let Ok(pax) = &own {
        for name in [&pax.path, &pax.linkpath, &pax.sparse.name].into_iter().flatten() {
            assert!(!name.is_empty() && !name.contains(&0), "a name that cannot be");
        }
        assert!(pax.mtime.is_none_or(|(_, nanos)| nanos < 1_000_000_000));
        // Said twice it says the same, or contradicts itself where parts are listed.
        let twice = [bytes, bytes].concat();
        assert!(pax.sparse.is_some() || Pax::parse(&twice).as_ref() == Ok(pax));
    }
    if let Ok(global) = Pax::parse_global(bytes) {
        assert_eq!(own.as_ref(), Ok(&global));
        assert!(global.path.is_none() && global.linkpath.is_none() && global.size.is_none());
        assert!(!global.sparse.is_some());
    }
}

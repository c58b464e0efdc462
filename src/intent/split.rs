//! A file's text to its documents. Markers are the same everywhere in YAML: `---` or `...` at the start of a line ends a
//! document wherever it stands, in block scalars too (YAML 1.2.2, 9.1.2), so that no parsing is needed to find them.

/// One document's text and the line of the file that it starts at, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part<'a> {
    pub(super) first_line: u64,
    pub(super) text: &'a str,
}

/// What a line is to the documents around it.
enum Line {
    /// `---`, with whatever follows it.
    Start,
    /// `...`
    End,
    /// Nothing, or a comment.
    Blank,
    /// `%YAML 1.2`: belongs to the document after it, where it stands before one.
    Directive,
    Content,
}

impl Line {
    fn of(line: &str) -> Self {
        let marker = |mark: &str| {
            line.strip_prefix(mark).filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        };
        match (marker("---"), marker("...")) {
            (Some(_), _) => Line::Start,
            (_, Some(_)) => Line::End,
            _ if is_blank(line) => Line::Blank,
            _ if line.starts_with('%') => Line::Directive,
            _ => Line::Content,
        }
    }
}

/// The documents of a text in their order; those that hold nothing are left out.
pub(super) fn split(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut part = Part { first_line: 1, text: "" };
    // Where the part starts; whether it has begun with `---` or content; whether anything is in it.
    let (mut start, mut begun, mut filled) = (0, false, false);
    let mut at = 0;
    for (line, number) in lines(text).zip(1..) {
        let kind = Line::of(line.strip_prefix('\u{feff}').filter(|_| at == 0).unwrap_or(line));
        let cut = match kind {
            Line::Start => begun.then_some((at, number)),
            Line::End => Some((at + line.len(), number + 1)),
            Line::Blank | Line::Directive | Line::Content => None,
        };
        if let Some((next, first_line)) = cut {
            if filled {
                parts.push(Part { text: &text[start..next], ..part });
            }
            (start, begun, filled) = (next, false, false);
            part.first_line = first_line;
        }
        match kind {
            Line::Start => {
                begun = true;
                filled = !is_blank(&line.trim_start_matches('\u{feff}')[3..]);
            }
            Line::Content => (begun, filled) = (true, true),
            // In a document that has begun it is content, and wrong: the parser says so.
            Line::Directive => filled |= begun,
            Line::End | Line::Blank => {}
        }
        at += line.len();
    }
    if filled {
        parts.push(Part { text: &text[start..], ..part });
    }
    parts
}

/// The lines of a text, each with what ends it: LF, CR LF or CR alone (YAML 1.2.2, 5.4), as the parser counts them.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = match rest.find(['\n', '\r']) {
            Some(at) if rest[at..].starts_with("\r\n") => at + 2,
            Some(at) => at + 1,
            None => rest.len(),
        };
        let (line, after) = rest.split_at(end);
        rest = after;
        (!line.is_empty()).then_some(line)
    })
}

fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(text: &str) -> Vec<(u64, &str)> {
        split(text).into_iter().map(|part| (part.first_line, part.text)).collect()
    }

    #[test]
    fn documents_are_cut_at_markers_and_nowhere_else() {
        for (text, expected) in [
            ("", vec![]),
            ("# nothing\n\n---\n--- # still nothing\n...\n", vec![]),
            ("a: 1", vec![(1, "a: 1")]),
            ("\u{feff}---\na: 1\n", vec![(1, "\u{feff}---\na: 1\n")]),
            ("# c\n---\na: 1\n---\nb: 2\n", vec![(1, "# c\n---\na: 1\n"), (4, "---\nb: 2\n")]),
            ("a: 1\r\n---\r\nb: 2\r\n", vec![(1, "a: 1\r\n"), (2, "---\r\nb: 2\r\n")]),
            ("a: 1\r---\rb: 2\r---\n\rc: 3", vec![(1, "a: 1\r"), (2, "---\rb: 2\r"), (4, "---\n\rc: 3")]),
            ("a: 1\n...\nb: 2\n", vec![(1, "a: 1\n...\n"), (3, "b: 2\n")]),
            ("%YAML 1.2\n---\na: 1\n", vec![(1, "%YAML 1.2\n---\na: 1\n")]),
            ("a: 1\n...\n%YAML 1.2\n---\nb: 2\n", vec![(1, "a: 1\n...\n"), (3, "%YAML 1.2\n---\nb: 2\n")]),
            ("--- {a: 1}\n--- {b: 2}\n", vec![(1, "--- {a: 1}\n"), (2, "--- {b: 2}\n")]),
            ("a: |\n  ---\n  ...\n ---\n----\nb: ---\n", vec![(1, "a: |\n  ---\n  ...\n ---\n----\nb: ---\n")]),
        ] {
            assert_eq!(parts(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn parts_lie_in_the_text_in_order_and_know_their_lines(
            all in proptest::collection::vec(
                proptest::sample::select(vec!["---", "...", "%T x", "# c", "", "a: 1", " ---", "--- b", "---c"]), 0..12),
            end in proptest::sample::select(vec!["\n", "\r\n", "\r"]),
        ) {
            let text = all.join(end);
            let mut done = 0;
            for part in split(&text) {
                let at = part.text.as_ptr() as usize - text.as_ptr() as usize;
                prop_assert!(at >= done);
                done = at + part.text.len();
                prop_assert_eq!(text[..at].matches(end).count() as u64 + 1, part.first_line);
            }
            let said = |line: &&str| ["a: 1", "b", "---c"].iter().any(|said| line.contains(said));
            let content = |text: &str| text.split(end).filter(said).count();
            prop_assert_eq!(split(&text).iter().map(|part| content(part.text)).sum::<usize>(), content(&text));
        }
    }
}

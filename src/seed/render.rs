//! A template and its values to the bytes of a file: pure. What is too much fails, and nothing is cut short.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use crate::intent::{TemplateError, template_engine, template_names};

/// The most bytes that one rendered file has.
const MOST: usize = 1 << 20;

/// What templates may name, under these very names.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Context<'a> {
    pub(super) artifact: &'a str,
    pub(super) version: &'a str,
    pub(super) digest: String,
    pub(super) tree_digest: String,
    pub(super) published_at: String,
    pub(super) node: &'a str,
    /// The variables that the settings list; without a value where they are not set.
    #[serde(serialize_with = "those_set")]
    pub(super) env: &'a BTreeMap<String, Option<String>>,
    pub(super) values: &'a BTreeMap<String, String>,
}

fn those_set<S: serde::Serializer>(env: &BTreeMap<String, Option<String>>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(env.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))))
}

/// Renders `template`.
pub(super) fn render(template: &str, context: &Context<'_>) -> Result<Vec<u8>, TemplateError> {
    let names = template_names(template)?;
    let variables = || names.iter().filter_map(|name| Some((name, name.strip_prefix("env.")?.split('.').next()?)));
    if let Some((name, variable)) = variables().find(|(_, variable)| !context.env.contains_key(*variable)) {
        let what =
            format!("{variable} is not listed in seed.env of the settings; list it there to let templates read it");
        return Err(TemplateError::at_word(template, name, what));
    }
    let engine = template_engine();
    let mut file = Bounded(Vec::new());
    let template = engine.template_from_str(template)?;
    let rendered = template.render_captured_to(minijinja::value::Serde(context), &mut file).map(drop);
    if file.is_full() {
        return Err(TemplateError { line: None, what: format!("it becomes larger than {MOST} bytes").into() });
    }
    match rendered {
        Ok(()) => Ok(file.0),
        Err(error) => {
            let undefined = error.kind() == minijinja::ErrorKind::UndefinedError;
            let told = TemplateError::from(error);
            let unset = variables().find(|(_, variable)| context.env.get(*variable).is_some_and(Option::is_none));
            Err(match unset.filter(|_| undefined) {
                Some((_, variable)) => {
                    let what = format!("{}: {variable} is not set for the daemon; set it, or add a default", told.what);
                    TemplateError { what: what.into(), ..told }
                }
                None => told,
            })
        }
    }
}

/// Takes a file's bytes up to one over the most.
struct Bounded(Vec<u8>);

impl Bounded {
    fn is_full(&self) -> bool {
        self.0.len() > MOST
    }
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_full() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let taken = bytes.len().min(MOST + 1 - self.0.len());
        self.0.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rendered(template: &str) -> Result<String, String> {
        let env = [("PROXY".to_owned(), Some("p:3128".to_owned())), ("UNSET".to_owned(), None)].into();
        let values = [("token".to_owned(), "s3cr3t".to_owned())].into();
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
        render(template, &context).map(|bytes| String::from_utf8(bytes).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_name_has_its_value_and_nothing_is_escaped() {
        let all = "{{ artifact }} {{ version }} {{ digest }} {{ treeDigest }} {{ publishedAt }} {{ node }} {{ env.PROXY }} \
                   {{ values.token }} {{ env.UNSET|default('-') }} {{ '<&>' }}\n";
        let expected = "os 20260101T000000Z sha256:aa sha256:bb 2026-01-02T03:04:05Z node-7 p:3128 s3cr3t - <&>\n";
        assert_eq!(rendered(all).unwrap(), expected);
        assert_eq!(rendered("no end of line").unwrap(), "no end of line");
        assert_eq!(rendered("{% if env.PROXY == 'p:3128' %}yes{% endif %}\n\n").unwrap(), "yes\n\n");
    }

    #[test]
    fn a_slice_that_goes_backwards_may_be_empty() {
        assert_eq!(rendered("{{ version[1:-4:-4] }}.").unwrap(), ".");
        assert_eq!(rendered("{{ 'abc'[0:2:-1] }}.").unwrap(), ".");
        assert_eq!(rendered("{{ 'abc'[2:0:-1] }}.").unwrap(), "cb.");
        assert_eq!(rendered("{{ ''[::-1] }}{{ version[1:1][1::-4] }}.").unwrap(), ".");
    }

    #[test]
    fn what_fails_names_the_line_and_no_value() {
        for (template, told) in [
            ("a\nb {{ env.HOME }}", "line 2 of the template: HOME is not listed in seed.env"),
            ("a\n{{ env.UNSET }}", "line 2 of the template: undefined value: UNSET is not set"),
            ("\n\n{{ values.tokn }}", "line 3 of the template: undefined value"),
            ("{{ values.token|frobnicate }}", "line 1 of the template: unknown filter: "),
            ("{{ values.token|int }}", "line 1 of the template: "),
            ("{{ values.token + 1 }}", "line 1 of the template: "),
            ("{{ values.token|items }}", "line 1 of the template: "),
            ("{% include values.token %}", "line 1 of the template: "),
            ("{{ debug() }}", "line 1 of the template: "),
        ] {
            let error = rendered(template).unwrap_err();
            assert!(error.starts_with(told), "{template}: {error}");
            assert!(!error.contains("s3cr3t"), "{template}: {error}");
        }
    }

    #[test]
    fn what_is_too_much_fails() {
        let exactly = format!("{{{{ 'x' * {MOST} }}}}");
        assert_eq!(rendered(&exactly).unwrap().len(), MOST);
        let more = rendered(&format!("{{{{ 'x' * {MOST} }}}}y")).unwrap_err();
        assert!(more.contains("larger than 1048576 bytes"), "{more}");
        let endless = "{% for i in range(9999) %}{% for j in range(9999) %}{% set x = j %}{% endfor %}{% endfor %}";
        assert!(rendered(endless).unwrap_err().contains("ran out of fuel"));
    }
}

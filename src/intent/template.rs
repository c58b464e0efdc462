//! The language of rendered files (Jinja, by minijinja): what a template may say and name. A template reaches no file,
//! no network and no other template, and what it costs is bounded.

use std::collections::BTreeSet;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};

/// What templates may name; `env` and `values` hold further names.
pub const TEMPLATE_NAMES: [&str; 8] =
    ["artifact", "digest", "env", "node", "publishedAt", "treeDigest", "values", "version"];
/// Instructions that one rendering may take.
const FUEL: u64 = 1_000_000;

/// What is wrong with a template, and in which of its lines. Holds nothing of what values say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", line.map(|line| format!("line {line} of the template: ")).unwrap_or_default())]
pub struct TemplateError {
    /// From 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: Box<str>,
}

impl TemplateError {
    /// An error at the first line of `template` that holds `word`.
    pub fn at_word(template: &str, word: &str, what: impl Into<Box<str>>) -> Self {
        let line = template.lines().position(|line| line.contains(word)).map(|line| line + 1);
        Self { line, what: what.into() }
    }
}

impl From<Error> for TemplateError {
    fn from(error: Error) -> Self {
        let kind = error.kind();
        let told = match kind {
            // These details hold words of the template alone; others may hold what a value says.
            ErrorKind::SyntaxError
            | ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::UnknownFunction
            | ErrorKind::UnknownMethod
            | ErrorKind::MissingArgument
            | ErrorKind::TooManyArguments => error.detail(),
            ErrorKind::TemplateNotFound => Some("a template stands for itself and includes no other"),
            ErrorKind::OutOfFuel => Some("it does too much; a template is for a few lines"),
            _ => None,
        };
        let what = told.map_or_else(|| kind.to_string(), |told| format!("{kind}: {told}"));
        Self { line: error.line(), what: what.into() }
    }
}

/// What reads and runs templates.
pub fn template_engine() -> Environment<'static> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    engine.set_syntax(syntax.unwrap_or_else(|e| unreachable!("delimiters are the usual ones: {e}")));
    engine.set_auto_escape_callback(|_| AutoEscape::None);
    engine.set_fuel(Some(FUEL));
    // It would write all that there is to name, values included.
    engine.remove_global("debug");
    engine
}

/// The names that a template uses and does not make itself, as `version` or `values.token`.
pub fn template_names(text: &str) -> Result<BTreeSet<String>, TemplateError> {
    let engine = template_engine();
    let template = engine.template_from_str(text)?;
    let functions: BTreeSet<&str> = engine.globals().map(|(name, _)| name).collect();
    let mut names: BTreeSet<String> = template.undeclared_variables(true).into_iter().collect();
    names.retain(|name| !functions.contains(name.as_str()));
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_those_that_must_come_from_outside() {
        let text =
            "{% for i in range(3) %}{{ i }}{{ loop.index }}{{ values.token }}{% endfor %}{% set x = 1 %}{{ x ~ node }}";
        let names: Vec<String> = template_names(text).unwrap().into_iter().collect();
        assert_eq!(names, ["node", "values.token"]);
    }

    #[test]
    fn a_slip_is_told_with_its_line() {
        for (text, line, told) in [
            ("a\n{{ version }\n", 2, "syntax error: "),
            ("a\n\n{% frob 'x' %}\n", 3, "syntax error: "),
            ("{% if a %}\n", 1, "syntax error: "),
        ] {
            let error = template_names(text).unwrap_err();
            assert_eq!(error.line, Some(line), "{error}");
            assert!(error.what.starts_with(told), "{error}");
            assert!(error.to_string().starts_with(&format!("line {line} of the template: ")), "{error}");
        }
    }
}

//! Declared seeds: targets apart from each other, templates that can be rendered.

use std::collections::BTreeMap;

use super::{Wrong, overlap, wrong};
use crate::intent::problem::Problem;
use crate::intent::{Render, SeedTarget, SeedValue, TEMPLATE_NAMES, TemplateError, template_names};

/// Rendered files of one seed.
const MOST_FILES: usize = 32;
/// Bytes of all their paths: a seed's mark names them, and an extended attribute holds 4 KiB on ext4.
const MOST_PATH_BYTES: usize = 1024;

/// Checks `seeds`; fields are named below `spec`.
pub(super) fn seeds(seeds: &[SeedTarget]) -> Result<(), Wrong> {
    for (i, seed) in seeds.iter().enumerate() {
        let field = format!("seeds[{i}].target");
        if seed.target.components().any(|component| component == b".seedcache") {
            return wrong(field, Problem::TargetInStore);
        }
        if let Some(j) = seeds[..i].iter().position(|other| overlap(&other.target, &seed.target)) {
            let other = seeds[j].target.to_string();
            return wrong(field, Problem::TargetTaken { other, first: format!("spec.seeds[{j}]") });
        }
        let below = |(field, problem): Wrong| (format!("seeds[{i}].{field}"), problem);
        values(&seed.values).map_err(below)?;
        rendered(&seed.render, &seed.values).map_err(below)?;
    }
    Ok(())
}

fn values(values: &BTreeMap<String, SeedValue>) -> Result<(), Wrong> {
    for (name, value) in values {
        let field = format!("values.{name}");
        let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return wrong(field, Problem::ValueName { given: name.clone() });
        }
        if matches!(value, SeedValue::File { from_file } if from_file.as_os_str().is_empty()) {
            return wrong(format!("{field}.fromFile"), Problem::EmptyPath);
        }
    }
    Ok(())
}

fn rendered(files: &[Render], values: &BTreeMap<String, SeedValue>) -> Result<(), Wrong> {
    if files.len() > MOST_FILES || files.iter().map(|file| file.path.as_bytes().len()).sum::<usize>() > MOST_PATH_BYTES
    {
        return wrong("render", Problem::RenderTooMuch { files: MOST_FILES, bytes: MOST_PATH_BYTES });
    }
    for (k, file) in files.iter().enumerate() {
        if file.path.as_bytes().iter().any(u8::is_ascii_control) {
            return wrong(format!("render[{k}].path"), Problem::ControlCharacter);
        }
        if files[..k].iter().any(|other| overlap(&other.path, &file.path)) {
            return wrong(format!("render[{k}].path"), Problem::RenderTaken);
        }
        template(&file.template, values).or_else(|problem| wrong(format!("render[{k}].template"), problem))?;
    }
    Ok(())
}

/// Whether a template can be read, and names nothing that there never is.
fn template(text: &str, values: &BTreeMap<String, SeedValue>) -> Result<(), Problem> {
    let at = |name: &str, what: String| Problem::Template(TemplateError::at_word(text, name, what));
    for name in template_names(text).map_err(Problem::Template)? {
        let (first, rest) = name.split_once('.').unwrap_or((&name, ""));
        if !TEMPLATE_NAMES.contains(&first) {
            return Err(at(&name, format!("there is no {first:?}; known are {}", TEMPLATE_NAMES.join(", "))));
        }
        let value = rest.split('.').next().unwrap_or_default();
        if first == "values" && !value.is_empty() && !values.contains_key(value) {
            return Err(at(&name, format!("there is no value {value:?}; declare it under `values` of this seed")));
        }
    }
    Ok(())
}

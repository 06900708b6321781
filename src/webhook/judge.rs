//! The judgment of the documents of one ConfigMap: what `check` and `test` say of the same files.

use std::collections::BTreeMap;

use mcp_authz_core::{
    document::{Format, quoted, suggestion},
    policy::POLICY_BYTES_MAX,
    selftest::{self, CaseFile, Loaded, Reading},
};

use super::review::{Documents, LABEL, Verdict};
use crate::snapshot::{
    FileKind,
    load::{Loader, is_case_file},
};

/// Judges all files. Takes as long as the compilation of policies and their test cases do.
pub(super) fn judge(documents: &Documents, has_responses: bool) -> Verdict {
    let Some(kind) = documents.kind else {
        let defect = format!("the label {LABEL} must be `policies` or `servers`");
        return Verdict { defects: vec![defect], warnings: Vec::new() };
    };
    let (mut served, mut cases, mut warnings) = (BTreeMap::new(), Vec::new(), Vec::new());
    for (name, bytes) in &documents.files {
        if name.starts_with('.') {
            warnings.push(format!("{name} is not served: its name starts with a dot"));
        } else if Format::of_name(name).is_none() {
            warnings.push(format!("{name} is not served: its name ends in neither .yaml, .yml nor .json"));
        } else if kind == FileKind::Policy && is_case_file(name) {
            cases.push(name);
        } else {
            served.insert(name.clone(), bytes.clone());
        }
    }
    if served.is_empty() {
        warnings.push("it holds no document that is served".to_owned());
    }
    let mut loader = Loader::default();
    loader.given(kind, &served, has_responses);
    let (found, warned) = loader.into_findings();
    let mut defects: Vec<String> = found.iter().map(ToString::to_string).collect();
    warnings.extend(warned.iter().map(ToString::to_string));
    // A policy with defects makes its cases fail as well; the defects say why.
    if defects.is_empty() {
        defects = cases.into_iter().flat_map(|name| test(name, documents)).collect();
    }
    Verdict { defects, warnings }
}

/// Runs one case file against the policies beside it.
fn test(name: &str, documents: &Documents) -> Vec<String> {
    let bytes = documents.files.get(name).map(Vec::as_slice).unwrap_or_default();
    let cases = CaseFile { file: name, bytes, format: Format::of_name(name).unwrap_or(Format::Yaml) };
    let mut load = |file: &str| {
        let wanted = file.strip_prefix("./").unwrap_or(file);
        let Some(bytes) = documents.files.get(wanted) else {
            let names = documents.files.keys().map(String::as_str);
            let hint = suggestion(wanted, names).map_or_else(String::new, |close| format!("; did you mean `{close}`?"));
            return Err(format!("{} is not in this ConfigMap{hint}", quoted(file)));
        };
        let format = Format::of_name(wanted).ok_or("expected a file named *.json, *.yaml or *.yml")?;
        if bytes.len() > POLICY_BYTES_MAX {
            return Err(format!("{} is too large", quoted(file)));
        }
        Ok(Loaded { file: wanted.to_owned(), bytes: bytes.clone(), format })
    };
    match selftest::run(&cases, Reading::AsWritten, &mut load) {
        Ok(results) => results.failures.iter().map(|failure| format!("{name}: FAIL {failure}")).collect(),
        Err(defects) => defects.iter().map(ToString::to_string).collect(),
    }
}

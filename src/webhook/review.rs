//! `AdmissionReview` of `admission.k8s.io/v1`: what is asked, and how it is answered.
//!
//! Read strictly: two members of one name, which two readers could take for different things, make a review malformed.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mcp_authz_core::json::{Document, Kind, Limits, Value};
use serde_json::json;

use super::REVIEW_BYTES_MAX;
use crate::snapshot::FileKind;

/// The label of ConfigMaps that are judged.
pub(super) const LABEL: &str = "mcp-authz.io/documents";
/// Bytes of the text that a refused person sees.
const MESSAGE_BYTES_MAX: usize = 8_192;
/// Warnings, and bytes of each: the API server cuts what is longer.
const WARNINGS_MAX: usize = 16;
const WARNING_BYTES_MAX: usize = 250;
const DEPTH_MAX: usize = 100;
const NODES_MAX: usize = 500_000;

/// What a ConfigMap holds: what its label says, and files as a pod would see them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Documents {
    /// `None` for a label that nobody knows.
    pub(super) kind: Option<FileKind>,
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) uid: String,
    /// `None` for what does not concern us.
    pub(super) documents: Option<Documents>,
    pub(super) warnings: Vec<String>,
}

impl Question {
    /// # Errors
    /// Why it is no review, for whoever sent it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let limits = Limits { bytes_max: REVIEW_BYTES_MAX, depth_max: DEPTH_MAX, nodes_max: NODES_MAX };
        let document = Document::parse(bytes, limits).map_err(|error| format!("the review is no JSON: {error}"))?;
        let root = document.root();
        let is = |name: &str, value: &str| text(root, name).is_some_and(|found| found == value);
        if !is("apiVersion", "admission.k8s.io/v1") || !is("kind", "AdmissionReview") {
            return Err("the body must be an AdmissionReview of admission.k8s.io/v1".to_owned());
        }
        let request = root.get("request").filter(|request| request.kind() == Kind::Object);
        let request = request.ok_or("the review has no `request`")?;
        let uid = text(request, "uid").filter(|uid| !uid.is_empty()).ok_or("the request has no `uid`")?;
        let operation = text(request, "operation").ok_or("the request has no `operation`")?;
        let kind = request.get("kind").ok_or("the request has no `kind`")?;
        let is_config_map = text(kind, "group").unwrap_or_default().is_empty()
            && text(kind, "kind").is_some_and(|kind| kind == "ConfigMap");
        let ignored = Self { uid, documents: None, warnings: Vec::new() };
        if !is_config_map || !matches!(&*operation, "CREATE" | "UPDATE") {
            return Ok(ignored);
        }
        let object = request.get("object").filter(|object| object.kind() == Kind::Object);
        let object = object.ok_or("the request has no `object`")?;
        let Some(label) = label(object) else {
            let was_ours = request.get("oldObject").and_then(label).is_some();
            let warning = format!("without the label {LABEL} nobody checks these documents before they are stored");
            return Ok(Self { warnings: was_ours.then_some(warning).into_iter().collect(), ..ignored });
        };
        let kind = match &*label {
            "policies" => Some(FileKind::Policy),
            "servers" => Some(FileKind::Servers),
            _ => None,
        };
        Ok(Self { documents: Some(Documents { kind, files: files(object)? }), ..ignored })
    }
}

fn text(value: Value<'_>, name: &str) -> Option<String> {
    value.get(name)?.as_str().map(std::borrow::Cow::into_owned)
}

fn label(object: Value<'_>) -> Option<String> {
    text(object.get("metadata")?.get("labels")?, LABEL)
}

/// `data` as it stands, and `binaryData` decoded: both become files in a pod.
fn files(object: Value<'_>) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let mut files = BTreeMap::new();
    for part in ["data", "binaryData"] {
        let Some(map) = object.get(part).filter(|map| map.kind() != Kind::Null) else { continue };
        if map.kind() != Kind::Object {
            return Err(format!("`object.{part}` is no map"));
        }
        for (name, value) in map.members() {
            let text = value.as_str().ok_or_else(|| format!("a value of `object.{part}` is no text"))?;
            let bytes = if part == "data" {
                text.into_owned().into_bytes()
            } else {
                STANDARD.decode(text.as_bytes()).map_err(|_| "a value of `object.binaryData` is not base64")?
            };
            if files.insert(name.into_owned(), bytes).is_some() {
                return Err("a name is in `object.data` and in `object.binaryData`".to_owned());
            }
        }
    }
    Ok(files)
}

/// What is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Why it is refused; empty for what is allowed.
    pub(super) defects: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Verdict {
    pub(super) fn allow(warnings: Vec<String>) -> Self {
        Self { defects: Vec::new(), warnings }
    }

    /// Not being able to decide is a denial.
    pub(super) fn undecided(why: &str) -> Self {
        Self { defects: vec![format!("the documents could not be judged: {why}")], warnings: Vec::new() }
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.defects.is_empty()
    }

    /// The whole review with the answer.
    pub(super) fn answer(&self, uid: &str) -> String {
        let mut response = json!({ "uid": uid, "allowed": self.is_allowed() });
        if let Some(response) = response.as_object_mut() {
            if !self.is_allowed() {
                let status = json!({ "code": 422, "reason": "Invalid", "message": message(&self.defects) });
                response.insert("status".to_owned(), status);
            }
            let warnings: Vec<String> =
                self.warnings.iter().take(WARNINGS_MAX).map(|text| cut(text, WARNING_BYTES_MAX)).collect();
            if !warnings.is_empty() {
                response.insert("warnings".to_owned(), warnings.into());
            }
        }
        json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response }).to_string()
    }
}

/// Every defect on a line of its own, as far as there is room, and how many more there are.
fn message(defects: &[String]) -> String {
    let count = defects.len();
    let mut out = if count == 1 { "1 defect:".to_owned() } else { format!("{count} defects:") };
    for (index, defect) in defects.iter().enumerate() {
        let left = count.saturating_sub(index);
        if out.len().saturating_add(defect.len()) > MESSAGE_BYTES_MAX && index > 0 {
            out.push_str(&format!("\n… and {left} more: run `mcp-authz check` and `mcp-authz test` on the files"));
            break;
        }
        out.push('\n');
        out.push_str(&cut(defect, MESSAGE_BYTES_MAX));
    }
    out
}

/// As much of a text as so many bytes hold.
fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..bytes_max.saturating_sub(2)).rev().find(|end| text.is_char_boundary(*end));
    format!("{}…", text.get(..end.unwrap_or(0)).unwrap_or_default())
}

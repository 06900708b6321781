//! Stands in for the policy module until that is merged.
use std::sync::Arc;

use mcp_authz_core::{
    decision::PolicyDigest,
    document::{Defect, Format, Report},
};

#[derive(Debug)]
pub struct Source<'a> {
    pub id: &'a str,
    pub file: &'a str,
    pub bytes: &'a [u8],
    pub format: Format,
}

#[derive(Debug)]
pub struct Compiled {
    pub policy: Policy,
    pub warnings: Vec<Defect>,
}

#[derive(Debug)]
pub struct Policy {
    id: Arc<str>,
    digest: PolicyDigest,
}

impl Policy {
    pub fn compile(source: &Source<'_>) -> Result<Compiled, Vec<Defect>> {
        let report = Report::read(source.file, source.bytes, source.format);
        if let Some(fields) = report.root().and_then(|root| root.fields(&["version", "default", "tools"])) {
            let _version = fields.required("version");
        }
        let (defects, warnings) = report.finish();
        if !defects.is_empty() {
            return Err(defects);
        }
        let policy = Policy { id: source.id.into(), digest: PolicyDigest::of(source.bytes) };
        Ok(Compiled { policy, warnings })
    }
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }
    pub fn digest(&self) -> PolicyDigest {
        self.digest.clone()
    }
}

//! The sink over real files and pipes.

use std::{fs, os::unix::fs::PermissionsExt as _};

use prometheus_client::{encoding::text, registry::Registry};

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn metrics() -> (Registry, Metrics) {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry, 0);
    (registry, metrics)
}

/// Counts of records dropped, failed and written.
fn counts(registry: &Registry) -> [u64; 3] {
    let mut out = String::new();
    text::encode(&mut out, registry).unwrap();
    ["dropped", "failed", "written"].map(|outcome| {
        let name = format!("mcp_authz_audit_records_total{{outcome=\"{outcome}\"}} ");
        out.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    })
}

#[test]
fn a_file_is_private_appended_to_and_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (registry, metrics) = metrics();
    let sink = Sink::File(path.clone());
    let open = || AuditSink::open(&sink, WhenUnavailable::Deny, 4096, metrics.clone()).unwrap();
    let audit = open();
    audit.append(br#"{"n":1}"#).unwrap();
    audit.close(LONG).unwrap();
    assert!(matches!(audit.append(b"{}"), Err(AuditError::NotWritable)));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let audit = open();
    audit.append(br#"{"n":2}"#).unwrap();
    while counts(&registry)[2] < 2 {
        std::thread::yield_now();
    }
    let old = folder.path().join("audit.1.jsonl");
    fs::rename(&path, &old).unwrap();
    audit.reopen();
    audit.append(br#"{"n":3}"#).unwrap();
    audit.close(LONG).unwrap();
    assert_eq!(fs::read_to_string(&old).unwrap(), "{\"n\":1}\n{\"n\":2}\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"n\":3}\n");
    assert_eq!(counts(&registry), [1, 0, 3]);
}

#[test]
fn a_full_buffer_drops_or_denies() {
    let (registry, metrics) = metrics();
    let record = [b'x'; 100];
    for (when, denied) in [(WhenUnavailable::Count, false), (WhenUnavailable::Deny, true)] {
        let folder = tempfile::tempdir().unwrap();
        let sink = Sink::File(folder.path().join("audit"));
        let audit = AuditSink::open(&sink, when, 100, metrics.clone()).unwrap();
        let answer = audit.append(&record);
        assert_eq!(matches!(answer, Err(AuditError::Full)), denied);
        audit.append(&record[..99]).unwrap();
        audit.close(LONG).unwrap();
    }
    assert_eq!(counts(&registry), [2, 0, 2]);
}

#[test]
fn a_full_disk_denies_under_fail_closed_and_is_reported_at_the_end() {
    let (registry, metrics) = metrics();
    // Every write to it fails with ENOSPC.
    let sink = Sink::File("/dev/full".into());
    let audit = AuditSink::open(&sink, WhenUnavailable::Deny, 4096, metrics).unwrap();
    audit.append(b"{}").unwrap();
    while counts(&registry)[1] == 0 {
        std::thread::yield_now();
    }
    while audit.append(b"{}").is_ok() {
        std::thread::yield_now();
    }
    assert!(matches!(audit.append(b"{}"), Err(AuditError::NotWritable)));
    assert!(matches!(audit.close(LONG), Err(AuditError::Unwritten { .. })));
    let [dropped, failed, written] = counts(&registry);
    assert!(dropped >= 3 && failed >= 2 && written == 0);
}

#[test]
fn a_record_of_two_lines_is_refused() {
    let (registry, metrics) = metrics();
    let folder = tempfile::tempdir().unwrap();
    let sink = Sink::File(folder.path().join("audit"));
    let audit = AuditSink::open(&sink, WhenUnavailable::Deny, 4096, metrics).unwrap();
    assert!(matches!(audit.append(b"{}\n{\"forged\":true}"), Err(AuditError::NotOneLine)));
    audit.close(LONG).unwrap();
    assert_eq!(counts(&registry), [1, 0, 0]);
}

#[test]
fn no_sink_takes_everything_and_a_bad_path_is_an_error() {
    let (_, metrics) = metrics();
    let audit = AuditSink::open(&Sink::None, WhenUnavailable::Deny, 0, metrics.clone()).unwrap();
    audit.append(b"{}").unwrap();
    audit.reopen();
    audit.close(LONG).unwrap();
    let missing = Sink::File("/nonexistent/audit".into());
    assert!(matches!(AuditSink::open(&missing, WhenUnavailable::Count, 1, metrics), Err(AuditError::Open { .. })));
}

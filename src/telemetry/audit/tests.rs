//! The sink over real files and pipes.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{Mutex, mpsc},
};

use mcp_authz_core::audit::{
    ArgsMode, Record,
    line::place,
    verify::{Checker, Finding, Options, Summary, Verifier},
};
use prometheus_client::{encoding::text, registry::Registry};

use super::{
    key::{PublicKey, SigningKey},
    *,
};
use crate::{clock::ManualClock, telemetry::lines::Stage as _};

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

/// A draft of about that many bytes.
pub(crate) fn draft(tool: &str) -> Vec<u8> {
    let mut out = String::new();
    Record {
        time_ms: 1_000_000,
        reason: None,
        rule: "",
        rule_exact: None,
        policy: None,
        policy_digest: None,
        server: None,
        principal: Some("p"),
        grant: None,
        method: "tools/call",
        tool: Some(tool),
        arguments: None,
        args: ArgsMode::Keys,
        args_key: None,
        request_id: None,
        stream_id: None,
        trace: None,
        is_unmetered: false,
        latency_us: 1,
    }
    .write(&mut out);
    out.into_bytes()
}

pub(crate) fn settings(when_unavailable: WhenUnavailable) -> Settings {
    Settings {
        when_unavailable,
        buffer_bytes_max: 1 << 20,
        rotation: Rotation::default(),
        checkpoints: Checkpoints::default(),
        signer: None,
        clock: Arc::new(ManualClock::new(1_000_000)),
        remote: None,
    }
}

/// What verification says of files in that order.
pub(crate) fn verified(files: &[&str], keys: Vec<&dyn Checker>) -> (Vec<Finding>, Summary) {
    let mut found = Vec::new();
    let mut verifier = Verifier::new(keys, Options::default());
    for text in files {
        for line in text.split('\n') {
            verifier.line(line.as_bytes(), &mut |finding| found.push(finding));
        }
    }
    let summary = verifier.finish(&mut |finding| found.push(finding));
    (found, summary)
}

/// The tools that are named, in order; the events of records about the chain.
fn told(text: &str) -> Vec<String> {
    let one = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        record["tool_name"].as_str().or(record["event_type"].as_str()).unwrap().to_owned()
    };
    text.lines().map(one).collect()
}

fn until(what: impl Fn() -> bool) {
    while !what() {
        std::thread::yield_now();
    }
}

#[test]
fn a_file_is_private_appended_to_and_rotated_by_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (registry, metrics) = metrics();
    let sink = Sink::File(path.clone());
    let open = || AuditSink::open(&sink, WhenUnavailable::Deny, 4096, metrics.clone()).unwrap();
    let audit = open();
    audit.append(&draft("one")).unwrap();
    audit.close(LONG).unwrap();
    assert!(matches!(audit.append(&draft("late")), Err(AuditError::NotWritable)));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(audit);
    let audit = open();
    audit.append(&draft("two")).unwrap();
    until(|| counts(&registry)[2] == 5);
    audit.reopen();
    let old = folder.path().join("audit.1.jsonl");
    fs::rename(&path, &old).unwrap();
    audit.reopen();
    audit.append(&draft("three")).unwrap();
    audit.close(LONG).unwrap();
    let files = [old, path].map(|path| fs::read_to_string(path).unwrap());
    assert_eq!(told(&files[0]), ["chain_start", "one", "chain_end", "chain_start", "two"]);
    assert_eq!(told(&files[1]), ["three", "chain_end"]);
    assert_eq!(counts(&registry), [1, 0, 7]);
    let (found, summary) = verified(&[&files[0], &files[1]], Vec::new());
    assert_eq!((found, summary.records, summary.chains, summary.open), (vec![], 7, 2, 0));
}

#[test]
fn a_full_buffer_drops_or_denies_and_the_chain_tells() {
    let (registry, metrics) = metrics();
    for (when, denied) in [(WhenUnavailable::Count, false), (WhenUnavailable::Deny, true)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let (long, short) = (draft(&"x".repeat(100)), draft("short"));
        // Room for this one and its line feed, once the start is written.
        let room = short.len() + 1;
        let audit = AuditSink::open(&Sink::File(path.clone()), when, room, metrics.clone()).unwrap();
        until(|| fs::read_to_string(&path).unwrap().ends_with('\n'));
        let answer = audit.append(&long);
        assert_eq!(matches!(answer, Err(AuditError::Full)), denied);
        until(|| told(&fs::read_to_string(&path).unwrap()) == ["chain_start", "gap"]);
        until(|| audit.append(&short).is_ok() && { true });
        audit.close(LONG).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let (found, summary) = verified(&[&text], Vec::new());
        assert_eq!((found, summary.lost > 0, summary.open), (vec![], true, 0), "{text}");
    }
    assert!(counts(&registry)[0] >= 2);
}

#[test]
fn a_full_disk_denies_under_fail_closed_and_is_reported_at_the_end() {
    let (registry, metrics) = metrics();
    // Every write to it fails with ENOSPC.
    let sink = Sink::File("/dev/full".into());
    let audit = AuditSink::open(&sink, WhenUnavailable::Deny, 4096, metrics).unwrap();
    until(|| counts(&registry)[1] > 0);
    until(|| audit.append(&draft("t")).is_err());
    assert!(matches!(audit.append(&draft("t")), Err(AuditError::NotWritable)));
    assert!(matches!(audit.close(LONG), Err(AuditError::Unwritten { .. })));
    let [dropped, failed, written] = counts(&registry);
    assert!(dropped >= 3 && failed >= 2 && written == 0);
}

#[test]
fn a_record_that_is_no_draft_is_refused_or_told() {
    let (registry, metrics) = metrics();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let sink = Sink::File(path.clone());
    let audit = AuditSink::open(&sink, WhenUnavailable::Deny, 1 << 20, metrics).unwrap();
    assert!(matches!(audit.append(b"{}\n{\"forged\":true}"), Err(AuditError::NotOneLine)));
    assert!(matches!(audit.append(&vec![b'x'; LINE_BYTES_MAX + 1]), Err(AuditError::NotOneLine)));
    audit.append(b"{\"forged\":true}").unwrap();
    audit.close(LONG).unwrap();
    assert_eq!(counts(&registry)[0], 2);
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains("forged"));
    assert_eq!(verified(&[&text], Vec::new()).1.lost, 3);
}

#[test]
fn no_sink_takes_everything_and_a_bad_path_is_an_error() {
    let (_, metrics) = metrics();
    let audit = AuditSink::open(&Sink::None, WhenUnavailable::Deny, 0, metrics.clone()).unwrap();
    audit.append(b"{}").unwrap();
    audit.reopen();
    audit.close(LONG).unwrap();
    for sink in [Sink::File("/nonexistent/audit".into()), Sink::Otlp, Sink::Redis] {
        let opened = AuditSink::open(&sink, WhenUnavailable::Count, 1, metrics.clone());
        assert!(matches!(opened, Err(AuditError::Open { .. })));
    }
}

#[test]
fn a_file_has_one_writer() {
    let (_, metrics) = metrics();
    let folder = tempfile::tempdir().unwrap();
    let sink = Sink::File(folder.path().join("audit"));
    let open = || AuditSink::open(&sink, WhenUnavailable::Count, 4096, metrics.clone());
    let first = open().unwrap();
    let Err(AuditError::Open { source, .. }) = open() else { panic!("two writers") };
    assert!(source.to_string().contains("another process writes to it"), "{source}");
    first.close(LONG).unwrap();
    open().unwrap().close(LONG).unwrap();
}

#[test]
fn files_end_at_a_line_and_so_many_are_kept() {
    let (_, metrics) = metrics();
    for (files_max, kept) in [(0, 5), (2, 2)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        fs::write(folder.path().join("audit.jsonl.old"), "not ours").unwrap();
        let rotation = Rotation { bytes_max: 1_500, files_max };
        for run in 0..2 {
            let audit = AuditSink::open_with(
                &Sink::File(path.clone()),
                Settings { rotation, ..settings(WhenUnavailable::Deny) },
                metrics.clone(),
            );
            let audit = audit.unwrap();
            for n in 0..4 {
                audit.append(&draft(&format!("{run}-{n}-{}", "x".repeat(100)))).unwrap();
            }
            audit.close(LONG).unwrap();
        }
        let files = rotated(&path).unwrap();
        assert_eq!(files.len(), kept, "{files:?}");
        let texts: Vec<String> =
            files.iter().map(|(_, path)| path).chain([&path]).map(|path| fs::read_to_string(path).unwrap()).collect();
        assert!(texts.iter().all(|text| text.len() <= 1_500 && text.ends_with('\n')), "{texts:?}");
        let (found, summary) = verified(&texts.iter().map(String::as_str).collect::<Vec<_>>(), Vec::new());
        assert_eq!((found, summary.headless), (vec![], u64::from(files_max > 0)));
        if files_max == 0 {
            assert_eq!((summary.records, summary.chains), (12, 2));
        }
        assert!(folder.path().join("audit.jsonl.old").exists());
    }
}

#[test]
fn a_chain_follows_what_stands_in_the_file_also_after_a_line_that_broke_off() {
    let (_, metrics) = metrics();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let write = |tool: &str| {
        let audit =
            AuditSink::open(&Sink::File(path.clone()), WhenUnavailable::Deny, 1 << 20, metrics.clone()).unwrap();
        audit.append(&draft(tool)).unwrap();
        audit.close(LONG).unwrap();
    };
    write("one");
    let text = fs::read_to_string(&path).unwrap();
    // As a power failure leaves it.
    fs::write(&path, text.get(..text.len() - 100).unwrap()).unwrap();
    write("two");
    let text = fs::read_to_string(&path).unwrap();
    let (found, summary) = verified(&[&text], Vec::new());
    assert_eq!((found, summary.torn, summary.chains), (vec![], 1, 2));
    // The newest of the files that have ended, where there is no other.
    fs::rename(&path, folder.path().join("audit.000007")).unwrap();
    write("three");
    let more = fs::read_to_string(&path).unwrap();
    let (found, summary) = verified(&[&text, &more], Vec::new());
    assert_eq!((found, summary.chains), (vec![], 3));
    assert_eq!(
        place(more.lines().next().unwrap().as_bytes()).unwrap().previous,
        place(text.lines().last().unwrap().as_bytes()).map(|place| place.hash)
    );
}

/// A sink that asks the test about each batch.
struct Asking {
    batches: mpsc::Sender<Vec<u8>>,
    answers: mpsc::Receiver<bool>,
}

impl BatchSink for Asking {
    fn deliver(&mut self, lines: &[u8]) -> io::Result<()> {
        // The test may have gone.
        let _sent = self.batches.send(lines.to_vec()).is_ok();
        if self.answers.recv().unwrap_or(true) { Ok(()) } else { Err(io::Error::other("no")) }
    }
}

#[test]
fn a_batch_that_fails_comes_again_as_it_was() {
    let (registry, metrics) = metrics();
    let (batches, seen) = mpsc::channel();
    let (says, answers) = mpsc::channel();
    let remote: Option<Box<dyn BatchSink>> = Some(Box::new(Asking { batches, answers }));
    let settings = Settings { remote, ..settings(WhenUnavailable::Count) };
    let audit = AuditSink::open_with(&Sink::Otlp, settings, metrics).unwrap();
    let start = seen.recv().unwrap();
    for tool in ["one", "two"] {
        audit.append(&draft(tool)).unwrap();
    }
    says.send(false).unwrap();
    assert_eq!(seen.recv().unwrap(), start, "the same bytes");
    says.send(true).unwrap();
    let first = seen.recv().unwrap();
    audit.append(&draft("three")).unwrap();
    says.send(false).unwrap();
    let again = seen.recv().unwrap();
    assert_eq!(again, first, "nothing gets another number");
    says.send(true).unwrap();
    drop(says);
    audit.close(LONG).unwrap();
    let rest: Vec<u8> = seen.iter().flatten().collect();
    let text = String::from_utf8([start, again, rest].concat()).unwrap();
    assert_eq!(told(&text), ["chain_start", "one", "two", "three", "chain_end"]);
    assert_eq!(verified(&[&text], Vec::new()).0, []);
    assert_eq!(counts(&registry), [0, 2, 5]);
}

#[test]
fn batches_are_whole_lines_of_a_bounded_size() {
    let (_, metrics) = metrics();
    let all: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    struct Keeping(Arc<Mutex<Vec<Vec<u8>>>>);
    impl BatchSink for Keeping {
        fn deliver(&mut self, lines: &[u8]) -> io::Result<()> {
            self.0.lock().unwrap().push(lines.to_vec());
            Ok(())
        }
    }
    let remote: Option<Box<dyn BatchSink>> = Some(Box::new(Keeping(Arc::clone(&all))));
    let settings = Settings { remote, buffer_bytes_max: 1 << 24, ..settings(WhenUnavailable::Deny) };
    let audit = AuditSink::open_with(&Sink::Redis, settings, metrics).unwrap();
    for _ in 0..2_000 {
        audit.append(&draft(&"x".repeat(128))).unwrap();
    }
    audit.close(LONG).unwrap();
    let all = all.lock().unwrap();
    assert!(all.iter().all(|batch| batch.len() <= BATCH_BYTES_MAX && batch.ends_with(b"\n")));
    let text = String::from_utf8(all.concat()).unwrap();
    assert_eq!((verified(&[&text], Vec::new()).0, text.lines().count()), (vec![], 2_002));
}

#[test]
fn a_key_signs_what_its_public_half_checks() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (made, pem) = SigningKey::generate().unwrap();
    fs::write(path("key"), pem.as_bytes()).unwrap();
    fs::write(path("pub"), made.public_pem()).unwrap();
    let (key, public) = (SigningKey::load(&path("key")).unwrap(), PublicKey::load(&path("pub")).unwrap());
    assert!(key.key_id() == public.key_id() && key.key_id() == made.key_id() && key.key_id().len() == 16);
    let signature = key.sign(b"text");
    assert!(public.is_of(b"text", &signature) && !public.is_of(b"test", &signature) && !public.is_of(b"text", "AAAA"));
    assert!(!format!("{key:?}{made:?}").contains(pem.lines().nth(1).unwrap()));
    for (name, text) in [("none", ""), ("text", "hello"), ("swapped", &made.public_pem())] {
        fs::write(path(name), text).unwrap();
        let error = SigningKey::load(&path(name)).unwrap_err().to_string();
        assert!(error.contains("mcp-authz audit keygen"), "{error}");
    }
    assert!(
        PublicKey::load(&path("key")).is_err() && matches!(SigningKey::load(&path("gone")), Err(KeyError::File { .. }))
    );
}

use super::key::KeyError;

#[test]
fn checkpoints_come_after_so_many_records_and_so_long() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pub");
    let (key, _) = SigningKey::generate().unwrap();
    fs::write(&path, key.public_pem()).unwrap();
    let public = PublicKey::load(&path).unwrap();
    let clock = Arc::new(ManualClock::new(1_000_000));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    let advance = |time| runtime.block_on(tokio::time::advance(time));
    let checkpoints = Checkpoints { records: 3, every: Duration::from_secs(60) };
    let mut sealing = Sealing::new(Chain::new([1; 16], None, Some(Box::new(key))), checkpoints, clock);
    let mut out = Vec::new();
    let pass = |sealing: &mut Sealing, out: &mut Vec<u8>, drafts: &[&str], lost: u64| {
        let mut taken: Vec<u8> = drafts.iter().flat_map(|tool| [draft(tool), vec![b'\n']].concat()).collect();
        sealing.pass(&mut taken, lost, out);
    };
    sealing.begin(&mut out);
    assert_eq!(sealing.patience(), None, "nothing has happened since the start");
    pass(&mut sealing, &mut out, &["1", "2"], 0);
    assert_eq!(sealing.patience(), Some(Duration::from_secs(60)));
    pass(&mut sealing, &mut out, &["3", "4"], 0);
    advance(Duration::from_secs(59));
    pass(&mut sealing, &mut out, &[], 0);
    assert_eq!(sealing.patience(), Some(Duration::from_secs(1)));
    advance(Duration::from_secs(1));
    pass(&mut sealing, &mut out, &[], 0);
    pass(&mut sealing, &mut out, &[], 7);
    sealing.end(&mut out);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(
        told(&text),
        ["chain_start", "1", "2", "3", "checkpoint", "4", "checkpoint", "gap", "chain_end"],
        "{text}"
    );
    let (found, summary) = verified(&[&text], vec![&public]);
    assert_eq!((found, summary.signatures, summary.unsigned, summary.lost), (vec![], 4, 0, 7));
    let (other, _) = SigningKey::generate().unwrap();
    fs::write(&path, other.public_pem()).unwrap();
    let (found, _) = verified(&[&text], vec![&PublicKey::load(&path).unwrap()]);
    assert!(found.len() == 4 && found.iter().all(|one| matches!(one, Finding::Signature(_))));
}

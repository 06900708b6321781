//! The journal: what was answered is still there after any end, and nothing is believed that is not whole.
#![expect(clippy::arithmetic_side_effects, reason = "sums over small tables; an overflow would only fail a test")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use mcp_authz_core::{
    ledger::{Attempt, Code, CounterId, Finish, Line, Span, Speaker},
    quota::Mode,
};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};

use super::*;
use crate::{clock::ManualClock, quota::ReservationId};

const T0: u64 = 1_800_057_600_000;
const HOLD: Duration = Duration::from_secs(120);
const DAY_MS: u64 = 86_400_000;
/// Bytes of a log before its first entry.
const HEADER: usize = 32;
const BOUNDS: Bounds = Bounds { counters_max: 10_000, reservations_max: 10_000 };

fn settings(folder: &Path) -> Settings {
    Settings { bounds: BOUNDS, folder: Some(folder.to_owned()), log_bytes_max: LOG_BYTES_MAX }
}

fn open_at(folder: &Path, now_ms: u64) -> Result<EmbeddedLedger, JournalError> {
    EmbeddedLedger::open(&settings(folder), Arc::new(ManualClock::new(now_ms)), Arc::new(|_| ()))
}

fn open(folder: &Path) -> EmbeddedLedger {
    open_at(folder, T0).unwrap()
}

fn line(counter: u128, span: Span, amount: u64, max: u64, release: bool) -> Line {
    let label = Arc::from("test:hour-utc");
    Line { counter: CounterId(counter), label, span, mode: Mode::Consume, amount, max, strict: true, release }
}

fn hour(counter: u128, amount: u64, max: u64) -> Line {
    let span = Span::Calendar { start_ms: T0, end_ms: T0 + 3_600_000, next_end_ms: T0 + 7_200_000 };
    line(counter, span, amount, max, false)
}

fn booking(id: &str, lines: Vec<Line>) -> Booking {
    let id = ReservationId::from_envoy(id).unwrap();
    Booking { id, attempt: Attempt(1), digest: 1, lines: lines.into() }
}

fn take(ledger: &EmbeddedLedger, id: &str, line: Line) -> Code {
    ledger.reserve_now(&booking(id, vec![line]), HOLD).unwrap().code
}

fn image(ledger: &EmbeddedLedger) -> Vec<u8> {
    ledger.shared.lock().machine.image()
}

fn log(folder: &Path) -> PathBuf {
    let logs = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<PathBuf> = logs.filter(|path| path.to_string_lossy().contains("log-")).collect();
    logs.sort();
    logs.pop().unwrap()
}

/// Something that may change a ledger.
#[derive(Clone, Debug)]
enum Step {
    Reserve(u8, Vec<(u8, u64)>, u64),
    RollBack(u8, bool),
    Settle(u8, u64),
    Renew(u8),
    Reset(u8),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lines = prop::collection::btree_map(0..8_u8, 0..4_u64, 1..4).prop_map(|lines| lines.into_iter().collect());
    let step = prop_oneof![
        8 => (0..30_u8, lines, 0..3_u64).prop_map(|(id, lines, attempt)| Step::Reserve(id, lines, attempt)),
        3 => (0..30_u8, any::<bool>()).prop_map(|(id, stream)| Step::RollBack(id, stream)),
        2 => (0..30_u8, 0..6_u64).prop_map(|(id, actual)| Step::Settle(id, actual)),
        1 => (0..30_u8).prop_map(Step::Renew),
        1 => (0..8_u8).prop_map(Step::Reset),
        3 => prop_oneof![Just(1), Just(900), Just(30_000), Just(700_000), Just(4_000_000)].prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..40)
}

/// One counter of each kind, two of them with units that come back.
fn some_line(kind: u8, amount: u64, now_ms: u64) -> Line {
    let start_ms = now_ms / 3_600_000 * 3_600_000;
    let calendar = Span::Calendar { start_ms, end_ms: start_ms + 3_600_000, next_end_ms: start_ms + 7_200_000 };
    let fingerprint = mcp_authz_core::quota::Fingerprint([u8::try_from(amount).unwrap(); 16]);
    let (span, release) = match kind {
        0 => (calendar, false),
        1 => (calendar, true),
        2 => (Span::Rolling { bucket_ms: 60_000, buckets: 10 }, false),
        3 => (Span::TokenBucket { interval_us: 7_000_000, burst_us: 63_000_000 }, false),
        4 => (Span::InFlight { lease_ms: 45_000 }, false),
        5 => (Span::Streak { fingerprint, idle_ms: 50_000 }, false),
        6 => (Span::Lifetime { idle_ms: 0 }, false),
        _ => (Span::Lifetime { idle_ms: 60_000 }, true),
    };
    let amount = if kind == 4 { 1 } else { amount };
    line(kind.into(), span, amount, 9, release)
}

/// Runs the steps and tells the state after each that changed something.
fn run(ledger: &EmbeddedLedger, clock: &ManualClock, steps: &[Step]) -> Vec<Vec<u8>> {
    let mut known = std::collections::BTreeMap::<u8, Booking>::new();
    let mut states = vec![image(ledger)];
    let mut written = ledger.shared.lock().log.as_ref().map_or(0, Log::len);
    for step in steps {
        match step {
            Step::Wait(ms) => clock.advance_ms(*ms),
            Step::Reserve(id, lines, attempt) => {
                let new = lines.iter().map(|(kind, amount)| some_line(*kind, *amount, clock.now_ms())).collect();
                let mut one = known.get(id).cloned().unwrap_or_else(|| booking(&format!("id{id}"), new));
                one.attempt = Attempt(*attempt);
                ledger.reserve_now(&one, HOLD).unwrap();
                known.insert(*id, one);
            }
            Step::RollBack(id, stream) => {
                let Some(one) = known.get(id) else { continue };
                let speaker = if *stream { Speaker::Stream } else { Speaker::Attempt(one.attempt) };
                ledger.finish_now(one, &Finish::RollBack(speaker)).unwrap();
            }
            Step::Settle(id, actual) => {
                let Some(one) = known.get(id) else { continue };
                let actual = vec![*actual; one.lines.len()].into();
                ledger.finish_now(one, &Finish::Settle(actual)).unwrap();
            }
            Step::Renew(id) => {
                let Some(one) = known.get(id) else { continue };
                futures_now(ledger.renew(one, HOLD)).unwrap();
            }
            Step::Reset(kind) => futures_now(ledger.reset(&[some_line(*kind, 1, clock.now_ms())])).unwrap(),
        }
        let len = ledger.shared.lock().log.as_ref().map_or(0, Log::len);
        if len != written {
            states.push(image(ledger));
            written = len;
        }
    }
    states
}

/// The embedded ledger never waits.
fn futures_now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(answer) => answer,
        std::task::Poll::Pending => panic!("the embedded ledger waited"),
    }
}

/// The machine of a journal, without a ledger around it.
fn replayed(folder: &Path) -> Result<Vec<u8>, JournalError> {
    Folder::lock(folder)?.recover().map(|found| found.machine.image())
}

fn runner(cases: u32) -> TestRunner {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// What was forgotten because its time had come is forgotten at different moments; what is alive is equal. Looking at it far
/// enough in the future compares the rest.
fn swept(image: &[u8], now_ms: u64) -> Vec<u8> {
    let mut machine = Machine::of_image(image, BOUNDS).unwrap();
    for _ in 0..10 {
        machine.peek(&[], now_ms * 1_000);
    }
    machine.image()
}

#[test]
fn a_log_cut_off_anywhere_gives_the_state_after_some_answer() {
    runner(12)
        .run(&steps(), |steps| {
            let folder = tempfile::tempdir().unwrap();
            let clock = Arc::new(ManualClock::new(T0));
            let ledger = EmbeddedLedger::open(&settings(folder.path()), clock.clone(), Arc::new(|_| ())).unwrap();
            let states = run(&ledger, &clock, &steps);
            let end_ms = clock.now_ms();
            drop(ledger);
            let path = log(folder.path());
            let whole = fs::read(&path).unwrap();
            let states: Vec<Vec<u8>> = states.iter().map(|state| swept(state, end_ms)).collect();
            let mut reached = 0;
            for len in 0..=whole.len() {
                // Through the file now and then; the rest of the work is the same.
                let state = if len % 97 == 0 || len < HEADER {
                    fs::write(&path, &whole[..len]).unwrap();
                    replayed(folder.path()).unwrap()
                } else {
                    let (mut machine, mut last_us) = (Machine::new(BOUNDS), 0);
                    let (_, tail) = journal::replay(&path, &whole[..len], 1, &mut machine, &mut last_us).unwrap();
                    prop_assert!(!matches!(tail, frame::Tail::Damaged { .. }), "cut at {}", len);
                    machine.image()
                };
                let state = swept(&state, end_ms);
                // One more whole entry, one more answer; never one less.
                let advanced = states.get(reached + 1).is_some_and(|next| *next == state);
                if advanced && states[reached] != state {
                    reached += 1;
                }
                // Answers that left no difference behind are passed over together with the next.
                while states.get(reached + 1).is_some_and(|next| *next == state) {
                    reached += 1;
                }
                prop_assert_eq!(&state, &states[reached], "cut at {} of {}", len, whole.len());
                if len == whole.len() {
                    prop_assert_eq!(reached, states.len() - 1);
                }
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn snapshots_in_between_change_nothing() {
    runner(40)
        .run(&steps(), |steps| {
            let folder = tempfile::tempdir().unwrap();
            let clock = Arc::new(ManualClock::new(T0));
            let (first, second) = steps.split_at(steps.len() / 2);
            let settings = settings(folder.path());
            let ledger = EmbeddedLedger::open(&settings, clock.clone(), Arc::new(|_| ())).unwrap();
            run(&ledger, &clock, first);
            let before = image(&ledger);
            drop(ledger);
            let owned = Folder::lock(folder.path()).unwrap();
            drop(owned.start_log(2).unwrap());
            owned.compact(1).unwrap();
            drop(owned);
            let ledger = EmbeddedLedger::open(&settings, clock.clone(), Arc::new(|_| ())).unwrap();
            prop_assert_eq!(swept(&image(&ledger), clock.now_ms()), swept(&before, clock.now_ms()));
            run(&ledger, &clock, second);
            let after = image(&ledger);
            drop(ledger);
            prop_assert_eq!(swept(&replayed(folder.path()).unwrap(), clock.now_ms()), swept(&after, clock.now_ms()));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_restart_hands_out_nothing_anew() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    assert_eq!(take(&ledger, "1", hour(1, 4, 5)), Code::Held);
    let keys = ledger.keys();
    drop(ledger);
    let ledger = open(folder.path());
    assert_eq!(ledger.keys().sign(b"x"), keys.sign(b"x"), "names of counters outlive the process");
    assert_eq!(take(&ledger, "2", hour(1, 2, 5)), Code::Limited { line: 0 });
    assert_eq!(take(&ledger, "1", hour(1, 4, 5)), Code::HeldBefore);
    let one = booking("1", vec![hour(1, 4, 5)]);
    ledger.finish_now(&one, &Finish::RollBack(Speaker::Stream)).unwrap();
    drop(ledger);
    assert_eq!(take(&open(folder.path()), "3", hour(1, 5, 5)), Code::Held);
}

#[test]
fn what_is_refused_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    take(&ledger, "1", hour(1, 5, 5));
    let len = fs::metadata(log(folder.path())).unwrap().len();
    for id in ["2", "3"] {
        assert_eq!(take(&ledger, id, hour(1, 1, 5)), Code::Limited { line: 0 });
    }
    futures_now(ledger.peek(&[hour(1, 1, 5)])).unwrap();
    assert_eq!(fs::metadata(log(folder.path())).unwrap().len(), len);
}

#[test]
fn a_folder_has_one_owner_and_nobody_else_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/quota");
    let ledger = open(&path);
    let refused = open_at(&path, T0).unwrap_err();
    assert!(matches!(refused, JournalError::InUse { .. }));
    assert!(refused.to_string().contains("each process needs a folder of its own"), "{refused}");
    take(&ledger, "1", hour(1, 1, 5));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
    drop(ledger);
    drop(open(&path));
}

#[test]
fn a_place_that_is_no_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for place in [file.clone(), file.join("inner")] {
        assert!(matches!(open_at(&place, T0), Err(JournalError::Io { .. })));
    }
}

#[test]
fn damage_in_the_middle_refuses_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    for id in 0..5 {
        take(&ledger, &id.to_string(), hour(1, 1, 5));
    }
    drop(ledger);
    let path = log(folder.path());
    let whole = fs::read(&path).unwrap();
    let entry = (whole.len() - 32) / 5;
    for at in 0..32 + 4 * entry {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let refused = replayed(folder.path()).expect_err("a flipped bit");
        assert!(matches!(refused, JournalError::Damaged { .. }), "byte {at}: {refused}");
        assert!(refused.to_string().contains("move it away to start from zero"), "{refused}");
    }
    // An entry that is gone, one that came twice, and one of another place.
    let [a, b, c] = [0, 1, 2].map(|index| whole[32 + index * entry..32 + (index + 1) * entry].to_vec());
    for entries in [[&a, &c], [&a, &a], [&b, &a]] {
        let bytes = [&whole[..32], entries[0], entries[1], &whole[32 + 3 * entry..]].concat();
        fs::write(&path, bytes).unwrap();
        assert!(matches!(replayed(folder.path()), Err(JournalError::Damaged { .. })));
    }
    fs::write(&path, &whole).unwrap();
    assert!(replayed(folder.path()).is_ok());
}

#[test]
fn missing_and_damaged_files_refuse_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    take(&ledger, "1", hour(1, 1, 5));
    drop(ledger);
    let owned = Folder::lock(folder.path()).unwrap();
    drop(owned.start_log(2).unwrap());
    owned.compact(1).unwrap();
    drop(owned);
    let ledger = open(folder.path());
    take(&ledger, "2", hour(1, 1, 5));
    drop(ledger);
    for name in ["secret", "snapshot", "log-2"] {
        let path = folder.path().join(name);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let refused = replayed(folder.path()).expect_err(name);
        assert!(matches!(refused, JournalError::Damaged { .. }), "without {name}: {refused}");
        // Not even the header of the log: more of it could be a write that broke off.
        fs::write(&path, &whole[..20]).unwrap();
        let cut = replayed(folder.path()).expect_err(name);
        assert!(matches!(cut, JournalError::Damaged { .. }), "20 bytes of {name}: {cut}");
        fs::write(&path, whole).unwrap();
    }
    assert!(replayed(folder.path()).is_ok());
}

#[test]
fn a_rotation_that_was_cut_off_is_picked_up() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    take(&ledger, "1", hour(1, 3, 5));
    drop(ledger);
    let path = folder.path().join("log-1");
    let whole = fs::read(&path).unwrap();
    // The next log is there, but the last write still went to this one, and was torn.
    let owned = Folder::lock(folder.path()).unwrap();
    drop(owned.start_log(2).unwrap());
    drop(owned);
    fs::write(&path, [&whole[..], b"torn"].concat()).unwrap();
    let ledger = open(folder.path());
    assert_eq!(take(&ledger, "2", hour(1, 3, 5)), Code::Limited { line: 0 });
    assert_eq!(take(&ledger, "3", hour(1, 1, 5)), Code::Held);
    drop(ledger);
    // The snapshot is made, but the logs are not removed yet.
    let old = fs::read(&path).unwrap();
    let owned = Folder::lock(folder.path()).unwrap();
    drop(owned.start_log(2).unwrap());
    owned.compact(1).unwrap();
    drop(owned);
    fs::write(&path, old).unwrap();
    let ledger = open(folder.path());
    assert_eq!(take(&ledger, "4", hour(1, 2, 5)), Code::Limited { line: 0 });
    assert!(!path.exists());
}

#[test]
fn a_log_above_its_bound_is_made_into_a_snapshot_while_calls_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { log_bytes_max: 4_096, ..settings(folder.path()) };
    let clock = Arc::new(ManualClock::new(T0));
    let ledger = EmbeddedLedger::open(&settings, clock.clone(), Arc::new(|_| ())).unwrap();
    // Just at the bound nothing happens; the bound is of the file, its header included.
    let mut calls = 0_u64;
    while fs::metadata(folder.path().join("log-1")).unwrap().len() < 3_900 {
        assert_eq!(take(&ledger, &format!("id{calls}"), hour(1, 1, 100_000)), Code::Held);
        calls += 1;
    }
    let snapshot = folder.path().join("snapshot");
    for _ in 0..20_000 {
        if snapshot.exists() && !folder.path().join("log-1").exists() {
            break;
        }
        assert_eq!(take(&ledger, &format!("id{calls}"), hour(1, 1, 100_000)), Code::Held);
        calls += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(snapshot.exists(), "no snapshot after {calls} calls");
    drop(ledger);
    let ledger = EmbeddedLedger::open(&settings, clock, Arc::new(|_| ())).unwrap();
    assert_eq!(futures_now(ledger.peek(&[hour(1, 1, 100_000)])).unwrap()[0].used, calls);
}

#[test]
fn time_does_not_go_back_behind_the_journal_and_does_not_stay_ahead() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(take(&open_at(folder.path(), T0 + 3_600_000).unwrap(), "1", hour(1, 5, 5)), Code::Held);
    let clock = Arc::new(ManualClock::new(T0));
    let ledger = EmbeddedLedger::open(&settings(folder.path()), clock.clone(), Arc::new(|_| ())).unwrap();
    assert_eq!(ledger.now_ms(), T0 + 3_600_000);
    // The hour that was used up is the one that the clock has yet to reach.
    assert_eq!(take(&ledger, "2", hour(1, 1, 5)), Code::Limited { line: 0 });
    clock.advance_ms(1_000);
    assert_eq!(ledger.now_ms(), T0 + 3_600_500);
    clock.advance_ms(8_000_000);
    assert_eq!(ledger.now_ms(), T0 + 8_001_000);
}

#[test]
fn a_clock_that_was_a_day_ahead_is_believed_and_one_beyond_locks_nobody_out() {
    let slot = line(2, Span::InFlight { lease_ms: 60_000 }, 1, 1, false);
    let bucket = line(3, Span::TokenBucket { interval_us: 1_000_000, burst_us: 5_000_000 }, 5, 5, false);
    for (ahead_ms, believed) in [(DAY_MS, true), (DAY_MS + 1, false), (400 * DAY_MS, false)] {
        let folder = tempfile::tempdir().unwrap();
        let far = open_at(folder.path(), T0 + ahead_ms).unwrap();
        let now = far.now_ms() / 3_600_000 * 3_600_000;
        let span = Span::Calendar { start_ms: now, end_ms: now + 3_600_000, next_end_ms: now + 7_200_000 };
        let used_up = vec![line(1, span, 5, 5, false), slot.clone(), bucket.clone()];
        assert_eq!(far.reserve_now(&booking("1", used_up), HOLD).unwrap().code, Code::Held);
        drop(far);
        for restart in 0..2 {
            let clock = Arc::new(ManualClock::new(T0));
            let ledger = EmbeddedLedger::open(&settings(folder.path()), clock.clone(), Arc::new(|_| ())).unwrap();
            assert_eq!(ledger.now_ms() == T0, !believed);
            if believed {
                continue;
            }
            for (id, line) in [("a", hour(1, 1, 5)), ("b", slot.clone()), ("c", bucket.clone())] {
                assert_eq!(take(&ledger, &format!("{id}{restart}"), line), Code::Limited { line: 0 }, "{id}");
            }
            clock.advance_ms(3_600_000 + GRACE_MS + 1);
            for (id, line) in [("d", hour(1, 1, 5)), ("e", slot.clone()), ("f", bucket.clone())] {
                let id = format!("{id}{restart}");
                assert_eq!(take(&ledger, &id, line.clone()), Code::Held, "{id}");
                let one = booking(&id, vec![line]);
                ledger.finish_now(&one, &Finish::RollBack(Speaker::Stream)).unwrap();
            }
            break;
        }
    }
}

#[test]
fn bounds_hold_after_a_restart_and_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    for counter in 0..3 {
        take(&ledger, &counter.to_string(), hour(counter, 5, 5));
    }
    drop(ledger);
    let bounds = Bounds { counters_max: 2, reservations_max: 100 };
    let small = Settings { bounds, ..settings(folder.path()) };
    let ledger = EmbeddedLedger::open(&small, Arc::new(ManualClock::new(T0)), Arc::new(|_| ())).unwrap();
    assert_eq!(ledger.usage(), Usage { counters: 3, reservations: 3 });
    for counter in 0..3 {
        assert_eq!(take(&ledger, &format!("x{counter}"), hour(counter, 1, 5)), Code::Limited { line: 0 });
    }
    let full = ledger.reserve_now(&booking("new", vec![hour(9, 1, 5)]), HOLD).unwrap_err();
    assert!(matches!(full, LedgerError::Full { limit: "counters_max" }));
}

#[test]
fn holds_that_ran_out_while_nobody_ran_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    take(&open(folder.path()), "1", hour(1, 1, 5));
    let told = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&told);
    let clock = Arc::new(ManualClock::new(T0 + 600_000));
    let on_expired: OnExpired = Arc::new(move |holds| *seen.lock().unwrap() += holds);
    let ledger = EmbeddedLedger::open(&settings(folder.path()), clock, on_expired).unwrap();
    futures_now(ledger.peek(&[hour(1, 1, 5)])).unwrap();
    assert_eq!(*told.lock().unwrap(), 1);
}

/// Names what a child process is to do; the child is this test program, told to run one test.
const CHILD: &str = "LEDGER_TEST_CHILD";

fn child(test: &str, task: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("quota::embedded::tests::{test}"), "--exact", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, task).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Takes one unit after the other and prints each that it got; ends by being killed, or when the counter is used up.
fn take_until_the_end(folder: &Path, max: u64) {
    use std::io::Write as _;
    let ledger = EmbeddedLedger::open(
        &Settings { log_bytes_max: 20_000, ..settings(folder) },
        Arc::new(ManualClock::new(T0)),
        Arc::new(|_| ()),
    );
    let ledger = ledger.unwrap();
    let mut out = std::io::stdout().lock();
    for _ in 0..2 * max {
        let id = ReservationId::random().unwrap();
        let one = Booking { id, ..booking("x", vec![hour(1, 1, max)]) };
        match ledger.reserve_now(&one, HOLD) {
            Ok(reply) if reply.code == Code::Held => out.write_all(b"took\n").unwrap(),
            Ok(_) => out.write_all(b"none\n").unwrap(),
            Err(error) => writeln!(out, "{error}").unwrap(),
        }
    }
}

#[test]
fn processes_killed_again_and_again_hand_out_no_more_than_the_maximum() {
    const MAX: u64 = 4_000;
    if let Some(folder) = std::env::var_os(CHILD) {
        return take_until_the_end(Path::new(&folder), MAX);
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut taken, mut kills, mut used_up) = (0, 0, false);
    while !used_up {
        use std::io::{BufRead as _, BufReader};
        let name = "processes_killed_again_and_again_hand_out_no_more_than_the_maximum";
        let mut running = child(name, folder.path().to_str().unwrap()).spawn().unwrap();
        let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
        // Killed in the middle of its work, wherever that is by then.
        let last = 40 + 37 * kills % 400;
        let mut here = 0;
        for line in lines.by_ref() {
            let line = line.unwrap();
            here += u64::from(line.ends_with("took"));
            used_up |= line.ends_with("none");
            if here == last {
                break;
            }
        }
        running.kill().unwrap();
        // What it had said before it was killed counts as well.
        here += lines.map_while(Result::ok).filter(|line| line.ends_with("took")).count() as u64;
        running.wait().unwrap();
        (taken, kills) = (taken + here, kills + 1);
        assert!(kills < 1_000, "{taken} units after {kills} processes");
    }
    assert!(taken <= MAX, "{taken} of {MAX}");
    // Each kill can cost the one unit that nobody was told of.
    assert!(taken + kills >= MAX, "{taken} of {MAX} after {kills} kills");
    assert!(kills >= 10, "only {kills} kills");
    // Whether a log was made into a snapshot meanwhile depends on how busy the machine is; another test is about that.
}

#[test]
fn a_full_disk_denies_and_harms_nothing() {
    if let Some(folder) = std::env::var_os(CHILD) {
        return take_until_the_end(Path::new(&folder), 50);
    }
    let folder = tempfile::tempdir().unwrap();
    let name = "a_full_disk_denies_and_harms_nothing";
    let inner = child(name, folder.path().to_str().unwrap());
    // No file may become longer than 4 KiB; the write fails instead of the process ending with a signal.
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"")
        .arg(inner.get_program())
        .args(inner.get_args());
    let output = command.env(CHILD, folder.path()).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (took, refused) = (text.matches("took\n").count(), text.matches("quota store unavailable\n").count());
    assert!(took > 5 && took < 50 && refused > 20, "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("none"), "nothing was counted that was not written");
    // With room again it goes on where it stood, to the unit.
    let ledger = open(folder.path());
    assert_eq!(futures_now(ledger.peek(&[hour(1, 1, 50)])).unwrap()[0].used, u64::try_from(took).unwrap());
    assert_eq!(take(&ledger, "more", hour(1, 1, 50)), Code::Held);
}

//! The writer against outputs that stall, fail, take parts, and are rotated.

use std::{
    io::Read as _,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// An answer of the output to one write.
enum Answer {
    Fail(ErrorKind),
    Take(usize),
}

/// An output that asks the test about each write, until the test hangs up; then it takes everything.
struct Asking {
    asks: mpsc::Sender<Vec<u8>>,
    answers: mpsc::Receiver<Answer>,
    files: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Output for Asking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Nobody listens any more once the test only waits for the end.
        let _asked = self.asks.send(bytes.to_vec()).is_ok();
        let taken = match self.answers.recv() {
            Ok(Answer::Fail(kind)) => return Err(kind.into()),
            Ok(Answer::Take(n)) => n.min(bytes.len()),
            Err(mpsc::RecvError) => bytes.len(),
        };
        self.files.lock().unwrap().last_mut().unwrap().extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn reopen(&mut self) -> io::Result<bool> {
        self.files.lock().unwrap().push(Vec::new());
        Ok(true)
    }
}

#[derive(Default)]
struct Counts {
    dropped: AtomicU64,
    failed: AtomicU64,
    written: AtomicU64,
}

impl Counts {
    fn of(&self) -> [u64; 3] {
        [&self.dropped, &self.failed, &self.written].map(|count| count.load(Ordering::SeqCst))
    }
}

struct Rig {
    lines: Lines,
    asks: mpsc::Receiver<Vec<u8>>,
    answers: mpsc::Sender<Answer>,
    files: Arc<Mutex<Vec<Vec<u8>>>>,
    counts: Arc<Counts>,
}

fn rig(bytes_max: usize) -> Rig {
    let (asks_tx, asks) = mpsc::channel();
    let (answers, answers_rx) = mpsc::channel();
    let files = Arc::new(Mutex::new(vec![Vec::new()]));
    let counts = Arc::new(Counts::default());
    let output = Asking { asks: asks_tx, answers: answers_rx, files: Arc::clone(&files) };
    let lines = Lines::start("test", output, AsTheyAre, bytes_max, counting(&counts)).unwrap();
    Rig { lines, asks, answers, files, counts }
}

fn counting(counts: &Arc<Counts>) -> impl Fn(Event<'_>) + Send + Sync + 'static {
    let counts = Arc::clone(counts);
    move |event| {
        let (count, n) = match event {
            Event::Dropped(n) => (&counts.dropped, n),
            Event::Failed(_) => (&counts.failed, 1),
            Event::Written(n) => (&counts.written, n),
        };
        count.fetch_add(n, Ordering::SeqCst);
    }
}

/// Waits for something that another thread is about to do.
fn until(what: impl Fn() -> bool) {
    while !what() {
        std::thread::yield_now();
    }
}

#[test]
fn a_stalled_output_blocks_nobody_and_its_lines_come_later() {
    let Rig { lines, asks, answers, files, counts } = rig(100);
    assert_eq!(lines.append(b"first", WhileFailing::Refuse), Ok(()));
    // From here the writer is stuck in its write, which has six bytes.
    assert_eq!(asks.recv().unwrap(), b"first\n");
    let taken =
        (0..100).filter(|n| lines.append(format!("line {n:02}").as_bytes(), WhileFailing::Refuse).is_ok()).count();
    assert_eq!(taken, 94 / 8);
    assert_eq!(lines.append(b"line 99", WhileFailing::Buffer), Err(Refused::Full));
    // A shorter one still fits.
    assert_eq!(lines.append(b"x", WhileFailing::Buffer), Ok(()));
    drop((asks, answers));
    assert!(lines.close(LONG));
    let expected: Vec<u8> = (0..taken).map(|n| format!("line {n:02}\n")).collect::<String>().into_bytes();
    assert_eq!(files.lock().unwrap()[0], [b"first\n", &*expected, b"x\n"].concat());
    assert_eq!(counts.of(), [0, 0, 13]);
}

#[test]
fn a_pipe_nobody_reads_blocks_nobody() {
    let (mut reader, writer) = io::pipe().unwrap();
    let counts = Arc::new(Counts::default());
    let lines = Lines::start("test", Stream::of(writer.into()), AsTheyAre, 1 << 20, counting(&counts)).unwrap();
    let line = [b'x'; 1023];
    // More than a pipe holds, and more than the buffer.
    let taken = (0..3000).filter(|_| lines.append(&line, WhileFailing::Refuse).is_ok()).count();
    assert!((1024..=1600).contains(&taken), "{taken}");
    assert!(!lines.close(Duration::from_millis(1)), "the pipe is full");
    assert_eq!(lines.append(&line, WhileFailing::Refuse), Err(Refused::Closed));
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| reader.read_to_end(&mut all).unwrap());
        until(|| counts.written.load(Ordering::SeqCst) == u64::try_from(taken).unwrap());
    });
    assert_eq!(all.len(), taken * 1024);
}

#[test]
fn a_failing_output_is_counted_retried_and_refuses_those_who_ask_for_it() {
    let Rig { lines, asks, answers, files, counts } = rig(1000);
    lines.append(b"one", WhileFailing::Refuse).unwrap();
    asks.recv().unwrap();
    answers.send(Answer::Fail(ErrorKind::StorageFull)).unwrap();
    // The second attempt has begun: the failure of the first one is known.
    assert_eq!(asks.recv().unwrap(), b"one\n");
    assert_eq!(counts.of(), [0, 1, 0]);
    assert_eq!(lines.append(b"two", WhileFailing::Refuse), Err(Refused::Failing));
    assert_eq!(lines.append(b"two", WhileFailing::Buffer), Ok(()));
    answers.send(Answer::Take(4)).unwrap();
    assert_eq!(asks.recv().unwrap(), b"two\n");
    // It has recovered.
    assert_eq!(lines.append(b"three", WhileFailing::Refuse), Ok(()));
    drop((asks, answers));
    assert!(lines.close(LONG));
    assert_eq!(files.lock().unwrap()[0], b"one\ntwo\nthree\n");
    assert_eq!(counts.of(), [0, 1, 3]);
}

#[test]
fn partial_interrupted_and_would_block_writes_lose_nothing() {
    let Rig { lines, asks, answers, files, counts } = rig(1000);
    lines.append(b"abcdef", WhileFailing::Refuse).unwrap();
    for (expected, answer) in [
        ("abcdef\n", Answer::Take(2)),
        ("cdef\n", Answer::Fail(ErrorKind::Interrupted)),
        ("cdef\n", Answer::Fail(ErrorKind::WouldBlock)),
        ("cdef\n", Answer::Take(4)),
        ("\n", Answer::Take(1)),
    ] {
        assert_eq!(asks.recv().unwrap(), expected.as_bytes());
        answers.send(answer).unwrap();
    }
    assert!(lines.close(LONG));
    assert_eq!(files.lock().unwrap()[0], b"abcdef\n");
    assert_eq!(counts.of(), [0, 0, 1]);
}

#[test]
fn an_output_that_fails_to_the_end_is_given_up_and_counted() {
    let Rig { lines, asks, answers, files: _, counts } = rig(1000);
    lines.append(b"one", WhileFailing::Buffer).unwrap();
    lines.append(b"two", WhileFailing::Buffer).unwrap();
    answers.send(Answer::Take(6)).unwrap();
    for _ in 0..20 {
        // One before the end and one after it; more, if the lines came in two writes.
        answers.send(Answer::Fail(ErrorKind::BrokenPipe)).unwrap();
    }
    until(|| counts.failed.load(Ordering::SeqCst) > 0);
    lines.append(b"three", WhileFailing::Buffer).unwrap();
    assert!(!lines.close(LONG));
    let [dropped, _, written] = counts.of();
    assert_eq!(dropped + written, 3);
    assert!(dropped >= 2);
    drop(asks);
}

#[test]
fn a_new_file_begins_with_a_whole_line() {
    let Rig { lines, asks, answers, files, counts } = rig(1000);
    lines.append(b"one", WhileFailing::Buffer).unwrap();
    assert_eq!(asks.recv().unwrap(), b"one\n");
    lines.append(b"two", WhileFailing::Buffer).unwrap();
    lines.append(b"three", WhileFailing::Buffer).unwrap();
    answers.send(Answer::Take(4)).unwrap();
    assert_eq!(asks.recv().unwrap(), b"two\nthree\n");
    lines.reopen();
    answers.send(Answer::Take(6)).unwrap();
    assert_eq!(asks.recv().unwrap(), b"three\n");
    drop((asks, answers));
    assert!(lines.close(LONG));
    assert_eq!(*files.lock().unwrap(), [b"one\ntwo\nth".to_vec(), b"three\n".to_vec()]);
    assert_eq!(counts.of(), [0, 0, 3]);
}

#[test]
fn dropping_writes_out_without_waiting() {
    let Rig { lines, asks, answers, files, counts } = rig(1000);
    lines.append(b"one", WhileFailing::Buffer).unwrap();
    drop((lines, asks, answers));
    until(|| counts.written.load(Ordering::SeqCst) == 1);
    assert_eq!(files.lock().unwrap()[0], b"one\n");
}

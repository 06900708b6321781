//! Lines of bytes to a file, stdout or stderr, off the path of whoever appends them.
//!
//! Appending copies into a bounded buffer under a short lock. One thread, owned by [`Lines`], writes the buffer out: at most once
//! every [`LINGER`], so that under load it is not woken for each line. A reader that stalls fills the buffer and blocks nobody.

use std::{
    fs::File,
    io::{self, ErrorKind, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

/// How long the first line waits for company.
const LINGER: Duration = Duration::from_millis(5);
/// First and longest pause after a failed write.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Buffer that is kept between bursts, in bytes.
const KEEP_BYTES: usize = 64 * 1024;

/// Where lines go. Seen by the writer thread only.
pub(crate) trait Output: Send + 'static {
    /// Writes some of the bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Opens the target anew; false if that has no meaning for it.
    fn reopen(&mut self) -> io::Result<bool>;
}

/// Stdout or stderr, without the buffer and the lock of the standard library: a stalled write must not hold that lock.
#[derive(Debug)]
pub(crate) struct Stream(File);

impl Stream {
    pub(crate) fn stdout() -> io::Result<Self> {
        io::stdout().as_fd().try_clone_to_owned().map(Self::of)
    }

    pub(crate) fn stderr() -> io::Result<Self> {
        io::stderr().as_fd().try_clone_to_owned().map(Self::of)
    }

    fn of(fd: OwnedFd) -> Self {
        Self(File::from(fd))
    }
}

impl Output for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn reopen(&mut self) -> io::Result<bool> {
        Ok(false)
    }
}

/// Makes what is written of the lines that were taken. Seen by the writer thread only.
pub(crate) trait Stage: Send + 'static {
    /// Appends to `out` what becomes of the lines in `taken`, each with its line feed, of which `lost` were refused before them.
    fn pass(&mut self, taken: &mut Vec<u8>, lost: u64, out: &mut Vec<u8>);
    /// Appends what comes before everything.
    fn begin(&mut self, out: &mut Vec<u8>);
    /// Appends what comes after everything.
    fn end(&mut self, out: &mut Vec<u8>);
    /// After how long without a line [`Stage::pass`] is called all the same; `None` for never.
    fn patience(&self) -> Option<Duration>;
}

/// Lines are written as they are.
#[derive(Debug)]
pub(crate) struct AsTheyAre;

impl Stage for AsTheyAre {
    fn pass(&mut self, taken: &mut Vec<u8>, _lost: u64, out: &mut Vec<u8>) {
        if out.is_empty() {
            std::mem::swap(taken, out);
        } else {
            out.append(taken);
        }
    }

    fn begin(&mut self, _out: &mut Vec<u8>) {}

    fn end(&mut self, _out: &mut Vec<u8>) {}

    fn patience(&self) -> Option<Duration> {
        None
    }
}

/// What the writer thread reports. Called outside of the lock; must not block.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// So many lines were given up at the end.
    Dropped(u64),
    /// A write or a reopening failed and will be tried again.
    Failed(&'a io::Error),
    /// So many lines were handed to the operating system.
    Written(u64),
}

/// Why a line was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Closed,
    Failing,
    Full,
}

/// Whether lines are still taken while writes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhileFailing {
    Buffer,
    Refuse,
}

#[derive(Debug, Default)]
struct State {
    pending: Vec<u8>,
    /// Bytes that the writer has taken and not yet written; they count toward the bound.
    writing: usize,
    failing: bool,
    /// Lines that were refused since the writer last came by.
    refused: u64,
    waiting: Waiting,
    reopen: bool,
    closing: bool,
    /// Lines were given up at the end.
    lost: bool,
    done: bool,
}

/// What the writer thread waits for, so that nobody wakes it in vain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Waiting {
    AnyLine,
    ManyLines,
    #[default]
    Nothing,
}

struct Shared {
    state: Mutex<State>,
    to_writer: Condvar,
    from_writer: Condvar,
    bytes_max: usize,
    report: Box<dyn Fn(Event<'_>) + Send + Sync>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("bytes_max", &self.bytes_max).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes from which the writer no longer waits for company.
    const fn many(&self) -> usize {
        self.bytes_max / 4
    }
}

/// See the module. Dropping it lets the thread write what it can and does not wait.
#[derive(Debug)]
pub(crate) struct Lines {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Lines {
    /// Starts the writer thread.
    pub(crate) fn start(
        name: &str,
        output: impl Output,
        stage: impl Stage,
        bytes_max: usize,
        report: impl Fn(Event<'_>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            to_writer: Condvar::new(),
            from_writer: Condvar::new(),
            bytes_max,
            report: Box::new(report),
        });
        let (taken, batch) = (Vec::new(), Vec::new());
        let mut writer =
            Writer { shared: Arc::clone(&shared), output, stage, taken, batch, offset: 0, pause: BACKOFF.0 };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || writer.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Takes one line, without its line feed. Never waits for the output.
    pub(crate) fn append(&self, line: &[u8], while_failing: WhileFailing) -> Result<(), Refused> {
        let shared = &*self.shared;
        let mut state = shared.lock();
        if state.closing {
            return Err(Refused::Closed);
        }
        if state.failing && while_failing == WhileFailing::Refuse {
            state.refused = state.refused.saturating_add(1);
            return Err(Refused::Failing);
        }
        let size = state.pending.len().saturating_add(state.writing).saturating_add(line.len()).saturating_add(1);
        if size > shared.bytes_max {
            state.refused = state.refused.saturating_add(1);
            drop(state);
            // It may wait for lines, and has to tell of this one.
            shared.to_writer.notify_one();
            return Err(Refused::Full);
        }
        state.pending.extend_from_slice(line);
        state.pending.push(b'\n');
        let wake = match state.waiting {
            Waiting::AnyLine => true,
            Waiting::ManyLines => state.pending.len() >= shared.many(),
            Waiting::Nothing => false,
        };
        if wake {
            state.waiting = Waiting::Nothing;
        }
        drop(state);
        if wake {
            shared.to_writer.notify_one();
        }
        Ok(())
    }

    /// Counts a line that was refused elsewhere.
    pub(crate) fn refuse(&self) {
        let mut state = self.shared.lock();
        state.refused = state.refused.saturating_add(1);
        drop(state);
        self.shared.to_writer.notify_one();
    }

    /// Asks the writer to open its file anew, before its next write.
    pub(crate) fn reopen(&self) {
        self.shared.lock().reopen = true;
        self.shared.to_writer.notify_one();
    }

    /// Takes no more lines and waits until all are written, at most for `within`. False if some are not; the thread may then
    /// still be stuck in its write, and ends with the process.
    pub(crate) fn close(&self, within: Duration) -> bool {
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.to_writer.notify_one();
        let waited = self.shared.from_writer.wait_timeout_while(state, within, |state| !state.done);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (done, lost) = (state.done, state.lost);
        drop(state);
        if !done {
            return false;
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        thread.is_none_or(|thread| thread.join().is_ok()) && !lost
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.to_writer.notify_one();
    }
}

struct Writer<O, S> {
    shared: Arc<Shared>,
    output: O,
    stage: S,
    /// Lines as they were handed in.
    taken: Vec<u8>,
    /// What is written.
    batch: Vec<u8>,
    /// Bytes of `batch` that are written.
    offset: usize,
    pause: Duration,
}

impl<O: Output, S: Stage> Writer<O, S> {
    fn run(&mut self) {
        self.stage.begin(&mut self.batch);
        self.write();
        while self.take() {
            self.write();
        }
        let mut state = self.shared.lock();
        let is_lost = state.lost;
        drop(state);
        if !is_lost {
            self.stage.end(&mut self.batch);
            self.write();
        }
        state = self.shared.lock();
        state.done = true;
        drop(state);
        self.shared.from_writer.notify_all();
    }

    /// Waits for lines and takes all there are. False at the end.
    fn take(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let patience = self.stage.patience();
        let is_idle = |state: &State| state.pending.is_empty() && state.refused == 0 && !state.closing && !state.reopen;
        while is_idle(&state) {
            state.waiting = Waiting::AnyLine;
            let Some(patience) = patience else {
                state = shared.to_writer.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let waited = shared.to_writer.wait_timeout_while(state, patience, |state| is_idle(state));
            let (back, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = back;
            if timeout.timed_out() {
                break;
            }
        }
        if !state.pending.is_empty() && state.pending.len() < shared.many() && !state.closing && !state.reopen {
            state.waiting = Waiting::ManyLines;
            let alone = |state: &mut State| state.waiting == Waiting::ManyLines && !state.closing && !state.reopen;
            let waited = shared.to_writer.wait_timeout_while(state, LINGER, alone);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting = Waiting::Nothing;
        std::mem::swap(&mut self.taken, &mut state.pending);
        let refused = std::mem::take(&mut state.refused);
        state.writing = self.taken.len();
        let goes_on = !self.taken.is_empty() || refused > 0 || state.reopen || !state.closing;
        drop(state);
        self.stage(refused);
        goes_on
    }

    /// Makes the batch of what was taken. Not under the lock: whoever appends must not wait for it.
    fn stage(&mut self, refused: u64) {
        self.batch.clear();
        self.batch.shrink_to(KEEP_BYTES);
        self.offset = 0;
        self.stage.pass(&mut self.taken, refused, &mut self.batch);
        self.taken.clear();
        self.taken.shrink_to(KEEP_BYTES);
        self.shared.lock().writing = self.batch.len();
    }

    /// Writes the batch out, however often it takes; gives up only at the end.
    fn write(&mut self) {
        loop {
            self.reopen_if_asked();
            let rest = self.batch.get(self.offset..).unwrap_or_default();
            if rest.is_empty() {
                self.batch.clear();
                self.offset = 0;
                return;
            }
            let wrote = match self.output.write(rest) {
                Ok(0) => Err(io::Error::from(ErrorKind::WriteZero)),
                other => other,
            };
            match wrote {
                Ok(n) => self.written(n),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody made the stream non-blocking: a stall, not a failure.
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.pause(LINGER),
                Err(error) => {
                    (self.shared.report)(Event::Failed(&error));
                    if self.failed() {
                        return;
                    }
                }
            }
        }
    }

    fn written(&mut self, n: usize) {
        let end = self.offset.saturating_add(n);
        let lines = count_lines(self.batch.get(self.offset..end).unwrap_or_default());
        self.offset = end;
        self.pause = BACKOFF.0;
        let mut state = self.shared.lock();
        state.writing = self.batch.len().saturating_sub(end);
        state.failing = false;
        drop(state);
        (self.shared.report)(Event::Written(lines));
    }

    /// Waits before the next attempt. True if there is none: at the end, a sink that fails is given up.
    fn failed(&mut self) -> bool {
        let mut state = self.shared.lock();
        state.failing = true;
        if !state.closing {
            drop(state);
            self.pause(self.pause);
            self.pause = self.pause.saturating_mul(2).min(BACKOFF.1);
            return false;
        }
        let lost = count_lines(self.batch.get(self.offset..).unwrap_or_default())
            .saturating_add(count_lines(&std::mem::take(&mut state.pending)));
        state.lost = true;
        drop(state);
        self.batch.clear();
        (self.shared.report)(Event::Dropped(lost));
        true
    }

    /// Waits, unless the end or a reopening comes first.
    fn pause(&self, pause: Duration) {
        let state = self.shared.lock();
        let waited = self.shared.to_writer.wait_timeout_while(state, pause, |state| !state.closing && !state.reopen);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn reopen_if_asked(&mut self) {
        if !std::mem::take(&mut self.shared.lock().reopen) {
            return;
        }
        match self.output.reopen() {
            // The new file begins with a whole line; the old one may end with the beginning of it.
            Ok(true) => {
                let written = self.batch.get(..self.offset).unwrap_or_default();
                self.offset = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at.saturating_add(1));
            }
            Ok(false) => {}
            Err(error) => (self.shared.report)(Event::Failed(&error)),
        }
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    // In steps that cannot overflow a byte, so that the compiler counts many bytes at a time.
    let in_step = |step: &[u8]| step.iter().fold(0u8, |count, byte| count.wrapping_add(u8::from(*byte == b'\n')));
    bytes.chunks(255).fold(0, |count: u64, step| count.saturating_add(u64::from(in_step(step))))
}

#[cfg(test)]
mod tests;

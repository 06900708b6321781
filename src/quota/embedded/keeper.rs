//! The thread that brings a journal to the disk and keeps it short, so that no caller waits for either.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{
    Inner,
    journal::{Folder, SYNC_EVERY},
};

/// What callers and the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) inner: Mutex<Inner>,
    /// Something was written since the last sync.
    dirty: AtomicBool,
    signal: Mutex<Signal>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Signal {
    dirty: bool,
    stop: bool,
}

/// The running thread; ends it and waits for it when dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    pub(super) fn new(inner: Inner) -> Self {
        let signal = Mutex::new(Signal::default());
        Self { inner: Mutex::new(inner), dirty: AtomicBool::new(false), signal, wake: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock can only leave units spent: what was written down and not applied is applied at the next start.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a sync soon.
    pub(super) fn written(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            self.signal(|signal| signal.dirty = true);
        }
    }

    fn signal(&self, change: impl FnOnce(&mut Signal)) {
        change(&mut self.signal.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_all();
    }

    /// Waits for something to sync, lets more of it gather, and tells whether to stop.
    fn wait(&self) -> bool {
        let signal = self.signal.lock().unwrap_or_else(PoisonError::into_inner);
        let signal = self.wake.wait_while(signal, |signal| !signal.dirty && !signal.stop);
        let signal = signal.unwrap_or_else(PoisonError::into_inner);
        let signal = self.wake.wait_timeout_while(signal, SYNC_EVERY, |signal| !signal.stop);
        let (mut signal, _) = signal.unwrap_or_else(PoisonError::into_inner);
        signal.dirty = false;
        signal.stop
    }

    fn sync(&self) {
        // First: what is written from here on asks for a sync of its own.
        self.dirty.store(false, Ordering::Release);
        let Some(file) = self.lock().log.as_ref().map(super::journal::Log::file) else { return };
        if let Err(error) = file.sync_data() {
            self.fail(&error);
        }
    }

    fn fail(&self, error: &io::Error) {
        tracing::error!(%error, "The quota journal did not reach the disk; calls with limits are denied until a restart.");
        if let Some(log) = &mut self.lock().log {
            log.fail("the journal did not reach the disk");
        }
    }

    /// Begins the next log and tells the generation of the closed one.
    fn rotate(&self, folder: &Folder) -> Result<u64, super::JournalError> {
        let generation = self.lock().log.as_ref().map_or(0, super::journal::Log::generation);
        let next = folder.start_log(generation.saturating_add(1))?;
        let mut inner = self.lock();
        // The closed log must be whole before anything stands in the next one. Nearly all of it is on the disk already.
        let synced = inner.log.as_ref().map(|log| log.file().sync_data());
        if let Some(Err(error)) = synced {
            drop(inner);
            self.fail(&error);
        } else {
            inner.log = Some(next);
        }
        Ok(generation)
    }
}

impl Keeper {
    /// Starts it.
    pub(super) fn start(shared: &Arc<Shared>, folder: Folder, log_bytes_max: u64) -> io::Result<Self> {
        let (theirs, folder) = (Arc::clone(shared), Arc::new(folder));
        let thread = thread::Builder::new().name("quota-journal".into());
        let thread = thread.spawn(move || keep(&theirs, &folder, log_bytes_max))?;
        Ok(Self { shared: Arc::clone(shared), thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.signal(|signal| signal.stop = true);
        // A panic of the thread has been reported by the hook; nobody is left to deny to.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn keep(shared: &Arc<Shared>, folder: &Arc<Folder>, log_bytes_max: u64) {
    let mut compaction: Option<JoinHandle<()>> = None;
    let mut rotate_above = log_bytes_max;
    loop {
        let stop = shared.wait();
        shared.sync();
        let busy = compaction.as_ref().is_some_and(|thread| !thread.is_finished());
        let len = shared.lock().log.as_ref().map_or(0, super::journal::Log::len);
        if !stop && !busy && len > rotate_above {
            match shared.rotate(folder) {
                Ok(generation) => {
                    rotate_above = log_bytes_max;
                    compaction = compact(folder, generation);
                }
                Err(error) => {
                    // Not at every sync anew.
                    rotate_above = len.saturating_add(log_bytes_max);
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "The quota journal could not begin its next log."
                    );
                }
            }
        }
        if stop {
            drop(compaction.map(JoinHandle::join));
            return;
        }
    }
}

/// On a thread of its own, so that syncs go on.
fn compact(folder: &Arc<Folder>, generation: u64) -> Option<JoinHandle<()>> {
    let folder = Arc::clone(folder);
    let run = move || {
        if let Err(error) = folder.compact(generation) {
            // The logs stay; the next rotation tries again.
            tracing::error!(error = &error as &dyn std::error::Error, "The quota journal could not be shortened.");
        }
    };
    thread::Builder::new().name("quota-compact".into()).spawn(run).ok()
}

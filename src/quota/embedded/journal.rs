//! The journal of the embedded ledger: what was answered survives a killed process, and a lost node but for its last moments.
//!
//! A folder holds `lock`, `secret`, `snapshot` and logs `log-1`, `log-2`, …: the snapshot is what the logs below its number came
//! to, the logs from its number on are applied to it in turn. One process owns the folder. A change is written to the log with
//! one write before it is applied and answered, and reaches the disk within [`SYNC_EVERY`]. A log that has grown is closed, and
//! read again in the background to make the next snapshot; nobody waits for that.

use std::{
    fmt, fs,
    fs::{DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mcp_authz_core::ledger::{
    entry,
    machine::{Bounds, Machine},
};
use sha2::{Digest as _, Sha256};

use super::frame::{self, Tail};
use crate::quota::random_bytes;

/// How long a change may take to reach the disk itself. A killed process loses nothing of it, a lost node so much.
pub(super) const SYNC_EVERY: Duration = Duration::from_millis(50);
const LOG_MAGIC: &[u8; 24] = b"mcp-authz quota log  1\r\n";
const SNAPSHOT_MAGIC: &[u8; 24] = b"mcp-authz quota state 1\n";
const HEADER_BYTES: usize = 32;
const UNBOUNDED: Bounds = Bounds { counters_max: usize::MAX, reservations_max: usize::MAX };

/// Why a journal cannot be used. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file is not what was written.
    #[error(
        "`{file}` is damaged ({what}): the counts in it cannot be trusted. Restore the folder from a copy, or move it away to start \
         from zero, which hands out every quota anew"
    )]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Another process owns the folder.
    #[error(
        "`{folder}` is in use by another process: each process needs a folder of its own, or all of them one Redis"
    )]
    InUse {
        /// Which folder.
        folder: PathBuf,
    },
    /// The system said no.
    #[error("cannot use `{file}`")]
    Io {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system has no randomness to give.
    #[error("no random bytes for the secret of the journal")]
    NoRandomness,
}

/// The files of one ledger, locked.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing would do, were it not for a child process that is being started at this moment and still has a copy.
        drop(self.lock.unlock());
    }
}

/// The open end of a journal.
pub(super) struct Log {
    file: Arc<File>,
    generation: u64,
    /// Entries written.
    number: u64,
    /// Bytes that are good.
    len: u64,
    buffer: Vec<u8>,
    /// Why nothing more can be written, if so.
    broken: Option<Arc<str>>,
}

/// What was found in a folder.
pub(super) struct Found {
    pub(super) secret: [u8; 32],
    pub(super) machine: Machine,
    pub(super) log: Log,
    /// Of the last entry, µs; 0 if there is none.
    pub(super) last_us: u64,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("generation", &self.generation).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Folder {
    /// Takes the folder, which is made if it is not there.
    pub(super) fn lock(path: &Path) -> Result<Self, JournalError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error(path))?;
        let file = path.join("lock");
        let lock = open(&file, OpenOptions::new().write(true).create(true).truncate(false))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(fs::TryLockError::WouldBlock) => Err(JournalError::InUse { folder: path.to_owned() }),
            Err(fs::TryLockError::Error(source)) => Err(JournalError::Io { file, source }),
        }
    }

    /// Reads everything and opens the last log at its end.
    pub(super) fn recover(&self) -> Result<Found, JournalError> {
        let (mut generation, mut last_us, mut machine) = self.read_snapshot()?;
        let mut logs = self.logs()?;
        // What a rotation had no time to remove; the snapshot holds it.
        for old in logs.extract_if(.., |log| *log < generation) {
            remove(&self.log_file(old))?;
        }
        let missing = (generation..).zip(&logs).find(|(wanted, found)| wanted != *found).map(|(wanted, _)| wanted);
        // No snapshot and no log is a journal that begins; a snapshot is always followed by a log.
        let missing = missing.or_else(|| (logs.is_empty() && generation > 1).then_some(generation));
        if let Some(missing) = missing {
            return Err(damaged(&self.log_file(missing), "it is not there"));
        }
        let secret = self.secret(logs.is_empty())?;
        // A log that was made to be the next one, and never was: the one before it is the last.
        while let Some(empty) = logs.pop_if(|log| *log > generation && self.is_empty(*log)) {
            remove(&self.log_file(empty))?;
        }
        let Some(last) = logs.pop() else {
            let log = self.start_log(generation)?;
            return Ok(Found { secret, machine, log, last_us });
        };
        for log in logs {
            let file = self.log_file(log);
            let bytes = fs::read(&file).map_err(io_error(&file))?;
            match replay(&file, &bytes, log, &mut machine, &mut last_us)? {
                (_, Tail::Clean) => {}
                (_, Tail::Torn { good } | Tail::Damaged { good }) => return Err(broken_at(&file, good)),
            }
        }
        generation = last;
        let log = self.reopen(generation, &mut machine, &mut last_us)?;
        Ok(Found { secret, machine, log, last_us })
    }

    /// The last log: it may end in the middle of a write that nobody was answered for.
    fn reopen(&self, generation: u64, machine: &mut Machine, last_us: &mut u64) -> Result<Log, JournalError> {
        let path = self.log_file(generation);
        let bytes = fs::read(&path).map_err(io_error(&path))?;
        if bytes.len() < HEADER_BYTES && generation == 1 {
            // The very first start was cut off. Every other log is whole before it is used.
            return self.start_log(generation);
        }
        let (number, tail) = replay(&path, &bytes, generation, machine, last_us)?;
        let good = match tail {
            Tail::Clean => bytes.len(),
            Tail::Torn { good } => good.saturating_add(HEADER_BYTES),
            Tail::Damaged { good } => return Err(broken_at(&path, good)),
        };
        let file = open(&path, OpenOptions::new().write(true))?;
        let len = u64::try_from(good).unwrap_or(u64::MAX);
        if good < bytes.len() {
            file.set_len(len).and_then(|()| file.sync_all()).map_err(io_error(&path))?;
        }
        Ok(Log { file: Arc::new(file), generation, number, len, buffer: Vec::new(), broken: None })
    }

    /// A new log, on the disk before it is used.
    pub(super) fn start_log(&self, generation: u64) -> Result<Log, JournalError> {
        let path = self.log_file(generation);
        let mut file = open(&path, OpenOptions::new().write(true).create(true).truncate(true))?;
        let header = header(LOG_MAGIC, generation);
        file.write_all(&header).and_then(|()| file.sync_all()).map_err(io_error(&path))?;
        self.sync()?;
        let len = u64::try_from(header.len()).unwrap_or(u64::MAX);
        Ok(Log { file: Arc::new(file), generation, number: 0, len, buffer: Vec::new(), broken: None })
    }

    /// Makes the snapshot after the log of that generation, which is closed, and removes the log.
    pub(super) fn compact(&self, generation: u64) -> Result<(), JournalError> {
        let (start, mut last_us, mut machine) = self.read_snapshot()?;
        for log in start..=generation {
            let file = self.log_file(log);
            let bytes = fs::read(&file).map_err(io_error(&file))?;
            match replay(&file, &bytes, log, &mut machine, &mut last_us)? {
                (_, Tail::Clean) => {}
                (_, Tail::Torn { good } | Tail::Damaged { good }) => return Err(broken_at(&file, good)),
            }
        }
        let mut bytes = header(SNAPSHOT_MAGIC, generation.saturating_add(1));
        bytes.extend_from_slice(&last_us.to_le_bytes());
        bytes.extend_from_slice(&machine.image());
        bytes.extend_from_slice(&Sha256::digest(&bytes));
        self.replace("snapshot", &bytes)?;
        (start..=generation).try_for_each(|log| remove(&self.log_file(log)))
    }

    /// First log to apply, time of the last entry and the machine.
    fn read_snapshot(&self) -> Result<(u64, u64, Machine), JournalError> {
        let file = self.path.join("snapshot");
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((1, 0, Machine::new(UNBOUNDED))),
            Err(source) => return Err(JournalError::Io { file, source }),
        };
        let parse = || {
            let (content, sum) = bytes.split_last_chunk::<32>()?;
            (Sha256::digest(content).as_slice() == sum).then_some(())?;
            let (magic, rest) = content.split_first_chunk::<24>()?;
            (magic == SNAPSHOT_MAGIC).then_some(())?;
            let (generation, rest) = rest.split_first_chunk::<8>()?;
            let (last_us, image) = rest.split_first_chunk::<8>()?;
            let machine = Machine::of_image(image, UNBOUNDED)?;
            Some((u64::from_le_bytes(*generation), u64::from_le_bytes(*last_us), machine))
        };
        parse().ok_or_else(|| damaged(&file, "its checksum does not fit"))
    }

    /// The secret under which counters have their names; made with the journal, and never without it.
    fn secret(&self, fresh: bool) -> Result<[u8; 32], JournalError> {
        let file = self.path.join("secret");
        match fs::read(&file) {
            Ok(bytes) => bytes.try_into().map_err(|_| damaged(&file, "it is not 32 bytes long")),
            Err(error) if error.kind() == ErrorKind::NotFound && fresh => {
                let secret = random_bytes().map_err(|_| JournalError::NoRandomness)?;
                self.replace("secret", &secret)?;
                Ok(secret)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Err(damaged(&file, "it is not there, but logs are")),
            Err(source) => Err(JournalError::Io { file, source }),
        }
    }

    /// Generations of the logs in the folder, in order.
    fn logs(&self) -> Result<Vec<u64>, JournalError> {
        let mut logs = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(io_error(&self.path))? {
            let name = entry.map_err(io_error(&self.path))?.file_name();
            let number =
                name.to_str().and_then(|name| name.strip_prefix("log-")).and_then(|text| text.parse::<u64>().ok());
            logs.extend(number);
        }
        logs.sort_unstable();
        Ok(logs)
    }

    fn is_empty(&self, generation: u64) -> bool {
        let bytes = fs::metadata(self.log_file(generation)).map_or(u64::MAX, |file| file.len());
        usize::try_from(bytes).is_ok_and(|bytes| bytes <= HEADER_BYTES)
    }

    fn log_file(&self, generation: u64) -> PathBuf {
        self.path.join(format!("log-{generation}"))
    }

    /// Puts a file in place as a whole or not at all.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), JournalError> {
        let (new, file) = (self.path.join(format!("{name}.new")), self.path.join(name));
        let mut writer = open(&new, OpenOptions::new().write(true).create(true).truncate(true))?;
        writer.write_all(bytes).and_then(|()| writer.sync_all()).map_err(io_error(&new))?;
        fs::rename(&new, &file).map_err(io_error(&file))?;
        self.sync()
    }

    /// Names of files reach the disk with the folder.
    fn sync(&self) -> Result<(), JournalError> {
        File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(io_error(&self.path))
    }
}

impl Log {
    /// Writes one entry. If that fails, nothing of it is left.
    pub(super) fn append(&mut self, payload: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        if let Some(why) = &self.broken {
            return Err(io::Error::other(why.to_string()));
        }
        self.buffer.clear();
        if !frame::append(&mut self.buffer, self.generation, self.number, payload) {
            return Err(ErrorKind::InvalidInput.into());
        }
        if let Err(error) = self.file.write_all_at(&self.buffer, self.len) {
            // Should this fail too, the next write begins in the same place, and a reader stops there.
            drop(self.file.set_len(self.len));
            return Err(error);
        }
        self.number = self.number.saturating_add(1);
        self.len = self.len.saturating_add(u64::try_from(self.buffer.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Refuses everything from now on: after a failed sync nobody knows what the disk holds.
    pub(super) fn fail(&mut self, why: &str) {
        self.broken = Some(Arc::from(why));
    }

    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }
}

pub(super) fn replay(
    file: &Path,
    bytes: &[u8],
    generation: u64,
    machine: &mut Machine,
    last_us: &mut u64,
) -> Result<(u64, Tail), JournalError> {
    let (head, entries) = bytes.split_at_checked(HEADER_BYTES).unwrap_or((bytes, &[]));
    if head != header(LOG_MAGIC, generation) {
        return Err(damaged(file, "it does not begin as a log of its number"));
    }
    frame::read(entries, generation, |payload, good| {
        *last_us = entry::apply(payload, machine)
            .map_err(|unfit| damaged(file, &format!("entry at byte {}: {unfit}", good.saturating_add(HEADER_BYTES))))?;
        Ok(())
    })
}

fn header(magic: &[u8; 24], generation: u64) -> Vec<u8> {
    [magic.as_slice(), &generation.to_le_bytes()].concat()
}

fn open(path: &Path, options: &mut OpenOptions) -> Result<File, JournalError> {
    options.mode(0o600).open(path).map_err(io_error(path))
}

fn remove(path: &Path) -> Result<(), JournalError> {
    fs::remove_file(path).map_err(io_error(path))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let file = path.to_owned();
    move |source| JournalError::Io { file, source }
}

fn damaged(file: &Path, what: &str) -> JournalError {
    JournalError::Damaged { file: file.to_owned(), what: what.to_owned() }
}

fn broken_at(file: &Path, good: usize) -> JournalError {
    damaged(file, &format!("its entries are broken from byte {} on", good.saturating_add(HEADER_BYTES)))
}

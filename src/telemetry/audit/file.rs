//! The file that records are appended to, and what becomes of it when it is long enough.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use mcp_authz_core::audit::{
    chain::{Hash, LINE_BYTES_MAX},
    line::place,
};

use super::batch::whole_lines;
use crate::telemetry::lines::Output;

/// When a file ends, and how many are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes of one file; 0 for no end.
    pub bytes_max: u64,
    /// Files beside the one that is written; 0 for all of them.
    pub files_max: usize,
}

/// A file that is appended to and ends at a line. One process at a time: two would tear the chain.
#[derive(Debug)]
pub(super) struct AuditFile {
    path: PathBuf,
    file: File,
    rotation: Rotation,
    /// Bytes in it.
    size: u64,
    /// Bytes at which it ends next: later than the setting says where ending it failed.
    ends_at: u64,
    at_line_start: bool,
}

impl AuditFile {
    /// Opens the file, and reads the hash of the last record in it, or in the one before it.
    pub(super) fn open(path: &Path, rotation: Rotation) -> io::Result<(Self, Option<Hash>)> {
        let file = append_to(path)?;
        lock(&file)?;
        let mut this =
            Self { path: path.to_owned(), file, rotation, size: 0, ends_at: rotation.bytes_max, at_line_start: true };
        let previous = this.look()?;
        Ok((this, previous))
    }

    /// Finds out where the file stands, and ends a line that broke off.
    fn look(&mut self) -> io::Result<Option<Hash>> {
        let metadata = self.file.metadata()?;
        (self.size, self.ends_at, self.at_line_start) = (0, self.rotation.bytes_max, true);
        if !metadata.is_file() {
            return Ok(None);
        }
        self.size = metadata.len();
        let tail = tail(&self.path)?;
        if tail.last().is_some_and(|byte| *byte != b'\n') {
            self.file.write_all(b"\n")?;
            self.size = self.size.saturating_add(1);
        }
        let previous = last_hash(&tail);
        if previous.is_some() {
            return Ok(previous);
        }
        match rotated(&self.path)?.pop() {
            Some((_, path)) => Ok(last_hash(&self::tail(&path)?)),
            None => Ok(None),
        }
    }

    /// Ends the file: it gets a number, and a new one takes its place.
    fn rotate(&mut self) -> io::Result<()> {
        // Should it fail it is tried again after a while; until then the file goes on.
        self.ends_at = self.size.saturating_add(self.rotation.bytes_max / 8).max(1);
        let files = rotated(&self.path)?;
        let next = files.last().map_or(0, |(number, _)| *number).saturating_add(1);
        fs::rename(&self.path, numbered(&self.path, next))?;
        let file = append_to(&self.path)?;
        lock(&file)?;
        self.file = file;
        self.size = 0;
        self.ends_at = self.rotation.bytes_max;
        if self.rotation.files_max > 0 {
            let kept = self.rotation.files_max.saturating_sub(1);
            for (_, path) in files.iter().rev().skip(kept) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

impl Output for AuditFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut end = bytes.len();
        if self.rotation.bytes_max > 0 {
            if self.at_line_start {
                let first = u64::try_from(whole_lines(bytes, 0)).unwrap_or(u64::MAX);
                if self.size > 0 && self.size.saturating_add(first) > self.ends_at {
                    self.rotate()?;
                }
                let room = usize::try_from(self.ends_at.saturating_sub(self.size)).unwrap_or(usize::MAX);
                end = whole_lines(bytes, room);
            } else {
                end = whole_lines(bytes, 0);
            }
        }
        let written = self.file.write(bytes.get(..end).unwrap_or_default())?;
        let done = bytes.get(..written).unwrap_or_default();
        self.size = self.size.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
        self.at_line_start = done.last().map_or(self.at_line_start, |byte| *byte == b'\n');
        Ok(written)
    }

    fn reopen(&mut self) -> io::Result<bool> {
        let file = append_to(&self.path)?;
        let (new, old) = (file.metadata()?, self.file.metadata()?);
        if (new.dev(), new.ino()) == (old.dev(), old.ino()) {
            // It is where it was, and the line goes on.
            return Ok(false);
        }
        lock(&file)?;
        self.file = file;
        self.look()?;
        Ok(true)
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    // Only the owner may read who called what.
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Keeps other processes out. File systems without locks do without.
fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            ErrorKind::ResourceBusy,
            "another process writes to it; give each its own file, or wait until it has ended",
        )),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// The end of a file: long enough for the last record and one that broke off behind it.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let bytes = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX).saturating_mul(4);
    let start = file.metadata()?.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(bytes).read_to_end(&mut tail)?;
    Ok(tail)
}

/// The hash of the last line that is a whole record.
fn last_hash(tail: &[u8]) -> Option<Hash> {
    tail.rsplit(|byte| *byte == b'\n')
        .find_map(|line| place(line).filter(mcp_authz_core::audit::line::Place::is_whole))
        .map(|place| place.hash)
}

/// The name of a file that has ended.
fn numbered(path: &Path, number: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number:06}"));
    PathBuf::from(name)
}

/// The files that have ended, in order: the name of the file, a dot and at least six digits.
///
/// # Errors
/// The folder cannot be read.
pub fn rotated(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let file = entry?.file_name();
        let digits = file.to_str().and_then(|file| file.strip_prefix(name)).and_then(|rest| rest.strip_prefix('.'));
        let digits = digits.filter(|digits| digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit()));
        if let Some(number) = digits.and_then(|digits| digits.parse().ok()) {
            files.push((number, folder.join(&file)));
        }
    }
    files.sort_unstable();
    Ok(files)
}

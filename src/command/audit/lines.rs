//! Lines of files, one at a time and none longer than a record can be.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
};

use mcp_authz_core::audit::chain::LINE_BYTES_MAX;

use super::AuditError;

/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 256 * 1024;

/// What is done with a line: the name of its file, its number in it, and the line.
pub(super) type Take<'a> = &'a mut dyn FnMut(&Path, u64, &[u8]) -> io::Result<()>;

/// Calls `take` with the name of the file, the number of the line and the line, for every line of every file; `-` is standard
/// input. A line that is longer than any record is handed over cut.
pub(super) fn each(files: &[PathBuf], stdin: &mut dyn BufRead, take: Take<'_>) -> Result<(), AuditError> {
    for path in files {
        let failed = |problem| AuditError::Read { path: path.clone(), problem };
        if path.as_os_str() == "-" {
            all(path, stdin, take)?;
        } else {
            let file = File::open(path).map_err(failed)?;
            if !file.metadata().is_ok_and(|metadata| !metadata.is_dir()) {
                return Err(failed(io::Error::other("is a folder")));
            }
            all(path, &mut BufReader::with_capacity(BUFFER_BYTES, file), take)?;
        }
    }
    Ok(())
}

fn all(path: &Path, reader: &mut dyn BufRead, take: Take<'_>) -> Result<(), AuditError> {
    let failed = |problem| AuditError::Read { path: path.to_owned(), problem };
    let mut line = Vec::new();
    let mut number = 0_u64;
    while next(reader, &mut line).map_err(failed)? {
        number = number.saturating_add(1);
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        take(path, number, text)?;
    }
    Ok(())
}

/// Reads the next line with its line feed, and passes over what is too much of it. False at the end.
pub(super) fn next(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let bytes_max = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
    if (&mut *reader).take(bytes_max).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if !line.ends_with(b"\n") && line.len() >= LINE_BYTES_MAX {
        loop {
            let buffer = reader.fill_buf()?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(buffer.len(), |at| at.saturating_add(1));
            let is_done = end.is_some() || buffer.is_empty();
            reader.consume(used);
            if is_done {
                break;
            }
        }
    }
    Ok(true)
}

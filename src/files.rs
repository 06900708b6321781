//! Files and folders as operators mount them, read within limits.
//!
//! A Kubernetes volume is a folder whose entries lead through `..data` to one of several versions, and an update moves
//! that one link. Reading entry by entry could mix two versions, so a folder is resolved once and read from there.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use mcp_authz_core::document::Format;

/// Bytes of one document.
pub const DOCUMENT_BYTES_MAX: u64 = 1_048_576;
/// The link in the folder of a Kubernetes volume that leads to the version in force.
pub const MOUNTED: &str = "..data";
/// Documents in one folder.
pub const FILES_MAX: usize = 10_000;

/// Why a file or folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system says no.
    #[error("cannot be read: {}", reason(.0))]
    Io(#[source] io::Error),
    /// A folder, a pipe, a device, a socket.
    #[error("is not a regular file")]
    NotRegular,
    /// A symbolic link leads somewhere else.
    #[error("leads out of its folder by a symbolic link")]
    Outside,
    /// Larger than the limit.
    #[error("is larger than {0} bytes")]
    TooLarge(u64),
    /// More entries than the limit.
    #[error("holds more than {0} documents")]
    TooMany(usize),
}

/// The system's words without the error number, which no operator needs.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    // Whoever mends it has to know the user, and in a container nobody can look.
    if error.kind() == io::ErrorKind::PermissionDenied
        && let Ok(process) = fs::metadata("/proc/self")
    {
        return format!("permission denied to user {} of this process", process.uid());
    }
    text.split_once(" (os error").map_or(text.clone(), |(words, _)| words.to_owned()).to_lowercase()
}

/// Reads a regular file of at most `bytes_max` bytes, through symbolic links.
///
/// # Errors
/// [`FileError`]; the operator mends the file.
pub fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    // Opening a pipe would wait for a writer, so the type is known first.
    if !fs::metadata(path).map_err(FileError::Io)?.is_file() {
        return Err(FileError::NotRegular);
    }
    let file = File::open(path).map_err(FileError::Io)?;
    let metadata = file.metadata().map_err(FileError::Io)?;
    if !metadata.is_file() {
        return Err(FileError::NotRegular);
    }
    if metadata.len() > bytes_max {
        return Err(FileError::TooLarge(bytes_max));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(FileError::Io)?;
    // The length that was told may be old, or zero as for files that the kernel makes up.
    if u64::try_from(bytes.len()).map_or(true, |length| length > bytes_max) {
        return Err(FileError::TooLarge(bytes_max));
    }
    Ok(bytes)
}

/// Whether anybody may read the file who does not have to.
#[must_use]
pub fn is_shared(path: &Path) -> bool {
    // This process owns what Linux says of it here.
    let me = fs::metadata("/proc/self").ok().map(|process| process.uid());
    fs::metadata(path).is_ok_and(|metadata| is_shared_mode(metadata.mode(), Some(metadata.uid()) == me || me.is_none()))
}

/// A Secret of Kubernetes belongs to root, and a process that is not root reads it by its group: `fsGroup` adds that right.
fn is_shared_mode(mode: u32, is_own: bool) -> bool {
    let tolerated = if is_own { 0o000 } else { 0o040 };
    mode & 0o077 & !tolerated != 0
}

/// What changes when somebody writes to a file or puts another in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of what is at the path now; `None` for nothing.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let of = |metadata: Metadata| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        fs::metadata(path).ok().map(of)
    }
}

/// The documents of a folder at one moment.
#[derive(Debug)]
pub struct Folder {
    /// The folder as the operator names it.
    named: PathBuf,
    /// The version that is read.
    resolved: PathBuf,
    /// File names of documents, sorted.
    documents: Vec<String>,
}

impl Folder {
    /// Lists the documents: entries that end in `.json`, `.yaml` or `.yml` and do not start with a dot.
    ///
    /// # Errors
    /// [`FileError`]; the operator mends the folder.
    pub fn list(path: &Path) -> Result<Self, FileError> {
        let data = path.join(MOUNTED);
        // A link of the folder itself is resolved as well: there are tools that move that one.
        let resolved = if data.is_dir() { &data } else { path }.canonicalize().map_err(FileError::Io)?;
        let mut documents = Vec::new();
        for entry in fs::read_dir(&resolved).map_err(FileError::Io)? {
            let name = entry.map_err(FileError::Io)?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && Format::of_name(&name).is_some() {
                documents.push(name);
            }
            if documents.len() > FILES_MAX {
                return Err(FileError::TooMany(FILES_MAX));
            }
        }
        documents.sort_unstable();
        Ok(Self { named: path.to_owned(), resolved, documents })
    }

    /// The folder as the operator names it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.named
    }

    /// File names of the documents, sorted.
    #[must_use]
    pub fn documents(&self) -> &[String] {
        &self.documents
    }

    /// Where a file is read.
    #[must_use]
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.resolved.join(name)
    }

    /// How a file is called in messages.
    #[must_use]
    pub fn display_of(&self, name: &str) -> String {
        self.named.join(name).display().to_string()
    }
}

/// Whether a file, through all symbolic links, lies in the folder.
///
/// # Errors
/// [`FileError::Outside`], or [`FileError::Io`] where either does not exist.
pub fn check_inside(file: &Path, folder: &Path) -> Result<(), FileError> {
    let file = file.canonicalize().map_err(FileError::Io)?;
    let folder = folder.canonicalize().map_err(FileError::Io)?;
    if file.starts_with(folder) { Ok(()) } else { Err(FileError::Outside) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn who_needs_the_right_of_the_group_may_have_it() {
        for (mode, is_own, is_shared) in [
            (0o100_600, true, false),
            (0o100_400, true, false),
            (0o100_440, true, true),
            (0o100_604, true, true),
            // As the kubelet gives a Secret to a process by `fsGroup`.
            (0o100_440, false, false),
            (0o100_400, false, false),
            (0o100_444, false, true),
            (0o100_460, false, true),
        ] {
            assert_eq!(is_shared_mode(mode, is_own), is_shared, "{mode:o}, own: {is_own}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, b"x").unwrap();
        for (mode, shared) in [(0o600, false), (0o640, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_shared(&path), shared, "{mode:o}");
        }
    }

    #[test]
    fn a_size_at_the_limit_is_read_and_one_above_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read(&path, 4).unwrap_err().to_string(), "is larger than 4 bytes");
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path(), 5).unwrap_err().to_string(), "is not a regular file");
        assert_eq!(read(Path::new("/dev/zero"), 5).unwrap_err().to_string(), "is not a regular file");
        assert_eq!(
            read(&folder.path().join("none"), 5).unwrap_err().to_string(),
            "cannot be read: no such file or directory"
        );
    }

    #[test]
    fn a_kubernetes_volume_is_read_from_the_version_that_it_had_when_listed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for version in ["..1", "..2"] {
            fs::create_dir(root.join(version)).unwrap();
            fs::write(root.join(version).join("a.yaml"), version).unwrap();
        }
        fs::write(root.join("..1/.hidden.yaml"), "").unwrap();
        fs::write(root.join("..1/README.md"), "").unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
        let listed = Folder::list(root).unwrap();
        fs::remove_file(root.join("..data")).unwrap();
        symlink("..2", root.join("..data")).unwrap();
        assert_eq!(listed.documents(), ["a.yaml"]);
        assert_eq!(read(&listed.path_of("a.yaml"), 9).unwrap(), b"..1");
        assert_eq!(listed.display_of("a.yaml"), root.join("a.yaml").display().to_string());
        assert_eq!(read(&Folder::list(root).unwrap().path_of("a.yaml"), 9).unwrap(), b"..2");
    }

    #[test]
    fn a_link_out_of_the_folder_is_seen() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("x"), "").unwrap();
        fs::write(inside.path().join("y"), "").unwrap();
        symlink(outside.path().join("x"), inside.path().join("x")).unwrap();
        symlink("y", inside.path().join("z")).unwrap();
        let check = |name: &str| check_inside(&inside.path().join(name), inside.path());
        assert!(check("y").is_ok() && check("z").is_ok());
        assert_eq!(check("x").unwrap_err().to_string(), "leads out of its folder by a symbolic link");
    }

    #[test]
    fn a_file_that_others_may_read_is_shared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "").unwrap();
        for (mode, shared) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o660, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_shared(&path), shared, "{mode:o}");
        }
    }

    #[test]
    fn who_may_not_read_is_named() {
        let me = fs::metadata("/proc/self").unwrap().uid();
        let said = reason(&io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(said, format!("permission denied to user {me} of this process"));
    }
}

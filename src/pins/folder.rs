//! Pins in files: one for each server, below the folder of the embedded ledger, whose lock keeps other processes out.
//!
//! A file is put in its place whole, and is on the disk before anybody is answered. It is read once; from then on memory says
//! what the file holds.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::{Instant, timeout_at};

use super::store::{Found, Store, StoreError, Version};

/// See the module.
#[derive(Clone, Debug)]
pub struct FolderStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` keeps everything in memory.
    folder: Option<PathBuf>,
    /// What files hold; also of servers without one. Held while a file is written, so that writes follow one another.
    kept: Mutex<BTreeMap<Arc<str>, Kept>>,
}

type Kept = Option<(Version, Arc<[u8]>)>;

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use `{file}`: mend the folder, or its rights")]
struct FileError {
    file: PathBuf,
    #[source]
    source: io::Error,
}

impl FolderStore {
    /// Pins below the ledger's folder, or in memory if it has none: then a restart trusts every server anew.
    #[must_use]
    pub fn new(ledger: Option<&Path>) -> Self {
        Self(Arc::new(Inner { folder: ledger.map(|path| path.join("pins")), kept: Mutex::default() }))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&Inner) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        // What is under way goes on after the deadline; whoever asks next sees what came of it.
        let done = timeout_at(deadline, tokio::task::spawn_blocking(move || work(&inner))).await;
        match done {
            Ok(Ok(answer)) => answer.map_err(|error| StoreError(error.into())),
            Ok(Err(error)) => Err(StoreError(error.into())),
            Err(error) => Err(StoreError(error.into())),
        }
    }
}

impl Inner {
    fn read(&self, wanted: &[(Arc<str>, Version)]) -> Result<Vec<Found>, FileError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = |(server, known): &(Arc<str>, Version)| {
            if !kept.contains_key(server) {
                kept.insert(Arc::clone(server), self.load(server)?);
            }
            Ok(match kept.get(server) {
                Some(Some((version, _))) if version == known => Found::Same,
                Some(Some((version, data))) => Found::Other { version: version.clone(), data: Arc::clone(data) },
                Some(None) | None => Found::Nothing,
            })
        };
        wanted.iter().map(found).collect()
    }

    fn write(&self, server: &str, known: &Version, next: &Version, data: &Arc<[u8]>) -> Result<bool, FileError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let current = match kept.get(server) {
            Some(current) => current.clone(),
            None => self.load(server)?,
        };
        if current.map(|(version, _)| version).unwrap_or_default() != *known {
            return Ok(false);
        }
        if let Some(folder) = &self.folder {
            // Should it fail half-way, the file is asked again what it holds.
            kept.remove(server);
            replace(folder, &file(folder, server), next, data)?;
        }
        kept.insert(server.into(), Some((next.clone(), Arc::clone(data))));
        Ok(true)
    }

    fn load(&self, server: &str) -> Result<Kept, FileError> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let file = file(folder, server);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FileError { file, source }),
        };
        // A file without a whole first line is not what was written; what it holds is refused by its checksum.
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (version, data) = bytes.split_at(end.map_or(0, |end| end.saturating_add(1)));
        let version = std::str::from_utf8(version.trim_ascii_end()).ok().map(Version::of_store);
        let version = version.filter(|version| version.number().is_some());
        Ok(Some((version.unwrap_or_else(|| Version::of_store("?")), data.into())))
    }
}

/// Names of servers hold no `/`.
fn file(folder: &Path, server: &str) -> PathBuf {
    folder.join(format!("{server}.pins"))
}

fn replace(folder: &Path, file: &Path, version: &Version, data: &[u8]) -> Result<(), FileError> {
    let new = file.with_extension("pins-new");
    let of = |path: &Path| {
        let file = path.to_owned();
        move |source| FileError { file, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(of(folder))?;
    let mut options = OpenOptions::new();
    let mut writer = options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(of(&new))?;
    let head = format!("{}\n", version.as_str());
    let written = writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(data));
    written.and_then(|()| writer.sync_all()).map_err(of(&new))?;
    fs::rename(&new, file).map_err(of(file))?;
    // Names of files reach the disk with the folder, and the folder with the one above.
    let above = folder.parent().unwrap_or(folder);
    [folder, above].iter().try_for_each(|path| File::open(path).and_then(|path| path.sync_all()).map_err(of(path)))
}

impl Store for FolderStore {
    async fn read(&self, wanted: &[(Arc<str>, Version)], deadline: Instant) -> Result<Vec<Found>, StoreError> {
        let wanted = wanted.to_vec();
        self.blocking(deadline, move |inner| inner.read(&wanted)).await
    }

    async fn write(
        &self,
        server: &str,
        known: &Version,
        next: &Version,
        data: &Arc<[u8]>,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        let (server, known, next, data) = (server.to_owned(), known.clone(), next.clone(), Arc::clone(data));
        self.blocking(deadline, move |inner| inner.write(&server, &known, &next, &data)).await
    }
}

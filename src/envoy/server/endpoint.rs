//! Where the server listens: the `tcp://` and `unix://` notation, and binding with messages an operator can act on.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

/// Owner and group may connect: Envoy runs under another user and shares the group.
const SOCKET_MODE: u32 = 0o660;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An IP address and a port; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// An absolute path for a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(address) = text.strip_prefix("tcp://") {
            return address.parse().map(Self::Tcp).map_err(|_| EndpointError::Address { text: text.to_owned() });
        }
        match text.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') && !path.ends_with('/') => Ok(Self::Unix(PathBuf::from(path))),
            Some(_) => Err(EndpointError::Path { text: text.to_owned() }),
            None => Err(EndpointError::Scheme { text: text.to_owned() }),
        }
    }
}

/// Text that is not an endpoint. The operator mends the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// Not an IP address with a port.
    #[error("`{text}` needs an IP address and a port, like `tcp://127.0.0.1:9191` or `tcp://[::]:9191`")]
    Address {
        /// What was written.
        text: String,
    },
    /// Not an absolute path of a file.
    #[error("`{text}` needs an absolute path, like `unix:///run/mcp-authz/authz.sock`")]
    Path {
        /// What was written.
        text: String,
    },
    /// Neither of the two schemes.
    #[error("`{text}` must begin with `tcp://` or `unix://`")]
    Scheme {
        /// What was written.
        text: String,
    },
}

/// An endpoint that could not be opened. The operator mends the configuration or the machine.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody listens on that Unix socket already.
    #[error("cannot listen on `{endpoint}`: another process serves this socket; stop it or choose another path")]
    InUse {
        /// The endpoint.
        endpoint: Endpoint,
    },
    /// The system refused.
    #[error("cannot listen on `{endpoint}`: {hint}")]
    Io {
        /// The endpoint.
        endpoint: Endpoint,
        /// What to do about it.
        hint: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is a file, but it is not a socket: it is never removed.
    #[error("cannot listen on `{endpoint}`: the path exists and is not a socket; remove it or choose another path")]
    NotASocket {
        /// The endpoint.
        endpoint: Endpoint,
    },
}

impl BindError {
    fn io(endpoint: &Endpoint, source: io::Error) -> Self {
        let kind = source.kind();
        let hint = if kind == ErrorKind::AddrInUse {
            "the port is taken; stop the other process or choose another port"
        } else if kind == ErrorKind::PermissionDenied {
            "permission denied; check the owner of the folder, or take a port above 1023"
        } else if kind == ErrorKind::NotFound {
            "the folder does not exist; create it first"
        } else if kind == ErrorKind::AddrNotAvailable {
            "no network interface has this address"
        } else if kind == ErrorKind::InvalidInput {
            "the path is too long for a socket; the limit is about 100 bytes"
        } else {
            "the system refused"
        };
        Self::Io { endpoint: endpoint.clone(), hint, source }
    }
}

/// An open listener that no runtime knows yet.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl Bound {
    /// Opens the endpoint. For a Unix socket, a file left behind by a dead process is replaced.
    pub(super) fn open(endpoint: &Endpoint) -> Result<Self, BindError> {
        let failed = |source| BindError::io(endpoint, source);
        match endpoint {
            Endpoint::Tcp(address) => {
                let listener = TcpListener::bind(address).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Ok(Self::Tcp(listener))
            }
            Endpoint::Unix(path) => {
                refuse_unless_free(endpoint, path)?;
                let (listener, file) = bind_socket(path).map_err(failed)?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// The endpoint as it can be reached; the port is known now.
    pub(super) fn endpoint(&self) -> io::Result<Endpoint> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Endpoint::Tcp),
            Self::Unix(_, file) => Ok(Endpoint::Unix(file.path.clone())),
        }
    }
}

/// Only a socket that nobody serves may be replaced.
fn refuse_unless_free(endpoint: &Endpoint, path: &Path) -> Result<(), BindError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BindError::io(endpoint, error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket { endpoint: endpoint.clone() });
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse { endpoint: endpoint.clone() }),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
        // A full backlog answers so: somebody does listen.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(BindError::InUse { endpoint: endpoint.clone() }),
        Err(error) => Err(BindError::io(endpoint, error)),
    }
}

/// The socket is made under another name and moved into place: nobody can connect before its mode is set, and a stale
/// file is replaced in one step.
fn bind_socket(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let mut temporary = path.to_path_buf().into_os_string();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    let mut file = SocketFile::of(temporary)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(&file.path, fs::Permissions::from_mode(SOCKET_MODE))?;
    fs::rename(&file.path, path)?;
    file.path = path.to_path_buf();
    Ok((listener, file))
}

/// The file of a Unix socket, removed when this is dropped, unless another socket has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: PathBuf) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(&path)?;
        Ok(Self { path, device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |metadata: &fs::Metadata| metadata.dev() == self.device && metadata.ino() == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| ours(&metadata))
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket file");
        }
    }
}

#[cfg(test)]
mod tests;

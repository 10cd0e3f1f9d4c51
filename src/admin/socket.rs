//! Where clients come in: a Unix socket, whose file's mode says who may, and, where it is configured, a TCP listener.

use crate::limits::RELEASE;
use crate::model::Admin;
use socket2::{Domain, SockAddr, Type};
use std::fs::{self, DirBuilder, File, Metadata, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The owner and the group may connect.
const SOCKET_MODE: u32 = 0o660;

/// Who may not connect may know that there is a socket.
const DIRECTORY_MODE: u32 = 0o755;

/// Connections that wait while as many as can be are served.
const BACKLOG: i32 = 128;

/// The pause between two looks at what is in the way.
const RETRY: Duration = Duration::from_millis(5);

/// Why a start is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the admin socket {} is in use by {owner}; stop it, or set another `socket` in [admin]",
        path.display()
    )]
    Taken { path: PathBuf, owner: String },
    #[error(
        "the admin socket {} cannot be created: a file that is not a socket has this path; remove it, or set another \
         `socket` in [admin]",
        path.display()
    )]
    NoSocket { path: PathBuf },
    #[error(
        "the admin socket {} cannot be created: {error}; fix that, or set another `socket` in [admin]",
        path.display()
    )]
    Socket { path: PathBuf, error: io::Error },
    #[error("metrics cannot be served on {address}: {error}; fix that, or set another address as `metrics` in [admin]")]
    Metrics { address: SocketAddr, error: io::Error },
    #[error("the page cannot be served on {address}: {error}; fix that, or set another address as `web` in [admin]")]
    Web { address: SocketAddr, error: io::Error },
}

/// Bound, and nobody served yet.
#[derive(Debug)]
pub struct Listeners {
    pub(super) socket: Option<(UnixListener, SocketFile)>,
    pub(super) metrics: Option<TcpListener>,
    pub(super) web: Web,
}

/// Where the page is.
#[derive(Debug)]
pub(super) enum Web {
    Nowhere,
    /// Where the metrics are.
    Beside,
    Apart(TcpListener),
}

/// Binds what the configuration names. Without the default socket, which another process may have, a warning is all.
///
/// # Errors
/// What the configuration names cannot be had.
pub fn bind(admin: &Admin) -> Result<Listeners, Error> {
    let socket = match listen(&admin.socket) {
        Ok(socket) => Some(socket),
        Err(error) if admin.socket_given => return Err(error),
        Err(error) => {
            tracing::warn!("`oneip ctl` cannot reach this process: {error}");
            None
        }
    };
    let tcp =
        |address| TcpListener::bind(address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    let metrics = admin.metrics.map(|address| tcp(address).map_err(|error| Error::Metrics { address, error }));
    let metrics = metrics.transpose()?;
    let web = match admin.web {
        None => Web::Nowhere,
        Some(address) if admin.metrics == Some(address) => Web::Beside,
        Some(address) => Web::Apart(tcp(address).map_err(|error| Error::Web { address, error })?),
    };
    Ok(Listeners { socket, metrics, web })
}

impl Listeners {
    /// `None`: `oneip ctl` cannot reach this process.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_ref().map(|(_, file)| file.path.as_path())
    }

    /// Where the metrics are, with the port that the kernel chose if the plan's is 0.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Where the page is.
    pub fn web(&self) -> Option<SocketAddr> {
        match &self.web {
            Web::Nowhere => None,
            Web::Beside => self.metrics(),
            Web::Apart(listener) => listener.local_addr().ok(),
        }
    }
}

/// The socket's file, removed with this, unless another process has put its own there meanwhile.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn identity(facts: &Metadata) -> (u64, u64) {
        (facts.dev(), facts.ino())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|facts| SocketFile::identity(&facts) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A socket at `path` that listens; a dead process's gives way.
fn listen(path: &Path) -> Result<(UnixListener, SocketFile), Error> {
    let failed = |error| Error::Socket { path: path.to_owned(), error };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make(directory).map_err(failed)?;
    let give_up = Instant::now() + RELEASE;
    loop {
        let alone = alone_in(directory);
        let (connection, owner) = match found(path).map_err(failed)? {
            Found::Nothing => return bind_to(path).map_err(failed),
            Found::Dead => {
                fs::remove_file(path).map_err(failed)?;
                return bind_to(path).map_err(failed);
            }
            Found::Other => return Err(Error::NoSocket { path: path.to_owned() }),
            Found::Accepting(connection, owner) => (Some(connection), owner),
            Found::Full => (None, "a process that hangs".to_owned()),
        };
        drop(alone);
        let lives = connection.is_some_and(|connection| answers(&connection, give_up));
        if lives || Instant::now() >= give_up {
            return Err(Error::Taken { path: path.to_owned(), owner });
        }
        thread::sleep(RETRY);
    }
}

/// Whether a process answers, or keeps the connection until `give_up`. The socket of one that was killed accepts connections
/// until the process has ended, which takes a moment; the kernel hangs up then.
fn answers(mut connection: &UnixStream, give_up: Instant) -> bool {
    let patience = give_up.saturating_duration_since(Instant::now()).max(RETRY);
    let asked = connection
        .set_nonblocking(false)
        .and_then(|()| connection.set_read_timeout(Some(patience)))
        .and_then(|()| connection.set_write_timeout(Some(patience)))
        .and_then(|()| connection.write_all(b"GET /healthz HTTP/1.1\r\nHost: oneip\r\nConnection: close\r\n\r\n"));
    match asked.and_then(|()| connection.read(&mut [0])) {
        Ok(length) => length > 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

fn bind_to(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile { path: path.to_owned(), identity: SocketFile::identity(&fs::symlink_metadata(path)?) };
    // Nobody can connect before `listen`, so nobody does whom the mode keeps out.
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok((UnixListener::from(std::os::fd::OwnedFd::from(socket)), file))
}

/// Makes the directory if it is missing, whatever the umask.
fn make(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))
}

/// Of two processes that start at once and find a dead one's socket, the second must not remove the first's. Whoever may
/// read the directory may lock it, so nobody waits for long.
fn alone_in(directory: &Path) -> Option<File> {
    let directory = File::open(directory).ok()?;
    let give_up = Instant::now() + Duration::from_secs(1);
    loop {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => thread::sleep(RETRY),
            Err(_) => return None,
        }
    }
}

/// What stands where a socket shall be.
enum Found {
    Nothing,
    /// A socket that nobody listens on.
    Dead,
    /// One that takes connections, this one too, and whose it is.
    Accepting(UnixStream, String),
    /// One on which as many connections wait as can.
    Full,
    /// No socket at all.
    Other,
}

fn found(path: &Path) -> io::Result<Found> {
    match fs::symlink_metadata(path) {
        Ok(facts) if facts.file_type().is_socket() => {}
        Ok(_) => return Ok(Found::Other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    }
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Blocking, it would wait for room in the queue of a process that hangs.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => {
            let owner = match rustix::net::sockopt::socket_peercred(&socket) {
                Ok(credentials) => format!("process {}", credentials.pid),
                Err(_) => "another process".to_owned(),
            };
            Ok(Found::Accepting(UnixStream::from(std::os::fd::OwnedFd::from(socket)), owner))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Found::Full),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Found::Dead),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(error),
    }
}

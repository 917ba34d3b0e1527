//! The listening socket, and the files through which local clients find it.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use quorate_api::{ADDRESS_FILE, TOKEN_FILE};
use quorate_node::seams::Entropy;
use tokio::net::{TcpListener, TcpSocket};

use super::audit::Audit;
use super::backend::Shared;
use super::door::Door;
use super::guard::{Guard, Token};
use super::limits::{AuditLimits, BACKLOG, DoorLimits, TOKEN_SHARE};
use super::metrics::DoorMetrics;
use super::router::router;
use super::tokens::{Tokens, TokensError};

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the API cannot listen on {address}; set another address at `api.listen` (port 0 takes any free one)")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Tokens(#[from] TokensError),
    #[error("{} can be read by others (mode {mode:03o}) and opens the API. Run `chmod 600 {}`", path.display(), path.display())]
    Exposed { path: PathBuf, mode: u32 },
}

/// Where the API listens, and to whom.
#[derive(Clone, Debug)]
pub struct ListenSettings {
    pub address: SocketAddr,
    pub allow_remote: bool,
    pub limits: DoorLimits,
}

/// A bound API that is not served yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    dir: PathBuf,
    allow_remote: bool,
    tokens: Tokens,
    limits: DoorLimits,
    metrics: DoorMetrics,
}

/// As [`TcpListener::bind`] does, with a longer queue of connections that wait to be accepted.
fn listen_at(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Server {
    /// Binds the address, and reads the data folder's token or draws one.
    pub async fn bind(dir: &Path, settings: ListenSettings, entropy: &dyn Entropy) -> Result<Self, ServeError> {
        let ListenSettings { address, allow_remote, limits } = settings;
        let token = load_or_create_token(dir, entropy)?;
        let share = (limits.connections_max / TOKEN_SHARE).max(1);
        let tokens = Tokens::load(dir, token, share)?;
        let listen = |source| ServeError::Listen { address, source };
        let listener = listen_at(address).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (dir, metrics) = (dir.to_owned(), DoorMetrics::default());
        Ok(Self { listener, address, dir, allow_remote, tokens, limits, metrics })
    }

    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the node's task group closes. Requests in flight are tasks of the group, and have a moment to end.
    ///
    /// Boxed, so that the handlers are compiled here and not in the crate that starts the server.
    pub fn serve(self, backend: Shared) -> BoxFuture<'static, Result<(), ServeError>> {
        self.serve_router(backend).boxed()
    }

    async fn serve_router(self, backend: Shared) -> Result<(), ServeError> {
        let tasks = backend.tasks().clone();
        let audit = Arc::new(Audit::start(&self.dir, AuditLimits::default(), &tasks));
        let guard = Guard { tokens: Arc::new(self.tokens), audit, allow_remote: self.allow_remote };
        let app = router(backend, guard, self.limits.streams_max);
        let address_file = self.dir.join(ADDRESS_FILE);
        // Only now: whoever reads the address may ask at once.
        let file = |what, source| ServeError::File { what, path: address_file.clone(), source };
        write_private(&address_file, &self.address.to_string()).map_err(|error| file("writing", error))?;
        // Accepting never fails for good: the door waits and goes on.
        Door::new(self.limits, self.metrics).serve(self.listener, app, tasks).await;
        match fs::remove_file(&address_file) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(file("removing", source)),
            _ => Ok(()),
        }
    }
}

fn load_or_create_token(dir: &Path, entropy: &dyn Entropy) -> Result<Token, ServeError> {
    let path = dir.join(TOKEN_FILE);
    let file = |what, source| ServeError::File { what, path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => {
            let mode = fs::metadata(&path).map_err(|error| file("reading", error))?.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(ServeError::Exposed { path, mode });
            }
            Ok(Token::new(text.trim().as_bytes()))
        }
        // An empty file is a creation that a crash cut short.
        Ok(_) => draw_token(&path, entropy).map_err(|error| file("writing", error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            draw_token(&path, entropy).map_err(|error| file("writing", error))
        }
        Err(error) => Err(file("reading", error)),
    }
}

fn draw_token(path: &Path, entropy: &dyn Entropy) -> io::Result<Token> {
    let mut bytes = [0; 32];
    entropy.fill(&mut bytes);
    let text = hex::encode(bytes);
    write_private(path, &text)?;
    Ok(Token::new(text.as_bytes()))
}

/// Writes beside and renames: a reader sees all of it or none.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("new");
    // A draft that a crash left behind may have another mode.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    writeln!(file, "{text}")?;
    fs::rename(draft, path)
}

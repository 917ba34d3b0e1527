//! The listening socket, and the files through which local clients find it.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::serve::Listener;
use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_api::{ADDRESS_FILE, TOKEN_FILE};
use quorate_node::seams::Entropy;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::backend::Shared;
use super::guard::{Guard, Token};
use super::limits::{CLOSE_PATIENCE, CONNECTIONS_MAX};
use super::router::router;

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
    #[error("{} can be read by others (mode {mode:03o}) and opens the API. Run `chmod 600 {}`", path.display(), path.display())]
    Exposed { path: PathBuf, mode: u32 },
}

/// A bound API that is not served yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    address_file: PathBuf,
    guard: Guard,
}

impl Server {
    /// Binds the address, and reads the data folder's token or draws one.
    pub async fn bind(
        dir: &Path,
        address: SocketAddr,
        allow_remote: bool,
        entropy: &dyn Entropy,
    ) -> Result<Self, ServeError> {
        let token = load_or_create_token(dir, entropy)?;
        let listen = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let guard = Guard { token, allow_remote };
        Ok(Self { listener, address, address_file: dir.join(ADDRESS_FILE), guard })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the node's task group closes, and gives requests in flight a moment to end.
    ///
    /// Boxed, so that the handlers are compiled here and not in the crate that starts the server.
    pub fn serve(self, backend: Shared) -> BoxFuture<'static, Result<(), ServeError>> {
        self.serve_router(backend).boxed()
    }

    async fn serve_router(self, backend: Shared) -> Result<(), ServeError> {
        let shutdown = backend.tasks().shutdown_token();
        let app = router(backend, self.guard);
        let limited = Limited { listener: self.listener, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
        // Only now: whoever reads the address may ask at once.
        let file = |what, source| ServeError::File { what, path: self.address_file.clone(), source };
        write_private(&self.address_file, &self.address.to_string()).map_err(|error| file("writing", error))?;
        let closing = shutdown.clone();
        let server = axum::serve(limited, app).with_graceful_shutdown(closing.cancelled_owned());
        let patience = async {
            shutdown.cancelled().await;
            tokio::time::sleep(CLOSE_PATIENCE).await;
        };
        tokio::select! {
            // Accepting never fails for good: axum waits and goes on.
            _ = server => (),
            () = patience => (),
        }
        match fs::remove_file(&self.address_file) {
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
            Ok(Token::new(text.trim()))
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
    Ok(Token::new(&text))
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

/// A listener with at most [`CONNECTIONS_MAX`] connections open.
struct Limited {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

/// A connection and its place among them.
struct Connection {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Answers are small and waited for.
        let _ = stream.set_nodelay(true);
        (Connection { stream, _permit: permit }, address)
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

//! Where HTTP is spoken: a TCP address or a Unix socket.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::Config;
use crate::config::file::Listen;
use crate::durable::Dir;

/// A place at which connections come.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, String),
}

/// One connection.
pub enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    /// Listens there.
    pub fn bind(listen: &Listen, config: &Config) -> anyhow::Result<Self> {
        match listen {
            Listen::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(TcpListener::from_std(listener)?))
            }
            Listen::Unix(path) => {
                let path = config.absolute(path);
                remove_stale(&path)?;
                Ok(Self::Unix(UnixListener::bind(&path)?, path.display().to_string()))
            }
        }
    }

    /// Whether a start could listen there; nothing is left. When it `is_ours`, the daemon of this job
    /// listens there.
    ///
    /// # Errors
    /// Says why not.
    pub fn check(listen: &Listen, config: &Config, is_ours: bool) -> anyhow::Result<()> {
        let path = match listen {
            Listen::Tcp(address) => {
                return match std::net::TcpListener::bind(address) {
                    Err(error) if is_ours && error.kind() == ErrorKind::AddrInUse => Ok(()),
                    Err(error) => Err(error.into()),
                    Ok(_) => Ok(()),
                };
            }
            Listen::Unix(path) => config.absolute(path),
        };
        if let Ok(found) = path.symlink_metadata() {
            anyhow::ensure!(found.file_type().is_socket(), "there is something that is no socket");
            let is_held = std::os::unix::net::UnixStream::connect(&path).is_ok();
            anyhow::ensure!(is_ours || !is_held, "another program listens there");
            // A start removes what an earlier one has left.
            let folder = path.parent().unwrap_or(Path::new("/"));
            let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
            return rustix::fs::access(folder, access).context("its folder cannot be written to");
        }
        let _bound = std::os::unix::net::UnixListener::bind(&path)?;
        let dir = Dir::open(path.parent().unwrap_or(Path::new("/")))?;
        Ok(dir.unlink(path.file_name().unwrap_or_default())?)
    }

    /// Where that is; with the port that was given for port 0.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| String::new(), |address| address.to_string())
            }
            Self::Unix(_, path) => path.clone(),
        }
    }

    /// True when only this machine can connect by TCP.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().is_ok_and(|address| address.ip().is_loopback())
            }
            Self::Unix(..) => false,
        }
    }

    /// The next connection.
    pub async fn accept(&self) -> std::io::Result<Connection> {
        match self {
            Self::Tcp(listener) => Ok(Connection::Tcp(listener.accept().await?.0)),
            Self::Unix(listener, _) => Ok(Connection::Unix(listener.accept().await?.0)),
        }
    }
}

/// Removes the socket that an earlier run has left, and nothing else.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let Ok(found) = path.symlink_metadata() else { return Ok(()) };
    anyhow::ensure!(found.file_type().is_socket(), "there is something that is no socket");
    anyhow::ensure!(
        std::os::unix::net::UnixStream::connect(path).is_err(),
        "another program listens there"
    );
    let dir = Dir::open(path.parent().unwrap_or(Path::new("/")))?;
    Ok(dir.unlink(path.file_name().context("the socket has no name")?)?)
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

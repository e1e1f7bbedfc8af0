//! The listener of an endpoint: connections as they come, through TLS where there is a certificate, and only so many.
//!
//! Handshakes go on beside each other, each with a limit of time, so that whoever stays silent holds nobody up.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

/// Connections at once at most: sockets of workers and what their browsers fetch beside them.
const MOST_CONNECTIONS: usize = 1024;
/// Handshakes at once at most; then new connections wait.
const MOST_HANDSHAKES: usize = 128;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may carry nothing. Links carry heartbeats, and a browser opens another where one was closed.
const IDLE: Duration = Duration::from_secs(60);

/// Where tabs of other machines come in.
pub(crate) struct Door {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    room: Arc<Semaphore>,
    opening: FuturesUnordered<BoxFuture<'static, Option<(Passage, SocketAddr)>>>,
}

impl Door {
    pub(crate) fn new(listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        Self { listener, tls, room: Arc::new(Semaphore::new(MOST_CONNECTIONS)), opening: FuturesUnordered::new() }
    }
}

/// What a connection is read from and written to.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that has come in.
pub(crate) struct Passage {
    stream: Box<dyn Stream>,
    /// Ends it when it has carried nothing for too long.
    idle: Pin<Box<Sleep>>,
    _room: OwnedSemaphorePermit,
}

impl Listener for Door {
    type Io = Passage;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Passage, SocketAddr) {
        loop {
            let Self { listener, tls, room, opening } = self;
            let may_open = opening.len() < MOST_HANDSHAKES;
            let incoming = async {
                let permit = Arc::clone(room).acquire_owned().await;
                (permit, Listener::accept(listener).await)
            };
            tokio::select! {
                (permit, (stream, from)) = incoming, if may_open => {
                    // The semaphore is never closed.
                    let Ok(permit) = permit else { continue };
                    opening.push(Box::pin(opened(stream, from, tls.clone(), permit)));
                }
                Some(opened) = opening.next(), if !opening.is_empty() => {
                    if let Some(opened) = opened {
                        return opened;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that is ready to be spoken on, or nothing where its handshake fails.
async fn opened(
    stream: TcpStream,
    from: SocketAddr,
    tls: Option<TlsAcceptor>,
    room: OwnedSemaphorePermit,
) -> Option<(Passage, SocketAddr)> {
    // Frames are small and wait for answers: held back until the last one is acknowledged, each would cost 40 ms.
    if let Err(e) = stream.set_nodelay(true) {
        tracing::warn!(error = %e, "a connection holds small messages back");
    }
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(stream),
        Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => Box::new(stream),
            Ok(Err(e)) => {
                tracing::debug!(%from, error = %e, "a TLS handshake failed");
                return None;
            }
            Err(_) => {
                tracing::debug!(%from, "a TLS handshake took too long");
                return None;
            }
        },
    };
    let idle = Box::pin(tokio::time::sleep(IDLE));
    Some((Passage { stream, idle, _room: room }, from))
}

impl Passage {
    fn carried(&mut self) {
        self.idle.as_mut().reset(Instant::now() + IDLE);
    }
}

impl AsyncRead for Passage {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        match Pin::new(&mut *self.stream).poll_read(context, into) {
            Poll::Pending => match self.idle.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Poll::Pending => Poll::Pending,
            },
            Poll::Ready(read) => {
                if into.filled().len() > before {
                    self.carried();
                }
                Poll::Ready(read)
            }
        }
    }
}

impl AsyncWrite for Passage {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream).poll_write(context, bytes);
        if written.is_ready() {
            self.carried();
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream).poll_write_vectored(context, pieces);
        if written.is_ready() {
            self.carried();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}

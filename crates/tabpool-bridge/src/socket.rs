//! What a connection needs of its transport: whole binary messages, in order.

use axum::extract::ws::{Message, WebSocket, close_code};
use bytes::Bytes;
use futures::SinkExt as _;
use tokio::sync::mpsc;

fn broke(error: &axum::Error) -> String {
    format!("the socket broke: {error}")
}

/// A transport of one connection.
pub(crate) enum Socket {
    /// A WebSocket.
    Web(Box<WebSocket>),
    /// Two channels of this process.
    Local { incoming: mpsc::Receiver<Bytes>, outgoing: mpsc::Sender<Bytes> },
}

impl Socket {
    /// The next message, or why there is none. Cancel safe.
    pub(crate) async fn receive(&mut self) -> Result<Bytes, String> {
        match self {
            Socket::Web(socket) => loop {
                match socket.recv().await {
                    Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Text(_))) => {
                        return Err("a text message came, only binary ones are spoken".to_owned());
                    }
                    Some(Ok(Message::Close(Some(frame)))) => {
                        return Err(format!("the worker closed the socket ({}) {}", frame.code, frame.reason));
                    }
                    Some(Ok(Message::Close(None))) | None => return Err("the worker closed the socket".to_owned()),
                    Some(Err(e)) => return Err(broke(&e)),
                }
            },
            Socket::Local { incoming, .. } => incoming.recv().await.ok_or_else(|| "the worker ended".to_owned()),
        }
    }

    /// Gives a message to the transport, which sends it by the next [`flush`](Self::flush) at the latest.
    pub(crate) async fn feed(&mut self, message: Bytes) -> Result<(), String> {
        match self {
            Socket::Web(socket) => socket.feed(Message::Binary(message)).await.map_err(|e| broke(&e)),
            Socket::Local { outgoing, .. } => outgoing.send(message).await.map_err(|_| "the worker ended".to_owned()),
        }
    }

    /// Waits until everything is on its way.
    pub(crate) async fn flush(&mut self) -> Result<(), String> {
        match self {
            Socket::Web(socket) => socket.flush().await.map_err(|e| broke(&e)),
            Socket::Local { .. } => Ok(()),
        }
    }

    /// Closes in order; a transport that does not close in time is dropped.
    pub(crate) async fn close(self, reason: &str) {
        if let Socket::Web(mut socket) = self {
            // A close frame's reason may have 123 bytes.
            let mut end = reason.len().min(120);
            while !reason.is_char_boundary(end) {
                end -= 1;
            }
            let frame = axum::extract::ws::CloseFrame { code: close_code::NORMAL, reason: reason[..end].into() };
            let close = socket.send(Message::Close(Some(frame)));
            // The peer may be gone already; there is nobody left to tell.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), close).await;
        }
    }
}

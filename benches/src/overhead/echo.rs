//! The peer: a bare WebSocket whose server answers each message with another one, both as long as a request's frames are.

use std::net::Ipv4Addr;
use std::time::Instant;

use bytes::Bytes;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::microseconds;
use crate::Fault;

/// An open WebSocket.
pub(super) type Client = WebSocketStream<TcpStream>;

/// Opens a WebSocket that sends small messages at once.
pub(super) async fn connect(address: &str, path: &str) -> Result<Client, Fault> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(tokio_tungstenite::client_async(format!("ws://{address}{path}"), stream).await?.0)
}

/// The peer. It ends with this.
#[derive(Debug)]
pub(super) struct Echo {
    client: Client,
    question: Bytes,
    server: JoinHandle<()>,
}

impl Echo {
    /// A server, and a socket to it, for messages of these lengths.
    pub(super) async fn open([question, answer]: [usize; 2]) -> Result<Self, Fault> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?.to_string();
        let answer = Bytes::from(vec![0; answer]);
        let server = tokio::spawn(async move {
            if let Err(e) = serve(listener, answer).await {
                eprintln!("the bare WebSocket ended: {e}");
            }
        });
        Ok(Self { client: connect(&address, "/").await?, question: vec![0; question].into(), server })
    }

    /// One message after another; gives each one's time there and back.
    pub(super) async fn alone(&mut self, count: usize) -> Result<Vec<f64>, Fault> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = Instant::now();
            self.client.send(Message::Binary(self.question.clone())).await?;
            self.hear().await?;
            times.push(microseconds(begun.elapsed()));
        }
        Ok(times)
    }

    /// As many as that, so many at a time.
    pub(super) async fn many(&mut self, count: usize, at_once: usize) -> Result<(), Fault> {
        let (mut sent, mut heard) = (0, 0);
        while heard < count {
            while sent < count && sent - heard < at_once {
                self.client.feed(Message::Binary(self.question.clone())).await?;
                sent += 1;
            }
            self.client.flush().await?;
            self.hear().await?;
            heard += 1;
            // What has come already makes room for as many more.
            while let Some(Some(message)) = self.client.next().now_or_never() {
                message?;
                heard += 1;
            }
        }
        Ok(())
    }

    async fn hear(&mut self) -> Result<(), Fault> {
        self.client.next().await.ok_or("the bare WebSocket was closed")??;
        Ok(())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, answer: Bytes) -> Result<(), Fault> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    while let Some(message) = socket.next().await {
        message?;
        socket.feed(Message::Binary(answer.clone())).await?;
        while let Some(Some(message)) = socket.next().now_or_never() {
            message?;
            socket.feed(Message::Binary(answer.clone())).await?;
        }
        socket.flush().await?;
    }
    Ok(())
}

//! A worker that says what it is told to say: for joins that must be refused and answers that must not be believed.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tabpool_pool::ResourcePool;
use tabpool_protocol::{
    AdapterInfo, ApiKind, ApiReport, Capabilities, Frame, Hello, Limits, Message, OLDEST_VERSION, VERSION,
};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{self, Error};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::Fault;

/// No answer of a host on this machine takes longer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// Where a pool is joined, and the token that lets one in.
#[derive(Clone, Debug)]
pub struct Door {
    /// The host and port.
    pub address: String,
    /// A good token.
    pub token: String,
}

impl Door {
    /// The door of a pool, with a new ticket.
    ///
    /// # Errors
    /// Where the join URL is not of the form that tabs are given.
    pub fn of(pool: &ResourcePool) -> Result<Self, Fault> {
        Self::at(&pool.join_url())
    }

    /// The door that a ticket's URL leads to.
    ///
    /// # Errors
    /// Where it is not of the form that tabs are given.
    pub fn at(url: &str) -> Result<Self, Fault> {
        let (address, fields) = url.split_once("/#token=").ok_or("the join URL has no token")?;
        let address = address.strip_prefix("http://").ok_or("the join URL is not of HTTP")?;
        let token = fields.split('&').next().unwrap_or_default();
        Ok(Self { address: address.to_owned(), token: token.to_owned() })
    }

    /// Opens a socket, with headers beyond the usual ones or in their place.
    ///
    /// # Errors
    /// The status, where the host refuses to open it.
    pub async fn knock(&self, headers: &[(&'static str, &str)]) -> Result<Intruder, Fault> {
        let mut request = format!("ws://{}/link", self.address).into_client_request()?;
        for &(name, value) in headers {
            request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_str(value)?);
        }
        let opened = tokio::time::timeout(ANSWERED_WITHIN, connect_async(request)).await?;
        let (socket, _) = opened.map_err(|e| -> Fault {
            match e {
                Error::Http(response) => format!("status {}", response.status().as_u16()).into(),
                e => e.into(),
            }
        })?;
        Ok(Intruder { socket })
    }

    /// Joins as a worker that claims a processor.
    ///
    /// # Errors
    /// Where the host does not welcome it.
    pub async fn join(&self) -> Result<Intruder, Fault> {
        Ok(self.enter(hello(&self.token)).await?.0)
    }

    /// Joins or resumes with these words; gives the session as well, and whether it is the one that was to be resumed.
    ///
    /// # Errors
    /// Where the host does not welcome it.
    pub async fn enter(&self, hello: Hello) -> Result<(Intruder, String, bool), Fault> {
        let mut intruder = self.knock(&[]).await?;
        intruder.send(Message::Hello(Box::new(hello)).into()).await?;
        match intruder.hear().await? {
            Some(Frame { message: Message::Welcome { session, resumed, .. }, .. }) => Ok((intruder, session, resumed)),
            other => Err(format!("no welcome: {other:?}").into()),
        }
    }
}

/// What a worker says that speaks this version and has a processor.
#[must_use]
pub fn hello(token: &str) -> Hello {
    let cpu = ApiReport { api: ApiKind::Cpu, adapter: Ok(AdapterInfo::default()) };
    Hello {
        oldest: OLDEST_VERSION,
        newest: VERSION,
        token: token.to_owned(),
        capabilities: Capabilities { browser: "intruder".to_owned(), apis: vec![cpu], ..Capabilities::default() },
        ..Hello::default()
    }
}

/// An open socket.
pub struct Intruder {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Intruder {
    /// Sends a frame.
    ///
    /// # Errors
    /// Where the socket is closed.
    pub async fn send(&mut self, frame: Frame) -> Result<(), Fault> {
        self.send_bytes(frame.encode()).await
    }

    /// Sends a binary message.
    ///
    /// # Errors
    /// Where the socket is closed.
    pub async fn send_bytes(&mut self, bytes: Bytes) -> Result<(), Fault> {
        Ok(self.socket.send(tungstenite::Message::Binary(bytes)).await?)
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// Where the socket is closed.
    pub async fn send_text(&mut self, text: &str) -> Result<(), Fault> {
        Ok(self.socket.send(tungstenite::Message::Text(text.into())).await?)
    }

    /// The next frame; `None` where the host has closed the socket.
    ///
    /// # Errors
    /// Where nothing comes in time, or what comes is no frame.
    pub async fn hear(&mut self) -> Result<Option<Frame>, Fault> {
        loop {
            let message = tokio::time::timeout(ANSWERED_WITHIN, self.socket.next()).await;
            match message.map_err(|_| "the host says nothing and does not close either")? {
                Some(Ok(tungstenite::Message::Binary(bytes))) => {
                    return Ok(Some(Frame::decode(&bytes, &Limits::default())?));
                }
                Some(Ok(tungstenite::Message::Close(_)) | Err(_)) | None => return Ok(None),
                Some(Ok(_)) => {}
            }
        }
    }

    /// Listens until the host closes the socket; gives the last frame before that, heartbeats left out.
    ///
    /// # Errors
    /// Where the host does not close it.
    pub async fn last_words(&mut self) -> Result<Option<Message>, Fault> {
        let mut last = None;
        while let Some(frame) = self.hear().await? {
            if !matches!(frame.message, Message::Ping { .. } | Message::Pong { .. }) {
                last = Some(frame.message);
            }
        }
        Ok(last)
    }
}

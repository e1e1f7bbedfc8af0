//! One connection from its first message to its end: the task that owns its socket.

use std::sync::Arc;
use std::time::Duration;

use tabpool_protocol::{Frame, Hello, HostEvent, HostSession, Message, RefusalCode, SessionError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::bridge::{BridgeEvent, Remote, Shared};
use crate::sessions::{Order, Session, WorkerId, WorkerLink};
use crate::socket::Socket;
use crate::tokens::{TokenId, random_name};

/// Frames that wait for one worker's socket. Credits bound what the host sends; this is for loads and pings besides.
const ORDERS: usize = 64;

/// Who is at the other end, once it has joined.
struct Joined {
    name: String,
    worker: WorkerId,
    connection: u64,
}

/// How it came in.
enum Entry {
    /// With this token, of this tag.
    New { token: TokenId, tag: Option<u64> },
    /// Its session goes on.
    Back,
}

/// Why it may not.
type Refusal = (RefusalCode, String);

struct Connection {
    shared: Arc<Shared>,
    socket: Socket,
    session: HostSession,
    start: Instant,
    orders: mpsc::Receiver<Order>,
    sender: mpsc::Sender<Order>,
    remote: Remote,
    /// Whether the host turned it away for a reason of its own.
    blameless: bool,
}

/// Why a connection's loop ended.
enum End {
    /// It may come back: the socket broke or fell silent.
    Broken(String),
    /// It will not: it left, misbehaved or was refused.
    Final(String),
    /// It will not: it was sent away, and may still put things in order.
    Dismissed(String),
}

/// Serves a connection until it ends.
pub(crate) async fn serve(shared: Arc<Shared>, socket: Socket, remote: Remote) {
    let (sender, orders) = mpsc::channel(ORDERS);
    let session = HostSession::new(shared.config.session, shared.config.limits, Duration::ZERO);
    let start = Instant::now();
    let blameless = false;
    let mut connection = Connection { shared, socket, session, start, orders, sender, remote, blameless };
    let mut joined = None;
    let end = connection.run(&mut joined).await;
    connection.finish(joined, end).await;
}

impl Connection {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    async fn run(&mut self, joined: &mut Option<Joined>) -> End {
        loop {
            let deadline = self.session.deadline().map(|d| self.start + d);
            let sleep = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let mut out = Vec::new();
            let step = tokio::select! {
                message = self.socket.receive() => match message {
                    Ok(bytes) => self.received(&bytes, joined, &mut out).await,
                    Err(reason) => Err(End::Broken(reason)),
                },
                // The sender kept in `self` keeps this channel open.
                Some(order) = self.orders.recv() => self.obey(order, &mut out),
                () = sleep => {
                    let now = self.now();
                    self.session.tick(now, &mut out).map_err(|e| match e {
                        SessionError::Silent(_) => End::Broken(e.to_string()),
                        e => End::Final(e.to_string()),
                    })
                }
            };
            if let Err(reason) = self.send(out).await {
                return End::Broken(reason);
            }
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Takes an order, and those that wait behind it: what is sent together costs the system one call.
    fn obey(&mut self, first: Order, out: &mut Vec<Frame>) -> Result<(), End> {
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Send(frame) => out.push(frame),
                Order::Close(reason) => {
                    out.push(Message::Bye { reason: reason.clone() }.into());
                    return Err(End::Dismissed(reason));
                }
            }
            // No more than the queue holds, so that a host that is quicker than this does not keep it from listening.
            next = if out.len() < ORDERS { self.orders.try_recv().ok() } else { None };
        }
        Ok(())
    }

    /// Sends frames in order; a worker that takes none for too long is not waited for.
    async fn send(&mut self, frames: Vec<Frame>) -> Result<(), String> {
        if frames.is_empty() {
            return Ok(());
        }
        let limit = self.shared.config.session.timeout;
        let late = |_| "the worker does not take its messages".to_owned();
        for frame in frames {
            tokio::time::timeout(limit, self.socket.feed(frame.encode())).await.map_err(late)??;
        }
        tokio::time::timeout(limit, self.socket.flush()).await.map_err(late)?
    }

    async fn received(
        &mut self,
        bytes: &bytes::Bytes,
        joined: &mut Option<Joined>,
        out: &mut Vec<Frame>,
    ) -> Result<(), End> {
        let now = self.now();
        let event = self.session.receive(now, bytes, out).map_err(|e| match (&joined, &e) {
            (None, e) => End::Final(format!("refused: {e}")),
            (Some(_), e) => End::Final(e.to_string()),
        })?;
        match (event, joined.as_ref()) {
            (Some(HostEvent::Hello(hello)), _) => {
                *joined = Some(self.admit(*hello, out).await?);
                Ok(())
            }
            (Some(HostEvent::Frame(frame)), Some(who)) => {
                self.shared.tell(BridgeEvent::Frame { worker: who.worker, frame }).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Decides on a hello: a known session goes on, a good token joins, anything else is refused.
    async fn admit(&mut self, hello: Hello, out: &mut Vec<Frame>) -> Result<Joined, End> {
        let admitted = self.decide(&hello);
        match admitted {
            Ok((who, entry)) => {
                out.push(self.session.welcome(self.now(), &who.name, matches!(entry, Entry::Back)));
                let link = WorkerLink { id: who.worker, sessions: Arc::clone(&self.shared.sessions) };
                let (worker, hello) = (who.worker, Box::new(hello));
                let event = match entry {
                    Entry::Back => BridgeEvent::Resumed { worker, hello },
                    Entry::New { token, tag } => {
                        let (session, remote) = (who.name.clone(), self.remote.name.clone());
                        BridgeEvent::Joined { link, token, tag, session, hello, remote }
                    }
                };
                self.shared.tell(event).await;
                Ok(who)
            }
            Err((code, reason)) => {
                self.blameless = matches!(code, RefusalCode::Full | RefusalCode::Closing);
                out.push(self.session.refuse(code, reason.clone()));
                Err(End::Final(format!("refused: {reason}")))
            }
        }
    }

    /// Enters the worker into the table.
    fn decide(&self, hello: &Hello) -> Result<(Joined, Entry), Refusal> {
        let Shared { config, sessions, tokens, .. } = &*self.shared;
        let mut table = sessions.lock();
        if table.closing {
            return Err((RefusalCode::Closing, "the pool is closing".to_owned()));
        }
        table.last_connection += 1;
        let connection = table.last_connection;
        let orders = Some(self.sender.clone());
        // A session's name is as good a secret as a token, and known to its worker only: one that joined in time comes back
        // when its token has expired or was revoked, unless it was sent home.
        if let Some(name) = &hello.resume
            && let Some(session) = table.by_name.get_mut(name).filter(|session| !session.expelled)
        {
            session.connection = connection;
            session.orders = orders;
            return Ok((Joined { name: name.clone(), worker: session.worker, connection }, Entry::Back));
        }
        let (token, grant) = tokens.check(&hello.token).map_err(|e| (RefusalCode::Token, e.to_string()))?;
        if table.by_name.len() >= config.most_workers {
            return Err((RefusalCode::Full, format!("the pool has its {} workers", config.most_workers)));
        }
        if let Some(most) = grant.most.filter(|&most| table.joined_with(token) >= most as usize) {
            let tabs = if most == 1 { "one worker".to_owned() } else { format!("{most} workers") };
            return Err((RefusalCode::Full, format!("the join token lets {tabs} in at once, and no more")));
        }
        table.last_worker += 1;
        let (name, worker) = (random_name(), WorkerId(table.last_worker));
        let session = Session { worker, token, expelled: false, connection, orders };
        table.by_name.insert(name.clone(), session);
        Ok((Joined { name, worker, connection }, Entry::New { token, tag: grant.tag }))
    }

    async fn finish(mut self, joined: Option<Joined>, end: End) {
        self.orders.close();
        let (reason, may_resume) = match end {
            End::Broken(reason) => (reason, true),
            End::Final(reason) => (reason, false),
            End::Dismissed(reason) => {
                // A worker that is sent home first keeps what it has fetched; what it says by then is of no use any more.
                let hung_up = async { while self.socket.receive().await.is_ok() {} };
                let _ = tokio::time::timeout(self.shared.config.parting, hung_up).await;
                (reason, false)
            }
        };
        // Counted before the socket is closed, which takes as long as whoever is at the other end likes.
        if let Some(address) = self.remote.counted.filter(|_| joined.is_none() && !self.blameless) {
            self.shared.strikes.add(address);
        }
        self.socket.close(&reason).await;
        let Some(who) = joined else {
            let remote = self.remote.name;
            tracing::debug!(remote, reason, "a connection ended before it joined");
            self.shared.tell(BridgeEvent::Refused { remote, reason }).await;
            return;
        };
        let current = {
            let mut table = self.shared.sessions.lock();
            let session = table.by_name.get_mut(&who.name).filter(|s| s.connection == who.connection);
            session.map(|s| s.orders = None).is_some()
        };
        // Otherwise a newer connection has taken the session over already.
        if !current {
            return;
        }
        if may_resume {
            self.shared.tell(BridgeEvent::Detached { worker: who.worker, reason: reason.clone() }).await;
            tokio::time::sleep(self.shared.config.grace).await;
        }
        let lost = {
            let mut table = self.shared.sessions.lock();
            let still = table.by_name.get(&who.name).is_some_and(|s| s.connection == who.connection);
            still && table.by_name.remove(&who.name).is_some()
        };
        if lost {
            self.shared.tell(BridgeEvent::Lost { worker: who.worker, reason }).await;
        }
    }
}

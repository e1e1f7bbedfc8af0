//! A worker that has loaded whatever it is given and answers every run at once: the other side of a real link, without a
//! device.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{FutureExt as _, SinkExt as _, StreamExt as _};
use tabpool::{AdapterInfo, ApiKind, ApiReport, Capabilities, LoadStats, ResourcePool, Tensor};
use tabpool_protocol::{Frame, Hello, Limits, Message, OLDEST_VERSION, RunStats, VERSION, WorkerEvent, WorkerSession};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite;

use super::NUMBERS;
use super::echo::{Client, connect};
use crate::Fault;
use crate::rig::host::joined;

/// No host on this machine takes longer to answer the first frame.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The bytes of the last run's question and of its answer.
#[derive(Debug, Default)]
struct Sizes {
    question: AtomicUsize,
    answer: AtomicUsize,
}

/// Such workers. They end with this.
#[derive(Debug)]
pub(super) struct NullWorker {
    sizes: Arc<Sizes>,
    tasks: JoinSet<()>,
}

impl NullWorker {
    /// Has so many join.
    pub(super) async fn join(pool: &ResourcePool, count: usize) -> Result<Self, Fault> {
        let url = pool.join_url();
        let (address, token) = url.split_once("/#token=").ok_or("the join URL has no token")?;
        let address = address.strip_prefix("http://").ok_or("the join URL is not of HTTP")?;
        let sizes = Arc::new(Sizes::default());
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let mut events = pool.events();
            let (client, token, sizes) = (connect(address, "/link").await?, token.to_owned(), Arc::clone(&sizes));
            tasks.spawn(async move {
                if let Err(e) = serve(client, &token, &sizes).await {
                    eprintln!("a worker ended: {e}");
                }
            });
            joined(&mut events).await?;
        }
        Ok(Self { sizes, tasks })
    }

    /// The bytes of a question and of its answer, as they were on the wire.
    pub(super) fn sizes(&self) -> [usize; 2] {
        [&self.sizes.question, &self.sizes.answer].map(|size| size.load(Ordering::Relaxed))
    }

    pub(super) fn leave(mut self) {
        self.tasks.abort_all();
    }
}

fn hello(token: &str) -> Hello {
    let cpu = ApiReport { api: ApiKind::Cpu, adapter: Ok(AdapterInfo::default()) };
    Hello {
        oldest: OLDEST_VERSION,
        newest: VERSION,
        token: token.to_owned(),
        capabilities: Capabilities { browser: "null".to_owned(), apis: vec![cpu], ..Capabilities::default() },
        ..Hello::default()
    }
}

async fn serve(mut client: Client, token: &str, sizes: &Sizes) -> Result<(), Fault> {
    let epoch = Instant::now();
    let mut session = WorkerSession::new(Limits::default(), HANDSHAKE, Duration::ZERO);
    let numbers = Tensor::from_f32([1, NUMBERS], vec![0.0; NUMBERS])?;
    let mut out = Vec::new();
    client.send(binary(Frame::from(Message::Hello(Box::new(hello(token)))).encode())).await?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        let mut next = tokio::select! {
            next = client.next() => next,
            _ = ticks.tick() => {
                session.tick(epoch.elapsed(), &mut out)?;
                for frame in out.drain(..) {
                    client.send(binary(frame.encode())).await?;
                }
                continue;
            }
        };
        // What has come already is answered together, as a browser's loop of events does it.
        loop {
            let Some(message) = next else { return Ok(()) };
            if let tungstenite::Message::Binary(bytes) = message? {
                // Heartbeats are answered by the session itself.
                if let Some(WorkerEvent::Frame(frame)) = session.receive(epoch.elapsed(), &bytes, &mut out)? {
                    out.extend(answer(&frame, &numbers));
                }
                for frame in out.drain(..) {
                    let encoded = frame.encode();
                    if matches!(frame.message, Message::Finished { .. }) {
                        sizes.question.store(bytes.len(), Ordering::Relaxed);
                        sizes.answer.store(encoded.len(), Ordering::Relaxed);
                    }
                    client.feed(binary(encoded)).await?;
                }
            }
            match client.next().now_or_never() {
                Some(more) => next = more,
                None => break,
            }
        }
        client.flush().await?;
    }
}

fn answer(frame: &Frame, numbers: &Tensor) -> Option<Frame> {
    let message = match frame.message {
        Message::Load { program, api, .. } => {
            return Some(Message::Loaded { program, api, stats: LoadStats::default(), kept: Vec::new() }.into());
        }
        Message::Run { attempt, .. } => Message::Finished { attempt, stats: RunStats::default() },
        _ => return None,
    };
    Some(Frame { id: frame.id, message, tensors: vec![numbers.clone()] })
}

fn binary(bytes: Bytes) -> tungstenite::Message {
    tungstenite::Message::Binary(bytes)
}

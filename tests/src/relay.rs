//! A bad line between a tab and its host: what goes through it can be held back, cut and garbled, but never reordered,
//! because no stream is.
//!
//! A tab that is opened at the relay's address joins the host through it. Each request goes over a connection of its own under
//! the host's name, as a proxy has it. The script of the tab's worker is served with some lines before it, by which the devices
//! that the worker opens can be [destroyed](Relay::destroy_devices) as a driver's fault would.

use std::collections::VecDeque;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Fault;
use crate::places::repository;

/// No request of a browser's has a longer head.
const LONGEST_HEAD: usize = 64 << 10;
/// What is read at a time.
const PIECE: usize = 64 << 10;
/// After this it tries again to take a connection that it could not take.
const ACCEPTS_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Orders that wait for a tab to ask.
const MOST_ORDERS: usize = 16;

/// Remembers the devices that a worker opens, and asks now and then whether to destroy them.
const HOOK: &str = r#"
const opened = [];
const open = globalThis.GPUAdapter?.prototype.requestDevice;
if (open) GPUAdapter.prototype.requestDevice = async function (...given) {
  const device = await open.apply(this, given);
  opened.push(device);
  return device;
};
async function obey() {
  const answer = await fetch("/faults/next").catch(() => null);
  if ((await answer?.text().catch(() => "")) === "destroy") {
    const devices = opened.splice(0);
    for (const device of devices) device.destroy();
    await fetch(`/faults/destroyed/${devices.length}`).catch(() => null);
  }
  setTimeout(obey, 500);
}
obey();
"#;

/// The line. It ends with this.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    host: SocketAddr,
    cut: broadcast::Sender<()>,
    junk: broadcast::Sender<Bytes>,
    held_until: watch::Sender<Instant>,
    orders: Mutex<VecDeque<&'static str>>,
    destroyed: AtomicU64,
}

impl Relay {
    /// A good line to a host, so far.
    ///
    /// # Errors
    /// Where there is no port for it.
    pub async fn to(host: SocketAddr) -> Result<Self, Fault> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            host,
            cut: broadcast::channel(4).0,
            junk: broadcast::channel(4).0,
            held_until: watch::channel(Instant::now()).0,
            orders: Mutex::default(),
            destroyed: AtomicU64::new(0),
        });
        let ours = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((tab, _)) = listener.accept().await else {
                    // The process may have no descriptor left; it will.
                    tokio::time::sleep(ACCEPTS_AGAIN_AFTER).await;
                    continue;
                };
                let shared = Arc::clone(&ours);
                // A connection that fails is what a relay is for; the tab and the host see its end.
                connections.spawn(async move { drop(serve(&shared, tab).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, shared, task })
    }

    /// The URL of a host's, as it is here.
    ///
    /// # Errors
    /// Where it is no URL of that host.
    pub fn url(&self, url: &str) -> Result<String, Fault> {
        let host = self.shared.host.to_string();
        let (before, after) = url.split_once(&host).ok_or_else(|| format!("{url} is not at {host}"))?;
        Ok(format!("{before}{}{after}", self.address))
    }

    /// Cuts every connection; gives how many ends there were. New ones are let through.
    #[must_use]
    pub fn cut(&self) -> usize {
        self.shared.cut.send(()).unwrap_or_default()
    }

    /// Holds back what comes from now on, both ways, for so long.
    pub fn hold(&self, time: Duration) {
        self.shared.held_until.send_replace(Instant::now() + time);
    }

    /// Puts bytes into the stream of every open socket, on their way to the host; gives how many sockets there were.
    #[must_use]
    pub fn garble(&self, junk: Vec<u8>) -> usize {
        self.shared.junk.send(junk.into()).unwrap_or_default()
    }

    /// Has tabs destroy every device that they have opened, when they next ask.
    pub fn destroy_devices(&self) {
        let mut orders = self.shared.orders();
        if orders.len() < MOST_ORDERS {
            orders.push_back("destroy");
        }
    }

    /// How many devices tabs have destroyed.
    #[must_use]
    pub fn destroyed(&self) -> u64 {
        self.shared.destroyed.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn orders(&self) -> MutexGuard<'_, VecDeque<&'static str>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(shared: &Shared, mut tab: TcpStream) -> Result<(), Fault> {
    tab.set_nodelay(true)?;
    let (mut cut, junk) = (shared.cut.subscribe(), shared.junk.subscribe());
    let (head, rest) = head_of(&mut tab).await?;
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    if let Some(answer) = own(shared, &path)? {
        return Ok(tab.write_all(answer.as_bytes()).await?);
    }
    let mut host = TcpStream::connect(shared.host).await?;
    host.set_nodelay(true)?;
    let (head, is_socket) = under_its_name(&head, shared.host);
    host.write_all(head.as_bytes()).await?;
    host.write_all(&rest).await?;
    let (from_tab, to_tab) = tab.into_split();
    let (from_host, to_host) = host.into_split();
    let up = pump(shared, from_tab, to_host, is_socket.then_some(junk));
    let down = pump(shared, from_host, to_tab, None);
    tokio::select! {
        // The end of one way is not the end of the other: a request is over before its answer comes.
        _ = async { tokio::join!(up, down) } => {}
        _ = cut.recv() => {}
    }
    Ok(())
}

/// The head of a request, and what came with it of its body.
async fn head_of(tab: &mut TcpStream) -> Result<(String, Vec<u8>), Fault> {
    let mut read = Vec::new();
    loop {
        if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = read.split_off(at + 4);
            return Ok((String::from_utf8(read)?, rest));
        }
        if read.len() > LONGEST_HEAD || tab.read_buf(&mut read).await? == 0 {
            return Err("no request came".into());
        }
    }
}

/// The head as the host is to see it, and whether it asks for a socket. One request a connection is all that is served here.
fn under_its_name(head: &str, host: SocketAddr) -> (String, bool) {
    let named = |line: &str, name: &str| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let is_socket = head.lines().any(|line| named(line, "upgrade:"));
    let lines = head.trim_end().split("\r\n").filter(|line| is_socket || !named(line, "connection:"));
    let mut changed = String::with_capacity(head.len() + 64);
    for line in lines {
        match line {
            line if named(line, "host:") => changed.push_str(&format!("Host: {host}")),
            line if named(line, "origin:") => changed.push_str(&format!("Origin: http://{host}")),
            line => changed.push_str(line),
        }
        changed.push_str("\r\n");
    }
    if !is_socket {
        changed.push_str("Connection: close\r\n");
    }
    changed.push_str("\r\n");
    (changed, is_socket)
}

/// What is answered here.
fn own(shared: &Shared, path: &str) -> Result<Option<String>, Fault> {
    let (media, body) = match path {
        "/worker.js" => {
            let script = fs::read_to_string(repository().join("web-runtime/static/worker.js"))?;
            ("text/javascript", format!("{HOOK}{script}"))
        }
        "/faults/next" => ("text/plain", shared.orders().pop_front().unwrap_or_default().to_owned()),
        path => match path.strip_prefix("/faults/destroyed/") {
            Some(count) => {
                shared.destroyed.fetch_add(count.parse()?, Ordering::Relaxed);
                ("text/plain", String::new())
            }
            None => return Ok(None),
        },
    };
    Ok(Some(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\
         Cross-Origin-Opener-Policy: same-origin\r\nCross-Origin-Embedder-Policy: require-corp\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\n\r\n{body}",
        body.len()
    )))
}

/// Hands on what comes, in order, until it ends.
async fn pump(
    shared: &Shared,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut junk: Option<broadcast::Receiver<Bytes>>,
) -> Result<(), Fault> {
    let mut piece = vec![0; PIECE];
    loop {
        let garbled = async {
            match &mut junk {
                Some(junk) => junk.recv().await.ok(),
                None => std::future::pending().await,
            }
        };
        let bytes = tokio::select! {
            read = from.read(&mut piece) => match read? {
                0 => break,
                read => Bytes::copy_from_slice(&piece[..read]),
            },
            Some(bytes) = garbled => bytes,
        };
        loop {
            let until = *shared.held_until.borrow();
            if until <= Instant::now() {
                break;
            }
            tokio::time::sleep_until(until).await;
        }
        to.write_all(&bytes).await?;
    }
    Ok(to.shutdown().await?)
}

#[cfg(test)]
mod tests {
    use super::under_its_name;

    #[test]
    fn a_request_goes_on_under_the_hosts_name_and_one_at_a_time() {
        let host = "127.0.0.1:80".parse().expect("an address");
        let head = "GET / HTTP/1.1\r\nhost: 127.0.0.1:9\r\nConnection: keep-alive\r\nAccept: */*\r\n\r\n";
        let (changed, is_socket) = under_its_name(head, host);
        assert_eq!(changed, "GET / HTTP/1.1\r\nHost: 127.0.0.1:80\r\nAccept: */*\r\nConnection: close\r\n\r\n");
        assert!(!is_socket);
        let head =
            "GET /link HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let (changed, is_socket) = under_its_name(head, host);
        assert!(is_socket && changed.contains("\r\nConnection: Upgrade\r\n"), "{changed}");
        assert!(changed.contains("\r\nOrigin: http://127.0.0.1:80\r\n") && !changed.contains("close"), "{changed}");
    }
}

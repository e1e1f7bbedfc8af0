//! A page that says what the browser can do, and the little server it comes from.

use std::error::Error;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Asks for an adapter and looks for the file it stored on an earlier visit.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>tabpool test</title><script>
(async () => {
  const report = {};
  try {
    const adapter = await navigator.gpu.requestAdapter();
    report.gpu = adapter ? (adapter.info.vendor + '/' + adapter.info.architecture) : 'none';
    report.device = adapter ? String(!!(await adapter.requestDevice())) : 'none';
  } catch (error) { report.gpu = 'none'; report.error = String(error); }
  try {
    const folder = await navigator.storage.getDirectory();
    report.stored = await folder.getFileHandle('mark').then(() => 'yes', () => 'no');
    const file = await folder.getFileHandle('mark', { create: true });
    const writer = await file.createWritable();
    await writer.write('kept');
    await writer.close();
  } catch (error) { report.stored = String(error); }
  await fetch('/ready?' + new URLSearchParams(report));
})();
</script>"#;

/// Serves the page on loopback and hands on what it reports.
pub(crate) struct Server {
    pub(crate) url: String,
    reports: mpsc::Receiver<String>,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start() -> std::io::Result<Self> {
        Self::on(0).await
    }

    /// The origin, and so its storage, depends on the port: a second visit needs the same one.
    pub(crate) async fn on(port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let url = format!("http://{}/", listener.local_addr()?);
        let (send, reports) = mpsc::channel(8);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A browser opens connections it does not use, so each gets a task, which ends with it.
                tokio::spawn(answer(stream, send.clone()));
            }
        });
        Ok(Self { url, reports, accepting })
    }

    pub(crate) async fn report(&mut self) -> Result<String, Box<dyn Error>> {
        let report = tokio::time::timeout(Duration::from_secs(40), self.reports.recv()).await;
        report.map_err(|_| "the page did not report in 40 s")?.ok_or_else(|| "the server ended".into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(mut stream: TcpStream, reports: mpsc::Sender<String>) -> std::io::Result<()> {
    let mut request = vec![0_u8; 8192];
    let read = stream.read(&mut request).await?;
    let text = String::from_utf8_lossy(&request[..read]);
    let path = text.split(' ').nth(1).unwrap_or_default();
    if let Some(query) = path.strip_prefix("/ready?") {
        // The receiver is gone when its case is over.
        drop(reports.send(query.to_owned()).await);
    }
    let body = if path == "/" { PAGE } else { "" };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

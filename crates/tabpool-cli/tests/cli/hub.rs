//! A hub on loopback that serves one folder, for downloads through the program.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The server; its thread ends with the process.
pub(crate) struct Hub {
    pub(crate) address: SocketAddr,
    /// The paths asked for, in order, each with its first byte.
    asked: Arc<Mutex<Vec<(String, usize)>>>,
}

impl Hub {
    /// Serves a folder's files as the repository `org/name`. The first answer for a file larger than `cut_after` bytes
    /// stops after so many.
    pub(crate) fn start(folder: &Path, cut_after: Option<usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let address = listener.local_addr().expect("bound");
        let files: BTreeMap<String, Vec<u8>> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("readable").path())
            .filter(|path| path.is_file())
            .map(|path| {
                (path.file_name().expect("named").to_string_lossy().into_owned(), fs::read(&path).expect("read"))
            })
            .collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut cut_after = cut_after;
            for stream in listener.incoming().flatten() {
                // A client that goes away in the middle is no failure of the hub.
                let _ = answer(stream, &files, &log, &mut cut_after);
            }
        });
        Self { address, asked }
    }

    pub(crate) fn asked(&self) -> Vec<(String, usize)> {
        self.asked.lock().expect("no test panics while it holds it").clone()
    }
}

fn answer(
    mut stream: TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    log: &Mutex<Vec<(String, usize)>>,
    cut_after: &mut Option<usize>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut from = 0;
    for header in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some(range) = header.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap_or(0);
        }
    }
    log.lock().expect("no test panics while it holds it").push((target.clone(), from));

    let reply = |stream: &mut TcpStream, status: &str, headers: &str, body: &[u8], send: usize| {
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n")?;
        stream.write_all(&body[..send.min(length)])
    };
    if target == "/api/models/org/name/revision/main?blobs=true" {
        let siblings: Vec<_> = files
            .iter()
            .map(|(name, bytes)| {
                let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
                serde_json::json!({ "rfilename": name, "size": bytes.len(), "lfs": { "sha256": hash, "size": bytes.len() } })
            })
            .collect();
        let listing = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        return reply(&mut stream, "200 OK", "content-type: application/json\r\n", listing.as_bytes(), usize::MAX);
    }
    let file = target.strip_prefix(&format!("/org/name/resolve/{COMMIT}/")).and_then(|name| files.get(name));
    let Some(bytes) = file else {
        return reply(&mut stream, "404 Not Found", "", b"no such thing", usize::MAX);
    };
    let send = match *cut_after {
        Some(limit) if bytes.len() > limit => {
            *cut_after = None;
            limit
        }
        _ => usize::MAX,
    };
    if from == 0 {
        return reply(&mut stream, "200 OK", "", bytes, send);
    }
    let range = format!("content-range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
    reply(&mut stream, "206 Partial Content", &range, &bytes[from..], send)
}

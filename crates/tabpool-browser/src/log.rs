//! What a browser writes to stdout and stderr, kept as a bounded tail.
//!
//! The pipe must be drained or the browser would block on it, and most of what it says is noise (a headless
//! Chromium reports every missing D-Bus service). Only the end is worth keeping: it is where a browser that dies
//! says why.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How much of a browser's output is kept.
pub(crate) const LOG_LIMIT: usize = 64 * 1024;

/// The last [`LOG_LIMIT`] bytes of a stream, filled by a thread of its own.
#[derive(Debug, Default)]
pub(crate) struct LogTail {
    state: Mutex<LogState>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    bytes: VecDeque<u8>,
    discarded: u64,
    ended: bool,
}

impl LogTail {
    /// Starts draining `stream`. The thread ends with the stream, that is when the last process holding the other
    /// end is gone.
    pub(crate) fn drain(mut stream: impl Read + Send + 'static) -> std::io::Result<Arc<Self>> {
        let tail = Arc::new(Self::default());
        let filled = Arc::clone(&tail);
        thread::Builder::new().name("browser-log".to_owned()).spawn(move || {
            let mut buffer = [0_u8; 4096];
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => filled.push(&buffer[..read]),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            filled.lock().ended = true;
            filled.ended.notify_all();
        })?;
        Ok(tail)
    }

    fn push(&self, bytes: &[u8]) {
        let mut state = self.lock();
        state.bytes.extend(bytes);
        let excess = state.bytes.len().saturating_sub(LOG_LIMIT);
        state.bytes.drain(..excess);
        state.discarded += excess as u64;
    }

    /// Waits until everything the browser wrote has been read, at most `limit`.
    pub(crate) fn wait_for_end(&self, limit: Duration) {
        let state = self.lock();
        // A time-out only means that the tail may lack its last words, so its outcome is of no use here.
        drop(self.ended.wait_timeout_while(state, limit, |state| !state.ended));
    }

    /// The tail as text. Says how much was left out in front of it.
    pub(crate) fn text(&self) -> String {
        let state = self.lock();
        let (front, back) = state.bytes.as_slices();
        let joined = [front, back].concat();
        let text = String::from_utf8_lossy(&joined);
        if state.discarded == 0 { text.into_owned() } else { format!("[{} bytes left out]\n{text}", state.discarded) }
    }

    /// A poisoned lock still holds sound bytes: nothing here leaves the buffer half changed.
    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::time::Duration;

    use super::{LOG_LIMIT, LogTail};

    #[test]
    fn keeps_the_end_of_a_long_stream_and_counts_the_rest() -> std::io::Result<()> {
        let mut stream = vec![b'a'; 10_000];
        stream.extend(vec![b'b'; LOG_LIMIT]);
        let tail = LogTail::drain(Cursor::new(stream))?;
        tail.wait_for_end(Duration::from_secs(5));
        let text = tail.text();
        assert!(text.starts_with("[10000 bytes left out]\nb"), "{}", &text[..40]);
        assert_eq!(text.matches('b').count(), LOG_LIMIT + 1); // One more in the word "bytes".
        Ok(())
    }

    #[test]
    fn bytes_that_are_no_text_do_not_spoil_the_rest() -> std::io::Result<()> {
        let tail = LogTail::drain(Cursor::new(b"before \xff after".to_vec()))?;
        tail.wait_for_end(Duration::from_secs(5));
        assert_eq!(tail.text(), "before \u{fffd} after");
        Ok(())
    }
}

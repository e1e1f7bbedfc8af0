//! Links within this process: how the native worker joins, with the same frames as any browser.

use bytes::Bytes;
use tokio::sync::mpsc;

/// Messages that wait in one direction.
pub(crate) const QUEUE: usize = 64;

/// The worker's end of a link within this process.
#[derive(Debug)]
pub struct LocalLink {
    /// Messages to the host.
    pub outgoing: mpsc::Sender<Bytes>,
    /// Messages from the host; the end of it is the end of the link.
    pub incoming: mpsc::Receiver<Bytes>,
}

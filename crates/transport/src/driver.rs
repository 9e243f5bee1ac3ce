//! The tasks of a connection, which end with its last user.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::io::AsyncRead;
use tokio_util::io::InspectReader;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Time for what a connection still has to say when nobody uses it any more: that it ends, where it is TLS or HTTP/2.
/// A receiver that does not read would have it wait for ever, with its descriptor and with what it was to send.
const CLOSING_MAX: Duration = Duration::from_millis(250);

/// Whoever holds it uses the connection.
#[derive(Debug)]
pub(crate) struct Driver {
    parts: Parts,
    /// Bytes that came on it.
    heard: Arc<AtomicU64>,
    /// Ends them when it is dropped.
    _ends: DropGuard,
}

/// Runs what a connection consists of.
#[derive(Debug, Clone)]
pub(crate) struct Parts(CancellationToken);

impl Default for Driver {
    fn default() -> Self {
        let unused = CancellationToken::new();
        Self {
            parts: Parts(unused.clone()),
            heard: Arc::default(),
            _ends: unused.drop_guard(),
        }
    }
}

impl Driver {
    /// For a protocol that has several.
    pub(crate) fn parts(&self) -> Parts {
        self.parts.clone()
    }

    /// Counts what comes on a stream that it is to drive.
    pub(crate) fn listening<S: AsyncRead>(
        &self,
        stream: S,
    ) -> InspectReader<S, impl FnMut(&[u8]) + use<S>> {
        let heard = self.heard.clone();
        let hear = move |bytes: &[u8]| {
            heard.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        };
        InspectReader::new(stream, hear)
    }

    /// Bytes that came until now.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Drives a connection until it closes. Its errors reach the request that is under way on it.
    pub(crate) fn drive<F>(&self, connection: F)
    where
        F: Future<Output = hyper::Result<()>> + Send + 'static,
    {
        self.parts.execute(async move { drop(connection.await) });
    }
}

impl<F> Executor<F> for Parts
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, part: F) {
        let unused = self.0.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "it ends with its connection; nobody waits for it"
        )]
        tokio::spawn(async move {
            let mut part = pin!(part);
            tokio::select! {
                _ = &mut part => return,
                () = unused.cancelled() => {}
            }
            drop(tokio::time::timeout(CLOSING_MAX, part).await);
        });
    }
}

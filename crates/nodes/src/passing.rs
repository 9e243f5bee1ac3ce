//! Passing clients' requests on to another server: over connections that each carry one request at a time, so that nobody's
//! request, however odd, slow or broken off, is another's matter.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

use crate::link::{self, Dialer, Kind, LinkError, Myself};

/// Requests of one node's clients at once; more wait.
const AT_ONCE: usize = 4_096;
/// Links that are kept for the next requests, and how long: the other end keeps them longer, so that a request does not meet
/// the end of its link.
const IDLE_MAX: usize = 64;
const IDLE_TIME: Duration = Duration::from_secs(60);
/// The same to a cell, where a load balancer may keep them for a minute.
const IDLE_TIME_PLAIN: Duration = Duration::from_secs(30);
/// What is waited for such a connection to be free, which it nearly always is.
const READY_TIME: Duration = Duration::from_millis(100);
/// How long a request waits for its place among those of a cell, and for the beginning of the answer: a cell that hangs
/// holds its own customers up, and those of others no longer.
const PLACE_TIME: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(120);

/// The way to the node that leads, or to a cell.
#[derive(Clone)]
pub(crate) struct Way(Arc<Inner>);

struct Inner {
    url: Url,
    dialer: Dialer,
    /// What this node says of itself; none where the other one is asked as any client asks.
    myself: Option<Myself>,
    permits: Arc<Semaphore>,
    /// Ends all links: nobody waits for a leader that stands still.
    gone: CancellationToken,
    /// Each with when it was used last.
    idle: Mutex<Vec<(SendRequest<Body>, Instant)>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NotPassed {
    /// Nothing of the request left this node.
    Unsent(Box<Request<Body>>),
    /// Nobody knows what became of it.
    Unknown,
}

impl Way {
    /// To the node that leads.
    pub(crate) fn linked(url: Url, dialer: Dialer, myself: Myself) -> Self {
        Self::new(url, dialer, Some(myself))
    }

    /// To a server that takes requests as from any client.
    pub(crate) fn plain(url: Url, dialer: Dialer) -> Self {
        Self::new(url, dialer, None)
    }

    fn new(url: Url, dialer: Dialer, myself: Option<Myself>) -> Self {
        Self(Arc::new(Inner {
            url,
            dialer,
            myself,
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            gone: CancellationToken::new(),
            idle: Mutex::default(),
        }))
    }

    /// Ends what was passed on to it, when it is dropped.
    pub(crate) fn ending(&self) -> DropGuard {
        self.0.gone.clone().drop_guard()
    }

    /// Whether it is the same one, followed since the same time.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// # Errors
    /// When the other one cannot be reached, or goes away meanwhile.
    pub(crate) async fn pass(&self, request: Request<Body>) -> Result<Response<Body>, NotPassed> {
        let permit = self.0.permits.clone().acquire_owned();
        if self.0.myself.is_some() {
            // A leader that stands still is followed no more, and that ends all of them.
            return match permit.await {
                Ok(permit) => self.sent(request, permit).await,
                Err(_) => Err(NotPassed::Unsent(Box::new(request))),
            };
        }
        match tokio::time::timeout(PLACE_TIME, permit).await {
            Ok(Ok(permit)) => {
                let sent = tokio::time::timeout(ANSWER_TIME, self.sent(request, permit)).await;
                sent.unwrap_or(Err(NotPassed::Unknown))
            }
            Ok(Err(_)) | Err(_) => Err(NotPassed::Unsent(Box::new(request))),
        }
    }

    async fn sent(
        &self,
        request: Request<Body>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response<Body>, NotPassed> {
        let mut request = request;
        while let Some(mut sender) = self.idle().await {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.answered(response, sender, permit)),
                // It was closed just then: the next one.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(NotPassed::Unknown),
                },
            }
        }
        let Ok(mut sender) = self.open().await else {
            return Err(NotPassed::Unsent(Box::new(request)));
        };
        match sender.try_send_request(request).await {
            Ok(response) => Ok(self.answered(response, sender, permit)),
            Err(mut error) => Err(match error.take_message() {
                Some(unsent) => NotPassed::Unsent(Box::new(unsent)),
                None => NotPassed::Unknown,
            }),
        }
    }

    /// The link that was used last and can be used again.
    async fn idle(&self) -> Option<SendRequest<Body>> {
        loop {
            let (mut sender, since) = self.list().pop()?;
            let kept = match self.0.myself {
                Some(_) => IDLE_TIME,
                None => IDLE_TIME_PLAIN,
            };
            if since.elapsed() >= kept {
                continue;
            }
            // The end of an answer may have been read before the link knows of it.
            let ready = tokio::time::timeout(READY_TIME, sender.ready()).await;
            if ready.is_ok_and(|ready| ready.is_ok()) {
                return Some(sender);
            }
        }
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<(SendRequest<Body>, Instant)>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self) -> Result<SendRequest<Body>, LinkError> {
        let Inner {
            url,
            dialer,
            myself,
            ..
        } = &*self.0;
        match myself {
            Some(myself) => {
                let link = dialer.link(url, Kind::Requests, myself).await?;
                self.kept(link).await
            }
            None => self.kept(dialer.plain(url).await?).await,
        }
    }

    /// Keeps a connection as long as somebody sends over it.
    async fn kept<T>(&self, stream: T) -> Result<SendRequest<Body>, LinkError>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = link::passing().handshake(stream).await?;
        #[expect(
            clippy::disallowed_methods,
            reason = "it ends with the connection, which ends with its sender"
        )]
        tokio::spawn(self.0.gone.clone().run_until_cancelled_owned(async move {
            drop(connection.await);
        }));
        Ok(sender)
    }

    fn answered(
        &self,
        response: Response<Incoming>,
        sender: SendRequest<Body>,
        permit: OwnedSemaphorePermit,
    ) -> Response<Body> {
        response.map(|body| {
            Body::new(Answer {
                body,
                ended: false,
                link: Some((self.clone(), sender)),
                _permit: permit,
            })
        })
    }
}

/// An answer on its way to the client. When it has ended its link is free for the next request; where the client goes away
/// before, the link ends with it.
struct Answer {
    body: Incoming,
    ended: bool,
    link: Option<(Way, SendRequest<Body>)>,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        // Where the length is known nobody may ask for what comes behind the last byte.
        self.ended |= matches!(frame, Poll::Ready(None)) || self.body.is_end_stream();
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Some((leader, sender)) = self.link.take() else {
            return;
        };
        let mut idle = leader.list();
        // An answer without a body ends without being asked for one.
        if (self.ended || self.body.is_end_stream()) && idle.len() < IDLE_MAX {
            idle.push((sender, Instant::now()));
        }
    }
}

//! What is still on its way of a body that nobody reads to its end: it is let pass, so that its sender gets the answer
//! and not a reset.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http::header;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// Bytes of a body that come with its headers, mostly: the connection takes the rest of those by itself.
const SMALL: u64 = 8 * 1024;
/// Bytes that are let pass.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// Time in which they come.
const TIME_MAX: Duration = Duration::from_secs(2);

/// What is left of a request's body.
pub(crate) struct Unread(Arc<Mutex<Option<Body>>>);

impl Unread {
    /// Watches over a request's body; none of a small one.
    pub(crate) fn of(request: Request) -> (Request, Option<Self>) {
        let size = request.body().size_hint();
        if size.exact().is_some_and(|size| size <= SMALL) {
            return (request, None);
        }
        // Whoever waits to be told to send sends nothing that would have to pass.
        let is_asked_for = !request.headers().contains_key(header::EXPECT);
        let left = Arc::default();
        let watched = |body| {
            Body::new(Watched {
                body,
                is_asked_for,
                left: Arc::clone(&left),
            })
        };
        let request = request.map(watched);
        (request, Some(Self(left)))
    }

    /// Lets pass what nobody has read, within bounds, while the answer is on its way.
    pub(crate) fn pass(self) {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(body) = left {
            #[expect(
                clippy::disallowed_methods,
                reason = "it ends with its connection or soon; nobody waits for it"
            )]
            tokio::spawn(tokio::time::timeout(TIME_MAX, discard(body)));
        }
    }
}

async fn discard(mut body: Body) {
    let mut left = BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        let Some(rest) = left.checked_sub(bytes) else {
            return;
        };
        left = rest;
    }
}

/// A body that is given back when its reader lets go of it.
struct Watched {
    body: Body,
    /// Its sender sends it.
    is_asked_for: bool,
    left: Arc<Mutex<Option<Body>>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.is_asked_for && !self.body.is_end_stream() {
            let body = std::mem::take(&mut self.body);
            *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.is_asked_for = true;
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! What is still on its way of a body that nobody reads to its end: it is let pass, so that its sender gets the answer
//! and not a reset.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::runtime::Handle;

/// Bytes of a body that come with its headers, mostly: the connection takes the rest of those by itself.
const SMALL: u64 = 8 * 1024;
/// Bytes that are let pass.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// Time in which they come.
const TIME_MAX: Duration = Duration::from_secs(2);

/// What is left of a request's body.
pub(crate) struct Unread(Arc<Mutex<Left>>);

#[derive(Default)]
enum Left {
    /// Somebody has it, who may read it.
    #[default]
    Held,
    /// Nobody read it to its end.
    Unread(Body),
    /// The answer is on its way: what is left then is let pass at once.
    Answered,
}

impl Unread {
    /// Watches over a request's body; none of a small one.
    pub(crate) fn of(request: Request) -> (Request, Option<Self>) {
        let size = request.body().size_hint();
        if size.exact().is_some_and(|size| size <= SMALL) {
            return (request, None);
        }
        // Whoever waits to be told to send sends nothing that would have to pass.
        let is_asked_for = !request.headers().contains_key(header::EXPECT);
        let left = Arc::<Mutex<Left>>::default();
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

    /// Lets pass what nobody has read, within bounds, while the answer is on its way; also what somebody lets go of later.
    pub(crate) fn answered(self, status: StatusCode) {
        // Whoever used up the time for a body would hold the connection for longer still.
        if status != StatusCode::REQUEST_TIMEOUT
            && let Left::Unread(body) = std::mem::replace(&mut *lock(&self.0), Left::Answered)
        {
            pass(body);
        }
    }
}

fn lock(left: &Mutex<Left>) -> MutexGuard<'_, Left> {
    left.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pass(body: Body) {
    // Where there is no runtime any more, there is no connection either.
    if let Ok(runtime) = Handle::try_current() {
        // It ends with its connection or soon; nobody waits for it.
        runtime.spawn(tokio::time::timeout(TIME_MAX, discard(body)));
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
    left: Arc<Mutex<Left>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.is_asked_for && !self.body.is_end_stream() {
            let body = std::mem::take(&mut self.body);
            let mut left = lock(&self.left);
            match *left {
                Left::Answered => pass(body),
                Left::Held | Left::Unread(_) => *left = Left::Unread(body),
            }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Frames of a MiB without end, or nothing at all.
    struct Sent {
        is_silent: bool,
        frames: Arc<AtomicUsize>,
    }

    const FRAME: usize = 1_024 * 1_024;

    impl HttpBody for Sent {
        type Data = Bytes;
        type Error = axum::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
            if self.is_silent {
                return Poll::Pending;
            }
            self.frames.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; FRAME])))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_let_pass_than_its_bytes_and_its_time() {
        for is_silent in [false, true] {
            let frames = Arc::new(AtomicUsize::new(0));
            let sent = Sent {
                is_silent,
                frames: frames.clone(),
            };
            let (request, unread) = Unread::of(Request::new(Body::new(sent)));
            // Nobody reads it, and it is let go of behind the answer.
            unread.unwrap().answered(StatusCode::NOT_FOUND);
            drop(request);
            tokio::time::sleep(TIME_MAX / 2).await;
            assert_eq!(Arc::strong_count(&frames) > 1, is_silent, "it still waits");
            tokio::time::sleep(TIME_MAX).await;
            assert_eq!(Arc::strong_count(&frames), 1, "it is let go of");
            let most = if is_silent { 0 } else { BYTES_MAX / FRAME + 1 };
            assert_eq!(frames.load(Ordering::Relaxed), most);
        }
    }
}

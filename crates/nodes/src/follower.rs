//! A node that does not lead: it keeps a link each way to the one that does.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use postrider_engine::Transport;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::door::Door;
use crate::leader::{ATTEMPT, LEAVING};
use crate::link::{self, Dialer, Kind, LinkError, Myself};
use crate::passing::Way;
use crate::wire;

/// Bytes of an attempt's request: an event's rendering is far below.
const ATTEMPT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Between two tries to reach the node that leads.
const PAUSE: Duration = Duration::from_millis(200);

/// A node that follows.
pub struct Following {
    pub door: Door,
    pub dialer: Dialer,
    pub myself: Myself,
    /// Makes the attempts that the leader gives it.
    pub transport: Arc<dyn Transport>,
}

impl std::fmt::Debug for Following {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Following({:?})", self.myself)
    }
}

impl Following {
    /// Follows whoever leads, until `stop`: `leader` has the address, as far as it is known. Attempts that are under way
    /// then come to their end.
    pub async fn run(self, mut leader: watch::Receiver<Option<Url>>, stop: CancellationToken) {
        let mut told: Option<String> = None;
        loop {
            let known = stop.run_until_cancelled(leader.wait_for(Option::is_some));
            let known = known.await.and_then(|known| Some(known.ok()?.clone()));
            let Some(url) = known.flatten() else {
                return;
            };
            let ended = tokio::select! {
                ended = self.follow(&url, &stop) => ended,
                // Another one leads, or nobody does.
                Ok(()) = leader.changed() => Ok(()),
            };
            if stop.is_cancelled() {
                // What still comes is passed on until nobody listens any more.
                return;
            }
            self.door.search();
            if let Err(error) = ended {
                let why = error.to_string();
                if told.as_ref() != Some(&why) {
                    tracing::warn!(
                        leader = %url,
                        error = &error as &dyn std::error::Error,
                        "the node that leads cannot be followed; it is tried again"
                    );
                    told = Some(why);
                }
            } else {
                told = None;
            }
            // Also after a link that ended well: who goes is not asked again at once.
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Follows one leader until a link ends.
    async fn follow(&self, url: &Url, stop: &CancellationToken) -> Result<(), LinkError> {
        let attempts = self.dialer.link(url, Kind::Attempts, &self.myself).await?;
        let (door, transport) = (self.door.clone(), self.transport.clone());
        let service = service_fn(move |request| asked(door.clone(), transport.clone(), request));
        let making = link::answering(self.myself.at_once).serve_connection(attempts, service);
        tracing::info!(leader = %url, "follows the node that leads");
        let (dialer, myself) = (self.dialer.clone(), self.myself.clone());
        let leader = Way::linked(url.clone(), dialer, myself);
        // However this ends, also where another one leads, what was passed on ends with it.
        let ending = leader.ending();
        self.door.follow(leader);
        tokio::pin!(making);
        let ended = tokio::select! {
            ended = &mut making => ended,
            () = stop.cancelled() => {
                making.as_mut().graceful_shutdown();
                // What was passed on comes to its end by itself.
                ending.disarm();
                making.await
            }
        };
        tracing::info!(
            leader = %url,
            reason = ended.err().map(|error| error.to_string()),
            "the node that led is gone"
        );
        Ok(())
    }
}

/// What the leader asks for.
async fn asked(
    door: Door,
    transport: Arc<dyn Transport>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let (status, body) = if ATTEMPT.ends_with(path) {
        attempt(&*transport, request.into_body()).await
    } else if LEAVING.ends_with(path) {
        // The link stays, for the attempts under way; clients' requests wait for another leader.
        door.search();
        (StatusCode::OK, Bytes::new())
    } else {
        (StatusCode::NOT_FOUND, Bytes::new())
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    Ok(response)
}

async fn attempt(transport: &dyn Transport, body: Incoming) -> (StatusCode, Bytes) {
    let Ok(body) = Limited::new(body, ATTEMPT_BYTES_MAX).collect().await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, Bytes::new());
    };
    match wire::read_request(body.to_bytes()) {
        Ok(request) => {
            let exchange = transport.send(&request).await;
            (StatusCode::OK, wire::exchange_bytes(&exchange))
        }
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "an attempt was not understood; the nodes' versions may be too far apart"
            );
            // The leader makes the attempt by itself.
            (StatusCode::BAD_REQUEST, Bytes::new())
        }
    }
}

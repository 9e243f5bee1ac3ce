//! What the engine asks of a transport.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use postrider_core::attempt::{Egress, Outcome, Response, Timings};

/// One request to make.
#[derive(Debug, Clone)]
pub struct Request {
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// For name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// From the start to the response's headers.
    pub total_timeout: Duration,
    /// Bytes of the response body that are read.
    pub read_max: usize,
    /// The egress region it leaves from; none is the default.
    pub region: Option<Arc<str>>,
    /// Header names go out as `Title-Case` over HTTP/1.1, otherwise in lower case.
    pub title_case: bool,
    /// Sent once more where a kept connection closed under it before an answer came, which mostly means that nobody read it.
    pub repeat: bool,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    pub outcome: Outcome,
    pub response: Option<Response>,
    pub timings: Timings,
    pub egress: Option<Egress>,
}

/// Makes requests. Never fails: what goes wrong is the outcome.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    async fn send(&self, request: &Request) -> Exchange;
}

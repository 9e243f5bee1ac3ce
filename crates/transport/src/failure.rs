//! What went wrong, found by type, never by text.

use std::error::Error;
use std::io;

use postrider_core::attempt::UnreachableReason;

/// A failed phase of a request.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: UnreachableReason,
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(reason: UnreachableReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }

    pub(crate) fn connect(error: &io::Error) -> Self {
        Self::new(UnreachableReason::Connect, error.to_string())
    }

    /// A failed handshake: the peer's certificate or protocol, or a connection cut meanwhile.
    pub(crate) fn tls(error: &io::Error) -> Self {
        let by_tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match by_tls {
            Some(tls) => Self::new(UnreachableReason::Tls, tls.to_string()),
            None if is_reset(error) => Self::new(
                UnreachableReason::Reset,
                "connection closed during the TLS handshake",
            ),
            None => Self::new(UnreachableReason::Tls, error.to_string()),
        }
    }

    pub(crate) fn http(error: &hyper::Error) -> Self {
        let reason = if error.is_parse_too_large() {
            UnreachableReason::TooLarge
        } else if error.is_incomplete_message()
            || error.is_closed()
            || error.is_canceled()
            || cause(error).is_some_and(is_reset)
        {
            UnreachableReason::Reset
        } else {
            UnreachableReason::Protocol
        };
        let detail = error
            .source()
            .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        Self::new(reason, detail)
    }
}

fn is_reset(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
    };
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof
    )
}

/// The I/O error in an error's chain.
fn cause<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e io::Error> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        next = error.source();
    }
    None
}

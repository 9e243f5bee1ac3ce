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
            Some(tls) => Self::by_tls(tls),
            None if is_reset(error) => Self::new(
                UnreachableReason::Reset,
                "connection closed during the TLS handshake",
            ),
            None => Self::new(UnreachableReason::Tls, error.to_string()),
        }
    }

    fn by_tls(error: &rustls::Error) -> Self {
        use rustls::AlertDescription::{AccessDenied, BadCertificate, CertificateRequired};
        let detail = match error {
            rustls::Error::AlertReceived(CertificateRequired | BadCertificate | AccessDenied) => {
                "the receiver demands a client certificate, which deliveries do not have".to_owned()
            }
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
                other.0.to_string()
            }
            error => error.to_string(),
        };
        Self::new(UnreachableReason::Tls, detail)
    }

    /// What of a request's failure says that the receiver did not process it: RFC 9113 8.7.
    pub(crate) fn was_refused(error: &hyper::Error) -> bool {
        let mut next = error.source();
        while let Some(error) = next {
            if let Some(h2) = error.downcast_ref::<h2::Error>() {
                // A server that goes away, for whatever reason: what is beyond its last stream was not begun (RFC 9113
                // 6.8), and only such a request hears of it.
                let refused = h2.is_go_away() || h2.reason() == Some(h2::Reason::REFUSED_STREAM);
                // What this side has reset itself may have been processed.
                return h2.is_remote() && refused;
            }
            next = error.source();
        }
        false
    }

    pub(crate) fn http(error: &hyper::Error) -> Self {
        // In TLS 1.3 a refused certificate is told after the handshake.
        let tls = cause(error).and_then(io::Error::get_ref);
        if let Some(tls) = tls.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::by_tls(tls);
        }
        // The end of a connection has several names in hyper, by when it came.
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

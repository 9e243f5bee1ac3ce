//! One HTTP request and how it ended. Append-only.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Timestamp;
use crate::distribution::Distribution;
use crate::endpoint::{Endpoint, EndpointKind};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// 1, 2, 3 … within its delivery.
    pub number: u32,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    /// The URL at the time of the attempt.
    pub url: String,
    pub request_headers: Vec<(String, String)>,
    pub outcome: Outcome,
    pub response: Option<Response>,
    pub timings: Timings,
    /// Asked for by a person, not by the schedule.
    pub manual: bool,
    /// Where it left from; none when no connection was made.
    pub egress: Option<Egress>,
    /// What of its endpoint made the body; none for an endpoint that has nothing of the kind.
    pub rendering: Option<Arc<Rendering>>,
}

/// What of an endpoint goes into a body, and may change later. It is kept so that the record of an
/// attempt shows what was sent, not what would be sent today.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendering {
    pub form: bool,
    pub distribution: Option<Distribution>,
}

impl Rendering {
    /// None for most endpoints: theirs follows from the event and the profile alone.
    pub fn of(endpoint: &Endpoint) -> Option<Self> {
        let distribution = match &endpoint.kind {
            EndpointKind::Distribution(distribution) => Some(distribution.clone()),
            EndpointKind::Registered | EndpointKind::Callback | EndpointKind::Key(_) => None,
        };
        (endpoint.form || distribution.is_some()).then_some(Self {
            form: endpoint.form,
            distribution,
        })
    }
}

/// The local end of an attempt's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Egress {
    /// The configured region; none where the server has no regions.
    #[schema(value_type = Option<String>)]
    pub region: Option<Arc<str>>,
    #[schema(value_type = String)]
    pub address: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub headers: Vec<(String, String)>,
    /// The first bytes of the body.
    pub body: Bytes,
    /// The body went on beyond what was kept.
    pub truncated: bool,
}

/// Where the time went, in microseconds; none for a phase that did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    pub dns_micros: Option<u32>,
    pub connect_micros: Option<u32>,
    pub tls_micros: Option<u32>,
    pub first_byte_micros: Option<u32>,
    pub total_micros: u32,
}

/// How an attempt ended. A failure of the network is a value here, not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Answered {
        status: u16,
        /// Seconds the receiver asked us to wait.
        retry_after_secs: Option<u32>,
    },
    /// No complete answer arrived.
    Unreachable {
        reason: UnreachableReason,
        detail: String,
    },
}

impl Outcome {
    /// The status, or why there was none: `200`, `timeout`.
    pub fn code(&self) -> Cow<'static, str> {
        match self {
            Self::Answered { status, .. } => Cow::Owned(status.to_string()),
            Self::Unreachable { reason, .. } => Cow::Borrowed(reason.as_str()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnreachableReason {
    Dns,
    AddressForbidden,
    Connect,
    Tls,
    Timeout,
    Reset,
    Protocol,
    TooLarge,
    /// This server cannot make the connection now: no descriptor or port is left, or what it needs is not
    /// configured. Never recorded: the delivery waits and loses no attempt.
    Local,
    /// The request could not be built: a secret that does not open, a header that is not one.
    Internal,
}

impl UnreachableReason {
    pub const ALL: [Self; 10] = [
        Self::Dns,
        Self::AddressForbidden,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Reset,
        Self::Protocol,
        Self::TooLarge,
        Self::Local,
        Self::Internal,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::AddressForbidden => "address_forbidden",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::TooLarge => "too_large",
            Self::Local => "local",
            Self::Internal => "internal",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

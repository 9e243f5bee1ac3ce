//! Refusals: a stable code, the field that is wrong, and a sentence that says what to do.

use postrider_core::limits::ATTEMPTS_MAX;
use postrider_engine::PublishError;
use postrider_store::{BoxError, Entity, Rule, StoreError};
use serde::Serialize;

/// Every reason for which something is refused, by the service or by a door before it. The names are part of the
/// API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    BodyNotJson,
    BodyTooDeep,
    BodyDuplicateKey,
    BodyTooLarge,
    BodyTimeout,
    ContentTypeUnsupported,
    ContentEncodingUnsupported,
    HeaderInvalid,
    HeadersTooLarge,
    ValidationFailed,
    EndpointUrlInvalid,
    SubscriptionInvalid,
    EventTypeUnknown,
    CursorInvalid,
    QueryTooLong,
    DataInvalid,
    DistributionUnsupported,
    EndpointNeedsKey,
    AddressUnclear,
    KeyMissing,
    KeyUnknown,
    KeyDisabled,
    KeyExpired,
    AddressNotAllowed,
    ScopeInsufficient,
    NotFound,
    RouteUnknown,
    MethodNotAllowed,
    NameTaken,
    EndpointsMax,
    EventTypesMax,
    IdempotencyKeyReused,
    DeliveryPending,
    DeliveryEnded,
    ResendNotAllowed,
    EndpointDisabled,
    SecretNotShown,
    RotationUnsupported,
    ProfileInUse,
    LastRootKey,
    ReplaysMax,
    TestCallsMax,
    Overloaded,
    StoreFull,
    StoreUnavailable,
    OutcomeUnknown,
    Internal,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    pub code: ErrorCode,
    /// What to do about it.
    pub detail: String,
    /// The field that is wrong, as a path in the body or the name of a parameter.
    pub field: Option<String>,
    source: Option<BoxError>,
}

/// What was done, or why it was not.
pub type Result<T, E = Refusal> = std::result::Result<T, E>;

impl Refusal {
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            field: None,
            source: None,
        }
    }

    /// With the field that is wrong, as a path in what was given or the name of a parameter.
    pub fn field(code: ErrorCode, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::new(code, detail)
        }
    }

    /// Of a field that is not as it must be.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::field(ErrorCode::ValidationFailed, field, detail)
    }

    /// Of what is not there, or not the caller's: both read alike.
    pub fn not_found(entity: &str) -> Self {
        Self::new(
            ErrorCode::NotFound,
            format!("there is no such {entity}, or it is not yours"),
        )
    }

    /// Of a mistake of ours; the cause goes to the log, not to the caller.
    pub fn internal(source: impl Into<BoxError>) -> Self {
        Self {
            source: Some(source.into()),
            ..Self::new(ErrorCode::Internal, "the server's log says more")
        }
    }

    /// What went wrong, for the log: the cause, where there is one.
    pub fn cause(&self) -> &(dyn std::error::Error + 'static) {
        match &self.source {
            Some(source) => &**source,
            None => self,
        }
    }

    /// Writes the cause to the log, once.
    pub fn log(&self) {
        if let Some(source) = &self.source {
            tracing::error!(code = ?self.code, error = &**source as &(dyn std::error::Error + 'static), "request failed");
        }
    }
}

fn noun(entity: Entity) -> &'static str {
    match entity {
        Entity::ApiKey => "API key",
        Entity::Application => "application",
        Entity::Delivery => "delivery",
        Entity::Endpoint => "endpoint",
        Entity::Event => "event",
        Entity::EventType => "event type",
        Entity::Task => "replay or deletion",
        Entity::Tenant => "tenant",
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { entity } => Self::not_found(noun(entity)),
            StoreError::Conflict { rule } => match rule {
                Rule::NameTaken => {
                    Self::new(ErrorCode::NameTaken, "choose another name or external id")
                }
                Rule::EventTypesMax => Self::new(
                    ErrorCode::EventTypesMax,
                    format!(
                        "an application has at most {}; delete one",
                        postrider_core::limits::EVENT_TYPES_MAX
                    ),
                ),
                Rule::EndpointsMax => {
                    Self::new(ErrorCode::EndpointsMax, "delete an endpoint first")
                }
                Rule::IdempotencyKeyReused => Self::new(
                    ErrorCode::IdempotencyKeyReused,
                    "use a new key for a new event, or the same body for the same one",
                ),
                Rule::DeliveryPending => Self::new(
                    ErrorCode::DeliveryPending,
                    "wait until it has ended, or is due",
                ),
                Rule::DeliveryExists => Self::new(
                    ErrorCode::DeliveryPending,
                    "the endpoint has a delivery of this event; send that again",
                ),
                Rule::EndpointDisabled => {
                    Self::new(ErrorCode::EndpointDisabled, "enable the endpoint first")
                }
                Rule::LastRootKey => Self::new(
                    ErrorCode::LastRootKey,
                    "nobody could manage the server any more: make another live root key first",
                ),
                Rule::DeliveryExpired => {
                    Self::new(ErrorCode::ResendNotAllowed, "its deliverBefore has passed")
                }
                Rule::AttemptsMax => Self::new(
                    ErrorCode::ResendNotAllowed,
                    format!("it has had {ATTEMPTS_MAX} attempts, as many as a delivery may have"),
                ),
            },
            StoreError::BadCursor => Self::field(
                ErrorCode::CursorInvalid,
                "cursor",
                "use nextCursor of a page of the same list with the same filters",
            ),
            StoreError::TooLong => Self::new(
                ErrorCode::QueryTooLong,
                "ask for less at once: narrow since and until, or name an endpoint or a type",
            ),
            StoreError::Full => Self::new(
                ErrorCode::StoreFull,
                "nothing was stored; the service resumes when there is room",
            ),
            StoreError::Unavailable { detail } => {
                tracing::error!(detail, "the store is not available");
                Self::new(
                    ErrorCode::StoreUnavailable,
                    "nothing was stored; the operator has to look after the data directory",
                )
            }
            StoreError::OutcomeUnknown { source } => Self {
                source: Some(source),
                ..Self::new(
                    ErrorCode::OutcomeUnknown,
                    "try again with the same Idempotency-Key",
                )
            },
            error => Self::internal(error),
        }
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Busy(busy) => Self::new(ErrorCode::Overloaded, busy.to_string()),
            PublishError::Store(error) => error.into(),
        }
    }
}

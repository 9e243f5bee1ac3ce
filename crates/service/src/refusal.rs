//! Refusals: a stable code, the field that is wrong, and a sentence that says what to do.

use postrider_core::limits::{ATTEMPTS_MAX, CUSTOM_HEADERS_MAX, EVENT_TYPES_MAX, KEYS_MAX};
use postrider_engine::PublishError;
use postrider_store::{BoxError, Entity, Rule, StoreError};
use serde::Serialize;
use utoipa::ToSchema;

/// Every reason for which something is refused, by the service or by a door before it. The names are part of the
/// API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
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
    FilterInvalid,
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
    KeysMax,
    UsersMax,
    IdempotencyKeyReused,
    DeliveryPending,
    DeliveryEnded,
    ResendNotAllowed,
    EndpointDisabled,
    SecretNotShown,
    RotationUnsupported,
    RotationPending,
    ProfileInUse,
    LastRootKey,
    ChangedMeanwhile,
    ReplaysMax,
    TestCallsMax,
    RateLimited,
    Overloaded,
    StoreFull,
    StoreUnavailable,
    OutcomeUnknown,
    Internal,
}

impl ErrorCode {
    /// As it is written in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BodyNotJson => "body_not_json",
            Self::BodyTooDeep => "body_too_deep",
            Self::BodyDuplicateKey => "body_duplicate_key",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::ContentTypeUnsupported => "content_type_unsupported",
            Self::ContentEncodingUnsupported => "content_encoding_unsupported",
            Self::HeaderInvalid => "header_invalid",
            Self::HeadersTooLarge => "headers_too_large",
            Self::ValidationFailed => "validation_failed",
            Self::EndpointUrlInvalid => "endpoint_url_invalid",
            Self::SubscriptionInvalid => "subscription_invalid",
            Self::FilterInvalid => "filter_invalid",
            Self::EventTypeUnknown => "event_type_unknown",
            Self::CursorInvalid => "cursor_invalid",
            Self::QueryTooLong => "query_too_long",
            Self::DataInvalid => "data_invalid",
            Self::DistributionUnsupported => "distribution_unsupported",
            Self::EndpointNeedsKey => "endpoint_needs_key",
            Self::AddressUnclear => "address_unclear",
            Self::KeyMissing => "key_missing",
            Self::KeyUnknown => "key_unknown",
            Self::KeyDisabled => "key_disabled",
            Self::KeyExpired => "key_expired",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::ScopeInsufficient => "scope_insufficient",
            Self::NotFound => "not_found",
            Self::RouteUnknown => "route_unknown",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NameTaken => "name_taken",
            Self::EndpointsMax => "endpoints_max",
            Self::EventTypesMax => "event_types_max",
            Self::KeysMax => "keys_max",
            Self::UsersMax => "users_max",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::DeliveryPending => "delivery_pending",
            Self::DeliveryEnded => "delivery_ended",
            Self::ResendNotAllowed => "resend_not_allowed",
            Self::EndpointDisabled => "endpoint_disabled",
            Self::SecretNotShown => "secret_not_shown",
            Self::RotationUnsupported => "rotation_unsupported",
            Self::RotationPending => "rotation_pending",
            Self::ProfileInUse => "profile_in_use",
            Self::LastRootKey => "last_root_key",
            Self::ChangedMeanwhile => "changed_meanwhile",
            Self::ReplaysMax => "replays_max",
            Self::TestCallsMax => "test_calls_max",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::StoreFull => "store_full",
            Self::StoreUnavailable => "store_unavailable",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Internal => "internal",
        }
    }

    /// The number by which every door tells who has to act: the status of RFC 9110. No wildcard: a new code must
    /// choose.
    pub const fn status(self) -> u16 {
        match self {
            Self::BodyNotJson
            | Self::BodyTooDeep
            | Self::BodyDuplicateKey
            | Self::HeaderInvalid
            | Self::ValidationFailed
            | Self::EndpointUrlInvalid
            | Self::SubscriptionInvalid
            | Self::FilterInvalid
            | Self::EventTypeUnknown
            | Self::DataInvalid
            | Self::DistributionUnsupported
            | Self::EndpointNeedsKey
            | Self::AddressUnclear
            | Self::QueryTooLong
            | Self::CursorInvalid => 400,
            Self::BodyTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::ContentTypeUnsupported | Self::ContentEncodingUnsupported => 415,
            Self::HeadersTooLarge => 431,
            Self::KeyMissing | Self::KeyUnknown | Self::KeyDisabled | Self::KeyExpired => 401,
            Self::ScopeInsufficient | Self::AddressNotAllowed | Self::SecretNotShown => 403,
            Self::NotFound | Self::RouteUnknown => 404,
            Self::MethodNotAllowed => 405,
            Self::NameTaken
            | Self::EndpointsMax
            | Self::EventTypesMax
            | Self::KeysMax
            | Self::UsersMax
            | Self::IdempotencyKeyReused
            | Self::DeliveryPending
            | Self::DeliveryEnded
            | Self::ResendNotAllowed
            | Self::EndpointDisabled
            | Self::RotationUnsupported
            | Self::RotationPending
            | Self::LastRootKey
            | Self::ChangedMeanwhile
            | Self::ReplaysMax
            | Self::ProfileInUse => 409,
            Self::TestCallsMax | Self::RateLimited => 429,
            Self::Overloaded | Self::StoreFull | Self::StoreUnavailable | Self::OutcomeUnknown => {
                503
            }
            Self::Internal => 500,
        }
    }

    pub const ALL: [Self; 53] = [
        Self::BodyNotJson,
        Self::BodyTooDeep,
        Self::BodyDuplicateKey,
        Self::BodyTooLarge,
        Self::BodyTimeout,
        Self::ContentTypeUnsupported,
        Self::ContentEncodingUnsupported,
        Self::HeaderInvalid,
        Self::HeadersTooLarge,
        Self::ValidationFailed,
        Self::EndpointUrlInvalid,
        Self::SubscriptionInvalid,
        Self::FilterInvalid,
        Self::EventTypeUnknown,
        Self::CursorInvalid,
        Self::QueryTooLong,
        Self::DataInvalid,
        Self::DistributionUnsupported,
        Self::EndpointNeedsKey,
        Self::AddressUnclear,
        Self::KeyMissing,
        Self::KeyUnknown,
        Self::KeyDisabled,
        Self::KeyExpired,
        Self::AddressNotAllowed,
        Self::ScopeInsufficient,
        Self::NotFound,
        Self::RouteUnknown,
        Self::MethodNotAllowed,
        Self::NameTaken,
        Self::EndpointsMax,
        Self::EventTypesMax,
        Self::KeysMax,
        Self::UsersMax,
        Self::IdempotencyKeyReused,
        Self::DeliveryPending,
        Self::DeliveryEnded,
        Self::ResendNotAllowed,
        Self::EndpointDisabled,
        Self::SecretNotShown,
        Self::RotationUnsupported,
        Self::RotationPending,
        Self::ProfileInUse,
        Self::LastRootKey,
        Self::ChangedMeanwhile,
        Self::ReplaysMax,
        Self::TestCallsMax,
        Self::RateLimited,
        Self::Overloaded,
        Self::StoreFull,
        Self::StoreUnavailable,
        Self::OutcomeUnknown,
        Self::Internal,
    ];
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

impl Refusal {
    /// Of a rule that the store holds.
    fn of_rule(rule: Rule) -> Self {
        match rule {
            Rule::NameTaken => {
                Self::new(ErrorCode::NameTaken, "choose another name or external id")
            }
            Rule::EventTypesMax => Self::new(
                ErrorCode::EventTypesMax,
                format!("an application has at most {}; delete one", EVENT_TYPES_MAX),
            ),
            Rule::KeysMax => Self::new(
                ErrorCode::KeysMax,
                format!("there are as many as may be, {KEYS_MAX}; delete one"),
            ),
            Rule::ShareStored => Self::new(
                ErrorCode::StoreFull,
                "nothing was stored: what is left on the disk is as much as this account has stored in the last day, and is kept for others; try again later, or have the operator make room",
            ),
            Rule::ProfileInUse => Self::new(
                ErrorCode::ProfileInUse,
                "create a new application with the other profile and move its tenants",
            ),
            Rule::PasswordChanged => Self::new(
                ErrorCode::ScopeInsufficient,
                "the password was changed meanwhile; sign in with the new one",
            ),
            Rule::ChangedMeanwhile => Self::new(
                ErrorCode::ChangedMeanwhile,
                "others changed it at the same time, again and again, and nothing of this was stored; read it and try again",
            ),
            Rule::UsersMax => Self::new(
                ErrorCode::UsersMax,
                "there are as many as one server has; delete one",
            ),
            Rule::HeadersMax => {
                let rule = format!("must have at most {CUSTOM_HEADERS_MAX} entries");
                Self::invalid("headers", rule)
            }
            Rule::EndpointsMax => Self::new(ErrorCode::EndpointsMax, "delete an endpoint first"),
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
            Rule::ContentDeleted => Self::new(
                ErrorCode::ResendNotAllowed,
                "the event's data was deleted: there is nothing to send",
            ),
            Rule::AttemptsMax => Self::new(
                ErrorCode::ResendNotAllowed,
                format!("it has had {ATTEMPTS_MAX} attempts, as many as a delivery may have"),
            ),
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
        Entity::Session => "session",
        Entity::Task => "replay or deletion",
        Entity::Tenant => "tenant",
        Entity::User => "user",
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { entity } => Self::not_found(noun(entity)),
            StoreError::Conflict { rule } => Self::of_rule(rule),
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
            StoreError::Busy => Self::new(
                ErrorCode::Overloaded,
                "nothing was stored: too many changes of this account wait for each other already; try again in a moment",
            ),
            StoreError::Unavailable { detail } => {
                // Here, because the refusal goes on without it: what a database says is not the caller's to
                // read.
                tracing::error!(detail, "the store is not available");
                Self::new(
                    ErrorCode::StoreUnavailable,
                    "nothing was stored, try again; if it goes on, the operator has to look after the store",
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

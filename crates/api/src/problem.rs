//! Refusals: problem details (RFC 9457) with a stable code.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use postrider_core::limits::ATTEMPTS_MAX;
use postrider_engine::PublishError;
use postrider_store::{BoxError, Entity, Rule, StoreError};
use serde::Serialize;

/// Every reason for which a request is refused. The names are part of the API.
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

impl ErrorCode {
    /// The status, and therefore who has to act. No wildcard: a new code must choose.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BodyNotJson
            | Self::BodyTooDeep
            | Self::BodyDuplicateKey
            | Self::HeaderInvalid
            | Self::ValidationFailed
            | Self::EndpointUrlInvalid
            | Self::SubscriptionInvalid
            | Self::EventTypeUnknown
            | Self::DataInvalid
            | Self::DistributionUnsupported
            | Self::EndpointNeedsKey
            | Self::AddressUnclear
            | Self::QueryTooLong
            | Self::CursorInvalid => StatusCode::BAD_REQUEST,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentTypeUnsupported | Self::ContentEncodingUnsupported => {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            }
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::KeyMissing | Self::KeyUnknown | Self::KeyDisabled | Self::KeyExpired => {
                StatusCode::UNAUTHORIZED
            }
            Self::ScopeInsufficient | Self::AddressNotAllowed | Self::SecretNotShown => {
                StatusCode::FORBIDDEN
            }
            Self::NotFound | Self::RouteUnknown => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NameTaken
            | Self::EndpointsMax
            | Self::EventTypesMax
            | Self::IdempotencyKeyReused
            | Self::DeliveryPending
            | Self::DeliveryEnded
            | Self::ResendNotAllowed
            | Self::EndpointDisabled
            | Self::RotationUnsupported
            | Self::LastRootKey
            | Self::ReplaysMax
            | Self::ProfileInUse => StatusCode::CONFLICT,
            Self::TestCallsMax => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded | Self::StoreFull | Self::StoreUnavailable | Self::OutcomeUnknown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::BodyNotJson => "The body is not JSON",
            Self::BodyTooDeep => "The body is nested too deeply",
            Self::BodyDuplicateKey => "The body has a key twice",
            Self::BodyTooLarge => "The body is too large",
            Self::BodyTimeout => "The body did not arrive in time",
            Self::ContentTypeUnsupported => "The content type is not application/json",
            Self::ContentEncodingUnsupported => "The body is encoded",
            Self::HeadersTooLarge => "The headers are too large",
            Self::HeaderInvalid => "A header is not as it must be",
            Self::ValidationFailed => "A field is not as it must be",
            Self::EndpointUrlInvalid => "The URL cannot receive webhooks",
            Self::SubscriptionInvalid => "The events cannot be subscribed to",
            Self::EventTypeUnknown => "The event type is not in the catalogue",
            Self::DataInvalid => "The data does not fit the schema of its event type",
            Self::DistributionUnsupported => "The profile has no distributions",
            Self::EndpointNeedsKey => "Endpoints of this profile belong to API keys",
            Self::AddressUnclear => "The event does not say whom it is for",
            Self::CursorInvalid => "The cursor is not of this list",
            Self::QueryTooLong => "Answering would take too long",
            Self::KeyMissing => "An API key is needed",
            Self::KeyUnknown => "The API key is not known",
            Self::KeyDisabled => "The API key is disabled",
            Self::KeyExpired => "The API key has expired",
            Self::AddressNotAllowed => "The API key may not be used from here",
            Self::ScopeInsufficient => "The API key may not do this",
            Self::NotFound => "Not found",
            Self::RouteUnknown => "There is no such route",
            Self::MethodNotAllowed => "The route does not take this method",
            Self::NameTaken => "The name is in use",
            Self::EndpointsMax => "The tenant has as many endpoints as it may have",
            Self::EventTypesMax => "The application has as many event types as it may have",
            Self::IdempotencyKeyReused => "The idempotency key was used with another body",
            Self::DeliveryEnded => "The delivery has ended already",
            Self::ResendNotAllowed => "The delivery may not be sent again",
            Self::DeliveryPending => "The delivery is waiting for an attempt already",
            Self::EndpointDisabled => "The endpoint is disabled",
            Self::SecretNotShown => "The secret is shown once only",
            Self::RotationUnsupported => "The profile knows no rotation",
            Self::ProfileInUse => "The application has tenants under its profile",
            Self::LastRootKey => "It is the last root key",
            Self::ReplaysMax => "The tenant has as many unfinished replays as it may have",
            Self::TestCallsMax => "The tenant has made as many test calls as it may",
            Self::Overloaded => "Too much is going on",
            Self::StoreFull => "The disk is full",
            Self::StoreUnavailable => "The store is not available",
            Self::OutcomeUnknown => "The write may or may not have happened",
            Self::Internal => "Something went wrong inside",
        }
    }
}

/// A refusal on its way to the client.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) code: ErrorCode,
    pub(crate) detail: String,
    /// The field that is wrong, as a path in the body or the name of a parameter.
    pub(crate) field: Option<String>,
    source: Option<BoxError>,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            field: None,
            source: None,
        }
    }

    pub(crate) fn field(
        code: ErrorCode,
        field: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::new(code, detail)
        }
    }

    pub(crate) fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::field(ErrorCode::ValidationFailed, field, detail)
    }

    pub(crate) fn not_found(entity: &str) -> Self {
        Self::new(
            ErrorCode::NotFound,
            format!("there is no such {entity}, or it is not yours"),
        )
    }

    pub(crate) fn internal(source: impl Into<BoxError>) -> Self {
        Self {
            source: Some(source.into()),
            ..Self::new(ErrorCode::Internal, "the server's log says more")
        }
    }

    /// Writes the cause to the log, once.
    pub(crate) fn log(&self) {
        if let Some(source) = &self.source {
            tracing::error!(code = ?self.code, error = &**source as &(dyn std::error::Error + 'static), "request failed");
        }
    }
}

/// Seconds a client should wait after a 503.
pub(crate) const RETRY_AFTER_SECS: u32 = 1;

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    code: ErrorCode,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let status = self.code.status();
        let code = serde_json::to_value(self.code)
            .ok()
            .and_then(|code| code.as_str().map(str::to_owned))
            .unwrap_or_default();
        let problem = Problem {
            r#type: format!("urn:postrider:problem:{code}"),
            title: self.code.title(),
            status: status.as_u16(),
            code: self.code,
            detail: &self.detail,
            field: self.field.as_deref(),
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECS));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
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

impl From<StoreError> for ApiError {
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

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Busy(busy) => Self::new(ErrorCode::Overloaded, busy.to_string()),
            PublishError::Store(error) => error.into(),
        }
    }
}

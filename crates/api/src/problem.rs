//! Refusals on their way to clients: problem details (RFC 9457) with a stable code.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use postrider_service::{ErrorCode, Refusal};
use serde::Serialize;
use utoipa::ToSchema;

/// A refusal as an answer, for whoever stands before the routes.
pub fn problem(refusal: Refusal) -> Response {
    Problem(refusal).into_response()
}

/// The status that goes with a code.
pub(crate) fn status(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

const fn title(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BodyNotJson => "The body is not JSON",
        ErrorCode::BodyTooDeep => "The body is nested too deeply",
        ErrorCode::BodyDuplicateKey => "The body has a key twice",
        ErrorCode::BodyTooLarge => "The body is too large",
        ErrorCode::BodyTimeout => "The body did not arrive in time",
        ErrorCode::ContentTypeUnsupported => "The content type is not application/json",
        ErrorCode::ContentEncodingUnsupported => "The body is encoded",
        ErrorCode::HeadersTooLarge => "The headers are too large",
        ErrorCode::HeaderInvalid => "A header is not as it must be",
        ErrorCode::ValidationFailed => "A field is not as it must be",
        ErrorCode::EndpointUrlInvalid => "The URL cannot receive webhooks",
        ErrorCode::SubscriptionInvalid => "The events cannot be subscribed to",
        ErrorCode::FilterInvalid => "The filter cannot be understood",
        ErrorCode::EventTypeUnknown => "The event type is not in the catalogue",
        ErrorCode::DataInvalid => "The data does not fit the schema of its event type",
        ErrorCode::DistributionUnsupported => "The profile has no distributions",
        ErrorCode::EndpointNeedsKey => "Endpoints of this profile belong to API keys",
        ErrorCode::AddressUnclear => "The event does not say whom it is for",
        ErrorCode::CursorInvalid => "The cursor is not of this list",
        ErrorCode::QueryTooLong => "Answering would take too long",
        ErrorCode::KeyMissing => "An API key is needed",
        ErrorCode::KeyUnknown => "The API key is not known",
        ErrorCode::KeyDisabled => "The API key is disabled",
        ErrorCode::KeyExpired => "The API key has expired",
        ErrorCode::AddressNotAllowed => "The API key may not be used from here",
        ErrorCode::ScopeInsufficient => "The API key may not do this",
        ErrorCode::NotFound => "Not found",
        ErrorCode::RouteUnknown => "There is no such route",
        ErrorCode::MethodNotAllowed => "The route does not take this method",
        ErrorCode::NameTaken => "The name is in use",
        ErrorCode::EndpointsMax => "The tenant has as many endpoints as it may have",
        ErrorCode::UsersMax => "The server has as many users as it may have",
        ErrorCode::EventTypesMax => "The application has as many event types as it may have",
        ErrorCode::KeysMax => "There are as many API keys of it as there may be",
        ErrorCode::IdempotencyKeyReused => "The idempotency key was used with another body",
        ErrorCode::DeliveryEnded => "The delivery has ended already",
        ErrorCode::ResendNotAllowed => "The delivery may not be sent again",
        ErrorCode::DeliveryPending => "The delivery is waiting for an attempt already",
        ErrorCode::EndpointDisabled => "The endpoint is disabled",
        ErrorCode::SecretNotShown => "The secret is shown once only",
        ErrorCode::RotationUnsupported => "The profile knows no rotation",
        ErrorCode::RotationPending => "The key's text before the last rotation still opens",
        ErrorCode::ProfileInUse => "The application has tenants under its profile",
        ErrorCode::LastRootKey => "It is the last root key",
        ErrorCode::ChangedMeanwhile => "It was changed meanwhile",
        ErrorCode::ReplaysMax => "The tenant has as many unfinished replays as it may have",
        ErrorCode::TestCallsMax => "The tenant has made as many test calls as it may",
        ErrorCode::RateLimited => "The key has made as many requests as it may",
        ErrorCode::Overloaded => "Too much is going on",
        ErrorCode::StoreFull => "The disk is full",
        ErrorCode::StoreUnavailable => "The store is not available",
        ErrorCode::OutcomeUnknown => "The write may or may not have happened",
        ErrorCode::Internal => "Something went wrong inside",
    }
}

/// A refusal as the native API answers it.
#[derive(Debug)]
pub struct Problem(pub(crate) Refusal);

/// What a handler gives.
pub(crate) type Answer = Result<Response, Problem>;

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

/// Seconds a client should wait after a 503.
pub(crate) const RETRY_AFTER_SECS: u32 = 1;

#[derive(Serialize, ToSchema)]
pub(crate) struct ProblemView<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    code: ErrorCode,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self(refusal) = self;
        refusal.log();
        let status = status(refusal.code);
        let problem = ProblemView {
            r#type: format!("urn:postrider:problem:{}", refusal.code.as_str()),
            title: title(refusal.code),
            status: status.as_u16(),
            code: refusal.code,
            detail: &refusal.detail,
            field: refusal.field.as_deref(),
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
        // A 401 has to name a scheme (RFC 9110 15.5.2).
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

//! Refusals in the shape that NestJS gives them, and the headers that every answer has.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use postrider_core::Timestamp;
use postrider_core::profile::ApiSpec;
use postrider_service::{self as service, ErrorCode, Standing};
use serde::Serialize;

use crate::problem::{RETRY_AFTER_SECS, status};

/// An error as NestJS writes it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: Message,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Message {
    One(String),
    /// Validation tells all mistakes.
    Many(Vec<String>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RefusalView<'r> {
    status_code: u16,
    message: &'r Message,
    error: &'static str,
}

pub(super) type Answer = Result<Response, Refusal>;

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: Message::One(message.into()),
        }
    }

    pub(super) fn from_service(spec: &ApiSpec, error: &service::Refusal) -> Self {
        error.log();
        match error.code {
            ErrorCode::EndpointsMax => {
                return Self::new(StatusCode::BAD_REQUEST, spec.text("endpoints_max"));
            }
            // What is wrong with a URL by itself was told before: its name leads somewhere private.
            ErrorCode::EndpointUrlInvalid => {
                return Self::new(StatusCode::BAD_REQUEST, spec.text("url_private"));
            }
            ErrorCode::EventTypeUnknown | ErrorCode::SubscriptionInvalid => {
                return Self::new(StatusCode::BAD_REQUEST, spec.text("events_unknown"));
            }
            _ => {}
        }
        match status(error.code) {
            StatusCode::SERVICE_UNAVAILABLE => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, spec.text("unavailable"))
            }
            StatusCode::INTERNAL_SERVER_ERROR => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error")
            }
            StatusCode::FORBIDDEN => Self::new(StatusCode::FORBIDDEN, spec.text("forbidden")),
            StatusCode::NOT_FOUND => Self::new(StatusCode::NOT_FOUND, spec.text("not_found")),
            StatusCode::TOO_MANY_REQUESTS => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, error.detail.clone())
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, spec.text("body_too_large"))
            }
            _ => Self::new(StatusCode::BAD_REQUEST, error.detail.clone()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = self.status.canonical_reason().unwrap_or("Error");
        let mut response = json(
            self.status,
            &RefusalView {
                status_code: self.status.as_u16(),
                message: &self.message,
                error,
            },
        );
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECS));
        }
        response
    }
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    crate::request::json(status, value)
}

pub(super) fn with_standing(mut response: Response, standing: Standing) -> Response {
    let mut set = |name: &'static str, value: HeaderValue| {
        response
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    };
    set("x-ratelimit-limit", HeaderValue::from(standing.limit));
    set(
        "x-ratelimit-remaining",
        HeaderValue::from(standing.remaining),
    );
    set(
        "x-ratelimit-reset",
        // Rounded up, so that whoever waits until then is in the next window.
        HeaderValue::from(standing.resets_at.plus(ALMOST_A_SECOND).as_unix()),
    );
    response
}

const ALMOST_A_SECOND: Duration = Duration::from_micros(999_999);

/// What is not counted tells of the whole limit: of those of the live mode, before a key is known.
pub(super) fn uncounted(spec: &ApiSpec, limit: u32, now: Timestamp) -> Standing {
    Standing {
        limit,
        remaining: limit,
        resets_at: now.plus(spec.rate_window),
        exceeded: false,
    }
}

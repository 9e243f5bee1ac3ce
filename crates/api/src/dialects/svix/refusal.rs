//! What the service refuses, in Svix's words: `code` and `detail`, and of a field that is wrong a list of where and why.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use postrider_core::profile::ApiSpec;
use postrider_service::{ErrorCode, Refusal};
use serde::Serialize;

use crate::problem::{RETRY_AFTER_SECS, status};
use crate::request::json;

/// What has a name that is taken: each is told in words of its own.
pub(super) const APPLICATION: &str = "application";
pub(super) const EVENT_TYPE: &str = "eventType";

pub(super) fn taken(what: &str) -> Refusal {
    Refusal::field(ErrorCode::NameTaken, what, "its name is taken")
}

/// A refusal that is not worded yet: the sentences are the profile's, which handlers need not carry around.
#[derive(Debug)]
pub(super) struct Refused(Refusal);

impl Refused {
    pub(super) fn is(&self, code: ErrorCode) -> bool {
        self.0.code == code
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        // Until it is worded it is no success for whoever stands between, and our fault if nobody words it.
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(Arc::new(self.0));
        response
    }
}

#[derive(Serialize)]
struct Told<'s> {
    code: &'s str,
    detail: &'s str,
}

#[derive(Serialize)]
struct Invalid<'s> {
    detail: [Place<'s>; 1],
}

#[derive(Serialize)]
struct Place<'s> {
    loc: Vec<&'s str>,
    msg: &'s str,
    r#type: &'static str,
}

/// Words the refusal that a handler left in its response.
pub(super) fn worded(spec: Option<&ApiSpec>, mut response: Response) -> Response {
    let Some(refusal) = response.extensions_mut().remove::<Arc<Refusal>>() else {
        return response;
    };
    in_words(spec, &refusal)
}

/// A refusal in words.
pub(super) fn in_words(spec: Option<&ApiSpec>, refusal: &Refusal) -> Response {
    refusal.log();
    let text = |name: &'static str| spec.map_or(name, |spec| spec.text(name)).to_owned();
    let status = status(refusal.code);
    let (status, code, detail) = match refusal.code {
        ErrorCode::RouteUnknown | ErrorCode::MethodNotAllowed => {
            (status, "not_found", refusal.detail.clone())
        }
        ErrorCode::NotFound => (status, "not_found", text("not_found")),
        ErrorCode::NameTaken | ErrorCode::IdempotencyKeyReused => {
            let (code, sentence) = match refusal.field.as_deref() {
                Some(APPLICATION) => ("conflict", "application_exists"),
                Some(EVENT_TYPE) => ("event_type_exists", "event_type_exists"),
                _ => ("conflict", "conflict"),
            };
            (StatusCode::CONFLICT, code, text(sentence))
        }
        ErrorCode::ScopeInsufficient => (status, "insufficient access", refusal.detail.clone()),
        ErrorCode::KeyMissing
        | ErrorCode::KeyUnknown
        | ErrorCode::KeyDisabled
        | ErrorCode::KeyExpired
        | ErrorCode::AddressNotAllowed => (
            StatusCode::UNAUTHORIZED,
            "authentication_failed",
            text("authentication_failed"),
        ),
        _ if status == StatusCode::BAD_REQUEST || status == StatusCode::UNPROCESSABLE_ENTITY => {
            return invalid(refusal);
        }
        _ => (status, refusal.code.as_str(), refusal.detail.clone()),
    };
    let detail = &detail;
    let mut response = json(status, &Told { code, detail });
    if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
        let after = HeaderValue::from(RETRY_AFTER_SECS);
        response.headers_mut().insert(header::RETRY_AFTER, after);
    }
    response
}

/// What a field of ours is called there.
fn theirs(field: &str) -> &str {
    match field {
        "type" => "eventType",
        "data" => "payload",
        "events" => "filterTypes",
        "filter" => "channels",
        "externalId" => "uid",
        "idempotencyKey" => "eventId",
        "lastsSecs" => "expiry",
        "schema" | "example" => "schemas",
        own => own,
    }
}

fn invalid(refusal: &Refusal) -> Response {
    let mut loc = vec!["body"];
    loc.extend(refusal.field.as_deref().map(theirs));
    let msg = &refusal.detail;
    let place = Place {
        loc,
        msg,
        r#type: match refusal.code {
            ErrorCode::BodyNotJson => "value_error.jsondecode",
            _ => "value_error",
        },
    };
    let invalid = Invalid { detail: [place] };
    json(StatusCode::UNPROCESSABLE_ENTITY, &invalid)
}

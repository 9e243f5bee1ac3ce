//! Reading requests: bounded, strict, with the field that is wrong.

use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use postrider_core::json::{InvalidJson, check_json};
use postrider_core::limits::{PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX};
use postrider_core::{Id, Timestamp, id};
use postrider_store::{Page, PageRequest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::problem::{ApiError, ApiResult, ErrorCode};

/// `axum`'s path parameters, refused as this API refuses: what does not read is not found.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        read.map(|path| Self(path.0))
            .map_err(|_| ApiError::not_found("thing"))
    }
}

/// `axum`'s query parameters, refused as this API refuses: unknown and repeated ones too.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        read.map(|query| Self(query.0))
            .map_err(|rejection| ApiError::invalid("query", rejection.body_text()))
    }
}

/// Reads a body of at most `max` bytes within `limit`.
pub(crate) async fn read_body(body: Body, max: usize, limit: Duration) -> ApiResult<Bytes> {
    let collected = tokio::time::timeout(limit, Limited::new(body, max).collect()).await;
    let collected = collected.map_err(|_| {
        ApiError::new(
            ErrorCode::BodyTimeout,
            format!("the whole body must arrive within {} s", limit.as_secs()),
        )
    })?;
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::new(
            ErrorCode::BodyTooLarge,
            format!("a body may have {max} bytes here"),
        )),
        Err(_) => Err(ApiError::new(
            ErrorCode::BodyNotJson,
            "the body ended early",
        )),
    }
}

/// Refuses a body that says it is something other than JSON.
pub(crate) fn must_be_json(headers: &HeaderMap) -> ApiResult<()> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::ContentTypeUnsupported,
        "send Content-Type: application/json",
    ))
}

/// Parses a body: one JSON value, not too deep, no key twice, no unknown field.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    well_formed(bytes)?;
    typed(bytes)
}

pub(crate) fn well_formed(bytes: &[u8]) -> ApiResult<()> {
    check_json(bytes).map_err(|error| {
        let code = match error {
            InvalidJson::Syntax(_) => ErrorCode::BodyNotJson,
            InvalidJson::TooDeep => ErrorCode::BodyTooDeep,
            InvalidJson::DuplicateKey(_) => ErrorCode::BodyDuplicateKey,
        };
        ApiError::new(code, format!("the body {error}"))
    })
}

/// Parses a body that is known to be well-formed JSON.
pub(crate) fn typed<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> ApiResult<T> {
    // A list would be taken for the fields in their order.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(ApiError::new(
            ErrorCode::ValidationFailed,
            "must be a JSON object",
        ));
    }
    let reader = &mut serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(reader).map_err(|error| {
        let path = error.path().to_string();
        let text = error.inner().to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        // serde names the field in its sentence when the field is the mistake.
        let named = ["missing field `", "unknown field `"]
            .iter()
            .find_map(|start| {
                let (name, _) = text.strip_prefix(start)?.split_once('`')?;
                Some(name)
            });
        let path = if path == "." { "" } else { &path };
        match (path, named) {
            ("", None) => ApiError::new(ErrorCode::ValidationFailed, text),
            ("", Some(name)) => ApiError::invalid(name, text),
            (path, Some(name)) if !path.ends_with(name) => {
                ApiError::invalid(format!("{path}.{name}"), text)
            }
            (path, _) => ApiError::invalid(path, text),
        }
    })
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => ApiError::internal(error).into_response(),
    }
}

pub(crate) fn ok(value: &impl Serialize) -> Response {
    json(StatusCode::OK, value)
}

/// A list with its next page.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
}

pub(crate) fn list<R, T: Serialize>(page: Page<R>, view: impl FnMut(R) -> T) -> Response {
    let next_cursor = page.next.map(|cursor| cursor.to_string());
    ok(&List {
        data: page.rows.into_iter().map(view).collect(),
        next_cursor,
    })
}

/// `limit` and `cursor` of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Paging {
    limit: Option<String>,
    cursor: Option<String>,
}

pub(crate) fn page_request(limit: Option<&str>, cursor: Option<&str>) -> ApiResult<PageRequest> {
    let limit = match limit {
        None => PAGE_ROWS_DEFAULT,
        Some(text) => {
            let parsed = text
                .parse()
                .ok()
                .filter(|limit| (1..=PAGE_ROWS_MAX).contains(limit));
            parsed.ok_or_else(|| {
                ApiError::invalid(
                    "limit",
                    format!("must be a whole number from 1 to {PAGE_ROWS_MAX}"),
                )
            })?
        }
    };
    let cursor = match cursor {
        None => None,
        Some(text) => Some(text.parse().map_err(
            |error: postrider_store::queries::InvalidCursor| {
                ApiError::field(ErrorCode::CursorInvalid, "cursor", error.to_string())
            },
        )?),
    };
    Ok(PageRequest { limit, cursor })
}

impl Paging {
    pub(crate) fn request(&self) -> ApiResult<PageRequest> {
        page_request(self.limit.as_deref(), self.cursor.as_deref())
    }

    /// Of a list whose rows are large: at most `max` of them, which is also the default.
    pub(crate) fn request_of(&self, max: usize) -> ApiResult<PageRequest> {
        let mut request = self.request()?;
        if self.limit.is_none() {
            request.limit = max;
        }
        if request.limit > max {
            let rule = format!("must be at most {max}: every row holds a whole request");
            return Err(ApiError::invalid("limit", rule));
        }
        Ok(request)
    }
}

/// An id in a path: what is not one is simply not found.
pub(crate) fn path_id<K: id::Kind>(text: &str) -> ApiResult<Id<K>> {
    text.parse().map_err(|_| ApiError::not_found(K::NOUN))
}

/// An id in a query or a body.
pub(crate) fn given_id<K: id::Kind>(field: &str, text: Option<&str>) -> ApiResult<Option<Id<K>>> {
    text.map(|text| {
        text.parse()
            .map_err(|error: id::InvalidId| ApiError::invalid(field, error.to_string()))
    })
    .transpose()
}

pub(crate) fn given_time(field: &str, text: Option<&str>) -> ApiResult<Option<Timestamp>> {
    let invalid =
        |error: postrider_core::time::InvalidTimestamp| ApiError::invalid(field, error.to_string());
    text.map(|text| text.parse().map_err(invalid)).transpose()
}

/// A text of at most `max` bytes without control characters.
pub(crate) fn bounded(field: &str, text: &str, max: usize) -> ApiResult<()> {
    if text.len() > max {
        return Err(ApiError::invalid(
            field,
            format!("must have at most {max} bytes"),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(ApiError::invalid(field, "must not have control characters"));
    }
    Ok(())
}

pub(crate) fn required(field: &str, text: &str, max: usize) -> ApiResult<()> {
    if text.trim().is_empty() {
        return Err(ApiError::invalid(field, "must not be empty"));
    }
    bounded(field, text, max)
}

//! Reading requests: bounded, strict, with the field that is wrong.

use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use postrider_core::json::{InvalidJson, check_json_to};
use postrider_core::limits::{JSON_DEPTH_MAX, PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX};
use postrider_core::{Id, Timestamp, id};
use postrider_engine::budget::Grant;
use postrider_store::{Page, PageRequest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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

/// A body in memory; its bytes are on its caller's account as long as this is there.
pub(crate) struct HeldBody {
    bytes: Bytes,
    _grant: Grant,
}

impl std::ops::Deref for HeldBody {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

/// What is read of a body that is refused, so that its sender gets the answer and not a reset.
const LINGER_BYTES_MAX: usize = 32 * 1024 * 1024;
const LINGER_MAX: Duration = Duration::from_secs(2);

/// Reads a body of at most `max` bytes within `limit`, as far as `grant` can be had for it.
pub(crate) async fn read_body(
    mut body: Body,
    max: usize,
    limit: Duration,
    mut grant: Grant,
) -> ApiResult<HeldBody> {
    let declared = body.size_hint().lower();
    let reading = async {
        let mut read = Vec::new();
        if declared > max as u64 {
            return Err(too_large(max));
        }
        while let Some(frame) = body.frame().await {
            let ended = |_| ApiError::new(ErrorCode::BodyNotJson, "the body ended early");
            let Ok(data) = frame.map_err(ended)?.into_data() else {
                continue;
            };
            if read.len() + data.len() > max {
                return Err(too_large(max));
            }
            if !grant.grow(data.len()) {
                let detail = "requests hold as much memory as they may; try again in a second";
                return Err(ApiError::new(ErrorCode::Overloaded, detail));
            }
            read.extend_from_slice(&data);
        }
        Ok(read)
    };
    match tokio::time::timeout(limit, reading).await {
        Ok(Ok(read)) => Ok(HeldBody {
            bytes: read.into(),
            _grant: grant,
        }),
        Ok(Err(refusal)) => {
            drop(tokio::time::timeout(LINGER_MAX, discard(body)).await);
            Err(refusal)
        }
        Err(_) => Err(ApiError::new(
            ErrorCode::BodyTimeout,
            format!("the whole body must arrive within {} s", limit.as_secs()),
        )),
    }
}

fn too_large(max: usize) -> ApiError {
    ApiError::new(
        ErrorCode::BodyTooLarge,
        format!("a body may have {max} bytes here"),
    )
}

async fn discard(mut body: Body) {
    let mut left = LINGER_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        let Some(rest) = left.checked_sub(bytes) else {
            return;
        };
        left = rest;
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
    // The data of an event may have all the depth there is; its envelope is one level more.
    check_json_to(bytes, JSON_DEPTH_MAX + 1).map_err(|error| {
        let code = match error {
            InvalidJson::Syntax(_) => ErrorCode::BodyNotJson,
            InvalidJson::TooDeep(_) => ErrorCode::BodyTooDeep,
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

/// Refuses what a type did not take from a value: stored forms are read tolerantly, so that an older
/// version reads what a newer one wrote; what somebody sends is not.
///
/// # Errors
/// The path of the first unknown field.
pub(crate) fn only_known(given: &Value, taken: &impl Serialize) -> Result<(), String> {
    let taken = serde_json::to_value(taken).map_err(|error| error.to_string())?;
    match first_unknown(given, &taken) {
        Some(path) => Err(path),
        None => Ok(()),
    }
}

fn first_unknown(given: &Value, taken: &Value) -> Option<String> {
    match (given, taken) {
        (Value::Object(given), Value::Object(taken)) => {
            given
                .iter()
                .find_map(|(name, value)| match taken.get(name) {
                    None if value.is_null() => None,
                    None => Some(name.clone()),
                    Some(taken) => {
                        first_unknown(value, taken).map(|below| format!("{name}.{below}"))
                    }
                })
        }
        (Value::Array(given), Value::Array(taken)) => {
            given
                .iter()
                .zip(taken)
                .enumerate()
                .find_map(|(at, (given, taken))| {
                    first_unknown(given, taken).map(|below| format!("{at}.{below}"))
                })
        }
        // A list would be taken for the fields in their order.
        (Value::Array(_), Value::Object(_)) => Some("0".to_owned()),
        _ => None,
    }
}

/// For a field whose type is read tolerantly elsewhere.
pub(crate) fn strictly<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: DeserializeOwned + Serialize,
    D: serde::Deserializer<'de>,
{
    let given = Value::deserialize(deserializer)?;
    let taken: T = serde_json::from_value(given.clone()).map_err(serde::de::Error::custom)?;
    only_known(&given, &taken)
        .map_err(|path| serde::de::Error::custom(format!("unknown field `{path}`")))?;
    Ok(taken)
}

/// As [`strictly`], and null takes it away.
pub(crate) fn nullable_strictly<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: DeserializeOwned + Serialize,
    D: serde::Deserializer<'de>,
{
    match Option::<Value>::deserialize(deserializer)? {
        None => Ok(Some(None)),
        Some(given) => strictly(given)
            .map(|taken| Some(Some(taken)))
            .map_err(serde::de::Error::custom),
    }
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

/// Characters of what somebody gave that a refusal repeats.
const GIVEN_SHOWN: usize = 64;

/// An id in a path: what is not one is simply not found.
pub(crate) fn path_id<K: id::Kind>(text: &str) -> ApiResult<Id<K>> {
    text.parse().map_err(|error: id::InvalidId| {
        // Somebody who mixed up two ids searches long for one that is there.
        let given: String = text.chars().take(GIVEN_SHOWN).collect();
        let (noun, prefix) = (K::NOUN, error.prefix);
        let detail =
            format!("{given:?} is no id of this kind: that of a {noun} begins with {prefix}");
        ApiError::new(ErrorCode::NotFound, detail)
    })
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

/// Characters without width or ink, which would make two names look the same.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

pub(crate) fn required(field: &str, text: &str, max: usize) -> ApiResult<()> {
    if text.trim().is_empty() {
        return Err(ApiError::invalid(field, "must not be empty"));
    }
    let seen = |c: char| !c.is_whitespace() && !is_invisible(c);
    if !text.chars().any(seen) {
        return Err(ApiError::invalid(field, "must have something to see"));
    }
    bounded(field, text, max)
}

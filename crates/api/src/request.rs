//! Reading requests: bounded, strict, with the field that is wrong.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use postrider_core::limits::{PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX};
use postrider_core::{Id, Timestamp, id};
use postrider_service::budget::Grant;
pub(crate) use postrider_service::read_id;
use postrider_service::{ErrorCode, InvalidCursor, Page, PageRequest, Refusal, Result};
pub(crate) use postrider_service::{typed, well_formed};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
// Hidden, but what its own macros ask of a generic type.
use utoipa::__dev::ComposeSchema;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{IntoParams, ToSchema};

use crate::problem::Problem;

/// `axum`'s path parameters, refused as this API refuses: what does not read is not found.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        read.map(|path| Self(path.0))
            .map_err(|_| Refusal::not_found("thing").into())
    }
}

/// `axum`'s query parameters, refused as this API refuses: unknown and repeated ones too.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        read.map(|query| Self(query.0))
            .map_err(|rejection| Refusal::invalid("query", rejection.body_text()).into())
    }
}

/// Of a request that says all with its path: whoever sends more would wonder why it changes nothing.
pub(crate) struct NoBody;

/// Bytes of a body that is refused anyway, and the time in which they come.
const NO_BODY_BYTES_MAX: usize = 1_024;
const NO_BODY_TIME_MAX: Duration = Duration::from_secs(2);

impl<S: Send + Sync> FromRequest<S> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let refused = || Refusal::invalid("body", "is not read here; leave it out");
        let reading = axum::body::to_bytes(request.into_body(), NO_BODY_BYTES_MAX);
        let read = tokio::time::timeout(NO_BODY_TIME_MAX, reading).await;
        let read = read.map_err(|_| refused())?.map_err(|_| refused())?;
        // Some clients send something wherever a body could be.
        let read = read.trim_ascii();
        let object = read.strip_prefix(b"{");
        let is_empty = read.is_empty()
            || read == b"null"
            || object.is_some_and(|rest| rest.trim_ascii() == b"}");
        is_empty.then_some(Self).ok_or_else(|| refused().into())
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

/// What an answer that is being made holds, on its caller's account.
pub(crate) struct Holding(pub(crate) Grant);

impl Holding {
    /// # Errors
    /// `Overloaded` when the caller's answers hold as much as they may.
    pub(crate) fn grow_by(&mut self, bytes: usize) -> Result<()> {
        if self.0.grow(bytes) {
            return Ok(());
        }
        let detail =
            "your answers hold as much memory as they may; read them, or have less to be listed";
        Err(Refusal::new(ErrorCode::Overloaded, detail))
    }
}

/// Reads a body of at most `max` bytes within `limit`, as far as `grant` can be had for it.
pub(crate) async fn read_body(
    mut body: Body,
    max: usize,
    limit: Duration,
    mut grant: Grant,
) -> Result<HeldBody> {
    let declared = body.size_hint().lower();
    let reading = async {
        // It grows with what comes: what is declared may never come, and is on nobody's account.
        let mut read = Vec::new();
        if declared > max as u64 {
            return Err(too_large(max));
        }
        while let Some(frame) = body.frame().await {
            let ended = |_| Refusal::new(ErrorCode::BodyNotJson, "the body ended early");
            // Trailers have no data.
            let Ok(data) = frame.map_err(ended)?.into_data() else {
                continue;
            };
            if read.len() + data.len() > max {
                return Err(too_large(max));
            }
            if !grant.grow(data.len()) {
                let detail = "requests hold as much memory as they may; try again in a second";
                return Err(Refusal::new(ErrorCode::Overloaded, detail));
            }
            read.extend_from_slice(&data);
        }
        Ok(read)
    };
    let read = tokio::time::timeout(limit, reading).await.map_err(|_| {
        let detail = format!("the whole body must arrive within {} s", limit.as_secs());
        Refusal::new(ErrorCode::BodyTimeout, detail)
    })??;
    Ok(HeldBody {
        bytes: read.into(),
        _grant: grant,
    })
}

fn too_large(max: usize) -> Refusal {
    Refusal::new(
        ErrorCode::BodyTooLarge,
        format!("a body may have {max} bytes here"),
    )
}

/// Refuses a body that says it is something other than JSON.
pub(crate) fn must_be_json(headers: &HeaderMap) -> Result<()> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorCode::ContentTypeUnsupported,
        "send Content-Type: application/json",
    ))
}

/// Parses a body: one JSON value, not too deep, no key twice, no unknown field.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    // First the form: of a key that is there twice in a map serde takes the last.
    well_formed(bytes)?;
    typed(bytes)
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => Problem(Refusal::internal(error)).into_response(),
    }
}

pub(crate) fn ok(value: &impl Serialize) -> Response {
    json(StatusCode::OK, value)
}

/// A list with its next page.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct List<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
}

impl<T: ToSchema> ComposeSchema for List<T> {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        let cursor = SchemaType::from_iter([Type::String, Type::Null]);
        let cursor = ObjectBuilder::new()
            .schema_type(cursor)
            .description(Some("To be given as `cursor`; null where nothing follows."));
        ObjectBuilder::new()
            .property("data", Ref::from_schema_name(T::name()).to_array_builder())
            .required("data")
            .property("nextCursor", cursor)
            .required("nextCursor")
            .into()
    }
}

impl<T: ToSchema> ToSchema for List<T> {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

pub(crate) fn list<R, T: Serialize>(page: Page<R>, view: impl FnMut(R) -> T) -> Response {
    let next_cursor = page.next.map(|cursor| cursor.to_string());
    ok(&List {
        data: page.rows.into_iter().map(view).collect(),
        next_cursor,
    })
}

/// `limit` and `cursor` of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// Rows of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 250)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

pub(crate) fn page_request(limit: Option<&str>, cursor: Option<&str>) -> Result<PageRequest> {
    let limit = match limit {
        None => PAGE_ROWS_DEFAULT,
        Some(text) => {
            let parsed = text
                .parse()
                .ok()
                .filter(|limit| (1..=PAGE_ROWS_MAX).contains(limit));
            parsed.ok_or_else(|| {
                Refusal::invalid(
                    "limit",
                    format!("must be a whole number from 1 to {PAGE_ROWS_MAX}"),
                )
            })?
        }
    };
    let cursor = match cursor {
        None => None,
        Some(text) => Some(text.parse().map_err(|error: InvalidCursor| {
            Refusal::field(ErrorCode::CursorInvalid, "cursor", error.to_string())
        })?),
    };
    Ok(PageRequest { limit, cursor })
}

impl Paging {
    pub(crate) fn request(&self) -> Result<PageRequest> {
        page_request(self.limit.as_deref(), self.cursor.as_deref())
    }

    /// Of a list whose rows are large: at most `max` of them, which is also the default.
    pub(crate) fn request_of(&self, max: usize) -> Result<PageRequest> {
        let mut request = self.request()?;
        if self.limit.is_none() {
            request.limit = max;
        }
        if request.limit > max {
            let rule = format!("must be at most {max}: every row holds a whole request");
            return Err(Refusal::invalid("limit", rule));
        }
        Ok(request)
    }
}

/// An id in a query or a body.
pub(crate) fn given_id<K: id::Kind>(field: &str, text: Option<&str>) -> Result<Option<Id<K>>> {
    text.map(|text| {
        text.parse()
            .map_err(|error: id::InvalidId| Refusal::invalid(field, error.to_string()))
    })
    .transpose()
}

pub(crate) fn given_time(field: &str, text: Option<&str>) -> Result<Option<Timestamp>> {
    let invalid =
        |error: postrider_core::time::InvalidTimestamp| Refusal::invalid(field, error.to_string());
    text.map(|text| text.parse().map_err(invalid)).transpose()
}

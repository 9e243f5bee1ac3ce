//! Lists as Svix pages through them: `limit` and `iterator` in, `data`, `iterator` and `done` out.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::response::Response;
use http::request::Parts;
use postrider_core::Timestamp;
use postrider_core::id;
use postrider_core::limits::{PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX};
use postrider_core::profile::IdFormat;
use postrider_service::{Cursor, ErrorCode, Page, PageRequest, Refusal, Result};
use serde::Serialize;

use super::refusal::Refused;
use crate::request::ok;

/// The query of a request. What is not known is passed over, as the original does.
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Refused> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let pairs = pairs.map_err(|error| Refusal::invalid("query", error.body_text()))?;
        Ok(Self(pairs.0))
    }
}

impl Params {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let mut pairs = self.0.iter();
        let found = pairs.find(|(key, _)| key == name)?;
        Some(found.1.as_str()).filter(|text| !text.is_empty())
    }

    /// Repeated, or with commas between: the SDKs do either.
    pub(super) fn texts(&self, name: &str) -> Vec<&str> {
        // `event_types`, `event_types[]`, `event_types[1]`.
        let is_it = |key: &str| key.split('[').next() == Some(name);
        let own = self.0.iter().filter(|(key, _)| is_it(key));
        let texts = own.flat_map(|(_, text)| text.split(','));
        texts.filter(|text| !text.is_empty()).collect()
    }

    pub(super) fn read<T: FromStr>(&self, name: &str, must: &str) -> Result<Option<T>> {
        let invalid = |_| Refusal::invalid(name, must);
        let text = self.text(name);
        text.map(|text| text.parse().map_err(invalid)).transpose()
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        let given = self.read(name, "must be true or false")?;
        Ok(given.unwrap_or(default))
    }

    /// A time. The SDK for Python writes the plus of an offset so that it arrives as a blank.
    pub(super) fn time(&self, name: &str) -> Result<Option<Timestamp>> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let invalid = |_| Refusal::invalid(name, "must be a time such as 2026-01-31T12:00:00Z");
        text.replace(' ', "+").parse().map(Some).map_err(invalid)
    }

    /// How many rows a page may have.
    pub(super) fn limit(&self) -> Result<usize> {
        let rule = format!("must be a whole number from 1 to {PAGE_ROWS_MAX}");
        let limit = self.read("limit", &rule)?.unwrap_or(PAGE_ROWS_DEFAULT);
        if !(1..=PAGE_ROWS_MAX).contains(&limit) {
            return Err(Refusal::invalid("limit", rule));
        }
        Ok(limit)
    }

    /// The page that is asked for; an iterator is the id of the last row that was shown.
    pub(super) fn page<K: id::Kind>(&self, ids: &IdFormat) -> Result<PageRequest> {
        let last = match self.text("iterator") {
            None => None,
            Some(text) => Some(ids.read::<K>(text).ok_or_else(no_iterator)?),
        };
        let limit = self.limit()?;
        Ok(PageRequest {
            limit,
            cursor: last.map(Cursor::behind),
        })
    }

    /// Whether the oldest come first.
    pub(super) fn ascending(&self, default: bool) -> Result<bool> {
        match self.text("order") {
            None => Ok(default),
            Some("ascending") => Ok(true),
            Some("descending") => Ok(false),
            Some(_) => {
                let rule = "must be ascending or descending";
                Err(Refusal::invalid("order", rule))
            }
        }
    }
}

pub(super) fn no_iterator() -> Refusal {
    let rule = "must be the iterator that a page of the same list gave";
    Refusal::field(ErrorCode::CursorInvalid, "iterator", rule)
}

#[derive(Serialize)]
struct ListOut<T> {
    data: Vec<T>,
    iterator: Option<String>,
    done: bool,
}

/// A page; `last` is the id of the last row that was looked at, behind which the next one begins.
pub(super) fn list<T: Serialize>(data: Vec<T>, last: Option<String>, done: bool) -> Response {
    ok(&ListOut {
        data,
        iterator: last,
        done,
    })
}

/// A page of rows as the store gave it.
pub(super) fn page_of<R, T: Serialize>(
    page: Page<R>,
    id: impl Fn(&R) -> String,
    view: impl Fn(R) -> T,
) -> Response {
    let (last, done) = (page.rows.last().map(id), page.next.is_none());
    list(page.rows.into_iter().map(view).collect(), last, done)
}

/// A page of rows that are all in memory, in their order. An iterator is the name of the last row that was shown,
/// which may be gone by now: the next page begins with the first row that `is_after` it.
pub(super) fn part_of<R, T: Serialize>(
    params: &Params,
    rows: Vec<R>,
    name: impl Fn(&R) -> String,
    is_after: impl Fn(&R, &str) -> bool,
    view: impl Fn(R) -> T,
) -> Result<Response> {
    let iterator = params.text("iterator");
    let limit = params.limit()?;
    let rest = rows.into_iter();
    let not_yet = |row: &R| iterator.is_some_and(|last| !is_after(row, last));
    let mut shown: Vec<R> = rest.skip_while(not_yet).collect();
    let done = shown.len() <= limit;
    shown.truncate(limit);
    let last = shown.last().map(name);
    Ok(list(shown.into_iter().map(view).collect(), last, done))
}

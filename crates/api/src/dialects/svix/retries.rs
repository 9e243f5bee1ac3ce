//! Requests that are sent again because their answer was lost: the SDKs give each POST an `Idempotency-Key` by
//! themselves, and the same key gets the same answer.
//!
//! Messages are remembered by the store, with what they made. What else is made is rare, and is remembered here: in
//! memory, of this process, within bounds.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, header};
use postrider_core::Timestamp;
use postrider_core::seal::sha256;

use crate::Api;

/// Bytes of the answers that are remembered; of more the oldest are forgotten.
const ANSWERS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What each takes beside its own bytes, about.
const OVERHEAD: usize = 256;
/// How long one is.
const REMEMBERED: Duration = Duration::from_secs(12 * 3_600);

type Key = [u8; 32];

/// Answers to requests that made something.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    answers: HashMap<Key, (StatusCode, Bytes)>,
    /// In the order in which they came.
    since: VecDeque<(Timestamp, Key)>,
    bytes: usize,
}

impl Answers {
    fn find(&self, key: &Key, now: Timestamp) -> Option<(StatusCode, Bytes)> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.forget(now);
        held.answers.get(key).cloned()
    }

    fn remember(&self, key: Key, answer: (StatusCode, Bytes), now: Timestamp) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Where two came at once, the first is what the others get.
        if !held.answers.contains_key(&key) {
            held.bytes += answer.1.len() + OVERHEAD;
            held.answers.insert(key, answer);
            held.since.push_back((now, key));
        }
        held.forget(now);
    }
}

impl Remembered {
    fn forget(&mut self, now: Timestamp) {
        let is_old = |at: Timestamp| now.since(at) > REMEMBERED;
        while let Some((at, key)) = self.since.front().copied() {
            if !is_old(at) && self.bytes <= ANSWERS_BYTES_MAX {
                return;
            }
            self.since.pop_front();
            if let Some((_, body)) = self.answers.remove(&key) {
                self.bytes -= body.len() + OVERHEAD;
            }
        }
    }
}

/// What makes two requests the same: who asks, where, and the key that they gave it.
fn key_of(request: &Request) -> Option<Key> {
    let given =
        |headers: &HeaderMap, name: &str| headers.get(name).map(|value| value.as_bytes().to_vec());
    let key = given(request.headers(), "idempotency-key")?;
    let who = given(request.headers(), header::AUTHORIZATION.as_str())?;
    let place = request.uri().path_and_query()?.as_str().as_bytes();
    // Neither has a line break.
    Some(sha256(&[&who, place, &key].join(&b'\n')))
}

/// Gives a request the answer that it had before, and remembers the answers of those that made something.
pub(super) async fn answered_before(
    State((api, answers)): State<(Api, Arc<Answers>)>,
    request: Request,
    next: Next,
) -> Response {
    let key = key_of(&request).filter(|_| request.method() == Method::POST);
    let Some(key) = key else {
        return next.run(request).await;
    };
    if let Some((status, body)) = answers.find(&key, api.service.now()) {
        let json = [(header::CONTENT_TYPE, "application/json")];
        return (status, json, body).into_response();
    }
    let response = next.run(request).await;
    if !response.status().is_success() {
        return response;
    }
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    answers.remember(key, (parts.status, body.clone()), api.service.now());
    Response::from_parts(parts, Body::from(body))
}

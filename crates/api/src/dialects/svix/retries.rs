//! Requests that are sent again because their answer was lost: the SDKs give each POST an `Idempotency-Key` by
//! themselves, and the same key gets the same answer.
//!
//! Messages are remembered by the store, with what they made. What else is made is rare, and is remembered here: in
//! memory, of this process, within bounds.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequestParts as _, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, header};
use postrider_core::Timestamp;
use postrider_core::seal::sha256;
use postrider_service::Refusal;

use super::Client;
use super::refusal::Refused;
use crate::Api;

/// Bytes of the answers that are remembered; of more the oldest of whoever has the most are forgotten.
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
    answers: HashMap<Key, Answered>,
    /// By those on whose account they are.
    holders: HashMap<u128, Held>,
    bytes: usize,
    /// Of those that are being answered: the next of the same key waits.
    turns: HashMap<Key, Arc<tokio::sync::Mutex<()>>>,
}

#[derive(Debug)]
struct Answered {
    at: Timestamp,
    status: StatusCode,
    body: Bytes,
}

/// What one holder has of it, in the order in which it came.
#[derive(Debug, Default)]
struct Held {
    keys: VecDeque<Key>,
    bytes: usize,
}

impl Answers {
    fn turn(&self, key: Key) -> Arc<tokio::sync::Mutex<()>> {
        let mut held = self.lock();
        // Those that wait, and the one that is answered, hold theirs too; what nobody holds is forgotten.
        held.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        held.turns.entry(key).or_default().clone()
    }

    fn find(&self, key: &Key, now: Timestamp) -> Option<(StatusCode, Bytes)> {
        let held = self.lock();
        let found = held.answers.get(key)?;
        let is_young = now.since(found.at) <= REMEMBERED;
        is_young.then(|| (found.status, found.body.clone()))
    }

    fn remember(&self, key: Key, holder: u128, answered: Answered) {
        let mut held = self.lock();
        let now = answered.at;
        let size = answered.body.len() + OVERHEAD;
        // One that is there was too old to be found.
        if let Some(old) = held.answers.insert(key, answered) {
            let old = old.body.len() + OVERHEAD;
            held.bytes -= old;
            let of = held.holders.entry(holder).or_default();
            of.bytes -= old;
            of.keys.retain(|known| *known != key);
        }
        held.bytes += size;
        let of = held.holders.entry(holder).or_default();
        of.bytes += size;
        of.keys.push_back(key);
        held.forget_old(holder, now);
        while held.bytes > ANSWERS_BYTES_MAX {
            let most = held.holders.iter().max_by_key(|(_, of)| of.bytes);
            let Some(most) = most.map(|(holder, _)| *holder) else {
                return;
            };
            held.forget_oldest(most);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remembered {
    fn forget_old(&mut self, holder: u128, now: Timestamp) {
        let is_old = |answered: &Answered| now.since(answered.at) > REMEMBERED;
        while let Some(of) = self.holders.get(&holder)
            && let Some(oldest) = of.keys.front()
            && self.answers.get(oldest).is_none_or(is_old)
        {
            self.forget_oldest(holder);
        }
    }

    fn forget_oldest(&mut self, holder: u128) {
        let Some(of) = self.holders.get_mut(&holder) else {
            return;
        };
        let gone = of.keys.pop_front();
        if let Some(gone) = gone.and_then(|key| self.answers.remove(&key)) {
            let size = gone.body.len() + OVERHEAD;
            of.bytes -= size;
            self.bytes -= size;
        }
        if of.keys.is_empty() {
            self.holders.remove(&holder);
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
    // What has a secret in it is not kept; to rotate twice harms nobody.
    let is_kept = request.method() == Method::POST && !request.uri().path().ends_with("/rotate");
    let Some(key) = key_of(&request).filter(|_| is_kept) else {
        return next.run(request).await;
    };
    // Whoever may not come in any more gets no answer from before either.
    let (mut parts, body) = request.into_parts();
    // The handler asks once more; the request is counted once all the same.
    let holder = match Client::from_request_parts(&mut parts, &api).await {
        Ok(client) => client.caller.holder(),
        Err(refused) => return refused.into_response(),
    };
    let request = Request::from_parts(parts, body);
    let service = api.service.clone();
    // While somebody is there: those that wait for the same one are as many as there are connections.
    let turn = answers.turn(key).lock_owned().await;
    // To the end, although its client goes away: that is when it is sent again.
    let answering = service.to_the_end(async move {
        let _held = turn;
        if let Some((status, body)) = answers.find(&key, api.service.now()) {
            let json = [(header::CONTENT_TYPE, "application/json")];
            return Ok((status, json, body).into_response());
        }
        let response = next.run(request).await;
        // It made nothing, so its retry is free to try again.
        if !response.status().is_success() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        // Without a bound, since these answers are whole in memory already.
        let body = to_bytes(body, usize::MAX)
            .await
            .map_err(Refusal::internal)?;
        let answered = Answered {
            at: api.service.now(),
            status: parts.status,
            body: body.clone(),
        };
        answers.remember(key, holder, answered);
        Ok(Response::from_parts(parts, Body::from(body)))
    });
    let answered: Result<Response, Refused> = answering.await.map_err(Refused::from);
    answered.into_response()
}

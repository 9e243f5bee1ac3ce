//! Whether this server has the key that a request brings: asked by a door to several servers, each with a database of its
//! own.

use std::net::IpAddr;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use postrider_core::seal::{hex, sha256, unhex};
use postrider_service::{ErrorCode, Refusal, Result};
use serde::{Deserialize, Serialize};

use crate::Api;
use crate::auth::came_from;
use crate::dialects::token;
use crate::problem::Problem;
use crate::request::ok;

/// Where it is asked.
pub const PATH: &str = "/node/knows";
/// What the systems' APIs name a key by, in the order in which they look.
const PUBLIC_IDS: [HeaderName; 2] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-management-id"),
];
const ASKED_ID: HeaderName = HeaderName::from_static("x-postrider-public-id");
const ASKED_KEY: HeaderName = HeaderName::from_static("x-postrider-key");
const ASKED_SESSION: HeaderName = HeaderName::from_static("x-postrider-session");

/// What a request names its key by. Never its text: every cell is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Named {
    PublicId(HeaderValue),
    Key([u8; 32]),
    Session([u8; 32]),
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knows {
    pub knows: bool,
}

impl Named {
    /// What the headers of a request name keys by, in the order in which they count: those who have an id of their own in
    /// a header look at no other.
    pub fn all(headers: &HeaderMap) -> Vec<Self> {
        let ids = PUBLIC_IDS.into_iter().filter_map(|name| headers.get(name));
        // Copied: a header's value is a part of all that was read with it.
        let ids = ids.filter_map(|id| HeaderValue::from_bytes(id.as_bytes()).ok());
        let mut all: Vec<Self> = ids.map(Self::PublicId).collect();
        if let Some(token) = token(headers) {
            all.push(Self::Session(sha256(token.as_bytes())));
            return all;
        }
        let given = headers.get(header::AUTHORIZATION);
        let given = given.and_then(|given| given.to_str().ok()?.split_once(' '));
        if let Some((scheme, key)) = given
            && scheme.eq_ignore_ascii_case("bearer")
        {
            all.push(Self::Key(sha256(key.trim().as_bytes())));
        }
        all
    }

    /// The header of a question.
    pub fn asked(&self) -> (HeaderName, HeaderValue) {
        let digest = |digest: &[u8]| {
            HeaderValue::try_from(hex(digest)).expect("hex digits are a header's value")
        };
        match self {
            Self::PublicId(id) => (ASKED_ID, id.clone()),
            Self::Key(key) => (ASKED_KEY, digest(key)),
            Self::Session(session) => (ASKED_SESSION, digest(session)),
        }
    }
}

/// Only for those whom this server trusts as a proxy, also where another proxy is between: nobody else is told which ids
/// there are.
pub(crate) async fn knows(State(api): State<Api>, parts: Parts) -> Result<Response, Problem> {
    // Of whoever comes through a trusted one it is their own.
    let from = came_from(&parts);
    let trusted = &api.options().trusted_proxies;
    if !from.is_some_and(|from| trusted.iter().any(|net| net.contains(&from))) {
        let detail = "this is asked by a door to several servers, which has to be among server.trusted_proxies";
        return Ok(Problem(Refusal::new(ErrorCode::RouteUnknown, detail)).into_response());
    }
    Ok(ok(&Knows {
        knows: has(&api, &parts.headers, from).await?,
    }))
}

/// Whose key it is otherwise, and whether it opens, is for the request itself.
async fn has(api: &Api, headers: &HeaderMap, from: Option<IpAddr>) -> Result<bool> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok();
    if let Some(id) = text(ASKED_ID) {
        return api.service.knows_public_id(id, from).await;
    }
    if let Some(key) = text(ASKED_KEY).and_then(unhex) {
        return api.service.knows_key(key, from).await;
    }
    match text(ASKED_SESSION).and_then(unhex) {
        Some(session) => api.service.knows_session(session, from).await,
        None => Ok(false),
    }
}

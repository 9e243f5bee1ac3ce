//! Whether this server has the key that a request brings: asked by a door to several servers, each with a database of its
//! own.

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use http::request::Parts;
use postrider_service::{ErrorCode, Result};
use serde::{Deserialize, Serialize};

use crate::Api;
use crate::auth::came_from;
use crate::dialects::token;
use crate::problem::Problem;
use crate::request::ok;

/// Where it is asked.
pub const PATH: &str = "/node/knows";
/// What the systems' APIs name a key by.
const PUBLIC_IDS: [&str; 2] = ["x-api-key", "x-management-id"];

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knows {
    pub knows: bool,
}

/// The headers of a request that say whose it is: none where there are none, and nobody is to be asked.
pub fn credentials(headers: &HeaderMap) -> HeaderMap {
    let names = [http::header::AUTHORIZATION.as_str()];
    let names = names.into_iter().chain(PUBLIC_IDS);
    let given = names.filter_map(|name| {
        let value = headers.get(name)?;
        Some((http::HeaderName::from_static(name), value.clone()))
    });
    given.collect()
}

pub(crate) async fn knows(State(api): State<Api>, parts: Parts) -> Result<Response, Problem> {
    Ok(ok(&Knows {
        knows: has(&api, &parts).await?,
    }))
}

/// Whose key it is otherwise, and whether it opens, is for the request itself.
async fn has(api: &Api, parts: &Parts) -> Result<bool> {
    let text = |name: &str| parts.headers.get(name)?.to_str().ok();
    if let Some(token) = token(parts) {
        return Ok(api.service.visit(&token, came_from(parts)).await?.is_some());
    }
    let bearer = text(http::header::AUTHORIZATION.as_str());
    if let Some((scheme, key)) = bearer.and_then(|given| given.split_once(' '))
        && scheme.eq_ignore_ascii_case("bearer")
    {
        return match api.service.prove(key).await {
            Ok(_) => Ok(true),
            // It is here, and was replaced.
            Err(refusal) if refusal.code == ErrorCode::KeyExpired => Ok(true),
            Err(refusal) if refusal.code == ErrorCode::KeyUnknown => Ok(false),
            Err(refusal) => Err(refusal),
        };
    }
    for id in PUBLIC_IDS.iter().filter_map(|name| text(name)) {
        if api.service.knows_public_id(id).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

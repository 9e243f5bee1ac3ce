//! Who asks: the key that a request brings, and where it comes from.

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use http::header;
use http::request::Parts;
use postrider_service::{Caller, CameFrom, ErrorCode, Proof, Refusal, Result};

use crate::Api;
use crate::edge::AskedBy;
use crate::problem::Problem;

/// The address of who asks, as the edge read it.
pub(crate) fn came_from(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<CameFrom>()?.address
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        api: &Api,
    ) -> std::result::Result<Self, Problem> {
        Ok(authenticate(parts, api).await?)
    }
}

pub(crate) async fn authenticate(parts: &Parts, api: &Api) -> Result<Caller> {
    let missing = || {
        Refusal::new(
            ErrorCode::KeyMissing,
            "send Authorization: Bearer with an API key",
        )
    };
    let given = parts
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(missing)?;
    let (scheme, text) = given.split_once(' ').ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    let proof = api.service.prove(text, came_from(parts)).await?;
    let_in(api, proof, parts)
}

/// Lets in whoever proved to have a key, and counts the request.
pub(crate) fn let_in(api: &Api, proof: Proof, parts: &Parts) -> Result<Caller> {
    let key = proof.id();
    // Before `admit`: the log names the key that was refused too.
    let asked_by = parts.extensions.get::<AskedBy>();
    if let Some(asked_by) = asked_by {
        asked_by.set(&key);
    }
    let caller = api.service.admit(proof, came_from(parts))?;
    count(api, &caller, key.as_u128(), asked_by)?;
    Ok(caller)
}

/// Counts a request of a key, or of a token that one made; once, whoever looks at it again.
pub(crate) fn count(
    api: &Api,
    caller: &Caller,
    holder: u128,
    asked_by: Option<&AskedBy>,
) -> Result<()> {
    if let Some(used) = asked_by.and_then(AskedBy::used) {
        return used.must_be_within();
    }
    let Some(used) = api.door.requests.count(caller, holder) else {
        return Ok(());
    };
    if let Some(asked_by) = asked_by {
        asked_by.has_used(used);
    }
    used.must_be_within()
}

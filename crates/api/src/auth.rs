//! Who asks: the key that a request brings, and where it comes from.

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use http::header;
use http::request::Parts;
use postrider_service::{Caller, ErrorCode, Refusal, Result};

use crate::Api;
use crate::edge::AskedBy;
use crate::problem::Problem;
use crate::server::Peer;

/// The address of who asks: the connection's other end, or, when that is a trusted proxy, the last
/// one in `X-Forwarded-For` that is none.
pub(crate) fn caller_address(api: &Api, parts: &Parts) -> Option<IpAddr> {
    let trusted = |address: &IpAddr| {
        let mut proxies = api.options().trusted_proxies.iter();
        proxies.any(|net| net.contains(address))
    };
    let mut address = parts.extensions.get::<Peer>()?.0.to_canonical();
    let mut lines: Vec<_> = parts.headers.get_all("x-forwarded-for").iter().collect();
    // The nearest proxy wrote last. What cannot be read makes the address unknown, never another one.
    while let Some(line) = lines.pop().filter(|_| trusted(&address)) {
        for text in line.to_str().ok()?.rsplit(',') {
            if !trusted(&address) {
                break;
            }
            address = text.trim().parse::<IpAddr>().ok()?.to_canonical();
        }
    }
    Some(address)
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

async fn authenticate(parts: &Parts, api: &Api) -> Result<Caller> {
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
    let proof = api.service.prove(text).await?;
    if let Some(asked_by) = parts.extensions.get::<AskedBy>() {
        asked_by.set(&proof.id());
    }
    api.service.admit(proof, caller_address(api, parts))
}

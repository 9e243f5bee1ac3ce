//! The vendors' management APIs: thin adapters over the same store and engine.
//!
//! A profile with an `[api]` section names its dialect and where it lives; numbers and sentences
//! come from the profile, shapes and order of keys from the adapter.

mod rate;
mod vignetim;

use std::collections::HashSet;

use axum::Router;
use axum::response::Response;
use http::Method;
use postrider_engine::ProfileRegistry;

use crate::Api;

pub(crate) use rate::RateLimits;

/// The routes of every dialect that a current profile asks for.
pub(crate) fn routes(profiles: &ProfileRegistry) -> Router<Api> {
    let mut router = Router::new();
    // Profiles may share a base: the key of a request tells whose it is.
    let mut bases = HashSet::new();
    for current in profiles
        .names()
        .iter()
        .filter_map(|name| profiles.current(name))
    {
        let Some(spec) = &current.profile.api else {
            continue;
        };
        if spec.dialect == vignetim::NAME && bases.insert(spec.base.clone()) {
            router = router.merge(vignetim::routes(&current.profile));
        }
    }
    router
}

/// The answer of the dialect whose base holds `path`, to a request that no route takes.
pub(crate) fn not_found(api: &Api, method: &Method, path: &str) -> Option<Response> {
    let profiles = api.engine().profiles();
    let mut current = profiles
        .names()
        .into_iter()
        .filter_map(|name| profiles.current(&name));
    let spec = current.find_map(|current| {
        let spec = current.profile.api.clone()?;
        path.strip_prefix(spec.base.as_str())
            .filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
        Some(spec)
    })?;
    (spec.dialect == vignetim::NAME)
        .then(|| vignetim::route_not_found(&spec, method, path, api.now()))
}

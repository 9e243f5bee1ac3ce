//! The vendors' management APIs: thin adapters over the same service.
//!
//! A profile with an `[api]` section names its dialect and where it lives; numbers and sentences
//! come from the profile, shapes and order of keys from the adapter.

mod svix;
mod vignetim;
mod voucherify;

pub(crate) use svix::token;

use std::collections::HashSet;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use http::{Method, Uri};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::limits::PAGE_ROWS_MAX;
use postrider_core::profile::{ApiSpec, Profile};
use postrider_core::{Id, id};
use postrider_service::{Caller, PageRequest, ProfileRegistry, Refusal, Result};
use tower::Service as _;

use crate::Api;
use crate::request::Holding;

/// The `[api]` sections of the current profiles.
fn specs(profiles: &ProfileRegistry) -> impl Iterator<Item = ApiSpec> + '_ {
    let names = profiles.names().into_iter();
    names.filter_map(|name| profiles.current(&name)?.profile.api.clone())
}

/// All registered endpoints of a tenant in the mode of the caller's key, in the order of their creation, as the vendor
/// shows them. The vendors' lists have no pages; [`ENDPOINTS_MAX`](postrider_core::limits::ENDPOINTS_MAX) bounds them,
/// and what of them is in memory is on the caller's account until the answer is made.
///
/// # Errors
/// What the service refuses; `Overloaded` when the caller's answers hold as much memory as they may.
async fn all_registered<V>(
    api: &Api,
    caller: &Caller,
    tenant: Id<id::Tenant>,
    view: impl Fn(Endpoint) -> V,
) -> Result<(Vec<V>, Holding)> {
    let mode = Some(caller.own_mode());
    let mut held = api.answer(caller);
    let mut all = Vec::new();
    let mut page = PageRequest::first(PAGE_ROWS_MAX);
    loop {
        let found = api.service.list_endpoints(caller, tenant, mode, page);
        let (found, _) = found.await?;
        for mut endpoint in found.rows {
            // No vendor's list has these, and they are the larger part.
            endpoint.headers.clear();
            endpoint.metadata.clear();
            held.grow_by(size_of::<V>() + endpoint.text_bytes())?;
            all.push(view(endpoint));
        }
        page.cursor = found.next;
        if page.cursor.is_none() {
            // Pages have the newest first.
            all.reverse();
            return Ok((all, held));
        }
    }
}

/// A tenant's registered endpoint of the mode of the caller's key, by the vendor's form of its id.
async fn registered(
    api: &Api,
    caller: &Caller,
    profile: &Profile,
    tenant: Id<id::Tenant>,
    text: &str,
) -> Result<Endpoint> {
    let not_found = || Refusal::not_found("endpoint");
    let id: Id<id::Endpoint> = profile.ids.endpoint.read(text).ok_or_else(not_found)?;
    let (endpoint, _) = api.service.endpoint(caller, &id.to_string()).await?;
    // An application's key reaches all of its tenants' endpoints; a vendor's path is of one.
    let own = endpoint.tenant == tenant
        && endpoint.mode == caller.own_mode()
        && endpoint.kind == EndpointKind::Registered;
    if own { Ok(endpoint) } else { Err(not_found()) }
}

/// Whether a path lies at or below the base of an API, or is one of those that its documentation writes
/// without the base.
fn holds(spec: &ApiSpec, path: &str) -> bool {
    let below = |base: &str| {
        let rest = path.strip_prefix(base);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    below(&spec.base) || (spec.dialect == vignetim::NAME && below("/webhooks"))
}

/// The routes of every dialect that a current profile asks for.
pub(crate) fn routes(api: &Api) -> Router<Api> {
    let profiles = api.service.profiles();
    let mut router = Router::new();
    // Profiles may share a base: the key of a request tells whose it is.
    let mut bases = HashSet::new();
    let mut has_vignetim = false;
    let names = profiles.names().into_iter();
    for current in names.filter_map(|name| profiles.current(&name)) {
        let Some(spec) = &current.profile.api else {
            continue;
        };
        if !bases.insert(spec.base.clone()) {
            continue;
        }
        router = match spec.dialect.as_str() {
            svix::NAME => router.merge(svix::routes(api, &current.profile)),
            vignetim::NAME => {
                let is_first = !std::mem::replace(&mut has_vignetim, true);
                router.merge(vignetim::routes(&current.profile, is_first))
            }
            voucherify::NAME => router.merge(voucherify::routes(&current.profile)),
            // The profile's parser knows the same names.
            _ => router,
        };
    }
    router
}

/// Where a request goes that no route took because of the slash at its end: Svix's server knows none there.
pub(crate) fn without_slash(api: &Api, request: &Request) -> Option<Uri> {
    let path = request.uri().path();
    let shorter = path.strip_suffix('/')?;
    let spec = specs(api.service.profiles()).find(|spec| holds(spec, path))?;
    if spec.dialect != svix::NAME {
        return None;
    }
    let query = request.uri().query();
    let whole = query.map_or(shorter.to_owned(), |query| format!("{shorter}?{query}"));
    Uri::try_from(whole).ok()
}

/// Asks the routes again, for another place.
pub(crate) async fn again(mut routes: Router, mut request: Request, uri: Uri) -> Response {
    *request.uri_mut() = uri;
    match routes.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The same of what is refused before a route is looked for.
pub(crate) fn refused(api: &Api, path: &str, refusal: &Refusal) -> Option<Response> {
    let spec = specs(api.service.profiles()).find(|spec| holds(spec, path))?;
    match spec.dialect.as_str() {
        vignetim::NAME => Some(vignetim::refused(&spec, refusal, api.service.now())),
        svix::NAME => Some(svix::refused(&spec, refusal)),
        voucherify::NAME => Some(voucherify::refused(&spec, refusal)),
        _ => None,
    }
}

/// As [`not_found`], of a path that takes other methods.
pub(crate) fn method_not_allowed(api: &Api, method: &Method, path: &str) -> Option<Response> {
    let spec = specs(api.service.profiles()).find(|spec| holds(spec, path))?;
    if spec.dialect == voucherify::NAME {
        return Some(voucherify::method_not_allowed(&spec, method, path));
    }
    not_found(api, method, path)
}

/// The answer of the dialect whose base holds `path`, to a request that no route takes.
pub(crate) fn not_found(api: &Api, method: &Method, path: &str) -> Option<Response> {
    let spec = specs(api.service.profiles()).find(|spec| holds(spec, path))?;
    match spec.dialect.as_str() {
        vignetim::NAME => Some(vignetim::route_not_found(
            &spec,
            method,
            path,
            api.service.now(),
        )),
        svix::NAME => Some(svix::route_not_found(&spec)),
        voucherify::NAME => Some(voucherify::route_not_found(&spec)),
        _ => None,
    }
}

//! The management API of Svix's open-source server (`docs/svix.md`), so that its SDKs work unchanged.
//!
//! What they call an application is a tenant here; whose key it is, their environment, is our application. A message
//! is an event: its channels, tags and `eventId` are the event's `meta`, and an endpoint's channels a condition on
//! them. Handlers call the service as the native ones do; what it refuses is worded by [`refusal`] on its way out.

mod access;
mod applications;
mod attempt_pages;
mod attempts;
mod endpoint_parts;
mod endpoints;
mod event_types;
mod lists;
mod messages;
mod refusal;
mod retries;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, header};
use postrider_core::endpoint::Endpoint;
use postrider_core::profile::{ApiSpec, IdFormat, Profile};
use postrider_core::session::Holder;
use postrider_core::tenant::{Scope, Tenant};
use postrider_core::{Id, id};
use postrider_service::{self as service, Caller, CurrentProfile, ErrorCode, Refusal, Visit};
use serde::de::DeserializeOwned;

use crate::Api;
use crate::auth::{authenticate, came_from, count};
use crate::edge::AskedBy;
use crate::request::parse;

use refusal::Refused;

pub(crate) const NAME: &str = "svix";
/// Before the token of somebody who may see one application only.
const TOKEN_PREFIX: &str = "appsk_";

pub(crate) fn routes(api: &Api, profile: &Profile) -> Router<Api> {
    let spec = Arc::new(profile.api.clone());
    let base = spec.as_ref().as_ref().map_or("", |api| api.base.as_str());
    let remembered = (api.clone(), Arc::new(retries::Answers::default()));
    let routes = applications::routes(base)
        .merge(endpoints::routes(base))
        .merge(endpoint_parts::routes(base))
        .merge(event_types::routes(base))
        .layer(from_fn_with_state(remembered, retries::answered_before))
        // Behind the layer: what lets somebody in is not kept, and messages are remembered by the store.
        .merge(access::routes(base))
        .merge(messages::routes(base))
        .merge(attempts::routes(base));
    routes.layer(map_response(move |response| {
        let spec = spec.clone();
        async move { refusal::worded(spec.as_ref().as_ref(), response) }
    }))
}

/// What a handler gives.
type Answer = Result<Response, Refused>;

/// What stands in the path; what cannot be read there is not found.
struct Path<T>(T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let read = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        let read = read.map_err(|_| Refusal::not_found("thing"))?;
        Ok(Self(read.0))
    }
}

/// Who asks, and in which environment.
struct Client {
    caller: Caller,
    application: Id<id::Application>,
    current: CurrentProfile,
    /// Set where it came with an application's token.
    visit: Option<Visit>,
}

impl FromRequestParts<Api> for Client {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refused> {
        let (caller, visit) = match token(&parts.headers) {
            Some(token) => {
                let visit = api.service.visit(&token, came_from(parts)).await?;
                let unknown = || Refusal::new(ErrorCode::KeyUnknown, "the token has ended");
                // The pages' own sessions are for browsers only.
                let is_token = |visit: &Visit| matches!(visit.session.holder, Holder::Portal(_));
                let visit = visit.filter(is_token).ok_or_else(unknown)?;
                let asked_by = parts.extensions.get::<AskedBy>();
                if let Some(asked_by) = asked_by {
                    asked_by.set(&visit.session.id);
                }
                count(api, &visit.caller, visit.session.id.as_u128(), asked_by)?;
                (visit.caller.clone(), Some(visit))
            }
            None => (authenticate(parts, api).await?, None),
        };
        let application = match caller.scope() {
            Scope::Application(application) | Scope::Tenant(application, _) => application,
            Scope::Root => {
                let detail =
                    "this API is for the keys of an application: make one with POST /v1/keys";
                return Err(Refusal::new(ErrorCode::ScopeInsufficient, detail).into());
            }
        };
        let current = api.service.profile_of(application).await?;
        let profile = &current.profile;
        if profile.api.as_ref().is_none_or(|own| own.dialect != NAME) {
            let detail = format!(
                "the key's application has the profile {}, which is not managed by this API; one with the profile svix is",
                profile.name
            );
            return Err(Refusal::new(ErrorCode::ScopeInsufficient, detail).into());
        }
        Ok(Self {
            caller,
            application,
            current,
            visit,
        })
    }
}

/// The token of an application, if that is what a request brings.
pub(crate) fn token(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, text) = given.split_once(' ')?;
    let text = text.strip_prefix(TOKEN_PREFIX)?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| text.to_owned())
}

impl Client {
    fn profile(&self) -> &Profile {
        &self.current.profile
    }

    /// The vendor's form of a tenant's id; a profile without one has it as it has an endpoint's.
    fn app_ids(&self) -> &IdFormat {
        let ids = &self.profile().ids;
        ids.tenant.as_ref().unwrap_or(&ids.endpoint)
    }

    fn app_id(&self, id: Id<id::Tenant>) -> String {
        self.app_ids().render(id)
    }

    /// Their application: by its id, or by the uid that its owner gave it.
    async fn app(&self, api: &Api, text: &str) -> service::Result<Arc<Tenant>> {
        if let Some(id) = api.service.find_id(self.app_ids(), text) {
            match api.service.tenant(&self.caller, id).await {
                Ok((tenant, _)) if tenant.application == self.application => return Ok(tenant),
                // Another application's: then the text may still be a uid of this one's.
                Ok(_) => {}
                Err(refusal) if refusal.code == ErrorCode::NotFound => {}
                Err(refusal) => return Err(refusal),
            }
        }
        let named = match self.caller.scope() {
            // A customer knows one.
            Scope::Tenant(_, own) => {
                let (tenant, _) = api.service.tenant(&self.caller, own).await?;
                Some(tenant).filter(|tenant| tenant.external_id.as_deref() == Some(text))
            }
            Scope::Root | Scope::Application(_) => {
                let named = api
                    .service
                    .tenant_by_external_id(&self.caller, self.application, text);
                named.await?.0
            }
        };
        named.ok_or_else(|| Refusal::not_found("application"))
    }

    /// An endpoint of theirs, in the mode of the key: by its id or its uid.
    async fn endpoint(&self, api: &Api, app: &Tenant, text: &str) -> service::Result<Endpoint> {
        let profile = self.profile();
        match super::registered(api, &self.caller, profile, app.id, text).await {
            Err(refusal) if refusal.code == ErrorCode::NotFound => {}
            found => return found,
        }
        let named = api
            .service
            .endpoint_by_external_id(&self.caller, app.id, text);
        let (named, _) = named.await?;
        named.ok_or_else(|| Refusal::not_found("endpoint"))
    }

    /// An event of theirs: by its id, or, as long as that is remembered, by its `eventId`.
    async fn message(
        &self,
        api: &Api,
        app: &Tenant,
        text: &str,
    ) -> service::Result<postrider_core::event::Event> {
        let by_id = self.profile().ids.message.read(text);
        if let Some(id) = by_id {
            match api.service.event(&self.caller, id).await {
                Ok(event) if event.tenant == app.id && event.mode == self.caller.own_mode() => {
                    return Ok(event);
                }
                Ok(_) => {}
                Err(refusal) if refusal.code == ErrorCode::NotFound => {}
                Err(refusal) => return Err(refusal),
            }
        }
        let key = messages::key_of_event_id(text);
        let id = api.service.event_published_as(&self.caller, app.id, &key);
        api.service.event(&self.caller, id.await?).await
    }

    /// Reads a JSON body. Fields that are not known are passed over, as the original does.
    async fn read<T: DeserializeOwned>(&self, api: &Api, body: Body) -> service::Result<T> {
        parse(&api.body(self.caller.holder(), body).await?)
    }
}

/// The answer to a request below the base that no route takes.
pub(crate) fn route_not_found(spec: &ApiSpec) -> Response {
    let refusal = Refusal::new(ErrorCode::RouteUnknown, spec.text("route_not_found"));
    refused(spec, &refusal)
}

/// The answer to what is refused before a route is looked for.
pub(crate) fn refused(spec: &ApiSpec, refusal: &Refusal) -> Response {
    refusal::in_words(Some(spec), refusal)
}

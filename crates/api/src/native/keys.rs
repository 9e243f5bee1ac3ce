//! API keys: create (shown once), list, delete.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use postrider_core::limits::KEY_BYTES_MAX;
use postrider_core::seal::sha256;
use postrider_core::tenant::{ApiKey, Mode, Scope};
use postrider_core::{Id, Timestamp, id};
use serde::{Deserialize, Serialize};

use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::random::{key_text, public_key_id, seal_nonce};
use crate::request::{Paging, Path, Query, given_id, json, list as list_of, path_id, required};

/// What the secrets of signing keys are sealed for.
pub(crate) const KEY_SECRET_CONTEXT: &str = "api key secret";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    name: String,
    /// None of both makes a root key.
    application: Option<String>,
    tenant: Option<String>,
    #[serde(default)]
    mode: Mode,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyView {
    id: Id<id::ApiKey>,
    name: String,
    scope: &'static str,
    application: Option<Id<id::Application>>,
    tenant: Option<Id<id::Tenant>>,
    mode: Mode,
    /// Names the key in APIs whose requests are signed (`X-API-Key`).
    public_id: Option<String>,
    created_at: Timestamp,
    /// Bearer text, and the secret that signs requests. Only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        let (scope, application, tenant) = match key.scope {
            Scope::Root => ("root", None, None),
            Scope::Application(application) => ("application", Some(application), None),
            Scope::Tenant(application, tenant) => ("tenant", Some(application), Some(tenant)),
        };
        Self {
            id: key.id,
            name: key.name,
            scope,
            application,
            tenant,
            mode: key.mode,
            public_id: key.public_id,
            created_at: key.created_at,
            key: None,
        }
    }
}

pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let new: NewKey = api.read(&headers, body).await?;
    required("name", &new.name, KEY_BYTES_MAX)?;
    let application = given_id("application", new.application.as_deref())?;
    let tenant = given_id("tenant", new.tenant.as_deref())?;
    let scope = match (application, tenant) {
        (None, None) => {
            caller.must_be_root()?;
            Scope::Root
        }
        (application, Some(tenant)) => {
            // Whoever may publish for a tenant may give it a key.
            let tenant = caller.publisher(&api, tenant).await?;
            if application.is_some_and(|given| given != tenant.application) {
                return Err(ApiError::not_found("tenant"));
            }
            Scope::Tenant(tenant.application, tenant.id)
        }
        (Some(application), None) => {
            Scope::Application(caller.application(&api, application).await?.id)
        }
    };
    let secret = key_text(new.mode);
    // A tenant's key may sign requests of a vendor's API; verifying them needs the text, so it is sealed.
    let signs = matches!(scope, Scope::Tenant(..));
    let now = api.now();
    let key = ApiKey {
        id: api.store().ids().next(now),
        name: new.name,
        scope,
        mode: new.mode,
        secret_hash: sha256(secret.expose().as_bytes()),
        public_id: (scope != Scope::Root).then(|| public_key_id(new.mode)),
        sealed_secret: signs.then(|| api.0.sealer.seal(&secret, seal_nonce(), KEY_SECRET_CONTEXT)),
        created_at: now,
    };
    api.store().create_key(key.clone()).await?;
    let view = KeyView {
        key: Some(secret.expose().to_owned()),
        ..KeyView::from(key)
    };
    Ok(json(StatusCode::CREATED, &view))
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> ApiResult<Response> {
    let application = match caller.key.scope {
        Scope::Root => None,
        Scope::Application(application) => Some(application),
        Scope::Tenant(..) => {
            return Err(ApiError::new(
                ErrorCode::ScopeInsufficient,
                "an application key is needed",
            ));
        }
    };
    Ok(list_of(
        api.store()
            .list_keys(application, paging.request()?)
            .await?,
        KeyView::from,
    ))
}

pub(crate) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let key = api.store().key(path_id(&id)?).await?;
    let allowed = match (caller.key.scope, key.scope) {
        (Scope::Root, _) => true,
        (Scope::Application(own), Scope::Application(other) | Scope::Tenant(other, _)) => {
            own == other
        }
        (Scope::Application(_) | Scope::Tenant(..), _) => false,
    };
    if !allowed {
        return Err(ApiError::not_found("API key"));
    }
    let deleting = api.clone();
    api.to_the_end(async move {
        deleting.store().delete_key(key.id).await?;
        deleting.0.directory.forget_keys();
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
